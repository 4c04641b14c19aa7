"""The film of a network's first layer, from random to learned: its kernels as they were at some steps of training.

One file beside the checkpoint, `film.safetensors`: the tensor `kernels`, float32 (frames, K, C, kh, kw), and in the
metadata, as JSON, the layer's name and, for each frame, the step and the epoch. Frames are close together at the
beginning, where kernels change most, and few enough that the file stays below `BYTES_AT_MOST`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import UserError
from ..files import brief, opened, write_atomically

FILM = "film.safetensors"
FRAMES_AT_MOST = 48
BYTES_AT_MOST = 16 * 2**20
# Frame i of n is at the part (i / n)^2.5 of all steps.
_EARLY = 2.5


@dataclass(frozen=True)
class Frame:
    """One moment: after `step` steps, which is after `epoch` epochs; `label` says it in words."""

    step: int
    epoch: float

    @property
    def label(self) -> str:
        return "before learning" if self.step == 0 else f"step {self.step:,}, epoch {self.epoch:.2f}"


@dataclass(frozen=True)
class Film:
    """A film on disk: `shape` is that of a frame, (K, C, kh, kw), `layer` the name of the convolution."""

    path: Path
    layer: str
    shape: tuple[int, int, int, int]
    frames: tuple[Frame, ...]

    def values(self, number: int) -> NDArray[np.float32]:
        """The kernels of a frame, `shape`, read from the file.

        Raises:
            IndexError: if there is no such frame.
            UserError: if the file has changed or gone.
        """
        if not 0 <= number < len(self.frames):
            raise IndexError(f"the film has {len(self.frames)} frames, and no frame {number}.")
        try:
            with opened(self.path, "np") as file:
                values: NDArray[np.float32] = file.get_slice("kernels")[number : number + 1][0]
        except (SafetensorError, OSError) as reason:
            raise UserError(f"{self.path} cannot be read any more ({reason}).") from reason
        return values


def read(folder: str | Path) -> Film | None:
    """The film of a run, or None if it has none.

    Raises:
        UserError: that names the file, if it is damaged.
    """
    path = Path(folder) / FILM
    if not path.is_file():
        return None
    try:
        # The header holds little but the frames; half as much again is room enough.
        if path.stat().st_size > BYTES_AT_MOST * 3 // 2:
            raise ValueError("it is longer than a film can be")
        with opened(path, "np") as file:
            metadata, kernels = file.metadata() or {}, file.get_slice("kernels")
            shape, dtype = tuple(kernels.get_shape()), kernels.get_dtype()
        described = json.loads(metadata["film"])
        layer, frames = described["layer"], tuple(Frame(step, epoch) for step, epoch in described["frames"])
        if dtype != "F32" or len(shape) != 5 or shape[0] != len(frames):
            raise ValueError(f"{len(frames)} frames of {dtype} {shape}")
        if not all(type(frame.step) is int and isinstance(frame.epoch, int | float) for frame in frames):
            raise ValueError("a frame has no step")
        if not isinstance(layer, str):
            raise TypeError("the layer has no name")
        return Film(path, layer, (shape[1], shape[2], shape[3], shape[4]), frames)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as reason:
        raise UserError(f"{path} is not a film of kernels ({brief(reason)}); it is damaged.") from reason


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The first convolution and its name; None where the model has none."""
    return next(((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def chosen_steps(steps: int, frames: int) -> list[int]:
    """The steps of a run that a film has frames of, the first and the last among them.

    >>> chosen_steps(1000, 8)
    [0, 8, 44, 120, 247, 431, 680, 1000]
    """
    return sorted({round(steps * (i / max(1, frames - 1)) ** _EARLY) for i in range(frames)})


class Recorder:
    """Records a run. What a stopped run has recorded is continued.

    Args:
        folder: of the run.
        model: whose first convolution is recorded; a model without one makes no film.
        done: steps done so far.
        steps: of the whole run.
        per_epoch: steps an epoch.
    """

    def __init__(self, folder: Path, model: nn.Module, done: int, steps: int, per_epoch: int) -> None:
        self._path, self._per_epoch = folder / FILM, per_epoch
        self._first = first_convolution(model)
        self._kernels: list[Tensor] = []
        self._frames: list[Frame] = []
        size = 4 * prod(self._first[1].weight.shape) if self._first else 1
        count = min(FRAMES_AT_MOST, BYTES_AT_MOST // size)
        # A film needs a beginning and an end.
        self._wanted = set(chosen_steps(steps, count)) if self._first and count >= 2 else set()
        if done > 0 and self._wanted and self._first and (before := read(folder)) is not None:
            if (before.layer, before.shape) != (self._first[0], tuple(self._first[1].weight.shape)):
                raise UserError(f"{self._path} is a film of another network; move it elsewhere.")
            kept = [number for number, frame in enumerate(before.frames) if frame.step <= done]
            # A run that is continued after its end has a whole film already: make room for the rest.
            coming = sum(step > done for step in self._wanted)
            while len(kept) + coming > count + 1 and len(kept) > 2:
                kept = [*kept[:-1:2], kept[-1]]
            self._frames = [before.frames[number] for number in kept]
            self._kernels = [torch.from_numpy(before.values(number).copy()) for number in kept]
        elif done == 0:
            self.look(0)

    def look(self, step: int) -> None:
        """Keep the kernels as they are, if a frame is wanted after this step."""
        if step in self._wanted and self._first is not None:
            self._frames.append(Frame(step, step / self._per_epoch))
            kernels = self._first[1].weight.detach().float().cpu()
            self._kernels.append(kernels.clone(memory_format=torch.contiguous_format))

    def end(self, step: int) -> None:
        """Keep the kernels as they are after the last step, which may come earlier than was planned."""
        if self._wanted and (not self._frames or self._frames[-1].step < step):
            self._wanted |= {step}
            self.look(step)

    def write(self) -> None:
        """Write what there is, in one step; raises `UserError` if that cannot be done."""
        if self._first is None or not self._frames:
            return
        frames: list[Any] = [[frame.step, frame.epoch] for frame in self._frames]
        metadata = {"film": json.dumps({"layer": self._first[0], "frames": frames})}
        write_atomically(self._path, to_safetensors({"kernels": torch.stack(self._kernels)}, metadata))
