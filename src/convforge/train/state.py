"""What it takes to continue as if nothing had happened: one file, `training.safetensors`, replaced in one step.

It alone decides how far a run is. It is there from before the first step until the report is written, so a run that has
a checkpoint and no such file is finished. All other files are written before it and cut back to it (the film), or made
from it (checkpoints, metrics, report): a process may die anywhere, and the run goes on as if it had not.

It holds the model, the model as it was after its best epoch, the optimiser's moments, and, as JSON in the file's
metadata, how far the run is. It holds no state
of a random generator, because there is none to hold: the random numbers of a step depend on the seed and the number of
the step alone (`random_numbers`), so a resumed run draws the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import UserError
from ..files import brief, header_is_short, opened, write_atomically
from ..models.checkpoint import portable, read_bytes, read_tensors

STATE = "training.safetensors"
_METRICS_BYTES_AT_MOST = 64 * 2**20
_MOMENTS = ("exp_avg", "exp_avg_sq")

METRIC_NAMES = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "seconds", "images_per_second",
)  # fmt: skip
"""What is known of an epoch: a line of metrics.jsonl."""


@dataclass
class Progress:
    """How far a run is: steps done in all, one mapping of metrics for each epoch done, and the sums of the epoch under
    way: images seen, images recognised, loss added up over images, seconds.

    `begin` is the epoch after which the run was last continued when it had been finished, 0 if it never was; `best` is
    the epoch with the lowest held-out loss, 0 before the first.
    """

    step: int = 0
    begin: int = 0
    best: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    seen: int = 0
    right: int = 0
    loss: float = 0.0
    seconds: float = 0.0

    @property
    def losses(self) -> list[float]:
        """On the held-out images, of each epoch done."""
        return [epoch["test_loss"] for epoch in self.epochs]

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """The metrics of the epoch whose weights are kept as the run's."""
        return self.epochs[self.best - 1] if self.best else None


def random_numbers(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator that depends on its arguments and on nothing else.

    >>> a, b = (torch.rand(1, generator=random_numbers(0, "order", 3)) for _ in range(2))
    >>> bool(a == b), bool(a == torch.rand(1, generator=random_numbers(0, "order", 4)))
    (True, False)
    """
    mixed = np.random.SeedSequence([seed, index, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW the moments that it would make at its first step, so that they can be stored before it, and loaded."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Memory formats must be those of the parameters, or later sums would be rounded in another order.
            optimizer.state[parameter] = {"step": torch.tensor(0.0)} | {
                moment: torch.zeros_like(parameter) for moment in _MOMENTS
            }


Weights: TypeAlias = Mapping[str, Tensor]
"""A state dict."""


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, best: Weights | None
) -> None:
    """Write `training.safetensors`; raises `UserError` if that cannot be done, with the old file intact."""
    tensors = named_tensors(model, optimizer) | {f"best.{name}": tensor for name, tensor in (best or {}).items()}
    content = to_safetensors(portable(tensors), {"progress": json.dumps(asdict(progress))})
    write_atomically(folder / STATE, content)


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, described_by: Path
) -> tuple[Progress, Weights | None]:
    """Put model and optimiser into the state that `save_state` wrote, and say how far the run was, and what its best
    weights are; None before its first epoch, and where no best ones were kept.

    Raises `UserError` that names the file if it is damaged or does not fit the model.
    """
    path = folder / STATE
    progress = _progress(path, _metadata(path))
    places = named_tensors(model, optimizer)
    outline = dict(places)
    if progress.best:
        outline |= {f"best.{name}": tensor for name, tensor in model.state_dict().items()}
    stored = read_tensors(path, outline, described_by)
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(stored[name])
    if not progress.best:
        return progress, None
    return progress, {name: stored[f"best.{name}"] for name in model.state_dict()}


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The epochs of a finished run, from its metrics.jsonl; `UserError` that names the file if they are not there."""
    lines = read_bytes(path, _METRICS_BYTES_AT_MOST).decode(errors="replace").splitlines()
    return _progress(path, f'{{"epochs": [{",".join(lines)}]}}').epochs


def _metadata(path: Path) -> str:
    if not header_is_short(read_bytes(path, at_most=8, whole=False)):
        raise UserError(f"{path} is not a safetensors file; it is damaged, or something else with that name.")
    try:
        with opened(path) as file:
            return str((file.metadata() or {}).get("progress", ""))
    except (SafetensorError, OSError) as reason:
        raise UserError(f"{path} cannot be read ({brief(reason)}); it is damaged or was cut short.") from reason


def named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors themselves, not copies: writing into them changes model and optimiser."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for kind, tensor in optimizer.state[parameter].items():
            tensors[f"optimizer.{kind}.{name}"] = tensor
    return tensors


def _progress(path: Path, text: str) -> Progress:
    try:
        progress = Progress(**json.loads(text))
        counts = (progress.step, progress.begin, progress.best, progress.seen, progress.right)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("steps or images are no counts")
        if type(progress.epochs) is not list or any(epoch.keys() != set(METRIC_NAMES) for epoch in progress.epochs):
            raise ValueError("an epoch has other metrics")
        if max(progress.begin, progress.best) > len(progress.epochs):
            raise ValueError("it refers to an epoch that it has not")
        sums = [progress.loss, progress.seconds, *(value for epoch in progress.epochs for value in epoch.values())]
        if not all(type(value) in (int, float) and isfinite(value) for value in sums):
            raise ValueError("a metric is not a number")
        return progress
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as reason:
        raise UserError(f"{path} does not say how far the run was ({brief(reason)}); it is damaged.") from reason
