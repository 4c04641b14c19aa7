"""Run Python in a process of its own, with chosen environment variables: targets and caches are those of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SWEEP = Path(__file__).parent / "sweep.py"
CROWDED = Path(__file__).parent / "crowded.py"


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python …` with the variables set; its output as text."""
    variables.setdefault("OMP_NUM_THREADS", "2")
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONFAULTHANDLER": "1"} | os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def answer(*arguments: str, **variables: str) -> Any:
    """What a program prints as JSON on its last line; it must end well."""
    done = python(*arguments, **variables)
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr or 'not a word'}"
    return json.loads(done.stdout.splitlines()[-1])


def sweep(count: int, seed: int, *threads: int, **variables: str) -> Any:
    """So many random convolutions, checked without torch."""
    return answer(str(SWEEP), str(count), str(seed), *map(str, threads), **variables)
