"""A model's networks: whole forward passes in one native call each, wherever that gives what the model's layers would.

A model is captured at its first call in eval mode without gradients, as a graph for images of that size and any batch;
the graph is planned for each batch size and memory format when it is met. Each time, the layers compute the same call,
too, and the network's answer is compared with theirs before it is trusted. Then every call asks whether the model still
is what it was (`Snapshot`):

- Weights with other numbers are packed anew, and nothing else is done again. Where they change from call to call, as in
  training, that waits until a call comes that finds them as the one before did.
- A model with other modules, attributes or hooks is captured again when it is met for the second time; so are images of
  another size. What was found before is used as soon as everything is as it was.
- What cannot be captured or has no kernel is run layer by layer, and that is decided once.

A call that is recorded for gradients, traced, transformed, cast or looked at in any way that a network could not answer
for goes layer by layer, too.
"""

from __future__ import annotations

import copy
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as torchs
from torch.utils import _pytree as pytree

from .. import precision
from ..graph.capture import Captured, array_of, captured
from ..graph.lowering import Line
from ..graph.network import Network, Planned
from ..graph.nodes import GraphError
from .arguments import Sizes
from .guards import guard_of
from .kept import MOST_BYTES
from .layout import dense_strides, empty_strided, extent_of, is_channels_last, located
from .plain import are_plain, is_quiet
from .snapshot import Snapshot

NOTHING: Any = object()
"""There is no answer: the layers are to be asked."""

_MOST_SIZES = 4
"""Captured graphs that are kept: those that were used last. Each has its own packed weights."""

_MOST_KINDS = 64
"""Kinds of inputs (batch, memory format …) of which is kept what was found."""

_PAYS = 30
"""How often a kind of inputs has to come before another is given up for it: capturing takes as long as some hundred
calls, planning as some ten."""

_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""As a share of its norm, how far a network's answer may be from the layers' without more questions."""

_FACTOR = 10
"""How many times as far as theirs it may be from the truth else."""

_is_grad_enabled, _get_num_threads = torch.is_grad_enabled, torch.get_num_threads
_is_profiled = torch._C._autograd._profiler_enabled

T = TypeVar("T")

_Kind: TypeAlias = tuple[Any, ...]
"""All of some inputs that planning depends on."""

_Layers: TypeAlias = Callable[[], Any]
"""The same call, layer by layer."""


class _Refused(Exception):
    """Why there is no network for a call."""


@dataclass
class _Size:
    """A captured graph, and the network that runs it."""

    graph: Captured
    network: Network


class _Ready:
    """A network for one kind of inputs, and what must be so for it to be right."""

    def __init__(
        self, kind: _Kind, inputs: Sequence[Tensor], size: _Size, snapshot: Snapshot, last: tuple[bool, ...]
    ) -> None:
        self.kind, self.size, self.snapshot = kind, size, snapshot
        self.network = size.network
        self.dtype = inputs[0].dtype
        self.learns = any(x.requires_grad for x in inputs)
        self.threads = _get_num_threads()
        once = len(set(map(id, inputs))) == len(inputs)
        self.check = guard_of(*inputs) if once else None  # to which the same tensor twice never agrees
        self.copies = [not _is_readable(x) for x in inputs]
        tensors = [x.contiguous() if copied else x for x, copied in zip(inputs, self.copies, strict=True)]
        self.extents = [extent_of(x.shape, x.stride(), x.dtype) for x in tensors]
        self.shown, self.last = [_shown(x) for x in tensors], last
        self.planned: Planned = self.network.planned(*self.shown, channels_last=last)
        self.outputs = [
            (y.shape, dense_strides(y.shape, nhwc)) for y, nhwc in zip(self.planned.outputs, last, strict=True)
        ]
        self.rebuilt = size.graph.rebuilt
        whole = object()
        self.single = len(last) == 1 and self.rebuilt([whole]) is whole

    def renewed(self, snapshot: Snapshot) -> _Ready:
        """The same on the network as it is now."""
        new = copy.copy(self)
        new.snapshot, new.network = snapshot, self.size.network
        new.planned = new.network.planned(*self.shown, channels_last=self.last)
        return new

    def suits(self, inputs: Sequence[Any]) -> bool:
        """Whether these are such inputs, in such a state of the thread and of torch's settings."""
        return (
            len(inputs) == len(self.copies)
            and (self.check(*inputs) if self.check is not None else _is_kind(inputs, self.kind))
            and _get_num_threads() == self.threads
            and precision._current != "exact"
            and is_quiet()
            and not torchs._global_forward_hooks
            and not torchs._global_forward_pre_hooks
            and not (_is_grad_enabled() and (self.learns or self.snapshot.learns()))
        )

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """What the model returns for them."""
        if _is_profiled():
            with torch.profiler.record_function("convforge: a whole network"):
                return self._run(inputs)
        return self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        if True in self.copies:
            inputs = [x.contiguous() if copied else x for x, copied in zip(inputs, self.copies, strict=True)]
        size = self.dtype.itemsize
        at = [located(x, extent, size)[0] for x, extent in zip(inputs, self.extents, strict=True)]
        if any(address % size for address in at):
            inputs = [x.clone() for x in inputs]
            at = [x.data_ptr() for x in inputs]
        outputs = [empty_strided(shape, strides, self.dtype) for shape, strides in self.outputs]
        self.network.run(self.planned, at, [y.data_ptr() for y in outputs])
        return outputs[0] if self.single else self.rebuilt(outputs)


