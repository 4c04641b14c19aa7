"""Work in a forked child, which must come to an end: one that hangs, or fails, would be a second pytest otherwise."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

IN_TIME = 60
"""Seconds for a child: many times what it takes, since only one that hangs is to be found."""


def ended_in_a_fork(holds: Callable[[], bool]) -> str:
    """How a child ends that finds out whether something holds: "" if it does."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(IN_TIME)
            status = 0 if holds() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    known = {0: "", 1: "it does not hold there", 2: "it raised an error", -signal.SIGALRM: "it hung"}
    return known.get(status, f"it ended with {status}")
