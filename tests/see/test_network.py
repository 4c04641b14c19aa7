"""Networks opened to look into: the layers are those of the plan, and what is seen of them is what they made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planning.plan_networks import NETWORKS as PLANNED
from torch import Tensor, nn

from convforge.errors import UserError
from convforge.planning import plan
from convforge.precision import get_precision
from convforge.see.network import Network, NotThere
from convforge.see.watch import watch
from convforge.spec import SpecError

from .networks import NETWORKS, SHAPE, opened

IMAGE = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def image() -> Tensor:
    return IMAGE


@pytest.mark.parametrize("make", [*NETWORKS.values(), *PLANNED.values()], ids=[*NETWORKS, *PLANNED])
def test_the_layers_are_the_plans_and_every_one_can_be_seen(make: Callable[[], nn.Module]) -> None:
    shape = (3, 64, 64)
    network = opened(make, shape)
    rows = plan(network.model, shape).rows
    assert [layer.row for layer in network.layers] == list(rows)
    assert [layer.index for layer in network.layers] == list(range(len(rows)))
    x = torch.rand(shape)
    for layer in network.layers:
        if not layer.has_maps:
            with pytest.raises(NotThere, match="was not called"):
                network.look("x", lambda: x, layer.index)
            continue
        moment = network.look("x", lambda: x, layer.index)
        assert moment.output is not None
        assert tuple(moment.output.shape) == layer.row.output_shape
        if layer.path is not None:
            assert network.model.get_submodule(layer.path) is layer.module
    if make is not PLANNED["inception"]:  # what its last layer makes is one of three parts of the result
        last = max(layer.index for layer in network.layers if layer.has_maps)
        output = network.look("x", lambda: x, last).output
        assert output is not None
        torch.testing.assert_close(output.flatten(), _run(network, x).flatten())


def _run(network: Network, x: Tensor) -> Tensor:
    from convforge import set_precision

    with set_precision("exact"), torch.no_grad():
        result: Tensor = network.model(x[None])
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_what_layers_made_before_others_wrote_over_them(name: str) -> None:
    network = opened(NETWORKS[name])
    found: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda m, x, y: found.append((m, x[0].clone(), y.clone())))
        for module in network.model.modules()
        if not list(module.children())
    ]
    _run(network, IMAGE)
    for hook in hooks:
        hook.remove()
    layers = [layer for layer in network.layers if layer.module is not None]
    assert len(layers) == len(found)
    for layer, (module, _, made) in zip(layers, found, strict=True):
        assert layer.module is module
        moment = network.look("image", image, layer.index)
        assert moment.output is not None
        assert torch.equal(moment.output, made), layer.name
        conv = moment.convolution
        if conv is not None:
            assert moment.input is not None
            again = F.conv2d(_padded(moment.input, conv.spec, conv.size), conv.weight, conv.bias, conv.spec.stride, 0,
                             conv.spec.dilation, conv.spec.groups)  # fmt: skip
            assert moment.convolved is not None
            torch.testing.assert_close(again, moment.convolved, rtol=1e-4, atol=1e-5)


def _padded(x: Tensor, spec: Any, size: tuple[int, int]) -> Tensor:
    (top, bottom), (left, right) = spec.sides(size)
    return F.pad(x, (left, right, top, bottom), mode="constant" if spec.padding_mode == "zeros" else spec.padding_mode)


def test_each_kind_of_border_is_seen_as_the_layers_own_padding() -> None:
    layers = {layer.name: layer for layer in opened(NETWORKS["borders"]).layers}
    specs = {name: layer.convolution.spec for name, layer in layers.items() if layer.convolution}
    assert {name: spec.padding_mode for name, spec in specs.items()} == {
        "reflect": "reflect", "replicate": "replicate", "circular": "circular", "outside": "zeros",
        "standardised": "zeros", "conv2d": "zeros",
    }  # fmt: skip
    assert specs["outside"].padding == ((0, 1), (0, 1))
    assert specs["replicate"].padding == ((1, 1), (0, 0))
    assert layers["conv2d"].input_shape == (8, 13, 10)  # padded by the model's code, in no layer


def test_a_layer_that_is_more_than_a_convolution_shows_the_convolutions_own_numbers() -> None:
    network = opened(NETWORKS["borders"])
    layer = next(layer for layer in network.layers if layer.name == "standardised")
    moment = network.look("image", image, layer.index)
    assert moment.convolution is not None
    assert moment.convolution.weight.mean((1, 2, 3)).abs().max() < 1e-6  # the weights that were used, not those stored
    assert moment.convolved is not None
    assert moment.output is not None
    assert moment.convolved.min() < 0
    assert torch.equal(moment.convolved.relu(), moment.output)


def test_a_layer_that_is_called_twice_is_two_layers() -> None:
    network = opened(NETWORKS["kinds"])
    first, second = [layer for layer in network.layers if layer.name == "twice"]
    assert (first.occurrence, second.occurrence) == (0, 1)
    assert first.module is second.module
    assert not torch.equal(*(network.look("image", image, one.index).output for one in (first, second)))  # type: ignore[arg-type]


def test_a_look_runs_the_model_once_and_no_further_than_needed() -> None:
    ran: list[str] = []
    network = opened(NETWORKS["kinds"])
    for name in ("stem", "dilated", "head"):
        network.model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    for index in (0, 5, 3):
        network.look("image", image, index)
    assert ran == ["stem", "dilated", "head"]
    ran.clear()
    small = opened(NETWORKS["kinds"], keep=60_000)  # less than all maps together
    for name in ("dilated", "head"):
        small.model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    small.look("image", image, 5)
    small.look("image", image, 5)
    assert ran == ["dilated"]
    assert small._kept.bytes <= 60_000
    for key in range(6):
        small.look(key, image, 5)
    assert small._kept.bytes <= 60_000


def test_a_layer_whose_maps_are_larger_than_all_that_is_kept_is_refused() -> None:
    network = opened(NETWORKS["kinds"], keep=10_000)
    with pytest.raises(UserError, match="'stem' take 0 MiB: open the model with a smaller --input"):
        network.look("image", image, 0)


def test_many_threads_see_the_same_and_no_two_forwards_run_at_once() -> None:
    running, most, calls = 0, 0, 0
    lock = threading.Lock()

    class Counting(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            nonlocal running, most, calls
            with lock:
                running, calls = running + 1, calls + 1
                most = max(most, running)
            try:
                return super().forward(input)
            finally:
                with lock:
                    running -= 1

    network = Network(nn.Sequential(Counting(1, 2, 3), nn.ReLU(inplace=True)), (1, 9, 9))
    images = [torch.full((1, 9, 9), float(n)) for n in range(4)]
    calls = 0
    found: dict[tuple[int, int], Tensor] = {}

    def look(thread: int) -> None:
        for n in range(4):
            moment = network.look(n, lambda n=n: images[n], 1)
            assert moment.output is not None
            found[thread, n] = moment.output

    threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, calls) == (1, 4)
    for (_, n), output in found.items():
        assert torch.equal(output, network.model(images[n][None]))


def test_the_receptive_field_of_every_unit_is_where_the_gradient_is() -> None:
    network = opened(NETWORKS["kinds"])
    layer = next(layer for layer in network.layers if layer.name == "grouped")
    network.model.double()
    _, height, width = layer.map_shape
    for row, column in [(0, 0), (height // 2, width // 2), (height - 1, width - 1)]:
        x = torch.rand(1, *SHAPE, dtype=torch.float64, requires_grad=True)
        made: list[Tensor] = []
        hook = network.model.grouped.register_forward_hook(lambda *given, made=made: made.append(given[2]))
        network.model(x)
        hook.remove()
        made[0][0, :, row, column].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(0).nonzero()
        top, left, tall, wide = network.box(layer.index, row, column)  # type: ignore[misc]
        assert seen[:, 0].min() >= max(0, top)
        assert seen[:, 0].max() < top + tall
        assert seen[:, 1].min() >= max(0, left)
        assert seen[:, 1].max() < left + wide
        assert layer.start is not None
        assert layer.jump is not None
        assert (top, left) == (layer.start[0] + row * layer.jump[0], layer.start[1] + column * layer.jump[1])
    head = next(layer for layer in network.layers if layer.name == "head")
    assert network.box(head.index, 0, 0) == "all"
    with pytest.raises(NotThere, match="no unit at row 1"):
        network.box(head.index, 1, 0)


def test_layers_and_images_that_are_not_there() -> None:
    network = opened(NETWORKS["kinds"])
    for index in (-1, len(network.layers)):
        with pytest.raises(NotThere, match="there is no layer"):
            network.look("image", image, index)


class Failing(nn.Module):
    """Fails at the second real image, not before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and x.flatten()[0] == 3:
            raise ZeroDivisionError("by zero\nand more")
        return self.conv(x)


