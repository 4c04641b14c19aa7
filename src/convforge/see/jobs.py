"""Work that takes longer than a second: one job after another in one thread, with progress, and stopped when asked.

A job is a function that is given its `Progress` and calls it between batches: that is how the page learns how far it
is, and where the job ends when it was cancelled. What became of a job is kept for a while, so that a page that was
reloaded can still ask.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError

State = Literal["running", "done", "cancelled", "failed"]

_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside a job that somebody has cancelled."""


class NoSuchJob(UserError):
    """There is no job with that id, or no longer."""


@dataclass(frozen=True)
class Status:
    """How far a job is: `done` of `total` steps, and `what` it is doing in words.

    A job that waits for its turn is "running", and says so in `what`. `result` is there when it is "done", `error`, one
    plain sentence, when it has "failed".
    """

    id: str
    state: State
    done: int = 0
    total: int = 0
    what: str = ""
    result: Any = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; `result` and `error` only where there is one."""
        values = {name: getattr(self, name) for name in ("id", "state", "done", "total", "what")}
        values |= {"result": self.result} if self.state == "done" else {}
        return values | ({"error": self.error} if self.error else {})


@dataclass
class _Job:
    id: str
    what: str
    work: Callable[[Progress], Any] | None
    key: Hashable
    state: State = "running"
    done: int = 0
    total: int = 0
    result: Any = None
    error: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class Progress:
    """What a job reports with: `progress(done, total, what)`. Raises `Cancelled` where the job is to end."""

    def __init__(self, job: _Job | None = None) -> None:
        self._job = job

    def __call__(self, done: int, total: int, what: str = "") -> None:
        if self._job is None:
            return
        if self._job.stop.is_set():
            raise Cancelled
        self._job.done, self._job.total = done, total
        self._job.what = what or self._job.what


UNWATCHED = Progress()
"""For work that is done outside a job: nobody looks, and nobody cancels."""


class Jobs:
    """A queue with one thread.

    Args:
        kept: how many ended jobs can still be asked for; the oldest are forgotten.
        waiting: how many jobs may wait before a new one is refused.

    >>> jobs = Jobs()
    >>> jobs.wait(jobs.start(lambda progress: 6 * 7, "multiplying")).result
    42
    >>> jobs.close()
    """

    def __init__(self, kept: int = 32, waiting: int = 16) -> None:
        self._kept, self._most_waiting = kept, waiting
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}  # in the order in which they were started
        self._queue: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, work: Callable[[Progress], Any], what: str, key: Hashable = None) -> str:
        """Put a job at the end of the queue; its id.

        Args:
            work: is called in the jobs' thread; what it returns is the result.
            what: what it does, in words, until it says something better.
            key: a job with the same key that has not ended yet is taken instead of a new one.

        Raises:
            UserError: if too many are waiting, or the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise UserError("the server is stopping, so nothing new is begun: start convforge see again.")
            for job in self._jobs.values():
                if key is not None and job.key == key and job.state == "running" and not job.stop.is_set():
                    return job.id
            if len(self._queue) >= self._most_waiting:
                raise UserError(f"{len(self._queue)} jobs are waiting already: cancel some, or let them end.")
            job = _Job(secrets.token_urlsafe(9), what, work, key)
            self._jobs[job.id] = job
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="convforge jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return job.id

    def finished(self, result: Any) -> str:
        """The id of a job that had nothing left to do: its result was known already."""
        with self._changed:
            job = _Job(secrets.token_urlsafe(9), "", None, None, state="done", result=result)
            self._jobs[job.id] = job
            self._forget_the_oldest()
            return job.id

    def status(self, id: str) -> Status:
        """How far a job is.

        Raises:
            NoSuchJob: also if it ended long ago.
        """
        with self._changed:
            return self._status(self._job(id))

    def cancel(self, id: str) -> Status:
        """Ask a job to end: one that waits ends at once, one that runs at its next step, one that has ended stays as it
        is. Raises `NoSuchJob`."""
        with self._changed:
            job = self._job(id)
            job.stop.set()
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "cancelled")
            return self._status(job)

    def wait(self, id: str, seconds: float = 60) -> Status:
        """The status when the job has ended, or after so many seconds."""
        with self._changed:
            job = self._job(id)
            self._changed.wait_for(lambda: job.state != "running", seconds)
            return self._status(job)

    def close(self, seconds: float = 5) -> None:
        """Cancel everything, and wait for the thread to end."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stop.set()
            while self._queue:
                self._end(self._queue.popleft(), "cancelled")
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    # --- with the lock --------------------------------------------------------------------------------------------

    def _job(self, id: str) -> _Job:
        try:
            return self._jobs[id]
        except KeyError:
            raise NoSuchJob(f"there is no job {id[:40]!r}, or it ended long ago: start it again.") from None

    def _status(self, job: _Job) -> Status:
        others = any(other.state == "running" and other is not job for other in self._jobs.values())
        what = f"{job.what}: waiting for another job to end" if others and job in self._queue else job.what
        return Status(job.id, job.state, job.done, job.total, what, job.result, job.error)

    def _end(self, job: _Job, state: State, result: Any = None, error: str | None = None) -> None:
        job.state, job.result, job.error, job.work = state, result, error, None
        self._forget_the_oldest()
        self._changed.notify_all()

    def _forget_the_oldest(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.state != "running"]
        for id in ended[: max(0, len(ended) - self._kept)]:
            del self._jobs[id]

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue.popleft()
            self._do(job)

    def _do(self, job: _Job) -> None:
        state: State = "failed"
        result, error = None, None
        assert job.work is not None
        try:
            result = job.work(Progress(job))
            state = "done"
        except Cancelled:
            state = "cancelled"
        except UserError as mistake:
            error = str(mistake)
        except MemoryError:
            error = f"there was not enough memory for {job.what}: use fewer or smaller images."
        except Exception as bug:  # the thread must live on, and the page be told
            _log.exception("the job %r failed", job.what)
            first = str(bug).strip().partition("\n")[0]
            error = f"{job.what} failed: {type(bug).__name__}{f': {first}' if first else ''}."
        with self._changed:
            self._end(job, state, result, error)
