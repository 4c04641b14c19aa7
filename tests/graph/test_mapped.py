"""Weights that stay in their file: what a network takes of memory, and what happens to the file meanwhile."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convforge
from convforge import Conv2dSpec, UserError
from convforge.graph import mapped
from convforge.graph.network import Network
from convforge.graph.nodes import Convolution, Graph, Node
from convforge.inference.compiled import Compiled
from convforge.inference.model import Model

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

CHANNELS = 256
W = np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 48


def graph() -> Graph:
    spec = Conv2dSpec(CHANNELS, CHANNELS, 3, padding=1)
    return Graph({"x": (1, CHANNELS, 6, 5)}, ("y",), (Node(Convolution(spec), ("x", "w"), "y"),), {"w": W})


def images(batch: int, size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((batch, CHANNELS, size, size)).astype(np.float32)


def write_onnx(path: Path) -> None:
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, 1, ["n", CHANNELS, "h", "w"]) for name in "xy")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    made = helper.make_graph([node], "g", [x], [y], [onnx.numpy_helper.from_array(W, "w")])
    path.write_bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def load(folder: Path, kind: str) -> tuple[Model, Path]:
    path = folder / f"convolution.{kind}"
    if kind == "onnx":
        write_onnx(path)
        return convforge.load(path, (CHANNELS, 6, 5)), path
    Model(Compiled(graph())).save(path)
    return convforge.load(path), path


def resident(path: Path) -> int:
    """Bytes of a file that are in the process's memory."""
    found, here = 0, False
    with open("/proc/self/smaps") as areas:
        for line in areas:
            if re.match(r"[0-9a-f]+-", line):
                here = line.rstrip().endswith(str(path))
            elif here and line.startswith("Rss:"):
                found += int(line.split()[1]) << 10
    return found


def agrees(model: Model, batch: int, size: int) -> None:
    x = images(batch, size)
    (expected,) = graph().with_input(x.shape).compute(x=x)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "bundle"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which pages are in memory")
def test_what_has_been_packed_is_not_in_memory_in_its_first_form(kind: str, tmp_path: Path) -> None:
    model, path = load(tmp_path, kind)
    assert mapped.in_file(model._network.graph.constants["w"])  # type: ignore[union-attr]
    agrees(model, 1, 6)
    assert resident(path) < W.nbytes / 10
    agrees(model, 1, 40)  # for which it is packed in another way, from the file
    assert resident(path) < W.nbytes / 10
    network = model._network._network()  # type: ignore[attr-defined]
    assert network.kept_bytes >= sum(network._store.bytes.values())
    assert f"{W.nbytes:,} in a file" in network.memory()


@pytest.mark.parametrize("kind", ["onnx", "bundle"])
@pytest.mark.skipif(os.name != "posix", reason="Windows does not take files away that are open")
def test_a_file_may_be_taken_away_or_replaced(kind: str, tmp_path: Path) -> None:
    model, path = load(tmp_path, kind)
    path.unlink()
    agrees(model, 1, 40)
    path.write_bytes(b"another")
    agrees(model, 2, 17)
    Model.save(model, tmp_path / "again.bundle")
    agrees(convforge.load(tmp_path / "again.bundle"), 1, 6)


@pytest.mark.parametrize("kind", ["onnx", "bundle"])
@pytest.mark.parametrize("change", ["shorter", "others"])
@pytest.mark.skipif(not hasattr(mapped.mmap, "MADV_DONTNEED"), reason="files are read and not mapped on this system")
def test_a_file_that_was_written_to_is_not_read_again(kind: str, change: str, tmp_path: Path) -> None:
    model, path = load(tmp_path, kind)
    agrees(model, 1, 6)
    content = path.read_bytes()
    with path.open("r+b") as file:
        if change == "shorter":
            file.truncate(100)
        else:
            file.write(bytes(len(content)))
    os.utime(path, ns=(0, 0))
    agrees(model, 1, 6)  # which needs no weights
    for ask in (lambda: model(images(1, 40)), model.to_bytes):
        with pytest.raises(UserError, match="has been written to since it was loaded") as raised:
            ask()
        assert str(path) in str(raised.value)


def test_arrays_of_the_process_are_no_files() -> None:
    network = Network(graph())
    network(images(1, 6)[:, :, :, :5])
    assert not mapped.in_file(W)
    assert f"{W.nbytes:,} in memory" in network.memory()
    mapped.let_go(W)
    assert mapped.still(W) is W


def test_an_empty_file_has_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert bytes(mapped.mapped(tmp_path / "empty")) == b""


def test_a_file_is_mapped_once(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(W.tobytes())
    one, other = (np.frombuffer(mapped.mapped(path), np.float32) for _ in range(2))
    assert one.ctypes.data == other.ctypes.data
    np.testing.assert_array_equal(one, W.reshape(-1))
