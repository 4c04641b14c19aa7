"""One forward pass of a model, watched: what each layer was given, what it made, and which convolution made it.

The layers are those that `plan` counts, in its order, because the same recorder finds them. What a layer made is held,
and copied only when something is about to be written over it: a later layer may work in place. What a convolution was
called with is taken from the operator itself, so layers that compute their weights or pad their input in code of their
own are seen as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..planning.fields import convolution_sides, is_convolution, named_arguments
from ..planning.trace import Frame, Recorder, Slide, observing, with_pads
from ..spec import Conv2dSpec, Pair
from .transposed import as_convolution, spread, turned


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution as it was called, on maps of `size` (height, width). `weight` is `(K, C/g, k, k)`, `bias`
    `(K,)`. A transposed one is the ordinary one that it amounts to, and `spread` the stride by which zeros spread its
    input."""

    spec: Conv2dSpec
    size: Pair
    weight: Tensor
    bias: Tensor | None
    spread: Pair | None = None


@dataclass(frozen=True)
class Moment:
    """One layer in one forward pass.

    Args:
        name: the layer's, as in the plan.
        input: what it was given; of a convolution, what the convolution was given.
        output: what it made.
        convolved: of a convolution, its own result; the layer may have made something else of it.
        convolution: None where the layer is not exactly one 2-D convolution of one image.
    """

    name: str
    input: Tensor | None
    output: Tensor | None
    convolved: Tensor | None
    convolution: Convolution | None

    @property
    def tensors(self) -> list[Tensor]:
        own = [self.input, self.output, self.convolved]
        own += [self.convolution.weight, self.convolution.bias] if self.convolution else []
        return [tensor for tensor in own if tensor is not None]


@dataclass(eq=False)
class _Held:
    """A tensor as it was when it was held."""

    tensor: Tensor


class _Enough(BaseException):
    """Everything that was wanted has been seen. Not an `Exception`: the model's own code must not catch it."""


@dataclass
class _Call:
    """One call of a convolution operator, while its layer runs."""

    convolution: Convolution
    input: _Held
    output: _Held | None = None


class _Watcher(Recorder):
    def __init__(self, model: nn.Module, wanted: Collection[int] | None, maps: bool) -> None:
        super().__init__(model)
        self._maps = maps
        self._seen: dict[int, tuple[str, _Held | None, _Held | None, _Held | None, Convolution | None]] = {}
        self._wanted = wanted
        self._left = None if wanted is None else set(wanted)
        self._owned = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self._held: dict[int, list[_Held]] = {}  # by what they are stored in
        self._inputs: dict[int, _Held] = {}
        self._calls: dict[int, list[_Call | None]] = {}

    # --- what the recorder is told --------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: Any) -> None:
        self._stop_if_done()
        above = len(self.stack)
        super().enter(module, args)
        frame = self.stack[-1]
        if len(self.stack) > above and frame.is_leaf and frame.inputs and self._is_wanted(len(self.rows)):
            self._inputs[id(frame)] = self._hold(frame.inputs[0])

    def leave(self, module: nn.Module, result: Any) -> None:
        super().leave(module, result)
        self._stop_if_done()

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._stop_if_done()
        if func._schema.is_mutable:
            self._before_writing(func, args, kwargs)
        frame = self.stack[-1]
        known = len(self._calls.get(id(frame), ()))
        result = super().operator(func, args, kwargs)
        if is_convolution(func.overloadpacket):
            calls = self._calls.get(id(frame), [])  # gone if the operator is a row of its own
            if len(calls) > known and (call := calls[-1]) is not None:
                call.output = self._hold(result)
        return result

    def _convolution(self, named: Any) -> Slide:
        slide = super()._convolution(named)
        calls = self._calls.setdefault(id(self.stack[-1]), [])
        if not self._is_wanted(len(self.rows)) or named["input"].shape[0] != 1:
            calls.append(None)
        elif named.get("transposed"):
            calls.append(self._transposed(named))
        else:
            weight, bias = named["weight"], named["bias"]
            spec = Conv2dSpec(
                named["input"].shape[1], weight.shape[0], slide.kernel, slide.stride,
                convolution_sides(named["padding"]), slide.dilation, slide.groups, bias is not None,
            )  # fmt: skip
            own = self._own(weight), None if bias is None else self._own(bias)
            size = (named["input"].shape[2], named["input"].shape[3])
            calls.append(_Call(Convolution(spec, size, *own), self._hold(named["input"])))
        return slide

    def _transposed(self, named: Any) -> _Call | None:
        weight, bias, groups = named["weight"], named["bias"], named["groups"]
        stride, padding, more, dilation = (
            (named[name][0], named[name][1]) for name in ("stride", "padding", "output_padding", "dilation")
        )
        spec = as_convolution(named["input"].shape[1], weight, padding, more, dilation, groups, bias is not None)
        if spec is None:
            return None
        wide = spread(named["input"].detach(), stride)
        own = turned(weight.detach(), groups), None if bias is None else self._own(bias)
        return _Call(Convolution(spec, (wide.shape[2], wide.shape[3]), *own, spread=stride), _Held(wide))

    def _add(
        self,
        frame: Frame,
        name: str,
        kind: str,
        parameters: list[nn.Parameter],
        inputs: list[Tensor],
        outputs: list[Tensor],
        own: list[Tensor],
        macs: int | None = None,
    ) -> None:
        index = len(self.rows)
        calls = self._calls.pop(id(frame), [])
        given = self._inputs.pop(id(frame), None)
        slide = frame.slides[0] if len(frame.slides) == 1 else None
        super()._add(frame, name, kind, parameters, inputs, outputs, own, macs)
        if not self._is_wanted(index):
            return
        made = self._hold(outputs[0]) if outputs else None
        if given is None and inputs:
            given = self._hold(inputs[0])
        call = calls[0] if len(calls) == 1 else None
        convolution, convolved = None, None
        if call is not None and slide is not None:
            convolution, given = _seen_from_outside(call, slide, frame, given)
            convolved = call.output if call.output is not None else made
        maps = (given, made, convolved) if self._maps else (None, None, None)
        self._seen[index] = name, *maps, convolution
        if self._left is not None:
            self._left.discard(index)

    def moments(self) -> dict[int, Moment]:
        """What was seen, by the layers' places."""

        def tensor(held: _Held | None) -> Tensor | None:
            return None if held is None else held.tensor.detach()

        return {
            index: Moment(name, tensor(given), tensor(made), tensor(convolved), convolution)
            for index, (name, given, made, convolved, convolution) in self._seen.items()
        }

    # --- helpers --------------------------------------------------------------------------------------------------

    def _is_wanted(self, index: int) -> bool:
        return self._wanted is None or index in self._wanted

    def _stop_if_done(self) -> None:
        if self._left is not None and not self._left:
            raise _Enough

    def _hold(self, tensor: Tensor) -> _Held:
        """One holding serves the layer that made a tensor and the layer that was given it."""
        storage = tensor.untyped_storage()._cdata
        if storage in self._owned:  # the model may write into it in its next pass, which nobody watches
            return _Held(tensor.detach().clone())
        if not self._maps:
            return _Held(tensor)
        holdings = self._held.setdefault(storage, [])
        for held in holdings:
            if held.tensor is tensor:
                return held
        holdings.append(_Held(tensor))
        return holdings[-1]

    def _before_writing(self, func: Any, args: Any, kwargs: Any) -> None:
        for argument, value in named_arguments(func, args, kwargs).items():
            if not isinstance(value, Tensor) or not _is_written(func, argument):
                continue
            for held in self._held.pop(value.untyped_storage()._cdata, ()):
                held.tensor = held.tensor.detach().clone()

    def _own(self, tensor: Tensor) -> Tensor:
        """Weights that the model holds need no copy; those that it has just computed are nobody else's."""
        return tensor.detach() if tensor.untyped_storage()._cdata in self._owned else tensor.detach().clone()


