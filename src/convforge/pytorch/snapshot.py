"""What a model is: its modules with all their attributes and hooks, and its weights. Asked again before each answer
that was prepared for it, so it has to be quick: 30 µs for ResNet-50's 267 tensors in 151 modules.

Noticed is every attribute, parameter, buffer, submodule and forward hook that was set anew, added or taken away, on any
module; whatever PyTorch's version counters count; weights that lie elsewhere; and, though nothing counts them, edits of
all numbers of a tensor (`.data`, NumPy, fused optimisers), or of any in tensors of 64 bytes. Not noticed are edits of
single numbers of a large tensor behind PyTorch's back, and changes inside of lists and other objects that modules hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .unchanged import Counted, Held

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_INSIDE = ("_parameters", "_buffers", "_modules", *_HOOKS)
"""The dictionaries of a module that a call goes by. Hooks for gradients are not called where there are none."""

_ADDRESS_OF: int = getattr(torch._C._dynamo.guards, "_torchinductor_pyobject_tensor_data_ptr", 0)
"""The native function that tells where a tensor's numbers lie, made for what Inductor compiles."""

_Norm = torch.nn.modules.batchnorm._NormBase

_DTYPES = (torch.float32, torch.float64)


class Snapshot:
    """A model at one moment.

    Args:
        module: the model.
        without: an object in its attributes that is to keep the snapshot, and that the snapshot does not keep.
    """

    def __init__(self, module: torch.nn.Module, without: object = None) -> None:
        named = list(module.named_modules())
        registered = {id(t): t for one in (module.parameters(), module.buffers()) for t in one}
        loose = {
            id(value): value
            for _, one in named
            for value in vars(one).values()
            if isinstance(value, Tensor) and id(value) not in registered
        }
        self.tensors: list[Tensor] = [*registered.values(), *loose.values()]
        self.parameters = list(module.parameters())
        self.loose = bool(loose)
        """Whether there are tensors that are neither parameters nor buffers."""
        self._of_modules = _why_not_modules(named)
        self.why_not = self._of_modules or _why_not_tensors(self.tensors)
        """Why such a model is run layer by layer, if it is."""
        dtypes = {t.dtype for t in self.tensors if t.is_floating_point()}
        self.dtype = dtypes.pop() if len(dtypes) == 1 else None
        """That of all its numbers; None where there are none."""
        own = vars(module)
        inside = [one.__dict__.get(name) for _, one in named for name in _INSIDE]
        dictionaries = [*(vars(one) for _, one in named[1:]), *(one for one in inside if isinstance(one, dict))]
        self._held = Held(own, dictionaries, without)
        counters = {id(vars(one)["_buffers"].get("num_batches_tracked")) for _, one in named if isinstance(one, _Norm)}
        watched = [] if self.why_not else [t for t in self.tensors if id(t) not in counters]  # they count in training
        self._counted = Counted([(t, t.data_ptr(), _bytes(t)) for t in watched], Tensor._version, _ADDRESS_OF)

    def still_not(self) -> str | None:
        """`why_not`, asked where `same_modules` is true: `.float()` and the like leave tensors themselves in place."""
        return self._of_modules or (self.why_not and _why_not_tensors(self.tensors))

    def same_modules(self, module: torch.nn.Module) -> bool:
        """Whether no attribute of any module has changed."""
        return self._held.same(vars(module))

    def same_numbers(self) -> bool:
        """Whether the tensors are what they were; asked where `same_modules` is true."""
        return self._counted.same()

    def same(self, module: torch.nn.Module) -> bool:
        """Both."""
        return self._held.same(vars(module)) and self._counted.same()

    def learns(self) -> bool:
        """Whether a parameter requires a gradient."""
        return any(p.requires_grad for p in self.parameters)


def _why_not_modules(named: list[tuple[str, torch.nn.Module]]) -> str | None:
    if not _ADDRESS_OF:
        return f"torch {torch.__version__} does not say quickly where tensors lie"
    for name, module in named:
        what = f"{type(module).__name__} {name!r}" if name else "the model"
        if module.training and _minds(type(module)):
            return f"{what} is in training mode"
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f"{what} has hooks"
    return None


def _why_not_tensors(tensors: list[Tensor]) -> str | None:
    reason = next(filter(None, map(_why_not_tensor, tensors)), None)
    dtypes = sorted({str(t.dtype) for t in tensors if t.is_floating_point()})
    if reason is None and len(dtypes) > 1:
        return f"it has numbers of several types ({', '.join(dtypes)})"
    return reason


def _minds(kind: type[torch.nn.Module]) -> bool:
    """Whether modules of this class may do something else in training mode: all but torch's own that do not ask."""
    code = getattr(kind.forward, "__code__", None)
    return not kind.__module__.startswith("torch.nn.") or code is None or "training" in code.co_names


def _why_not_tensor(t: Tensor) -> str | None:
    if torch.nn.parameter.is_lazy(t):
        return "it is lazy: its weights are not there before its first call"
    if type(t) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"it has a {type(t).__name__}, which may compute something of its own"
    if t.device.type != "cpu":
        return f"it has tensors on {t.device}"
    if t.layout is not torch.strided or t.is_neg() or t.is_conj():
        return "it has tensors that are not plain numbers in memory"
    if t.is_inference():
        return "it has tensors that were made in inference mode, whose changes nobody counts"
    if t.is_floating_point() and t.dtype not in _DTYPES:
        return f"it has {t.dtype} numbers, and networks are computed in float32 or float64"
    return None


def _bytes(t: Tensor) -> int:
    """From the first number on, as many as its storage has: a tensor may repeat numbers, or leave out some."""
    return max(0, min(t.nbytes, t.untyped_storage().nbytes() - t.storage_offset() * t.itemsize)) // 4 * 4
