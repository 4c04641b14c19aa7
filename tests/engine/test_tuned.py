"""Measured choices: they are taken before the model's, and whatever is wrong with the file is left aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from oracle import choices

from convforge import Conv2dSpec
from convforge.bench.tune import quickest
from convforge.engine import passes, tuned
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass
from convforge.engine.select import choose

PROBLEM = Problem.of(Conv2dSpec(64, 64, 3, padding=1), 1, (56, 56))
FORWARD = Pass.FORWARD


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tuned._table.cache_clear()
    yield
    tuned._table.cache_clear()


def _taken(**how: bool) -> str:
    kept = how.pop("kept", False)
    return choose(Job.of(PROBLEM, FORWARD, 2, kept), **how).algorithm.name


def test_a_measured_choice_is_taken_for_its_problem_alone_and_read_again_from_disk() -> None:
    assert _taken() == "winograd 4×4"
    path = tuned.keep([(Job.of(PROBLEM, FORWARD, 2), "direct")])
    assert path is not None
    assert path.is_file()
    tuned._table.cache_clear()
    assert _taken() == "direct"
    assert _taken(kept=True) == "winograd 4×4"
    assert choose(Job.of(PROBLEM, FORWARD, 1)).algorithm.name == "winograd 4×4"
    assert choose(Job.of(PROBLEM, Pass.INPUT_GRADIENT, 2)).algorithm.name == "winograd 4×4"
    other = Problem.of(Conv2dSpec(64, 64, 3, padding=1), 1, (55, 56))
    tuned.keep([(Job.of(other, FORWARD, 2), "winograd 2×2")])
    tuned._table.cache_clear()
    assert _taken() == "direct"
    assert choose(Job.of(other, FORWARD, 2)).algorithm.name == "winograd 2×2"


def test_what_another_process_has_measured_meanwhile_stays() -> None:
    _taken()  # the file has been read, and there was nothing in it
    other = Job.of(Problem.of(Conv2dSpec(64, 64, 3, padding=1), 1, (55, 56)), FORWARD, 2)
    path = tuned.where()
    assert path is not None
    path.write_text(json.dumps({tuned._key(other): "direct"}))
    path.chmod(0o600)
    tuned.keep([(Job.of(PROBLEM, FORWARD, 2), "winograd 2×2")])
    tuned._table.cache_clear()
    assert choose(other).algorithm.name == "direct"
    assert _taken() == "winograd 2×2"


def test_exact_gradients_follow_measurements_and_exact_results_those_of_the_same_bits() -> None:
    gradient = Job.of(PROBLEM, Pass.INPUT_GRADIENT, 2)
    assert choose(gradient, exact=True).algorithm.name == "direct"
    tuned.keep([(gradient, "planar"), (Job.of(PROBLEM, FORWARD, 2), "planar")])
    assert choose(gradient, exact=True).algorithm.name == "planar"
    assert _taken(exact=True) == "direct"


def test_exactness_is_not_given_up_for_a_measurement() -> None:
    tuned.keep([(Job.of(PROBLEM, FORWARD, 2), "winograd 2×2")])
    assert _taken() == "winograd 2×2"
    assert _taken(exact=True) == "direct"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_file_is_left_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "choices.json").write_bytes(content)
    assert _taken() == "winograd 4×4"


def test_a_name_that_does_not_apply_is_left_aside() -> None:
    tuned.keep([(Job.of(PROBLEM, FORWARD, 2), "depthwise")])
    assert _taken() == "winograd 4×4"


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_algorithm_that_applies_is_timed(channels_last: bool) -> None:
    problem = Problem.of(Conv2dSpec(20, 24, 3, padding=1), 2, (9, 10), channels_last=channels_last)
    for kept in (True, False):
        names = [choice.algorithm.name for choice in choices(problem, FORWARD)]
        prepared = {name: passes.prepare(problem, FORWARD, 2, algorithm=name) for name in names}
        times = quickest(prepared, problem, kept, seconds=0)
        assert list(times) == names
        assert all(seconds > 0 for seconds in times.values())


def test_strides_of_axes_of_size_one_make_no_difference() -> None:
    pointwise = Problem.of(Conv2dSpec(20, 3, 1), 1, (9, 10))
    tuned.keep([(Job.of(pointwise, FORWARD, 2), "direct")])
    assert pointwise.w_strides == (20, 1, 20, 20)
    assert tuned.chosen(Job.of(replace(pointwise, w_strides=(20, 1, 1, 1)), FORWARD, 2)) == "direct"
    assert tuned.chosen(Job.of(replace(pointwise, x_strides=(1800, 90, 10, 1)), FORWARD, 2)) is None


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    assert not tuned.forget()
    tuned.keep([(Job.of(PROBLEM, FORWARD, 2), "direct")])
    assert tuned.where() == tmp_path / "choices.json"
    assert tuned.forget()
    assert _taken() == "winograd 4×4"
