"""Whose turn it is to compute: requests that somebody waits for go before the batches of a job.

Two forward passes at once take longer than one after the other: each brings as many threads as there are cores. So
there is one turn. A plain lock would not do: a job that gives it back and takes it again at once usually gets it, and a
click could wait for the whole job. Here a job's next batch begins only when no request is waiting, so that a click
waits for one batch at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One turn at a time. Not re-entrant: who has the turn must not ask for it again.

    >>> turns = Turns()
    >>> with turns.request():
    ...     pass  # what somebody waits for
    >>> with turns.background():
    ...     pass  # one batch of a job
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._requests = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """The turn for what somebody waits for."""
        with self._changed:
            self._requests += 1
            try:
                self._changed.wait_for(lambda: not self._taken)
                self._taken = True
            finally:
                self._requests -= 1
        yield from self._until_done()

    @contextmanager
    def background(self) -> Iterator[None]:
        """The turn for a short piece of a job: it begins when no request is waiting."""
        with self._changed:
            self._changed.wait_for(self._is_quiet)
            self._taken = True
        yield from self._until_done()

    def pause(self, seconds: float = 10) -> None:
        """For what a job does without a turn, such as reading files: it waits while a request computes or waits, that
        long at most, so that the request has the cores to itself."""
        with self._changed:
            self._changed.wait_for(self._is_quiet, seconds)

    def _is_quiet(self) -> bool:
        return not self._taken and not self._requests

    def _until_done(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
