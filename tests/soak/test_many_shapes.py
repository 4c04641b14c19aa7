"""Thousands of shapes in one process: what is kept for each is bounded, in number and so in memory."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest
import torch

import convforge
from convforge.engine import passes
from convforge.pytorch import plain, plans

from .conftest import Soak

STATUS = Path("/proc/self/status")
KEPT = 4096
"""Entries of each cache of calls, and of each pass in that of the passes."""
CACHES = {
    plain._plain_plan: KEPT, plans.forward_plan: KEPT, plans.input_gradient_plan: KEPT,
    plans.weight_gradient_plan: KEPT, passes._prepared: 3 * KEPT,
}  # fmt: skip
A_SHAPE = 100_000
"""Bytes that a shape may take in all caches together, for all passes: programs of a few thousand numbers."""


def resident() -> int:
    gc.collect()
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def train(height: int, width: int, channels: int) -> None:
    """All passes, and one that is not recorded, on memory so small that it is not what is measured."""
    x = torch.ones(1, channels, height, width, requires_grad=True)
    w = torch.ones(4, channels, 3, 3, requires_grad=True)
    y = convforge.conv2d(x, w, padding=1)
    dx, dw = torch.autograd.grad(y, (x, w), torch.ones_like(y))
    with torch.no_grad():
        again = convforge.conv2d(x, w, padding=1)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    for result in (y, again):
        torch.testing.assert_close(result[inner], torch.full_like(result[inner], 9 * channels))
    torch.testing.assert_close(dx[inner], torch.full_like(dx[inner], 9 * 4))
    torch.testing.assert_close(dw[:, :, 1, 1], torch.full((4, channels), float(height * width)))


@pytest.mark.skipif(not STATUS.exists(), reason="reads the process's memory in /proc")
def test_many_shapes_in_bounded_memory(soak: Soak) -> None:
    for cached, most in CACHES.items():
        assert cached.cache_info().maxsize == most
    count = soak.length(300, 6000)
    shapes = [(h, w, c) for h in range(4, 44) for w in range(4, 44) for c in (1, 2, 3, 5)]
    random.Random(1).shuffle(shapes)
    for shape in shapes[-30:]:  # the kernels are compiled, the allocator has its memory
        train(*shape)
    before = resident()
    full = 0
    for n, shape in enumerate(shapes[:count]):
        with soak.case(shape):
            train(*shape)
        if n + 1 == KEPT:
            full = resident()
    grown = resident() - before
    soak.figure("grown by, in MB", f"{grown / 1e6:.0f}")
    soak.figure("a shape, in KB", f"{grown / min(count, KEPT) / 1e3:.1f}")
    assert all(cached.cache_info().currsize <= most for cached, most in CACHES.items())
    assert grown <= min(count, KEPT) * A_SHAPE + (8 << 20)
    if full:
        more = resident() - full
        soak.figure("grown once the caches are full, in MB", f"{more / 1e6:.0f}")
        assert more <= 12 << 20, "what leaves the caches makes room"
