"""A picture of what excites a channel, made from noise by gradient ascent.

Following Olah, Mordvintsev & Schubert, "Feature visualization" (Distill, 2017), an image is not changed pixel by pixel:
its Fourier coefficients are, divided by their frequency as those of photographs are, and for RGB in the three
directions in which the colours of photographs vary independently. In these coordinates a step of the gradient makes
shapes; in pixels it would make noise. The network is shown the image turned, scaled and shifted a little, differently
at each step, so that only what is robust remains.

Two sorts of picture, by the receptive field:

- A unit that sees a small window: the window itself, as the one unit in the middle of the map wants it. Steps of equal
  length along the gradient keep the proportions of the kernel; at 3×3 pixels this is the kernel seen as an image.
- A unit that sees more: a texture that excites the channel at all positions on average.

Where an activation is blocked (below the zero of a ReLU) there is no gradient to climb. During the first steps a part
of it is let through (`_Leaking`), and later where there is none at all: that wakes channels that noise leaves silent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from ..pytorch.optimize import optimize
from .hooks import check, dtype_of, structure_of, watched
from .identity import identity, key_of
from .jobs import UNWATCHED, Progress
from .network import Box, Layer, Network
from .shelf import Shelf

_VERSION = 1
LARGEST, MOST_STEPS = 512, 2000
"""Pixels of a side of a texture, and steps of an ascent."""

_SIDE = 128  # of a texture, unless the network's images are smaller
_SMALL_FIELD = 20
_WINDOW_STEPS, _TEXTURE_STEPS = 32, 128
_LEAKING = 0.3  # of the steps


@dataclass(frozen=True)
class Ascent:
    """The picture, uint8 `(C, H, W)` in pixels of the network's input; how much the channel answers to it: the
    activation of its most excited unit; and whether it is what one unit sees (`is_window`) or a texture."""

    pixels: NDArray[np.uint8]
    value: float
    is_window: bool


class Ascents:
    """The pictures of one network. Those that were drawn are kept on disk.

    Args:
        network: what is looked into; its normalisation is respected, and it may have any number of input channels.
        shelf: where pictures are kept between processes.
    """

    def __init__(self, network: Network, shelf: Shelf | None = None) -> None:
        self._network = network
        self._shelf = shelf if shelf is not None else Shelf.of_the_user()

    def ascend(
        self,
        layer: int,
        channel: int,
        size: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        progress: Progress = UNWATCHED,
    ) -> Ascent:
        """An image that excites a channel. The same arguments give the same image.

        Args:
            layer, channel: of which layer and channel.
            size: of a texture, pixels of the longer side; by default at most 128. A network that takes images of one
                size only is shown that.
            steps: of the ascent.
            seed: of the noise that it starts from.
            progress: told after each step.

        Raises:
            UserError: if there is no such channel, or the layer has none.
        """
        chosen = self._network.layer(layer)
        check(chosen, channel)
        if size is not None and not 8 <= size <= LARGEST:
            raise UserError(f"the picture's size must be 8 to {LARGEST} pixels, not {size}.")
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise UserError(f"the number of steps must be 1 to {MOST_STEPS:,}, not {steps}.")
        climb = _Climb(self._network, chosen, channel, torch.Generator().manual_seed(seed), progress)
        unit = chosen.map_shape[1] // 2, chosen.map_shape[2] // 2
        window = self._window(chosen, unit)
        shape = window[2:] if window else self._size(size, climb)
        steps = steps or (_WINDOW_STEPS if window else _TEXTURE_STEPS)

        key = key_of(_VERSION, identity(self._network), layer, channel, shape, steps, seed)
        channels = self._network.input_shape[0]
        outline: dict[str, NDArray[Any]] = {
            "pixels": np.zeros((channels, *shape), np.uint8),
            "value": np.zeros((), np.float32),
        }
        stored = self._shelf.read(key, outline)
        if stored is not None:
            return Ascent(stored["pixels"], float(stored["value"]), window is not None)
        found = climb.window(window, unit, steps) if window else climb.texture(shape, steps)
        self._shelf.write(key, {"pixels": found.pixels, "value": np.array(found.value, np.float32)})
        return found

    def _window(self, layer: Layer, unit: tuple[int, int]) -> Box | None:
        """What a unit sees of the image, where that is little."""
        box = self._network.box(layer.index, *unit)
        if not isinstance(box, tuple) or not 0 < min(box[2:]) <= max(box[2:]) <= _SMALL_FIELD:
            return None
        _, height, width = self._network.input_shape
        top, left = max(0, box[0]), max(0, box[1])
        return top, left, min(height, box[0] + box[2]) - top, min(width, box[1] + box[3]) - left

    def _size(self, longest: int | None, climb: _Climb) -> tuple[int, int]:
        """Of a texture: in the proportions of the network's images."""
        _, height, width = self._network.input_shape
        scale = (longest or min(_SIDE, max(height, width))) / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return size if size == (height, width) or climb.is_able(size) else (height, width)


