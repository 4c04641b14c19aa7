"""The receptive field of every tensor of a running network: carried from operator to operator, across skips.

A unit of a feature map depends on a window of the input image. The window grows at convolutions and poolings
(`spec.ReceptiveField` has the formula) and widens to the union where two paths meet. A tensor is therefore accompanied
by `Seen`: one `Axis` for the rows and one for the columns, and the tensor's dimensions along which these still run.
What mixes all positions sees the `WHOLE` input; after an operator that this module does not know, the field is
`UNKNOWN`, which is better than a number that may be wrong.

Statistics of group, layer and instance normalisation also read their whole map. They are left out, as is usual; the
gates of squeeze-and-excitation are not: behind one, a unit does depend on every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial, reduce
from math import gcd, lcm, prod
from typing import Any, Literal, TypeAlias, cast

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..spec import Conv2dSpec, Pair, ReceptiveField, as_pair, ceil_div, transposed_output_size

aten = torch.ops.aten
Arguments: TypeAlias = dict[str, Any]


class Reach(Enum):
    """What a unit depends on where it is not a window."""

    WHOLE = "all"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Axis:
    """What the units of a feature map see along one axis.

    In ordinary networks all units see windows of one size at equal distances. Where maps were enlarged, neighbours see
    different windows, but the pattern repeats: unit i·period + r sees what unit r sees, i·jump positions further.
    `phases` are the windows of the first `period` units; None is a unit that sees nothing.
    """

    phases: tuple[ReceptiveField | None, ...]
    jump: int

    @staticmethod
    def of(field: ReceptiveField) -> Axis:
        """Units that all see alike."""
        return Axis((field,), field.jump)

    @property
    def size(self) -> int:
        """Input positions that a unit sees, of those units that see the most."""
        return max((field.size for field in self.phases if field), default=0)

    def unit(self, index: int) -> ReceptiveField | None:
        """The window of one unit."""
        periods, phase = divmod(index, len(self.phases))
        field = self.phases[phase]
        return replace(field, start=field.start + periods * self.jump) if field else None

    def through(self, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Axis:
        """Behind a convolution or a pooling."""
        if len(self.phases) == 1 and self.phases[0]:
            return Axis.of(self.phases[0].through(kernel, stride, pad, dilation))
        period = len(self.phases) // gcd(len(self.phases), stride)
        taps = [[unit * stride - pad + tap * dilation for tap in range(kernel)] for unit in range(period)]
        return self._gathered(taps, period * stride)

    def transposed(self, kernel: int, stride: int, pad: int = 0, dilation: int = 1) -> Axis:
        """Behind a transposed convolution: an ordinary one over maps that zeros have spread `stride` apart."""
        taps = []
        for unit in range(len(self.phases) * stride):
            spread = [unit + pad - tap * dilation for tap in range(kernel)]
            taps.append([place // stride for place in spread if place % stride == 0])
        return self._gathered(taps, len(self.phases))

    def resized(self, size: int, new_size: int, taps: Callable[[int], Iterable[int]]) -> Axis:
        """Behind an interpolation or adaptive pooling: `taps(unit)` are the units it reads, `size` for `new_size`."""
        repeats = len(self.phases) // gcd(len(self.phases), size)
        return self._gathered([list(taps(unit)) for unit in range(new_size * repeats)], size * repeats)

    def merged(self, other: Axis) -> Axis:
        """Where two paths meet."""
        period = lcm(len(self.phases), len(other.phases))
        jump = self.jump * (period // len(self.phases))
        if jump != other.jump * (period // len(other.phases)):
            return Axis.of(self._widest().merged(other._widest()))
        return Axis(tuple(_union((self.unit(i), other.unit(i))) for i in range(period)), jump)

    def _widest(self) -> ReceptiveField:
        field = max((field for field in self.phases if field), key=lambda field: field.size)
        return replace(field, jump=max(1, self.jump // len(self.phases)))

    def _gathered(self, taps: Sequence[Sequence[int]], advance: int) -> Axis:
        """The axis whose r-th unit reads the units `taps[r]`, and which repeats `advance` units further on."""
        jump = self.jump * advance // len(self.phases)
        phases = tuple(_union(self.unit(i) for i in reads) for reads in taps)
        first, apart = phases[0], jump // len(phases)
        if first and apart * len(phases) == jump:
            alike = (replace(first, start=first.start + r * apart) for r in range(len(phases)))
            if all(
                field and (field.start, field.size) == (f.start, f.size) for field, f in zip(phases, alike, strict=True)
            ):
                return Axis.of(replace(first, jump=apart))
        return Axis(phases, jump)


def _union(fields: Iterable[ReceptiveField | None]) -> ReceptiveField | None:
    present = [field for field in fields if field]
    return reduce(ReceptiveField.merged, present) if present else None


@dataclass(frozen=True, slots=True)
class Seen:
    """The windows of a tensor's units, per axis, and the dimensions of the tensor that hold rows and columns.

    `dims` are equal where rows and columns were flattened into one dimension.
    """

    vertical: Axis
    horizontal: Axis
    dims: Pair

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return self.vertical, self.horizontal

    def is_map(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is laid out as feature maps: rows and columns are its last two dimensions."""
        return self.dims == (tensor.ndim - 2, tensor.ndim - 1)


