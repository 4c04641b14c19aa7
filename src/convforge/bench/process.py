"""A process of its own for one contender: threads of two libraries in one process would wait by spinning, and take the
cores from each other."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

Answer: TypeAlias = Callable[[Any], Any]
"""What a process does with a question: its answer, or an exception."""


class PeerError(Exception):
    """A contender that cannot compute something, or whose process has ended."""


class Child:
    """A process that answers questions. Use it as a context manager.

    Args:
        title: what messages call it.
        make: called in the new process with `arguments`; what it returns is called with every question. A function of
            a module, so that the process finds it.
        environment: variables that are set there before `make` is called.
        log: a file for what libraries print there; without it, that goes to this process's standard error.
    """

    def __init__(
        self,
        title: str,
        make: Callable[..., Answer],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.title = title
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        words = (theirs, make, arguments, dict(environment or {}), log)
        self._process = context.Process(target=_serve, args=words, daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()  # its next read ends it
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()

    def ask(self, question: Any) -> Any:
        """Its answer. Raises `PeerError`, with one sentence, where it has none."""
        try:
            self._connection.send(question)
            worked, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise PeerError(f"{self.title}'s process has ended") from error
        if not worked:
            raise PeerError(f"{self.title}: {answer}")
        return answer


def _serve(
    connection: Connection,
    make: Callable[..., Answer],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    log: Path | None,
) -> None:
    os.environ.update(environment)
    if log is not None:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.dup2(2, 1)  # what libraries print must not get between the lines of a report
    atexit.register(gc.freeze)  # no last collections: they walk over all that torch has made, and take a second
    answer: Answer | None = None
    while True:
        try:
            question = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if answer is None:
                answer = make(*arguments)
            connection.send((True, answer(question)))
        except KeyboardInterrupt:
            return
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            connection.send((False, reason or type(error).__name__))