def test_a_model_that_fails_says_so_in_one_sentence_and_can_be_looked_into_afterwards() -> None:
    network = Network(Failing(), (1, 8, 8), name="nets:failing")
    with pytest.raises(UserError, match=r"^nets:failing fails with an image of 1×8×8: ZeroDivisionError: by zero\.$"):
        network.look("three", lambda: torch.full((1, 8, 8), 3.0), 0)
    assert network.look("two", lambda: torch.full((1, 8, 8), 2.0), 0).output is not None
    assert get_precision() == "fast"


def test_a_model_that_does_not_take_such_images_is_refused_with_the_layers_name() -> None:
    with pytest.raises(SpecError, match=r"layer '0'.*takes 3 channels"):
        Network(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 8, 8))
    with pytest.raises(UserError, match="mean must have 3 numbers"):
        Network(nn.Conv2d(3, 4, 3), (3, 8, 8), mean=(0.5,))


class Turning(nn.Module):
    """Goes one way or the other, as the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.bright(x) if x.mean() > 0.5 else self.dark(x)


def test_a_model_that_decides_by_the_image_shows_what_it_does_with_each() -> None:
    network = Network(Turning(), (1, 8, 8))
    assert network.look("dark", lambda: torch.zeros(1, 8, 8), 1).name == "dark"
    with pytest.raises(NotThere, match="does not come to 'dark'"):
        network.look("bright", lambda: torch.ones(1, 8, 8), 1)
    assert any("asks for values" in note for note in network.notes)


def test_half_precision_and_odd_outputs() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"spectrum": torch.fft.rfft2(self.conv(x).float()), "none": None}

    network = Network(Odd().bfloat16(), (1, 8, 8))
    moment = network.look("image", lambda: torch.ones(1, 8, 8), 0)
    assert moment.output is not None
    assert moment.output.dtype is torch.bfloat16


def test_watching_stops_after_the_last_layer_that_is_wanted() -> None:
    network = opened(NETWORKS["kinds"])
    everything = watch(network.model, IMAGE[None])
    some = watch(network.model, IMAGE[None], wanted={0, 3})
    assert sorted(some) == [0, 3]
    for index, moment in some.items():
        assert moment.output is not None
        assert torch.equal(moment.output, everything[index].output)  # type: ignore[arg-type]
    without = watch(network.model, IMAGE[None], maps=False)
    assert {index for index, moment in without.items() if moment.convolution} == {
        index for index, moment in everything.items() if moment.convolution
    }
    assert all(moment.output is None for moment in without.values())
