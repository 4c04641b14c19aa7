"""Calls that were seen before are known again where they are the same, and only there."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convforge
from convforge.pytorch import guards, plain


@pytest.fixture(params=["guards", "none"], autouse=True)
def with_guards_or_without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without them everything is as right, and slower."""
    assert guards._TRIED, "torch's guards have changed"
    monkeypatch.setattr(guards, "_TRIED", request.param == "guards")
    plain._seen.clear()
    yield
    plain._seen.clear()


def new(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(shape, requires_grad=grad)


def agree(x: Tensor, w: Tensor, bias: Tensor | None = None, *how: Any, penalty: bool = False) -> None:
    """Result and gradients are torch's; with a `penalty`, those of the gradients, too."""
    found = []
    leaves = [t for t in (x, w, bias) if t is not None and t.requires_grad]
    for function in (convforge.conv2d, F.conv2d):
        y = function(x, w, bias, *how)
        results = [y.detach()]
        if y.requires_grad:
            first = torch.autograd.grad(y.square().sum(), leaves, create_graph=penalty)
            results += [t.detach() for t in first]
            if penalty:
                results += torch.autograd.grad(sum(t.square().sum() for t in first), leaves)
        found.append(results)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
        assert ours.stride() == theirs.stride() or ours.shape == theirs.shape


def test_a_guard_tells_and_keeps_nothing_alive() -> None:
    x, w = new(1, 3, 4, 4), new(2, 3, 1, 1)
    check = guards.guard_of(x, w)
    if check is None:
        return
    assert check(x, w)
    assert check(new(1, 3, 4, 4), w)
    assert not check(w, x)
    assert not check(x, x)
    end = weakref.ref(x)
    del x
    gc.collect()
    assert end() is None


def test_a_guard_that_cannot_tell_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert guards._on_a_thread_of_its_own()
    monkeypatch.setattr(guards, "_by_torch", lambda tensors: lambda *_: True)
    assert not guards._on_a_thread_of_its_own()
    monkeypatch.undo()
    monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    assert not guards._on_a_thread_of_its_own()


def test_one_weight_and_everything_that_can_change_beside_it() -> None:
    w, b = new(8, 4, 3, 3, grad=True), new(8, grad=True)
    x = new(2, 4, 9, 9)
    last = x.contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        for grad in (True, False, True):
            with torch.set_grad_enabled(grad):
                for case in (x, x, x.clone().requires_grad_(), last, new(1, 4, 9, 9), new(2, 4, 7, 11), x[:, :, 1:]):
                    for bias in (None, b, b.detach(), None):
                        agree(case, w, bias)
                        agree(case, w.detach(), bias, 1, 1)
                    for how in ((1, 1), ((1, 1), (1, 1)), (2, 1), (1, "same"), (1, 1, 2), ([1, 1], [0, 1])):
                        agree(case, w, b, *how)
        with torch.no_grad():
            agree(x.double(), w.double(), b.double())
            for t in (x, w, b):
                t.data = t.data * 2
        b.requires_grad_(not b.requires_grad)


def test_weights_whose_data_become_others() -> None:
    w, x = new(8, 4, 3, 3), new(1, 4, 6, 6)
    for data in (
        new(8, 4, 3, 3),
        new(5, 4, 3, 3),
        new(5, 4, 1, 2),
        new(5, 4, 2, 1).mT,
        new(4, 4, 1, 1).expand(4, 4, 2, 2),
    ):
        for _ in range(3):
            agree(x, w)
        w.data = data
        agree(x, w)


def test_sizes_that_come_in_turn_are_all_known(monkeypatch: pytest.MonkeyPatch) -> None:
    w, images = new(8, 4, 3, 3), [new(1, 4, 5 + n, 6) for n in range(5)]
    for x in images * 2:
        agree(x, w)
    if guards._TRIED:
        monkeypatch.setattr(plain, "_look", None)
    for x in images * 3:
        agree(x, w)


def test_what_is_no_tensor_is_refused_as_by_torch() -> None:
    x, w = new(1, 4, 6, 6), new(8, 4, 3, 3)
    for _ in range(2):
        agree(x, w)
        wrong: Any
        for wrong in (x.tolist(), x.numpy(), None, 3):
            for arguments in ((wrong, w), (x, wrong), (x, w, wrong)):
                if not (wrong is None and len(arguments) == 3):
                    with pytest.raises(TypeError):
                        convforge.conv2d(*arguments)


def test_ids_that_come_back() -> None:
    x = new(1, 4, 9, 9, grad=True)
    for n in range(60):
        agree(x, new(4 + n % 3, 4, 1 + n % 2, 1 + n % 4, grad=n % 5 == 0), None, 1, n % 2)


def test_the_same_tensor_as_input_and_weight() -> None:
    t = new(3, 3, 3, 3, grad=True)
    for _ in range(3):
        agree(t, t, None, 1, 1)


def test_gradients_of_gradients_after_plain_ones() -> None:
    x, w, b = new(2, 3, 6, 6, grad=True), new(4, 3, 3, 3, grad=True), new(4, grad=True)
    for penalty in (False, False, True, False, True):
        y = convforge.conv2d(x, w, b, 1, 1)
        assert y.grad_fn is not None
        agree(x, w, b, 1, 1, penalty=penalty)


def test_gradients_of_all_layouts_and_kinds_come_back() -> None:
    x, w = new(2, 3, 6, 6, grad=True), new(4, 3, 3, 3, grad=True)
    ours, theirs = convforge.conv2d(x, w, None, 1, 1), F.conv2d(x, w, None, 1, 1)
    dense = new(2, 4, 6, 6)
    kinds = [
        dense, dense, dense.contiguous(memory_format=torch.channels_last), torch.ones(()).expand(2, 4, 6, 6),
        dense.mT, torch._neg_view(dense), dense,
    ]  # fmt: skip
    for g in kinds:
        for wanted in ((x, w), (x,), (w,)):
            got = torch.autograd.grad(ours, wanted, g, retain_graph=True)
            should = torch.autograd.grad(theirs, wanted, g, retain_graph=True)
            for a, b in zip(got, should, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


MODES: dict[str, Callable[[], Any]] = {
    "nothing": nullcontext,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "below autograd": torch._C._AutoDispatchBelowAutograd,
    "anomalies": lambda: torch.autograd.detect_anomaly(check_nan=False),
    "profiler": torch.profiler.profile,
    "a device": lambda: torch.device("cpu"),
    "no subclasses": torch._C.DisableTorchFunctionSubclass,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", MODES)
def test_states_that_come_and_go(name: str) -> None:
    x, w, b = new(2, 4, 6, 6), new(8, 4, 3, 3, grad=True), new(8)
    for _ in range(3):
        usual = convforge.conv2d(x, w, b)
        assert usual.requires_grad
        with MODES[name]():
            for _ in range(2):
                ours, theirs = convforge.conv2d(x, w, b), F.conv2d(x, w, b)
                assert (ours.dtype, ours.requires_grad, ours.is_inference()) == (
                    theirs.dtype, theirs.requires_grad, theirs.is_inference(),
                )  # fmt: skip
                torch.testing.assert_close(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2)


def test_settings_that_change_after_a_backward_pass() -> None:
    x, w = new(1, 16, 12, 12, grad=True), new(16, 16, 3, 3, grad=True)
    threads = torch.get_num_threads()
    y = convforge.conv2d(x, w, None, 1, 1)
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            agree(x, w, None, 1, 1)
            for precision in ("exact", "fast"):
                with convforge.set_precision(precision):  # type: ignore[arg-type]
                    agree(x, w, None, 1, 1)
                    torch.autograd.grad(y.sum(), (x, w), retain_graph=True)
    finally:
        torch.set_num_threads(threads)


def test_memory_that_is_gone_between_two_calls() -> None:
    x, w, b = new(1, 4, 6, 6), new(8, 4, 3, 3), new(8)
    for n in range(3):
        for _ in range(3):
            convforge.conv2d(x, w, b)
        tensors = [x.clone(), w.clone(), b.clone()]
        for _ in range(2):
            convforge.conv2d(*tensors)
        tensors[n].untyped_storage().resize_(16)
        with pytest.raises(RuntimeError, match="its storage has 16:"):
            convforge.conv2d(*tensors)
    x.requires_grad_()
    y = convforge.conv2d(x, w, b)
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    w.untyped_storage().resize_(16)
    with pytest.raises(RuntimeError, match="its storage has 16:"):
        torch.autograd.grad(y.sum(), x)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MOST_PLANS", 5)
    x, weights = new(1, 2, 4, 4), [new(2, 2, 1, 1) for _ in range(12)]
    for w in weights:
        agree(x, w)
        assert len(plain._seen) <= 5
