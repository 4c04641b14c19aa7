"""Ctrl-C: the first one asks to stop and is answered at once, whatever is being computed; the second one leaves."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 0.5  # seconds that the main thread has for leaving by itself
_FAREWELL = 2.0  # and those that the last words may take, should somebody hold what they need


class Stop:
    """Whether the user asked to stop. The first Ctrl-C asks; a second one interrupts at once, as usual.

    `doing` is what is finished before the run stops; whoever works keeps it true.

    Args:
        exits: whether a second Ctrl-C that Python cannot hear, because one operation of many seconds runs, ends the
            process. A command's process may end so, since each file is replaced in one step; in a notebook or another's
            program such a Ctrl-C interrupts when the operation is over.
    """

    def __init__(self, exits: bool = False) -> None:
        self.asked = False
        self.doing = "this batch"
        self._exits = exits

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self.asked = True

    @contextmanager
    def listening(
        self, say: Callable[[str], None] = lambda _: None, farewell: Callable[[], None] = lambda: None
    ) -> Iterator[Stop]:
        """Within the block the first SIGINT (Ctrl-C) or SIGTERM asks to stop, and `say` is told so at once; `farewell`
        is called, in another thread, before a second one ends the process.

        Python's handlers run between two of the main thread's own steps, and a backward pass over large images is one
        step of many seconds. So the interpreter itself writes the signal's number into a socket when it comes
        (`signal.set_wakeup_fd`), and a thread that reads there answers.
        """
        before: dict[signal.Signals, Any] = {}
        over = Event()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        def tell() -> None:
            told = False
            while number := ours.recv(1):
                if number[0] not in _SIGNALS:
                    continue
                if not told:
                    say(f"Stopping after {self.doing}; Ctrl-C again leaves at once.")
                    told = True
                elif self._exits and not over.wait(_GRACE):
                    last = Thread(target=farewell, daemon=True)
                    last.start()
                    last.join(_FAREWELL)
                    os._exit(128 + number[0])  # what shells expect of who was ended by a signal

        def once(number: int, frame: FrameType | None) -> None:
            self.ask()
            for each, handler in before.items():
                signal.signal(each, handler)

        teller = Thread(target=tell, daemon=True)
        teller.start()
        wakes: int | None = None
        try:
            with suppress(ValueError):  # signals belong to the main thread; elsewhere nobody presses Ctrl-C
                wakes = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
                for number in _SIGNALS:
                    before[number] = signal.signal(number, once)
            yield self
        finally:
            over.set()
            for number, handler in before.items():
                signal.signal(number, handler)
            if wakes is not None:
                signal.set_wakeup_fd(wakes)
            theirs.close()
            teller.join()
            ours.close()
