"""Packed weights are kept while the weights stay as they are, and never longer."""

from __future__ import annotations

import copy
import gc
import io
import os
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from forks import ended_in_a_fork
from torch import Tensor

import convforge
from convforge.pytorch import kept
from convforge.pytorch.fingerprint import fingerprint
from convforge.pytorch.kept import drop_kept_weights, kept_weights

SMALL = (16, 8, 3, 3)
LARGE = (160, 160, 3, 3)  # 922 KB: its fingerprint is that of pieces, which threads share


@pytest.fixture(autouse=True)
def nothing_kept_before() -> Iterator[None]:
    drop_kept_weights()
    yield
    drop_kept_weights()


def image(w: Tensor, size: int = 6) -> Tensor:
    return torch.randn(1, w.shape[1], size, size, dtype=w.dtype)


def is_right(w: Tensor, x: Tensor | None = None) -> bool:
    """Whether our convolution with these weights is torch's."""
    x = image(w) if x is None else x
    ours, theirs = convforge.conv2d(x, w, padding=1).detach(), F.conv2d(x, w, padding=1).detach()
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-30)


def kept_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights whose packed form is kept and has been used."""
    w = torch.randn(shape, dtype=dtype)
    for n in range(3):
        assert is_right(w)
        assert kept_weights()["weights"] == (n > 0)
    return w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_kept_from_the_second_time_on(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    w = kept_of(shape, dtype)
    assert kept_weights()["bytes"] >= w.nbytes


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda w: w.mul_(2),
    "one number": lambda w: w[1, 2, 0, 1].add_(9),
    "by index": lambda w: w.__setitem__((slice(None), 3), 1.0),
    "copied into": lambda w: w.copy_(torch.randn_like(w)),
    "through a view": lambda w: w.view(-1)[17:].zero_(),
    "through a detached one": lambda w: w.detach().neg_(),
    "other data": lambda w: setattr(w, "data", torch.randn_like(w)),
    "other data, other layout": lambda w: setattr(w, "data", w.contiguous(memory_format=torch.channels_last) * 2),
    "other data of another size": lambda w: setattr(w, "data", torch.randn(w.shape[0] + 8, *w.shape[1:])),
    # behind torch's back
    "data, in place": lambda w: w.data.mul_(2),
    "data, signs": lambda w: w.data.neg_(),
    "data, clamped": lambda w: w.data.clamp_(-1, 1),
    "data, zeros": lambda w: w.data.zero_(),
    "NumPy": lambda w: w.numpy().__imul__(3),
    "DLPack": lambda w: torch.from_dlpack(w.numpy()).add_(1),
    "storage": lambda w: w.untyped_storage().copy_(torch.randn_like(w).untyped_storage()),
    "back and forth": lambda w: [setattr(w, "data", w.data * 2) for _ in range(2)],
}


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_noticed_at_once(name: str, shape: tuple[int, ...]) -> None:
    w = kept_of(shape)
    for _ in range(2):
        CHANGES[name](w)
        for _ in range(4):  # noticed; packed and kept again; used
            assert is_right(w)


@pytest.mark.parametrize("shape", [SMALL, LARGE, (512, 512, 3, 3)])
def test_one_number_behind_torchs_back(shape: tuple[int, ...]) -> None:
    w = kept_of(shape)
    x = image(w, 3)
    for n in range(5):
        w.data[3 + n, 1, 2, 2] += 50 * shape[1]
        for _ in range(3):  # noticed; packed and kept again; used
            assert is_right(w, x)


FUSED: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=1.0, fused=True),
    "Adam": lambda weights: torch.optim.Adam(weights, lr=1.0, fused=True),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=1.0, weight_decay=0, fused=True),
    "Adagrad": lambda weights: torch.optim.Adagrad(weights, lr=1.0, fused=True),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_fused_optimisers_that_change_some_weights(name: str, frozen: bool) -> None:
    """They write without counting it in `_version`."""
    w = torch.randn(LARGE, requires_grad=True)
    x = image(w)
    optimizer = FUSED[name]([w])
    if frozen:
        convforge.freeze(w)
    for n in range(3):
        with torch.no_grad():
            for _ in range(3):
                assert is_right(w, x)
        assert kept_weights()["weights"] == 1
        before, version = w.detach().clone(), w._version
        w.grad = torch.zeros_like(w)
        w.grad[n, 5] = 100.0
        optimizer.step()
        assert w._version == version, "torch counts it now: this test can go"
        assert 0 < int((w != before).sum()) < w.numel() / 2
        with torch.no_grad():
            for _ in range(3):
                assert is_right(w, x)


def test_what_is_trained_is_not_kept() -> None:
    w = torch.randn(SMALL, requires_grad=True)
    x = image(w).requires_grad_()
    for _ in range(4):
        convforge.conv2d(x, w).sum().backward()
    assert kept_weights() == {"weights": 0, "bytes": 0}
    with torch.no_grad():
        for _ in range(3):
            assert is_right(w)
    assert kept_weights()["weights"] == 1
    optimizer = torch.optim.SGD([w], lr=1.0)
    for _ in range(3):
        convforge.conv2d(x, w).square().sum().backward()
        optimizer.step()
        assert is_right(w)
        with torch.no_grad():
            assert is_right(w)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_frozen_weights_are_kept_for_the_input_gradient(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape)

    def gradients_are_right() -> None:
        x = image(w).requires_grad_()
        (ours,) = torch.autograd.grad(convforge.conv2d(x, w, padding=1).square().sum(), x)
        (theirs,) = torch.autograd.grad(F.conv2d(x, w, padding=1).square().sum(), x)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))

    gradients_are_right()
    gradients_are_right()
    once = kept_weights()["bytes"]
    gradients_are_right()
    assert kept_weights() == {"weights": 1, "bytes": once}
    w.data.mul_(3)
    for _ in range(3):
        gradients_are_right()


def test_what_is_kept_goes_with_the_weights() -> None:
    layer = convforge.nn.Conv2d(8, 16, 3)
    with torch.no_grad():
        for _ in range(3):
            layer(torch.randn(1, 8, 6, 6))
    assert kept_weights()["weights"] == 1
    del layer
    gc.collect()
    assert kept_weights() == {"weights": 0, "bytes": 0}


def test_image_sizes_that_are_packed_alike_share_what_is_kept() -> None:
    with convforge.set_precision("exact"):  # the other algorithms depend on the size
        w = kept_of(SMALL)
        bytes_of_one = kept_weights()["bytes"]
        for size in (7, 9, 8, 7):
            assert is_right(w, image(w, size))
        assert kept_weights()["bytes"] == bytes_of_one


def test_weights_made_anew_are_not_kept() -> None:
    base = torch.randn(SMALL)
    x = image(base)
    for _ in range(4):
        convforge.conv2d(x, base * 2)
    assert kept_weights() == {"weights": 0, "bytes": 0}


def test_views_of_the_same_numbers_share_what_is_kept() -> None:
    base = torch.randn(SMALL)
    x = image(base)
    for _ in range(4):
        assert is_right(base[:], x)
        assert is_right(base.detach(), x)
    assert kept_weights()["weights"] == 1


def test_views_with_gaps_are_not_kept() -> None:
    """The numbers between are not theirs, and those behind them may not exist."""
    base = torch.randn(32, 8, 3, 3)
    for w in (base[::2], base[:, :4], base[:, :1].expand(-1, 4, -1, -1), base.transpose(2, 3)[:, ::2]):
        for _ in range(4):
            assert is_right(w)
        assert kept_weights()["weights"] == 0
        base.data.mul_(2)
        assert is_right(w)


def test_inference_mode() -> None:
    for inference in (True, False):
        with torch.inference_mode(inference):
            w = torch.randn(SMALL)
        with torch.inference_mode():
            for _ in range(3):
                assert is_right(w)
            assert kept_weights()["weights"] == 1
            w.mul_(2)
            assert is_right(w)
        del w


def test_copies_and_files_do_not_carry_it() -> None:
    layer = convforge.nn.Conv2d(8, 16, 3)
    before = io.BytesIO()
    torch.save(layer, before)
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        for _ in range(3):
            y = layer(x)
        twin = copy.deepcopy(layer)
        assert kept_weights()["weights"] == 1
        twin.weight.mul_(0)
        assert torch.equal(layer(x), y)
        assert torch.equal(twin(x)[0, :, 0, 0], twin.bias)
        layer.load_state_dict(twin.state_dict())
        assert torch.equal(layer(x), twin(x))
    after = io.BytesIO()
    torch.save(layer, after)
    assert len(after.getvalue()) == len(before.getvalue())


def test_drop() -> None:
    w = kept_of(SMALL)
    drop_kept_weights()
    assert kept_weights() == {"weights": 0, "bytes": 0}
    for _ in range(3):
        assert is_right(w)
    assert kept_weights()["weights"] == 1


def test_a_tensor_at_the_address_of_one_that_is_gone() -> None:
    """Addresses come back; what was kept for the first must not serve the second."""
    before = set(kept._known)
    for _ in range(20):
        w = torch.randn(SMALL)
        for _ in range(3):
            assert is_right(w)
        del w
    assert set(kept._known) <= before


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is long out of use makes room; where all are in use, the first ones stay."""
    with convforge.set_precision("exact"):
        weights = [kept_alone(torch.randn(SMALL)) for _ in range(4)]
        one = kept_weights()["bytes"] // 4
        monkeypatch.setattr(kept, "MOST_BYTES", 4 * one)
        weights += [kept_alone(torch.randn(SMALL)) for _ in range(2)]
        assert [kept.bytes_kept_for(w) for w in weights] == [one, one, one, one, 0, 0]
        monkeypatch.setattr(kept, "_LONG_AGO", 3)
        assert is_right(weights[0])
        assert is_right(weights[2])
        assert is_right(weights[4])
        assert [kept.bytes_kept_for(w) for w in weights] == [one, 0, one, one, one, 0]
        monkeypatch.setattr(kept, "MOST_BYTES", one - 1)
        large = kept_alone(torch.randn(SMALL))
        assert kept.bytes_kept_for(large) == 0


