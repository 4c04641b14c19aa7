"""Every layer of every list under `tests/shapes`, in all three passes and both usual layouts."""

from __future__ import annotations

import pytest
from oracle import Case, Data, check
from shapes import LISTS, read_layers

MOST_MACS = 12_000_000  # what the float64 reference does in about 0.1 s a pass; larger layers are cut


def test_the_lists_are_whole() -> None:
    counts = {name: len(read_layers(name)) for name in LISTS}
    assert counts == {
        "alexnet": 5, "densnet": 36, "dilated_rfcn": 1, "googlenet_v1": 51, "mobilenet": 11, "mobilenet_dw": 9,
        "resnet_50_v1_5": 23, "unet": 13, "vgg_19": 9,
    }  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_the_layers_of(name: str) -> None:
    for layer in read_layers(name):
        size = layer.cut(MOST_MACS)
        data = Data.of(Case(layer.spec, size, batch=1))
        for layouts in (("NHWC", "NHWC", "NHWC"), ("NCHW", "NCHW", "NCHW")):
            check(Case(layer.spec, size, batch=1, layouts=layouts), data)
