"""Where the verbs that measure print: a table of a certain width, and how far they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

_Step = TypeVar("_Step")


def wide_console(width: int) -> Console:
    """The terminal, or where there is none, lines of this width."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=width)


def progress(steps: Iterable[_Step]) -> Iterable[_Step]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return steps
    return track(list(steps), "Measuring", console=console, transient=True)