def kept_alone(w: Tensor) -> Tensor:
    for _ in range(2):
        assert is_right(w)
    return w


def test_the_report_says_how_much() -> None:
    layers_of = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 8, 3))
    model = convforge.optimize(layers_of, whole=False).eval()
    assert "packed" not in str(convforge.report(model))
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(1, 8, 9, 9))
    layers = convforge.report(model)
    assert sum(layer.kept_bytes for layer in layers) == kept_weights()["bytes"] > 0
    assert f"{kept_weights()['bytes'] / 1e6:,.1f} MB of packed weights are kept for them" in str(layers)


def test_one_tensors_forms_are_bounded() -> None:
    w = torch.randn(64, 64, 3, 3)
    for size in (4, 6, 8, 12, 16, 20, 28, 40, 56, 80):
        for _ in range(3):
            assert is_right(w, image(w, size))
    assert len(kept._known[w.data_ptr(), w.nbytes].numbers.forms) <= kept._FORMS_OF_A_TENSOR


def test_tensors_can_be_exchanged() -> None:
    """torch does that only with tensors that nothing refers to weakly."""
    a, b = (torch.nn.Parameter(torch.randn(SMALL), requires_grad=False) for _ in range(2))
    for _ in range(3):
        assert is_right(a)
        assert is_right(b)
    was = b.clone()
    torch.utils.swap_tensors(a, b)
    assert torch.equal(a, was)
    for _ in range(3):
        assert is_right(a)
        assert is_right(b)


