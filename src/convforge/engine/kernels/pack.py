"""Moving numbers between a tensor's layout and the kernels' own: the only place that cares for NCHW or NHWC.

What it computes, for i < width ("channels") and j < length ("pixels"):

    to[i·to_i + j·to_j] = source[i·source_i + j·source_j]

The algorithms want channels side by side (to_i = 1). Three cases, told apart at run time by the strides:

- both sides have channels side by side (NHWC in), or both have pixels so: whole vectors, the last one overlapping its
  neighbour;
- the source has pixels side by side (NCHW in), or the destination has (NCHW out): V×V blocks, transposed in registers.
  That is log₂V shuffles a vector, against k·k·K/V multiply-adds that each packed vector feeds. Of three channels that
  come in, the colours of an image, a block would be empty but for three rows, at 10 cycles a pixel (AVX-512), which is
  two fifths of MobileNet's first layer: they are interleaved, and layers take the time that they take from NHWC;
- anything else (a slice with steps): one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, IntLike, Pointer, indices, kernel, tasks

COLOURS = 3

REORDER = Arguments("of of_n of_c of_h of_w to to_n to_c to_h to_w images channels height width")


def copy_function(module: ir.Module, dtype: str, lanes: int) -> Function:
    """`copy(to, to_i, to_j, source, source_i, source_j, width, length)`; strides in elements."""
    transpose = _transposing(module, dtype, lanes)
    f = Function(module, "copy", "*to to_i to_j *source source_i source_j width length", dtype, internal=True)
    to, from_ = f.pointers("to source")
    di, dj, si, sj, width, length = f.integers("to_i to_j source_i source_j width length")

    # Pixels that lie side by side on both sides, and channels that do not: the same with i and j exchanged.
    across = f.all_of(dj.compare("==", 1), sj.compare("==", 1), f.any_of(di.compare("!=", 1), si.compare("!=", 1)))
    di, dj = f.choose(across, dj, di), f.choose(across, di, dj)
    si, sj = f.choose(across, sj, si), f.choose(across, si, sj)
    width, length = f.choose(across, length, width), f.choose(across, width, length)

    rows_in_place = f.all_of(di.compare("==", 1), si.compare("==", 1))
    with f.if_else(f.all_of(rows_in_place, width.compare(">=", lanes))) as (vectors, otherwise):
        with vectors:
            _copy_vectors(f, to, dj, from_, sj, width, length, lanes)
        with otherwise:
            reads_along_pixels = f.all_of(di.compare("==", 1), sj.compare("==", 1))
            writes_along_pixels = f.all_of(si.compare("==", 1), dj.compare("==", 1))
            colours = f.all_of(*(number.compare("==", COLOURS) for number in (width, dj)))
            with f.if_else(reads_along_pixels) as (transpose_in, rest):
                with transpose_in, f.if_else(colours) as (interleaved, blocks):
                    with interleaved:
                        _interleave(f, to, [from_.at(si * n) for n in range(COLOURS)], length, lanes)
                    with blocks:
                        f.call(transpose, to=to, to_j=dj, source=from_, source_i=si, width=width, length=length)
                with rest, f.if_else(writes_along_pixels) as (transpose_out, scattered):
                    with transpose_out:
                        # the same with the parts of i and j exchanged
                        f.call(transpose, to=to, to_j=di, source=from_, source_i=sj, width=length, length=width)
                    with scattered:
                        _copy_scalars(f, to, di, dj, from_, si, sj, width, length)
    f.done()
    return f


@dataclass(frozen=True, slots=True)
class Image:
    """Where one lies: its first number, and the distances between channels, rows and pixels of a row."""

    at: Pointer
    c: IntLike
    h: IntLike
    w: IntLike


def copy_image(f: Function, copy: Function, to: Image, source: Image, channels: Int, rows: Int, columns: Int) -> None:
    """Row by row; rows that touch on both sides go as one."""
    one_row = f.all_of(*((columns * image.w).compare("==", image.h) for image in (to, source)))
    count, length = f.choose(one_row, 1, rows), f.choose(one_row, rows * columns, columns)
    with f.loop(count) as row:
        f.call(
            copy, to=to.at.at(row.index * to.h), to_i=to.c, to_j=to.w, source=source.at.at(row.index * source.h),
            source_i=source.c, source_j=source.w, width=channels, length=length,
        )  # fmt: skip


def fill_zeros(f: Function, to: Pointer, count: Int, lanes: int) -> None:
    """`count` zeros from `to` on."""
    whole = count // lanes * lanes
    with f.loop(whole, step=lanes) as part:
        to.at(part.index).put(f.zeros(lanes))
    with f.loop(count, start=whole) as part:
        to.at(part.index).put(f.scalar_zero())


def _copy_vectors(
    f: Function, to: Pointer, dj: Int, from_: Pointer, sj: Int, width: Int, length: Int, lanes: int
) -> None:
    """Rows of at least one vector. The last vector ends where the row ends and may overlap the one before it."""
    last = width - lanes
    with f.loop(length) as pixel:
        source, target = from_.at(pixel.index * sj), to.at(pixel.index * dj)
        with f.loop(last, step=lanes) as part:
            target.at(part.index).put(source.at(part.index).vector(lanes))
        target.at(last).put(source.at(last).vector(lanes))


def _transposing(module: ir.Module, dtype: str, lanes: int) -> Function:
    """`transpose(to, to_j, source, source_i, width, length)`: to[i + j·to_j] = source[i·source_i + j], in blocks of
    lanes × lanes through registers. At the borders a block is loaded and stored under masks, and rows that do not
    exist are those of row 0 under an empty mask: an address outside the process's memory costs an exception inside the
    CPU even where the mask is empty, some hundred cycles."""
    f = Function(module, "transpose", "*to to_j *source source_i width length", dtype, internal=True)
    to, from_ = f.pointers("to source")
    dj, si, width, length = f.integers("to_j source_i width length")
    with f.loop(width, step=lanes) as i, f.loop(length, step=lanes) as j:
        source, target = from_.at(i.index * si + j.index), to.at(i.index + j.index * dj)
        high, wide = width - i.index, length - j.index
        with f.if_else(f.all_of(high.compare(">=", lanes), wide.compare(">=", lanes))) as (whole, border):
            with whole:
                rows = [source.at(si * lane).vector(lanes) for lane in range(lanes)]
                for lane, column in enumerate(f.transposed(rows)):
                    target.at(dj * lane).put(column)
            with border:
                in_row, in_column = (
                    [f.builder.and_(mask, f.splat(count.compare(">", lane), lanes)) for lane in range(lanes)]
                    for mask, count in ((f.first_lanes(wide, lanes), high), (f.first_lanes(high, lanes), wide))
                )
                rows = [
                    f.load_masked(f.pick(high.compare(">", lane), source.at(si * lane), source), lanes, in_row[lane])
                    for lane in range(lanes)
                ]
                for lane, column in enumerate(f.transposed(rows)):
                    here = f.pick(wide.compare(">", lane), target.at(dj * lane), target)
                    f.put_masked(here, column, in_column[lane])
    f.done()
    return f


def _interleave(f: Function, to: Pointer, planes: list[Pointer], length: Int, lanes: int) -> None:
    """to[j·n + i] = planes[i][j], for n planes."""
    whole, count = length // lanes * lanes, len(planes)
    with f.loop(whole, step=lanes) as j:
        vectors = [plane.at(j.index).vector(lanes) for plane in planes]
        for part in range(count):
            places = [divmod(part * lanes + lane, count) for lane in range(lanes)]
            mixed = vectors[0]
            for plane, vector in enumerate(vectors[1:], 1):
                before = [pixel if plane == 1 else lane for lane, (pixel, _) in enumerate(places)]
                here = [lanes + pixel if plane == own else before[lane] for lane, (pixel, own) in enumerate(places)]
                mixed = f.shuffle(mixed, vector, here)
            to.at(j.index * count + part * lanes).put(mixed)
    with f.loop(length, start=whole) as j:
        for plane, numbers in enumerate(planes):
            to.at(j.index * count + plane).put(numbers.at(j.index).scalar())


def _copy_scalars(
    f: Function, to: Pointer, di: Int, dj: Int, from_: Pointer, si: Int, sj: Int, width: Int, length: Int
) -> None:
    with f.loop(length) as j, f.loop(width) as i:
        to.at(i.index * di + j.index * dj).put(from_.at(i.index * si + j.index * sj).scalar())


_PIXELS_A_TASK = 512


def reorder(module: ir.Module, dtype: str, copy: Function) -> None:
    """Images from one layout to another: row by row, in pieces."""
    f, a = kernel(module, "reorder", dtype, REORDER)
    pieces = (a["width"] + (_PIXELS_A_TASK - 1)) // _PIXELS_A_TASK
    with tasks(f, a["images"] * a["height"] * pieces) as task:
        image, row, piece = indices(task.index, a["height"], pieces)
        pixel = piece * _PIXELS_A_TASK
        pixels = (a["width"] - pixel).at_most(_PIXELS_A_TASK)
        source = f.address(a["of"]).at(image * a["of_n"] + row * a["of_h"] + pixel * a["of_w"])
        to = f.address(a["to"]).at(image * a["to_n"] + row * a["to_h"] + pixel * a["to_w"])
        f.call(
            copy, to=to, to_i=a["to_c"], to_j=a["to_w"], source=source, source_i=a["of_c"], source_j=a["of_w"],
            width=a["channels"], length=pixels,
        )  # fmt: skip
    f.done()
