"""ONNX files that are walked through for the bytes of their weights: nothing else is left out or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convforge.graph.onnx import read
from convforge.graph.onnx.lean import _as_varint, _varint, lean

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

FILES = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


def model(*tensors: bytes) -> bytes:
    """The sum of one input and of weights, each given as the bytes of its message without a name."""
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, 1, [3]) for name in "xy")
    sums = [helper.make_node("Sum", ["x", *(f"w{n}" for n, _ in enumerate(tensors))], ["y"])]
    graph = helper.make_graph(sums, "g", [x], [y]).SerializeToString()
    for n, tensor in enumerate(tensors):
        name = f"w{n}".encode()
        graph += field(5, field(8, name) + tensor)
    made = helper.make_model(helper.make_graph([], "", [], []), opset_imports=[helper.make_opsetid("", 17)])
    made.ClearField("graph")
    content: bytes = made.SerializeToString() + field(7, graph)
    return content


def field(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value


NUMBERS = np.array([1, -2, 3], np.float32)
FLOATS = b"\x08\x03\x10\x01"  # one axis of 3, data type 1


def answer(content: bytes) -> list[float]:
    found: list[float] = read(content).compute(x=np.zeros(3))[0].tolist()
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_with_its_weights_it_is_the_file(file: Path) -> None:
    content = file.read_bytes()
    whole = onnx.load_model_from_string(content)
    rest, raw = lean(memoryview(content))
    found = onnx.load_model_from_string(rest)
    for tensor, its_bytes in zip(found.graph.initializer, raw, strict=True):
        if its_bytes is not None:
            assert tensor.raw_data == b""
            tensor.raw_data = bytes(its_bytes)
    assert found == whole


@pytest.mark.parametrize(
    "tensors",
    [
        (FLOATS + field(9, NUMBERS.tobytes()),),
        (FLOATS + field(9, b"12") + field(9, NUMBERS.tobytes()),),  # the last one counts
        (FLOATS + field(4, NUMBERS.tobytes()),),  # float_data, packed
        (FLOATS + b"".join(b"\x25" + n.tobytes() for n in NUMBERS),),  # and not
        (FLOATS + b"\x8a\x01\x00" * 70 + field(9, NUMBERS.tobytes()),),  # more fields than are looked at
        (FLOATS + b"\xf8\x07\x01" + field(9, NUMBERS.tobytes()),),  # a field that nobody knows
        (FLOATS + b"\xfb\x07\xfc\x07" + field(9, NUMBERS.tobytes()),),  # a group, which is left to protobuf
        (FLOATS + field(9, (NUMBERS / 2).tobytes()), FLOATS + field(4, (NUMBERS / 2).tobytes())),
    ],
)
def test_all_ways_to_say_a_tensor(tensors: tuple[bytes, ...]) -> None:
    assert answer(model(*tensors)) == NUMBERS.tolist()


def test_a_graph_in_two_pieces_is_one() -> None:
    content = model(FLOATS + field(9, NUMBERS.tobytes()))
    more = field(7, field(5, field(8, b"unread") + FLOATS + field(9, NUMBERS.tobytes())))
    assert answer(content + more) == NUMBERS.tolist()


def _parsed(content: bytes) -> Any:
    try:
        return onnx.load_model_from_string(content)
    except Exception:
        return None


WHOLE = model(FLOATS + field(9, NUMBERS.tobytes()), FLOATS + field(4, NUMBERS.tobytes()))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=3), st.integers(0, 3))
def test_damaged_files_are_as_damaged_as_before(at: int, others: bytes, gone: int) -> None:
    content = WHOLE[:at] + others + WHOLE[at + gone :]
    try:
        rest, raw = lean(memoryview(content))
    except ValueError:
        return
    whole, found = _parsed(content), _parsed(rest)
    assert (whole is None) == (found is None)
    if found is not None:
        for tensor, its_bytes in zip(found.graph.initializer, raw, strict=True):
            if its_bytes is not None:
                tensor.raw_data = bytes(its_bytes)
        assert found == whole


@given(st.integers(0, 2**64 - 1))
def test_numbers_in_seven_bits_a_byte(number: int) -> None:
    assert _varint(memoryview(_as_varint(number) + b"\xff"), 0) == (number, len(_as_varint(number)))
