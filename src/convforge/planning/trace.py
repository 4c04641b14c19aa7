"""Running a model on tensors that have shapes but no memory, and writing down what each layer does.

Two observers sit between the model and torch. The dispatch mode sees every operator, whatever code called it: it checks
convolutions and poolings against `Conv2dSpec` before they run, counts multiply-accumulates and carries the receptive
field. The function mode sees the calls one level above, where a few things are still in one piece that operators take
apart: a linear layer over a map, circular padding, and which parameters a functional call was given.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ..errors import UserError
from ..spec import (
    LESSON_NEURONS,
    Conv2dSpec,
    Pair,
    Sides,
    SpecError,
    among_layers,
    dense_weights,
    transposed_output_size,
)
from .fields import (
    Arguments,
    Fields,
    Seen,
    State,
    convolution_sides,
    is_convolution,
    named_arguments,
    padded,
    pooling_spec,
    window,
)
from .rows import DenseEquivalent, Row

aten = torch.ops.aten

_POOLS = (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d)
_JOINS = (aten.add, aten.add_, aten.mul, aten.mul_, aten.cat, aten.sub, aten.sub_)
_REDUCTIONS = (aten.mean, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d)
# Calls whose own name says more than the operators that they are made of.
_CALLS = {"linear", "matmul", "adaptive_avg_pool2d", "adaptive_max_pool2d", "scaled_dot_product_attention", "einsum"}
_PLAIN_NAMES = {
    "convolution": "conv2d", "max_pool2d_with_indices": "max_pool2d", "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "mm": "matmul", "addmm": "matmul", "bmm": "matmul", "baddbmm": "matmul", "mv": "matmul",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slide:
    """A window that slid over maps: a convolution, or a pooling (`weights` 0)."""

    kernel: Pair
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int
    dense: DenseEquivalent | None


@dataclass(slots=True)
class Frame:
    """One call of a module, while it runs."""

    module: nn.Module | None
    name: str
    type: str
    is_leaf: bool
    inputs: list[torch.Tensor] = field(default_factory=list)
    slides: list[Slide] = field(default_factory=list)
    macs: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    pads: list[tuple[Sides, str]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The layer in an error message."""
        return f"layer {self.name!r} ({self.type})" if self.name else f"the model ({self.type})"


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one layer: it has no sub-modules, or those that it has are its own affair."""
    children = [name for name, _ in module.named_children() if name != "parametrizations"]
    return not children or isinstance(module, nn.MultiheadAttention)


def _origin(module: nn.Module) -> str:
    """Where the class comes from, seen through the subclass that parametrization makes."""
    parametrized = torch.nn.utils.parametrize.is_parametrized(module)
    return (type(module).__mro__[1] if parametrized else type(module)).__module__


class Recorder:
    """Turns what the observers see into rows, and keeps beside each row what its units see of the input (`states`)."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.fields = Fields()
        self.rows: list[Row] = []
        self.states: list[State | None] = []
        self.notes: dict[str, None] = {}
        self.root = Frame(None, "", type(model).__name__ if isinstance(model, nn.Module) else model.__name__, False)
        self.stack = [self.root]
        self._modules: dict[nn.Module, str] = {}
        self._parameters: dict[int, nn.Parameter] = {}
        self._counted: set[int] = set()
        self._claimed: list[nn.Parameter] = []
        self._calling: list[str] = []
        if isinstance(model, nn.Module):
            self._modules = {module: name for name, module in model.named_modules()}
            self._parameters = {id(p): p for p in model.parameters()}

    # --- modules --------------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: Any) -> None:
        if module not in self._modules or self.stack[-1].is_leaf:
            return
        inputs = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
        name = self._modules[module]
        leaf = is_leaf(module)
        if leaf and not name:
            # A whole model without sub-modules is either one of torch's layers, or written with functions.
            leaf = isinstance(module, torch.jit.ScriptModule) or ".nn." in f"{_origin(module)}."
            name = type(module).__name__.lower() if leaf else ""
        self.stack.append(Frame(module, name, type(module).__name__.removeprefix("Parametrized"), leaf, inputs))
        if isinstance(module, nn.Linear) and inputs and inputs[0].shape[-1:] != (module.in_features,):
            shape = "×".join(str(n) for n in inputs[0].shape[1:])
            raise UserError(
                f"{self.stack[-1].label} takes {module.in_features} features, but its input is {shape}: "
                f"set in_features={inputs[0].shape[-1]}, or change the input size."
            )

    def leave(self, module: nn.Module, result: Any) -> None:
        if not any(frame.module is module for frame in self.stack):
            return
        while self.stack[-1].module is not module:  # calls that raised, and whose caller went on
            self.stack.pop()
        frame = self.stack.pop()
        if not frame.is_leaf:
            return
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        inputs = {t.untyped_storage()._cdata for t in frame.inputs}
        own = [t for t in outputs if t.untyped_storage()._cdata not in inputs]
        self._add(frame, frame.name, frame.type, list(module.parameters()), frame.inputs, outputs, own)

    # --- operations -----------------------------------------------------------------------------------------------

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        frame = self.stack[-1]
        packet = func.overloadpacket
        named = named_arguments(func, args, kwargs)
        slide = self._checked(packet, named, frame)
        if slide is not None:
            frame.slides.append(slide)
        if packet in (aten.native_group_norm, aten.native_layer_norm):
            self._note_statistics(named, packet)
        # Views and moves keep the operand's own state before an in-place operator overwrites it.
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        followed = {id(t): self.fields.get(t) for t in operands if self.fields.get(t) is not None}
        result = func(*args, **kwargs)
        self.fields.follow(func, named, result)
        macs = _macs(packet, named, args, kwargs, result)
        frame.macs += macs
        joins = packet in _JOINS and len(followed) > 1
        if not frame.is_leaf and (macs or slide is not None or joins or (followed and packet in _REDUCTIONS)):
            self._functional(frame, packet, operands, result, macs)
        return result

    def _functional(self, frame: Frame, packet: Any, operands: list[torch.Tensor], result: Any, macs: int) -> None:
        kind = next((c for c in self._calling if c in _CALLS), "")
        kind = kind or _PLAIN_NAMES.get(packet.__name__, packet.__name__).rstrip("_")
        frame.calls[kind] += 1
        name = ".".join(part for part in (frame.name, kind) if part)
        if frame.calls[kind] > 1:
            name += f"_{frame.calls[kind]}"
        tracked = [t for t in operands if self.fields.get(t) is not None] or operands
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)][:1]
        own = [] if any(outputs[0] is t for t in operands) else outputs
        parameters, self._claimed = self._claimed, []
        self._add(frame, name, kind, parameters, tracked, outputs, own, macs)
        frame.slides.clear()
        frame.pads.clear()
        frame.macs = 0

    def _add(
        self,
        frame: Frame,
        name: str,
        kind: str,
        parameters: list[nn.Parameter],
        inputs: list[torch.Tensor],
        outputs: list[torch.Tensor],
        own: list[torch.Tensor],
        macs: int | None = None,
    ) -> None:
        fresh = [p for p in parameters if id(p) not in self._counted]
        self._counted.update(id(p) for p in fresh)
        slide = frame.slides[0] if len(frame.slides) == 1 else None
        sides, mode = with_pads(slide, frame.pads)
        self.states.append(self.fields.get(outputs[0]) if outputs else None)
        self.rows.append(
            Row(
                name=name,
                type=kind,
                kernel=slide.kernel if slide else None,
                stride=slide.stride if slide else None,
                padding=sides,
                padding_mode=mode,
                dilation=slide.dilation if slide else None,
                groups=slide.groups if slide else 1,
                input_shape=tuple(inputs[0].shape) if inputs else (),
                output_shape=tuple(outputs[0].shape) if outputs else (),
                receptive_field=window(self.states[-1]),
                parameters=sum(p.numel() for p in {id(p): p for p in fresh}.values()),
                shared=bool(parameters) and not fresh,
                macs=frame.macs if macs is None else macs,
                activation_bytes=sum(t.numel() * t.element_size() for t in own),
                dense=DenseEquivalent.together([s.dense for s in frame.slides if s.dense]),
            )
        )

    def function(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        frame = self.stack[-1]
        leaves = tree_leaves((args, kwargs))
        if not frame.is_leaf:
            self._claimed = [p for p in leaves if id(p) in self._parameters and id(p) not in self._counted]
        if func is nn.functional.pad and leaves:
            return self._pad(func, args, kwargs)
        rows = len(self.rows)
        self._calling.append(getattr(func, "__name__", ""))
        try:
            result = func(*args, **kwargs)
        finally:
            self._calling.pop()
        if func is nn.functional.linear:
            seen = self.fields.get(args[0])
            if isinstance(seen, Seen) and args[0].ndim - 1 not in seen.dims:
                self.fields.set(result, seen)
        if self._claimed and len(self.rows) == rows and self.fields.get(result) is not None:
            kind = resolve_name(func) or ""
            self._claimed = [p for p in self._claimed if p is not result]
            self._elementwise(frame, kind.rpartition(".")[2].strip("_"), args, result)
        return result

    def _elementwise(self, frame: Frame, kind: str, args: Any, result: torch.Tensor) -> None:
        """A functional call without multiply-accumulates that was given parameters: a norm, a learned scale."""
        if not self._claimed:
            return
        frame.calls[kind] += 1
        name = ".".join(part for part in (frame.name, kind) if part)
        name += f"_{frame.calls[kind]}" if frame.calls[kind] > 1 else ""
        operands = [t for t in tree_leaves(args) if self.fields.get(t) is not None]
        own = [] if any(result is t for t in operands) else [result]
        parameters, self._claimed = self._claimed, []
        self._add(frame, name, kind, parameters, operands, [result], own, 0)

    def _pad(self, func: Callable[..., Any], args: Any, kwargs: Any) -> torch.Tensor:
        """Padding in front of a layer is the layer's padding, and its mode is known only here."""

        def read(
            input: torch.Tensor, pad: Any, mode: str = "constant", value: float | None = None
        ) -> tuple[torch.Tensor, list[int], str]:
            return input, [int(p) for p in pad], mode

        image, pad, mode = read(*args, **kwargs)
        seen = self.fields.get(image)
        if mode in ("reflect", "circular") and len(pad) == 4 and image.ndim in (3, 4):
            channels, size = image.shape[-3], (image.shape[-2], image.shape[-1])
            spec = Conv2dSpec(channels, channels, 1, padding=(pad[2:], pad[:2]), groups=channels, padding_mode=mode)
            with self._named():
                spec.output_size(size)
        frame = self.stack[-1]
        known = len(frame.pads)
        result = func(*args, **kwargs)
        del frame.pads[known:]  # the operators that it was made of
        if isinstance(seen, Seen):
            self.fields.set(result, padded(seen, image, result, pad))
        if len(pad) == 4:
            frame.pads.append((((pad[2], pad[3]), (pad[0], pad[1])), "zeros" if mode == "constant" else mode))
        return cast(torch.Tensor, result)

    # --- checks ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the layer's name before what the spec says."""
        try:
            yield
        except SpecError as error:
            said = among_layers(error) if self.rows else str(error)
            raise SpecError(f"{self.stack[-1].label}: {said}") from None

    def _checked(self, packet: Any, named: Arguments, frame: Frame) -> Slide | None:
        """A window that is about to slide, after checking that it fits; None for every other operator."""
        if packet is aten.constant_pad_nd and len(named["pad"]) == 4:
            left, right, top, bottom = named["pad"]
            frame.pads.append((((top, bottom), (left, right)), "zeros"))
        if is_convolution(packet) and named["input"].ndim in (3, 4) and len(named["stride"]) == 2:
            return self._convolution(named)
        if packet in _POOLS and named["self"].ndim in (3, 4):
            with self._named():
                spec = pooling_spec(named, named["self"].shape[-3])
                if not named.get("ceil_mode"):
                    try:
                        spec.output_size((named["self"].shape[-2], named["self"].shape[-1]))
                    except SpecError as error:
                        shorter = str(error).replace("kernel cannot", "pooling window cannot").partition(";")[0]
                        raise SpecError(f"{shorter}; use fewer poolings, or a larger input.") from None
            sides = spec.padding
            assert not isinstance(sides, str)
            return Slide(spec.kernel_size, spec.stride, sides, spec.dilation, 1, None)
        return None

    def _convolution(self, named: Arguments) -> Slide:
        image, weight, groups = named["input"], named["weight"], named["groups"]
        transposed = bool(named.get("transposed"))
        channels, size = image.shape[-3], (image.shape[-2], image.shape[-1])
        expected = weight.shape[0] if transposed else weight.shape[1] * groups
        if channels != expected:
            raise SpecError(
                f"{self.stack[-1].label} takes {expected} channels, but its input has {channels} "
                f"({channels}×{size[0]}×{size[1]}): change the input size, or in_channels."
            )
        out_channels = weight.shape[1] * groups if transposed else weight.shape[0]
        sides = convolution_sides(named["padding"])
        with self._named():
            spec = Conv2dSpec(
                channels, out_channels, tuple(weight.shape[2:]), tuple(named["stride"]), sides,
                tuple(named["dilation"]), groups, bias=False,
            )  # fmt: skip
            if transposed:
                out = _transposed_size(spec, sides, size, tuple(named["output_padding"]))
            else:
                out = spec.output_size(size)
        # Padding that was put around the image beforehand is not something that the layer is given.
        around = [[sum(sides[a]) for sides, _ in self.stack[-1].pads] for a in (0, 1)]
        shape = (channels, size[0] - sum(around[0]), size[1] - sum(around[1]))
        dense = DenseEquivalent(
            weights=spec.weights,
            to_neurons=dense_weights(shape, LESSON_NEURONS),
            same_maps=dense_weights(shape, out_channels * out[0] * out[1]),
        )
        return Slide(spec.kernel_size, spec.stride, sides, spec.dilation, groups, dense)

    def _note_statistics(self, named: Arguments, packet: Any) -> None:
        if packet is aten.native_group_norm or len(named["normalized_shape"]) > 1:
            self.notes["normalisation also reads the mean and variance of whole maps; 'Field' leaves that out."] = None

    # --- afterwards -----------------------------------------------------------------------------------------------

    def leftovers(self) -> None:
        """Rows for parameters that no call used as a layer's, so that the total is the model's."""
        for module, name in self._modules.items():
            own = [p for p in module.parameters(recurse=False) if id(p) not in self._counted]
            if own:
                called = any(row.name == name or row.name.startswith(f"{name}.") for row in self.rows) or not name
                kind = "own parameters" if called else "not called"
                self._add(Frame(module, name, kind, True), name or self.root.type, kind, own, [], [], [])


def _transposed_size(spec: Conv2dSpec, sides: Sides, size: Pair, output_padding: Pair) -> Pair:
    out = [
        transposed_output_size(
            size[a], spec.kernel_size[a], spec.stride[a], sides[a], spec.dilation[a], output_padding[a]
        )
        for a in (0, 1)
    ]
    if min(out) < 1:
        kernel = "×".join(str(k) for k in spec.kernel_size)
        raise SpecError(
            f"a transposed {kernel} kernel with padding {sides[0][0]} makes a {out[0]}×{out[1]} output of a "
            f"{size[0]}×{size[1]} input: use less padding."
        )
    return out[0], out[1]


def with_pads(slide: Slide | None, pads: list[tuple[Sides, str]]) -> tuple[Sides | None, str]:
    """The padding as it works out: the operator's own, and what was put around its input before."""
    if slide is None:
        return None, "zeros"
    sides, mode = slide.padding, "zeros"
    for ((top, bottom), (left, right)), other in pads:
        sides = ((sides[0][0] + top, sides[0][1] + bottom), (sides[1][0] + left, sides[1][1] + right))
        mode = other if other != "zeros" else mode
    return sides, mode


def _macs(packet: Any, named: Arguments, args: Any, kwargs: Any, result: Any) -> int:
    """Multiply-accumulates of one operator: of 2-D convolutions by the spec, of all others half of torch's count."""
    if is_convolution(packet) and named["input"].ndim == 4 and len(named["stride"]) == 2:
        image, weight, groups = named["input"], named["weight"], named["groups"]
        settings = (tuple(weight.shape[2:]), tuple(named["stride"]), convolution_sides(named["padding"]))
        batch, channels, size = image.shape[0], image.shape[1], (image.shape[2], image.shape[3])
        if named.get("transposed"):
            spec = Conv2dSpec(channels, weight.shape[1] * groups, *settings, tuple(named["dilation"]), groups)
            return spec.transposed_macs(size, batch)
        spec = Conv2dSpec(channels, weight.shape[0], *settings, tuple(named["dilation"]), groups)
        return spec.macs(size, batch)
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        shapes = named["query"].shape, named["key"].shape, named["value"].shape
        return int(cast(Any, sdpa_flop_count)(*shapes)) // 2
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Running the model
# ---------------------------------------------------------------------------------------------------------------------


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.operator(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.function(func, args, kwargs or {})


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put back whatever evaluating the model sets on its modules: flags, buffers that it replaces, cached tensors."""
    before = []
    for module in model.modules():
        state = {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()}
        before.append((module, state, module.training))
    try:
        yield
    finally:
        for module, state, training in before:
            if isinstance(module, torch.jit.ScriptModule):
                module.training = training
                continue
            for name in set(vars(module)) - set(state):
                del vars(module)[name]
            for name, value in state.items():
                current = vars(module).get(name)
                if isinstance(value, dict) and isinstance(current, dict):
                    current.clear()
                    current.update(value)
                else:
                    vars(module)[name] = value


@contextmanager
def observing(recorder: Recorder) -> Iterator[None]:
    """Let `recorder` see everything that its model does in this thread; no other thread may run the model meanwhile."""
    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(lambda module, args: recorder.enter(module, args)),
            register_module_forward_hook(lambda module, args, result: recorder.leave(module, result)),
        ):
            stack.callback(handle.remove)
        stack.enter_context(_Operators(recorder))
        stack.enter_context(_Functions(recorder))
        yield


def trace(model: Callable[..., Any], shape: tuple[int, ...]) -> Recorder:
    """Run the model on an input of `shape`, allocating and computing nothing, and return what was seen.

    A model whose code asks for values (`if x.sum() > 0`) cannot be run without them: a copy of it is then really run,
    on zeros, and a note says so.

    Raises:
        UserError, SpecError: for a layer that does not fit, with its name, before it runs.
    """
    try:
        return _traced(model, shape, real=False)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
        recorder = _traced(copy.deepcopy(model), shape, real=True)
        recorder.notes[
            "its code asks for values, so it was run on an image of zeros; other images may count differently."
        ] = None
        return recorder


def _traced(model: Callable[..., Any], shape: tuple[int, ...], real: bool) -> Recorder:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        # The fused layers of attention and recurrence hide their products; taken apart, they can be counted.
        stack.enter_context(_without_fused_layers())
        if isinstance(model, nn.Module):
            stack.enter_context(_unchanged(model))
            with suppress(NotImplementedError):  # exported programs have one mode only
                model.eval()
        if not real:
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            if isinstance(model, nn.Module):
                _exchange_tensors(model, fake)
        recorder = Recorder(model)
        try:
            image = torch.zeros(shape, dtype=dtype, device=device)
        except (RuntimeError, TypeError) as error:  # torch raises either, depending on which number overflows
            raise UserError(f"an input of {'×'.join(str(n) for n in shape)} is too large for torch.") from error
        recorder.fields.start(image)
        stack.enter_context(observing(recorder))
        try:
            model(image)
        except (UserError, SpecError, DataDependentOutputException, DynamicOutputShapeException):
            raise
        except UnsupportedOperatorException:
            raise
        except Exception as error:
            frame = recorder.stack[-1]
            shapes = ", ".join("×".join(str(n) for n in t.shape) for t in frame.inputs or [image])
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"{frame.label} cannot take an input of {shapes}: {reason}") from error
        recorder.leftovers()
    return recorder


def _exchange_tensors(model: nn.Module, fake: FakeTensorMode) -> None:
    """Give the modules tensors without memory, so that not even a buffer that counts calls is written to."""
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            tables: list[dict[str, Any]] = [module._parameters, module._buffers, vars(module)]
            for tensors in tables:
                for name, tensor in tensors.items():
                    if isinstance(tensor, torch.Tensor):
                        tensors[name] = fake.from_tensor(tensor)


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
