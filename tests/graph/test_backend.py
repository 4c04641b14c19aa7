"""`torch.compile(model, backend="convforge")`."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

import convforge


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="circular", groups=4),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def test_the_backend_is_found_by_name() -> None:
    assert "convforge" in {point.name for point in entry_points(group="torch_dynamo_backends")}
    assert "convforge" in torch._dynamo.list_backends()


def test_same_results_and_gradients_through_the_engine(model: nn.Module) -> None:
    images = torch.randn(4, 3, 8, 8)
    model(images).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    fast = torch.compile(model, backend="convforge", fullgraph=True)
    fast(images).square().sum().backward()
    with torch.profiler.profile() as profile:  # the second time, when nothing is traced
        fast(images)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)
    operators = {event.key for event in profile.key_averages()}
    assert "convforge::conv2d" in operators
    assert not {name for name in operators if name.startswith("aten::") and "conv" in name}
    assert all(type(m) is not convforge.nn.Conv2d for m in model.modules())
