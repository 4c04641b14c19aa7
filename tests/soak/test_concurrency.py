"""Many callers at once: threads with cold and warm caches, forked and spawned processes."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import Case, Data, check
from processes import python

import convforge
from convforge.engine import passes
from convforge.native import runtime

from .conftest import Soak
from .draws import CORNERS, cases

THREADS = 8


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled or prepared yet, in memory or on disk."""
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path / "code"))
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    # a new dictionary, so that code that runs elsewhere is found again when the test has ended
    monkeypatch.setattr(runtime, "_compiled", {})
    passes._prepared.cache_clear()


def at_once(soak: Soak, work: list[tuple[Case, Data]], times: int) -> None:
    """Each thread its part of the work, all beginning together."""
    barrier = threading.Barrier(len(work))

    def one(n: int) -> list[str]:
        barrier.wait()
        problems = []
        for _ in range(times):
            try:
                check(*work[n])
            except Exception as problem:
                problems.append(f"{type(problem).__name__}: {problem}")
        return problems

    with ThreadPoolExecutor(len(work)) as pool:
        for n, problems in enumerate(pool.map(one, range(len(work)))):
            with soak.case(f"thread {n}: {work[n][0]}"):
                assert not problems, problems[0]


def ready(case: Case) -> tuple[Case, Data]:
    """With what is wanted already computed: the threads should be in the engine."""
    data = Data.of(case)
    assert data.wanted
    return case, data


