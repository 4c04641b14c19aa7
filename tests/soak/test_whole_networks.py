"""Networks that everybody knows, by every way into the engine: each runs whole, and its answers are those of float64.

Which ones is said in networks.toml. Those of pytorchcv, torchvision and timm are run where the packages are installed;
pytorchcv==0.0.67 needs neither of the others.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convforge

from .conftest import Soak
from .listed import NETWORKS, images, made, pytest_generate_tests, sizes  # noqa: F401

CLOSE = 1e-4

Run = Callable[[Tensor], Any]


# ---------------------------------------------------------------------------------------------------------------------
# Ways into the engine
# ---------------------------------------------------------------------------------------------------------------------


def by_optimize(model: nn.Module, example: Tensor, folder: Path) -> Run:
    return convforge.optimize(model)


def by_compile(model: nn.Module, example: Tensor, folder: Path) -> Run:
    return convforge.compile(model, example)


def by_torch_compile(model: nn.Module, example: Tensor, folder: Path) -> Run:
    torch._dynamo.reset()  # which otherwise makes the second size one of all sizes
    run: Run = torch.compile(model, backend="convforge", fullgraph=True)
    return run


def by_onnx(model: nn.Module, example: Tensor, folder: Path) -> Run:
    path, batch = folder / "network.onnx", {0: torch.export.Dim("batch")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        two = example.expand(2, -1, -1, -1).contiguous()  # torch takes a batch of 1 for one that is always 1
        torch.onnx.export(model, (two,), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=(batch,))
    return convforge.load(path)


WAYS = (by_optimize, by_compile, by_torch_compile, by_onnx)
OF_TORCH = (by_optimize, by_torch_compile)
"""Which go layer by layer where a network does not do; the others would have raised."""


def whole(run: Run, x: Tensor) -> Any:
    """The third answer: images of a new size are captured when they come twice, and layers are asked then, too."""
    run(x)
    run(x)
    with torch.profiler.profile() as profile:
        answer = run(x)
    found = {event.key: event.count for event in profile.key_averages()}
    assert found.get("convforge: a whole network") == 1, "it went layer by layer"
    assert not [name for name in found if "conv" in name.partition("::")[2]], "it went partly layer by layer"
    return answer


def distance(answer: Any, truth: Any) -> float:
    """Of the tensor that is farthest off, relative in the Euclidean norm."""
    found, wanted = (torch.utils._pytree.tree_leaves(each) for each in (answer, truth))
    assert [y.shape for y in found] == [y.shape for y in wanted]
    return max(float((y.double() - z).norm() / z.norm()) for y, z in zip(found, wanted, strict=True))


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("no_grad")
def test_networks_run_whole_and_right(name: str, soak: Soak, tmp_path: Path) -> None:
    entry = NETWORKS[name]
    model = made(entry, tmp_path)
    double, farthest = copy.deepcopy(model).double(), 0.0
    for size in sizes(entry)[: soak.length(1, 2)]:
        inputs = [images(entry, batch, size) for batch in soak.length((1, 3), (1, 3, 8))]
        truths = [double(x.double()) for x in inputs]
        for way in WAYS:
            with soak.case(f"{name} at {size}, {way.__name__}"):
                run = way(model, inputs[0], tmp_path)
                for x, truth in zip(inputs, truths, strict=True):
                    off = distance(whole(run, x) if way in OF_TORCH else run(x), truth)
                    assert off < CLOSE, f"a batch of {len(x)} is {off:.1e} from float64"
                    farthest = max(farthest, off)
    soak.figure(name, f"{farthest:.0e}")
