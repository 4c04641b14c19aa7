"""Soak tests: one test, two lengths. `make test` runs the short one, `make soak` the long one with a table at its end.

A test takes the fixture `soak`, asks it how many cases to try, and tries each in `with soak.case(…)`: a case that fails
is noted and the next one is tried, so that one run shows all that is wrong. The table adds up the parameters of a test.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

import pytest
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

_SHOWN = 5
"""Failed cases that a test's message quotes."""


class Soak:
    """What one test has tried so far."""

    def __init__(self, long: bool) -> None:
        self.long = long
        self.tried = 0
        self.failures: list[str] = []
        self.figures: dict[str, str] = {}

    def length(self, short: T, long: T) -> T:
        """`short` in `make test`, `long` in `make soak`."""
        return long if self.long else short

    @contextlib.contextmanager
    def case(self, what: object) -> Iterator[None]:
        """One case; `what` says which, for those who must repeat it."""
        self.tried += 1
        try:
            yield
        except Exception as problem:
            self.failures.append(f"{what}: {type(problem).__name__}: {problem}")

    def figure(self, name: str, value: object) -> None:
        """A number for the last column of the table: the most memory, say."""
        self.figures[name] = str(value)


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Iterator[Soak]:
    """Counts cases; at the end of the test the failed ones make it fail."""
    counted, begin = Soak(request.config.getoption("--soak")), time.perf_counter()
    yield counted
    row = (counted.tried, len(counted.failures), time.perf_counter() - begin, counted.figures)
    request.node.user_properties.append(("soak", row))
    assert counted.tried, "a soak test that tried nothing"
    if counted.failures:
        shown = "\n".join(counted.failures[:_SHOWN])
        pytest.fail(f"{len(counted.failures)} of {counted.tried} cases failed, among them:\n{shown}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The closing table of `make soak`."""
    if not config.getoption("--soak"):
        return
    rows: dict[str, list[tuple[int, int, float, dict[str, str]]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, row in report.user_properties:
                    if name == "soak":
                        test = report.nodeid.rpartition("::")[2].partition("[")[0]
                        rows.setdefault(test.removeprefix("test_").replace("_", " "), []).append(row)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "cases", "failed", "seconds", ""):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right", overflow="fold")
    for name, parts in rows.items():
        figures = {key: value for part in parts for key, value in part[3].items()}
        tried, failed, seconds = (sum(part[n] for part in parts) for n in range(3))
        said = " · ".join(f"{key} {value}" for key, value in figures.items())
        table.add_row(name, f"{tried:,}", f"{failed:,}", f"{seconds:,.0f}", said)
    every = [part for parts in rows.values() for part in parts]
    table.add_row("together", f"{sum(p[0] for p in every):,}", f"{sum(p[1] for p in every):,}", "", "", style="bold")
    terminalreporter.ensure_newline()
    Console(width=120, file=None, color_system=None).print(table)
