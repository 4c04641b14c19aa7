"""Whole networks behind `convforge.optimize` and the compile backend: the answers of the model itself, always."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import ended_in_a_fork
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import convforge
from convforge.pytorch.backend import convforge as backend
from convforge.pytorch.networks import Networks
from convforge.pytorch.whole import whole_of


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Block(nn.Module):
    """A residual one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.bend: nn.Module = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bend(x + self.second(self.bend(self.norm(self.first(x)))))
        return y


class Net(nn.Module):
    """A small ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = Block(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 5)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.drop(self.block(self.stem(x)).mean((2, 3)))) * self.scale
        return y


class Mobile(nn.Module):
    """An inverted residual with squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.depthwise = nn.Conv2d(24, 24, 5, stride=2, padding=2, groups=24)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Hardsigmoid()
        )
        self.project = nn.Conv2d(24, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.depthwise(self.expand(x)))
        z: Tensor = self.project(y * self.squeeze(y))
        return z


class UNet(nn.Module):
    """Down and up again, with a skip; two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skip = F.leaky_relu(self.down(x), 0.1)
        deep = F.relu(self.deep(F.max_pool2d(skip, 2)))
        return OrderedDict(mask=self.out(torch.cat([skip, self.up(deep)], 1)), deep=deep.amax((2, 3)))


def made(kind: Callable[[], nn.Module] = Net, seed: int = 0) -> nn.Module:
    """A model in eval mode, with statistics that do something."""
    torch.manual_seed(seed)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def networks(model: nn.Module) -> Networks:
    whole = whole_of(model)
    assert whole is not None
    return whole.networks


def said(model: nn.Module) -> str:
    return networks(model).said


def far(found: Any, wanted: Any) -> float:
    """The largest relative distance of tensors, and that all else is the same."""
    ours, its_form = torch.utils._pytree.tree_flatten(found)
    theirs, form = torch.utils._pytree.tree_flatten(wanted)
    assert its_form == form
    assert [y for y in ours if not isinstance(y, Tensor)] == [y for y in theirs if not isinstance(y, Tensor)]
    ours, theirs = ([y.detach() for y in one if isinstance(y, Tensor)] for one in (ours, theirs))
    assert [(y.shape, y.dtype, y.stride()) for y in ours] == [(y.shape, y.dtype, y.stride()) for y in theirs]
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


def assert_whole(fast: nn.Module, plain: nn.Module, *inputs: Tensor, limit: float = 1e-5) -> None:
    """A network answers, as the model does."""
    assert far(fast(*inputs), plain(*inputs)) < limit
    assert said(fast) == ""


def assert_layers(fast: nn.Module, plain: nn.Module, *inputs: Tensor, why: str) -> None:
    """The layers answer, and it is known why."""
    assert far(fast(*inputs), plain(*inputs)) < 1e-5
    assert why in said(fast)


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


pytestmark = pytest.mark.usefixtures("no_grad")


# ---------------------------------------------------------------------------------------------------------------------
# The same answers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Net, Mobile, UNet])
def test_answers_are_the_models_in_every_batch_and_format(kind: Callable[[], nn.Module]) -> None:
    model = made(kind)
    fast = convforge.optimize(model)
    for batch in (1, 3, 1, 2):
        for last in (torch.contiguous_format, torch.channels_last):
            x = randn(batch, 3, 20, 28, seed=batch).contiguous(memory_format=last)
            assert_whole(fast, model, x)
            assert_whole(fast, model, x)
    assert_whole(fast, model, randn(2, 28, 3, 20).permute(0, 2, 3, 1))
    assert_whole(fast, model, randn(2, 3, 20, 56)[..., ::2])
    assert_whole(fast, model, randn(1, 3, 20, 28).expand(3, -1, -1, -1))


def test_double_precision() -> None:
    model = made().double()
    fast = convforge.optimize(model)
    assert_whole(fast, model, randn(2, 3, 16, 16, dtype=torch.float64), limit=1e-13)
    with pytest.raises(RuntimeError):
        fast(randn(2, 3, 16, 16))


def test_it_runs_in_inference_mode_and_without_it() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    with torch.inference_mode():
        assert_whole(fast, model, x)
        y = fast(x)
        assert y.is_inference()
    assert_whole(fast, model, x)
    assert not fast(x).is_inference()
    with torch.inference_mode():
        inside = randn(2, 3, 16, 16)
    assert_whole(fast, model, inside)


def test_parameters_that_need_no_gradient_need_no_no_grad() -> None:
    model, x = made().requires_grad_(False), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    with torch.enable_grad():
        assert_whole(fast, model, x)
        assert_layers(fast, model, x.clone().requires_grad_(), why="gradients")
        assert fast(x.clone().requires_grad_()).requires_grad
        fast.requires_grad_(True)
        assert fast(x).requires_grad
        fast.requires_grad_(False)
        assert_whole(fast, model, x)


def test_every_answer_has_memory_of_its_own() -> None:
    fast, x = convforge.optimize(made(UNet)), randn(1, 3, 16, 16)
    first = fast(x)
    before = first["mask"].clone()
    second = fast(2 * x)
    assert torch.equal(first["mask"], before)
    assert first["mask"].data_ptr() != second["mask"].data_ptr()


def test_the_same_bits_at_every_call() -> None:
    fast, x = convforge.optimize(made()), randn(2, 3, 16, 16)
    first = fast(x)
    assert all(torch.equal(fast(x), first) for _ in range(3))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor, factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        z = self.conv(x) + y
        return z * factor, [z.relu(), z.mean((2, 3))]


def test_several_inputs_and_outputs() -> None:
    model = made(Several)
    fast = convforge.optimize(model)
    x, y = randn(2, 3, 8, 8), randn(2, 4, 6, 6)
    assert_whole(fast, model, x, y)
    assert far(fast(x, y, factor=2.0), model(x, y, factor=2.0)) < 1e-5
    assert "keyword" in said(fast)
    assert far(fast(x, y, 3.0), model(x, y, 3.0)) < 1e-5
    assert "other arguments" in said(fast)
    assert_whole(fast, model, x, y)
    with pytest.raises(TypeError):
        fast(x)
    with pytest.raises(RuntimeError):
        fast(x, randn(2, 4, 5, 5))
    assert_whole(fast, model, x, y)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.conv(x) * self.conv(y).sigmoid()
        return z


def test_one_tensor_twice_and_parameters_as_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(Both)
    fast = convforge.optimize(model)
    x, y = randn(2, 3, 8, 8), randn(2, 3, 8, 8, seed=1)
    kinds = [(x, y), (x, x), (nn.Parameter(x, False), y), (x, nn.Parameter(y, False))]
    for given in kinds:
        assert_whole(fast, model, *given)
    monkeypatch.setattr(networks(fast), "_meet", None)  # they are known now
    for given in kinds * 2:
        assert_whole(fast, model, *given)


def test_a_call_that_raises_was_answered_by_nobody() -> None:
    model, x = made(), randn(1, 3, 16, 16)
    fast = convforge.optimize(model)
    with pytest.raises(RuntimeError):
        fast(x[:, :2])
    assert "raised an error" in said(fast)
    assert_whole(fast, model, x)


def test_threads_that_call_at_once() -> None:
    model = made()
    fast = convforge.optimize(model)
    inputs = [randn(1 + n % 3, 3, 16, 16, seed=n) for n in range(12)]
    wanted = [model(x) for x in inputs]
    worst: list[float] = []

    def work(first: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                worst.extend(far(fast(x), y) for x, y in zip(inputs[first::3], wanted[first::3], strict=True))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 240
    assert max(worst) < 1e-5


def test_other_numbers_of_threads() -> None:
    model, x, before = made(), randn(2, 3, 16, 16), torch.get_num_threads()
    fast = convforge.optimize(model)
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            assert_whole(fast, model, x)
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# Never a stale answer
# ---------------------------------------------------------------------------------------------------------------------


def _step(model: nn.Module, fused: bool | None = None) -> None:
    """One of training, in training mode, and back."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01, fused=fused)
    with torch.enable_grad():
        model.train()
        model(randn(2, 3, 16, 16, seed=3)).square().sum().backward()
        optimizer.step()
        model.eval()
        optimizer.zero_grad()


