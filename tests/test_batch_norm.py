"""`nn.BatchNorm2d`, and the function behind it: torch's in all that can be seen of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convforge
from convforge.pytorch.batch_norm import ACTIVATIONS, batch_norm

CHANNELS = 5
KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "cumulative": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "not affine": {"affine": False, "eps": 0.1},
}


def pair(**how: Any) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Torch's in float64, and ours in float32."""
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(CHANNELS, **how)
    for numbers in (*theirs.parameters(), *(b for b in theirs.buffers() if b.is_floating_point())):
        nn.init.uniform_(numbers, 0.5, 1.5)
    ours = copy.deepcopy(theirs)
    ours.__class__ = convforge.nn.BatchNorm2d
    return theirs.double(), ours


def images(channels_last: bool, n: int = 3, height: int = 7, width: int = 4) -> Tensor:
    x = torch.randn(n, CHANNELS, height, width, generator=torch.Generator().manual_seed(n)) * 3 + 1
    return x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Outputs, gradients and buffers after a call."""
    mine, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = ours(mine), theirs(wide)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert y.stride() == x.stride()
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g.double())
    torch.testing.assert_close(mine.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-4, atol=1e-5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for b, c in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(b.double(), c.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluating(kind: str, channels_last: bool) -> None:
    theirs, ours = pair(**KINDS[kind])
    for n, training in ((3, True), (1, True), (2, False), (2, True)):
        theirs.zero_grad()
        ours.zero_grad()
        assert_same(ours.train(training), theirs.train(training), images(channels_last, n))


def test_the_engine_is_used_where_it_should_be() -> None:
    _, ours = pair()
    of_engine = "_NormBackward"
    x = images(True).requires_grad_()
    assert type(ours(x).grad_fn).__name__ == of_engine
    assert type(ours.double()(x.double()).grad_fn).__name__ == of_engine
    assert type(ours.float()(images(False).requires_grad_()).grad_fn).__name__ != of_engine
    assert type(ours.bfloat16()(x.bfloat16()).grad_fn).__name__ != of_engine


def test_frozen_statistics_and_frozen_weights() -> None:
    theirs, ours = pair()
    for module in (theirs, ours):
        module.eval().requires_grad_(False)
    x = images(True)
    mine, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    before = copy.deepcopy(ours.state_dict())
    ours(mine).square().sum().backward()
    theirs(wide).square().sum().backward()
    torch.testing.assert_close(mine.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())
    assert all(p.grad is None for p in ours.parameters())


def test_one_number_a_channel_is_refused_as_by_torch() -> None:
    theirs, ours = pair()
    x = torch.ones(1, CHANNELS, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(x.double())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(x)
    with pytest.raises(ValueError, match="expected 4D"):
        ours(x[0])


def test_gradients_that_lie_otherwise() -> None:
    """Expanded by a mean, contiguous, and of one pixel each."""
    theirs, ours = pair()
    for reduced in (lambda y: y.mean(), lambda y: (y.contiguous() * images(False)).sum()):
        mine, wide = images(True).requires_grad_(), images(True).double().requires_grad_()
        reduced(ours(mine)).backward()
        reduced(theirs(wide)).backward()
        torch.testing.assert_close(mine.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    assert_same(*reversed(pair()), images(True, 4, 1, 1))


def test_a_tensor_without_all_of_its_memory_is_refused() -> None:
    _, ours = pair()
    x = images(True)
    x.untyped_storage().resize_(16)
    with pytest.raises(RuntimeError, match="bytes of memory"):
        ours(x)


def test_scripts_files_graphs_and_transforms() -> None:
    _, ours = pair()
    ours.eval()
    x = images(True)
    expected = ours(x)
    torch.testing.assert_close(torch.jit.script(ours)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(ours))(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(ours))(x), expected)
    torch.testing.assert_close(torch.vmap(ours)(x[None])[0], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x.bfloat16()).dtype is torch.bfloat16


def test_optimize_swaps_and_report_counts() -> None:
    class Other(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), Other(CHANNELS), nn.BatchNorm1d(4))
    fast = convforge.optimize(model)
    assert [type(module) for module in fast] == [
        convforge.nn.Conv2d, convforge.nn.BatchNorm2d, Other, nn.BatchNorm1d
    ]  # fmt: skip
    assert type(model[1]) is nn.BatchNorm2d
    assert fast.state_dict().keys() == model.state_dict().keys()
    report = convforge.report(fast)
    assert report.batch_norms == 1
    assert "1 batch norm on the engine" in str(report)
    assert convforge.report(model).batch_norms == 0


# --- with what follows ------------------------------------------------------------------------------------------------


def called(activation: str, residual: bool, training: bool) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A function of tensors that require gradients, and these."""

    def wide(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    torch.manual_seed(1)
    x, weight, bias, other = wide(2, 3, 2, 2), wide(3), wide(3), wide(2, 3, 2, 2)
    x, other = (t.to(memory_format=torch.channels_last) for t in (x, other))

    def function(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor) -> Tensor:
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        return batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5, *residual, activation=activation)

    given = (x, weight, bias, other) if residual else (x, weight, bias)
    return function, tuple(t.requires_grad_() for t in given)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("activation", "residual"), [*((a, False) for a in ACTIVATIONS), ("", True), ("relu", True)])
def test_derivatives_and_theirs(activation: str, residual: bool, training: bool) -> None:
    function, given = called(activation, residual, training)
    assert type(function(*given).grad_fn).__name__ == "_NormBackward"
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_the_engine_and_torch_agree() -> None:
    for activation, residual in (("relu", True), ("silu", False)):
        function, given = called(activation, residual, True)
        plain = function(*(t.contiguous() for t in given))
        assert type(plain.grad_fn).__name__ != "_NormBackward"
        torch.testing.assert_close(function(*given), plain)