def test_modules_that_exchange_their_parameters() -> None:
    layer, other = convforge.nn.Conv2d(8, 16, 3), convforge.nn.Conv2d(8, 16, 3)
    x = torch.randn(1, 8, 6, 6)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            for _ in range(3):
                layer(x)
            layer.load_state_dict(other.state_dict())
            for _ in range(3):
                torch.testing.assert_close(layer(x), other(x))
            layer.double()
            torch.testing.assert_close(layer(x.double()), other(x).double(), rtol=1e-5, atol=1e-5)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the weights that were read to see whether they are the same."""
    sizes: list[int] = []

    def noted(address: int, size: int, threads: int) -> int:
        sizes.append(size)
        return fingerprint(address, size, threads)

    monkeypatch.setattr(kept, "fingerprint", noted)
    return sizes


def test_frozen_weights_are_looked_at_when_they_are_packed(looks: list[int]) -> None:
    w = convforge.freeze(torch.randn(LARGE))
    for _ in range(6):
        assert is_right(w)
    assert len(looks) == 2
    w = torch.randn(LARGE)
    for _ in range(6):
        assert is_right(w)
    assert len(looks) == 2 + 2 + 4


@pytest.mark.parametrize("name", list(CHANGES)[: list(CHANGES).index("data, in place")])
def test_what_torch_counts_is_noticed_in_frozen_weights(name: str) -> None:
    w = convforge.freeze(torch.randn(SMALL))
    for _ in range(2):
        for _ in range(4):
            assert is_right(w)
        CHANGES[name](w)
    assert is_right(w)


def test_weights_that_need_a_gradient_again_are_looked_at_again(looks: list[int]) -> None:
    w = convforge.freeze(torch.randn(SMALL))
    for _ in range(3):
        assert is_right(w)
    w.requires_grad_(True)
    with torch.no_grad():
        before = len(looks)
        w.data[0, 0] += 9
        assert is_right(w)
    assert len(looks) == before + 1


def test_a_recorded_call_ends_the_promise() -> None:
    w = convforge.freeze(torch.randn(SMALL))
    for _ in range(3):
        assert is_right(w)
    w.requires_grad_(True)
    convforge.conv2d(image(w), w).sum().backward()
    w.data.add_(w.grad)
    w.requires_grad_(False)
    for _ in range(3):
        assert is_right(w)


def test_the_promise_is_of_one_tensor() -> None:
    """Others over the same memory have other counters."""
    w = torch.randn(SMALL)
    alias = w.data
    convforge.freeze(w)
    for _ in range(3):
        assert is_right(alias)
    w.mul_(2)
    assert is_right(alias)


def test_optimisers_of_tensors_without_memory_are_left_alone() -> None:
    convforge.freeze(torch.randn(SMALL))
    sparse = torch.eye(3).to_sparse().requires_grad_()
    optimizer = torch.optim.SGD([sparse], lr=0.1)
    sparse.grad = torch.eye(3).to_sparse()
    optimizer.step()
    assert kept.bytes_kept_for(sparse) == 0
    convforge.freeze(sparse.detach())


def test_weights_that_change_while_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread packs what another one has changed already, and puts it where nobody looks."""
    w = torch.randn(SMALL)
    assert is_right(w)
    make, inside = kept._Form, threading.Event()
    go_on = threading.Event()

    class Slow(make):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            inside.set()
            assert go_on.wait(30)

    monkeypatch.setattr(kept, "_Form", Slow)
    thread = threading.Thread(target=lambda: convforge.conv2d(image(w), w))
    thread.start()
    assert inside.wait(30)
    monkeypatch.setattr(kept, "_Form", make)
    w.mul_(2)
    assert is_right(w)  # it is noticed that they have changed
    go_on.set()
    thread.join()
    for _ in range(4):
        assert is_right(w)


