"""`optimize(model)`: the same model with its convolutions on the engine; `report(model)`: what became of each layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from ..spec import Conv2dSpec, Pair, transposed_output_size
from . import by_engine
from .kept import bytes_kept_for
from .modules import BatchNorm2d, Conv2d, ConvTranspose2d
from .plans import settings
from .sixteen import torch_is_faster
from .whole import give, take, whole_of

__all__ = ["LayerReport", "NetworkReport", "Report", "optimize", "report"]


def optimize(model: torch.nn.Module, *, whole: bool = True) -> torch.nn.Module:
    """A copy of the model whose convolutions run on the engine; it trains, infers and has the same `state_dict`.

    In eval mode and without gradients (`torch.no_grad()`, `torch.inference_mode()`, or parameters that require none) a
    call of it runs the whole network at once: batch norm, activations and sums in the convolutions' own passes, one
    native call. For that the model is captured at its first such call, in a tenth of a second, or by `torch.export` in
    some seconds where it does something out of the ordinary; the layers compute that call as well, and are believed
    where the two differ by more than rounding. Other batch sizes are planned when they are met, other image sizes
    captured when they come twice. Changed weights, modules, hooks and modes are noticed, and everything that a network
    cannot do is done layer by layer, as the model says.

    The given model is never changed: the copy has parameters, buffers and hooks of its own. `report` says per layer
    what was swapped, what was not, and why; and what became of the whole network.

    Args:
        model: any module.
        whole: False to go layer by layer always: where what the forward methods do besides computing (printing,
            counting, random numbers of Python's) has to happen at every call, or where single numbers of the weights
            are written to behind PyTorch's back (`.data`, NumPy), which layers notice and networks may not.

    Raises:
        UserError: if the model cannot be copied, or is compiled or scripted already.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> fast = optimize(model)
    >>> torch.allclose(fast(torch.ones(1, 3, 9, 9)), model(torch.ones(1, 3, 9, 9)), atol=1e-6)
    True
    """
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"optimize takes a torch.nn.Module, not {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "optimize cannot change a scripted model: call it on the model before torch.jit.script or trace."
        )
    if hasattr(model, "_orig_mod"):
        raise UserError("optimize cannot change a compiled model: write torch.compile(convforge.optimize(model)).")
    try:
        fast = copy.deepcopy(model)
    except Exception as problem:
        raise UserError(
            f"optimize works on a copy, and {type(model).__name__} cannot be copied ({problem}): "
            "detach what it has computed, or build it from convforge.nn.Conv2d instead."
        ) from problem
    for module in fast.modules():
        if isinstance(module, _ConvNd) and _why_not(module) is None:
            _swap(module)
        elif type(module) is torch.nn.BatchNorm2d:
            module.__class__ = BatchNorm2d
    if whole and any(isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) for module in fast.modules()):
        give(fast)
    else:
        take(fast)
    return fast


_OURS: dict[type, type[_ConvNd]] = {torch.nn.Conv2d: Conv2d, torch.nn.ConvTranspose2d: ConvTranspose2d}
"""What takes the place of torch's classes."""


def _swap(module: _ConvNd) -> None:
    """The module's class becomes ours. Everything else of it (parameters, hooks, names) stays where it is."""
    cls = type(module)
    if cls in _OURS:
        module.__class__ = _OURS[cls]
    elif torch.nn.utils.parametrize.is_parametrized(module) and cls.__bases__[0] in _OURS:
        # torch has made a class of its own for this module, Conv2d with properties for the parametrized tensors.
        module.__class__ = type(cls.__name__, (_OURS[cls.__bases__[0]],), dict(vars(cls)))


def _why_not(module: _ConvNd) -> str | None:
    """Why a convolution stays with torch; None if the engine takes it."""
    cls = type(module)
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin) and torch.nn.parameter.is_lazy(module.weight):
        return "it is lazy: run the model once on real input, then optimize it"
    kind = next((theirs for theirs in _OURS if isinstance(module, theirs)), None)
    if kind is None:
        return f"{cls.__name__} is not a 2-D convolution"
    parametrized = torch.nn.utils.parametrize.is_parametrized(module)
    base = cls.__bases__[0] if parametrized else cls
    if not issubclass(base, _OURS[kind]) and base is not kind:
        return (
            f"{base.__module__}.{base.__name__} may compute something of its own: it is a subclass of {kind.__name__}"
        )
    if module.weight.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"its weights are {module.weight.dtype}: the engine takes floating-point numbers"
    if module.weight.device.type not in ("cpu", "meta"):
        return f"its weights are on {module.weight.device}: torch's own convolution runs there"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# What became of each layer
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One convolutional layer: whether it runs on the engine, and why."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    on_engine: bool
    reason: str
    kept_bytes: int = 0
    """What packed forms of its weights take beside them, at the moment; of all models together, an eighth of the
    machine's memory at most."""


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """Whether calls of a model are answered by a whole network, and how."""

    on_engine: bool
    """Whether its last call was."""
    reason: str
    """Why not; or what the steps are for."""
    steps: tuple[tuple[str, str, str], ...] = ()
    """Those of the last whole answer, in order: the value that is made, what is computed for it, and by what."""
    kept_bytes: int = 0
    """What is kept for whole networks beside the model: their weights in the kernels' own form, and memory to work
    in."""


