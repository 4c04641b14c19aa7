"""Text for a terminal: help from docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def help_of(command: Callable[..., Any]) -> str:
    """The docstring of a command with each paragraph on one line, so that the terminal's width decides where it breaks.

    >>> def greet():
    ...     '''Say
    ...     hello.
    ...
    ...     Twice.'''
    >>> help_of(greet)
    'Say hello.\\n\\nTwice.'
    """
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    # An indented paragraph is an example and keeps its lines.
    return "\n\n".join(p if p.startswith(" ") else p.replace("\n", " ") for p in paragraphs)
