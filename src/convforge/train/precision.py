"""Whether this CPU multiplies in bfloat16 itself: where it does not, `--precision bf16` would be slower and no use."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""What Linux calls it on x86-64 and on arm64."""


def check(precision: str) -> None:
    """Raise `UserError` for a precision that the CPU has no instructions for."""
    if precision == "bf16" and not has_bf16():
        raise UserError(
            "this CPU does not multiply in bfloat16, so --precision bf16 would only be slower; leave it out."
        )


def has_bf16() -> bool:
    """Whether the CPU says so; False where it cannot be asked."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in words for flag in _FLAGS)