State: TypeAlias = Seen | Reach


def window(state: State | None) -> Pair | Literal["all"] | None:
    """The field in input pixels, (rows, columns); "all" for the whole input; None where nobody can say."""
    if isinstance(state, Seen):
        return state.vertical.size, state.horizontal.size
    return "all" if state is Reach.WHOLE else None


def interpolated(axis: Axis, size: int, new_size: int, taps: int) -> Axis:
    """The axis behind an interpolation that reads `taps` neighbours (1 nearest, 2 linear, 4 cubic)."""

    def reads(unit: int) -> Iterable[int]:
        if taps == 1:
            return (unit * size // new_size,)
        # The unit's middle is at ((2·unit + 1)·size − new_size) / (2·new_size), in units of what is read.
        before, rest = divmod((2 * unit + 1) * size - new_size, 2 * new_size)
        return range(before - taps // 2 + 1, before + taps // 2 + 1) if rest else (before,)

    return axis.resized(size, new_size, reads)


def merge(first: State | None, second: State | None) -> State | None:
    """The state of a unit that reads both; None stands for what does not depend on the input."""
    if first is None or second is None:
        return second if first is None else first
    if Reach.WHOLE in (first, second):
        return Reach.WHOLE
    if isinstance(first, Seen) and isinstance(second, Seen) and first.dims == second.dims:
        return Seen(first.vertical.merged(second.vertical), first.horizontal.merged(second.horizontal), first.dims)
    return Reach.UNKNOWN


_TRANSPOSED = "convforge.conv_transpose2d"


def named_arguments(func: Any, args: Sequence[Any], kwargs: Arguments) -> Arguments:
    """An operator's arguments by the names of its schema, defaults filled in; those of our transposed convolution as
    aten's convolution has them."""
    named: Arguments = {}
    for index, argument in enumerate(func._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        named[argument.name] = args[index] if index < len(args) else kwargs.get(argument.name, default)
    if str(func.overloadpacket) == _TRANSPOSED:
        top, _, left, _ = named["padding"]
        image, kernel, stride, gaps = (named[name] for name in ("input", "weight", "stride", "dilation"))
        least = [
            transposed_output_size(image.shape[a - 2], kernel.shape[a + 2], stride[a], (pad, pad), gaps[a])
            for a, pad in enumerate((top, left))
        ]
        more = [named["size"][a] - least[a] for a in (0, 1)]
        named |= {"transposed": True, "padding": [top, left], "output_padding": more}
    return named


# ---------------------------------------------------------------------------------------------------------------------
# Where rows and columns run after a change of shape
# ---------------------------------------------------------------------------------------------------------------------


def _moved(state: State | None, place: Callable[[int], int | None]) -> State | None:
    """`state` with its dimensions renumbered; UNKNOWN where one of them has no new place."""
    if not isinstance(state, Seen):
        return state
    vertical, horizontal = place(state.dims[0]), place(state.dims[1])
    if vertical is None or horizontal is None:
        return Reach.UNKNOWN
    return replace(state, dims=(vertical, horizontal))


def _reshaped(state: State | None, old: Sequence[int], new: Sequence[int]) -> State | None:
    """Follow rows and columns through view or reshape, as long as a dimension is kept whole or joined to others."""
    if not isinstance(state, Seen) or tuple(old) == tuple(new):
        return state

    def holders(dim: int, exactly: bool) -> Iterable[int]:
        outer, inner = prod(old[:dim]), prod(old[dim + 1 :])
        for e in range(len(new)):
            new_outer, new_inner = prod(new[:e]), prod(new[e + 1 :])
            if exactly and (new[e], new_outer, new_inner) == (old[dim], outer, inner):
                yield e
            if not exactly and min(new_outer, new_inner) and outer % new_outer == inner % new_inner == 0:
                yield e

    rows, columns = state.dims
    if rows == columns:
        outer = prod(old[:rows])
        for e in range(len(new) - 1):  # flattened positions that become rows and columns again
            if prod(new[:e]) == outer and new[e] * new[e + 1] == old[rows] and 1 not in (new[e], new[e + 1]):
                return replace(state, dims=(e, e + 1))
    new_rows = next(iter(holders(rows, True)), next(iter(holders(rows, False)), None))
    others = [e for e in holders(columns, True) if rows == columns or e != new_rows]
    new_columns = next(iter(others), next(iter(holders(columns, False)), None))
    if new_rows is None or new_columns is None:
        return Reach.UNKNOWN
    return replace(state, dims=(new_rows, new_columns))


def _broadcast(state: State | None, shape: Sequence[int], out: Sequence[int]) -> State | None:
    """The state of an operand of an element-wise operator, numbered as the result is."""
    if not isinstance(state, Seen):
        return state
    shift = len(out) - len(shape)
    if shift < 0 or any(a not in (1, b) for a, b in zip(shape, out[shift:], strict=True)):
        return Reach.UNKNOWN
    if any(shape[d] == 1 and out[d + shift] != 1 for d in state.dims):
        return Reach.WHOLE  # one number handed to every position: a map that was reduced to a point
    return replace(state, dims=(state.dims[0] + shift, state.dims[1] + shift))


# ---------------------------------------------------------------------------------------------------------------------
# Operators
# ---------------------------------------------------------------------------------------------------------------------

_LOCAL = {
    aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
    aten.cudnn_batch_norm, aten.native_group_norm, aten.native_layer_norm, aten.clone, aten._to_copy,
    aten.contiguous, aten.detach, aten.alias, aten.lift_fresh, aten.native_dropout, aten.expand, aten.channel_shuffle,
    aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.leaky_relu, aten.prelu, aten._prelu_kernel, aten.rrelu,
    aten._fused_rms_norm, aten.log_sigmoid_forward, aten.clamp, aten.hardtanh_, aten.hardswish_, aten.hardsigmoid_,
    aten.leaky_relu_,
}  # fmt: skip
_VIEWS = {aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten._reshape_copy, aten.flatten}
_REDUCTIONS = {
    aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.var, aten.std, aten.var_mean, aten.logsumexp,
    aten.argmax, aten.argmin, aten.linalg_vector_norm, aten.norm, aten.prod, aten.any, aten.all,
}  # fmt: skip
_FACTORIES = {
    aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.empty_like, aten.zeros_like, aten.ones_like,
    aten.full_like, aten.rand_like, aten.randn_like, aten.new_empty_strided,
}  # fmt: skip
_ALONG = {aten._softmax, aten._log_softmax, aten.cumsum, aten.cumprod, aten.glu}
_PRODUCTS = {aten.mm: (1, 0), aten.addmm: (1, 0), aten.bmm: (2, 1), aten.baddbmm: (2, 1), aten.mv: (1, 0)}
_TAPS = {
    aten.upsample_nearest2d: 1, aten._upsample_nearest_exact2d: 1, aten.upsample_bilinear2d: 2,
    aten.upsample_bicubic2d: 4,
}  # fmt: skip
_POOLS = {aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d, aten.mkldnn_max_pool2d}
_ADAPTIVE = {aten._adaptive_avg_pool2d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool2d}
_PADS = {aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d}


class Fields:
    """The states of the tensors that depend on the input; a tensor without one is a weight or a constant."""

    def __init__(self) -> None:
        self._states: Any = WeakTensorKeyDictionary()

    def start(self, image: torch.Tensor) -> None:
        """Let `image` be the input: a unit of it sees itself."""
        self.set(image, Seen(Axis.of(ReceptiveField()), Axis.of(ReceptiveField()), (image.ndim - 2, image.ndim - 1)))

    def get(self, tensor: Any) -> State | None:
        return cast("State | None", self._states.get(tensor)) if isinstance(tensor, torch.Tensor) else None

    def set(self, tensor: torch.Tensor, state: State | None) -> None:
        if state is not None:
            self._states[tensor] = state

    def follow(self, func: Any, named: Arguments, result: Any) -> None:
        """Give the tensors in `result` what an operator makes of the states of its arguments."""
        operands = [t for t in tree_leaves(named) if self.get(t) is not None]
        if not operands or func.overloadpacket in _FACTORIES:
            return
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        for index, output in enumerate(outputs):
            self.set(output, self._state_of(func, named, operands, output, index))
        if func._schema.is_mutable and outputs:
            self._write_through(named, outputs)

    def _write_through(self, named: Arguments, outputs: list[torch.Tensor]) -> None:
        """What is written into a view (`canvas[:, :64] = a`) is seen in the tensor it is a view of."""
        target = next(iter(named.values()))
        base = target._base if isinstance(target, torch.Tensor) else None
        if base is not None:
            state = self.get(outputs[0])
            known = state if base.ndim == target.ndim or isinstance(state, Reach) else Reach.UNKNOWN
            self.set(base, merge(self.get(base), known))

    def _state_of(
        self, func: Any, named: Arguments, operands: list[torch.Tensor], output: torch.Tensor, index: int
    ) -> State | None:
        packet = func.overloadpacket
        first = operands[0]
        state = self.get(first)
        if packet is aten.copy_:
            return _broadcast(self.get(named["src"]), named["src"].shape, output.shape)
        if torch.Tag.pointwise in func.tags or packet in _LOCAL:
            return self._union(operands, output)
        if packet in (aten.cat, aten.stack):
            return self._joined(packet is aten.stack, named, operands, output)
        if packet in _PRODUCTS:
            return self._product(operands, output, named, _PRODUCTS[packet])
        if "attention" in str(packet):
            return Reach.WHOLE
        if len(operands) > 1 and len({id(t) for t in operands}) > 1:
            return Reach.WHOLE if any(self.get(t) is Reach.WHOLE for t in operands) else Reach.UNKNOWN
        if not isinstance(state, Seen):
            return state
        return _single(packet, named, state, first, output, index)

    def _union(self, operands: Iterable[torch.Tensor], output: torch.Tensor) -> State | None:
        state: State | None = None
        for tensor in operands:
            state = merge(state, _broadcast(self.get(tensor), tensor.shape, output.shape))
        return state

    def _joined(
        self, new_dim: bool, named: Arguments, operands: list[torch.Tensor], output: torch.Tensor
    ) -> State | None:
        dim = (named["dim"] or 0) % output.ndim
        state: State | None = None
        for tensor in operands:
            state = merge(state, self.get(tensor))
        if new_dim:
            return _moved(state, lambda d: d + (d >= dim))
        if isinstance(state, Seen) and dim in state.dims and state.dims[0] != state.dims[1]:
            return Reach.UNKNOWN  # maps side by side: what a unit sees depends on where it is
        return state

    def _product(
        self, operands: list[torch.Tensor], output: torch.Tensor, named: Arguments, summed: tuple[int, int]
    ) -> State | None:
        """A matrix product mixes what runs along the summed dimension, and leaves the others where they are."""
        left, right = [value for name, value in named.items() if name in ("mat1", "mat2", "batch1", "batch2", "vec")
                       or (name == "self" and "mat1" not in named and "batch1" not in named)]  # fmt: skip
        states = [self.get(left), self.get(right)]
        for state, dim in zip(states, summed, strict=True):
            if state is Reach.WHOLE or (isinstance(state, Seen) and dim in state.dims):
                return Reach.WHOLE
        if states[0] is not None and states[1] is not None:
            return Reach.UNKNOWN
        if states[0] is None:
            return _moved(states[1], lambda d: d)
        return states[0]


def _single(
    packet: Any, named: Arguments, seen: Seen, tensor: torch.Tensor, output: torch.Tensor, index: int
) -> State | None:
    """The state behind an operator with one operand that depends on the input."""
    if is_convolution(packet):
        return _convolved(named, seen, tensor)
    if packet in _POOLS:
        return _through_windows(named, seen, tensor)
    if packet is aten.im2col:
        state = _through_windows(named, seen, tensor)
        return replace(state, dims=(2, 2)) if isinstance(state, Seen) else state
    if packet in _ADAPTIVE:
        return _adaptively_pooled(seen, tensor, output)
    if packet in _TAPS and seen.is_map(tensor) and not named.get("align_corners"):
        axes = [interpolated(seen.axes[a], tensor.shape[a - 2], output.shape[a - 2], _TAPS[packet]) for a in (0, 1)]
        return Seen(axes[0], axes[1], seen.dims)
    if packet in _PADS:
        return padded(seen, tensor, output, named.get("pad") or named["padding"])
    if packet is aten.pixel_shuffle:
        axes = [axis.transposed(named["upscale_factor"], named["upscale_factor"]) for axis in seen.axes]
        return Seen(axes[0], axes[1], seen.dims)
    if packet is aten.pixel_unshuffle:
        axes = [axis.through(named["downscale_factor"], named["downscale_factor"]) for axis in seen.axes]
        return Seen(axes[0], axes[1], seen.dims)
    if packet in _REDUCTIONS:
        return _reduced(named, seen, tensor)
    if packet in _ALONG:
        return Reach.WHOLE if named["dim"] % tensor.ndim in seen.dims else seen
    return _reordered(packet, named, seen, tensor, output, index)


def _reordered(
    packet: Any, named: Arguments, seen: Seen, tensor: torch.Tensor, output: torch.Tensor, index: int
) -> State | None:
    """Operators that only move numbers."""
    ndim = tensor.ndim
    if packet in _VIEWS:
        return _reshaped(seen, tensor.shape, output.shape)
    if packet is aten.permute:
        order = [d % ndim for d in named["dims"]]
        return _moved(seen, order.index)
    if packet in (aten.transpose, aten.t):
        a, b = (named["dim0"] % ndim, named["dim1"] % ndim) if packet is aten.transpose else (0, ndim - 1)
        return _moved(seen, lambda d: b if d == a else a if d == b else d)
    if packet is aten.unsqueeze:
        new = named["dim"] % output.ndim
        return _moved(seen, lambda d: d + (d >= new))
    if packet is aten.squeeze:
        asked = named.get("dim")
        dims = range(ndim) if asked is None else [d % ndim for d in ([asked] if isinstance(asked, int) else asked)]
        gone = [d for d in dims if tensor.shape[d] == 1]
        return _moved(seen, lambda d: None if d in gone else d - sum(g < d for g in gone))
    if packet in (aten.select, aten.unbind):
        dim = named["dim"] % ndim
        return _moved(seen, lambda d: None if d == dim else d - (d > dim))
    if packet in (aten.slice, aten.split, aten.split_with_sizes):
        return _cut(packet, named, seen, tensor, index)
    return Reach.UNKNOWN


def _cut(packet: Any, named: Arguments, seen: Seen, tensor: torch.Tensor, index: int) -> State:
    dim = named["dim"] % tensor.ndim
    if dim not in seen.dims or seen.dims[0] == seen.dims[1]:
        return seen
    if packet is aten.slice:
        begin, step = named["start"] or 0, named["step"]
        begin += tensor.shape[dim] if begin < 0 else 0
    elif packet is aten.split:
        begin, step = index * named["split_size"], 1
    else:
        begin, step = sum(named["split_sizes"][:index]), 1
    # Keeping every step-th row from `begin` is a 1-wide kernel with that stride and negative padding.
    axes = [f.through(1, step, -begin) if d == dim else f for f, d in zip(seen.axes, seen.dims, strict=True)]
    return Seen(axes[0], axes[1], seen.dims)


def is_convolution(packet: Any) -> bool:
    """Whether this is torch's convolution or ours; by name, because ours may not have been loaded."""
    return str(packet) in ("aten.convolution", "convforge.conv2d", _TRANSPOSED)


def convolution_sides(padding: Sequence[int]) -> tuple[Pair, Pair]:
    """aten's padding (vertical, horizontal), or our operator's (top, bottom, left, right), as sides."""
    if len(padding) == 4:
        return (padding[0], padding[1]), (padding[2], padding[3])
    vertical, horizontal = as_pair(list(padding), "padding", minimum=0)
    return (vertical, vertical), (horizontal, horizontal)


def _convolved(named: Arguments, seen: Seen, tensor: torch.Tensor) -> State:
    if tensor.ndim not in (3, 4) or not seen.is_map(tensor) or len(named["stride"]) != 2:
        return Reach.UNKNOWN
    kernel, stride, dilation = named["weight"].shape[2:], named["stride"], named["dilation"]
    sides = convolution_sides(named["padding"])
    axes: list[Axis] = []
    for a in (0, 1):
        if named.get("transposed"):
            axes.append(seen.axes[a].transposed(kernel[a], stride[a], sides[a][0], dilation[a]))
        else:
            axes.append(seen.axes[a].through(kernel[a], stride[a], sides[a][0], dilation[a]))
    return Seen(axes[0], axes[1], seen.dims)


def pooling_spec(named: Arguments, channels: int) -> Conv2dSpec:
    """A pooling, or the windows of `unfold`, as the depthwise convolution that slides in the same way."""
    kernel = as_pair(named["kernel_size"], "kernel_size")
    stride = as_pair(named.get("stride") or kernel, "stride")
    padding = as_pair(named.get("padding") or 0, "padding", minimum=0)
    return Conv2dSpec(channels, channels, kernel, stride, padding, named.get("dilation") or 1, channels, bias=False)


def _through_windows(named: Arguments, seen: Seen, tensor: torch.Tensor) -> State:
    if not seen.is_map(tensor):
        return Reach.UNKNOWN
    spec = pooling_spec(named, tensor.shape[-3])
    sides = spec.sides((tensor.shape[-2], tensor.shape[-1]))
    axes = [seen.axes[a].through(spec.kernel_size[a], spec.stride[a], sides[a][0], spec.dilation[a]) for a in (0, 1)]
    return Seen(axes[0], axes[1], seen.dims)


def _adaptively_pooled(seen: Seen, tensor: torch.Tensor, output: torch.Tensor) -> State:
    if not seen.is_map(tensor):
        return Reach.UNKNOWN
    axes: list[Axis] = []
    for a in (0, 1):
        size, bins = tensor.shape[a - 2], output.shape[a - 2]
        if bins == 1:
            return Reach.WHOLE
        axes.append(seen.axes[a].resized(size, bins, partial(_bin, size, bins)))
    return Seen(axes[0], axes[1], seen.dims)


def _bin(size: int, bins: int, index: int) -> Iterable[int]:
    """Units that adaptive pooling averages into one of `bins`."""
    return range(index * size // bins, ceil_div((index + 1) * size, bins))


def _reduced(named: Arguments, seen: Seen, tensor: torch.Tensor) -> State | None:
    asked = named.get("dim")
    if asked is None or asked == []:
        return Reach.WHOLE
    gone = [d % tensor.ndim for d in ([asked] if isinstance(asked, int) else asked)]
    if any(d in gone for d in seen.dims):
        return Reach.WHOLE
    if named.get("keepdim"):
        return seen
    return _moved(seen, lambda d: d - sum(g < d for g in gone))


def padded(seen: Seen, tensor: torch.Tensor, output: torch.Tensor, pad: Sequence[int]) -> State:
    """The state of a padded tensor: `pad` counts from the last dimension backwards, as torch's does."""
    axes: list[Axis] = []
    for axis, dim in zip(seen.axes, seen.dims, strict=True):
        place = 2 * (tensor.ndim - 1 - dim)
        before = pad[place] if place < len(pad) else 0
        axes.append(axis.through(1, 1, before))
    return Seen(axes[0], axes[1], seen.dims)
