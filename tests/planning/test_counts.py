"""Sizes, parameters, MACs and memory, on the lesson's numbers and against torch's own counter."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plan_networks import NETWORKS, ResNet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import convforge
from convforge.errors import UserError
from convforge.planning import Plan, plan
from convforge.spec import SpecError


def flops(model: Callable[[Tensor], object], shape: tuple[int, ...]) -> int:
    """What torch counts; its fused recurrent layers only where they are taken apart, which warns of other devices."""
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        # Gradients keep attention off its fused inference path, which torch's counter does not see into.
        with counter, torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            model(torch.randn(shape))
    return int(counter.get_total_flops())


# --- the lesson -------------------------------------------------------------------------------------------------------


def test_the_lessons_numbers() -> None:
    counted = plan(nn.Conv2d(3, 64, 3, padding="same", bias=False), (3, 224, 224))
    (row,) = counted.rows
    assert row.parameters == 1_728
    assert row.output_shape == (1, 64, 224, 224)
    assert row.dense is not None
    assert row.dense.to_neurons == 150_528_000
    assert round(row.dense.to_neurons_factor) == 87_111
    assert row.dense.same_maps == 483_385_147_392


def test_a_real_dense_layer_has_the_weights_that_the_comparison_claims() -> None:
    with torch.device("meta"):
        dense = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 1000, bias=False))
    assert plan(dense, (3, 224, 224)).totals.parameters == 150_528_000


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 3)])
def test_seven_by_seven(stride: int, size: int) -> None:
    (row,) = plan(nn.Conv2d(1, 1, 3, stride), (1, 7, 7)).rows
    assert row.output_shape == (1, 1, size, size)


def test_three_convolutions_fit_and_the_fourth_does_not() -> None:
    chain = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3)))
    assert [row.output_shape[2:] for row in plan(chain, (1, 7, 7)).rows] == [(5, 5), (3, 3), (1, 1)]
    chain.append(nn.Conv2d(1, 1, 3))
    with pytest.raises(
        SpecError, match=r"layer '3' \(Conv2d\).*1×1 input: H_out = ⌊\(1 \+ 0 \+ 0 − 3\) / 1⌋ \+ 1 = -1"
    ):
        plan(chain, (1, 7, 7))


def test_same_keeps_the_size_for_ever() -> None:
    chain = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding="same") for _ in range(50)))
    assert {row.output_shape for row in plan(chain, (1, 7, 7)).rows} == {(1, 1, 7, 7)}


# --- agreement with torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_and_parameters_are_torchs(name: str) -> None:
    model = NETWORKS[name]().eval()
    counted = plan(model, (3, 32, 48), batch=2)
    assert 2 * counted.totals.macs == flops(model, (2, 3, 32, 48)) > 0
    assert counted.totals.parameters == sum(p.numel() for p in model.parameters())
    assert counted.totals.parameter_bytes == 4 * counted.totals.parameters
    with torch.no_grad():
        assert counted.rows[-1].output_shape[2:] in {tuple(model(torch.zeros(2, 3, 32, 48)).shape)[2:], ()}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 5), (2, 1), (2, 1), (1, 2), groups=2),
        nn.Conv2d(4, 8, 4, padding="same", padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect", groups=4),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2),
        nn.ConvTranspose2d(4, 6, 3, (1, 2), 1, 2, dilation=(3, 4)),
        nn.Conv1d(4, 8, 3, padding=1),
        nn.Conv3d(4, 2, 3, groups=2),
        nn.LSTM(12, 5, batch_first=True),
    ],
    ids=repr,
)
def test_layers_are_torchs(layer: nn.Module) -> None:
    shape = {"Conv1d": (1, 4, 12), "Conv3d": (1, 4, 5, 6, 7), "LSTM": (1, 9, 12)}.get(
        type(layer).__name__, (1, 4, 9, 12)
    )
    counted = plan(layer.eval(), shape) if len(shape) > 3 else plan(layer.eval(), shape[1:])
    result = layer(torch.randn(shape))
    assert 2 * counted.totals.macs == flops(layer, shape) > 0
    assert counted.rows[0].output_shape == tuple((result[0] if isinstance(result, tuple) else result).shape)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):  # and on the engine it is the same layer
        ours = plan(convforge.optimize(layer), shape)
        assert (ours.totals, str(ours.rows[0].kernel)) == (counted.totals, str(counted.rows[0].kernel))


@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_our_layer_and_operator_are_planned_as_torchs(padding: Any, mode: str) -> None:
    settings = {"padding": padding, "padding_mode": mode, "dilation": (1, 2), "groups": 2}
    theirs = plan(nn.Conv2d(4, 6, (3, 4), **settings), (4, 12, 12)).rows[0]
    assert plan(convforge.nn.Conv2d(4, 6, (3, 4), **settings), (4, 12, 12)).rows[0] == theirs
    assert theirs.dense is not None
    called = plan(lambda x: convforge.conv2d(x, torch.ones(6, 2, 3, 4), None, 2, 1, 1, 2), (4, 12, 12)).rows
    assert [(row.type, row.macs, row.receptive_field) for row in called] == [
        ("conv2d", (6 * 6) * (6 * 2 * 3 * 4), (3, 4))
    ]


def test_optimized_models_have_the_same_plan() -> None:
    model = ResNet()
    assert plan(convforge.optimize(model), (3, 32, 32)).rows == plan(model, (3, 32, 32)).rows


# --- what a row says --------------------------------------------------------------------------------------------------


def test_padding_is_what_it_works_out_to() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 3, 4, padding="same"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 3, 3, padding=(2, 1), padding_mode="reflect"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate"),
        nn.AvgPool2d(3, 2, 1),
    )
    rows = plan(layers, (3, 8, 8)).rows
    assert [row.padding for row in rows] == [
        ((1, 2), (1, 2)), ((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (1, 1)), ((1, 1), (1, 1)),
    ]  # fmt: skip
    assert [row.padding_mode for row in rows] == ["zeros", "circular", "reflect", "replicate", "zeros"]
    # Padding is not part of what a dense layer would be given.
    assert rows[1].dense is not None
    assert rows[1].dense.to_neurons == 3 * 8 * 8 * 1000


def test_shared_layers_count_their_parameters_once() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    counted = plan(nn.Sequential(layer, nn.ReLU(), layer), (3, 8, 8))
    assert [(row.parameters, row.shared) for row in counted.rows] == [(84, False), (0, False), (0, True)]
    assert counted.totals.parameters == 84
    assert counted.rows[2].macs == counted.rows[0].macs > 0


def test_memory_is_counted_where_it_is_new() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.ReLU(), nn.Flatten(), nn.Dropout())
    memory = [row.activation_bytes for row in plan(layers, (3, 10, 10), batch=3).rows]
    assert memory == [3 * 8 * 8 * 8 * 4, 0, 3 * 8 * 8 * 8 * 4, 0, 0]
    assert plan(layers.half(), (3, 10, 10)).rows[0].activation_bytes == 8 * 8 * 8 * 2


def test_parametrized_layers_are_layers() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    (row,) = plan(nn.Sequential(layer), (3, 8, 8)).rows
    assert (row.name, row.type, row.parameters) == ("0", "Conv2d", 3 * 8 * 9 + 8 + 8)


def test_parameters_outside_of_layers_are_listed() -> None:
    rows = {row.name: row for row in plan(NETWORKS["functional"](), (3, 16, 16)).rows}
    assert rows["conv2d"].parameters == 8 * 27
    assert rows["conv2d_2"].kernel == (1, 5)
    assert rows["linear"].parameters == 40
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.add_module("unused", nn.Identity())
    model[1].spare = nn.Linear(5, 5)
    assert plan(model, (3, 4, 4)).rows[-1].type == "not called"


def test_functions_can_be_planned() -> None:
    weight = torch.randn(4, 3, 3, 3)

    def edges(x: Tensor) -> Tensor:
        return F.max_pool2d(F.conv2d(x, weight), 2)

    counted = plan(edges, (3, 8, 8))
    assert counted.model == "edges"
    assert [(row.type, row.output_shape) for row in counted.rows] == [
        ("conv2d", (1, 4, 6, 6)),
        ("max_pool2d", (1, 4, 3, 3)),
    ]


def test_a_model_that_looks_at_values_is_run() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dark = nn.Conv2d(1, 2, 3)
            self.bright = nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bright(x) if x.mean() > 0.5 else self.dark(x)

    counted = plan(Picky(), (1, 8, 8))
    assert [row.name for row in counted.rows[:2]] == ["mean", "dark"]
    assert "asks for values" in counted.notes[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # of torch.compile's own imports
def test_compiled_and_meta_models() -> None:
    assert plan(torch.compile(nn.Conv2d(3, 8, 3)), (3, 8, 8)).totals.macs == 36 * 8 * 27
    with torch.device("meta"):
        huge = nn.Conv2d(3, 2**33, 3)
    assert plan(huge, (3, 8, 8)).totals.parameters == 28 * 2**33


def test_exported_programs_can_be_planned() -> None:
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (torch.zeros(1, 3, 8, 8),))
    counted = plan(program.module(), (3, 8, 8))
    assert (counted.totals.macs, counted.totals.parameters) == (36 * 108, 112)


# --- the model stays as it was ----------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Changes itself whenever it is called, in all the ways that modules do."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.calls = self.calls * 2
        self.last = x
        self.fresh = x
        return x


def test_the_model_is_unchanged() -> None:
    model = nn.Sequential(ResNet().layer1, Counting(), nn.Dropout())
    model[0][1].eval()
    model[0][0](torch.randn(1, 8, 6, 6)).sum().backward()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    grads = {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}
    identities = [id(t) for t in (*model.parameters(), *model.buffers())]
    flags = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    plan(model, (8, 16, 16))
    assert torch.equal(random, torch.get_rng_state())
    assert identities == [id(t) for t in (*model.parameters(), *model.buffers())]
    assert flags == [module.training for module in model.modules()]
    assert model[1].last is None
    assert not hasattr(model[1], "fresh")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    for key, parameter in model.named_parameters():
        before = grads[key]
        assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_model_is_unchanged_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)).train()
    with pytest.raises(SpecError):
        plan(model, (3, 8, 8))
    assert all(module.training for module in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert model[0](torch.randn(1, 3, 8, 8)).shape == (1, 4, 6, 6)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 8, 8), r"'0' \(Conv2d\) takes 3 channels, but.* 1 \(1×8×8\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), (1, 7, 7), r"'1' \(Linear\) takes 5 features.*in_features=49"),
        (nn.Sequential(nn.MaxPool2d(9)), (1, 7, 7), r"a 9×9 pooling window cannot be applied.*= 0; use fewer"),
        (nn.Conv2d(1, 1, 9), (1, 7, 7), r"a 9×9 kernel cannot be applied.*; use padding='same' to keep the size\.$"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 9)), (1, 7, 7), r"'1' .*keep the size, or fewer layers\.$"),
        (nn.Conv2d(1, 1, 3, padding=8, padding_mode="reflect"), (1, 7, 7), "padding 8 with padding_mode='reflect'"),
        (nn.ConvTranspose2d(1, 1, 2, padding=4), (1, 3, 3), "transposed 2×2 kernel with padding 4"),
        (nn.Sequential(nn.BatchNorm2d(3)), (4, 7, 7), r"'0' \(BatchNorm2d\) cannot take an input of 1×4×7×7"),
        (nn.LazyConv2d(4, 3), (3, 8, 8), "'weight' has no size yet"),
        (nn.Conv2d(3, 4, 3), (3, 0, 8), r"positive integers such as \(3, 224, 224\)"),
        (nn.Conv2d(3, 4, 3), "3x8x8", "positive integers"),
        (nn.Conv2d(3, 4, 3), (3, 2**40, 2**40), "too large"),
        (nn.Conv2d(3, 4, 3), (3, 2**90, 1), "too large"),
        ("resnet", (3, 8, 8), "must be a torch.nn.Module"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(model: nn.Module, size: tuple[int, ...], words: str) -> None:
    with pytest.raises((UserError, SpecError), match=words) as caught:
        plan(model, size)
    assert "\n" not in str(caught.value)


# --- data -------------------------------------------------------------------------------------------------------------


def test_json_is_exact_and_complete() -> None:
    counted = plan(ResNet(), (3, 64, 64), batch=4)
    data = json.loads(counted.to_json())
    assert data["input_shape"] == [4, 3, 64, 64]
    assert data["totals"]["macs"] == counted.totals.macs == sum(row["macs"] for row in data["rows"])
    assert data["rows"][0]["dense"]["to_neurons"] == 3 * 64 * 64 * 1000
    assert data["rows"][-1]["receptive_field"] == "all"
    assert len(data["rows"]) == len(counted.rows)


def test_batch_multiplies_what_it_should() -> None:
    one, four = (plan(ResNet(), (3, 32, 32), batch=n) for n in (1, 4))
    assert four.totals.macs == 4 * one.totals.macs
    assert four.totals.activation_bytes == 4 * one.totals.activation_bytes
    assert (four.totals.parameters, four.totals.dense) == (one.totals.parameters, one.totals.dense)
    assert plan(ResNet(), (4, 3, 32, 32)) == four
    assert isinstance(four, Plan)
