"""A model opened to look into: its layers as `plan` counts them, and what they make of one image.

One forward pass of a small image takes tens of milliseconds and is kept, so that a click on another layer, channel or
pixel finds everything there. Where the maps of all layers are too many for that, those of the layer asked for are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from ..planning import Plan, Row, summary
from ..planning.fields import Axis, Seen, State
from ..planning.trace import trace
from ..precision import set_precision
from ..spec import SpecError
from .lru import Kept
from .turns import Turns
from .watch import Convolution, Moment, watch

Kind = Literal["conv", "transposed", "pool", "linear", "norm", "act", "join", "other"]

MAPS_KEPT = 512 * 2**20
"""Bytes of maps that are kept: three to four images of a ResNet-50."""

_OUTPUTS_KEPT = 16 * 2**20

_JOINS = ("add", "sub", "mul", "cat", "stack")
_WORDS: tuple[tuple[str, Kind], ...] = (
    ("pool", "pool"), ("mean", "pool"), ("norm", "norm"), ("linear", "linear"), ("matmul", "linear"),
)  # fmt: skip
Result = TypeVar("Result")
Box: TypeAlias = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of the network's input. It may reach outside: there the network saw padding."""


class NotThere(UserError):
    """What was asked for does not exist: the server's 404."""


@dataclass(frozen=True)
class Layer:
    """One row of the plan.

    Args:
        index: its place.
        row: what `plan` counted.
        kind: what sort of layer it is, in one word.
        path: the module's name in the model; None for an operation that is in no module.
        module: that module.
        occurrence: 0 at the first call of the module, 1 at the second, …
        convolution: its settings and weights, where it is one 2-D convolution; every number of it can be traced.
        state: what its units see of the input.
    """

    index: int
    row: Row
    kind: Kind
    path: str | None
    module: nn.Module | None
    occurrence: int
    convolution: Convolution | None
    state: State | None

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def type(self) -> str:
        return self.row.type

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Without the batch."""
        return self.row.output_shape[1:]

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(K, H, W) as the maps are shown: a vector is K maps of one number, tokens are one map of T×D."""
        return map_shape(self.row.output_shape)

    @property
    def has_maps(self) -> bool:
        """Not if it stands only for parameters that no call used."""
        return bool(self.row.input_shape or self.row.output_shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What it is given, without the batch; of a convolution, what the convolution is given."""
        if self.convolution is not None:
            return (self.convolution.spec.in_channels, *self.convolution.size)
        return self.row.input_shape[1:]

    @property
    def start(self) -> tuple[int, int] | None:
        """Where what the first unit sees begins, (row, column) of the input; None where units do not see alike."""
        if not isinstance(self.state, Seen) or any(len(axis.phases) > 1 for axis in self.state.axes):
            return None
        vertical, horizontal = (_window(axis, 0)[0] for axis in self.state.axes)
        return vertical, horizontal

    @property
    def jump(self) -> tuple[float, float] | None:
        """Input pixels between neighbouring units, (vertical, horizontal)."""
        if not isinstance(self.state, Seen):
            return None
        vertical, horizontal = (axis.jump / len(axis.phases) for axis in self.state.axes)
        return vertical, horizontal


def map_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """A tensor's shape, with its batch, as (K, H, W).

    >>> map_shape((1, 64, 7, 7)), map_shape((1, 10)), map_shape((1, 197, 768))
    ((64, 7, 7), (10, 1, 1), (1, 197, 768))
    """
    if len(shape) < 2:
        return prod(shape), 1, 1
    if len(shape) == 2:
        return shape[0] * shape[1], 1, 1
    return prod(shape[:-2]), shape[-2], shape[-1]


class Network:
    """A model, ready to be looked into.

    Args:
        model: takes `(1, C, H, W)`; put into eval mode, on the CPU.
        input_shape: (C, H, W).
        name: what to call it.
        mean, std: one number a channel; it is fed (pixel / 255 − mean) / std.
        classes: names of its outputs.
        notes: sentences that the reader must know.
        keep: bytes of maps that are kept.

    Raises:
        UserError, SpecError: if the model cannot take such an image, with the layer's name.

    >>> network = Network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 5, 5))
    >>> [(layer.name, layer.kind, layer.map_shape) for layer in network.layers]
    [('0', 'conv', (2, 3, 3)), ('1', 'act', (2, 3, 3))]
    >>> network.look("an image", lambda: torch.ones(1, 5, 5), 1).output.shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, int, int],
        name: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        notes: Iterable[str] = (),
        keep: int = MAPS_KEPT,
    ) -> None:
        channels = input_shape[0]
        self.model, self.input_shape, self.name = model, input_shape, name or type(model).__name__
        self.mean = tuple(mean or (0.0,) * channels)
        self.std = tuple(std or (1.0,) * channels)
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(f"the {what} must have {channels} numbers, one a channel, not {len(values)}.")
        self.classes = tuple(classes) if classes else None
        self.turns = Turns()
        # One thread, because OpenMP's and oneDNN's state is each thread's own: a forward pass of ResNet-50 takes 100 ms
        # in a thread that has made one before, and 200 to 500 ms in others.
        self._thread = ThreadPoolExecutor(1, "convforge see")
        self._kept = Kept[dict[int, Moment]](keep, _bytes)
        self._outputs = Kept[Tensor](_OUTPUTS_KEPT, lambda output: output.nbytes)
        with suppress(NotImplementedError):  # exported programs have one mode only
            model.eval()
        model.requires_grad_(False).to("cpu")
        first = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)
        self._dtype = first.dtype if first is not None else torch.float32

        shape = (1, *input_shape)
        recorder = trace(model, shape)
        self.plan: Plan = summary(recorder, model, self.name, shape)
        self.notes = (*notes, *self.plan.notes)
        calls = self.compute(lambda: self._run(torch.zeros(input_shape), None, maps=False))
        self.layers = _layers(model, self.plan.rows, recorder.states, calls)
        self._at_once = _map_bytes(self.plan) <= keep // 2

    def layer(self, index: int) -> Layer:
        """Raises `NotThere` if there is none of that index."""
        if not 0 <= index < len(self.layers):
            raise NotThere(f"there is no layer {index}: this network has {len(self.layers)}, and counting starts at 0.")
        return self.layers[index]

    @property
    def first_convolution(self) -> Layer | None:
        return next((layer for layer in self.layers if layer.convolution is not None), None)

    def look(self, key: Hashable, load: Callable[[], Tensor], index: int) -> Moment:
        """What a layer was given and made of an image.

        Args:
            key: what the image is called; with the same key, a kept answer is given.
            load: makes the network's input, `(C, H, W)`, normalised; called if the answer is not kept.
            index: of the layer.

        Raises:
            NotThere: if there is no such layer, or nothing was seen of it.
            UserError: if the model fails with this image.
        """
        layer = self.layer(index)
        if not layer.has_maps:
            raise NotThere(f"{layer.name!r} was not called, so it has no maps.")
        whole: Hashable = (key, None if self._at_once else index)
        moments = self._kept.get(whole)
        if moments is None:
            if prod(layer.row.output_shape) * 4 > self._kept.most:
                size = prod(layer.row.output_shape) * 4 / 2**20
                raise UserError(
                    f"the maps of {layer.name!r} take {size:,.0f} MiB: open the model with a smaller --input."
                )
            image = load()

            def run() -> dict[int, Moment]:
                found = self._kept.get(whole)  # somebody else may have waited for the same
                return found or self._kept.put(whole, self._run(image, None if self._at_once else {index}))

            moments = self.compute(run)
        moment = moments.get(index)
        if moment is None or moment.name != layer.name or moment.output is None:
            raise NotThere(f"with this image the model's code does not come to {layer.name!r}, layer {index}.")
        return moment

    def output(self, key: Hashable, load: Callable[[], Tensor]) -> Tensor:
        """What the model returns for an image, with its batch of one: of several tensors the first.

        Args:
            key, load: as of `look`.

        Raises:
            UserError: if the model fails with this image, or returns no tensor.
        """

        def run() -> Tensor:
            image = load()
            return self.compute(lambda: self._output(image))

        return self._outputs.find(key, run)

    def _output(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.answered(image[None]).clone()

    def answered(self, images: Tensor) -> Tensor:
        """What the model returns for images `(N, C, H, W)`, of several tensors the first. To be called when it is one's
        turn."""
        with self._explained():
            answer = self.model(images.to(self._dtype))
        found = next((leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)), None)
        if found is None:
            raise UserError(f"{self.name} returns {type(answer).__name__}, in which there is no tensor.")
        return found.detach().float()

    def compute(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, computed when it is this request's turn."""
        with self.turns.request():
            return self.compute_at_once(work)

    def compute_at_once(self, work: Callable[[], Result]) -> Result:
        """The same for what takes no more than a few milliseconds: it does not wait for a job's batch to end."""
        return self._thread.submit(work).result()

    def box(self, index: int, row: int, column: int) -> Box | Literal["all"] | None:
        """The input pixels that a unit depends on: (top, left, height, width), which may reach outside; "all"; None
        where nobody can say. Height and width are 0 where it sees nothing.

        Raises:
            NotThere: if there is no such unit.
        """
        layer = self.layer(index)
        _, height, width = layer.map_shape
        if not (0 <= row < height and 0 <= column < width):
            raise NotThere(f"{layer.name!r} has no unit at row {row}, column {column}: its maps are {height}×{width}.")
        state = layer.state
        if not isinstance(state, Seen):
            return None if state is None or state.value == "unknown" else "all"
        top, tall = _window(state.vertical, row)
        left, wide = _window(state.horizontal, column)
        return top, left, tall, wide

    def _run(self, image: Tensor, wanted: set[int] | None, maps: bool = True) -> dict[int, Moment]:
        """Called by one thread at a time."""
        with self._explained():
            return watch(self.model, image[None].to(self._dtype), wanted, maps)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Sums as they are explained, each input times each weight; and one sentence for what a model raises."""
        try:
            with set_precision("exact"):
                yield
        except (UserError, SpecError):
            raise
        except MemoryError:
            raise UserError("there is not enough memory for this model and image: use a smaller --input.") from None
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            shape = "×".join(str(n) for n in self.input_shape)
            raise UserError(
                f"{self.name} fails with an image of {shape}: {type(error).__name__}{f': {reason}' if reason else ''}."
            ) from error


def _window(axis: Axis, index: int) -> tuple[int, int]:
    field = axis.unit(index)
    return (field.start, field.size) if field else (0, 0)


def _layers(
    model: nn.Module, rows: Sequence[Row], states: Sequence[State | None], calls: dict[int, Moment]
) -> tuple[Layer, ...]:
    modules = dict(model.named_modules())
    if not rows or rows[0].name not in modules:
        modules.pop("", None)
    layers: list[Layer] = []
    met: dict[str, int] = {}
    for index, (row, state) in enumerate(zip(rows, states, strict=True)):
        moment = calls.get(index)
        convolution = moment.convolution if moment is not None and moment.name == row.name else None
        module = modules.get(row.name)
        if module is None and len(rows) == 1 and row.name == type(model).__name__.lower():
            module = model  # a model that is one layer
        path = None if module is None else ("" if module is model else row.name)
        occurrence = met.get(row.name, 0)
        met[row.name] = occurrence + 1
        layers.append(Layer(index, row, _kind(row, module, convolution), path, module, occurrence, convolution, state))
    return tuple(layers)


def _kind(row: Row, module: nn.Module | None, convolution: Convolution | None) -> Kind:
    word = row.type.lower()
    if "transpose" in word or (convolution is not None and convolution.spread is not None):
        return "transposed"
    if convolution is not None:
        return "conv"
    for part, kind in _WORDS:
        if part in word:
            return kind
    if word.startswith("conv"):
        return "conv"
    if module is not None and type(module).__module__ == "torch.nn.modules.activation" and not any(module.children()):
        return "act"
    if module is None and word.startswith(_JOINS):
        return "join"
    return "other"


def _map_bytes(plan: Plan) -> int:
    """What `watch` copies of one image: the input and every layer's output, each at 4 bytes or more a number."""
    shapes: list[Any] = [plan.input_shape, *(row.output_shape for row in plan.rows)]
    return sum(prod(shape) * 4 for shape in shapes if shape)


def _bytes(moments: dict[int, Moment]) -> int:
    """Each piece of memory once, whatever shares it."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for m in moments.values() for t in m.tensors
    }
    return sum(storages.values())
