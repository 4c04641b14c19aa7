"""How tensors lie in memory: their memory format, by PyTorch's rules, and whether their memory holds all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import Sizes

try:  # what compiled programs of torch's own call: not through the dispatcher, in half the time
    empty_strided: Any = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
except AttributeError:

    def empty_strided(shape: Sizes, strides: Sizes, dtype: torch.dtype) -> Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype)


def is_channels_last(t: Tensor) -> bool:
    """Whether torch would call this channels_last when it chooses an output's memory format: its strides are those of
    NHWC and of nothing else (the rule of `suggest_memory_format`)."""
    return is_nhwc(t.shape, t.stride())


def is_nhwc(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """`is_channels_last`, by shape and strides."""
    n, c, h, w = strides
    if not c <= w <= h <= n or (n == c and n > 0 and shape[1] > 1):
        return False
    floor = 0
    for size, step, batch in ((shape[1], c, 0), (shape[3], w, 0), (shape[2], h, 0), (shape[0], n, 1)):
        if size == 0 or step < floor or (batch and floor == c):
            return False
        floor = step * size if size > 1 else step
    return c > 0


def memory_format(channels_last: bool) -> torch.memory_format:
    """By PyTorch's name."""
    return torch.channels_last if channels_last else torch.contiguous_format


def in_format(t: Tensor, channels_last: bool) -> Tensor:
    """The same numbers in a memory format; the tensor itself, if it has that already."""
    return t.contiguous(memory_format=memory_format(channels_last))


def dense_strides(shape: Sizes, channels_last: bool) -> Sizes:
    """The strides of a new tensor."""
    return torch.empty(shape, device="meta", memory_format=memory_format(channels_last)).stride()


def extent_of(shape: Sizes, strides: Sizes, dtype: torch.dtype) -> int:
    """Bytes from the first to behind the last number."""
    return (1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))) * dtype.itemsize


def located(t: Tensor, extent: int, itemsize: int) -> tuple[int, torch.UntypedStorage]:
    """Where its first number lies, and in what memory. Raises where that does not hold all of its numbers, which torch
    allows (`untyped_storage().resize_`)."""
    storage = t.untyped_storage()
    held, wanted = storage.nbytes(), t.storage_offset() * itemsize + extent
    if held < wanted:
        raise RuntimeError(
            f"a tensor of shape {tuple(t.shape)} needs {wanted:,} bytes of memory, and its storage has {held:,}: "
            "it was freed or made smaller; give it memory again, or make a copy before that is done."
        )
    return t.data_ptr(), storage


def check_memory(*tensors: Tensor | None) -> None:
    """As `located`, before copies are made of them."""
    for t in tensors:
        if t is not None and t.numel():
            located(t, extent_of(t.shape, t.stride(), t.dtype), t.itemsize)