@pytest.mark.usefixtures("cold")
def test_threads_that_compile_the_same_kernels_at_once(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CORNERS[1 : soak.length(2, len(CORNERS))]:
        forget(monkeypatch)
        at_once(soak, [ready(case)] * THREADS, 1)


@pytest.mark.usefixtures("cold")
def test_threads_that_compile_different_kernels_at_once(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    for turn in range(soak.length(1, 6)):
        forget(monkeypatch)
        work = [ready(replace(case, threads=1 + n % 3)) for n, case in enumerate(cases(THREADS + 6, turn))]
        at_once(soak, work[6:] if turn else work[: soak.length(3, 6)], 2)


def test_threads_that_share_prepared_passes(soak: Soak) -> None:
    """Warm: all of them the same passes, with numbers and memory of their own."""
    for turn in range(soak.length(1, 40)):
        case = list(cases(turn + 2, turn))[-1]
        at_once(soak, [ready(replace(case, threads=2))] * THREADS, soak.length(3, 10))


def test_threads_with_work_of_their_own(soak: Soak) -> None:
    seed = random.randrange(10**9)
    soak.figure("seed", seed)
    for turn in range(soak.length(1, 25)):
        drawn = list(cases(len(CORNERS) + soak.length(0, 4), seed + turn))
        work = [ready(replace(case, threads=1 + n % 3)) for n, case in enumerate(drawn)]
        at_once(soak, work, soak.length(3, 10))


@pytest.mark.parametrize("same", [True, False], ids=["same spec", "own spec"])
def test_operators_with_and_without_gradients_in_threads(same: bool, soak: Soak) -> None:
    """Weights that are shared, and kept packed, by the threads that do not train them."""
    rounds = soak.length(10, 300)
    made = torch.Generator().manual_seed(1)
    shared = torch.randn(16, 8, 3, 3, generator=made, dtype=torch.float64)
    barrier = threading.Barrier(THREADS)

    def one(n: int) -> list[str]:
        own = torch.Generator().manual_seed(n)
        channels = 8 if same else 3 + n
        weight = shared if same else torch.randn(16, channels, 3, 3, generator=own, dtype=torch.float64)
        problems = []
        trained = n % 2 == 1
        barrier.wait()
        for turn in range(rounds):
            x = torch.randn(2, channels, 9 + turn % 5, 11, generator=own, dtype=torch.float64, requires_grad=trained)
            w = weight.clone().requires_grad_() if trained else weight
            found = []
            for convolve in (convforge.conv2d, torch.nn.functional.conv2d):
                y = convolve(x, w, padding=1)
                found.append([y, *(torch.autograd.grad(y.square().sum(), (x, w)) if trained else ())])
            try:
                torch.testing.assert_close(*found)
            except AssertionError as problem:
                problems.append(f"round {turn}: {problem}")
        return problems

    with ThreadPoolExecutor(THREADS) as pool:
        for n, problems in enumerate(pool.map(one, range(THREADS))):
            with soak.case(f"thread {n}"):
                assert not problems, problems[0]


# A child of a process whose OpenMP has a team may not use more than one thread: GNU's OpenMP has no team after a fork.
FORK = """
import os, signal, sys, threading, time
import numpy as np
from oracle import Data, check
from dataclasses import replace
from soak.draws import CORNERS
if sys.argv[1] == "torch":
    import torch
    torch.set_num_threads(1)
from convforge.native import runtime

cases = [replace(case, threads=1) for case in CORNERS[:int(sys.argv[4])]]
known = [(case, Data.of(case)) for case in cases]
for case, data in known:
    data.wanted
begun, real = threading.Event(), runtime.compile_parts
def compiling(*arguments):
    begun.set()
    return real(*arguments)
runtime.compile_parts = compiling

def compile_all():
    for case, data in known:
        check(case, data)

if sys.argv[2] == "compiling":
    thread = threading.Thread(target=compile_all)
    thread.start()
    begun.wait(60)
    time.sleep(float(sys.argv[3]))
else:
    compile_all()
    thread = None
child = os.fork()
if child == 0:
    try:
        check(*known[0])
        check(*known[-1])
    except BaseException as problem:
        os.write(2, repr(problem).encode())
        os._exit(3)
    os._exit(0)
for _ in range(int(sys.argv[5]) * 100):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.01)
else:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sys.exit("the child did not come to its end")
if thread:
    thread.join()
sys.exit(0 if status == 0 else f"the child ended with {status}")
"""
IN_TIME = "60"
"""Seconds for a child: many times what it takes, since only one that hangs is to be found."""


def forked(soak: Soak, openmp: str, what: str, moment: float = 0, **variables: str) -> None:
    """A process forks at this moment, in seconds from the beginning of its first compilation."""
    arguments = (openmp, what, f"{moment:.3f}", str(soak.length(2, len(CORNERS))), IN_TIME)
    with soak.case(" ".join(arguments)):
        done = python("-W", "ignore", "-c", FORK, *arguments, **_paths(), **variables)
        assert done.returncode == 0, done.stderr[-2000:]


def _paths() -> dict[str, str]:
    tests = Path(__file__).parents[1]
    return {"PYTHONPATH": os.pathsep.join([str(tests), str(tests / "engine"), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_of_a_warm_process_convolves(soak: Soak) -> None:
    for openmp in soak.length(("torch",), ("numpy", "torch") * 5):
        forked(soak, openmp, "warm")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_compiles_convolves(soak: Soak, tmp_path: Path) -> None:
    """The compiler's locks may be held by threads that the child does not have."""
    for n, openmp in enumerate(soak.length(("numpy",), ("numpy", "torch") * 10)):
        moment = random.Random(n).uniform(0, 1.5) if n else 0.2
        forked(soak, openmp, "compiling", moment, CONVFORGE_CACHE=str(tmp_path / f"{n}"))


SPAWN = """
import multiprocessing, sys
import numpy as np

def convolved(seed):
    from oracle import Data, check
    from soak.draws import cases
    case = list(cases(seed + 1, 3))[-1]
    check(case)
    return seed

if __name__ == "__main__":
    from oracle import check
    from soak.draws import CORNERS
    check(CORNERS[0])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map_async(convolved, range(int(sys.argv[1]))).get(240) == list(range(int(sys.argv[1])))
"""


def test_spawned_processes_convolve(soak: Soak, tmp_path: Path) -> None:
    """In the long test with one cold cache on disk for all."""
    program = tmp_path / "spawn.py"
    program.write_text(SPAWN)
    count = soak.length(2, 40)
    with soak.case(f"{count} in a pool"):
        done = python(
            str(program), str(count), **_paths(), **soak.length({}, {"CONVFORGE_CACHE": str(tmp_path / "code")})
        )
        assert done.returncode == 0, done.stderr[-2000:]
