"""A torch module as a graph: what `torch.export` makes of it, operator by operator.

The batch size stays open: the module is exported with a symbol in its place, and where sizes are made of it the nodes
say how (`Reshape`). What else depends on sizes, Python's own `if` among it, is what it is for the example's.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .aten import CONVERTERS, READS_PLACES, TRUTHS, Builder, Cannot, Value
from .nodes import Graph, GraphError

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram

    from .tracing import Program


_LONGEST = 200
"""Letters of torch's reasons, which may have expressions of any length in them."""


class CannotCapture(UserError):
    """A module that cannot be made into a graph. The message names the operator that has no node, and where it is."""


@dataclass(frozen=True)
class Captured:
    """A graph, and how its outputs become what the module returns."""

    graph: Graph
    rebuilt: Callable[[Sequence[Any]], Any]
    """The graph's outputs, in its order → a tensor, tuple, dict … as the module returns it."""


def capture(module: torch.nn.Module, *examples: Any) -> Graph:
    """The graph of a module in eval mode.

    Args:
        module: with parameters of float32 or float64 on the CPU.
        examples: what it is called with: tensors, of the sizes that the graph is for. The batch may be another later
            (`Graph.with_input`) unless the graph says that it is `fixed`.

    Parameters and buffers become constants under their own names, in the memory that the module has them in, and
    `Graph.sources` has them. Buffers of whole numbers (which rows to take) are read now: where they change, the module
    has to be captured again.

    Raises:
        CannotCapture: with the operator that has no node, or what torch.export has against the module.

    >>> import torch
    >>> graph = capture(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.ones(1, 3, 9, 9))
    >>> [node.operation.name for node in graph.nodes], graph.with_input((5, 3, 9, 9)).shapes()[graph.outputs[0]]
    (['Convolution', 'relu'], (5, 8, 7, 7))
    """
    return captured(module, *examples).graph


def captured(module: torch.nn.Module, *examples: Any, compared: bool = False) -> Captured:
    """`capture`, and with it how outputs become what the module returns.

    Where answers are `compared` with the module's own whenever inputs of other sizes come, it is followed by ourselves
    (`tracing.py`), if that can be done, which takes a tenth of the time.
    """
    tried = _traced(module, examples) if compared else None
    tried = tried or _open_batch(module, examples)
    return tried if tried is not None else _captured(module, examples, _exported(module, examples, None))


def _traced(module: torch.nn.Module, examples: Sequence[Any]) -> Captured | None:
    """Without torch.export; None where it is not as simple as that."""
    from .tracing import traced

    try:
        with _quiet():
            walk = _Walk(traced(module, examples), type(module).__name__).run()
        return _for_examples(Captured(walk.graph(), walk.rebuilt()), examples)
    except Exception:  # whatever happens in the user's module, and torch's own many: torch.export will say it
        return None


def _for_examples(found: Captured, examples: Sequence[torch.Tensor]) -> Captured:
    """For the examples' own batch."""
    shapes = {name: tuple(x.shape) for name, x in zip(found.graph.inputs, examples, strict=True)}
    return replace(found, graph=found.graph.with_input(shapes))


def _open_batch(module: torch.nn.Module, examples: Sequence[Any]) -> Captured | None:
    """Captured with the first axis of every input open, or None where the module does not allow it."""
    import torch
    from torch.export import Dim, ShapesCollection

    tensors = all(isinstance(x, torch.Tensor) and x.dim() > 1 for x in examples)
    if not tensors or len({x.shape[0] for x in examples}) != 1:
        return None
    # torch takes a size of 1 for one that is always 1, as in broadcasting.
    batch = [x.detach().expand(2, *x.shape[1:]) if x.shape[0] == 1 else x.detach() for x in examples]
    open_sizes = ShapesCollection()  # type: ignore[no-untyped-call]
    for x in batch:
        open_sizes[x] = {0: Dim.AUTO}
    try:
        exported = _exported(module, batch, open_sizes)
        if not _any_batch(exported):
            return None
        return _for_examples(_captured(module, batch, exported), examples)
    except (CannotCapture, GraphError):
        return None


