"""A torch module followed by ourselves: its operators as they come, on tensors that have sizes and no numbers.

`torch.export` knows everything that a module assumes of its input, but importing it takes longer than all the rest of a
network's way to its first answer: 1.5 s on a Zen 3, and 0.7 to 2 s of its own for 20 to 60 layers. Here the module runs
twice, on two batch sizes, with every operator written down (30 to 60 ms each time). Where both runs say the same, but
for sizes that are so many times the batch, that is the module for other batches, too, unless it looks at the batch and
does something else for a size that was not tried. So this is for callers who compare a network's answer with the
module's own whenever they meet other sizes.

Whatever is out of the ordinary ends in an exception; the caller then asks `torch.export`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily

from .aten import CONVERTERS, TRUTHS, Builder, Value
from .nodes import PoolingPlaces

aten = torch.ops.aten


def arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the operator's schema, with its usual values."""
    wanted = target._schema.arguments
    given = {argument.name: value for argument, value in zip(wanted, args, strict=False)} | dict(kwargs)
    usual = {argument.name: argument.default_value for argument in wanted if argument.has_default_value()}
    return usual | given


class CannotTrace(Exception):
    """The module does something that is not followed here."""


@dataclass(frozen=True)
class State:
    """What a placeholder of a program stands for besides an input: a parameter or buffer by the module's name for it,
    or a tensor that is the same at every call."""

    name: str
    tensor: Tensor
    constant: bool = False


@dataclass(frozen=True)
class Program:
    """A module as torch's operators: placeholders (inputs, and `state` by their names), calls, and a tuple of results,
    which `tree` makes what the module returns of. Each node's `meta["val"]` is a tensor like its result."""

    graph: fx.Graph
    state: dict[str, State]
    tree: Any
    sizes: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    """By the identity of such a tensor, its sizes, where they are not simply its shape's."""

    def sizes_of(self, tensor: Tensor) -> tuple[Any, ...]:
        """Of a tensor in a node's `meta`: integers, or symbols where they depend on the input's size."""
        return self.sizes.get(id(tensor), tuple(tensor.shape))


@dataclass(frozen=True)
class OfBatch:
    """A size that is so many times a power of the batch; it looks like torch's symbols to those who read them."""

    factor: int
    batch: int
    power: int = 1

    def __mul__(self, other: Any) -> OfBatch:
        if isinstance(other, OfBatch):
            return OfBatch(self.factor * other.factor, self.batch, self.power + other.power)
        return OfBatch(self.factor * other, self.batch, self.power)

    __rmul__ = __mul__

    @property
    def node(self) -> OfBatch:
        return self

    @property
    def expr(self) -> OfBatch:
        return self

    @property
    def hint(self) -> int:
        return int(self.factor * self.batch**self.power)

    def __str__(self) -> str:
        return f"{self.factor}·batch"


def traced(module: torch.nn.Module, examples: Sequence[Any]) -> Program:
    """The module for inputs like these, with the batch open.

    Raises `CannotTrace`, or whatever the module or torch raise where there are no numbers.
    """
    if not all(isinstance(x, Tensor) and x.dim() > 1 for x in examples) or len({x.shape[0] for x in examples}) != 1:
        raise CannotTrace
    batch = max(2, examples[0].shape[0])  # 1 is special: it is broadcast
    first, second = (_Run.of(module, examples, size) for size in (batch, batch + 1))
    return _Agreed(first, second, batch).program(_names(module, len(examples)))


def _names(module: torch.nn.Module, count: int) -> list[str]:
    """What `forward` calls its inputs."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{n}" for n in range(count - len(names))]
        elif parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
            names.append(parameter.name)
    return names[:count]


# ---------------------------------------------------------------------------------------------------------------------
# A run
# ---------------------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a tensor comes from: "input" or "state" and its number, or a call's number and which of its results."""

    of: str
    number: int
    part: int = -1
    """−1 for a result that comes alone."""


class _Shadow(Tensor):
    """A tensor on the CPU, as far as a module can see, that has no memory; `meta` is the same as torch's own kind of
    such tensors, on which it can work out sizes."""

    meta: Tensor
    place: _Place

    @staticmethod
    def __new__(cls, meta: Tensor, place: _Place) -> _Shadow:
        made: _Shadow = Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), dtype=meta.dtype, device=torch.device("cpu")
        )
        return made

    def __init__(self, meta: Tensor, place: _Place) -> None:
        self.meta, self.place = meta, place

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise CannotTrace  # outside of the run


@dataclass(frozen=True)
class _Call:
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    """Tensors without memory."""


