"""The budget: never more than it has, nobody left out, and what fails gives back what it took."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from convforge.images.memory import Budget


def test_no_more_is_in_use_than_there_is_except_by_one_that_is_alone() -> None:
    budget, seen = Budget(100), []

    def use(size: int) -> None:
        with budget.take(size):
            seen.append((size, budget.used))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [30, 60, 100, 250, 10, 70] * 50))
    assert len(seen) == 300
    assert all(used <= 100 or used == size for size, used in seen)
    assert budget.used == 0


def test_a_large_one_is_not_kept_waiting_by_small_ones_that_come_later() -> None:
    budget, order = Budget(100), []
    held = threading.Event()

    def use(name: str, size: int) -> None:
        with budget.take(size):
            order.append(name)

    with budget.take(60):
        threads = []
        for name, size in (("large", 90), ("small", 10)):
            threads.append(threading.Thread(target=use, args=(name, size)))
            threads[-1].start()
            while len(budget._waiting) < len(threads):
                held.wait(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["large", "small"]


def test_what_fails_gives_back_what_it_took() -> None:
    budget = Budget(100)
    with pytest.raises(ZeroDivisionError), budget.take(80):
        raise ZeroDivisionError
    assert budget.used == 0
