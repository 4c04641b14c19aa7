"""`Conv2dSpec` and every formula that follows from it: the one place where they are written.

Notation, for one axis (height; width is alike):

    H        input size                 k   kernel size
    p₀, p₁   padding before and after   s   stride
    d        dilation                   k' = d·(k − 1) + 1   the kernel's extent with its gaps

Everything here is exact integer arithmetic on Python's unbounded integers; nothing allocates, so a spec for an image
of a million by a million costs what one for 7×7 costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[Pair, Pair]
"""Padding per side: `((top, bottom), (left, right))`."""

PADDING_RULES = ("valid", "same", "same_ceil", "same_half")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class SpecError(ValueError, RuntimeError):
    """A convolution that cannot be: the message is one sentence with the offending value and the way out.

    It is both a `ValueError` and a `RuntimeError` because PyTorch raises the one from `nn.Conv2d` and the other from
    `nn.functional.conv2d` for the same mistakes, and callers catch either.
    """


_SAME = "use padding='same' to keep the size"


def among_layers(error: SpecError) -> str:
    """What an error says of a layer that has others before it: without some of them it may fit."""
    return str(error).replace(f"{_SAME}.", f"{_SAME}, or fewer layers.")


# ---------------------------------------------------------------------------------------------------------------------
# One axis
# ---------------------------------------------------------------------------------------------------------------------


def ceil_div(a: int, b: int) -> int:
    """⌈a / b⌉.

    >>> ceil_div(7, 3), ceil_div(6, 3), ceil_div(-7, 3)
    (3, 2, -2)
    """
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    """The least multiple of b that is not below a.

    >>> round_up(7, 3), round_up(6, 3)
    (9, 6)
    """
    return ceil_div(a, b) * b


def kernel_extent(kernel: int, dilation: int = 1) -> int:
    """Input positions that a kernel spans: k' = d·(k − 1) + 1.

    >>> kernel_extent(3), kernel_extent(3, dilation=2)
    (3, 5)
    """
    return dilation * (kernel - 1) + 1


def output_size(size: int, kernel: int, stride: int = 1, pad: Pair = (0, 0), dilation: int = 1) -> int:
    """Positions at which the kernel fits: ⌊(H + p₀ + p₁ − k') / s⌋ + 1.

    The result is below 1 where the kernel does not fit; callers that need it to fit use `Conv2dSpec.output_size`.
    The formula is that of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), relation 6,
    with dilation as in their section 5.1.

    >>> output_size(7, 3), output_size(7, 3, stride=2), output_size(7, 3, pad=(1, 1))
    (5, 3, 7)
    """
    return (size + pad[0] + pad[1] - kernel_extent(kernel, dilation)) // stride + 1


def transposed_output_size(
    size: int, kernel: int, stride: int = 1, pad: Pair = (0, 0), dilation: int = 1, output_padding: int = 0
) -> int:
    """Output size of the transposed convolution: (H − 1)·s − p₀ − p₁ + k' + output_padding.

    >>> transposed_output_size(3, 3, stride=2)
    7
    """
    return (size - 1) * stride - pad[0] - pad[1] + kernel_extent(kernel, dilation) + output_padding


def same_pad(kernel: int, dilation: int = 1) -> Pair:
    """Padding that keeps the size at stride 1: k' − 1 in all, the odd one after (PyTorch's and TensorFlow's rule).

    >>> same_pad(3), same_pad(4)
    ((1, 1), (1, 2))
    """
    total = kernel_extent(kernel, dilation) - 1
    return total // 2, total - total // 2


def same_half_pad(kernel: int, dilation: int = 1) -> Pair:
    """The lesson's rule: ⌊k'/2⌋ zeros on both sides, whatever the stride.

    >>> same_half_pad(3), same_half_pad(4)
    ((1, 1), (2, 2))
    """
    half = kernel_extent(kernel, dilation) // 2
    return half, half


def same_ceil_pad(size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """TensorFlow's SAME (ONNX's SAME_UPPER): as much as makes the output ⌈H/s⌉, the odd one after.

    >>> same_ceil_pad(224, 3, stride=2), same_ceil_pad(7, 3, stride=2)
    ((0, 1), (1, 1))
    """
    out = ceil_div(size, stride)
    total = max(0, (out - 1) * stride + kernel_extent(kernel, dilation) - size)
    return total // 2, total - total // 2


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What one unit sees along one axis: `size` input positions, of which the first is at `start` for unit 0;
    neighbouring units are `jump` positions apart.

    Follows Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019).

    >>> seen = ReceptiveField()
    >>> for kernel, stride in [(3, 1), (3, 2), (3, 1)]:
    ...     seen = seen.through(kernel, stride)
    >>> seen.size, seen.jump
    (9, 2)
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def through(self, kernel: int, stride: int = 1, pad_before: int = 0, dilation: int = 1) -> ReceptiveField:
        """The field of a unit one convolution or pooling later: size + (k' − 1)·jump, jump·s, start − p₀·jump."""
        return ReceptiveField(
            size=self.size + (kernel_extent(kernel, dilation) - 1) * self.jump,
            jump=self.jump * stride,
            start=self.start - pad_before * self.jump,
        )

    def merged(self, other: ReceptiveField) -> ReceptiveField:
        """The field of a unit that reads two paths (a skip that is added or concatenated): from the earlier start to
        the later end. The paths meet at equal strides, so the jumps agree; the larger one counts if they do not."""
        start = min(self.start, other.start)
        end = max(self.start + self.size, other.start + other.size)
        return ReceptiveField(size=end - start, jump=max(self.jump, other.jump), start=start)


# ---------------------------------------------------------------------------------------------------------------------
# Reading what users write
# ---------------------------------------------------------------------------------------------------------------------


def as_pair(value: Any, name: str, minimum: int = 1) -> Pair:
    """An integer, or one integer an axis, as `(vertical, horizontal)`.

    Raises `SpecError` that names the argument if it is something else or below `minimum`.
    """
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(items) == 1:
        items = items * 2
    if len(items) != 2 or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in items):
        raise SpecError(f"{name} must be an integer or a pair of integers, not {value!r}.")
    pair = (int(items[0]), int(items[1]))
    if min(pair) < minimum:
        raise SpecError(f"{name} must be at least {minimum}, not {value!r}.")
    return pair


