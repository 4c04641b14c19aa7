"""`convforge tune`: what is measured, what is kept of it, and what is said. The times themselves are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from convforge import Conv2dSpec, UserError, disk
from convforge.bench import machine
from convforge.bench import tune as tuning
from convforge.cli import tune as verb
from convforge.engine import tuned
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass
from convforge.engine.prepared import Prepared
from convforge.engine.select import choose
from convforge.native import target as targets

LAYER = "8,9x9,12,3x3,padding=1"
PROBLEM = Problem.of(Conv2dSpec(8, 12, 3, padding=1), 1, (9, 9))
ALONE = "64,9x9,64,3,stride=2,dilation=2"  # nothing but direct convolution applies
QUICK = ("--seconds", "0", "--threads", "2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is measured goes there, and is not what tests after these know of the machine."""
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tuned._table.cache_clear()
    targets.named.cache_clear()
    yield tmp_path
    tuned._table.cache_clear()
    targets.named.cache_clear()


def run(*arguments: str) -> str:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["tune", *arguments], catch_exceptions=False).stdout


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`times({name: seconds}, …)`: what the next measurements say, the last of them also later; other algorithms take
    1 s. Nothing is compiled."""

    def set_them(*rounds: dict[str, float]) -> None:
        queue = list(rounds)

        def quickest(prepared: dict[str, Prepared], problem: Problem, kept: bool, seconds: float) -> dict[str, float]:
            now = queue.pop(0) if len(queue) > 1 else queue[0]
            return {name: now.get(name, 1.0) for name in prepared}

        monkeypatch.setattr(tuning, "quickest", quickest)
        monkeypatch.setattr(tuning, "prepare", lambda *_: None)
        monkeypatch.setattr(machine, "fma_peak", lambda threads: 100e9)

    return set_them


def chosen(which: Pass = Pass.FORWARD, threads: int = 2, kept: bool = True, problem: Problem = PROBLEM) -> str:
    """What a program that starts now takes."""
    tuned._table.cache_clear()
    return choose(Job.of(problem, which, threads, kept)).algorithm.name


def other() -> str:
    """An algorithm that the model does not choose, and that applies to all passes."""
    return "winograd 2×2" if chosen() != "winograd 2×2" else "direct"


def test_every_use_of_a_layer_is_a_case(times: Callable[..., None], folder: Path) -> None:
    times({})
    data = json.loads(run(LAYER, LAYER, ALONE, "--json", *QUICK))
    assert data["file"] == str(folder / "choices.json")
    assert data["threads"] == 2
    uses = [(case["pass"], case["channels_last"], case["weights_kept"]) for case in data["cases"]]
    expected = [(name, last, kept) for name in ("forward", "input gradient") for last in (1, 0) for kept in (1, 0)]
    assert uses == [*expected, ("weight gradient", True, False), ("weight gradient", False, False)]
    assert {case["layer"] for case in data["cases"]} == {LAYER}


def test_all_algorithms_that_apply_are_timed() -> None:
    cases = json.loads(run(LAYER, "--passes", "forward", "--json", *QUICK))["cases"]
    assert len(cases) == 4
    for case in cases:
        assert {"direct", "winograd 4×4", "winograd 2×2"} <= set(case["seconds"])
        assert min(case["seconds"].values()) > 0
        slack = case["seconds"][case["model"]] / case["seconds"][case["chosen"]]
        assert case["chosen"] == case["model"] or slack > 1.03


def test_what_is_quicker_is_taken_from_then_on(times: Callable[..., None], folder: Path) -> None:
    model, quicker = chosen(), other()
    times({quicker: 0.8})
    shown = run(LAYER, "--passes", "forward", *QUICK)
    for words in ("1×8×9×9 → 12, 3×3", "channels_last", "plain", "stay", "change", model, quicker, "25%"):
        assert words in shown
    assert str(folder / "choices.json") in shown
    plain = Problem.of(Conv2dSpec(8, 12, 3, padding=1), 1, (9, 9), channels_last=False)
    assert {chosen(kept=kept, problem=p) for kept in (True, False) for p in (PROBLEM, plain)} == {quicker}
    assert chosen(threads=1) == model
    assert chosen(Pass.INPUT_GRADIENT) != quicker


@pytest.mark.parametrize("rounds", [({"": 0.98},), ({"": 0.8}, {"": 0.98})], ids=["a little", "once"])
def test_noise_decides_nothing(times: Callable[..., None], folder: Path, rounds: tuple[dict[str, float], ...]) -> None:
    quicker = other()
    times(*({quicker: one[""]} for one in rounds))
    shown = run(LAYER, "--passes", "forward", *QUICK)
    assert "in 4 of 4 cases" in shown
    assert "nothing to keep" in shown
    assert not (folder / "choices.json").exists()


def test_what_was_measured_on_a_busy_machine_is_left_aside(
    times: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, quicker = chosen(), other()
    times({quicker: 0.8})
    peaks = iter([100e9, 80e9, 95e9, 80e9, 80e9])
    monkeypatch.setattr(machine, "fma_peak", lambda threads: next(peaks))
    shown = run(LAYER, "--passes", "forward", *QUICK)
    assert "in 0 of 1 cases" in shown
    assert "During 3 more" in shown
    assert (chosen(kept=True), chosen(kept=False)) == (model, quicker)


def test_a_later_measurement_puts_the_models_choice_back(times: Callable[..., None]) -> None:
    model, quicker = chosen(), other()
    times({quicker: 0.8})
    run(LAYER, *QUICK)
    assert chosen() == quicker
    times({model: 0.8})
    assert "An earlier measurement had said otherwise in 4 of them" in run(LAYER, "--passes", "forward", *QUICK)
    assert chosen() == model
    assert chosen(Pass.WEIGHT_GRADIENT, kept=False) == quicker


def test_ctrl_c_keeps_what_there_is(times: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    quicker = other()
    times({quicker: 0.8})
    made_up, calls = tuning.quickest, []

    def stopped(prepared: dict[str, Prepared], problem: Problem, kept: bool, seconds: float) -> dict[str, float]:
        calls.append(kept)
        if len(calls) == 3:  # two for the first case, whose quickest has to win twice
            raise KeyboardInterrupt
        return made_up(prepared, problem, kept, seconds)

    monkeypatch.setattr(tuning, "quickest", stopped)
    assert "Stopped after 1 of 10 cases." in run(LAYER, *QUICK)
    assert (chosen(), chosen(kept=False) == quicker) == (quicker, False)


def test_forget_removes_what_was_kept(times: Callable[..., None], folder: Path) -> None:
    model = chosen()
    assert "Nothing was kept" in run("--forget")
    times({other(): 0.8})
    run(LAYER, *QUICK)
    assert chosen() != model
    assert json.loads(run("--forget", "--json")) == {"file": str(folder / "choices.json"), "forgotten": True}
    assert not (folder / "choices.json").exists()
    assert chosen() == model
    with pytest.raises(UserError, match="takes none"):
        run("--forget", LAYER)


def test_without_layers_it_takes_those_of_bench(times: Callable[..., None]) -> None:
    times({})
    layers = {case["layer"] for case in json.loads(run("--passes", "forward", "--json", *QUICK))["cases"]}
    assert "64,56x56,64,3x3,padding=1" in layers
    assert "64,56x56,64,3x3,padding=1,batch=16" in layers


def test_where_there_is_nothing_to_choose_it_says_so(folder: Path) -> None:
    assert "Only one algorithm applies" in run(ALONE, *QUICK)
    assert not (folder / "choices.json").exists()


@pytest.mark.parametrize("arguments", [(LAYER,), ("--forget",)])
def test_without_a_folder_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setattr(disk, "cache_folder", lambda: None)
    with pytest.raises(UserError, match=r"nothing can be kept.*CONVFORGE_CACHE"):
        run(*arguments)


def test_help_teaches() -> None:
    shown = run("--help")
    for words in ("--forget", "torchvision:resnet50", "3 %"):
        assert words in shown