def test_threads_that_pack_many_forms() -> None:
    weights = [torch.randn(32, 32, 3, 3) for _ in range(3)]
    problems: list[BaseException] = []

    def use(seed: int) -> None:
        try:
            for n in range(60):
                w = weights[(n + seed) % 3]
                assert is_right(w, image(w, (4, 7, 12, 20, 33, 50)[n % 6]))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_calls_past_the_dispatcher_and_through_it_are_the_same() -> None:
    w = torch.randn(256, 256, 3, 3, requires_grad=True)
    x = torch.randn(1, 256, 14, 14)
    with torch.no_grad():
        y = convforge.conv2d(x, w, padding=1)
        assert torch.equal(convforge.conv2d(x[0], w, padding=1), y[0])
        with torch.profiler.profile():
            assert torch.equal(convforge.conv2d(x, w, padding=1), y)


def test_16_bit_weights_are_not_kept() -> None:
    w = torch.randn(SMALL, dtype=torch.bfloat16)
    before = set(kept._known)
    for _ in range(3):
        convforge.conv2d(image(w), w)
    assert set(kept._known) == before


def test_freeze_a_model() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 3))
    assert convforge.freeze(model) is model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(convforge.UserError, match="this model is lazy: run it once"):
        convforge.freeze(torch.nn.LazyConv2d(8, 3))
    with pytest.raises(convforge.UserError, match=r"takes a torch\.nn\.Module or a tensor, not str"):
        convforge.freeze("model")  # type: ignore[arg-type]


def test_threads_that_use_and_change_the_same_weights() -> None:
    weights = [torch.randn(SMALL) for _ in range(4)]
    x = torch.randn(1, 8, 6, 6)
    wrong: list[int] = []

    def use(seed: int) -> None:
        with torch.no_grad():
            for n in range(60):
                w = weights[(n + seed) % 4]
                if not is_right(w, x):
                    wrong.append(n)
                if n % 16 == seed:
                    drop_kept_weights()

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's own threads do not survive a fork
    try:
        w = kept_of(SMALL)
        assert ended_in_a_fork(lambda: is_right(w) and is_right(w.mul_(2)) and is_right(w) and is_right(w)) == ""
        assert is_right(w)
        assert kept_weights()["weights"] == 1
    finally:
        torch.set_num_threads(threads)