def _result(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a call makes, of tensors without memory: by the operator's node, which knows its sizes, or by torch.

    torch works many sizes out in Python, with a compiler and a computer algebra that take a second to import. What it
    would refuse to compute, the module's own layers have refused before.
    """
    name = target._schema.name.partition("::")[2]
    if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor):
        return args[0]
    tensors = list(_every(Tensor, (args, kwargs)))
    if name not in CONVERTERS or name in TRUTHS or not tensors or len({tensor.dtype for tensor in tensors}) > 1:
        return target(*args, **kwargs)
    values = {id(tensor): Value(f"{n}", tuple(tensor.shape)) for n, tensor in enumerate(tensors)}
    said = _each_tensor(dict(arguments(target, args, kwargs)), lambda tensor: values[id(tensor)])
    builder = Builder(about=name)
    try:
        made = CONVERTERS[name](builder, said)
    except KeyError:  # its node is made of the result's sizes
        return target(*args, **kwargs)
    shapes = {value.name: value.sizes for value in values.values()}
    shapes |= {constant: array.shape for constant, array in builder.constants.items()}
    for node in builder.nodes:
        shapes[node.output] = node.operation.shape(*(shapes[i] for i in node.inputs))

    places = {node.output for node in builder.nodes if isinstance(node.operation, PoolingPlaces)}

    def empty(part: str | None) -> Tensor:
        dtype = torch.int64 if part in places else tensors[0].dtype
        return torch.empty((0,) if part is None else shapes[part], dtype=dtype, device="meta")

    return empty(made) if isinstance(made, str) else tuple(map(empty, made))


_T = TypeVar("_T")


def _every(kind: type[_T], arguments: Any) -> Iterator[_T]:
    """Those of a kind among arguments, in their order, however deep."""
    if isinstance(arguments, kind):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for item in arguments:
            yield from _every(kind, item)
    elif isinstance(arguments, dict):
        yield from _every(kind, list(arguments.values()))


_WHOLE = {F.linear: aten.linear.default, F.scaled_dot_product_attention: aten.scaled_dot_product_attention.default}
"""Functions that are made of several operators, and are one here."""


class _Run(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """One run of a module, and what it called."""

    @classmethod
    def of(cls, module: torch.nn.Module, examples: Sequence[Tensor], batch: int) -> _Run:
        run = cls(module)
        inputs = [
            _Shadow(torch.empty(batch, *x.shape[1:], dtype=x.dtype, device="meta"), _Place("input", n))
            for n, x in enumerate(examples)
        ]
        run.inputs = [x.meta for x in inputs]
        with torch.no_grad(), _as_exported(), _WholeFunctions(run), run:
            result = module(*inputs)
        leaves, run.tree = pytree.tree_flatten(result)
        if not all(leaf is None or isinstance(leaf, _Shadow) for leaf in leaves):
            raise CannotTrace
        run.outputs = [None if leaf is None else leaf.place for leaf in leaves]
        return run

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self.names = {id(tensor): name for name, tensor in reversed(tensors)}
        self.inputs: list[Tensor] = []
        self.outputs: list[_Place | None] = []
        self.tree: Any = None
        self.calls: list[_Call] = []
        self.state: list[State] = []
        self._met: dict[int, _Shadow] = {}
        """Of tensors that are no shadows, by their identity; `state` keeps them alive."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to be kept out of here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, target: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Writes the call down; the result is without numbers."""
        args, kwargs = _each_tensor((args, kwargs), self._shadow)
        places = _each_tensor((args, kwargs), lambda x: x.place)
        metas, named = _each_tensor((args, kwargs), lambda x: x.meta)
        if "device" in named:
            named["device"] = torch.device("meta")
        result: Any = _result(target, metas, named)
        number = len(self.calls)
        self.calls.append(_Call(target, places[0], places[1], result))
        if isinstance(result, Tensor):
            if metas and result is metas[0]:  # changed in place
                args[0].place = _Place("call", number)
                return args[0]
            return _Shadow(result, _Place("call", number))
        if isinstance(result, tuple | list) and all(isinstance(part, Tensor) for part in result):
            return type(result)(_Shadow(part, _Place("call", number, n)) for n, part in enumerate(result))
        if result is None:
            return None
        raise CannotTrace

    def _shadow(self, tensor: Tensor) -> _Shadow:
        if isinstance(tensor, _Shadow):
            return tensor
        known = self._met.get(id(tensor))
        if known is None:
            name = self.names.get(id(tensor))
            meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            known = self._met[id(tensor)] = _Shadow(meta, _Place("state", len(self.state)))
            self.state.append(State(name or f"constant_{len(self.state)}", tensor, name is None))
        return known


def _each_tensor(arguments: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments with something else in the place of each tensor. (torch's own `pytree` takes ten times as long.)"""
    if isinstance(arguments, Tensor):
        return change(arguments)
    if isinstance(arguments, tuple | list):
        return type(arguments)([_each_tensor(item, change) for item in arguments])
    if isinstance(arguments, dict):
        return {key: _each_tensor(item, change) for key, item in arguments.items()}
    return arguments


class _WholeFunctions(TorchFunctionMode):
    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WHOLE:
            with _pop_mode_temporarily():  # else its parts would come, too
                return self.run.call(_WHOLE[func], args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextmanager
def _as_exported() -> Iterator[None]:
    """While this holds, modules that ask are told what `torch.export` would tell them; ours then call torch's own
    operators."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {flag: getattr(torch.compiler, flag) for flag in flags}  # an AttributeError where torch has no such flag
    try:
        for flag in flags:
            setattr(torch.compiler, flag, True)
        yield
    finally:
        for flag, value in before.items():
            setattr(torch.compiler, flag, value)


# ---------------------------------------------------------------------------------------------------------------------
# Two runs as one program
# ---------------------------------------------------------------------------------------------------------------------


class _Agreed:
    """What two runs have in common, which must be everything but sizes that are so many times the batch."""

    def __init__(self, first: _Run, second: _Run, batch: int) -> None:
        self.first, self.batch = first, batch
        same = (len(first.calls), first.outputs, first.tree) == (len(second.calls), second.outputs, second.tree)
        if not same or [s.name for s in first.state] != [s.name for s in second.state]:
            raise CannotTrace
        if any(not torch.equal(*pair) for pair in self._constants(first, second)):
            raise CannotTrace
        self.sizes: dict[int, tuple[Any, ...]] = {}
        self.calls = [self._call(a, b) for a, b in zip(first.calls, second.calls, strict=True)]
        for a, b in zip(first.inputs, second.inputs, strict=True):
            self._result(a, b)

    @staticmethod
    def _constants(first: _Run, second: _Run) -> Iterator[tuple[Tensor, Tensor]]:
        return ((a.tensor, b.tensor) for a, b in zip(first.state, second.state, strict=True) if a.constant)

    def _call(self, a: _Call, b: _Call) -> _Call:
        if a.target is not b.target:
            raise CannotTrace
        args, kwargs = self._said((a.args, a.kwargs), (b.args, b.kwargs))
        self._result(a.result, b.result)
        if a.target is aten.squeeze.default and any(isinstance(size, OfBatch) for size in self.sizes[id(a.result)]):
            raise CannotTrace  # for a single image it would take that axis, too
        return _Call(a.target, args, kwargs, a.result)

    def _said(self, a: Any, b: Any) -> Any:
        """An argument, with its integers in terms of the batch."""
        if type(a) is not type(b):
            raise CannotTrace
        if isinstance(a, _Place):
            pass
        elif isinstance(a, tuple | list):
            if len(a) != len(b):
                raise CannotTrace
            return type(a)(self._said(*pair) for pair in zip(a, b, strict=True))
        elif isinstance(a, dict):
            if a.keys() != b.keys():
                raise CannotTrace
            return {key: self._said(a[key], b[key]) for key in a}
        elif isinstance(a, int) and a != b:
            if a % self.batch or a // self.batch * (self.batch + 1) != b:
                raise CannotTrace
            return OfBatch(a // self.batch, self.batch)
        if a != b:
            raise CannotTrace
        return a

    def _result(self, a: Any, b: Any) -> None:
        if isinstance(a, Tensor):
            if a.dtype != b.dtype:
                raise CannotTrace
            self.sizes[id(a)] = self._said(tuple(a.shape), tuple(b.shape))
        elif a is not None:
            for one, other in zip(a, b, strict=True):
                self._result(one, other)

    def _needed(self) -> set[int]:
        """The calls that outputs depend on, and those that change something in place."""
        needed = {place.number for place in self.first.outputs if place is not None and place.of == "call"}
        for number in reversed(range(len(self.calls))):
            call = self.calls[number]
            if call.target._schema.name.endswith("_"):
                needed.add(number)
            if number in needed:
                needed |= {p.number for p in _every(_Place, (call.args, call.kwargs)) if p.of == "call"}
        return needed

    def program(self, names: Sequence[str]) -> Program:
        graph, state = fx.Graph(), {}
        nodes: dict[_Place, fx.Node] = {}
        for number, (name, like) in enumerate(zip(names, self.first.inputs, strict=True)):
            node = nodes[_Place("input", number)] = graph.placeholder(name)
            node.meta["val"] = like
        for number, one in enumerate(self.first.state):
            node = nodes[_Place("state", number)] = graph.placeholder(f"p_{one.name.replace('.', '_')}")
            node.meta["val"], state[node.name] = one.tensor, one
        needed = self._needed()
        for number, call in enumerate(self.calls):
            if number not in needed:
                continue
            args, kwargs = _with_nodes((call.args, call.kwargs), nodes)
            node = nodes[_Place("call", number)] = graph.create_node(
                "call_function", call.target, args, kwargs, call.target._schema.name.partition("::")[2]
            )
            node.meta["val"] = call.result
            for part, result in enumerate(call.result if isinstance(call.result, tuple | list) else ()):
                one_of = nodes[_Place("call", number, part)] = graph.call_function(operator.getitem, (node, part))
                one_of.meta["val"] = result
        graph.output(tuple(None if place is None else nodes[place] for place in self.first.outputs))
        return Program(graph, state, self.first.tree, self.sizes)


def _with_nodes(arguments: Any, nodes: dict[_Place, fx.Node]) -> Any:
    if isinstance(arguments, _Place):
        return nodes[arguments]
    if isinstance(arguments, tuple | list):
        return type(arguments)(_with_nodes(item, nodes) for item in arguments)
    if isinstance(arguments, dict):
        return {key: _with_nodes(item, nodes) for key, item in arguments.items()}
    return arguments
