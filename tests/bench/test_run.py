"""Measuring: what is in the rows, and that the results are right. Times are never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convforge import UserError, get_precision
from convforge.bench import machine, memory, peers, run
from convforge.bench.contenders import CHANNELS_LAST, OURS, PLAIN, Work, relative_error
from convforge.bench.layers import Layer, parse
from convforge.bench.machine import Machine
from convforge.bench.peers import Peer, PeerError, onnx_model
from convforge.bench.run import Settings, measure
from convforge.bench.timing import interleaved
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.plan import Pass
from convforge.native import target

QUICK = Settings(threads=2, seconds=0.0)
LIMITS = Machine("test", 2, 100e9, 10e9, 50e9)
LAYERS = {
    "3×3": parse("8,7x9,12,3,padding=1,batch=2"),
    "uneven padding, stride": parse("3,10,8,3,stride=2,padding=0/1/0/1"),
    "groups, dilation": parse("4,9,6,3,dilation=2,groups=2"),
    "depthwise": parse("5,8,5,3,padding=1,groups=5"),
}


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda threads: replace(LIMITS, threads=threads))
    monkeypatch.setattr(machine, "fma_peak", lambda threads: 120e9)
    monkeypatch.setattr(machine, "memory_bandwidth", lambda threads: 10e9)
    monkeypatch.setattr(memory, "is_kept", lambda: True)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_every_contender_computes_the_layer(layer: Layer) -> None:
    report = measure([layer], QUICK)
    assert [row.which for row in report.rows] == list(Pass)
    for row in report.rows:
        assert row.layer == layer
        assert set(row.others) == {CHANNELS_LAST, PLAIN}
        assert 0 < row.ours.error < 1e-6
        assert all(0 < other.error < 1e-6 for other in row.others.values())
        assert row.ratio * row.ours.seconds == pytest.approx(row.others[row.fastest].seconds)
    assert report.limits.peak == 120e9  # the best moment


@pytest.mark.parametrize("which", Pass)
def test_a_wrong_result_is_seen(which: Pass) -> None:
    work = Work(LAYERS["3×3"])
    truth = work.truth(which)
    wrong = work.ours(which, kept=False)().clone()
    wrong[0, 0, 0, 0] += 1
    assert relative_error(wrong, truth) > 1e-3


def test_every_algorithm_that_applies_is_timed_beside_the_chosen_one() -> None:
    rows = measure([LAYERS["depthwise"]], replace(QUICK, algorithm="all")).rows
    for row in rows:
        assert {"depthwise packed", "direct"} <= set(row.algorithms)
        assert all(timing.error < 1e-6 for timing in row.algorithms.values())
        assert row.ours == row.algorithms[row.algorithm]
        assert row.loss == row.ours.seconds / min(timing.seconds for timing in row.algorithms.values()) - 1
        assert set(row.others) == {CHANNELS_LAST, PLAIN}
    direct = measure([LAYERS["depthwise"]], replace(QUICK, algorithm="direct", passes=(Pass.FORWARD,)))
    assert [row.algorithm for row in direct.rows] == ["direct"]


def test_cold_layers_have_weights_and_input_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough copies for several caches; every contender is timed cold, by its name in the report."""
    made: list[Work] = []

    class Counted(Work):
        def __init__(self, *arguments: Any, **how: Any) -> None:
            super().__init__(*arguments, **how)
            made.append(self)

    monkeypatch.setattr(run, "Work", Counted)
    monkeypatch.setattr(target, "cache_bytes", lambda: (1 << 15, 1 << 15, 1 << 16))
    layer = LAYERS["3×3"]
    report = measure([layer], replace(QUICK, cold=True))
    assert 4 * sum(work.plain.x.numel() + work.plain.w.numel() for work in made) > 4 << 16
    assert len({work.plain.x.data_ptr() for work in made}) == len(made) > 2
    for row in report.rows:
        assert set(row.cold) == {"convforge", *row.others}
        assert row.cold_ratio == min(row.cold[name] for name in row.others) / row.cold["convforge"]
    assert report.to_dict()["cold_geometric_mean"]["all"] == report.cold_mean()
    by_name = measure([layer], replace(QUICK, cold=True, algorithm="direct", passes=(Pass.FORWARD,))).rows[0]
    assert by_name.ours_is == "direct"
    assert not measure([layer], QUICK).rows[0].cold


