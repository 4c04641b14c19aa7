"""bfloat16 and float16: whether PyTorch's own convolution computes them faster than the engine, which has float32 only.

The engine computes 16-bit numbers in float32 and rounds the result. Where the CPU multiplies them itself (AMX, or
AVX-512's dot products), oneDNN does twice as many products a second as in float32, and so PyTorch's convolution is the
faster one; where it does not, PyTorch takes 4 to 60 times as long as the engine, but for layers so small that the
conversions are what takes time. (Measured on a Zen 1, which has neither: 64→64 channels, 3×3, 56×56 in bfloat16: 64 ms
by PyTorch, 2.1 ms here.)
"""

from __future__ import annotations

from functools import cache

import torch

from .by_engine import cpu_features

_INSTRUCTIONS = {
    torch.bfloat16: {"avx512bf16", "amx-bf16"},
    torch.float16: {"avx512fp16", "amx-fp16"},
}
"""Of x86; any of them will do. (oneDNN's own kernels for arm64 are not in every build of torch.)"""

FEW_MACS = 60_000
"""Below that, three conversions of a few microseconds are more than what they save."""


def torch_is_faster(dtype: torch.dtype, macs: int) -> bool:
    """Whether a convolution of so many multiply-adds had better go to torch."""
    return macs < FEW_MACS or has_instructions(dtype)


@cache
def has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies such numbers itself, and torch makes use of that."""
    if not _INSTRUCTIONS[dtype] & cpu_features():
        return False
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return torch._C._has_mkldnn and bool(supported[dtype]())