@lru_cache(4096)
def _is_written(func: Any, argument: str) -> bool:
    return any(
        a.name == argument and a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments
    )


def _seen_from_outside(call: _Call, slide: Slide, frame: Frame, given: _Held | None) -> tuple[Convolution, _Held]:
    """A layer that pads in code of its own and then convolves is shown as one convolution with that padding, of what
    the layer was given, if that is what happened; else as the operator was called."""
    inner = call.convolution
    if not frame.pads or not frame.is_leaf or given is None or given.tensor.ndim != 4:
        return inner, call.input
    sides, mode = with_pads(slide, frame.pads)
    around = [sum(pad[a][side] for pad, _ in frame.pads) for a in (1, 0) for side in (0, 1)]
    alike = len({mode for _, mode in frame.pads}) == 1 and (mode == "zeros" or slide.padding == ((0, 0), (0, 0)))
    if sides is None or not alike or min(around) < 0:
        return inner, call.input
    padded = nn.functional.pad(given.tensor, around, mode="constant" if mode == "zeros" else mode)
    if not torch.equal(padded, call.input.tensor):
        return inner, call.input
    spec = Conv2dSpec(
        inner.spec.in_channels, inner.spec.out_channels, slide.kernel, slide.stride, sides, slide.dilation,
        slide.groups, inner.spec.bias, mode,
    )  # fmt: skip
    return Convolution(spec, (given.tensor.shape[2], given.tensor.shape[3]), inner.weight, inner.bias), given


def watch(
    model: nn.Module, image: Tensor, wanted: Collection[int] | None = None, maps: bool = True
) -> dict[int, Moment]:
    """Run the model on `image`, `(1, C, H, W)`, and return what was seen of the layers in `wanted`, or of all.

    Without `maps` only the convolutions are noted. The model runs no further than the last layer that is wanted. No
    other thread may run it meanwhile.

    >>> seen = watch(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), torch.zeros(1, 1, 5, 5))
    >>> [(moment.name, tuple(moment.output.shape)) for moment in seen.values()]
    [('0', (1, 2, 3, 3)), ('1', (1, 2, 3, 3))]
    """
    watcher = _Watcher(model, wanted, maps)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would do several layers in one
    try:
        with suppress(_Enough), torch.no_grad(), torch.compiler.set_stance("force_eager"), observing(watcher):
            watcher.fields.start(image)
            model(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return watcher.moments()
