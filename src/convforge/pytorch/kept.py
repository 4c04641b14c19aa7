"""Packed weights, kept for as long as they are those of the weights.

Before it runs, a pass brings the weights into its kernels' own form, which for Winograd is up to four times their
size: at batch 1 that can be most of the work. Where weights are not being trained, the form is kept. It is used only
where it is right:

    Every call compares all numbers of the weights, by their fingerprint, with those that were packed. For weights that
    `freeze` was told of, PyTorch's version counter is compared instead.

So whatever has written to the weights (an operation, `.data`, NumPy, a fused optimiser, which PyTorch's counter does
not see, another process) the answer is that of the numbers as they are at the call. Reading the 9.4 MB of 512 → 512
channels takes two threads 0.39 ms on a machine whose memory reads at 20 GB/s; `freeze` saves that, too.

A fingerprint tells any single change for certain, and any others but for once in some 2⁶⁴.

What is kept belongs to the memory of the weights, not to a tensor: views of the same numbers share it, and it goes when
that memory goes. Packed forms are made when the same memory is met for the second time with the same version counter,
so weights that are made anew for each call are not kept at all. All together take an eighth of the machine's memory at
most. Room is made by those that have long been out of use; where all are in use, the rest is packed at each call.
"""

from __future__ import annotations

import os
import weakref
from functools import cache
from itertools import count
from threading import Lock
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..errors import UserError
from .by_engine import CannotLoad, Prepared, memory
from .fingerprint import fingerprint

# Forward and input gradient, each by an algorithm for small images and one for large ones.
_FORMS_OF_A_TENSOR = 4

_LONG_AGO = 4096
"""Calls after which a form that was not used in them makes room for others."""

_NO_COUNTER = -1
"""The version of tensors that have no counter: those made in inference mode."""


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 8 << 30