class Networks:
    """Those of one model.

    Args:
        without: an object in the model's attributes that keeps this one, if there is one.

    It may be asked by several threads at once.
    """

    def __init__(self, without: object = None) -> None:
        self._without = weakref.ref(without) if without is not None else lambda: None
        self._lock = threading.RLock()
        self._ready: _Ready | None = None
        """What answered last."""
        self._snapshot: Snapshot | None = None
        self._seen: Snapshot | None = None
        """The model at the last call that found it changed."""
        self._sizes: list[_Size] = []
        self._kinds: OrderedDict[_Kind, _Ready] = OrderedDict()
        self._met: OrderedDict[_Kind, int] = OrderedDict()
        """How often kinds came that are waited for."""
        self._refused: OrderedDict[_Kind, str] = OrderedDict()
        """Why there is no network for some."""
        self._never: str | None = None
        """Why there is none for any, for good."""
        self._answers = 0
        """Since the model last changed."""
        self._meeting = False
        _every.add(self)
        self.said = "it is captured at its first call in eval mode without gradients"
        """Why the last call went layer by layer; "" if it did not."""

    def answer(self, module: torch.nn.Module, inputs: Sequence[Any], layers: _Layers) -> Any:
        """What the model returns for these inputs, or `NOTHING` where its layers are to be asked. `layers` asks them:
        where the answers are compared, it is they that are called."""
        ready = self._ready
        if ready is None or not (ready.suits(inputs) and ready.snapshot.same(module)):
            why = self._why_layers(module, inputs)
            if why:
                self.said = why
                return NOTHING
            with self._lock:
                if self._meeting:  # the model calls itself
                    return NOTHING
                self._meeting = True
                try:
                    ready = self._found(module, inputs)
                    if ready is None and not self.said:
                        return self._meet(module, inputs, layers)
                finally:
                    self._meeting = False
            if ready is None:
                return NOTHING
            self._ready = ready
        self._answers += 1
        self.said = ""
        return ready.run(inputs)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The steps of what answered last."""
        ready = self._ready
        return ready.planned.lowered.lines if ready is not None else ()

    @property
    def shapes(self) -> list[Sizes]:
        """And for inputs of which shapes that was."""
        ready = self._ready
        return [kind[0] for kind in ready.kind[1:]] if ready is not None else []

    @property
    def kept_bytes(self) -> int:
        """What its networks take beside the model's own weights."""
        return sum(size.network.kept_bytes for size in self._sizes)

    def renew_lock(self) -> None:
        """After a fork: whoever held it is not here."""
        self._lock, self._meeting = threading.RLock(), False

    # --- whether a network may answer ---------------------------------------------------------------------------------

    def _why_layers(self, module: torch.nn.Module, inputs: Sequence[Any]) -> str | None:
        """Why this call is none for a network, whatever the model is."""
        if self._never:
            return self._never
        if module.training:
            return "the model is in training mode"
        if not inputs or not all(isinstance(x, Tensor) for x in inputs):
            return "it was called with other arguments than tensors"
        if not are_plain(inputs):
            return "the call was traced, transformed, cast (autocast) or made with tensors that are not plain"
        if _is_grad_enabled() and any(t.requires_grad for one in (inputs, module.parameters()) for t in one):
            return "the call was recorded for gradients: call it under torch.no_grad() or torch.inference_mode()"
        if torchs._global_forward_hooks or torchs._global_forward_pre_hooks:
            return "there are hooks for all modules"
        if precision._current == "exact":
            return 'the precision is "exact", which promises the same bits as layer by layer'
        if not all(x.numel() for x in inputs):
            return "it was called with an empty tensor"
        if len({(x.dtype, x.device) for x in inputs}) > 1 or inputs[0].dtype not in _CLOSE:
            return f"it was called with {inputs[0].dtype} numbers, and networks are computed in float32 or float64"
        return None

    def _found(self, module: torch.nn.Module, inputs: Sequence[Tensor]) -> _Ready | None:
        """What is known for such inputs and the model as it is. None: `said` says why its layers are to be asked, or
        nothing, if a network is to be made."""
        self.said = self._state(module) or self._refused.get(_kind(inputs), "")
        snapshot = self._snapshot
        if self.said or snapshot is None:
            return None
        if snapshot.dtype not in (None, inputs[0].dtype):
            self.said = f"it was called with {inputs[0].dtype} numbers, and has {snapshot.dtype}"
            return None
        ready = self._kinds.get(_kind(inputs))
        if ready is None or not ready.suits(inputs):
            return None
        self._kinds.move_to_end(ready.kind)
        return ready

    def _state(self, module: torch.nn.Module) -> str | None:
        """Bring what is kept up to the model as it is; or why that is not done now."""
        kept = self._snapshot
        if kept is not None:
            modules = kept.same_modules(module)
            if modules and (kept.still_not() or (kept.why_not is None and kept.same_numbers())):
                return kept.why_not
            soon = not self._sizes or (modules and self._answers > 1)
            if not soon and not (self._seen is not None and self._seen.same(module)):
                self._seen = Snapshot(module, self._without())
                return self._seen.why_not or "it has changed since its last call: the next one that finds it so counts"
        now = Snapshot(module, self._without())
        if kept is None or not modules or now.loose or now.why_not:
            self._forget()
        self._snapshot, self._seen, self._answers = now, None, 0
        if now.why_not is None:
            try:
                self._renew(module, now)
            except Exception as problem:  # other numbers may need what has no kernel
                self._forget()
                self._never = str(problem)
        return now.why_not or self._never

    def _forget(self) -> None:
        self._sizes, self._ready = [], None
        self._kinds.clear()
        self._refused.clear()
        self._met.clear()

    def _renew(self, module: torch.nn.Module, now: Snapshot) -> None:
        """Networks with the weights as they are."""
        arrays = {name: array_of(t) for name, t in _tensors(module).items()}
        for size in self._sizes:
            graph = size.graph.graph
            numbers = {name: arrays[source] for name, source in graph.sources.items()}
            graph = replace(graph, constants={**graph.constants, **numbers})
            size.graph = replace(size.graph, graph=graph)
            size.network = size.network.renewed(graph)
        for ready in list(self._kinds.values()):
            del self._kinds[ready.kind]
            if ready.size in self._sizes:
                self._kinds[ready.kind] = ready.renewed(now)

    # --- a kind of inputs that is met ---------------------------------------------------------------------------------

    def _meet(self, module: torch.nn.Module, inputs: Sequence[Tensor], layers: _Layers) -> Any:
        """The layers' answer, and a network that gives it, too."""
        snapshot, kind = self._snapshot, _kind(inputs)
        assert snapshot is not None
        size = self._size(inputs)
        wanted_times = self._waits(size)
        if self._met.get(kind, 0) < wanted_times:
            _remember(self._met, kind, self._met.get(kind, 0) + 1)
            what = "for the second time" if wanted_times == 1 else "more often, as there are many others"
            self.said = f"inputs of another size are made a network for when they come {what}"
            return NOTHING
        self._met.pop(kind, None)
        versions = [_version(x) for x in inputs]
        self.said = "the model's own forward raised an error"
        wanted = layers()
        self.said = ""
        try:
            if [_version(x) for x in inputs] != versions:
                raise _Refused("it changes its input")
            if not snapshot.same(module):
                raise _Refused("a call changes its modules' attributes or its weights")
            flat, tree = pytree.tree_flatten(wanted)
            _check_kinds(flat, inputs, snapshot)
            if size is None:
                size = self._captured(module, inputs)
            ready = _Ready(kind, inputs, size, snapshot, tuple(y.dim() == 4 and is_channels_last(y) for y in flat))
            answer = ready.run(inputs)
            _check_answer(answer, flat, tree, lambda: _in_double(module, inputs))
        except Exception as problem:  # torch.export's many, too: the layers have answered
            self.said = str(problem) or type(problem).__name__
            if self._sizes:
                _remember(self._refused, kind, self.said)
            else:
                self._never = self.said
            return wanted
        if size in self._sizes:
            self._sizes.remove(size)
        self._sizes = [size, *self._sizes][:_MOST_SIZES]
        while len(self._sizes) > 1 and self.kept_bytes > MOST_BYTES:
            self._sizes.pop()
        for kind_of, one in list(self._kinds.items()):
            if one.size not in self._sizes:
                del self._kinds[kind_of]
        self._ready = ready
        _remember(self._kinds, kind, ready)
        self._answers += 1
        return answer

    def _waits(self, size: _Size | None) -> int:
        """How often a kind of inputs has to have come before a network is made for it."""
        if size is None and self._sizes:
            return 1 if len(self._sizes) < _MOST_SIZES else _PAYS
        return 0 if len(self._kinds) < _MOST_KINDS else _PAYS

    def _size(self, inputs: Sequence[Tensor]) -> _Size | None:
        """A captured graph that takes such inputs, with a network for as many threads as there are now."""
        for size in sorted(self._sizes, key=lambda size: size.network.threads != _get_num_threads()):
            graph = size.graph.graph
            if len(graph.inputs) != len(inputs) or size.network.dtype != _name(inputs[0].dtype):
                continue
            try:
                graph.with_input({name: tuple(x.shape) for name, x in zip(graph.inputs, inputs, strict=True)})
            except GraphError:
                continue
            if size.network.threads != _get_num_threads():
                return _Size(size.graph, Network(graph, _get_num_threads(), dtype=size.network.dtype))
            return size
        return None

    def _captured(self, module: torch.nn.Module, inputs: Sequence[Tensor]) -> _Size:
        """Of a copy on the same memory: torch.export puts other weights in their places for a while, when other threads
        may be calling the model, and refers to those that it saw for longer."""
        assert self._snapshot is not None
        with torch.inference_mode(False), torch.no_grad():
            aliases = {id(t): _alias(t) for t in self._snapshot.tensors}
            copies: dict[int, Any] = dict(aliases)
            twin = copy.deepcopy(module, copies)
            known = set(map(id, aliases.values()))
            if any(isinstance(made, Tensor) and id(made) not in known for made in copies.values()):
                raise _Refused("it holds tensors in lists or other objects, where nobody would notice that they change")
            vars(twin).pop("_call_impl", None)
            examples = [torch.zeros(x.shape, dtype=x.dtype) for x in inputs]
            graph = captured(twin, *examples, compared=True)
        return _Size(graph, Network(graph.graph, _get_num_threads(), dtype=_name(inputs[0].dtype)))


