"""Packed weights, kept while the weights stay as they are.

Before it runs, a pass brings the weights into its kernels' own form, which for Winograd is up to four times their
size: at batch 1 that can be most of the work. Where weights are not being trained, the form is kept and used again as
long as it is the same tensor (held weakly: what is kept goes with it), at the same address, with the same version
counter, and with the same numbers:

- Every change by an operation on the tensor itself, or on a view of it, is noticed: torch counts it in `_version`.
- Changes behind torch's back (through `.data`, NumPy, another process) are noticed by a fingerprint that is taken at
  each call, of at most 256 KB: of all weights where they are no more than that, which is 64 → 112 channels at 3×3. Of
  larger ones each call looks at other pages of 2 KB, at all of them in (size / 256 KB) calls. So a change of all
  numbers is noticed at once, and a change of a few within 4 calls in a megabyte, 36 calls in 512 → 512 channels.

256 KB from memory take 9 µs, 4 % of what the quickest layers with so many weights take; all 9.4 MB of 512 → 512 would
take 280 µs, a third of that layer at 7×7.

A tensor is kept the second time it is met unchanged, so weights that are made anew for each call are not kept at all.
Tensors made in inference mode have no version counter and are not kept.
"""

from __future__ import annotations

import weakref

from torch import Tensor

from .engine import runtime
from .engine.fingerprint import PAGE, fingerprint, pages
from .engine.prepared import Prepared

_PAGES_A_CALL = (256 << 10) // PAGE

# Forward and input gradient, each by an algorithm for small images and one for large ones.
_FORMS_OF_A_TENSOR = 4


class _Weights:
    """One tensor of weights, as it was when it was last looked at, and its packed forms."""

    def __init__(self, w: Tensor) -> None:
        key = id(w)
        self.tensor = weakref.ref(w, lambda _: _known.pop(key, None))
        self.look_at(w)

    def look_at(self, w: Tensor) -> None:
        self.version, self.address, self.size = w._version, w.data_ptr(), w.nbytes
        self.fingerprints: tuple[int, ...] = ()
        self.turn = 0
        self.forms: dict[bytes, tuple[int, object]] = {}

    def is_unchanged(self, w: Tensor) -> bool:
        """Says no at the latest when every part has had its turn."""
        if w._version != self.version or w.data_ptr() != self.address or w.nbytes != self.size:
            return False
        parts = len(self.fingerprints)
        if parts == 0:
            return True  # nothing is kept yet
        self.turn = turn = (self.turn + 1) % parts
        return fingerprint(self.address, self.size, turn, parts) == self.fingerprints[turn]

    def take_fingerprints(self) -> None:
        if not self.fingerprints:
            parts = max(1, -(-pages(self.size) // _PAGES_A_CALL))
            self.fingerprints = tuple(fingerprint(self.address, self.size, n, parts) for n in range(parts))


# By the tensors' ids. No lock: entries are put in and taken out whole, and two threads that pack the same weights at
# the same time do no more than that.
_known: dict[int, _Weights] = {}


def packed(w: Tensor, prepared: Prepared) -> tuple[int, object]:
    """Where the weights lie in the form that `prepared` wants, and what keeps that memory alive; 0 where they are not
    kept (yet)."""
    known = _known.get(id(w))
    if known is None or known.tensor() is not w:
        if not w.is_inference():
            _known[id(w)] = _Weights(w)
        return 0, None
    if not known.is_unchanged(w):
        known.look_at(w)
        return 0, None
    found = known.forms.get(prepared.form)
    if found is None:
        found = _pack(known, w, prepared)
    return found


def _pack(known: _Weights, w: Tensor, prepared: Prepared) -> tuple[int, object]:
    forms = known.forms
    dense = w.is_contiguous() or w.transpose(1, 3).transpose(1, 2).is_contiguous()
    if not dense or len(forms) >= _FORMS_OF_A_TENSOR:
        return 0, None  # the numbers are not all there is between first and last; or sizes change too much
    known.take_fingerprints()  # before packing: a change during it is noticed at the next call
    address, memory = runtime.memory(prepared.packed_bytes)
    prepared.pack(known.address, address)
    forms[prepared.form] = address, memory
    return address, memory


def kept_weights() -> dict[str, int]:
    """What is kept at the moment: how many tensors' `weights`, in how many `bytes`."""
    sizes = [int.from_bytes(form[:8], "little") for known in list(_known.values()) for form in list(known.forms)]
    return {"weights": sum(bool(known.forms) for known in list(_known.values())), "bytes": sum(sizes)}


def drop_kept_weights() -> None:
    """Give the memory back; what is still in use is packed again."""
    _known.clear()
