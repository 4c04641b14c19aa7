"""What must be there until the process ends: Python frees its modules' objects before that, while threads still run.

A thread inside a native function never learns that the interpreter is on its way out. It may be looking for work, or
be anywhere in a kernel with the system having given its core to somebody else; take its code or its memory away then,
and the process that has done all its work ends with a segmentation fault.
"""

from __future__ import annotations

import ctypes
from typing import TypeVar

T = TypeVar("T")


def for_good(thing: T) -> T:
    """The same object, which is never freed.

    >>> import weakref
    >>> class Thing: pass
    >>> gone, there = weakref.ref(Thing()), weakref.ref(for_good(Thing()))
    >>> gone() is None, there() is None
    (True, False)
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing
