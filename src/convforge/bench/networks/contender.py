"""What a contender is: how it is loaded, what it is given, and what it says once it has computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .files import path_of
from .named import Case

Array: TypeAlias = NDArray[np.float32]
Results: TypeAlias = list[Array]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all contenders have in common."""

    threads: int
    exact: bool = False
    training: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What a contender begins with; the module, in eval mode, is None where it reads a file or makes its own."""

    case: Case
    settings: Settings
    images: Array
    module: Any

    def path(self, form: str) -> Path:
        """The network's file."""
        return path_of(self.case, form)


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that was loaded: a call of it, and the last call's outputs in NCHW, or where that is a step of learning
    its gradients. `network` is ours."""

    run: Callable[[], object]
    results: Callable[[], Results]
    network: Any = None
    captured_after: float = 0.0
    """Seconds until there was a graph, of those until it was ready."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process says once it has computed the network for the first time."""

    first: float
    """Seconds from the module or file to the first result."""
    capture: float
    """Of these, seconds until there was a graph; 0 where that is no step of its own."""
    results: Results


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes beyond what the process had with its libraries loaded: at most, and now."""

    peak: int
    held: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A library as it is used here: its name in tables, the packages it needs (what computes comes last), the file it
    reads ('' for the torch module), how it is loaded, and whether it needs a C++ compiler."""

    title: str
    packages: tuple[str, ...]
    form: str
    load: Callable[[Given], Ready]
    compiler: bool = False

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        packages = [name for name in self.packages if find_spec(name) is None]
        return packages + (["a C++ compiler"] if self.compiler and not (which("g++") or which("clang++")) else [])
