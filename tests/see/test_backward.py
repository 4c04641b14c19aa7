"""Gradients of weights taken apart: the products add up to autograd's, in every kind of convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convforge.errors import UserError
from convforge.nn import ConvTranspose2d
from convforge.see.arithmetic import unit
from convforge.see.backward import Backward
from convforge.see.network import Network, NotThere
from convforge.see.pictures import InMemory, Pictures
from convforge.see.verdict import Verdicts

from .networks import SHAPE, Kinds, Standardised, opened


def backward(make: Any, shape: tuple[int, int, int] = SHAPE, **settings: Any) -> tuple[Backward, Network, Pictures]:
    network = opened(make, shape, **settings)
    random = np.random.default_rng(0)
    images = [InMemory("one", random.integers(0, 256, shape, np.uint8), "b")]
    pictures = Pictures([], shape, network.mean, network.std, in_memory=images)
    return Backward(network, pictures, Verdicts(network, pictures)), network, pictures


def sums(which: Backward, layer: int, target: int, shape: tuple[int, ...]) -> np.ndarray:
    """The sum of the products of every weight."""
    found = np.zeros(shape)
    for at in np.ndindex(*shape):
        found[at] = which.weight(layer, 0, target, *at).total
    return found


@pytest.mark.parametrize("name", ["stem", "depthwise", "dilated", "grouped"])
def test_products_add_up_to_autograds_gradient(name: str) -> None:
    which, network, pictures = backward(Kinds)
    layer = next(layer.index for layer in network.layers if layer.name == name)
    weight = getattr(network.model, name).weight
    weight.requires_grad_()
    F.cross_entropy(network.model(pictures.input(0)[None]), torch.tensor([2])).backward()
    expected = weight.grad.numpy()
    weight.requires_grad_(False)
    came = which.of(layer, 0, 2)
    assert np.allclose(came.gradient, expected, atol=1e-6)
    part = tuple(min(3, n) for n in expected.shape[:2]) + expected.shape[2:]
    found = sums(which, layer, 2, part)
    scale = float(np.abs(expected).max())
    assert np.allclose(found, expected[: part[0], : part[1]], atol=1e-5 * max(1.0, scale))
    assert scale > 1e-6


def test_a_layer_that_is_called_twice_has_the_gradient_of_each_call() -> None:
    which, network, pictures = backward(Kinds)
    first, second = (layer.index for layer in network.layers if layer.name == "twice")
    weight = network.model.twice.weight
    weight.requires_grad_()
    F.cross_entropy(network.model(pictures.input(0)[None]), torch.tensor([1])).backward()
    both = which.of(first, 0, 1).gradient + which.of(second, 0, 1).gradient
    assert np.allclose(both, weight.grad, atol=1e-6)
    assert which.weight(first, 0, 1, 3, 2, 0, 1).total == pytest.approx(
        float(which.of(first, 0, 1).gradient[3, 2, 0, 1]), abs=1e-6
    )
    assert not np.allclose(which.of(first, 0, 1).gradient, which.of(second, 0, 1).gradient)


def up(kind: Any = nn.ConvTranspose2d) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2), nn.ReLU(), kind(4, 6, 3, (2, 3), (1, 0), (1, 2), groups=2), nn.Tanh(),
        kind(6, 3, (2, 3), dilation=(1, 2), bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, ConvTranspose2d])
def test_transposed_convolutions_slide_forward_and_backward(kind: Any) -> None:
    which, network, pictures = backward(lambda: up(kind), (2, 11, 9))
    image = pictures.input(0)
    model: Any = network.model
    for index in (2, 4):
        layer = network.layers[index]
        assert layer.kind == "transposed"
        moment = network.look("image", lambda: image, index)
        convolution = moment.convolution
        assert convolution is not None
        with torch.no_grad():
            made = model[: index + 1](image[None])[0]
        bias = None if convolution.bias is None else convolution.bias.numpy()
        for channel, row, column in ((0, 0, 0), (2, 3, 4), (1, made.shape[1] - 1, made.shape[2] - 1)):
            found = unit(
                convolution.spec, moment.input[0].numpy(), convolution.weight.numpy(), bias, channel, row, column
            )
            assert found.total == pytest.approx(float(made[channel, row, column]), abs=1e-5)
            assert found.output_shape == tuple(made.shape)
        weight = model[index].weight
        weight.requires_grad_()
        F.cross_entropy(model(image[None]), torch.tensor([0])).backward()
        gradient = which.of(index, 0, 0).gradient
        assert gradient.shape == tuple(convolution.weight.shape)
        assert np.allclose(np.sort(gradient.ravel()), np.sort(weight.grad.numpy().ravel()), atol=1e-6)
        assert np.allclose(sums(which, index, 0, gradient.shape), gradient, atol=1e-6)
        weight.requires_grad_(False)


def test_one_step_changes_what_it_says() -> None:
    which, network, pictures = backward(Kinds)
    layer = next(layer.index for layer in network.layers if layer.name == "dilated")
    before, alone, whole = which.step(layer, 0, 3, 0.05)
    x = pictures.input(0)[None]
    state = {name: value.clone() for name, value in network.model.state_dict().items()}

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(network.model(x).double(), torch.tensor([3])))

    assert before.loss == pytest.approx(loss(), abs=1e-5)
    assert before.probability == pytest.approx(np.exp(-loss()), abs=1e-5)
    network.model.requires_grad_()
    F.cross_entropy(network.model(x), torch.tensor([3])).backward()
    with torch.no_grad():
        network.model.dilated.weight -= 0.05 * network.model.dilated.weight.grad
    assert alone.loss == pytest.approx(loss(), abs=1e-5)
    network.model.load_state_dict(state)
    torch.optim.SGD(network.model.parameters(), 0.05).step()
    assert whole.loss == pytest.approx(loss(), abs=1e-5)
    assert whole.loss < before.loss
    network.model.load_state_dict(state)


def test_the_loss_is_for_the_true_class_where_it_is_known() -> None:
    which, _, _ = backward(Kinds, classes=tuple("abcde"))
    assert which.target(0, None) == 1
    assert which.target(0, 4) == 4
    with pytest.raises(NotThere, match="there is no class 5"):
        which.target(0, 5)
    which, network, pictures = backward(Kinds)
    assert which.target(0, None) == int(network.model(pictures.input(0)[None]).argmax())


class Own(nn.Module):
    """A layer that computes its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Standardised(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_what_has_no_gradient_to_compare_with_is_refused_in_a_sentence() -> None:
    which, _, _ = backward(Own)
    with pytest.raises(UserError, match="the weights of 'conv' are computed in its own code"):
        which.of(0, 0, 0)
    which, network, _ = backward(Kinds)
    with pytest.raises(NotThere, match="is not a 2-D convolution"):
        which.of(next(layer.index for layer in network.layers if layer.name == "norm"), 0, 0)
    with pytest.raises(UserError, match="there is no weight 0, 3, 0, 0: there are 8×3×7×7"):
        which.weight(0, 0, 0, 0, 3, 0, 0)
