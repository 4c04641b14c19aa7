"""Batch norm with what follows it: the kernels against float64, on sizes with tails, and the same bits on any number of
threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from convforge.graph.kernels import batch_norm
from convforge.graph.kernels.batch_norm import Normalisation, bits
from convforge.native import target as targets

SIZES = [(2, 1), (5, 3), (37, 16), (257, 33), (1031, 64), (70, 600)]
"""Rows and channels: less than a vector, not a multiple of one, several blocks and a rest."""

ACTIVATIONS = {
    "": lambda y: y,
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "silu": torch.nn.functional.silu,
    "hardswish": torch.nn.functional.hardswish,
}


def cases() -> Iterator[tuple[str, bool, bool, bool, bool]]:
    """Activation, residual, affine, running, fixed."""
    for activation in batch_norm.ACTIVATIONS:
        yield activation, False, True, True, False
    yield from [("relu", True, True, True, False), ("", True, True, False, False), ("relu", False, False, False, False)]
    yield from [("relu", True, True, True, True), ("silu", False, True, True, True), ("", False, False, True, True)]


class Problem:
    """Numbers whose channels are far apart, and memory that is poisoned where results go."""

    def __init__(self, of: Normalisation) -> None:
        self.of = of
        random = np.random.default_rng(of.rows)
        table, row = (of.rows, of.channels), (of.channels,)
        self.x = (random.normal(size=table) * 2 + random.normal(size=row) * 9).astype(of.dtype)
        self.residual, self.g = (random.normal(size=table).astype(of.dtype) for _ in range(2))
        self.weight, self.bias, self.mean = (random.normal(size=row).astype(of.dtype) for _ in range(3))
        self.var = random.uniform(0.5, 2, row).astype(of.dtype)
        self.old = self.mean.copy(), self.var.copy()
        self.y, self.dx, self.dh = (np.full(table, np.nan, of.dtype) for _ in range(3))
        self.saved = np.full((4, of.channels), np.nan, of.dtype)
        self.dweight, self.dbias = (np.full(row, np.nan, of.dtype) for _ in range(2))

    def run(self, threads: int = 2) -> None:
        of, here = self.of, targets.current()
        given = (self.x, self.residual, self.y, self.weight, self.bias, self.saved, self.mean, self.var)
        batch_norm.forward(of, here, threads).run(*(a.ctypes.data for a in given), 0, bits(0.25))
        given = (self.g, self.x, self.y, self.dx, self.dh, self.saved, self.dweight, self.dbias)
        batch_norm.backward(of, here, threads).run(*(a.ctypes.data for a in given), 0)

    def results(self) -> dict[str, np.ndarray]:
        found = {"y": self.y, "dx": self.dx}
        if self.of.affine:
            found |= {"dweight": self.dweight, "dbias": self.dbias}
        if self.of.residual and self.of.activation:
            found["dh"] = self.dh
        if self.of.running:
            found |= {"mean": self.mean, "var": self.var}
        return found

    def truth(self) -> dict[str, np.ndarray]:
        def wide(a: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(a.astype(np.float64)).requires_grad_()

        of, (x, residual, weight, bias) = self.of, map(wide, (self.x, self.residual, self.weight, self.bias))
        mean, var = (torch.from_numpy(a.astype(np.float64)) for a in self.old)
        y = torch.nn.functional.batch_norm(
            x, mean if of.running else None, var if of.running else None, weight if of.affine else None,
            bias if of.affine else None, not of.fixed, 0.25, of.eps,
        )  # fmt: skip
        y = ACTIVATIONS[of.activation](y + residual if of.residual else y)
        y.backward(torch.from_numpy(self.g.astype(np.float64)))
        found = {"y": y.detach(), "dx": x.grad, "dweight": weight.grad, "dbias": bias.grad, "dh": residual.grad}
        return {name: t.numpy() for name, t in (found | {"mean": mean, "var": var}).items() if t is not None}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", list(cases()), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_as_in_float64(size: tuple[int, int], case: tuple[str, bool, bool, bool, bool], dtype: str) -> None:
    problem = Problem(Normalisation(*size, dtype, 1e-3, *case))
    problem.run()
    truth = problem.truth()
    for name, found in problem.results().items():
        scale = 1 + np.abs(truth[name]).max()
        assert np.abs(found - truth[name]).max() <= scale * (3e-5 if dtype == "float32" else 1e-12), name


@pytest.mark.parametrize("size", [(1031, 64), (4000, 5)], ids=str)
def test_the_same_bits_on_any_number_of_threads(size: tuple[int, int]) -> None:
    problems = [Problem(Normalisation(*size, "float32", 1e-5, "relu", True)) for _ in range(3)]
    for problem, threads in zip(problems, (1, 2, 5), strict=True):
        problem.run(threads)
    one, *others = ({name: a.tobytes() for name, a in problem.results().items()} for problem in problems)
    assert all(other == one for other in others)


def test_statistics_of_numbers_far_from_zero() -> None:
    """Σ x² − (Σ x)²/N of these has no correct digit in float32."""
    problem = Problem(Normalisation(3001, 8, "float32", 1e-5))
    problem.x = (problem.x * 1e-2 + 1000).astype(np.float32)
    problem.run()
    wide = problem.x.astype(np.float64)
    assert np.allclose(problem.saved[0], wide.mean(0), rtol=1e-7, atol=0)
    assert np.allclose(problem.saved[1], 1 / np.sqrt(wide.var(0) + 1e-5), rtol=1e-4, atol=0)


def test_what_is_not_a_number_is_passed_on() -> None:
    problem = Problem(Normalisation(40, 8, "float32", 1e-5, "relu"))
    problem.x[3, 2] = np.nan
    problem.run()
    others = [n for n in range(8) if n != 2]
    assert np.isnan(problem.y[:, 2]).all()
    assert np.isnan(problem.dx[:, 2]).all()
    assert np.isfinite(problem.y[:, others]).all()
    assert np.isfinite(problem.dx[:, others]).all()


def test_programs_run_by_a_team_where_there_is_no_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    from convforge.native import team

    with_openmp = Problem(Normalisation(1031, 64, "float32", 1e-5, "relu"))
    with_openmp.run()
    monkeypatch.setattr(team, "_openmp", lambda: (0, 0))
    without = Problem(with_openmp.of)
    without.run()
    assert without.y.tobytes() == with_openmp.y.tobytes()
    assert without.dx.tobytes() == with_openmp.dx.tobytes()
