"""What NumPy arrays the engine takes: inputs wherever they lie, outputs only where writing harms nothing."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import Case, Data, agree

from convforge import Conv2dSpec, engine
from convforge.engine.prepared import most_threads
from convforge.native import runtime, team

Array = np.ndarray[Any, Any]

SPEC = Conv2dSpec(4, 4, 3, padding=1)
CASE = Case(SPEC, (6, 7))
SHAPE = (2, 4, 6, 7)
PASSES = ("y", "dx", "dw")


def run(name: str, x: Array, w: Array, dy: Array, **how: Any) -> Array:
    """One pass; each of the three reads two of the arrays."""
    if name == "y":
        return engine.conv2d(x, w, None, SPEC, **how)
    if name == "dx":
        return engine.input_gradient(dy, w, CASE.size, SPEC, **how)
    return engine.weight_gradient(x, dy, SPEC, **how)


def shape_of(name: str) -> tuple[int, ...]:
    return SPEC.weight_shape if name == "dw" else SHAPE


def data_without_bias() -> Data:
    return Data.of(Case(Conv2dSpec(4, 4, 3, padding=1, bias=False), CASE.size))


def field(values: Array, padding: str = "u1") -> Array:
    """The numbers as one field of records, whose size is no multiple of theirs."""
    records = np.zeros(values.shape, [("number", values.dtype), ("flag", padding)])
    records["number"] = values
    return records["number"]


def shifted(values: Array) -> Array:
    """At an address that is no multiple of the item size."""
    room = np.zeros(values.nbytes + 1, np.uint8)
    view = room[1:].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


def odd_rows(values: Array) -> Array:
    """Rows upwards in memory, an odd number of bytes apart."""
    n, c, h, w = values.shape
    step = w * values.itemsize + 1
    room = np.zeros(n * c * h * step, np.uint8)
    view = np.ndarray(
        values.shape, values.dtype, room.data, (h - 1) * step, (c * h * step, h * step, -step, values.itemsize)
    )
    view[...] = values
    return view


ODD: dict[str, Callable[[Array], Array]] = {"field": field, "shifted": shifted, "odd rows": odd_rows}


@pytest.mark.parametrize("how", ODD)
@pytest.mark.parametrize("name", PASSES)
def test_inputs_that_do_not_lie_in_whole_numbers_are_read_rightly(name: str, how: str) -> None:
    data = data_without_bias()
    agree(CASE, data, name, run(name, *(ODD[how](a) for a in (data.x, data.w, data.dy))))


def test_a_bias_in_records_and_at_an_odd_address() -> None:
    data = Data.of(CASE)
    for bias in (field(data.bias), shifted(data.bias)):
        agree(CASE, data, "y", engine.conv2d(data.x, data.w, bias, SPEC))
    agree(CASE, data, "db", engine.bias_gradient(field(data.dy)))


@pytest.mark.parametrize("how", ODD)
@pytest.mark.parametrize("name", PASSES)
def test_outputs_that_do_not_lie_in_whole_numbers_are_refused(name: str, how: str) -> None:
    data, out = data_without_bias(), ODD[how](np.full(shape_of(name), 5, np.float32))
    with pytest.raises(ValueError, match="multiples of its item size, 4 bytes"):
        run(name, data.x, data.w, data.dy, out=out)
    assert (out == 5).all()


def test_a_residual_that_does_not_lie_in_whole_numbers_is_refused() -> None:
    data = data_without_bias()
    residual = shifted(np.zeros(SHAPE, np.float32))
    with pytest.raises(ValueError, match="residual must lie at multiples"):
        engine.conv2d(data.x, data.w, None, SPEC, residual=residual)


@pytest.mark.parametrize("name", PASSES)
def test_outputs_that_may_not_be_written_are_refused(name: str, tmp_path: Path) -> None:
    data, shape = data_without_bias(), shape_of(name)
    kept = np.full(shape, 5, np.float32)
    kept.setflags(write=False)
    path = tmp_path / "numbers"
    path.write_bytes(kept.tobytes())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        in_file = np.frombuffer(mapped, np.float32).reshape(shape)
        for out in (kept, in_file):
            with pytest.raises(ValueError, match="out is read-only"):
                run(name, data.x, data.w, data.dy, out=out)
            assert (out == 5).all()
        del out, in_file


@pytest.mark.parametrize("name", PASSES)
def test_outputs_whose_numbers_lie_over_each_other_are_refused(name: str) -> None:
    data, shape = data_without_bias(), shape_of(name)
    room = np.zeros(1000, np.float32)
    for strides in ((0, 168, 28, 4), (672, 0, 28, 4), (672, 168, 28, 0), (672, 168, 4, 4), (672, 168, 8, -4)):
        out = np.lib.stride_tricks.as_strided(room[100:], shape, strides)
        with pytest.raises(ValueError, match="lie over each other"):
            run(name, data.x, data.w, data.dy, out=out)
    assert not room.any()


@pytest.mark.parametrize("name", PASSES)
def test_an_output_of_another_dtype_is_refused(name: str) -> None:
    data, out = data_without_bias(), np.zeros(shape_of(name))
    with pytest.raises(TypeError, match="out must be float32 like the inputs, not float64"):
        run(name, data.x, data.w, data.dy, out=out)


@pytest.mark.parametrize("name", PASSES)
def test_outputs_that_share_memory_with_an_input_are_refused(name: str) -> None:
    """Whole, shifted, and seen backwards."""
    data, shape = data_without_bias(), shape_of(name)
    room = np.zeros(2000, np.float32)
    count = int(np.prod(shape))
    out = room[100 : 100 + count].reshape(shape)
    read = {"y": ("x", "w"), "dx": ("dy", "w"), "dw": ("x", "dy")}[name]
    for which in read:
        for first in (100, 107, 99 + count):
            arrays = {"x": data.x, "w": data.w, "dy": data.dy}
            size = arrays[which].size
            arrays[which] = room[first : first + size].reshape(arrays[which].shape)[:, :, ::-1]
            with pytest.raises(ValueError, match=f"out shares memory with {which}"):
                run(name, **arrays, out=out)


def test_an_output_over_the_bias_or_part_of_the_residual_is_refused() -> None:
    data = Data.of(CASE)
    room = np.zeros(1000, np.float32)
    out = room[:336].reshape(SHAPE)
    with pytest.raises(ValueError, match="out shares memory with bias"):
        engine.conv2d(data.x, data.w, room[300:304], SPEC, out=out)
    with pytest.raises(ValueError, match="out shares memory with residual"):
        engine.conv2d(data.x, data.w, None, SPEC, out=out, residual=room[42 : 42 + 336].reshape(SHAPE))


def test_an_output_beside_the_input_in_one_buffer_and_one_that_is_the_residual_are_fine() -> None:
    """As channels of one buffer, which networks that stack feature maps fill layer by layer."""
    data = data_without_bias()
    for axes in ((0, 1, 2, 3), (0, 3, 1, 2)):
        shape = [(2, 8, 6, 7)[axis] for axis in (axes if axes[1] == 1 else (0, 2, 3, 1))]
        buffer = np.zeros(shape, np.float32).transpose(axes)
        x, out = buffer[:, :4], buffer[:, 4:]
        x[...] = data.x
        agree(CASE, data, "y", engine.conv2d(x, data.w, None, SPEC, out=out))
        agree(CASE, data, "dw", engine.weight_gradient(x, data.dy, SPEC))
    out = np.zeros(SHAPE, np.float32)
    agree(CASE, data, "y", engine.conv2d(data.x, data.w, None, SPEC, out=out, residual=out))


def test_a_gradient_of_the_bias_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dy must have the shape \(N, K, H, W\), not \(3, 4\)"):
        engine.bias_gradient(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("threads", [-1, True, 2.0, "2", None, -(2**70)])
def test_numbers_of_threads_that_are_none_are_refused(threads: Any) -> None:
    data = data_without_bias()
    for name in PASSES:
        with pytest.raises(ValueError, match=f"threads must be a whole number, or 0 for all cores, not {threads!r}"):
            run(name, data.x, data.w, data.dy, threads=threads)
    with pytest.raises(ValueError, match="threads"):
        engine.bias_gradient(data.dy, threads=threads)


@pytest.mark.parametrize("threads", [100_000, 2**70, np.int64(5000)])
def test_more_threads_than_four_a_core_are_not_started(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand of them would take a thousand pieces of memory; a hundred thousand do not exist."""
    started, lent, call, workspace = [], [], team.call, runtime.workspace

    def counted(block: Any, *addresses: int) -> None:
        started.append(block[team._THREADS])
        call(block, *addresses)

    def measured(size: int) -> tuple[int, object]:
        lent.append(size)
        return workspace(size)

    monkeypatch.setattr(team, "call", counted)
    monkeypatch.setattr(runtime, "workspace", measured)
    spec, size = Conv2dSpec(64, 64, 3, padding=1), (40, 40)
    case = Case(spec, size)
    data = Data.of(case)
    for exact in (True, False):
        agree(case, data, "y", engine.conv2d(data.x, data.w, data.bias, spec, threads=threads, exact=True))
        engine.conv2d(data.x, data.w, data.bias, spec, threads=threads, exact=exact)
        engine.input_gradient(data.dy, data.w, size, spec, threads=threads, exact=exact)
        engine.weight_gradient(data.x, data.dy, spec, threads=threads, exact=exact)
    assert max(started) == most_threads()
    assert max(lent) < (4 << 20) * most_threads()
