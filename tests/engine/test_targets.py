"""Each instruction set that this CPU has makes code that is right; others are refused in a sentence."""

from __future__ import annotations

import pytest
from processes import python, sweep

from convforge import UserError
from convforge.native import target

SPECS = 250


@pytest.mark.parametrize("name", target.available())
def test_a_forced_target_runs_and_is_right(name: str) -> None:
    done = sweep(SPECS, 11, CONVFORGE_TARGET=name)
    assert done == {"right": SPECS, "target": name, "torch": False}


def test_the_best_target_is_taken_where_none_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVFORGE_TARGET", raising=False)
    assert target.current().name == target.available()[0]
    assert "baseline" in target.available()


@pytest.mark.parametrize("name", ["sse9", "AVX2 ", "avx-512"])
def test_an_unknown_target_is_named_with_those_that_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_TARGET", name)
    with pytest.raises(UserError) as raised:
        target.current()
    message = str(raised.value)
    assert repr(name) in message
    assert all(known in message for known in target.available())
    assert "\n" not in message


def test_a_target_that_this_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "host_features", lambda: frozenset({"sse2", "avx2", "fma"}))
    target.named.cache_clear()
    monkeypatch.setenv("CONVFORGE_TARGET", "avx512")
    try:
        if "avx2" in target.available():  # on arm64 there is but one
            assert target.available() == ("avx2", "baseline")
            with pytest.raises(UserError, match="avx512"):
                target.current()
    finally:
        target.named.cache_clear()


def test_an_unknown_target_ends_a_program_with_that_sentence() -> None:
    program = (
        "import numpy as np; from convforge import Conv2dSpec, engine;"
        "engine.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), None, Conv2dSpec(1, 1, 3))"
    )
    done = python("-c", program, CONVFORGE_TARGET="sse9")
    assert done.returncode == 1
    assert "CONVFORGE_TARGET='sse9' is not one of this CPU's targets" in done.stderr


def test_tiles_fit_the_registers() -> None:
    for name in target.available():
        (_, vector_bytes, registers, rows, vectors) = target._table()[name]
        assert rows * vectors + vectors + 1 <= registers
        assert vector_bytes in (16, 32, 64)
