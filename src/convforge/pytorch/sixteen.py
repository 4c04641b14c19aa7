"""bfloat16 and float16: whether PyTorch's own convolution computes them faster than the engine, which has float32 only.

The engine computes 16-bit numbers in float32 and rounds the result. Where the CPU multiplies them itself (AMX, or
AVX-512's dot products), oneDNN does twice as many products a second as in float32, and so PyTorch's convolution is the
faster one. Where it does not, PyTorch takes 4 to 60 times as long as the engine, and adds up in 16 bits: gradients of a
bfloat16 convolution are off by 5 % in places. (Measured on a Zen 1, which has neither: 64→64 channels, 3×3, 56×56 in
bfloat16 take 64 ms by PyTorch and 2.1 ms here. Only layers of a few thousand products are quicker there, by the time of
three conversions, and those are computed here all the same.)
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


def torch_is_faster(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies such numbers itself, and torch makes use of that."""
    return torch._C._get_mkldnn_enabled() and multiplied_here(dtype)


@cache
def multiplied_here(dtype: torch.dtype) -> bool:
    """Whether the CPU and oneDNN do."""
    if not _INSTRUCTIONS[dtype] & cpu_features():
        return False
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return torch._C._has_mkldnn and bool(supported[dtype]())
