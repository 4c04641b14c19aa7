"""Threads: torch's own where torch is, a team of our own without it; from many Python threads at once; after a fork."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llvmlite import ir
from oracle import Case, Data, agree, check
from processes import answer, sweep
from torch.utils.data import DataLoader, Dataset

import convforge
from convforge import Conv2dSpec, engine
from convforge.engine.prepared import Prepared
from convforge.native import runtime
from convforge.native.ir import I64, Arguments, Int, kernel, tasks
from convforge.native.program import Program, Step
from convforge.native.target import current

SPEC = Conv2dSpec(16, 24, 3, padding=1)


@pytest.mark.parametrize("threads", [2, 3])
def test_without_torch_on_numpy_alone(threads: int) -> None:
    assert sweep(120, 5, threads)["torch"] is False


def test_an_engine_that_convolves_does_not_load_torch() -> None:
    program = """
import json, sys
import numpy as np
import convforge
from convforge import Conv2dSpec, engine
x, w = np.ones((2, 8, 30, 30), np.float32), np.ones((8, 8, 3, 3), np.float32)
y = engine.conv2d(x, w, None, Conv2dSpec(8, 8, 3), exact=True)
print(json.dumps([float(y[0, 0, 0, 0]), "torch" in sys.modules]))
"""
    assert answer("-c", program) == [72.0, False]


# Threads that this process has, seen from outside of torch, when convolutions have run with each number set in turn.
COUNTING = """
import json, os, sys
import numpy as np
import torch
torch.set_num_threads(int(sys.argv[1]))
import convforge
x, w = (torch.from_numpy(np.ones(s, np.float32)) for s in ((4, 32, 60, 60), (32, 32, 3, 3)))  # on one thread
before = len(os.listdir("/proc/self/task"))
found = []
for threads in sys.argv[1:]:
    torch.set_num_threads(int(threads))
    for _ in range(3):
        convforge.conv2d(x, w, padding=1)
    found.append(len(os.listdir("/proc/self/task")) - before)
print(json.dumps(found))
"""


@pytest.mark.skipif(not torch.os.path.exists("/proc/self/task"), reason="counts threads in /proc")
def test_torchs_number_of_threads_holds() -> None:
    assert answer("-c", COUNTING, "1", "2", "3", OMP_NUM_THREADS="8") == [0, 1, 2]


@pytest.mark.skipif(not torch.os.path.exists("/proc/self/task"), reason="counts threads in /proc")
def test_the_threads_are_torchs_own() -> None:
    """Where torch has its team already, a convolution starts no further thread."""
    program = COUNTING.replace("before =", "torch.nn.functional.conv2d(x, w); before =")
    assert answer("-c", program, "2", OMP_NUM_THREADS="2") == [0]


def test_python_threads_at_the_same_time() -> None:
    """Eight threads, each with data and a spec of its own, none of them disturbed by the others' workspace."""
    cases = [
        Case(Conv2dSpec(4 + n, 30 - n, 1 + n % 4, 1 + n % 2, padding=1), (9 + n, 20 - n), batch=2, threads=1 + n % 2)
        for n in range(8)
    ]
    prepared = [(case, Data.of(case)) for case in cases]
    for _, data in prepared:
        assert data.wanted
    barrier = threading.Barrier(len(cases))

    def work(pair: tuple[Case, Data]) -> None:
        barrier.wait()
        for _ in range(25):
            check(*pair)

    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(work, prepared))


def test_torch_operators_from_python_threads() -> None:
    def work(seed: int) -> None:
        made = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 5 + seed, 11, 9, generator=made, requires_grad=True)
        w = torch.randn(12, 5 + seed, 3, 3, generator=made, requires_grad=True)
        for _ in range(10):
            ours = torch.autograd.grad(convforge.conv2d(x, w).square().sum(), (x, w))
            theirs = torch.autograd.grad(torch.nn.functional.conv2d(x, w).square().sum(), (x, w))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


