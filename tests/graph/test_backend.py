"""`torch.compile(model, backend="convforge")`."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch import nn

import convforge
from convforge.bench.networks.published import PUBLISHED
from convforge.pytorch import fusing


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


# --- training: batch norm, sum and activation as one ------------------------------------------------------------------


class Block(nn.Module):
    """A residual block of the ResNets, with all that may follow a batch norm."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.skip = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.relu, self.relu6, self.silu = nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "resnet":
            y, other = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))), self.skip(x)
            y += other
            return self.relu(y)
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        if self.how == "reversed":
            return torch.relu(torch.add(self.skip(x), y))
        if self.how == "read twice":
            return self.relu6(y) + y.sigmoid()
        if self.how == "activations":
            return self.silu(self.bn1(self.conv2(self.relu6(y)))) + nn.functional.hardswish(self.skip(x))
        if self.how == "written between":
            z = self.conv1(x)
            y, z = self.bn1(z), z.mul_(2)  # batch norm has read z before
            return torch.relu(y + z)
        if self.how == "with itself":
            return torch.relu(y + y)
        if self.how == "broadcast":
            return torch.relu(y + y.new_ones(6, 1, 1))
        return nn.functional.silu(y + self.skip(x), inplace=True)


FUSED = {
    "resnet": [("relu", False), ("relu", True), ("", False)],
    "reversed": [("relu", False), ("relu", True), ("", False)],
    "read twice": [("relu", False), ("", False)],
    "activations": [("relu", False), ("relu6", False), ("silu", False), ("hardswish", False)],
    "written between": [("relu", False), ("", False)],
    "with itself": [("relu", False), ("", False)],
    "broadcast": [("relu", False), ("", False)],
    "silu": [("relu", False), ("", True), ("", False)],
}
"""Activation, and whether there is a residual, of each call."""


@pytest.mark.parametrize("how", FUSED)
def test_batch_norms_take_what_follows(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []
    real = fusing.batch_norm

    def noted(*args: Any, residual: Any = None, activation: str = "", **given: Any) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            calls.append((activation, residual is not None))
        return real(*args, residual=residual, activation=activation, **given)

    monkeypatch.setattr(fusing, "batch_norm", noted)
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = Block(how).double()
    ours = copy.deepcopy(plain)
    images = torch.randn(2, 3, 5, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    results = []
    for model in (plain, torch.compile(ours, backend="convforge", fullgraph=True)):
        x = images.clone().requires_grad_()
        if how == "written between":  # torch refuses the gradient of what is written to
            with torch.no_grad():
                results.append((model(x).detach(), x))
        else:
            y = model(x)
            (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            results.append((y.detach(), x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9)
    for b, c in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(b, c)
    assert how == "written between" or sorted(set(calls)) == sorted(set(FUSED[how]))


def test_a_training_run_follows_torchs() -> None:
    """The loss curve of 30 steps in float64, with every buffer and parameter at its end; and a call in eval mode."""
    torch.manual_seed(0)
    plain = nn.Sequential(Block("resnet"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).double()
    ours = copy.deepcopy(plain)
    images, labels = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.arange(8) % 3
    images = images.to(memory_format=torch.channels_last)
    curves = []
    for model, of in ((plain, plain), (torch.compile(ours, backend="convforge", fullgraph=True), ours)):
        optimizer, losses = torch.optim.SGD(of.parameters(), 0.1, momentum=0.9), []
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        model.eval()
        with torch.no_grad():
            losses.append(model(images).sum())
        curves.append(torch.stack(losses))
    assert curves[0][29] < curves[0][0] / 2
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-7, atol=1e-9)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_gradients_of_whole_networks(name: str) -> None:
    """In float64, so that no number near 0 lies on the other side of a ReLU: a single one is 1e-3 of a gradient."""
    torch.manual_seed(0)
    plain = PUBLISHED[name]().double().to(memory_format=torch.channels_last)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours, optimized = copy.deepcopy(plain), convforge.optimize(plain)
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64).to(memory_format=torch.channels_last)
    labels = torch.tensor([3, 5])
    for model in (plain, torch.compile(ours, backend="convforge", fullgraph=True), optimized):
        nn.functional.cross_entropy(model(images), labels).backward()
    for model in (ours, optimized):
        for (key, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert (p.grad - q.grad).norm() <= 1e-8 * q.grad.norm() + 1e-12, key
        for b, c in zip(model.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(b, c)
