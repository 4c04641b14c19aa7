"""`convforge explain`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from convforge import UserError
from convforge.bench import machine
from convforge.bench.machine import Machine
from convforge.cli import explain as verb
from convforge.cli import main

LAYER = "8,9x9,12,3x3,padding=1"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(machine, "measure", lambda threads: Machine("test", threads, 100e9, 10e9, 50e9))
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)

    def call(*arguments: str) -> str:
        return CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False).stdout

    return call


def test_each_pass_has_its_paragraphs(run: Callable[..., str]) -> None:
    shown = run(LAYER)
    for heading in ("Forward", "Input gradient", "Weight gradient"):
        assert heading in shown
    for words in ("Algorithm", "Considered", "Registers", "Caches", "Loops", "Roofline", "Time"):
        assert shown.count(words) >= 3
    assert "depthwise" in shown
    assert "planar computes images; the gradient of the weights is none" in " ".join(shown.split())


def test_asm_shows_the_loop(run: Callable[..., str]) -> None:
    shown = run(LAYER, "--passes", "forward", "--asm")
    assert re.search(r"innermost loop, of \w+: \d+ multiply-adds", shown)
    assert re.search(r"v?f?m(ul|add|la)", shown)


def test_json(run: Callable[..., str]) -> None:
    data = json.loads(run("mb1ic8ih9oc12oh9kh3ph1", "--batch", "2", "--threads", "1", "--json"))
    assert data["layer"] == LAYER + ",batch=2"
    assert [p["pass"] for p in data["passes"]] == ["forward", "input gradient", "weight gradient"]
    for p in data["passes"]:
        assert p["algorithm"] in {c["name"] for c in p["considered"]}
        assert p["flops_per_second"] * p["measured"] == pytest.approx(data["flops"])


def test_what_rearranges_products_is_refused_where_exactness_is_asked_for(run: Callable[..., str]) -> None:
    data = json.loads(run("16,12,16,3,padding=1", "--exact", "--passes", "forward", "--json"))
    refused = data["passes"][0]["refused"]
    assert refused["winograd 4×4"] == refused["winograd 2×2"]
    assert "exact" in refused["winograd 4×4"]
    assert refused["depthwise"] == "is for several groups of one channel each, in and out"


def test_what_exact_precision_would_not_choose_is_explained_on_request(run: Callable[..., str]) -> None:
    layer = "64,14,64,3,padding=1,groups=16"
    data = json.loads(run(layer, "--exact", "--algorithm", "grouped", "--passes", "forward", "--json"))["passes"][0]
    assert data["algorithm"] == "grouped"
    assert "grouped" in {c["name"] for c in data["considered"]}
    assert "grouped" not in data["refused"]
    unasked = json.loads(run(layer, "--exact", "--passes", "forward", "--json"))["passes"][0]
    assert "memory formats" in unasked["refused"]["grouped"]


def test_another_algorithm_is_explained_on_request(run: Callable[..., str]) -> None:
    shown = run("16,9,16,3,padding=1,groups=16", "--algorithm", "direct", "--passes", "forward")
    assert "direct: it multiplies each input" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("64,56",), "CHANNELS,SIZE,OUTPUTS,KERNEL"),
        ((LAYER, "--algorithm", "nix"), "no algorithm 'nix'"),
        ((LAYER, "--algorithm", "depthwise"), "'depthwise' does not apply"),
        ((LAYER, "--algorithm", "all"), "explain shows one algorithm"),
        ((LAYER, "--passes", ""), "--passes"),
        ((LAYER, "--threads", "0"), "--threads must be 1 or more, not 0"),
        ((LAYER, "--batch", "0"), "--batch must be 1 or more, not 0"),
    ],
)
def test_mistakes_are_said_in_one_sentence(run: Callable[..., str], arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(*arguments)


def test_help_teaches(run: Callable[..., str]) -> None:
    shown = run("--help")
    for words in ("64,56x56,128,3x3", "benchdnn", "--asm"):
        assert words in shown


def test_the_command_says_one_sentence_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["convforge", "explain", "64,2,64,5"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: a 5×5 kernel cannot be applied to a 2×2 input")
    assert printed.err.endswith("; use padding='same' to keep the size.\n")
    assert printed.err.count("\n") == 1