def _flat(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 1.1, model.parameters())


class Halved(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w / 2


def _halved(module: nn.Module) -> None:
    nn.utils.parametrize.register_parametrization(module, "weight", Halved().eval())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda m: m.stem[0].weight.mul_(1.5),
    "one number": lambda m: m.block.first.weight[3, 2, 1, 1].add_(5),
    "a statistic": lambda m: m.stem[1].running_mean.add_(1),
    "bias": lambda m: m.block.second.bias.add_(1),
    ".data": lambda m: m.head.weight.data.mul_(2),
    ".data of a norm": lambda m: m.block.norm.bias.data.add_(1),
    "numpy": lambda m: m.block.second.weight.detach().numpy().__imul__(1.5),
    "other .data": lambda m: setattr(m.head.weight, "data", m.head.weight.data * 2),
    "a vector": _flat,
    "state_dict": lambda m: m.load_state_dict(made(seed=5).state_dict()),
    "state_dict, assigned": lambda m: m.load_state_dict(made(seed=5).state_dict(), assign=True),
    "a step": _step,
    "a fused step": lambda m: _step(m, fused=True),
    "a parameter": lambda m: setattr(m.head, "weight", nn.Parameter(m.head.weight * 2)),
    "a buffer": lambda m: setattr(m.stem[1], "running_var", m.stem[1].running_var * 2),
    "a module": lambda m: setattr(m, "head", made(lambda: nn.Linear(8, 3), seed=2)),
    "a module in a sequence": lambda m: m.stem.__setitem__(2, nn.Sigmoid()),
    "one module more": lambda m: m.stem.append(nn.Tanh()),
    "one module less": lambda m: m.stem.__delitem__(2),
    "a module's attribute": lambda m: m.stem[0].__dict__.update(stride=(1, 1)),
    "another activation": lambda m: setattr(m.block, "bend", nn.SiLU()),
    "the model's attribute": lambda m: setattr(m, "scale", 3.0),
    "swapped": lambda m: torch.utils.swap_tensors(m.head.bias, nn.Parameter(m.head.bias + 1)),
    "double and back": lambda m: m.double().float(),
    "memory format": lambda m: m.to(memory_format=torch.channels_last),
    "parametrized": lambda m: _halved(m.block.first),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_noticed_at_once(name: str) -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    plain = convforge.optimize(model, whole=False)
    for _ in range(3):
        fast(x)
    assert said(fast) == ""
    for one in (fast, plain):
        torch.manual_seed(0)
        CHANGES[name](one)
    for _ in range(3):
        assert far(fast(x), plain(x)) < 1e-5
    assert said(fast) == ""


def test_weights_with_other_numbers_are_only_packed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    for _ in range(3):
        fast(x)
    monkeypatch.setattr("convforge.pytorch.networks.captured", None)
    monkeypatch.setattr("convforge.graph.network.lower", None)
    for one in (model, fast):
        one.stem[0].weight.mul_(1.5)  # type: ignore[index,union-attr,operator]
        one.head.bias.add_(1)  # type: ignore[union-attr,operator]
    assert_whole(fast, model, x)


def test_weights_that_change_from_call_to_call_wait() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    assert_whole(fast, model, x)
    for _ in range(3):
        for one in (model, fast):
            one.head.bias.add_(1)  # type: ignore[union-attr,operator]
        assert_layers(fast, model, x, why="changed")
    assert_whole(fast, model, x)


def test_fine_tuning_between_two_inferences() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast, plain = convforge.optimize(model), convforge.optimize(model, whole=False)
    for _ in range(4):
        for one in (fast, plain):
            torch.manual_seed(0)
            _step(one)
        assert far(fast(x), plain(x)) < 1e-4
        assert far(fast(x), plain(x)) < 1e-4


def test_train_and_eval_of_any_submodule() -> None:
    fast, x = convforge.optimize(made()), randn(4, 3, 16, 16)
    first = fast(x)
    assert said(fast) == ""
    for name in ("drop", "stem", "block.norm"):
        fast.get_submodule(name).train()
        assert not torch.equal(fast(x), first)
        assert said(fast)
        fast.get_submodule(name).eval()
        fast.load_state_dict(made().state_dict())
        for _ in range(2):
            assert far(fast(x), first) < 1e-5
        assert said(fast) == ""
    fast.train()
    assert not torch.equal(fast(x), first)
    assert "training" in said(fast)


def test_hooks_are_called() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    assert_whole(fast, model, x)
    calls: list[str] = []
    for module in (fast, fast.get_submodule("block.first"), fast.get_submodule("drop")):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            handle = register(lambda *_: calls.append("hook"))  # type: ignore[operator]
            for _ in range(3):
                fast(x)
            assert len(calls) == 3
            calls.clear()
            handle.remove()
            assert_whole(fast, model, x)
    for everywhere in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = everywhere(lambda *_: calls.append("hook"))  # type: ignore[operator]
        fast(x)
        handle.remove()
        assert len(calls) > 8
        calls.clear()
    assert_whole(fast, model, x)


def test_hooks_that_were_there_before() -> None:
    model, calls = made(), []
    model.block.register_forward_hook(lambda *_: calls.append("hook"))  # type: ignore[union-attr,operator]
    fast = convforge.optimize(model)
    for _ in range(3):
        fast(randn(1, 3, 16, 16))
    assert len(calls) == 3
    assert "Block 'block' has hooks" in said(fast)


def test_calls_with_other_weights() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    assert_whole(fast, model, x)
    for seed in range(4):
        other = made(seed=seed)
        state = dict(other.state_dict())
        assert far(torch.func.functional_call(fast, state, (x,)), other(x)) < 1e-5
        assert_whole(fast, model, x)


# ---------------------------------------------------------------------------------------------------------------------
# Calls that layers have to answer
# ---------------------------------------------------------------------------------------------------------------------


def test_autocast() -> None:
    fast, x = convforge.optimize(made(Mobile)), randn(2, 3, 16, 16)
    fast(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype is torch.bfloat16
    assert "autocast" in said(fast)
    assert fast(x).dtype is torch.float32


def test_gradients_are_recorded() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    fast(x)
    with torch.enable_grad():
        for one in (model, fast):
            one(x).square().sum().backward()
        assert "gradients" in said(fast)
        for a, b in zip(model.parameters(), fast.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
        z = x.clone().requires_grad_()
        assert fast(z).requires_grad
    assert_whole(fast, model, x)
    assert_whole(fast, model, z)


def test_transforms_modes_and_subclasses() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    assert_whole(fast, model, x)
    assert far(torch.func.vmap(fast)(x[None]), model(x)[None]) < 1e-5
    _, tangent = torch.func.jvp(fast, (x,), (x,))
    assert tangent.norm() > 0
    seen: list[str] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Watching():
        fast(x)
    assert len(seen) > 4
    with FlopCounterMode(display=False) as counted:
        fast(x)
    assert counted.get_total_flops() > 0

    class Ours(Tensor):
        pass

    assert type(fast(x.as_subclass(Ours))) is Ours
    assert_whole(fast, model, x)


def test_tracing_and_exporting_see_the_layers() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    for called in (False, True):
        if called:
            fast(x)
        traced: Any = torch.jit.trace(fast, x)
        assert far(traced(2 * x), model(2 * x)) < 1e-5
        scripted: Any = torch.jit.script(fast)
        assert far(scripted(x), model(x)) < 1e-5
        assert far(torch.fx.symbolic_trace(fast)(x), model(x)) < 1e-5
        for strict in (False, True):
            exported = torch.export.export(fast, (x,), strict=strict)
            assert {spec.target for spec in exported.graph_signature.input_specs if spec.target} >= {"head.weight"}
            assert far(exported.module()(x), model(x)) < 1e-5
    fast(x)  # exporting leaves attributes behind
    assert_whole(fast, model, x)


def test_dynamo_sees_the_layers() -> None:
    model, x = made(), randn(2, 3, 16, 16)
    fast = convforge.optimize(model)
    for called in (False, True):
        if called:
            fast(x)
        torch._dynamo.reset()
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        assert far(compiled(x), model(x)) < 1e-5
        with torch.enable_grad():
            assert compiled(x).requires_grad
        assert far(copy.deepcopy(fast)(x), model(x)) < 1e-5
    fast.compile(backend="eager", fullgraph=True)
    assert far(fast(x), model(x)) < 1e-5


def test_profilers_are_told_of_the_network() -> None:
    fast, x = convforge.optimize(made()), randn(2, 3, 16, 16)
    fast(x)
    with torch.profiler.profile() as profile:
        fast(x)
    assert "convforge: a whole network" in {event.name for event in profile.events()}


def test_exact_precision_keeps_its_bits() -> None:
    fast, x = convforge.optimize(made()), randn(2, 3, 16, 16)
    plain = convforge.optimize(fast, whole=False)
    fast(x)
    with convforge.set_precision("exact"):
        assert torch.equal(fast(x), plain(x))
        assert "exact" in said(fast)


def test_other_dtypes_and_devices() -> None:
    fast, x = convforge.optimize(made(Mobile)), randn(2, 3, 16, 16)
    fast(x)
    assert copy.deepcopy(fast).bfloat16()(x.bfloat16()).dtype is torch.bfloat16
    assert copy.deepcopy(fast).double()(x.double()).dtype is torch.float64
    assert copy.deepcopy(fast).to("meta")(x.to("meta")).device.type == "meta"
    empty = fast(x[:0])
    assert empty.shape == (0, 10, 8, 8)


def test_from_half_precision_and_back() -> None:
    model, x = made(Mobile), randn(2, 3, 16, 16)
    fast = convforge.optimize(model.bfloat16())
    for _ in range(2):
        assert fast(x.bfloat16()).dtype is torch.bfloat16
        assert "bfloat16" in said(fast)
        model.float()
        fast.float()
        assert far(fast(x), model(x)) < 1e-5
        assert_whole(fast, model, x)
        model.bfloat16()
        fast.bfloat16()


def test_a_forked_child_answers_though_another_thread_was_capturing() -> None:
    fast, x = convforge.optimize(made()), randn(1, 3, 16, 16)
    wanted = fast(x)

    def is_free() -> bool:
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(networks(fast)._lock.acquire(timeout=5)))
        thread.start()
        thread.join()
        return done == [True]

    with networks(fast)._lock:
        assert ended_in_a_fork(is_free) == ""
    assert torch.equal(fast(x), wanted)


def test_lazy_models() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()).eval()
    fast = convforge.optimize(nn.Sequential(nn.Conv2d(3, 3, 1), *model).eval())
    x = randn(1, 3, 9, 9)
    first = fast(x)
    for _ in range(2):
        assert far(fast(x), first) < 1e-5
    assert said(fast) == ""


def test_weights_that_were_made_in_inference_mode() -> None:
    with torch.inference_mode():
        fast = convforge.optimize(made())
        x = randn(1, 3, 16, 16)
        first = fast(x)
        assert "inference mode" in said(fast)
        fast.get_parameter("head.bias").add_(1)
        assert not torch.equal(fast(x), first)


# ---------------------------------------------------------------------------------------------------------------------
# Models that are no networks
# ---------------------------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """A convolution, and what becomes of its result."""

    def __init__(self, what: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.what, self.calls = what, 0
        self.listed = [torch.ones(4, 1, 1)]
        self.register_buffer("counted", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.what(self, x)


class Plain(Says):
    def __init__(self, what: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__(what)
        del self.listed


def _counts(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    y: Tensor = m.conv(x) * m.calls
    return y


def _counts_in_a_buffer(m: Any, x: Tensor) -> Tensor:
    m.counted += 1
    y: Tensor = m.conv(x) + m.counted
    return y


ODD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counts": (lambda: Plain(_counts), "changes its modules' attributes"),
    "counts in a buffer": (lambda: Plain(_counts_in_a_buffer), "changes its modules' attributes or its weights"),
    "looks": (lambda: Plain(lambda m, x: m.conv(x) if x.sum() > 0 else -m.conv(x)), "cannot be captured"),
    "sorts": (lambda: Plain(lambda m, x: m.conv(x).sort(-1).values), "sort"),
    "returns its input": (lambda: Plain(lambda m, x: (m.conv(x), x)), "returns its input"),
    "returns a weight": (lambda: Plain(lambda m, x: (m.conv(x), m.conv.weight)), "returns its input or a weight"),
    "returns a number": (lambda: Plain(lambda m, x: (m.conv(x), 3)), "returns int"),
    "changes its input": (lambda: Plain(lambda m, x: m.conv(x.mul_(1.0))), "changes its input"),
    "lists tensors": (lambda: Says(lambda m, x: m.conv(x) * m.listed[0]), "lists"),
    "calls itself": (lambda: Plain(lambda m, x: m.conv(x) if x.shape[2] < 12 else m(x[:, :, :11])), ""),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_are_called_as_often_as_they_are_called(name: str) -> None:
    kind, why = ODD[name]
    model = made(kind)
    fast, x = convforge.optimize(model), randn(2, 3, 14, 14)
    for n in range(4):
        assert far(fast(x + n), model(x + n)) < 1e-5
        assert why in said(fast)


def test_what_cannot_be_captured_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fails(*_: Any, **__: Any) -> Any:
        tried.append(1)
        raise ZeroDivisionError("something of Python's own")

    monkeypatch.setattr("convforge.pytorch.networks.captured", fails)
    model, x = made(), randn(1, 3, 16, 16)
    fast = convforge.optimize(model)
    for _ in range(3):
        assert_layers(fast, model, x, why="something of Python's own")
    fast(randn(2, 3, 16, 16))
    assert len(tried) == 1


def test_a_network_that_gives_other_numbers_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(), randn(1, 3, 16, 16)
    fast, right = convforge.optimize(model), convforge.graph.capture.captured  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "convforge.pytorch.networks.captured", lambda twin, *given, **how: right(made(seed=9), *given, **how)
    )
    for _ in range(2):
        assert_layers(fast, model, x, why="other numbers")


def test_a_model_in_which_rounding_grows_is_a_network_all_the_same() -> None:
    model = made(lambda: Plain(lambda m, x: (m.conv(x) * 1e-4 + 1e3) - 1e3))
    fast, x = convforge.optimize(model), randn(1, 3, 16, 16)
    assert far(fast(x), model(x)) > 1e-4
    assert said(fast) == ""


def test_capturing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = made(lambda: Plain(lambda m, x: m.conv(x) if int(m.conv(x).sum()) > 0 else -m.conv(x)))
    fast = convforge.optimize(model)
    fast(randn(1, 3, 16, 16))
    assert "cannot be captured" in said(fast)
    assert "".join(capfd.readouterr()) == ""


def test_errors_of_the_model_are_its_own() -> None:
    fast = convforge.optimize(made())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="channels"):
            fast(randn(1, 4, 16, 16))
    fast(randn(1, 3, 16, 16))
    with pytest.raises(RuntimeError, match="channels"):
        fast(randn(1, 4, 16, 16))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------


def test_images_of_another_size_are_captured_when_they_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convforge.pytorch.networks._PAYS", 5)
    model = made()
    fast = convforge.optimize(model)
    assert_whole(fast, model, randn(1, 3, 16, 16))
    for size in (20, 24, 28):
        assert_layers(fast, model, randn(1, 3, size, 16), why="second time")
        assert_whole(fast, model, randn(1, 3, size, 16))
        assert_whole(fast, model, randn(3, 3, size, 16))
    for _ in range(5):
        assert_layers(fast, model, randn(1, 3, 32, 16), why="more often")
    assert_whole(fast, model, randn(1, 3, 32, 16))
    assert_whole(fast, model, randn(1, 3, 28, 16))
    assert len(networks(fast)._sizes) == 4
    assert_layers(fast, model, randn(1, 3, 16, 16), why="more often")


def test_batches_of_many_sizes_do_not_drive_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convforge.pytorch.networks._MOST_KINDS", 2)
    model = made()
    fast = convforge.optimize(model)
    assert_whole(fast, model, randn(1, 3, 16, 16))
    assert_whole(fast, model, randn(2, 3, 16, 16))
    for batch in (3, 4, 5, 1, 3, 4, 5, 2):
        fast(randn(batch, 3, 16, 16))
        assert bool(said(fast)) is (batch > 2)


def test_networks_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convforge.pytorch.networks.MOST_BYTES", 1)
    model = made()
    fast = convforge.optimize(model)
    for size in (16, 20, 20):
        fast(randn(1, 3, size, 16))
    assert len(networks(fast)._sizes) == 1
    assert_whole(fast, model, randn(1, 3, 20, 16))


# ---------------------------------------------------------------------------------------------------------------------
# The model stays a model
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_else_of_the_model_is_other() -> None:
    model, x = made(), randn(1, 3, 16, 16)
    fast = convforge.optimize(model)
    fast(x)
    assert type(fast) is Net
    assert repr(fast) == repr(model)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    assert "_call_impl" not in vars(model)


def test_copies_and_files() -> None:
    model, x = made(), randn(1, 3, 16, 16)
    fast = convforge.optimize(model)
    for called in (False, True):
        if called:
            fast(x)
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        saved = torch.load(file, weights_only=False)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), saved, convforge.optimize(fast)):
            assert networks(other) is not networks(fast)
            assert_whole(other, model, x)
            other.get_parameter("head.bias").add_(1)
            assert far(other(x), model(x) + 1) < 1e-5
        assert_whole(fast, model, x)
        assert whole_of(convforge.optimize(fast, whole=False)) is None


def test_a_shallow_copy_is_a_model_of_its_own() -> None:
    fast, x = convforge.optimize(made()), randn(1, 3, 16, 16)
    first = fast(x)
    other = copy.copy(fast)
    other.scale = 2.0  # type: ignore[assignment]
    for _ in range(3):
        assert far(other(x), 2 * first) < 1e-5
        assert torch.equal(fast(x), first)
    del fast
    assert far(other(x), 2 * first) < 1e-5


def test_a_model_goes_when_it_is_deleted() -> None:
    fast, x = convforge.optimize(made()), randn(1, 3, 16, 16)
    for _ in range(2):
        fast(x)
    gc.collect()
    gone = weakref.ref(fast.get_parameter("stem.0.weight"))
    gc.disable()
    try:
        del fast
        assert gone() is None
    finally:
        gc.enable()


def test_weights_are_not_kept_from_being_exchanged() -> None:
    fast, x = convforge.optimize(made()), randn(1, 3, 16, 16)
    fast(x)
    torch.utils.swap_tensors(fast.get_parameter("head.bias"), nn.Parameter(torch.zeros(5)))
    assert torch.equal(fast.get_parameter("head.bias"), torch.zeros(5))


def test_networks_inside_of_networks() -> None:
    inner = convforge.optimize(made())
    model = nn.Sequential(nn.Conv2d(3, 3, 1), inner, nn.Softmax(-1)).eval()
    x = randn(1, 3, 16, 16)
    wanted = model(x)
    assert said(inner) == ""
    fast = convforge.optimize(model)
    for _ in range(2):
        assert far(fast(x), wanted) < 1e-5
    assert said(fast) == ""
    assert far(nn.DataParallel(fast)(x), wanted) < 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------------------------------------------------


def test_the_report_lists_the_steps() -> None:
    fast, x = convforge.optimize(made()), randn(2, 3, 16, 16)
    before = convforge.report(fast).network
    assert before is not None
    assert not before.on_engine
    assert "first call" in before.reason
    fast(x)
    report = convforge.report(fast)
    assert report.network is not None
    assert report.network.on_engine
    assert "2×3×16×16" in report.network.reason
    assert any("3×3 stride 2, 3→8" in what and "relu" in what for _, what, _ in report.network.steps)
    assert all(text in str(report) for text in ("3 of 3 convolutions on the engine", "whole network", "relu"))
    assert report.network.kept_bytes > 4 * 2 * 8 * 8 * 9
    assert "MB of packed weights and work space are kept for it" in str(report)


def test_the_report_says_why_not() -> None:
    model = made(ODD["sorts"][0])
    fast = convforge.optimize(model)
    fast(randn(1, 3, 9, 9))
    assert "layer by layer" in str(convforge.report(fast))
    assert "sort" in str(convforge.report(fast))
    assert convforge.report(model).network is None
    assert convforge.report(convforge.optimize(model, whole=False)).network is None


def test_the_report_of_compiled_models() -> None:
    compiled = torch.compile(made(), backend="convforge")
    report = convforge.report(compiled)  # type: ignore[arg-type]
    assert {row.name for row in report} == {"stem.0", "block.first", "block.second"}
    assert all("compiled" in row.reason for row in report)
    assert report.network is not None
    assert "compiled" in report.network.reason


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the backend makes, in order."""
    torch._dynamo.reset()
    return []


def _noting(graphs: list[Any]) -> Callable[..., Any]:
    def note(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        graphs.append(backend(graph, examples))
        return graphs[-1]

    return note


@pytest.mark.parametrize("kind", [Net, UNet])
def test_compiled_graphs_run_as_networks_for_any_batch(kind: Callable[[], nn.Module], graphs: list[Any]) -> None:
    model = made(kind)
    compiled = torch.compile(model, backend=_noting(graphs), fullgraph=True)
    for batch in (2, 3, 5, 1, 2):
        x = randn(batch, 3, 16, 16, seed=batch)
        for _ in range(2):
            assert far(compiled(x), model(x)) < 1e-5
    assert 0 < len(graphs) <= 3
    assert all(graph._networks.said == "" for graph in graphs)


def test_compiled_graphs_notice_other_weights(graphs: list[Any]) -> None:
    model: Any = made()
    compiled, x = torch.compile(model, backend=_noting(graphs)), randn(2, 3, 16, 16)
    for change in ("in place", ".data", "state_dict", "a parameter", "a step", "other .data"):
        for _ in range(3):
            assert far(compiled(x), model(x)) < 1e-5
        CHANGES[change](model)
    assert far(compiled(x), model(x)) < 1e-5
    assert any(getattr(graph, "_networks", None) and graph._networks.said == "" for graph in graphs)


def test_compiled_training_is_as_it_was(graphs: list[Any]) -> None:
    model, x = made(), randn(2, 3, 16, 16)
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend=_noting(graphs))
    with torch.enable_grad():
        compiled(x).square().sum().backward()
        other(x).square().sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    assert far(compiled(x), other(x)) < 1e-5
    model.train()
    other.train()
    torch.manual_seed(0)
    trained = compiled(x)
    torch.manual_seed(0)
    assert far(trained, other(x)) < 1e-4
    assert torch.allclose(model.stem[1].running_mean, other.stem[1].running_mean, atol=1e-5)  # type: ignore[union-attr,index,arg-type]
