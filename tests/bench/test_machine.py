"""The limits: each is measured, and none can be what it could not be."""

from __future__ import annotations

import pytest

from convforge.bench import machine
from convforge.bench.machine import Machine
from convforge.native import target


@pytest.mark.parametrize("name", target.available())
def test_all_limits_are_measured_on_every_target(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_TARGET", name)
    monkeypatch.setattr(machine, "_MEMORY_BYTES", 1 << 20)
    limits = machine.measure(threads=1)
    assert (limits.target, limits.threads) == (name, 1)
    assert min(limits.peak, limits.memory, limits.cache) > 1e8


def test_cycles_become_seconds_by_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two threads, each with two multiply-adds of so many lanes a cycle, at 2 GHz.
    lanes = target.current().lanes("float32")
    limits = Machine("any", 2, peak=2 * 2 * 2 * lanes * 2e9, memory=1e9, cache=1e9)
    assert limits.seconds(2e9) == pytest.approx(1.0)


def test_the_best_moment_counts() -> None:
    limits = Machine("any", 1, 100.0, 10.0, 50.0)
    assert limits.at_its_best(90.0) == limits
    assert limits.at_its_best(110.0, 9.0, 60.0) == Machine("any", 1, 110.0, 10.0, 60.0)
