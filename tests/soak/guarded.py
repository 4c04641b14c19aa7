"""`python -m soak.guarded COUNT SEED TORCH FIRST` tries convolutions in memory between pages that cannot be touched.

All that a pass is given has such pages directly around it: inputs, weights, bias, residual and packed weights, which
cannot be written, either; outputs; and what it is lent, which is the work memory, the place of the packed weights in it
and that of the program's copy, each by itself.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from oracle import BOUND, SENTINEL, Case, Data, agree

from convforge import Conv2dSpec, engine
from convforge.engine import passes
from convforge.engine.arrays import address
from convforge.engine.kernels.epilogue import Epilogue
from convforge.engine.plan import Algorithm, Pass
from convforge.engine.prepared import Prepared
from convforge.native import runtime, team
from convforge.native.program import LINE
from convforge.pytorch.fingerprint import fingerprint

from .apart import announced, say, whole
from .draws import applying, cases
from .fences import Fenced, fenced_view

Array = np.ndarray[Any, Any]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0),
    "silu": lambda v: v / (1 + np.exp(-np.maximum(v, -700))),
}


@contextmanager
def lent(prepared: Prepared, at_end: bool) -> Iterator[None]:
    """While it lasts, `prepared` works in fenced memory."""
    call, memories = team.call, list[Fenced]()

    def memory(size: int) -> int:
        memories.append(Fenced(size, at_end, LINE))
        return memories[-1].address

    def fenced_call(block: Any, address: int, copy: int, *buffers: int) -> None:
        *given, packed, work, _ = buffers
        room = copy - work
        zeros = Fenced(prepared.zeros.nbytes, at_end, LINE)
        zeros.bytes[:] = 0
        zeros.seal()
        if work < packed < copy:
            sizes = packed - work, copy - packed
            at = [memory(sizes[1]), memory(sizes[0])]
        else:
            own = memory(room)
            at = [own if packed == work else packed, own]
        call(block, address, memory(8 * int(block[team._LENGTH])), *given, *at, zeros.address)
        for each in memories:
            each.check()

    workspace, team.call = runtime.workspace, fenced_call
    runtime.workspace = runtime.memory  # type: ignore[assignment]
    try:
        yield
    finally:
        team.call, runtime.workspace = call, workspace


class Fences:
    """A case's arrays between pages that cannot be touched, and the passes on them."""

    def __init__(self, case: Case, data: Data, at_end: bool) -> None:
        self.case, self.data, self.at_end = case, data, at_end
        self.memories: list[Fenced] = []

    def read(self, values: Array, layout: str) -> Array:
        memory, view = fenced_view(values, layout, np.nan, self.at_end)
        memory.seal()
        self.memories.append(memory)
        return view

    def written(self, values: Array, layout: str, run: Callable[[Array], None]) -> Array:
        """What `run` makes of these values; nothing between the numbers of a view may change."""
        memory, view = fenced_view(values, layout, SENTINEL, self.at_end)
        before = memory.bytes.copy()
        run(view)
        memory.check()
        result = view.copy()
        again, inside = fenced_view(result, layout, SENTINEL, self.at_end)
        assert inside.shape == view.shape
        assert before.size == memory.size
        assert memory.bytes.tobytes() == again.bytes.tobytes(), "something was written beside the output"
        return result

    def run(self, prepared: Prepared, **arrays: Array | None) -> None:
        addresses = {name: address(a) for name, a in arrays.items() if a is not None}
        with lent(prepared, self.at_end):
            prepared.run(**addresses)

    def run_packed(self, prepared: Prepared, w: Array, **arrays: Array | None) -> None:
        """The same with packed weights that are kept."""
        packed = Fenced(prepared.packed_bytes, self.at_end, LINE)
        with lent(prepared, self.at_end):
            prepared.pack(address(w), packed.address)
        packed.check()
        packed.seal()
        addresses = {name: address(a) for name, a in arrays.items() if a is not None}
        with lent(prepared, self.at_end):
            prepared.run(packed.address, w=address(w), **addresses)

    def forward(self, row: Algorithm) -> None:
        case, data, spec = self.case, self.data, self.case.spec
        x_layout, w_layout, y_layout = case.layouts
        x, w = self.read(data.x, x_layout), self.read(data.w, w_layout)
        bias = self.read(data.bias.reshape(1, -1, 1, 1), "NCHW") if spec.bias else None
        nothing = np.full(data.dy.shape, np.nan, case.dtype)
        problem = engine._problem(x, w, fenced_view(nothing, y_layout, SENTINEL, True)[1], spec)

        def prepared(kept: bool = False, **how: Any) -> Prepared:
            finish = Epilogue(bias is not None, **how)
            return passes.prepare(problem, Pass.FORWARD, case.threads, row.exact, row.name, kept, finish)

        y = self.written(nothing, y_layout, lambda y: self.run(prepared(), x=x, w=w, y=y, bias=bias))
        agree(case, data, "y", y)
        if prepared(True).packed_bytes:
            y = self.written(nothing, y_layout, lambda y: self.run_packed(prepared(True), w, x=x, y=y, bias=bias))
            agree(case, data, "y", y)
        residual = self.read(data.dy, y_layout)
        for activation, itself in (("relu", False), ("silu", True), ("", True)):
            how: dict[str, Any] = {"activation": activation, "residual": True}
            got = self.written(
                data.dy if itself else nothing,
                y_layout,
                lambda y: self.run(
                    prepared(**how),  # noqa: B023
                    x=x, w=w, y=y, bias=bias, residual=y if itself else residual,  # noqa: B023
                ),
            )  # fmt: skip
            total = y.astype(np.float64) + data.dy
            wanted = ACTIVATIONS[activation](total) if activation else total
            allowed = BOUND[case.dtype] * float(np.linalg.norm(abs(y.astype(np.float64)) + abs(data.dy)))
            assert float(np.linalg.norm(got - wanted)) <= allowed, f"{activation!r} and a residual"

    def input_gradient(self, row: Algorithm) -> None:
        case, data, spec = self.case, self.data, self.case.spec
        x_layout, w_layout, y_layout = case.layouts
        dy, w = self.read(data.dy, y_layout), self.read(data.w, w_layout)
        nothing = np.full(data.x.shape, np.nan, case.dtype)
        problem = engine._problem(fenced_view(nothing, x_layout, SENTINEL, True)[1], w, dy, spec)

        def prepared(kept: bool) -> Prepared:
            return passes.prepare(problem, Pass.INPUT_GRADIENT, case.threads, row.exact, row.name, kept)

        dx = self.written(nothing, x_layout, lambda dx: self.run(prepared(False), x=dx, w=w, y=dy))
        agree(case, data, "dx", dx)
        if prepared(True).packed_bytes:
            dx = self.written(nothing, x_layout, lambda dx: self.run_packed(prepared(True), w, x=dx, y=dy))
            agree(case, data, "dx", dx)

    def weight_gradient(self, row: Algorithm) -> None:
        case, data, spec = self.case, self.data, self.case.spec
        x_layout, w_layout, y_layout = case.layouts
        x, dy = self.read(data.x, x_layout), self.read(data.dy, y_layout)
        nothing = np.full(data.w.shape, np.nan, case.dtype)
        problem = engine._problem(x, fenced_view(nothing, w_layout, SENTINEL, True)[1], dy, spec)
        prepared = passes.prepare(problem, Pass.WEIGHT_GRADIENT, case.threads, row.exact, row.name)
        dw = self.written(nothing, w_layout, lambda dw: self.run(prepared, x=x, w=dw, y=dy))
        agree(case, data, "dw", dw)

    def bias_gradient(self) -> None:
        """As `engine.bias_gradient` does it: x is a single 1, which lies under every pixel."""
        case, data = self.case, self.data
        dy = self.read(data.dy, case.layouts[2])
        one = self.read(np.ones((1, 1, 1, 1), case.dtype), "NCHW").reshape(())
        ones = np.broadcast_to(one, (dy.shape[0], 1, *dy.shape[2:]))
        nothing = np.full((dy.shape[1], 1, 1, 1), np.nan, case.dtype)
        spec = Conv2dSpec(1, dy.shape[1], 1)
        problem = engine._problem(ones, fenced_view(nothing, "NCHW", SENTINEL, True)[1], dy, spec)
        prepared = passes.prepare(problem, Pass.WEIGHT_GRADIENT, case.threads)
        db = self.written(nothing, "NCHW", lambda db: self.run(prepared, x=ones, w=db, y=dy))
        agree(case, data, "db", db.reshape(-1))