def test_an_algorithm_is_left_out_where_it_does_not_apply() -> None:
    report = measure([LAYERS["3×3"], LAYERS["depthwise"]], replace(QUICK, algorithm="depthwise packed"))
    assert {row.layer for row in report.rows} == {LAYERS["depthwise"]}
    assert any("does not apply" in note for note in report.notes)
    with pytest.raises(UserError, match=r"no algorithm 'nix'; there are .*direct"):
        measure([LAYERS["3×3"]], replace(QUICK, algorithm="nix"))


def test_exact_leaves_out_what_rearranges_the_products_and_is_only_for_the_run() -> None:
    seen: list[str] = []

    def watch(layers: Iterable[Layer]) -> Iterator[Layer]:
        for layer in layers:
            seen.append(get_precision())
            yield layer

    report = measure([parse("64,16,64,3,padding=1")], replace(QUICK, exact=True), watch)
    exact = {algorithm.name for algorithm in ALGORITHMS if algorithm.exact}
    assert {row.algorithm for row in report.rows} <= exact
    assert (seen, get_precision()) == (["exact"], "fast")


def test_threads_are_set_for_the_run_only() -> None:
    before, seen = torch.get_num_threads(), []

    def watch(layers: Iterable[Layer]) -> Iterator[Layer]:
        for layer in layers:
            seen.append(torch.get_num_threads())
            yield layer

    measure([LAYERS["3×3"]], replace(QUICK, threads=3), watch)
    assert (seen, torch.get_num_threads()) == ([3], before)


def test_ctrl_c_leaves_what_was_measured() -> None:
    def watch(layers: Iterable[Layer]) -> Iterator[Layer]:
        yield next(iter(layers))
        raise KeyboardInterrupt

    report = measure([LAYERS["3×3"], LAYERS["depthwise"]], QUICK, watch)
    assert {row.layer for row in report.rows} == {LAYERS["3×3"]}
    assert report.notes == ("Stopped before the last layer.",)


def test_a_machine_that_does_other_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([120e9, 90e9])
    monkeypatch.setattr(machine, "fma_peak", lambda threads: next(peaks))
    (note,) = measure([LAYERS["3×3"], LAYERS["depthwise"]], QUICK).notes
    assert "after 1 of 2 layers" in note


def test_threads_that_were_moved_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bandwidths = iter([80e9, 50e9])
    monkeypatch.setattr(machine, "memory_bandwidth", lambda threads: next(bandwidths))
    report = measure([LAYERS["3×3"], LAYERS["depthwise"]], QUICK)
    assert [row.memory for row in report.rows] == [80e9] * 3 + [50e9] * 3
    (note,) = report.notes
    assert "between 50 and 80 GB/s" in note


def test_what_does_not_fit_is_refused_before_anything_is_taken() -> None:
    with pytest.raises(UserError, match=r"cannot be measured here: it needs .* GB of memory"):
        measure([parse("1000000,100000,1000000,3,batch=1000")], QUICK)


def test_json_counts_and_ratios() -> None:
    layer = LAYERS["3×3"]
    report = measure([layer], QUICK)
    data = json.loads(json.dumps(report.to_dict()))
    first = data["rows"][0]
    assert first["layer"] == layer.text()
    assert first["flops"] == layer.flops
    assert first["bytes"] == layer.bytes(Pass.FORWARD)
    assert first[OURS]["gflops"] * first[OURS]["seconds"] == pytest.approx(layer.flops / 1e9)
    assert first["roofline_gflops"] == pytest.approx(min(120, layer.intensity(Pass.FORWARD) * 10))
    assert data["machine"]["threads"] == 2
    ratios = [row["ratio"] for row in data["rows"]]
    product = ratios[0] * ratios[1] * ratios[2]
    assert data["geometric_mean"]["all"] == pytest.approx(product ** (1 / 3))
    assert data["memory_kept"] is True