_every: weakref.WeakSet[Networks] = weakref.WeakSet()


def _after_fork() -> None:
    for networks in list(_every):
        networks.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _remember(what: OrderedDict[_Kind, T], kind: _Kind, value: T) -> None:
    what[kind] = value
    if len(what) > _MOST_KINDS:
        what.popitem(last=False)


def _in_double(module: torch.nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
    """What a copy of the module returns for them in float64."""
    twin = copy.deepcopy(module).double()
    vars(twin).pop("_call_impl", None)
    return pytree.tree_leaves(twin(*(x.double() for x in inputs)))


def _alias(t: Tensor) -> Tensor:
    """Another tensor over the same numbers."""
    same = t.detach()
    return torch.nn.Parameter(same, t.requires_grad) if isinstance(t, torch.nn.Parameter) else same


def _check_kinds(outputs: Sequence[Any], inputs: Sequence[Tensor], snapshot: Snapshot) -> None:
    others = [type(y).__name__ for y in outputs if not isinstance(y, Tensor)]
    if others or not outputs:
        raise _Refused(f"it returns {others[0] if others else 'nothing'}, and networks return tensors")
    if not are_plain(outputs):
        raise _Refused("it returns tensors that are not plain")
    given = {t.untyped_storage().data_ptr() for t in (*inputs, *snapshot.tensors)}
    if any(y.untyped_storage().data_ptr() in given for y in outputs):
        raise _Refused("it returns its input or a weight itself")


def _check_answer(answer: Any, outputs: Sequence[Tensor], tree: Any, exact: Callable[[], Sequence[Tensor]]) -> None:
    """Against what the layers say. Where rounding grows in a model, both are some way from what `exact` says, the
    layers in float64; else the network computes something else."""
    found, its_tree = pytree.tree_flatten(answer)
    if its_tree != tree or [(y.shape, y.dtype) for y in found] != [(y.shape, y.dtype) for y in outputs]:
        raise _Refused("its network returns something of another form")
    doubtful = [
        n for n, (y, wanted) in enumerate(zip(found, outputs, strict=True)) if _far(y, wanted) > _CLOSE[y.dtype]
    ]
    if not doubtful:
        return
    truth = exact()
    for n in doubtful:
        ours, theirs = _far(found[n], truth[n]), _far(outputs[n], truth[n])
        if not ours <= _FACTOR * theirs:
            raise _Refused(
                f"its network gives other numbers, {ours:.2g} of their norm away from those in float64, and its layers "
                f"{theirs:.2g}: its forward does what torch.export does not see"
            )


def _far(y: Tensor, wanted: Tensor) -> float:
    """The distance as a share of what is wanted; 0 where that is not finite."""
    wanted = wanted.double()
    norm, distance = float(wanted.norm()), float((y.double() - wanted).norm())
    if not math.isfinite(norm):
        return 0.0
    return distance / norm if norm else distance


def _kind(inputs: Sequence[Tensor]) -> _Kind:
    state = _get_num_threads(), torch.is_inference_mode_enabled()
    return state, *((tuple(x.shape), x.stride(), x.dtype, type(x), x.requires_grad, x.is_inference()) for x in inputs)


def _is_kind(inputs: Sequence[Any], kind: _Kind) -> bool:
    """Asked where torch has no guards."""
    return all(isinstance(x, Tensor) for x in inputs) and are_plain(inputs) and _kind(inputs) == kind


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _is_readable(x: Tensor) -> bool:
    """Whether a network takes it as it lies in memory."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _shown(x: Tensor) -> np.ndarray[Any, Any]:
    """Its sizes and strides as a network's planner wants to see them; there are no numbers."""
    strides = tuple(step * x.itemsize for step in x.stride())
    return np.lib.stride_tricks.as_strided(np.empty(1, _name(x.dtype)), tuple(x.shape), strides)
