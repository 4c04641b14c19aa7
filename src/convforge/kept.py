"""Packed weights, kept for as long as they are those of the weights.

Before it runs, a pass brings the weights into its kernels' own form, which for Winograd is up to four times their
size: at batch 1 that can be most of the work. Where weights are not being trained, the form is kept. It is used only
where it is right:

    Every call compares all numbers of the weights, by their fingerprint, with those that were packed. For weights that
    `freeze` was told of, PyTorch's version counter is compared instead.

So whatever has written to the weights (an operation, `.data`, NumPy, a fused optimiser, which PyTorch's counter does
not see, another process) the answer is that of the numbers as they are at the call. Reading 9.4 MB of 512 → 512
channels takes two threads 100 to 150 µs where packing them takes four times as long; `freeze` saves that, too.

What is kept belongs to the memory of the weights, not to a tensor: views of the same numbers share it, and it goes when
that memory goes. Packed forms are made when the same memory is met for the second time with the same version counter,
so weights that are made anew for each call are not kept at all. All together take an eighth of the machine's memory at
most; what was not used for longest goes first.
"""

from __future__ import annotations

import os
import weakref
from functools import cache
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from .engine import runtime
from .engine.fingerprint import fingerprint
from .engine.prepared import Prepared
from .errors import UserError

# Forward and input gradient, each by an algorithm for small images and one for large ones.
_FORMS_OF_A_TENSOR = 4

_UNUSED = -1
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
        self.address, self.memory = runtime.memory(prepared.packed_bytes)
        prepared.pack(weights, self.address)


class _Weights:
    """Numbers in memory, as they were when they were last looked at, and their packed forms."""

    def __init__(self, key: tuple[int, int], storage: torch.UntypedStorage, version: int) -> None:
        self.address, self.size = key
        # Weakly, and not the tensor: torch exchanges tensors only if nothing refers to them.
        self.storage = weakref.ref(storage, lambda _: _known.pop(key, None))
        self.frozen = False
        self.look_at(version)

    def look_at(self, version: int) -> None:
        self.version = version
        self.fingerprint: int | None = None
        self.forms: dict[bytes, _Form] = {}

    def are_unchanged(self, w: Tensor, version: int, threads: int) -> bool:
        if self.fingerprint is None or (self.frozen and version != _UNUSED and not w.requires_grad):
            return version == self.version
        return fingerprint(self.address, self.size, threads) == self.fingerprint


# By address and size. No lock: entries are put in and taken out whole, and two threads that pack the same weights at
# the same time do no more than that.
_known: dict[tuple[int, int], _Weights] = {}


def packed(w: Tensor, storage: torch.UntypedStorage, address: int, size: int, prepared: Prepared) -> tuple[int, object]:
    """Where the weights lie in the form that `prepared` wants, and what keeps that memory alive; 0 where they are not
    kept (yet).

    `w` lies in `storage`, its `size` bytes without gaps from `address` on.
    """
    key, known = (address, size), _known.get((address, size))
    try:
        version = w._version
    except RuntimeError:  # it was made in inference mode
        version = _UNUSED
    if known is None or known.storage() is not storage:
        _known[key] = _Weights(key, storage, version)
        return 0, None
    if not known.are_unchanged(w, version, prepared.threads):
        known.look_at(version)
        return 0, None
    form = known.forms.get(prepared.form)
    if form is None:
        form = _pack(known, prepared)
    else:
        form.used = next(_clock)
    return form.address, form.memory


def _pack(known: _Weights, prepared: Prepared) -> _Form:
    if known.fingerprint is None:  # before packing: a change during it is noticed at the next call
        known.fingerprint = fingerprint(known.address, known.size, prepared.threads)
    _make_room(known.forms, prepared.packed_bytes)
    form = known.forms[prepared.form] = _Form(prepared, known.address)
    return form


def _make_room(beside: dict[bytes, _Form], size: int) -> None:
    """Let go of what was not used for longest, until `size` bytes more are within the bounds."""
    while len(beside) >= _FORMS_OF_A_TENSOR:
        del beside[min(beside, key=lambda form: beside[form].used)]
    every = [
        (form.used, key, form.bytes, w.forms) for w in list(_known.values()) for key, form in list(w.forms.items())
    ]
    taken = sum(form[2] for form in every)
    for _, key, freed, forms in sorted(every, key=lambda form: form[0]):
        if taken + size <= MOST_BYTES:
            break
        forms.pop(key, None)
        taken -= freed


def freeze(model: Model) -> Model:
    """Promise that the weights stay as they are, or change by PyTorch's own operations only, and save the look at them.

    Sets a module to eval mode, and its parameters (or the tensor) to need no gradient, so that no optimiser changes
    them. From then on a call does not read the weights to see whether what was packed is still theirs, and asks
    PyTorch's version counter instead: `load_state_dict`, `copy_`, assignments and everything else that PyTorch counts
    are noticed as ever. Writes that it does not count, through `.data` or NumPy or from other processes, are not.
    `requires_grad_(True)`, or a step of an optimiser that holds them, takes the promise back.

    Raises:
        UserError: for anything but a module or a tensor.

    >>> import convforge
    >>> layer = convforge.freeze(convforge.nn.Conv2d(3, 8, 3))
    >>> layer.training, layer.weight.requires_grad
    (False, False)
    """
    if isinstance(model, torch.nn.Module):
        tensors = [t for t in (*model.eval().parameters(), *model.buffers()) if t.dim() == 4]
        model.requires_grad_(False)
    elif isinstance(model, Tensor):
        tensors = [model.requires_grad_(False)]
    else:
        raise UserError(f"freeze takes a torch.nn.Module or a tensor, not {type(model).__name__}.")
    for t in tensors:
        if t.device.type == "cpu" and not t.is_inference() and t.numel():
            key, storage = (t.data_ptr(), t.nbytes), t.untyped_storage()
            known = _known.get(key)
            if known is None or known.storage() is not storage:
                known = _known[key] = _Weights(key, storage, t._version)
            known.frozen = True
    _watch_optimisers()
    return model


@cache
def _watch_optimisers() -> None:
    """Fused optimisers write without counting. The hook is called for all that derive from `torch.optim.Optimizer`."""

    def take_back(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                known = _known.get((p.data_ptr(), p.nbytes)) if type(p) in (Tensor, torch.nn.Parameter) else None
                if known is not None:
                    known.frozen = False

    register_optimizer_step_post_hook(take_back)


def kept_weights() -> dict[str, int]:
    """What is kept at the moment: how many tensors' `weights`, in how many `bytes`."""
    forms = [list(known.forms.values()) for known in list(_known.values())]
    return {"weights": sum(map(bool, forms)), "bytes": sum(form.bytes for each in forms for form in each)}


def bytes_kept_for(w: Tensor) -> int:
    """What the packed forms of these weights take."""
    if w.device.type != "cpu" or not w.numel():
        return 0
    known = _known.get((w.data_ptr(), w.nbytes))
    return sum(form.bytes for form in list(known.forms.values())) if known else 0


def drop_kept_weights() -> None:
    """Give the memory back; what is still in use is packed again."""
    for known in list(_known.values()):
        known.forms = {}
