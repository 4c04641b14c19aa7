"""Whether memory that is freed is kept for the next call.

glibc gives large blocks back to the system as soon as they are freed. A fresh output of 50 MB then costs more in page
faults than in arithmetic, for every contender, and that is not what is compared. Three variables, read when a process
starts, let it keep what it has; with other allocators it is as it is, and said.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
_RESTARTED = "CONVFORGE_BENCH_RESTARTED"


def restart_keeping() -> None:
    """Replace this process by the same command with the variables set; return where that is done, or would do nothing.

    To be called before anything is loaded or written.
    """
    wanted = {name: value for name, value in KEEPING.items() if name not in os.environ}
    if platform.libc_ver()[0] != "glibc" or not wanted or os.environ.get(_RESTARTED):
        return
    environment = os.environ | wanted | {_RESTARTED: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def is_kept() -> bool | None:
    """Whether a block of 64 MB that is freed and taken again costs page faults; None where the system does not count
    them."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    import torch

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20)
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    # Where memory is kept, the process has a block of that size to give at the latest when the pad that it asked the
    # system for is used up. Huge pages fault 32 times for 64 MB.
    return any(faults() < 8 for _ in range(24))


def check_fits(needed: int) -> str:
    """'' where so many bytes can be had, else what is the case."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        available = next(int(line.split()[1]) << 10 for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return ""
    return (
        "" if needed < available else f"it needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free"
    )