def fingerprints(choose: random.Random, at_end: bool) -> None:
    """What looks whether weights have changed reads the weights, and nothing else."""
    for words in (choose.randrange(1, 6000), choose.randrange(1 << 16, 1 << 17)):  # at once, and in pieces
        memory = Fenced(4 * words, at_end)
        memory.seal()
        for threads in (1, 3):
            fingerprint(memory.address, memory.size, threads)


def main(count: int, seed: int, first: int) -> None:
    number, reached = 0, set()

    def attempt(name: str, run: Callable[[], None]) -> None:
        nonlocal number
        if number >= first:
            with announced(name):
                run()
        number += 1

    for n, case in enumerate(cases(count, seed)):
        choose = random.Random(n)
        data = Data.of(case)
        for at_end in (True, False):
            where = f"seed {seed}, case {n}, {'ends' if at_end else 'begins'} at a guard page"
            for which, row in applying(case):
                reached.add(f"{row.name}, {which}")
                fences = Fences(replace(case, exact=row.exact, algorithm=row.name), data, at_end)
                run = getattr(fences, which.name.lower())
                attempt(f"{where}: {which} by {row.name} of {case}", lambda: run(row))  # noqa: B023
            attempt(f"{where}: bias gradient of {case}", Fences(case, data, at_end).bias_gradient)
            attempt(f"{where}: fingerprints", lambda: fingerprints(choose, at_end))  # noqa: B023
    say(sorted(reached))
    whole()


if __name__ == "__main__":
    if sys.argv[3] == "torch":
        import torch  # whose OpenMP then runs the threads

        assert torch.get_num_threads() > 0
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[-1]))
