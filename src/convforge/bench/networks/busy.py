"""A process that takes a core from those that are measured, as other programs of a user do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with its parent, however that ends.
_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy() -> Iterator[None]:
    """One other process counts all the while."""
    process = subprocess.Popen([sys.executable, "-c", _LOOP], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
