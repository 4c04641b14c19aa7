"""Winograd's kernels: weights, images and results transformed, and the products between (`algorithms/winograd.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ..target import Target
from .blocks import thread_scratch, tiles
from .cook_toom import short_convolution
from .ir import I64, Arguments, Function, Int, Pointer, kernel, share, tasks
from .pack import copy_function, reorder
from .pack_weights import pack_function
from .tile import Tiles, filled, product_tiles
from .transforms import NO_RESIDUAL, gather_function, locate_function, spread_function
from .winograd_tiles import TABLE_BYTES, TILE_ARGUMENTS, Shape, locate_input, locate_output, tables, transform_images

TRANSFORM_WEIGHTS = Arguments(
    "w w_g w_k w_c w_i w_j groups panels outputs channels weights scratch scratch_bytes past_caches"
)

SLIDING = Arguments(
    TILE_ARGUMENTS
    + "weights bias bias_step residual pitch v m u u_step u_channels piece part own splits shares chunks "
    "w w_g w_k w_c w_i w_j past_caches ask"
    # pitch: numbers a row of V; v, m, u, part: where they are in each thread's scratch; own: whether U is made
    # there, from w; u_step: numbers from a panel's U to the next; u_channels: input channels that U has room for;
    # piece: those whose products are summed at once; chunks: of a split; ask: whether U comes from beyond L2
)


KERNELS = ("transform_weights", "reorder", "blocks")


@dataclass(frozen=True)
class _Functions:
    """What the kernels call."""

    locate_input: Function
    locate_output: Function
    spread: Function
    gather: Function
    products: Tiles


def build(module: ir.Module, dtype: str, target: Target, shape: Shape, activation: str) -> None:
    """Adds the `KERNELS` to the module."""
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    matrices = short_convolution(shape.outputs, shape.taps)
    copy = copy_function(module, dtype, lanes)
    functions = _Functions(
        locate_input=locate_function(module, dtype, shape.points),
        locate_output=locate_function(module, dtype, shape.outputs),
        spread=spread_function(module, dtype, lanes, matrices.into),
        gather=gather_function(module, dtype, lanes, matrices.out, activation),
        products=product_tiles(module, dtype, target),
    )
    reorder(module, dtype, copy)
    part = transform_part(module, dtype, lanes, panel, shape, pack_function(module, dtype, lanes))
    form = _Form(shape, lanes, panel)
    transform_weights(module, dtype, part, form)
    blocks(module, dtype, functions, part, form)


CHANNELS_A_PART = 32


def product_pitch(channels: Any, width: Any, lanes: int) -> Any:
    """Numbers from one ξ of a panel's U to the next: a cache line more than there are, because 32·c numbers are often a
    multiple of the caches' size over their ways, and one patch's 36 vectors would all fall into the same set."""
    return channels * width + lanes


def transform_part(module: ir.Module, dtype: str, lanes: int, panel: int, shape: Shape, pack: Function) -> Function:
    """U = G w Gᵀ of at most `CHANNELS_A_PART` input channels of a panel: packed as [i][j][c][lane], which stays in L1,
    they are a patch of r×r "pixels" with c·lanes "channels".

    `w` are the weights of the part's first channel, `to` its U, `step` is from one ξ to the next; `past_caches`,
    whether U goes there, so that its lines are not read into one in order to be written.
    """
    locate = locate_function(module, dtype, shape.taps)
    matrix = short_convolution(shape.outputs, shape.taps).kernel
    spread = spread_function(module, dtype, lanes, matrix)
    spread_past_caches = spread_function(module, dtype, lanes, matrix, past_caches=True)
    names = "*w w_k w_c w_i w_j channels outputs *to step scratch past_caches"
    f = Function(module, "transform_part", names, dtype, internal=True)
    strides = {name: f.integer(name) for name in ("w_k", "w_c", "w_i", "w_j")}
    w, to = f.pointers("w to")
    channels, outputs, step_, scratch, past_caches = f.integers("channels outputs step scratch past_caches")
    table, packed = f.address(scratch, I64), f.address(scratch + TABLE_BYTES)
    width, taps = filled(outputs, lanes), shape.taps
    f.call(
        pack, w=w, **strides, kernel_h=taps, kernel_w=taps, to=packed, room=CHANNELS_A_PART, channels=channels,
        outputs=outputs,
    )  # fmt: skip
    tap = width * CHANNELS_A_PART
    f.call(
        locate, table=table, x=packed, x_h=tap * taps, x_w=tap, top=0, height=taps, left=0, width=taps, outside=packed,
        gap_h=1, gap_w=1,
    )  # fmt: skip
    arguments: dict[str, Int | Pointer | int] = {
        "table": table, "channels": channels * width, "out": to, "step": step_, "vector_step": lanes,
        "following": table,
    }  # fmt: skip
    with f.if_else(past_caches.compare("!=", 0)) as (large, small):
        with large:
            f.call(spread_past_caches, **arguments)
        with small:
            f.call(spread, **arguments)
    f.done()
    return f


@dataclass(frozen=True)
class _Panel:
    """A panel of a group's output channels: how many they are, and how many with the lanes that are filled up."""

    group: Int
    index: Int
    first_output: Int
    outputs: Int
    width: Int

    @classmethod
    def of(cls, a: dict[str, Int], group: Int, index: Int, form: _Form) -> _Panel:
        outputs = (a["outputs"] - index * form.panel).at_most(form.panel)
        first = group * a["outputs"] + index * form.panel
        return cls(group, index, first, outputs, filled(outputs, form.lanes))


def _transform_panel(
    f: Function, a: dict[str, Int], part: Function, form: _Form, p: _Panel, first: Int, channels: Int, to: Pointer,
    pitch: Int, scratch: Int,
) -> None:  # fmt: skip
    """U of `channels` input channels of a panel, from the `first` on, part by part; `to` is where that one's begins."""
    w = f.address(a["w"]).at(p.group * a["w_g"] + p.index * form.panel * a["w_k"] + first * a["w_c"])
    with f.loop(channels, step=CHANNELS_A_PART) as each:
        f.call(
            part, w=w.at(each.index * a["w_c"]), w_k=a["w_k"], w_c=a["w_c"], w_i=a["w_i"], w_j=a["w_j"],
            channels=(channels - each.index).at_most(CHANNELS_A_PART), outputs=p.outputs,
            to=to.at(each.index * p.width), step=pitch, scratch=scratch, past_caches=a["past_caches"],
        )  # fmt: skip


def transform_weights(module: ir.Module, dtype: str, part: Function, form: _Form) -> None:
    """All of U, to be kept."""
    f, a = kernel(module, "transform_weights", dtype, TRANSFORM_WEIGHTS)
    parts = (a["channels"] + (CHANNELS_A_PART - 1)) // CHANNELS_A_PART
    a_panel = form.shape.products * product_pitch(a["channels"], form.panel, form.lanes)
    with tasks(f, a["groups"] * a["panels"] * parts) as task:
        first, which = task.index % parts * CHANNELS_A_PART, task.index // parts
        p = _Panel.of(a, which // a["panels"], which % a["panels"], form)
        channels = (a["channels"] - first).at_most(CHANNELS_A_PART)
        to = f.address(a["weights"]).at(which * a_panel + first * p.width)
        pitch = product_pitch(a["channels"], p.width, form.lanes)
        scratch = thread_scratch(f, a)
        _transform_panel(f, a, part, form, p, first, channels, to, pitch, scratch)
    f.done()


@dataclass(frozen=True, slots=True)
class _Form:
    """What is fixed when the code is written: the tiles' shape and the vectors'."""

    shape: Shape
    lanes: int
    panel: int


def _multiply(
    f: Function, a: dict[str, Int], functions: _Functions, form: _Form, p: _Panel, weights: Pointer, first: Int,
    channels: Int, v: Pointer, m: Pointer, count: Int, following: Pointer,
) -> None:  # fmt: skip
    """M[ξ] += V[ξ] · U[ξ] for `count` tiles, a panel, and the input channels from `first` on: rows of `pitch` numbers
    times `width` columns. The first channels write M, the others add to it. Where U does not stay
    in L2, that of the `following` ξ is asked for: by each tile its share."""
    a_tile, rounds = (
        f.choose(a["ask"].compare("!=", 0), channels * p.width // count + 1, 0),
        (channels // 4).at_least(1),
    )
    with tiles(f, count, functions.products.most_rows) as rows:
        functions.products.call(
            f, rows.size, p.width, x=v.at(rows.first * a["pitch"] + first), step=a["pitch"], w=weights,
            count=channels, y=m.at(rows.first * p.width), add=first,
            ahead=following.at(rows.first * a_tile), ahead_step=(rows.size * a_tile + rounds - 1) // rounds,
        )  # fmt: skip


def _transform_output(
    f: Function, a: dict[str, Int], functions: _Functions, form: _Form, p: _Panel, first: Int, count: Int, m: Pointer,
    step_: Int, table: Pointer, outside: Pointer,
) -> None:  # fmt: skip
    """A panel's output pixels of `count` tiles from number `first` on ← M, again with the next tile's in view."""

    locate = locate_output(f, a, functions.locate_output, form.shape.outputs, p.first_output, outside)
    bias = f.address(a["bias"]).at(p.first_output * a["bias_step"])
    distance = f.choose(a["residual"].compare("!=", 0), a["residual"] - a["y"], NO_RESIDUAL)
    locate(first, table)
    with f.loop(count) as t:
        here, following = tables(table, t.index)
        locate(first + t.index + 1, following)
        values = m.at(t.index * p.width)
        f.call(
            functions.gather, table=here, channels=p.outputs, values=values, step=step_, base=bias, following=following,
            residual=distance, outside=outside.number(),
        )  # fmt: skip


def odd_lines(numbers: Int, lanes: int) -> Int:
    """At least so many numbers, an odd count of vectors: a step that spreads what lies so far apart over all sets of
    the caches."""
    return (numbers // (2 * lanes) * 2 + 1) * lanes


def blocks(module: ir.Module, dtype: str, functions: _Functions, part: Function, form: _Form) -> None:
    """All stages for a split of the tiles and a share of the panels, by one thread."""
    f, a = kernel(module, "blocks", dtype, SLIDING)
    scratch = thread_scratch(f, a)
    table, outside = f.address(scratch, I64), f.address(scratch + 2 * TABLE_BYTES)
    v, m, own_u = (f.address(scratch + a[name]) for name in "vmu")
    a_panel = form.shape.products * product_pitch(a["channels"], form.panel, form.lanes)
    tiles_ = a["images"] * a["tiles_h"] * a["tiles_w"]
    # Chunks are tasks of their own, unless a thread makes U in the first of them for those that follow.
    chunks_apart = f.choose(a["own"].compare("!=", 0), 1, a["chunks"])
    with tasks(f, a["groups"] * a["shares"] * a["splits"] * chunks_apart) as task:
        first_chunk, rest = task.index % chunks_apart, task.index // chunks_apart
        split, rest = rest % a["splits"], rest // a["splits"]
        group = rest // a["shares"]
        first_panel, last_panel = share(a["panels"], rest % a["shares"], a["shares"])
        kept_u = f.address(a["weights"]).at((group * a["panels"] + first_panel) * a_panel)
        u = f.pick(a["own"].compare("!=", 0), own_u, kept_u)
        first_tile, last_tile = share(tiles_, split, a["splits"])
        with f.loop(f.choose(a["own"].compare("!=", 0), a["chunks"], first_chunk + 1), start=first_chunk) as chunk:
            first, after = share(last_tile - first_tile, chunk.index, a["chunks"])
            first, count = first_tile + first, after - first
            v_step = odd_lines(count * a["pitch"], form.lanes)
            transform_images(
                f, locate_input(f, a, functions.locate_input, form.shape.outputs, group), functions.spread, first,
                count, a["channels"], v, a["pitch"], v_step, form.lanes, table,
            )  # fmt: skip
            with f.loop(last_panel, start=first_panel) as index:
                p = _Panel.of(a, group, index.index, form)
                m_step = odd_lines(count * p.width, form.lanes)
                panel_u = u.at((index.index - first_panel) * a["u_step"])
                u_pitch = product_pitch(a["u_channels"], p.width, form.lanes)
                with f.loop(a["channels"], step=a["piece"]) as piece:
                    channels = (a["channels"] - piece.index).at_most(a["piece"])
                    # Where U has no room for all channels, each piece takes the place of the one before.
                    here = piece.index.at_most(a["u_channels"] - channels)
                    piece_u = panel_u.at(here * p.width)
                    with f.if_(f.all_of(a["own"].compare("!=", 0), chunk.index.compare("==", 0))):
                        part_scratch = scratch + a["part"]
                        _transform_panel(f, a, part, form, p, piece.index, channels, piece_u, u_pitch, part_scratch)
                    with f.loop(form.shape.products) as xi:
                        v_xi, m_xi = v.at(xi.index * v_step), m.at(xi.index * m_step)
                        weights = piece_u.at(xi.index * u_pitch)
                        _multiply(
                            f,
                            a,
                            functions,
                            form,
                            p,
                            weights,
                            piece.index,
                            channels,
                            v_xi,
                            m_xi,
                            count,
                            weights.at(u_pitch),
                        )
                _transform_output(f, a, functions, form, p, first, count, m, m_step, table, outside)
    f.done()