def strided_same_error(stride: Pair) -> SpecError:
    return SpecError(
        f"padding='same' is not supported for strided convolutions (stride is {stride}), because two rules are in use: "
        "choose 'same_ceil' for TensorFlow's, which pads as much as makes the output ⌈H/s⌉ (the odd row at the bottom "
        "and right), or 'same_half' for ⌊k/2⌋ on every side, which is what PyTorch models mean by padding=k//2."
    )


def as_padding(padding: Any, kernel: Pair, stride: Pair, dilation: Pair) -> Sides | str:
    """Padding as sides, or as 'same_ceil', the only rule that needs the input size."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding == "same":
            if stride != (1, 1):
                raise strided_same_error(stride)
            return same_pad(kernel[0], dilation[0]), same_pad(kernel[1], dilation[1])
        if padding == "same_half":
            return same_half_pad(kernel[0], dilation[0]), same_half_pad(kernel[1], dilation[1])
        if padding == "same_ceil":
            return padding
        raise SpecError(
            f"padding must be an integer, a pair, ((top, bottom), (left, right)), or one of 'valid', 'same', "
            f"'same_ceil' and 'same_half', not {padding!r}."
        )
    if isinstance(padding, Sequence) and len(padding) == 2 and all(isinstance(p, Sequence) for p in padding):
        top_bottom = as_pair(padding[0], "padding", minimum=0)
        left_right = as_pair(padding[1], "padding", minimum=0)
        return top_bottom, left_right
    vertical, horizontal = as_pair(padding, "padding", minimum=0)
    return (vertical, vertical), (horizontal, horizontal)


# ---------------------------------------------------------------------------------------------------------------------
# The spec
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv2dSpec:
    """One convolutional layer: channels, kernel, stride, padding, dilation, groups. Everything else is derived.

    Args:
        in_channels, out_channels: channels of the input and output, in all groups together.
        kernel_size, stride, dilation: an integer, or `(vertical, horizontal)`.
        padding: an integer; `(vertical, horizontal)`; `((top, bottom), (left, right))`; or a rule by name:
            'valid' (none), 'same' (stride 1 only: output size = input size), 'same_ceil' (output ⌈H/s⌉, TensorFlow's
            SAME) or 'same_half' (⌊k/2⌋ on each side). After construction it is the pair of sides, or 'same_ceil',
            the one rule that depends on the input size: `sides()` resolves it.
        groups: how many independent convolutions the channels are split into.
        bias: whether one number is added to each output channel.
        padding_mode: what stands beyond the border: 'zeros', 'reflect', 'replicate' or 'circular'.

    Raises:
        SpecError: with the offending value and the way out.

    >>> spec = Conv2dSpec(3, 64, 3, padding="same", bias=False)
    >>> spec.output_size((224, 224)), spec.parameters
    ((224, 224), 1728)
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Sides | str = field(default=((0, 0), (0, 0)))
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    # The dataclass's generated signature would promise the normalised types; users may write the loose ones.
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] | Sequence[Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
                raise SpecError(f"{name} must be a positive integer, not {value!r}.")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups:
                raise SpecError(f"{name}={value} cannot be split into groups={groups}: choose a divisor of {value}.")
        if padding_mode not in PADDING_MODES:
            raise SpecError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, not {padding_mode!r}.")
        kernel, steps = as_pair(kernel_size, "kernel_size"), as_pair(stride, "stride")
        gaps = as_pair(dilation, "dilation")
        values: dict[str, object] = {
            "in_channels": int(in_channels),
            "out_channels": int(out_channels),
            "kernel_size": kernel,
            "stride": steps,
            "padding": as_padding(padding, kernel, steps, gaps),
            "dilation": gaps,
            "groups": int(groups),
            "bias": bool(bias),
            "padding_mode": padding_mode,
        }
        for attribute, normalised in values.items():
            object.__setattr__(self, attribute, normalised)

    # --- size ---------------------------------------------------------------------------------------------------------

    def sides(self, input_size: Pair) -> Sides:
        """Padding as `((top, bottom), (left, right))` for an input of `(H, W)`.

        >>> Conv2dSpec(3, 8, 3, stride=2, padding="same_ceil").sides((224, 7))
        ((0, 1), (1, 1))
        """
        if not isinstance(self.padding, str):
            return self.padding
        vertical, horizontal = (
            same_ceil_pad(input_size[a], self.kernel_size[a], self.stride[a], self.dilation[a]) for a in (0, 1)
        )
        return vertical, horizontal

    def output_size(self, input_size: Pair) -> Pair:
        """`(H_out, W_out)` for an input of `(H, W)`; ⌊(H + p₀ + p₁ − k') / s⌋ + 1 on each axis.

        Raises `SpecError` with the formula filled in where the kernel does not fit, and where reflection or wrapping
        would need more rows than the image has.

        >>> Conv2dSpec(1, 1, 3, stride=2).output_size((7, 7))
        (3, 3)
        >>> Conv2dSpec(1, 1, 3).output_size((1, 1))  # doctest: +NORMALIZE_WHITESPACE
        Traceback (most recent call last):
        ...
        convforge.spec.SpecError: a 3×3 kernel cannot be applied to a 1×1 input: H_out = ⌊(1 + 0 + 0 − 3) / 1⌋ + 1 = -1;
        use padding='same' to keep the size.
        """
        sides = self.sides(input_size)
        limits = {"reflect": -1, "circular": 0}
        result = []
        for axis, letter in ((0, "H"), (1, "W")):
            size, pad = input_size[axis], sides[axis]
            kernel, step, gap = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            if self.padding_mode in limits and max(pad) > size + limits[self.padding_mode]:
                raise SpecError(
                    f"padding {max(pad)} with padding_mode={self.padding_mode!r} needs {letter} ≥ "
                    f"{max(pad) - limits[self.padding_mode]}, but the input is {input_size[0]}×{input_size[1]}."
                )
            out = output_size(size, kernel, step, pad, gap)
            if out < 1:
                extent = kernel_extent(kernel, gap)
                extents = "×".join(
                    str(kernel_extent(k, d)) for k, d in zip(self.kernel_size, self.dilation, strict=True)
                )
                what = f"{self.kernel_size[0]}×{self.kernel_size[1]} kernel"
                if self.dilation != (1, 1):
                    what += f" (dilated to {extents})"
                raise SpecError(
                    f"a {what} cannot be applied to a {input_size[0]}×{input_size[1]} input: "
                    f"{letter}_out = ⌊({size} + {pad[0]} + {pad[1]} − {extent}) / {step}⌋ + 1 = {out}; {_SAME}."
                )
            result.append(out)
        return result[0], result[1]

    def receptive_field(
        self, before: tuple[ReceptiveField, ReceptiveField], input_size: Pair
    ) -> tuple[ReceptiveField, ReceptiveField]:
        """What one unit of the output sees, per axis, given what one unit of the input saw."""
        sides = self.sides(input_size)
        vertical, horizontal = (
            before[a].through(self.kernel_size[a], self.stride[a], sides[a][0], self.dilation[a]) for a in (0, 1)
        )
        return vertical, horizontal

    # --- cost ---------------------------------------------------------------------------------------------------------

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """`(out_channels, in_channels / groups, kernel height, kernel width)`."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def weights(self) -> int:
        """Numbers in the kernels: K · C/g · k · k.

        >>> Conv2dSpec(3, 64, 3).weights
        1728
        """
        out, per_group, kh, kw = self.weight_shape
        return out * per_group * kh * kw

    @property
    def parameters(self) -> int:
        """Weights, and one bias an output channel where the layer has a bias."""
        return self.weights + (self.out_channels if self.bias else 0)

    def macs(self, input_size: Pair, batch: int = 1) -> int:
        """Multiply-accumulates of one forward pass: every weight meets every output position once.

        The convention: N · H_out · W_out · K · C/g · k · k. Products with padded zeros count (they are in the sum),
        gaps of a dilated kernel do not (there is no weight), the bias does not (it is an addition). Twice this is the
        figure of `torch.utils.flop_counter.FlopCounterMode`.

        >>> Conv2dSpec(3, 64, 3, padding=1).macs((224, 224))
        86704128
        """
        height, width = self.output_size(input_size)
        return batch * height * width * self.weights

    def transposed_macs(self, input_size: Pair, batch: int = 1) -> int:
        """Multiply-accumulates of `ConvTranspose2d` with these settings: every weight meets every *input* position.

        Here `in_channels` are those that go into the transposed convolution.
        """
        kernel = self.kernel_size[0] * self.kernel_size[1]
        return batch * input_size[0] * input_size[1] * self.in_channels * (self.out_channels // self.groups) * kernel

    def activation_bytes(self, input_size: Pair, batch: int = 1, itemsize: int = 4) -> int:
        """Bytes of the output feature maps."""
        height, width = self.output_size(input_size)
        return batch * self.out_channels * height * width * itemsize

    # --- what sharing saves -------------------------------------------------------------------------------------------

    def dense_weights(self, input_size: Pair) -> int:
        """Weights of a fully connected layer that makes the same maps: every input number to every output number.

        >>> Conv2dSpec(3, 64, 3, padding="same").dense_weights((224, 224))
        483385147392
        """
        height, width = self.output_size(input_size)
        return dense_weights((self.in_channels, *input_size), self.out_channels * height * width)


LESSON_NEURONS = 1000
"""Neurons of the fully connected layer that the lesson compares a convolution with: 1000 classes of ImageNet."""


def dense_weights(input_shape: tuple[int, int, int], neurons: int) -> int:
    """Weights of a fully connected layer from an image `(C, H, W)` to `neurons`: C · H · W · neurons.

    >>> dense_weights((3, 224, 224), 1000)
    150528000
    """
    channels, height, width = input_shape
    return channels * height * width * neurons