def _exported(module: torch.nn.Module, examples: Sequence[Any], dynamic: Any) -> ExportedProgram:
    import torch

    try:
        with torch.no_grad(), _quiet(), _without_prints():
            return torch.export.export(module, tuple(examples), dynamic_shapes=dynamic)
    except Exception as error:  # whatever happens in the user's module, and torch's own many
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} …"
        raise CannotCapture(f"{type(module).__name__} cannot be captured: torch.export says {reason!r}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs, warns of and prints on its way: what matters comes as an exception."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # torch prints graphs that it cannot finish
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _without_prints() -> Iterator[None]:
    """torch.export prints all of a graph that it gives up."""
    from torch.export import _trace

    printing = vars(_trace)
    printing["print"] = lambda *_, **__: None
    try:
        yield
    finally:
        printing.pop("print", None)


def _any_batch(exported: ExportedProgram) -> bool:
    """Whether the batch is open from 1 on: torch has assumed nothing of it but that it is at least 2, and the same for
    all inputs; and only `squeeze` without axes treats 1 differently."""
    ranges = exported.range_constraints.values()
    if any(int(limits.lower) > 2 or limits.upper.is_Integer for limits in ranges):
        return False
    for node in exported.graph.nodes:
        made = node.meta.get("val")
        if node.op == "placeholder" and hasattr(made, "fake_mode"):
            assumed = [guard.expr for guard in made.fake_mode.shape_env.guards]
            if not all(a.is_Equality and _same_multiple(*a.args) for a in assumed):
                return False  # as where Python asks whether it is even
        if str(node.target) == "aten.squeeze.default" and not all(isinstance(s, int) for s in _sizes(node.args[0])):
            return False
    return True


def _same_multiple(a: Any, b: Any) -> bool:
    """Whether an equation says no more than that two sizes are the same: they themselves or so many times they."""
    (times, one), (times_other, other) = a.as_coeff_Mul(), b.as_coeff_Mul()
    return bool(times == times_other and one.is_Symbol and other.is_Symbol)


def _captured(module: torch.nn.Module, examples: Sequence[Any], exported: ExportedProgram) -> Captured:
    import torch

    model = type(module).__name__
    try:
        walk = _Walk(_program(exported, model), model).run()
    except (_InOtherWords, CannotCapture) as first:
        simpler = _simpler(exported)
        refused = isinstance(first, CannotCapture)
        if refused and not simpler:
            raise
        with torch.no_grad(), _quiet(), _without_prints():
            exported = exported.run_decompositions(simpler)
        try:
            walk = _Walk(_program(exported, model), model).run()
        except _InOtherWords:
            raise CannotCapture(
                f"{model} cannot be captured: it has graphs inside the graph that torch keeps."
            ) from None
        except CannotCapture:
            if refused:
                raise first from None  # which names what the module's author has written
            raise
    return Captured(walk.graph(), walk.rebuilt())


def _simpler(exported: ExportedProgram) -> dict[Any, Any]:
    """How torch says the operators that have no node by others, as far as it does."""
    import torch

    called = {node.target for node in exported.graph.nodes if hasattr(node.target, "_schema")}
    unknown = [t for t in called if _name(t).rstrip("_") not in CONVERTERS and _name(t) not in _ROUNDED]
    table = torch.export.default_decompositions() if unknown else {}
    return {target: table[target] for target in unknown if target in table}


_ROUNDED = {"upsample_bicubic2d"}
"""Operators that torch says by others less exactly: with weights in float32 for numbers in float64."""


def _program(exported: ExportedProgram, model: str) -> Program:
    import torch
    from torch.export.graph_signature import InputKind

    from .tracing import Program, State

    everything = {**dict(exported.state_dict), **dict(exported.constants)}
    state = {}
    for spec in exported.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        if spec.kind == InputKind.USER_INPUT:
            continue
        tensor = everything.get(spec.target or "")
        if not isinstance(tensor, torch.Tensor):
            raise CannotCapture(f"{model} cannot be captured: it has {name!r}, which is no tensor.")
        state[name] = State(spec.target or "", tensor, spec.kind == InputKind.CONSTANT_TENSOR)
    return Program(exported.graph, state, exported.call_spec.out_spec)


class _InOtherWords(Exception):
    """torch must say it without changes in place, as where a changed value is read under another name, and without
    graphs inside the graph, as `torch.autocast` makes them."""


_NOTHING = ("_assert", "sym_constrain", "_local_scalar")
"""How operators begin that only check something."""

_WHOLE = {"detach", "alias", "type_as", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
"""Operators that return their input itself, in eval mode."""

_FRESH = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like")
"""Operators that look at their input's shape and type, not at its numbers."""


class _Walk:
    """One way through torch's graph, node by node.

    Each of torch's nodes stands for a number or size; a tensor that is the same at every call (`actual`); or a value of
    our graph (`values`). A tensor made of parameters is a value, too, because the parameters may change.
    """

    def __init__(self, program: Program, model: str) -> None:
        self.program, self.model = program, model
        self.builder = Builder()
        self.inputs: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.state: dict[fx.Node, str] = {}
        """The module's parameters and buffers, and what it calls them."""
        self.actual: dict[fx.Node, torch.Tensor] = {}
        self.values: dict[fx.Node, Any] = {}
        self.whole: dict[fx.Node, fx.Node] = {}
        """The first of the nodes that are one and the same tensor: what is done to one in place, all show."""
        self.memory: dict[fx.Node, fx.Node] = {}
        """The first of those that may lie in the same memory."""
        self.place = {node: i for i, node in enumerate(program.graph.nodes)}

    def run(self) -> _Walk:
        self._placeholders()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._operator(node)
            elif node.op == "get_attr":
                raise _InOtherWords
        return self

    # --- what goes in and out -----------------------------------------------------------------------------------------

    def _placeholders(self) -> None:
        import torch

        names = {node.name for node in self.program.graph.nodes}
        for node in self.program.graph.find_nodes(op="placeholder"):
            made, state = node.meta.get("val"), self.program.state.get(node.name)
            if state is None:
                if not isinstance(made, torch.Tensor):
                    continue  # a number or None: it is in the operators' arguments
                if not made.is_floating_point():
                    raise CannotCapture(
                        f"{self.model} cannot be captured: its input {node.name!r} has {made.dtype}, and only "
                        "floating-point tensors are known."
                    )
                self.inputs[node.name] = self._sizes(made)
                self.values[node] = Value(node.name, self._sizes(made))
                continue
            self.state[node] = state.name
            if state.constant or not state.tensor.is_floating_point():
                self.actual[node] = state.tensor.clone()  # which a view of it may change
                continue
            name = state.name
            while name in names:
                name += "_"
            self.builder.constants[name] = array_of(state.tensor)
            self.sources[name] = state.name
            self.values[node] = Value(name, tuple(state.tensor.shape))

    def graph(self) -> Graph:
        """What was found, without the parameters that nothing reads."""
        returned = self._returned()
        outputs = tuple(self._value(node).name for node in returned)
        for node in returned:
            if not _floating(node.meta["val"]):
                what = "truth values" if _truths(node.meta["val"]) else f"{node.meta['val'].dtype} of its own"
                raise CannotCapture(f"{self.model} cannot be captured: it returns {what}, and networks do not.")
        read = {name for node in self.builder.nodes for name in node.inputs} | set(outputs)
        constants = {
            name: array.astype(np.float64) if array.dtype == bool else array
            for name, array in self.builder.constants.items()
            if name in read
        }
        fixed = {
            name: tuple(axis for axis, size in enumerate(sizes) if isinstance(size, int))
            for name, sizes in self.inputs.items()
        }
        shapes = {name: tuple(_hint(size) for size in sizes) for name, sizes in self.inputs.items()}
        sources = {name: source for name, source in self.sources.items() if name in read}
        graph = Graph(shapes, outputs, tuple(self.builder.nodes), constants, fixed, sources)
        graph.check()
        return graph

    def _returned(self) -> list[fx.Node]:
        (output,) = self.program.graph.find_nodes(op="output")
        return [item for item in output.args[0] if item is not None]

    def rebuilt(self) -> Callable[[Sequence[Any]], Any]:
        from torch.utils import _pytree as pytree

        (output,) = self.program.graph.find_nodes(op="output")
        there = [item is not None for item in output.args[0]]
        tree = self.program.tree

        def rebuilt(outputs: Sequence[Any]) -> Any:
            given = iter(outputs)
            return pytree.tree_unflatten([next(given) if one else None for one in there], tree)

        return rebuilt

    # --- operators ----------------------------------------------------------------------------------------------------

    def _operator(self, node: fx.Node) -> None:
        import torch

        made = node.meta.get("val")
        if node.target is operator.getitem:
            of, index = node.args
            assert isinstance(of, torch.fx.Node)
            self._alias(node, of, whole=False)
            if of in self.actual:
                self.actual[node] = self.actual[of][index]  # type: ignore[index]
            else:
                self.values[node] = self.values[of][index]
            return
        if not isinstance(made, torch.Tensor | tuple | list):
            return  # a size or a number, which torch knows, or a check
        name = _name(node.target)
        if name.startswith(_NOTHING):
            return
        arguments = self._arguments(node)
        tensors = [n for n in node.all_input_nodes if n in self.values or n in self.actual]
        changes = name.endswith("_") and not name.endswith("__")
        owner = self.state.get(self.memory.get(tensors[0], tensors[0])) if changes and tensors else None
        if owner is not None:
            raise CannotCapture(
                f"{self.model} cannot be captured: {self._where(node)} changes {owner!r}, as layers do in training "
                "mode: call eval() first."
            )
        if changes and tensors:
            self._changed_in_place(node, tensors[0])
        elif tensors and (name in _WHOLE or _is_view(node)):
            self._alias(node, tensors[0], whole=name in _WHOLE)
        if name in _FRESH or all(n in self.actual for n in tensors):
            self._evaluate(node, name)
            return
        self.builder.about = node.name
        try:
            known = CONVERTERS.get(name.rstrip("_"))
            if known is None or not (_floating(made) or (_truths(made) and known in TRUTHS.values())):
                raise Cannot("has no node in our graphs")
            formats = {n.meta["val"].dtype for n in tensors if n in self.values} | {_first(made).dtype}
            if len(formats - ({torch.bool, torch.int64} if name in READS_PLACES else {torch.bool})) > 1:
                raise Cannot(f"makes {_first(made).dtype} of another number format, and a network has one")
            values = {key: self._converted(value) for key, value in arguments.items()}
            values["result"] = self._sized(made)
            # Of several results, those that something reads.
            values["read"] = {u.args[1] for u in node.users if u.target is operator.getitem and u.users}
            if _floating(made):
                values["usual_eps"] = torch.finfo(_first(made).dtype).eps
            result = known(self.builder, values)
        except (Cannot, GraphError) as error:
            raise CannotCapture(f"{self.model} cannot be captured: {self._where(node)} {error}.") from error
        self._keep(node, result, made, tensors[0] if changes else None)

    def _keep(self, node: fx.Node, result: Any, made: Any, changed: fx.Node | None) -> None:
        if isinstance(result, str):
            result = self._renamed(result, node.name)
            self.values[node] = Value(result, self._sizes(made))
        else:
            self.values[node] = [
                None if name is None else Value(name, self._sizes(part))
                for name, part in zip(result, made, strict=False)
            ]
        if changed is not None:
            first = self.whole.get(changed, changed)
            for other, whole in [*self.whole.items(), (first, first)]:
                if whole is first:
                    self.values[other] = self.values[node]

    def _renamed(self, made: str, name: str) -> str:
        """The value under torch's name for it, where it is the newest node's."""
        nodes = self.builder.nodes
        if nodes and nodes[-1].output == made and made.startswith(f"{name}."):
            nodes[-1] = replace(nodes[-1], output=name)
            return name
        return made

    def _evaluate(self, node: fx.Node, name: str) -> None:
        """By torch itself: it is the same at every call."""
        import torch

        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CannotCapture(f"{self.model} cannot be captured: {self._where(node)} draws random numbers.")

        def actual(item: fx.Node) -> Any:
            if item in self.actual:
                return self.actual[item]
            value = item.meta["val"]
            if isinstance(value, torch.Tensor) and name in _FRESH and all(isinstance(s, int) for s in value.shape):
                return torch.empty(tuple(value.shape), dtype=value.dtype)
            if isinstance(value, torch.Tensor) or not isinstance(value, int | float | bool):
                raise CannotCapture(
                    f"{self.model} cannot be captured: {self._where(node)} makes numbers of the input's size."
                )
            return value

        arguments = torch.fx.map_arg(node.args, actual), torch.fx.map_arg(node.kwargs, actual)
        target: Any = node.target
        with torch.no_grad():
            self.actual[node] = target(*arguments[0], **arguments[1])

    # --- memory -------------------------------------------------------------------------------------------------------

    def _alias(self, node: fx.Node, of: fx.Node, whole: bool) -> None:
        """The result may lie in the memory of an input, as far as is known here."""
        self.memory[node] = self.memory.get(of, of)
        if whole:
            self.whole[node] = self.whole.get(of, of)

    def _changed_in_place(self, node: fx.Node, changed: fx.Node) -> None:
        """Raises `_InOtherWords` where another name for the memory is read afterwards."""
        if changed in self.actual:  # torch changes it, views and all
            self.memory[node] = self.memory.get(changed, changed)
            return
        first, memory = self.whole.get(changed, changed), self.memory.get(changed, changed)
        for other in self.place:
            shares = self.memory.get(other, other) is memory and self.whole.get(other, other) is not first
            if shares and any(self.place[user] > self.place[node] for user in other.users):
                raise _InOtherWords
        self.whole[node], self.memory[node] = first, memory

    # --- arguments ----------------------------------------------------------------------------------------------------

    def _where(self, node: fx.Node) -> str:
        """The operator as messages name it."""
        path = [where[0] for where in node.meta.get("nn_module_stack", {}).values()]
        inside = f" in {path[-1].removeprefix('L__self__').strip('.')!r}" if path and path[-1].strip(".") else ""
        return f"the operator {_name(node.target)}{inside}"

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        from .tracing import arguments

        target: Any = node.target
        if not hasattr(target, "_schema"):
            raise CannotCapture(f"{self.model} cannot be captured: {self._where(node)} has no node in our graphs.")
        return arguments(target, node.args, node.kwargs)

    def _converted(self, argument: Any) -> Any:
        """Tensors as values, sizes as integers or symbols."""
        import torch

        if isinstance(argument, torch.fx.Node):
            return self._value(argument) if argument in self.values or argument in self.actual else _number(argument)
        if isinstance(argument, list | tuple):
            return [self._converted(item) for item in argument]
        return argument

    def _value(self, node: fx.Node) -> Value:
        import torch

        if node in self.actual:
            tensor = self.actual[node]
            mask = tensor.dtype == torch.bool  # which takes other rows than ones and zeros do
            name = self.builder.constant(tensor.numpy() if mask else array_of(tensor))
            return Value(name, tuple(tensor.shape))
        value: Value | None = self.values[node]
        if value is None:
            raise CannotCapture(
                f"{self.model} cannot be captured: it reads {node.name!r}, a result that has no node in our graphs."
            )
        return value

    def _sized(self, made: Any) -> Any:
        if isinstance(made, tuple | list):
            return [self._sized(part) for part in made]
        return Value("", () if made is None else self._sizes(made))

    def _sizes(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        return self.program.sizes_of(tensor)


def _name(target: Any) -> str:
    return target._schema.name.partition("::")[2] if hasattr(target, "_schema") else str(target)


def _sizes(node: Any) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _is_view(node: fx.Node) -> bool:
    """Whether the result may lie in the memory of an input, as the operator's schema says."""
    target: Any = node.target
    return any(result.alias_info is not None for result in target._schema.returns)


def _number(node: fx.Node) -> Any:
    """A size or number that torch has worked out; an integer where it does not depend on the input."""
    value = node.meta["val"]
    if isinstance(value, int | float | bool):
        return value
    expression = value.node.expr
    return int(expression) if expression.is_Integer else value


def _floating(made: Any) -> bool:
    """Whether the (first) result has floating-point numbers."""
    return bool(_first(made).is_floating_point())


def _truths(made: Any) -> bool:
    """Whether the (first) result has truth values, which are 1 and 0 in our graphs."""
    return str(_first(made).dtype) == "torch.bool"


def _first(made: Any) -> torch.Tensor:
    tensor: torch.Tensor = made[0] if isinstance(made, tuple | list) else made
    return tensor


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's own memory where NumPy can read it, else a copy in float32."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    array: NDArray[Any] = tensor.cpu().numpy()
    return array if array.dtype.kind == "f" else array.astype(np.float64)
