"""`conv2d` and `conv_transpose2d`, the functions with torch's signatures.

What the engine does not take (other devices, complex or integer numbers, arguments that are wrong) goes to torch's own
function, which computes it or raises the error that torch's users know.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..spec import PADDING_RULES, Sides
from . import by_torch
from .arguments import as_pair, resolve_padding, sizes_fit, transposed_pads, transposed_size, transposed_sizes_fit
from .operators import forward_op, transposed_op
from .plain import plain_call, plain_transposed_call


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | Sequence[Sequence[int]] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` on convforge's engine: same arguments, shapes, errors, memory formats and gradients.

    Args:
        input: `(N, C, H, W)` or `(C, H, W)`.
        weight: `(K, C / groups, kernel height, kernel width)`.
        bias: `(K,)`, or None.
        stride, dilation: an integer or `(vertical, horizontal)`.
        padding: as in torch an integer, `(vertical, horizontal)`, 'valid' or 'same'; beyond torch
            `((top, bottom), (left, right))`, 'same_ceil' and 'same_half' (see `Conv2dSpec`).
        groups: how many independent convolutions the channels are split into.

    Returns:
        `(N, K, H_out, W_out)`, channels_last if the input or the weight is; H_out by `convforge.spec.output_size`.

    Raises:
        SpecError (a RuntimeError): for padding='same' with a stride, naming the two rules to choose from.
        RuntimeError: torch's own, for shapes and numbers that do not fit.

    >>> import torch
    >>> from convforge import conv2d
    >>> conv2d(torch.ones(1, 3, 7, 7), torch.ones(8, 3, 3, 3), stride=2).shape
    torch.Size([1, 8, 3, 3])
    """
    if not torch.compiler.is_compiling():
        at_once = plain_call(input, weight, bias, stride, padding, dilation, groups)
        if at_once is not None:
            return at_once
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if has_torch_function(tensors):
        overridden: Tensor = handle_torch_function(
            conv2d, tensors, input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        return overridden
    steps, gaps = as_pair(stride), as_pair(dilation)
    if steps is None or gaps is None or not all(isinstance(t, Tensor) for t in tensors):
        return by_torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return _traced(input, weight, bias, steps, padding, gaps, groups)
    if weight.dim() != 4 or input.dim() not in (3, 4):
        return by_torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    sides = resolve_padding(padding, (input.shape[-2], input.shape[-1]), weight.shape[2:], steps, gaps)
    if sides is None or not _engine_takes(input, weight, bias, steps, sides, gaps, groups):
        ours = sides is not None and isinstance(padding, str) and padding not in ("valid", "same")
        return by_torch.conv2d(input, weight, bias, stride, sides if ours else padding, dilation, groups)
    image = input if input.dim() == 4 else input.unsqueeze(0)
    if weight.requires_grad and not torch.is_grad_enabled():
        weight = weight.detach()  # the kernels cannot ask whether it is being trained: gradients are always off there
    y: Tensor = forward_op(image, weight, bias, steps, [*sides[0], *sides[1]], gaps, groups)
    return y if input.dim() == 4 else y.squeeze(0)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d` on convforge's engine: same arguments, shapes, errors, memory formats and
    gradients.

    Args:
        input: `(N, C, H, W)` or `(C, H, W)`.
        weight: `(C, K / groups, kernel height, kernel width)`.
        bias: `(K,)`, or None.
        stride, padding, output_padding, dilation: an integer or `(vertical, horizontal)`.
        groups: how many independent transposed convolutions the channels are split into.

    Returns:
        `(N, K, H_out, W_out)`, channels_last if the input or the weight is; H_out by
        `convforge.spec.transposed_output_size`.

    Raises:
        RuntimeError: torch's own, for shapes and numbers that do not fit.

    >>> import torch
    >>> from convforge import conv_transpose2d
    >>> conv_transpose2d(torch.ones(1, 8, 3, 3), torch.ones(8, 3, 3, 3), stride=2).shape
    torch.Size([1, 3, 7, 7])
    """
    how = (stride, padding, output_padding, groups, dilation)
    if not torch.compiler.is_compiling():
        at_once = plain_transposed_call(input, weight, bias, *how)
        if at_once is not None:
            return at_once
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if has_torch_function(tensors):
        overridden: Tensor = handle_torch_function(
            conv_transpose2d, tensors, input, weight, bias, stride=stride, padding=padding,
            output_padding=output_padding, groups=groups, dilation=dilation,
        )  # fmt: skip
        return overridden
    pairs = steps, pads, more, gaps = as_pair(stride), as_pair(padding), as_pair(output_padding), as_pair(dilation)
    if None in pairs or not all(isinstance(t, Tensor) for t in tensors) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return by_torch.conv_transpose2d(input, weight, bias, *how)
    if weight.dim() != 4 or input.dim() not in (3, 4) or not _engine_takes_kind(tensors):
        return by_torch.conv_transpose2d(input, weight, bias, *how)
    b_shape = None if bias is None else bias.shape
    if not transposed_sizes_fit(input.shape, weight.shape, b_shape, steps, pads, more, gaps, groups):
        return by_torch.conv_transpose2d(input, weight, bias, *how)
    image = input if input.dim() == 4 else input.unsqueeze(0)
    if weight.requires_grad and not torch.is_grad_enabled():
        weight = weight.detach()  # as in conv2d
    size = transposed_size(input.shape, weight.shape, steps, pads, more, gaps)
    y: Tensor = transposed_op(image, weight, bias, size, steps, transposed_pads(steps, pads, more), gaps, groups)
    return y if input.dim() == 4 else y.squeeze(0)


conv2d.__module__ = conv_transpose2d.__module__ = "convforge"
# the name that is written into saved programs, wherever this file lies


def _traced(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: Any,
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """The plain operator, for `torch.jit.trace`. To a trace sizes are tensors; that it holds for this size only, where
    'same_ceil' depends on it, is what torch warns of here."""
    if padding in PADDING_RULES and padding not in ("valid", "same"):
        with warnings.catch_warnings():  # a trace keeps the weights, so their size is no news to anybody
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            kernel = (int(w.shape[2]), int(w.shape[3]))
        size = (int(x.shape[-2]), int(x.shape[-1])) if padding == "same_ceil" and max(stride) > 1 else kernel
        padding = resolve_padding(padding, size, kernel, stride, dilation)
    return by_torch.conv2d(x, w, bias, stride, padding, dilation, groups)


_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def _engine_takes(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, sides: Sides, dilation: Any, groups: int
) -> bool:
    """Whether the operators can have it; if not, torch's own convolution knows what to do or to say."""
    if not _engine_takes_kind((x, w) if bias is None else (x, w, bias)):
        return False
    return sizes_fit(x.shape, w.shape, None if bias is None else bias.shape, stride, sides, dilation, groups)


def _engine_takes_kind(tensors: Sequence[Tensor]) -> bool:
    """Whether the operators take such tensors, whatever their sizes."""
    dtype = tensors[0].dtype
    if dtype not in _DTYPES:
        return False
    for t in tensors:
        if t.device.type != "cpu" or t.dtype != dtype or t.layout is not torch.strided:
            return False
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return False  # an exported program is for others: it holds the plain convolution
    return not (_under_functorch() or _has_tangent(tensors))  # vmap and forward-mode derivatives are torch's


def _under_functorch() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


# A compiler asks while it traces and keeps the answer: the question itself is no part of the graph. (This is all that
# torch.compiler.assume_constant_result does, but for importing the whole compiler.)
_under_functorch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    forward_ad: Any = torch.autograd.forward_ad
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
