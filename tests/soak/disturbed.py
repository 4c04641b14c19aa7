"""A program that runs `convforge` in children of itself, and kills them or fills their disk at a chosen moment.

It reads a line of JSON a command (`Disturber.run` says what is in it) and answers with one. Children are forked when
everything is imported, so that a command takes no longer than its work. They count every call that changes the folder
they run in. A call whose turn has come is not made: the process is killed, or the call fails as on a full disk, as do
all further ones that would need space. Of a write, the first half is there by then.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_IN_TIME = 240
"""Seconds for a command, which then says where it hangs: many times what any takes."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: the signal that ended it), the calls that it made or was about to
    make, what it printed, what it said on stderr, and how long it took."""

    status: int
    calls: list[str]
    printed: str
    said: str
    seconds: float


class Disturber:
    """The program, as tests use it."""

    def __init__(self, cache: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CONVFORGE_CACHE": str(cache)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self,
        folder: Path,
        *arguments: str,
        die_at: int = 0,
        full_at: int = 0,
        die_after: float | None = None,
    ) -> Ended:
        """Run `convforge ARGUMENTS` in a folder.

        Args:
            die_at: kill it at this call, counted from 1; 0 for never.
            full_at: the disk is full from this call on.
            die_after: kill it after so many seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "arguments": arguments, "die_at": die_at, "full_at": full_at}
        self._process.stdin.write(json.dumps(order | {"die_after": die_after}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        if self._process.stdout is not None:
            self._process.stdout.close()


# ---------------------------------------------------------------------------------------------------------------------
# The program
# ---------------------------------------------------------------------------------------------------------------------


def disturb(folder: str, die_at: int, full_at: int, tell: Callable[[str], None]) -> None:
    """Count the calls that change `folder`, and do the worst at the chosen one."""
    count = 0

    def call(what: str, path: Any, needs_space: bool = True) -> None:
        nonlocal count
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fspath(path))
        if not path.startswith(folder + os.sep):
            return
        count += 1
        tell(f"{what} {os.path.relpath(path, folder)}")
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if full_at and count >= full_at and needs_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    class HalfWritten(io.FileIO):
        def write(self, content: Any) -> int:
            half = super().write(content[: len(content) // 2])
            call("write", self.fileno())
            return half + super().write(content[len(content) // 2 :])

    def before(function: Callable[..., Any], what: str, needs_space: bool = True) -> Callable[..., Any]:
        def called(path: Any, *rest: Any, **named: Any) -> Any:
            call(what, path, needs_space)
            return function(path, *rest, **named)

        return called

    open_file = os.open

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            call("open", path)
        return open_file(path, flags, *rest, **named)

    os.open = opened
    os.fdopen = lambda handle, mode="r", **_: HalfWritten(handle, mode)
    for name in ("mkdir", "fsync", "replace", "rename"):
        setattr(os, name, before(getattr(os, name), name))
    for name in ("unlink", "rmdir"):
        setattr(os, name, before(getattr(os, name), name, needs_space=False))


def command(order: dict[str, Any], tell: Callable[[str], None]) -> int:
    """Run one command in this process; the exit status."""
    from convforge.cli import main
    from convforge.train import exemplar, loop

    os.chdir(order["folder"])
    for number, name in ((1, "printed"), (2, "said")):
        os.dup2(os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # A clock that ticks at every look: so the times in metrics and report are those of an undisturbed run, too.
    clock = itertools.count()
    loop.perf_counter = lambda: float(next(clock))  # type: ignore[assignment]
    exemplar.PATCHES, exemplar.EXAMPLES, exemplar.HELD_OUT = 4, 4, 2
    disturb(os.getcwd(), order["die_at"], order["full_at"], tell)
    sys.argv = ["convforge", *order["arguments"]]
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    return 0


def child(order: dict[str, Any], pipe: int) -> None:
    def tell(call: str) -> None:
        os.write(pipe, f"{call}\n".encode(errors="backslashreplace"))

    try:
        status = command(order, tell)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child, and say how it ended."""
    reading, writing = os.pipe()
    begin = time.perf_counter()
    if (process := os.fork()) == 0:
        faulthandler.dump_traceback_later(_IN_TIME, exit=True)
        os.close(reading)
        child(order, writing)
    os.close(writing)
    if order["die_after"] is not None:
        time.sleep(order["die_after"])
        os.kill(process, signal.SIGKILL)  # not yet waited for, so it is nobody else's number
    with os.fdopen(reading) as calls:
        made = calls.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seconds = time.perf_counter() - begin
    printed, said = (
        Path(order["folder"]).parent.joinpath(name).read_text(errors="backslashreplace") for name in ("printed", "said")
    )
    return {"status": status, "calls": made, "printed": printed, "said": said, "seconds": seconds}


def warm_up() -> None:
    """Import and make, once, whatever a command would at its first need: most of its time."""
    import torch._dynamo  # noqa: F401
    from PIL import Image

    import convforge.cli
    import convforge.inference.compile
    import convforge.models.load
    import convforge.train.pictures
    import convforge.train.report
    import convforge.train.run
    from convforge.models import families
    from convforge.planning import plan

    Image.init()
    convforge.train.report._page()
    plan(families.build("vgg", classes=2, input_shape=(1, 8, 8)), (1, 8, 8))


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
