"""Cases tried in a process of its own, which may crash: the case that it was on is named, and the next one is tried.

Such a program takes the number of the first case to try as its last argument, and tries the cases in order from there,
each in `announced`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conftest import Soak

HERE = Path(__file__).parent
_CRASHES = 20
"""With so many, the rest of the cases need not be tried to know that something is wrong."""


class Unlike(Exception):
    """A case that did not do what it should."""


def tried_apart(soak: Soak, *arguments: str, timeout: float = 900, **variables: str) -> list[Any]:
    """Has `python arguments… FIRST` try its cases, and notes each one. Returns what it said besides."""
    first, said = 0, list[Any]()
    for _ in range(_CRASHES):
        ended, crashed = _run([*arguments, str(first)], variables, timeout)
        for kind, *rest in ended:
            if kind == "said":
                said += rest
            else:
                name, problem = rest
                with soak.case(name):
                    if problem:
                        raise Unlike(problem)
                first += 1
        if crashed is None:
            return said
        with soak.case(crashed[0]):
            raise Unlike(crashed[1])
        first += 1
    return said


def _run(arguments: list[str], variables: dict[str, str], timeout: float) -> tuple[list[Any], tuple[str, str] | None]:
    """The lines of one run, and if it did not reach its end: the case that it was on, and how it ended."""
    paths = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "error", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": paths} | variables,
            stdout=out,
            stderr=err,
            text=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = 0
        out.seek(0)
        err.seek(0)
        lines, complaint = out.read().splitlines(), err.read()
    on, ended, whole = "before the first case", list[Any](), False
    for line in lines:
        kind, *rest = json.loads(line)
        if kind == "begins":
            on = rest[0]
        elif kind == "whole":
            whole = True
        else:
            ended.append((kind, *rest))
    if whole and status == 0:
        return ended, None
    how = signal.Signals(-status).name if status < 0 else f"status {status}" if status else "no end in time"
    return ended, (f"{on} ({' '.join(map(str, variables.values()))})", f"{how}\n{complaint[-2000:]}")


@contextlib.contextmanager
def announced(name: object) -> Iterator[None]:
    """In the program: a case, whose name is written before it is tried, and its end after."""
    _write("begins", str(name))
    problem = None
    try:
        yield
    except Exception as exception:
        problem = f"{type(exception).__name__}: {exception}"
    _write("ends", str(name), problem)


def say(what: object) -> None:
    """In the program: something that the test should know."""
    _write("said", what)


def whole() -> None:
    """In the program: this was the last case."""
    _write("whole")


def _write(*what: object) -> None:
    print(json.dumps(what), flush=True)