class Convolved(Dataset[torch.Tensor]):
    """Items that a worker process computes with convolutions."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return convforge.conv2d(torch.full((4, 8, 40, 40), float(index)), torch.ones(8, 8, 3, 3), padding=1)[0]


def test_workers_of_a_data_loader_convolve_and_do_not_hang() -> None:
    torch.set_num_threads(2)
    convforge.conv2d(torch.ones(4, 8, 40, 40), torch.ones(8, 8, 3, 3))  # the parent's team of threads exists
    batches = list(DataLoader(Convolved(), batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork"))
    assert [float(batch[0, 0, 20, 20]) for batch in batches] == pytest.approx([0.0, 2 * 72.0, 4 * 72.0, 6 * 72.0])


def test_a_fork_of_a_program_without_torch_does_not_hang() -> None:
    program = """
import json, os, signal
import numpy as np
from convforge import Conv2dSpec, engine
x, w, spec = np.ones((4, 8, 40, 40), np.float32), np.ones((8, 8, 3, 3), np.float32), Conv2dSpec(8, 8, 3)
engine.conv2d(x, w, None, spec, threads=2, exact=True)  # the pool's threads do not survive a fork
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(30)
    y = engine.conv2d(x, w, None, spec, threads=2, exact=True)
    os.write(writer, str(float(y[0, 0, 0, 0])).encode())
    os._exit(0)
