"""`convforge.optimize` and `convforge.report`: the same model, on the engine, and nothing else changed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convforge
from convforge import UserError
from convforge.nn import Conv2d


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    """A small CNN: a stem, batch norm, a skip, a stride, a depthwise layer, a classifier of 8×8 images."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.block = Block(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * channels * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.down(self.block(self.stem(x))).relu().flatten(1))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


# ---------------------------------------------------------------------------------------------------------------------
# The same model
# ---------------------------------------------------------------------------------------------------------------------


def test_the_given_model_is_untouched() -> None:
    model = net()
    model.block.eval()
    model.stem[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [(name, type(module), id(module), module.training) for name, module in model.named_modules()]
    parameters = [(id(p), p.requires_grad) for p in model.parameters()]
    fast = convforge.optimize(model)
    fast.train()(randn(2, 1, 8, 8)).sum().backward()
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert classes == [(name, type(module), id(module), module.training) for name, module in model.named_modules()]
    assert parameters == [(id(p), p.requires_grad) for p in model.parameters()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_copy_has_everything_of_its_own() -> None:
    model = net()
    model.stem[0].weight.requires_grad_(False)
    model.block.eval()
    fast = convforge.optimize(model)
    theirs = {t.data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    assert not theirs & {t.data_ptr() for t in (*fast.parameters(), *fast.buffers()) if t.numel()}
    assert [p.requires_grad for p in fast.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in fast.modules()] == [m.training for m in model.modules()]
    assert type(fast) is Net
    assert repr(fast) == repr(model)


def test_state_dicts_go_both_ways() -> None:
    model, fast = net(0), convforge.optimize(net(1))
    assert list(model.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(model.state_dict(), strict=True)
    assert torch.allclose(fast.eval()(randn(2, 1, 8, 8)), model.eval()(randn(2, 1, 8, 8)), atol=1e-5)
    model.load_state_dict(fast.state_dict(), strict=True)


def test_optimizing_twice_is_optimizing_once() -> None:
    once = convforge.optimize(net())
    twice = convforge.optimize(once)
    assert str(convforge.report(once)) == str(convforge.report(twice))
    x = randn(2, 1, 8, 8)
    assert torch.equal(once.eval()(x), twice.eval()(x))


def test_copies_of_the_copy() -> None:
    fast, x = convforge.optimize(net()).eval(), randn(2, 1, 8, 8)
    buffer = io.BytesIO()
    torch.save(fast, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(fast), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), fast(x))
        assert all(row.on_engine for row in convforge.report(other))


def test_gradients_are_the_originals() -> None:
    model, x = net(), randn(4, 1, 8, 8)
    fast = convforge.optimize(model)
    for m in (model, fast):
        m(x).square().mean().backward()
    for (name, theirs), ours in zip(model.named_parameters(), fast.parameters(), strict=True):
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# A plain training script
# ---------------------------------------------------------------------------------------------------------------------


LR = 0.01


def digits() -> tuple[Tensor, Tensor]:
    """1,797 photographed digits of 8×8 pixels."""
    load = pytest.importorskip("sklearn.datasets").load_digits
    data = load()
    return torch.from_numpy(data.images).float().unsqueeze(1) / 16, torch.from_numpy(data.target)


def training(prepare: Callable[[nn.Module], nn.Module], last: bool = False) -> tuple[list[float], nn.Module]:
    """Somebody's script: 50 steps of SGD with momentum from one seed. Its losses, and the model."""
    images, labels = digits()
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    model = prepare(Net()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(50):
        batch = order[step * 32 : step * 32 + 32]
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def drift(losses: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def test_a_plain_training_script_has_the_same_losses_within_float32_noise() -> None:
    """What float32 noise is, torch itself shows: the same script in another memory format, with weights moved by one
    unit in the last place, and in one thread. Ours stays within twice the furthest of these."""

    def nudged(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, torch.inf)))
        return model

    theirs, plain = training(lambda model: model)
    noise = [
        drift(theirs, training(lambda model: model.to(memory_format=torch.channels_last), last=True)[0]),
        drift(theirs, training(nudged)[0]),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        noise.append(drift(theirs, training(lambda model: model)[0]))
    finally:
        torch.set_num_threads(threads)
    ours, fast = training(convforge.optimize)
    found = drift(theirs, ours)
    assert all(row.on_engine for row in convforge.report(fast))
    assert theirs[0] > 2, "from guessing"
    assert sum(theirs[-5:]) / 5 < 0.5, "to knowing: else nothing would be shown"
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6), "the first loss has seen no update yet"
    assert found <= 2 * max(noise), f"ours drifts by {found:.1e}, torch itself by {noise}"
    assert max(noise) < 0.01, "noise that large would hide anything"
    images, labels = digits()
    scores = [float((m.eval()(images).argmax(1) == labels).float().mean()) for m in (plain, fast)]
    assert abs(scores[0] - scores[1]) < 0.01


def test_the_same_script_twice_is_the_same_to_the_bit() -> None:
    first, _ = training(convforge.optimize)
    again, _ = training(convforge.optimize)
    assert first == again


def test_training_in_bfloat16_autocast_learns() -> None:
    images, labels = digits()
    torch.manual_seed(0)
    model = convforge.optimize(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        batch = slice(step * 32, step * 32 + 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


# ---------------------------------------------------------------------------------------------------------------------
# What modules carry
# ---------------------------------------------------------------------------------------------------------------------


def test_hooks_are_kept_and_called() -> None:
    model = net()
    calls: list[str] = []
    model.stem[0].register_forward_hook(lambda *_: calls.append("forward"))
    model.stem[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    model.stem[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    fast = convforge.optimize(model)
    fast(randn(2, 1, 8, 8).requires_grad_()).sum().backward()
    assert calls == ["before", "forward", "backward"]


def test_a_module_used_twice_is_still_one() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    fast = convforge.optimize(model)
    assert fast[0] is fast[2]
    assert len(list(fast.parameters())) == 2
    torch.testing.assert_close(fast(randn(1, 4, 6, 6)), model(randn(1, 4, 6, 6)), rtol=1e-5, atol=1e-5)
    assert len(convforge.report(fast)) == 1


def test_weights_that_two_layers_share_are_still_shared() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    model[1].weight = model[0].weight
    fast = convforge.optimize(model)
    assert fast[0].weight is fast[1].weight
    assert fast[0].weight is not model[0].weight


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrized_layers(wrap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Conv2d(4, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    fast = convforge.optimize(model)
    x = randn(2, 4, 6, 6)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert [row.on_engine for row in convforge.report(fast)] == [True, True]
    assert list(fast.state_dict()) == list(model.state_dict())
    again = copy.deepcopy(fast)
    assert torch.equal(again(x), fast(x))
    again.train()(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    nn.utils.parametrize.remove_parametrizations(fast[0], "weight")
    assert type(fast[0]) is Conv2d
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert type(model[0]) is not Conv2d


def test_a_single_layer_is_a_model() -> None:
    layer = nn.Conv2d(3, 4, 3)
    fast = convforge.optimize(layer)
    assert type(fast) is Conv2d
    assert type(layer) is nn.Conv2d
    assert convforge.report(fast)[0].name == ""


def test_a_model_without_convolutions() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fast = convforge.optimize(model)
    assert convforge.report(fast) == ()
    assert "0 of 0" in str(convforge.report(fast))
    assert torch.equal(fast(randn(2, 4)), model(randn(2, 4)))


def test_meta_and_other_dtypes() -> None:
    for model in (nn.Conv2d(3, 4, 3, device="meta"), nn.Conv2d(3, 4, 3).double(), nn.Conv2d(3, 4, 3).bfloat16()):
        assert type(convforge.optimize(model)) is Conv2d


def test_dilated_padded_and_grouped_layers_of_every_padding_mode() -> None:
    for mode in ("zeros", "reflect", "replicate", "circular"):
        model = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=2, dilation=2, padding_mode=mode), nn.Conv2d(8, 6, 3, 2, groups=2)
        )
        x = randn(2, 4, 9, 8)
        torch.testing.assert_close(convforge.optimize(model)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_data_parallel_wrappers_and_averaged_models() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(net())
    fast = convforge.optimize(averaged)
    assert all(row.on_engine for row in convforge.report(fast))
    assert torch.allclose(fast.eval()(randn(2, 1, 8, 8)), averaged.eval()(randn(2, 1, 8, 8)), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The report
# ---------------------------------------------------------------------------------------------------------------------


class Doubled(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


def test_the_report_has_a_row_for_every_convolution_and_its_reason() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Conv2d(3, 8, 3),
            "line": nn.Conv1d(3, 8, 3),
            "volume": nn.Conv3d(3, 8, 3),
            "up": nn.ConvTranspose2d(3, 8, 3),
            "up normed": nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(3, 8, 3)),
            "up own": type("Own", (nn.ConvTranspose2d,), {})(3, 8, 3),
            "up line": nn.ConvTranspose1d(3, 8, 3),
            "lazy": nn.LazyConv2d(8, 3),
            "own": Doubled(3, 8, 3),
            "normed": nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
            "complex": nn.Conv2d(3, 8, 3, dtype=torch.complex64),
            "dense": nn.Linear(3, 8),
        }
    )
    fast = convforge.optimize(model)
    rows = {row.name: row for row in convforge.report(fast)}
    ups = ["up", "up normed", "up own", "up line"]
    assert list(rows) == ["plain", "line", "volume", *ups, "lazy", "own", "normed", "complex"]
    assert {name for name, row in rows.items() if row.on_engine} == {"plain", "normed", "up", "up normed"}
    for name, words in {
        "line": "not a 2-D convolution",
        "volume": "not a 2-D convolution",
        "up own": "it is a subclass of ConvTranspose2d",
        "up line": "not a 2-D convolution",
        "lazy": "run the model once",
        "own": "Doubled",
        "complex": "complex64",
    }.items():
        assert words in rows[name].reason
    assert rows["plain"].weight_shape == (8, 3, 3, 3)
    assert rows["lazy"].weight_shape == ()
    assert all(row.reason for row in rows.values())
    text = str(convforge.report(fast))
    assert "4 of 11 convolutions on the engine" in text
    assert all(name in text for name in rows)


def test_subclasses_that_compute_something_of_their_own_keep_computing_it() -> None:
    model = nn.Sequential(Doubled(3, 4, 3), nn.Conv2d(4, 4, 3))
    fast, x = convforge.optimize(model), randn(1, 3, 8, 8)
    assert type(fast[0]) is Doubled
    assert type(fast[1]) is Conv2d
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_report_of_a_model_that_was_not_optimized_says_so() -> None:
    rows = convforge.report(net())
    assert not any(row.on_engine for row in rows)
    assert all("convforge.optimize" in row.reason for row in rows)
    assert f"0 of {len(rows)}" in str(rows)


def test_the_report_as_data() -> None:
    import json

    rows = convforge.report(convforge.optimize(net()))
    data: list[dict[str, Any]] = json.loads(json.dumps(rows.to_json()))
    assert [row["name"] for row in data] == ["stem.0", "block.first", "block.second", "down"]
    assert data[0]["weight_shape"] == [16, 1, 3, 3]
    assert data[0].keys() == {"name", "kind", "weight_shape", "on_engine", "reason", "kept_bytes"}


def test_a_lazy_layer_that_has_run_is_taken() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3))
    x = randn(1, 3, 6, 6)
    model(x)
    fast = convforge.optimize(model)
    assert convforge.report(fast)[0].on_engine
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_traced_models_are_refused() -> None:
    for model in (
        torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3))),
        torch.jit.trace(net().eval(), randn(1, 1, 8, 8)),
    ):
        with pytest.raises(UserError, match="scripted"):
            convforge.optimize(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"torch\.compile\(convforge\.optimize\(model\)\)"):
        convforge.optimize(torch.compile(net()))  # type: ignore[arg-type]


def test_models_that_cannot_be_copied_are_refused() -> None:
    model = net()
    model.kept = model(randn(1, 1, 8, 8))  # a tensor with a history
    with pytest.raises(UserError, match="Net cannot be copied") as raised:
        convforge.optimize(model)
    assert "detach" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", [None, "resnet18", nn.Conv2d, [nn.Conv2d(1, 1, 1)], {"weight": torch.ones(1)}])
def test_what_is_no_model_is_named(model: Any) -> None:
    with pytest.raises(UserError, match=rf"not {type(model).__name__}\."):
        convforge.optimize(model)


def test_the_report_of_what_is_no_model_is_refused() -> None:
    with pytest.raises(UserError, match="str"):
        convforge.report("resnet18")  # type: ignore[arg-type]
