"""torchrun as its users start it: real processes on this machine, connected over loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

_SECONDS = 900  # beside other busy processes; alone it is five


class Torchrun:
    """`torchrun` with so many processes, running; what it says goes into a file of the folder that it runs in."""

    def __init__(self, folder: Path, processes: int, *arguments: str, restarts: int = 0) -> None:
        self._said = folder / "said.txt"
        options = ("--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}")
        command = [sys.executable, "-m", "torch.distributed.run", *options, *arguments]
        with self._said.open("wb") as file:
            self._process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)

    def wait(self) -> str:
        """What was said, when it has ended without a failure."""
        try:
            status = self._process.wait(_SECONDS)
        except BaseException:
            self._process.terminate()  # which ends what it has started
            self._process.wait()
            raise
        said = self._said.read_text()
        assert status == 0, said
        return said

    def kill(self, rank: int, when: Callable[[], bool]) -> None:
        """Kill the process of that rank, as the system does where memory runs out, as soon as `when` is true."""
        end = monotonic() + _SECONDS
        while not when():
            assert monotonic() < end, self._said.read_text()
            assert self._process.poll() is None, self._said.read_text()
            sleep(0.01)
        os.kill(self._of_rank(rank), signal.SIGKILL)

    def _of_rank(self, rank: int) -> int:
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    return int(child)
        raise AssertionError(f"no process has rank {rank}")