class _Enough(BaseException):
    """The layer has computed: the rest of the network need not. Not an `Exception`, which the model might catch."""


def _suits_the_engine(network: Network) -> bool:
    """Whether the engine climbs faster than PyTorch. On two cores a step of ResNet-50 takes 68 ms instead of 90, one of
    MobileNetV2, which is nearly all 1×1 and depthwise, 34 ms instead of 27. Not measured each time: the last digits
    differ, and the same seed is to give the same picture."""
    rows = [layer.row for layer in network.layers if layer.kind == "conv" and layer.row.kernel]
    wide = sum(row.macs for row in rows if row.kernel != (1, 1) and row.groups == 1)
    return wide > sum(row.macs for row in rows) / 4


class _Climb:
    """One channel of one layer, and the noise that everything is drawn from."""

    def __init__(
        self, network: Network, layer: Layer, channel: int, noise: torch.Generator, progress: Progress
    ) -> None:
        self._network, self._layer, self._channel = network, layer, channel
        self._noise, self._progress = noise, progress
        suits = _suits_the_engine(network)
        self._model = optimize(network.model, whole=False) if suits else structure_of(network.model)
        self._dtype = dtype_of(network.model)
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))

    def is_able(self, size: tuple[int, int]) -> bool:
        """Whether the layer can be reached with an image of another size than the network's own."""
        try:
            with torch.no_grad():
                return self._maps(torch.zeros(1, self._network.input_shape[0], *size)).numel() > 0
        except Exception:  # whatever a model raises on an image that does not fit
            return False

    def window(self, box: Box, unit: tuple[int, int], steps: int) -> Ascent:
        """What one unit wants to see inside its field, with the network's mean colour around it."""
        top, left, height, width = box
        _, rows, columns = self._network.input_shape
        around = (left, columns - left - width, top, rows - top - height)
        canvas = _Canvas(self._start(), (height, width), self._noise, roughness=0.5, contrast=0.05)
        distance = 0.015 * math.sqrt(canvas.coefficients.numel())
        leaking = _LEAKING * steps
        for step in range(steps):
            self._progress(step, steps, f"climbing: step {step + 1} of {steps}")
            with self._network.turns.background(), torch.enable_grad():
                seen = F.pad(self._normalised(canvas.image()), around)
                with _Leaking(step < leaking):
                    answer = self._maps(seen[None])[unit]
                (gradient,) = torch.autograd.grad(answer, canvas.coefficients)
            if not gradient.any():
                leaking = step + 1 + _LEAKING * steps
            with torch.no_grad():
                canvas.coefficients += distance * gradient / gradient.norm().clamp_min(1e-12)
        pixels = canvas.pixels()
        with self._network.turns.background(), torch.no_grad():
            value = self._maps(F.pad(self._normalised(pixels / 255), around)[None])[unit]
        self._progress(steps, steps)
        return Ascent(pixels.numpy(), float(value), True)

    def texture(self, size: tuple[int, int], steps: int) -> Ascent:
        """What the channel wants to see everywhere."""
        canvas = _Canvas(self._start(), size, self._noise, roughness=1.1, contrast=0.1)
        optimiser = torch.optim.Adam([canvas.coefficients], lr=0.03)
        leaking = _LEAKING * steps
        for step in range(steps):
            self._progress(step, steps, f"climbing: step {step + 1} of {steps}")
            with self._network.turns.background(), torch.enable_grad():
                seen = self._moved(self._normalised(canvas.image())[None])
                with _Leaking(step < leaking):
                    answer = self._maps(seen).mean()
                (gradient,) = torch.autograd.grad(-answer, canvas.coefficients)
            if not gradient.any():
                leaking = step + 1 + _LEAKING * steps
            # Adam takes what is below 1e-8 for nothing, and the gradients of layers differ by more than that.
            canvas.coefficients.grad = gradient * (math.sqrt(gradient.numel()) / gradient.norm().clamp_min(1e-30))
            optimiser.step()
        pixels = canvas.pixels()
        with self._network.turns.background(), torch.no_grad():
            value = self._maps(self._normalised(pixels / 255)[None]).max()
        self._progress(steps, steps)
        return Ascent(pixels.numpy(), float(value), False)

    def _start(self) -> Tensor:
        """The colour that noise is added to: the mean of what the network was trained on, where that is known."""
        known = any(self._network.mean)
        return self._mean.clamp(0.1, 0.9) if known else torch.full_like(self._mean, 0.5)

    def _normalised(self, image: Tensor) -> Tensor:
        return (image - self._mean) / self._std

    def _maps(self, images: Tensor) -> Tensor:
        """The channel's map, (H, W), for a batch of one."""
        found: list[Tensor] = []

        def look(index: int, maps: Tensor) -> None:
            found.append(maps[0, self._channel])
            raise _Enough

        with watched(self._model, [self._layer], look):
            try:
                self._model(images.to(self._dtype, memory_format=torch.channels_last))
            except _Enough:
                return found[0].float()
        raise UserError(f"with such an image the model's code does not come to {self._layer.name!r}.")

    def _moved(self, image: Tensor) -> Tensor:
        """Turned by up to 5°, scaled by up to 10 %, shifted by up to 8 pixels; beyond the border it is mirrored."""
        angle, scale, down, right = (2 * torch.rand(4, generator=self._noise) - 1).tolist()
        angle, scale = angle * math.radians(5), 1 + 0.1 * scale
        height, width = image.shape[2:]
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        shift = min(16 / width, 0.25) * right, min(16 / height, 0.25) * down  # the image is 2 wide
        map = torch.tensor([[[cos, -sin * height / width, shift[0]], [sin * width / height, cos, shift[1]]]])
        grid = F.affine_grid(map, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


# ---------------------------------------------------------------------------------------------------------------------
# Images as Fourier coefficients
# ---------------------------------------------------------------------------------------------------------------------

# Columns: the principal directions of the colours of scikit-image's photographs (light against dark, blue against
# yellow, green against purple), each as long as the deviation along it, scaled so that the first is 1.
_COLOURS = ((0.58, 0.20, 0.04), (0.60, 0.00, -0.11), (0.60, -0.20, 0.07))


class _Canvas:
    """An image that is changed through its coefficients.

    Args:
        start: (C, 1, 1), the colour around which it varies.
        size: (H, W).
        noise: what it begins with is drawn from this.
        roughness: the power of the frequency that coefficients are divided by.
        contrast: of the noise.
    """

    def __init__(
        self, start: Tensor, size: tuple[int, int], noise: torch.Generator, roughness: float, contrast: float
    ) -> None:
        height, width = self._size = size
        self._start = torch.logit(start)
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
        scale = frequency.clamp_min(1 / max(size)) ** -roughness
        self._scale = scale / scale.square().mean().sqrt()
        shape = (2, len(start), height, width // 2 + 1)
        self.coefficients = (contrast * torch.randn(shape, generator=noise)).requires_grad_()

    def image(self) -> Tensor:
        """(C, H, W), from 0 to 1."""
        waves = torch.complex(self.coefficients[0], self.coefficients[1]) * self._scale
        image = torch.fft.irfft2(waves, s=self._size, norm="ortho")
        if len(image) == 3:
            image = torch.einsum("ij,jhw->ihw", torch.tensor(_COLOURS), image)
        return torch.sigmoid(self._start + 4 * image)

    def pixels(self) -> Tensor:
        """(C, H, W) as uint8."""
        with torch.no_grad():
            return (255 * self.image()).round().to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients through closed activations
# ---------------------------------------------------------------------------------------------------------------------


class _Leak(torch.autograd.Function):
    """x clipped to [low, high]; where it was clipped, a fifth of the gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.range
        return torch.where((x > low) & (x < high), gradients[0], 0.2 * gradients[0]), None, None


class _Leaking(TorchFunctionMode):
    """Every ReLU and ReLU6 that is called inside lets gradients leak, in whatever way the model's code calls it."""

    _RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

    def __init__(self, wanted: bool) -> None:
        super().__init__()
        self._wanted = wanted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._wanted and func in self._RELUS:
            return _Leak.apply(args[0], 0.0, math.inf)  # type: ignore[no-untyped-call]
        if self._wanted and func is F.relu6:
            return _Leak.apply(args[0], 0.0, 6.0)  # type: ignore[no-untyped-call]
        if self._wanted and func is F.hardtanh:  # what nn.ReLU6 calls
            return _leaking_hardtanh(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _leaking_hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return _Leak.apply(input, min_val, max_val)  # type: ignore[no-untyped-call]