def test_rounds_take_turns_and_the_median_counts() -> None:
    order: list[str] = []

    def contender(name: str, times: list[float]) -> list[float]:
        order.append(name)
        return times

    medians = interleaved([lambda: contender("a", [1.0, 100.0, 2.0]), lambda: contender("b", [5.0])], seconds=0.0)
    assert medians == [2.0, 5.0]
    assert "".join(order) == "ab" * 5  # until every one has run five times


@pytest.mark.parametrize("name", peers.available())
@pytest.mark.parametrize("kind", ["3×3", "groups, dilation", "depthwise"])
def test_peers_compute_the_layer_in_their_own_process(name: str, kind: str) -> None:
    report = measure([LAYERS[kind]], replace(QUICK, peers=(name,)))
    forward, *gradients = report.rows
    (title,) = set(forward.others) - {CHANNELS_LAST, PLAIN}
    assert 0 < forward.others[title].error < 1e-6
    assert all(title not in row.others for row in gradients)
    assert name in report.versions


@pytest.mark.skipif(not peers.available(), reason="no other library is installed")
def test_a_peer_that_fails_says_why_and_goes_on() -> None:
    work = Work(LAYERS["3×3"])
    x, w = work.plain.x.numpy(), work.plain.w.numpy()
    with Peer(peers.available()[0], threads=1) as peer:
        with pytest.raises(PeerError, match=r"\w"):
            peer.load(b"this is no model", x)
        model = onnx_model(w, x.shape, work.layer.y_shape, (1, 1), (1, 1), (1, 1), 1)
        assert peer.load(model, x).shape == work.layer.y_shape
        assert all(seconds > 0 for seconds in peer.burst())
        peer._process.terminate()
        peer._process.join()
        with pytest.raises(PeerError, match="has ended"):
            peer.burst()


@pytest.mark.skipif(not peers.available(), reason="no other library is installed")
def test_a_peer_that_dies_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_: Peer) -> list[float]:
        raise PeerError("it has ended")

    monkeypatch.setattr(Peer, "burst", dies)
    report = measure([LAYERS["3×3"]], replace(QUICK, peers=(peers.available()[0],), passes=(Pass.FORWARD,)))
    assert set(report.rows[0].others) == {CHANNELS_LAST, PLAIN}
    assert report.notes == ("it has ended.",)


# --- memory -----------------------------------------------------------------------------------------------------------

_ASK = "from convforge.bench import memory; print(memory.is_kept())"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the variables are glibc's")
@pytest.mark.parametrize("settings", [{}, memory.KEEPING])
def test_kept_memory_is_told_from_memory_that_goes_back(settings: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in memory.KEEPING}
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env=clean | settings, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(bool(settings))


def test_the_command_starts_itself_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.os, "execve", lambda *what: called.append(what))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "convforge", "bench"])
    for name in memory.KEEPING:
        monkeypatch.delenv(name, raising=False)
    memory.restart_keeping()
    ((program, words, environment),) = called
    assert (program, words) == (sys.executable, [sys.executable, "-m", "convforge", "bench"])
    assert memory.KEEPING.items() <= environment.items()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    memory.restart_keeping()
    assert len(called) == 1


def test_a_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, str]] = []
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.os, "execve", lambda program, words, environment: called.append(environment))
    monkeypatch.delenv("CONVFORGE_BENCH_RESTARTED", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    memory.restart_keeping()
    assert called[0]["MALLOC_TOP_PAD_"] == "4096"
    called.clear()
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    memory.restart_keeping()
    assert called == []


def test_memory_that_the_system_does_not_speak_of_is_not_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", unknown)
    assert memory.check_fits(1 << 60) == ""
    run.check_fits([LAYERS["3×3"]])
