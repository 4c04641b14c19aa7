"""A checkpoint survives a round trip, and whatever is done to its files ends in one sentence."""

from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors

from convforge.errors import UserError
from convforge.models import checkpoint
from convforge.models.checkpoint import ARCHITECTURE, WEIGHTS, Architecture, load, save

TINY = Architecture(
    "vgg", {"widths": [4, 8], "convs": 1}, ("cat", "Hündin"), (3, 8, 12), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save(tmp_path, TINY.build(), TINY)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / ARCHITECTURE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip_is_exact_and_leaves_the_random_sequence_alone(tmp_path: Path) -> None:
    model = TINY.build().train()
    model(torch.rand(5, 3, 8, 12))  # moves the batch norm's statistics
    save(tmp_path, model.to(memory_format=torch.channels_last), TINY)
    before = torch.random.get_rng_state()
    loaded, architecture = load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert architecture == TINY
    assert not loaded.training
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("family", ["vgg", "resnet", "dense"])
def test_each_family_is_rebuilt_from_its_defaults(tmp_path: Path, family: str) -> None:
    architecture = replace(TINY, family=family, arguments={})
    model = architecture.build().eval()
    save(tmp_path, model, architecture)
    images = torch.rand(2, 3, 8, 12)
    assert torch.equal(load(tmp_path)[0](images), model(images))


@pytest.mark.parametrize("name", [WEIGHTS, ARCHITECTURE])
@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_truncated_file_is_named(stored: Path, name: str, keep: int) -> None:
    content = (stored / name).read_bytes().rstrip()
    (stored / name).write_bytes(content[:keep])
    with pytest.raises(UserError, match=name):
        load(stored)


@pytest.mark.parametrize("name", [WEIGHTS, ARCHITECTURE])
def test_missing_file_folder_or_pipe_is_named(stored: Path, name: str) -> None:
    (stored / name).unlink()
    with pytest.raises(UserError, match=name):
        load(stored)
    os.mkfifo(stored / name)
    with pytest.raises(UserError, match=name):
        load(stored)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["a", "b", "c"]}, WEIGHTS),
        ({"classes": "ab"}, "classes"),
        ({"input_shape": [10**9, 10**9, 10**9]}, "mean"),
        ({"input_shape": [3, 10**9, 10**9]}, ARCHITECTURE),
        ({"input_shape": [1, 8, 12], "mean": [0.5], "std": [0.5]}, WEIGHTS),
        ({"input_shape": [3, 8.0, 12]}, "input_shape"),
        ({"input_shape": []}, "input_shape"),
        ({"input_shape": {}}, "input_shape"),
        ({"mean": [True, 0.5, 0.5]}, "mean"),
        ({"family": "x" * 10**6}, "family"),
        ({"arguments": {"x" * 10**6: 1}}, "argument"),
        ({"std": [0.1, 0.0, 0.1]}, "std"),
        ({"std": [float("nan")] * 3}, "std"),
        ({"mean": ["0", "0", "0"]}, "mean"),
        ({"family": "os.system"}, "os.system"),
        ({"family": ["vgg"]}, "family"),
        ({"family": "timm:hf-hub:someone/something"}, "hf-hub"),
        ({"family": "dense"}, "convs"),
        ({"arguments": {"widths": [4, 8], "convs": 10**9}}, "convs"),
        ({"arguments": {"widths": [10**15, 10**15]}}, "width"),
        ({"arguments": {"widths": [16384, 16384], "convs": 64}}, WEIGHTS),
        ({"arguments": {"widths": [4] * 10**5}}, "widths"),
        ({"arguments": {"widths": [4, 8], "convs": True}}, "convs"),
        ({"arguments": {"self": 1}}, "self"),
        ({"extra": 1}, "extra"),
    ],
)
def test_hostile_architecture_is_refused(stored: Path, changes: dict[str, Any], named: str) -> None:
    edit(stored, **changes)
    with pytest.raises(UserError, match=named) as caught:
        load(stored)
    assert ARCHITECTURE in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_entry_that_is_there_twice_is_refused(stored: Path) -> None:
    text = (stored / ARCHITECTURE).read_text()
    (stored / ARCHITECTURE).write_text(text.rstrip().removesuffix("}") + ', "family": "vgg"}')
    with pytest.raises(UserError, match=f"{ARCHITECTURE}.*twice"):
        load(stored)


def test_json_that_would_fill_the_memory_is_refused_before_it_is_parsed(stored: Path) -> None:
    (stored / ARCHITECTURE).write_bytes(b'{"family": [' + b"{}," * (6 * 2**20) + b"{}]}")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=ARCHITECTURE):
            load(stored)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_json_that_nests_without_end_is_refused(stored: Path) -> None:
    (stored / ARCHITECTURE).write_text("[" * 200_000)
    with pytest.raises(UserError, match=ARCHITECTURE):
        load(stored)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        b"\x80\x04\x95.",  # how a pickle starts
        *(
            struct.pack("<Q", len(text)) + text
            for text in (
                b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"F32","shape":[0,1099511627776],"data_offsets":[0,0]}}',
            )
        ),
    ],
)
def test_hostile_header_is_refused(stored: Path, header: bytes) -> None:
    (stored / WEIGHTS).write_bytes(header + b"\0" * 8)
    with pytest.raises(UserError, match=WEIGHTS):
        load(stored)


@pytest.mark.parametrize("name", ["x" * 10**5, "\n" * 100])
def test_what_a_hostile_header_is_quoted_with_is_short_and_one_line(stored: Path, name: str) -> None:
    header = json.dumps({"a": {"dtype": name, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (stored / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UserError, match=WEIGHTS) as caught:
        load(stored)
    assert len(str(caught.value)) < 600
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_of_another_shape_dtype_or_name_are_refused(stored: Path) -> None:
    good = {name: tensor.clone() for name, tensor in TINY.build().state_dict().items()}
    first = next(iter(good))
    for bad in (
        good | {first: good[first].double()},
        good | {first: good[first].flatten().clone()},
        good | {"extra": torch.zeros(1)},
        {name: tensor for name, tensor in good.items() if name != first},
    ):
        (stored / WEIGHTS).write_bytes(to_safetensors(bad))
        with pytest.raises(UserError, match=WEIGHTS):
            load(stored)


def test_full_disk_leaves_the_old_checkpoint_intact(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in stored.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(stored, TINY.build(), replace(TINY, classes=("x", "y")))
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        save(tmp_path / "file" / "run", TINY.build(), TINY)