MOST_BYTES = max(256 << 20, _machine_bytes() // 8)
"""What all kept forms together may take."""

_clock = count()

Model = TypeVar("Model", torch.nn.Module, Tensor)


class _Form:
    """The weights as one algorithm wants them."""

    def __init__(self, prepared: Prepared, weights: int) -> None:
        self.bytes, self.used = prepared.packed_bytes, next(_clock)
        self.address, self.memory = memory(prepared.packed_bytes)
        prepared.pack(weights, self.address)


class _Numbers:
    """The numbers of some weights as they were at one time, and their packed forms.

    Replaced whole when they have changed: a thread that is still packing what they were puts that where nobody looks.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self.fingerprint: int | None = None
        """None until something is packed."""
        self.forms: dict[bytes, _Form] = {}


class _Weights:
    """A place in memory where weights lie."""

    def __init__(self, key: _Place, storage: torch.UntypedStorage, version: int) -> None:
        # Weakly, and not the tensor: torch exchanges tensors only if nothing refers to them. Who finds this entry must
        # still compare: the memory may be another's already when the news of its end arrives.
        self.storage = weakref.ref(storage, lambda _: _known.pop(key, None))
        self.frozen = 0
        """The id of the tensor whose version counter is trusted, if any: other tensors over this memory have others."""
        self.numbers = _Numbers(version)


_Place: TypeAlias = tuple[int, int]
"""Address and bytes."""

_known: dict[_Place, _Weights] = {}
_packing = Lock()


def packed(w: Tensor, storage: torch.UntypedStorage, address: int, size: int, prepared: Prepared) -> tuple[int, object]:
    """Where the weights lie in the form that `prepared` wants, and what keeps that memory alive; 0 where they are not
    kept (yet).

    `w` lies in `storage`, its `size` bytes without gaps from `address` on.
    """
    key = (address, size)
    known = _known.get(key)
    if known is not None and not known.frozen and known.storage() is storage:  # the usual case, said briefly
        numbers = known.numbers
        form = numbers.forms.get(prepared.form)
        if form is not None and fingerprint(address, size, prepared.threads) == numbers.fingerprint:
            form.used = next(_clock)
            return form.address, form.memory
    try:
        version = w._version
    except RuntimeError:  # it was made in inference mode
        version = _NO_COUNTER
    if known is None or known.storage() is not storage:
        _known[key] = _Weights(key, storage, version)
        return 0, None
    numbers = known.numbers
    try:
        if not _are_as_they_were(w, known, numbers, version, key, prepared.threads):
            known.numbers = _Numbers(version)
            return 0, None
        form = numbers.forms.get(prepared.form) if numbers.fingerprint is not None else None
        if form is None:
            form = _pack(numbers, key, prepared)
    except CannotLoad:  # what takes fingerprints; without them nothing can be kept
        return 0, None
    if form is None:
        return 0, None
    form.used = next(_clock)
    return form.address, form.memory


def _are_as_they_were(w: Tensor, known: _Weights, numbers: _Numbers, version: int, key: _Place, threads: int) -> bool:
    if numbers.fingerprint is None:  # nothing is packed: whether that is worth while is all there is to know
        return version == numbers.version
    if known.frozen:
        if w.requires_grad:
            known.frozen = 0
        elif known.frozen == id(w) and version != _NO_COUNTER:
            return version == numbers.version
    return fingerprint(*key, threads) == numbers.fingerprint


def _pack(numbers: _Numbers, key: _Place, prepared: Prepared) -> _Form | None:
    """Pack and keep them, if there is room, and if nobody writes to them meanwhile."""
    with _packing:
        if not _has_room(numbers.forms, prepared.packed_bytes):
            return None
        before = fingerprint(*key, prepared.threads)
        form = _Form(prepared, key[0])
        if fingerprint(*key, prepared.threads) != before or numbers.fingerprint not in (None, before):
            return None
        numbers.fingerprint, numbers.forms[prepared.form] = before, form
        return form


def _has_room(beside: dict[bytes, _Form], size: int) -> bool:
    """Whether `size` bytes more are within the bounds, after what is long out of use was let go."""
    if len(beside) >= _FORMS_OF_A_TENSOR:
        del beside[min(beside, key=lambda form: beside[form].used)]
    every = [(forms[key].used, key, forms) for forms in _all_forms() for key in forms]
    taken = size + sum(forms[key].bytes for _, key, forms in every)
    begin = next(_clock) - _LONG_AGO
    for used, key, forms in sorted(every, key=lambda one: one[0]):
        if taken <= MOST_BYTES or used >= begin:
            break
        taken -= forms.pop(key).bytes
    return taken <= MOST_BYTES


def _all_forms() -> list[dict[bytes, _Form]]:
    return [known.numbers.forms for known in list(_known.values())]


def _place(t: Tensor) -> _Place | None:
    """Where a tensor lies, if it is one of those whose packed form may be kept."""
    if type(t) not in (Tensor, torch.nn.Parameter) or t.layout is not torch.strided or t.device.type != "cpu":
        return None
    return (t.data_ptr(), t.nbytes) if t.numel() else None


def freeze(model: Model) -> Model:
    """Promise that the weights stay as they are, or change by PyTorch's own operations only, and save the look at them.

    Sets a module to eval mode, and its parameters (or the tensor) to need no gradient, so that no optimiser changes
    them. From then on a call does not read the weights to see whether what was packed is still theirs, and asks
    PyTorch's version counter instead: `load_state_dict`, `copy_`, assignments and everything else that is done to these
    tensors or to views of them is noticed as ever. What PyTorch does not count is not: writes through `.data`, NumPy,
    their storage, a tensor that they were made views of by `.data`, or from another process.

    A call while they require a gradient, or a step of an optimiser that holds them, ends the promise. So does whatever
    moves the weights in memory (`.to(memory_format=…)`, `.double()`): freeze last.

    Raises:
        UserError: for anything but a module or a tensor, and for a module that is lazy.

    >>> import convforge
    >>> layer = convforge.freeze(convforge.nn.Conv2d(3, 8, 3))
    >>> layer.training, layer.weight.requires_grad
    (False, False)
    """
    if isinstance(model, torch.nn.Module):
        if any(map(torch.nn.parameter.is_lazy, (*model.parameters(), *model.buffers()))):
            raise UserError("freeze needs the weights, and this model is lazy: run it once on real input first.")
        tensors = [*model.eval().requires_grad_(False).parameters(), *model.buffers()]
    elif isinstance(model, Tensor):
        tensors = [model.requires_grad_(False)]
    else:
        raise UserError(f"freeze takes a torch.nn.Module or a tensor, not {type(model).__name__}.")
    for t in tensors:
        key = _place(t) if t.dim() == 4 else None
        if key is not None and not t.is_inference():
            known, storage = _known.get(key), t.untyped_storage()
            if known is None or known.storage() is not storage:
                known = _known[key] = _Weights(key, storage, t._version)
            known.frozen = id(t)
    global promised
    promised = True
    _watch_optimisers()
    return model


@cache
def _watch_optimisers() -> None:
    """Fused optimisers write without counting. The hook is called for all that derive from `torch.optim.Optimizer`."""

    def end_the_promise(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                thaw(p)

    register_optimizer_step_post_hook(end_the_promise)


promised = False
"""Whether `freeze` was ever called: else there is nothing to `thaw`."""


def thaw(w: Tensor) -> None:
    """The weights are being trained: what `freeze` was told of them holds no longer."""
    key = _place(w)
    known = None if key is None else _known.get(key)
    if known is not None:
        known.frozen = 0


def kept_weights() -> dict[str, int]:
    """What is kept at the moment: how many tensors' `weights`, in how many `bytes`."""
    every = [list(forms.values()) for forms in _all_forms()]
    return {"weights": sum(map(bool, every)), "bytes": sum(form.bytes for forms in every for form in forms)}


def bytes_kept_for(w: Tensor) -> int:
    """What the packed forms of these weights take."""
    key = _place(w)
    known = None if key is None else _known.get(key)
    return sum(form.bytes for form in list(known.numbers.forms.values())) if known else 0


def drop_kept_weights() -> None:
    """Give the memory back; what is still in use is packed again."""
    for known in list(_known.values()):
        known.numbers = _Numbers(known.numbers.version)