status = os.waitpid(child, 0)[1]
os.close(writer)
print(json.dumps([status, os.read(reader, 100).decode()]))
"""
    assert answer("-W", "ignore::DeprecationWarning", "-c", program) == [0, "72.0"]


def test_results_do_not_depend_on_who_calls() -> None:
    data = Data.of(Case(SPEC, (12, 12)))
    here = engine.conv2d(data.x, data.w, data.bias, SPEC, threads=2)
    there: list[Any] = []
    thread = threading.Thread(target=lambda: there.append(engine.conv2d(data.x, data.w, data.bias, SPEC, threads=2)))
    thread.start()
    thread.join()
    assert np.array_equal(here, there[0])
    agree(Case(SPEC, (12, 12)), data, "y", here)


def prepared(*phases: tuple[int, int, list[int]], without_openmp: bool = False) -> Prepared:
    """Kernels, each with its threads and its arguments, as a pass."""
    program = Program(tuple(Step(address, threads, tuple(numbers), ()) for address, threads, numbers in phases))
    if without_openmp:
        program.block[0] = 0
    return Prepared("", max(threads for _, threads, _ in phases), program)


TASKS = Arguments("total done order slow given_up")
PATIENCE = 1 << 33
"""Looks at a counter; some ten seconds."""


def held_up(module: ir.Module) -> None:
    """A kernel whose thread `slow` waits in its first task until all other tasks are done; each task adds 1 + its
    thread, in the place of its number, to what stands there."""
    f, a = kernel(module, "held_up", "float32", TASKS)
    b, thread, done = f.builder, f.integer("thread"), f.address(a["done"], I64)
    with tasks(f, a["total"], carry=[f.const(0).value]) as task:
        place = f.address(a["order"], I64).at(task.index)
        place.put((place.integer() + thread + 1).value)
        first = Int(b, task.values[0]).compare("==", 0)
        with f.if_(f.all_of(first, thread.compare("==", a["slow"]))):
            before = b.block
            again, on = b.append_basic_block("again"), b.append_basic_block("on")
            b.branch(again)
            b.position_at_end(again)
            looks = b.phi(I64)
            looks.add_incoming(ir.Constant(I64, 0), before)
            count = Int(b, b.load_atomic(done.value, "acquire", 8, typ=I64))
            more = Int(b, b.add(looks, ir.Constant(I64, 1)))
            looks.add_incoming(more.value, again)
            waiting = f.all_of(count.compare("<", a["total"] - 1), more.compare("<", PATIENCE))
            b.cbranch(waiting, again, on)
            b.position_at_end(on)
            with f.if_(more.compare("==", PATIENCE)):
                f.address(a["given_up"], I64).put(f.const(1).value)
        done.count()
        task.carry([f.const(1).value])
    f.done()


@pytest.mark.parametrize("slow", [0, 1])
@pytest.mark.parametrize("total", [2, 3, 40, 41])
def test_a_thread_holds_up_the_others_for_no_more_than_the_task_in_its_hands(total: int, slow: int) -> None:
    """All other tasks are done meanwhile, each of them once; with the threads of OpenMP as without."""
    address = runtime.code("test_threads.held_up", held_up, ["held_up"], current())["held_up"]
    order, counts = np.zeros(total, np.int64), np.zeros(2, np.int64)
    at = {"done": counts.ctypes.data, "order": order.ctypes.data, "given_up": counts.ctypes.data + 8}
    numbers = TASKS.pack({"total": total, "slow": slow} | at)
    for without_openmp in (False, True):
        order[:], counts[:] = 0, 0
        prepared((address, 2, numbers), without_openmp=without_openmp).run()
        assert counts.tolist() == [total, 0]
        mine = order == slow + 1
        assert mine.sum() <= 1, "the slow thread has done the task in its hands, or has come too late for any"
        assert (order[~mine] == 2 - slow).all(), "the other one all others, once each"


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [0, 1, 2, 7, 100])
def test_every_task_is_done_once_whatever_the_number_of_threads(total: int, threads: int) -> None:
    address = runtime.code("test_threads.held_up", held_up, ["held_up"], current())["held_up"]
    order, counts = np.zeros(total, np.int64), np.zeros(2, np.int64)
    at = {"done": counts.ctypes.data, "order": order.ctypes.data, "given_up": counts.ctypes.data + 8}
    prepared((address, threads, TASKS.pack({"total": total, "slow": -1} | at))).run()
    assert counts[0] == total
    assert ((order >= 1) & (order <= threads)).all()


CHAIN = Arguments("before after shares")


def chain(module: ir.Module) -> None:
    """A share adds up what all shares of the phase before have written, and its own number."""
    f, a = kernel(module, "chain", "float32", CHAIN)
    with f.loop(a["shares"], carry=[f.const(0).value]) as each:
        number = f.address(a["before"], I64).at(each.index).integer()
        each.carry([(Int(f.builder, each.values[0]) + number).value])
    total = Int(f.builder, each.values[0]) % 1_000_003
    f.address(a["after"], I64).at(f.integer("thread")).put((total + f.integer("thread")).value)
    f.done()


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
@pytest.mark.parametrize("openmp", [True, False])
def test_a_phase_begins_when_the_one_before_is_done(shares: int, openmp: bool) -> None:
    """Whoever does the shares, however many come, and with several callers at once."""
    count = 40
    expected = np.zeros((count + 1, shares), np.int64)
    for phase in range(count):
        expected[phase + 1] = expected[phase].sum() % 1_000_003 + np.arange(shares)
    address = runtime.code("test_threads.chain", chain, ["chain"], current())["chain"]

    def run() -> None:
        found = np.zeros_like(expected)
        lines = [int(row.ctypes.data) for row in found]
        phases = [
            (address, shares, CHAIN.pack({"before": before, "after": after, "shares": shares}))
            for before, after in itertools.pairwise(lines)
        ]
        program = prepared(*phases, without_openmp=not openmp)
        for _ in range(20):
            found[1:] = -1
            program.run()
            assert np.array_equal(found, expected)

    run()
    with ThreadPoolExecutor(3) as callers:
        for done in [callers.submit(run) for _ in range(6)]:
            done.result()


def test_a_process_ends_while_a_member_of_its_team_looks_for_work(tmp_path: Path) -> None:
    """Members look for microseconds and then sleep; one whose core is somebody else's looks when Python has ended."""
    program = """
import sys
import numpy as np
from convforge import Conv2dSpec, engine
from convforge.native import team
team._LOOKS = 1 << 60
x, w = np.ones((1, 3, 9, 9), np.float32), np.ones((20, 3, 3, 3), np.float32)
y = engine.conv2d(x, w, None, Conv2dSpec(3, 20, 3, padding=1), threads=2)
print(float(y[0, 0, 4, 4]))
"""
    assert answer("-c", program, CONVFORGE_CACHE=str(tmp_path)) == 27.0
