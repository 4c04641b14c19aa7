"""The receptive field of every tensor of a running network: carried from operator to operator, across skips.

A unit of a feature map depends on a window of the input image. The window grows at convolutions and poolings
(`spec.ReceptiveField` has the formula), shrinks its spacing where maps are enlarged, and widens to the union where two
paths meet. A tensor is therefore accompanied by `Seen`: one field an axis, and the tensor's dimensions along which the
image's rows and columns still run. What mixes all positions sees the `WHOLE` input; after an operator that this module
does not know, the field is `UNKNOWN`, which is better than a number that may be wrong.

Statistics of group, layer and instance normalisation also read their whole map. They are left out, as is usual; the
gates of squeeze-and-excitation are not: behind one, a unit does depend on every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from math import floor, prod
from typing import Any, Literal, TypeAlias, cast

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..spec import Conv2dSpec, Pair, ReceptiveField, as_pair, kernel_extent

aten = torch.ops.aten
Arguments: TypeAlias = dict[str, Any]


class Reach(Enum):
    """What a unit depends on where it is not a window."""

    WHOLE = "all"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """The window of one unit, per axis, and the dimensions of the tensor that hold rows and columns.

    `dims` are equal where rows and columns were flattened into one dimension.
    """

    vertical: ReceptiveField
    horizontal: ReceptiveField
    dims: Pair

    @property
    def axes(self) -> tuple[ReceptiveField, ReceptiveField]:
        return self.vertical, self.horizontal

    def is_map(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is laid out as feature maps: rows and columns are its last two dimensions."""
        return self.dims == (tensor.ndim - 2, tensor.ndim - 1)


State: TypeAlias = Seen | Reach


def window(state: State | None) -> Pair | Literal["all"] | None:
    """The field in input pixels, (rows, columns); "all" for the whole input; None where nobody can say.

    Fields behind enlarged maps end between pixels; how many pixels they contain is the integer part.
    """
    if isinstance(state, Seen):
        return floor(state.vertical.size), floor(state.horizontal.size)
    return "all" if state is Reach.WHOLE else None


def transposed_field(seen: ReceptiveField, kernel: int, stride: int, pad: int, dilation: int = 1) -> ReceptiveField:
    """The field behind a transposed convolution: an ordinary one over maps that zeros have spread `stride` apart.

    Neighbouring units are then a fraction of a pixel apart, exactly.
    """
    spread = replace(seen, jump=cast(int, Fraction(seen.jump) / stride))
    return spread.through(kernel, 1, kernel_extent(kernel, dilation) - 1 - pad, dilation)


def resized_field(seen: ReceptiveField, size: int, new_size: int, taps: int) -> ReceptiveField:
    """The field behind an interpolation that reads `taps` neighbours an axis (1 nearest, 2 linear, 4 cubic).

    Enlarging by f is the transposed convolution with stride f and the interpolation's own kernel of taps·f.
    """
    if new_size % size == 0:
        factor = new_size // size
        kernel = taps * factor - (1 if taps > 1 and factor % 2 else 0)
        return transposed_field(seen, kernel, factor, (kernel - factor) // 2)
    return replace(seen.through(taps, 1, (taps - 1) // 2), jump=cast(int, Fraction(seen.jump) * size / new_size))


def merge(first: State | None, second: State | None) -> State | None:
    """The state of a unit that reads both; None stands for what does not depend on the input."""
    if first is None or second is None:
        return second if first is None else first
    if Reach.WHOLE in (first, second):
        return Reach.WHOLE
    if isinstance(first, Seen) and isinstance(second, Seen) and first.dims == second.dims:
        return Seen(first.vertical.merged(second.vertical), first.horizontal.merged(second.horizontal), first.dims)
    return Reach.UNKNOWN


def named_arguments(func: Any, args: Sequence[Any], kwargs: Arguments) -> Arguments:
    """An operator's arguments by the names of its schema, defaults filled in."""
    named: Arguments = {}
    for index, argument in enumerate(func._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        named[argument.name] = args[index] if index < len(args) else kwargs.get(argument.name, default)
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
        self.set(image, Seen(ReceptiveField(), ReceptiveField(), (image.ndim - 2, image.ndim - 1)))

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
    if packet in _TAPS and seen.is_map(tensor):
        axes = [resized_field(seen.axes[a], tensor.shape[a - 2], output.shape[a - 2], _TAPS[packet]) for a in (0, 1)]
        return Seen(axes[0], axes[1], seen.dims)
    if packet in _PADS:
        return padded(seen, tensor, output, named.get("pad") or named["padding"])
    if packet is aten.pixel_shuffle:
        vertical, horizontal = (
            transposed_field(f, named["upscale_factor"], named["upscale_factor"], 0) for f in seen.axes
        )
        return Seen(vertical, horizontal, seen.dims)
    if packet is aten.pixel_unshuffle:
        vertical, horizontal = (f.through(named["downscale_factor"], named["downscale_factor"]) for f in seen.axes)
        return Seen(vertical, horizontal, seen.dims)
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
    return str(packet) in ("aten.convolution", "convforge.conv2d")


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
    axes = []
    for a in (0, 1):
        if named.get("transposed"):
            axes.append(transposed_field(seen.axes[a], kernel[a], stride[a], sides[a][0], dilation[a]))
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
    vertical, horizontal = spec.receptive_field(seen.axes, (tensor.shape[-2], tensor.shape[-1]))
    return Seen(vertical, horizontal, seen.dims)


def _adaptively_pooled(seen: Seen, tensor: torch.Tensor, output: torch.Tensor) -> State:
    if not seen.is_map(tensor):
        return Reach.UNKNOWN
    axes = []
    for a in (0, 1):
        size, bins = tensor.shape[a - 2], output.shape[a - 2]
        if bins == 1:
            return Reach.WHOLE
        widest = max(-(-(i + 1) * size // bins) - i * size // bins for i in range(bins))
        axes.append(replace(seen.axes[a].through(widest), jump=cast(int, Fraction(seen.axes[a].jump) * size / bins)))
    return Seen(axes[0], axes[1], seen.dims)


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
    axes = []
    for field, dim in zip(seen.axes, seen.dims, strict=True):
        place = 2 * (tensor.ndim - 1 - dim)
        before = pad[place] if place < len(pad) else 0
        axes.append(field.through(1, 1, before))
    return Seen(axes[0], axes[1], seen.dims)
