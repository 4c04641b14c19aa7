"""Modules followed without torch.export: the same graph, for other batches, too, or none; and no compiler is loaded.

`test_capture.py` compares what every operator means, in both ways.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convforge.graph.capture import capture, captured
from convforge.graph.tracing import CannotTrace, traced


class Says(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.says = forward

    def forward(self, x: Tensor) -> Any:
        return self.says(x)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.GroupNorm(2, 6),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(36, 5),
    ).eval()


def test_a_network_is_the_one_that_torch_exports() -> None:
    model, x = network(), torch.randn(1, 3, 20, 20)
    mine, torchs = captured(model, x, compared=True).graph, capture(model, x)
    assert [(n.operation, n.inputs[1:]) for n in mine.nodes] == [(n.operation, n.inputs[1:]) for n in torchs.nodes]
    assert mine.sources == torchs.sources
    assert list(mine.inputs.values()) == [(1, 3, 20, 20)]
    assert list(mine.fixed.values()) == [(1, 2, 3)]
    assert all(np.shares_memory(mine.constants[name], torchs.constants[name]) for name in mine.constants)


def test_the_example_may_have_any_batch() -> None:
    for batch in (1, 2, 5):
        graph = captured(network(), torch.randn(batch, 3, 20, 20), compared=True).graph
        assert graph.with_input((7, 3, 20, 20)).shapes()[graph.outputs[0]] == (7, 5)


def decided(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2)


FURTHER_THAN_THIS: list[Callable[[Tensor], Any]] = [
    decided,
    by_numpy,
    lambda x: x * (1 / x.shape[0]),
    lambda x: x * 2 if x.shape[0] % 2 else x,
    lambda x: torch.stack([image * 2 for image in x]),
    lambda x: x.reshape(x.shape[0] + 1, -1) if x.shape[0] == 2 else x,
    lambda x: torch.zeros(x.shape[0] ** 2, 3),
    lambda x: x.mean(2).squeeze(),
    lambda x: (x, 3),
]


@pytest.mark.parametrize("says", FURTHER_THAN_THIS)
def test_what_is_out_of_the_ordinary_is_left_to_torch(says: Callable[[Tensor], Any]) -> None:
    with pytest.raises((CannotTrace, RuntimeError, NotImplementedError)):
        traced(Says(says), [torch.ones(2, 3, 4)])
    assert not torch.compiler.is_exporting()
    assert not torch.compiler.is_compiling()


def test_no_compiler_is_loaded() -> None:
    """torch's compiler and its computer algebra take longer to import than a network takes from there to its answer."""
    code = """
import sys, torch, convforge
from torch import nn
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8),
    nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 5),
).eval()
fast = convforge.optimize(model)
with torch.no_grad():
    fast(torch.randn(1, 3, 16, 16))
assert "whole network: " in str(convforge.report(fast)), convforge.report(fast)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr + done.stdout
