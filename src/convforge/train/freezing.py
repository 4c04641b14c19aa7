"""A first stage in which only the last layer learns: the layers before it know something already, and the gradients
of a last layer that is random would shake them."""

from __future__ import annotations

from torch import nn


def last_layer(model: nn.Module) -> nn.Module | None:
    """The last layer that has a matrix of weights: it answers with the classes. None where no layer has one."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None


def freeze(model: nn.Module, frozen: bool) -> None:
    """Let all parameters learn, or, if `frozen`, those of the last layer alone.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> freeze(net, True)
    >>> [parameter.requires_grad for parameter in net.parameters()]
    [False, False, True, True]
    """
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    if frozen and (layer := last_layer(model)) is not None:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)


def train(model: nn.Module, frozen: bool) -> None:
    """Training mode; of a `frozen` model for the last layer alone, lest its batch norms forget their statistics."""
    model.train(not frozen)
    if frozen and (layer := last_layer(model)) is not None:
        layer.train()
