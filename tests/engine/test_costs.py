"""What the models of cycles must hold whatever their constants are, and the constants that a machine has measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from oracle import applies, choices

from convforge.bench import costs
from convforge.bench.layers import parse
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.algorithms.winograd import Winograd
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass, Plan
from convforge.engine.select import Choice, choose, considered
from convforge.native import target as targets
from convforge.native.target import USUAL, Costs

LAYERS = (
    "64,28,64,3,padding=1,groups=64", "32,30,32,3,stride=2,padding=1,groups=32", "40,20,40,5,padding=2,groups=40",
    "128,28,128,3,padding=1,groups=32", "64,28,128,3,padding=1,groups=64", "96,14,96,1,groups=24",
    "64,28,3,3,padding=1", "64,28,64,3,padding=1", "3,64,64,7,stride=2,padding=3", "32,14,32,5,padding=2",
)  # fmt: skip


def problem_of(text: str, batch: int, channels_last: bool) -> Problem:
    layer = parse(text, batch)
    return Problem.of(layer.spec, layer.batch, layer.size, channels_last=channels_last)


@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("which", Pass)
@pytest.mark.parametrize("text", LAYERS)
def test_every_algorithm_says_what_it_takes(text: str, which: Pass, name: str) -> None:
    """More than nothing, more for more images, no more where packed weights are kept, and no more on two threads."""
    target = targets.named(name)
    for channels_last in (True, False):
        one, many = problem_of(text, 1, channels_last), problem_of(text, 16, channels_last)
        for algorithm in ALGORITHMS:

            def cycles(problem: Problem, threads: int, kept: bool) -> float:
                plan = algorithm.plan(Job(problem, which, target, threads, kept))  # noqa: B023
                assert isinstance(plan, Plan)
                return plan.cycles

            if applies(algorithm, one, which):
                alone = cycles(one, 1, False)
                assert 0 < alone < cycles(many, 1, False)
                assert cycles(one, 1, True) <= alone
                assert cycles(many, 2, False) < cycles(many, 1, False)


@pytest.mark.parametrize("which", Pass)
def test_algorithms_of_small_groups_are_taken_where_they_were_measured_to_be_faster(which: Pass) -> None:
    """By half and more each, at 16 images."""
    large = choices(problem_of("128,56,128,3,stride=2,padding=1,groups=128", 16, True), which)
    assert large[0].algorithm.name == "depthwise"
    turned = choices(problem_of("128,56,128,3,padding=1,groups=128", 16, False), which)
    assert turned[0].algorithm.name == "depthwise packed"
    fours = choices(problem_of("128,56,128,3,padding=1,groups=32", 16, True), which)
    assert fours[0].algorithm.name == "grouped"


SLOW_MEMORY = replace(USUAL, memory=0.5, l3=2.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a machine's costs are kept; nothing is there yet."""
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    targets.named.cache_clear()
    yield tmp_path
    targets.named.cache_clear()


def test_what_was_measured_is_taken_by_this_process_and_the_next(folder: Path) -> None:
    assert targets.current().costs == USUAL
    found = costs.keep()
    assert all(value > 0 for value in asdict(found).values())
    assert found.l2 > found.memory, "a cache is faster than the memory"
    for _ in range(2):
        assert targets.current().costs == found
        targets.named.cache_clear()


def test_costs_of_other_machines_stay_in_the_file(folder: Path) -> None:
    others = {"avx9 z99": asdict(SLOW_MEMORY)}
    (folder / "costs.json").write_text(json.dumps(others))
    assert targets.current().costs == USUAL
    costs.keep()
    assert json.loads((folder / "costs.json").read_text())["avx9 z99"] == others["avx9 z99"]


@pytest.mark.parametrize(
    "kept",
    ["", "{", "[]", "7", '{"l2": 1.0}', "NaN", "-1.0", "0.0", '"fast"', "true", "1e300", "null"],
)
def test_costs_that_cannot_be_are_left_aside(kept: str, folder: Path) -> None:
    """Whole files, and single numbers in the place of one."""
    try:
        table = {targets.current().machine: asdict(USUAL) | {"memory": json.loads(kept)}}
        content = kept if kept in ("[]", "7") else json.dumps(table)
    except ValueError:
        content = kept
    (folder / "costs.json").write_text(content)
    targets.named.cache_clear()
    assert targets.current().costs == USUAL


def test_where_memory_is_slow_smaller_forms_of_the_weights_are_dearer_to_leave() -> None:
    """Winograd's transformed weights are 1.8 to 4 times as large: from slow memory, they are made again of taps, and
    where the weights come from there in each call, not even that is worth it."""
    here = replace(targets.named("baseline"), l1_bytes=32 << 10, l2_bytes=512 << 10, l3_bytes=32 << 20)
    problem = problem_of("512,7,512,3,padding=1", 1, True)

    def first(costs: Costs, cold: bool) -> Choice:
        job = Job.of(problem, Pass.FORWARD, 2, True, target=replace(here, costs=costs), cold=cold)
        return considered(job).choices[0]

    usual, slow = first(USUAL, cold=True).plan, first(SLOW_MEMORY, cold=False).plan
    assert isinstance(usual, Winograd)
    assert not usual.taps
    assert isinstance(slow, Winograd)
    assert slow.taps
    assert first(SLOW_MEMORY, cold=True).algorithm.name == "direct"


def test_code_does_not_depend_on_costs() -> None:
    problem = problem_of("16,9,16,3,padding=1", 1, True)
    here = targets.current()
    kernels = {
        choose(Job.of(problem, Pass.FORWARD, 2, True, target=replace(here, costs=each)), algorithm="direct")
        .plan.prepared("direct")
        .compute.steps[0]
        .kernel
        for each in (USUAL, Costs(l2=1.0), SLOW_MEMORY)
    }
    assert len(kernels) == 1


@pytest.mark.parametrize("text", ["512,7,512,3,padding=1", *LAYERS])
def test_exact_results_do_not_depend_on_what_was_measured(text: str) -> None:
    """The choice with the same bits for all is made without it. For the first layer it would be another one."""
    problem = problem_of(text, 1, True)
    bits = {
        choose(
            Job.of(problem, Pass.FORWARD, 2, True, target=replace(targets.current(), costs=each)), exact=True
        ).algorithm.bits
        for each in (USUAL, SLOW_MEMORY, Costs(l2=1000.0, l3=1000.0, memory=1000.0, fork=1.0))
    }
    assert len(bits) == 1
