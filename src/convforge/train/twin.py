"""The network beside its fully connected twin: what sharing weights saves, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..models.checkpoint import Architecture
from .data import Data
from .evaluation import evaluate, normalise
from .ranks import ALONE, Ranks
from .stop import Stop

FOLDER = "dense-twin"


@dataclass(frozen=True)
class Measured:
    """What a trained network costs and gives. Bytes and seconds; accuracies from 0 to 1, on images as they are.
    There are no seconds without at least one whole epoch.

    `weight_bytes` is what it takes to keep the network, `training_bytes` what it takes to train it: weights, gradients,
    the optimiser's two moments, and the activations that one batch keeps for the backward pass.
    """

    network: str
    parameters: int
    weight_bytes: int
    training_bytes: int
    seconds_per_epoch: float | None
    train_accuracy: float
    test_accuracy: float


def measure(
    model: nn.Module,
    architecture: Architecture,
    data: Data,
    batch: int,
    epochs: Sequence[Mapping[str, float]],
    stop: Stop,
    ranks: Ranks = ALONE,
) -> Measured | None:
    """Measure a network that was trained for `epochs`, all `ranks` together; None as soon as `stop` was asked."""
    train, test = (evaluate(model, split, architecture, stop, ranks=ranks) for split in (data.train, data.test))
    if train is None or test is None:
        return None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Measured(
        network=architecture.family,
        parameters=parameters,
        weight_bytes=weight_bytes,
        training_bytes=4 * weight_bytes
        + activation_bytes(
            model, normalise(data.train.take(torch.arange(min(batch, len(data.train)))).images, architecture)
        ),
        seconds_per_epoch=median(epoch["seconds"] for epoch in epochs) if epochs else None,
        train_accuracy=train[1],
        test_accuracy=test[1],
    )


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass of these images keeps for the backward pass, each memory counted once, weights not.

    >>> import torch
    >>> layer = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    >>> activation_bytes(layer, torch.zeros(2, 8))  # the input, 2·8 floats, and the ReLU's output, 2·4 floats
    96
    """
    model = deepcopy(model).train()  # batch norms gather statistics on the way
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Whatever the forward pass keeps must stay alive to the end, or two tensors could get the same address.
    with saved_tensors_hooks(remember, lambda tensor: tensor):
        logits = model(images)
    del logits
    return sum(kept.values())


def as_rows(measured: Sequence[Measured]) -> list[dict[str, object]]:
    """For tables: one row a network, columns by the names that people read."""
    return [
        {
            "network": each.network,
            "parameters": each.parameters,
            "weights": _megabytes(each.weight_bytes),
            "memory": _megabytes(each.training_bytes),
            "s/epoch": "–" if each.seconds_per_epoch is None else f"{each.seconds_per_epoch:.2f}",
            "train acc.": f"{each.train_accuracy:.2%}",
            "test acc.": f"{each.test_accuracy:.2%}",
        }
        for each in measured
    ]


def as_table(measured: Sequence[Measured]) -> Table:
    """Side by side, a row a network."""
    rows = as_rows(measured)
    table = Table(
        title="The convolutional network and its fully connected twin, on the same data",
        caption="memory: to train, with gradients, moments and one batch's activations; s/epoch: the median",
    )
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    return table


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"