class Report(tuple[LayerReport, ...]):
    """The layers of a model in order, and what became of the whole network; prints as a table."""

    network: NetworkReport | None = None
    batch_norms: int = 0
    """How many are the engine's where images come in channels_last."""

    def __str__(self) -> str:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("layer", "weights", "runs on", "why"):
            table.add_column(heading, overflow="fold")
        for layer in self:
            shape = "×".join(map(str, layer.weight_shape))
            table.add_row(layer.name or "(model)", shape, "convforge" if layer.on_engine else "torch", layer.reason)
        console = Console(width=110, file=None, color_system=None)
        with console.capture() as text:
            console.print(table)
            swapped = sum(layer.on_engine for layer in self)
            console.print(f"{swapped} of {len(self)} convolutions on the engine")
            if self.batch_norms:
                norms = f"{self.batch_norms} batch norm{'s' * (self.batch_norms != 1)}"
                console.print(f"{norms} on the engine, for images in channels_last")
            kept_bytes = sum(layer.kept_bytes for layer in self)
            if kept_bytes:
                console.print(f"{kept_bytes / 1e6:,.1f} MB of packed weights are kept for them")
            if self.network is not None:
                _print_network(console, self.network)
        return "\n".join(line.rstrip() for line in text.get().splitlines())

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as plain data."""
        return [asdict(layer) for layer in self]


def _print_network(console: Console, network: NetworkReport) -> None:
    console.print(f"{'whole network' if network.on_engine else 'layer by layer'}: {network.reason}")
    if network.steps:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("step", "computes", "by"):
            table.add_column(heading, overflow="fold")
        for step in network.steps:
            table.add_row(*step)
        console.print(table)
    if network.kept_bytes:
        console.print(f"{network.kept_bytes / 1e6:,.1f} MB of packed weights and work space are kept for it")


def report(model: torch.nn.Module) -> Report:
    """What runs where: one `LayerReport` for each convolution of the model, transposed and 1-D and 3-D ones included;
    and in `network`, whether the last call was answered by a whole network, with its steps, or why it went layer by
    layer.

    Convolutions that a forward method calls by itself (`torch.nn.functional.conv2d`) are no layers and not listed:
    torch computes them, but in a whole network, where they are steps like all others.

    >>> print(report(optimize(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))))
    layer  weights  runs on    why
    0      8×3×3×3  convforge  direct: it multiplies each input by each weight that it meets
    1 of 1 convolutions on the engine
    layer by layer: it is captured at its first call in eval mode without gradients
    """
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"report takes a torch.nn.Module, not {type(model).__name__}.")
    compiled = _is_compiled(model)
    made = Report(_compiled_layers(model) if compiled else _layers(model))
    made.batch_norms = sum(isinstance(module, BatchNorm2d) for module in model.modules())
    made.network = NetworkReport(False, _COMPILED) if compiled else _network(model)
    return made


_COMPILED = (
    'it is compiled. With backend="convforge" its convolutions run on the engine and calls without gradients as whole '
    "networks where they can; other backends run what torch.compile was given"
)


def _is_compiled(model: torch.nn.Module) -> bool:
    return hasattr(model, "_orig_mod") or model._compiled_call_impl is not None


def _compiled_layers(model: torch.nn.Module) -> Iterator[LayerReport]:
    """Those of a model that went through torch.compile, by the names that they have in it."""
    for layer in _layers(getattr(model, "_orig_mod", model)):
        if not layer.on_engine and layer.reason == _NOT_OPTIMIZED:
            layer = replace(layer, reason='it is compiled: the engine runs it with backend="convforge"')
        yield layer


def _network(model: torch.nn.Module) -> NetworkReport | None:
    whole = whole_of(model)
    if whole is None:
        return None
    networks = whole.networks
    if networks.said:
        return NetworkReport(False, networks.said, kept_bytes=networks.kept_bytes)
    shapes = " and ".join("×".join(map(str, shape)) for shape in networks.shapes)
    steps = tuple((line.output, line.what, line.how) for line in networks.lines)
    return NetworkReport(
        True, f"{len(steps)} step{'s' * (len(steps) != 1)} for an input of {shapes}", steps, networks.kept_bytes
    )


_NOT_OPTIMIZED = "the model was not passed through convforge.optimize"

# A model does not say how large its images are; the algorithm is told for feature maps of this size.
_SIZE = (56, 56)


def _algorithm(module: _ConvNd) -> str:
    """What computes such a layer, and why."""
    (kh, kw), (dh, dw) = module.kernel_size, module.dilation
    size = (max(_SIZE[0], kh * dh), max(_SIZE[1], kw * dw))
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    ins, outs = module.in_channels, module.out_channels
    transposed = isinstance(module, ConvTranspose2d)
    if transposed:
        ins, outs, size = outs, ins, _grown(size, (kh, kw), module)
    spec = Conv2dSpec(ins, outs, (kh, kw), tuple(module.stride), padding, (dh, dw), module.groups)
    if module.weight.dtype.itemsize == 2 and torch_is_faster(module.weight.dtype):
        name = str(module.weight.dtype).removeprefix("torch.")
        return f"PyTorch's own convolution: this CPU multiplies {name} itself, and the engine computes in float32"
    return by_engine.why(spec, size, *settings(), transposed)


def _grown(size: Pair, kernel: Pair, module: _ConvNd) -> Pair:
    """What a transposed layer makes of images of this size."""
    pads = [int(pad) for pad in module.padding]
    height, width = (
        transposed_output_size(size[a], kernel[a], module.stride[a], (pads[a], pads[a]), module.dilation[a])
        for a in (0, 1)
    )
    return max(1, height), max(1, width)


def _layers(model: torch.nn.Module) -> Iterator[LayerReport]:
    for name, module in model.named_modules():
        if not isinstance(module, _ConvNd):
            continue
        on_engine = isinstance(module, (Conv2d, ConvTranspose2d)) and _why_not(module) is None
        reason = _why_not(module)
        if reason is None:
            reason = _algorithm(module) if on_engine else _NOT_OPTIMIZED
        lazy = torch.nn.parameter.is_lazy(module.weight)
        shape = () if lazy else tuple(module.weight.shape)
        kept_bytes = 0 if lazy else bytes_kept_for(module.weight)
        yield LayerReport(name, type(module).__name__, shape, on_engine, reason, kept_bytes)
