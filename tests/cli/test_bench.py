"""`convforge bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from convforge import UserError
from convforge.bench import machine, memory
from convforge.bench.machine import Machine
from convforge.cli import bench as verb
from convforge.spec import SpecError

LAYER = "8,9x9,12,3x3,padding=1"
QUICK = ("--seconds", "0", "--plain-malloc")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(machine, "measure", lambda threads: Machine("test", threads, 100e9, 10e9, 50e9))
    monkeypatch.setattr(machine, "memory_bandwidth", lambda threads: 10e9)
    monkeypatch.setattr(memory, "is_kept", lambda: False)
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)

    def call(*arguments: str) -> str:
        return CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False).stdout

    return call


def test_the_table_names_layer_passes_and_limits(run: Callable[..., str]) -> None:
    shown = run(LAYER, "--torch-only", *QUICK)
    for words in ("1×8×9×9 → 12, 3×3", "input gradient", "weight gradient", "memory 10 GB/s", "page faults"):
        assert words in shown
    assert "Geometric mean of the ratios" in shown


def test_layers_lists_and_models_together_as_json(run: Callable[..., str], tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text('ic3ih8oc4oh8kh1n"first"\n')
    model = "conv 4 3x3 same, relu, conv 4 3x3 same"
    arguments = (LAYER, model, "--input", "4x8x8", "--list", str(listed), "--passes", "forward", "--batch", "3")
    data = json.loads(run(*arguments, "--torch-only", "--threads", "1", "--json", *QUICK))
    assert [(row["layer"], row["name"], row["count"]) for row in data["rows"]] == [
        ("8,9x9,12,3x3,padding=1,batch=3", "", 1),
        ("4,8x8,4,3x3,padding=1,batch=3", "conv1", 2),
        ("3,8x8,4,1x1,batch=3", "first", 1),
    ]
    assert {row["pass"] for row in data["rows"]} == {"forward"}
    assert data["machine"]["threads"] == 1
    assert data["memory_kept"] is False


def test_a_plot_is_written(run: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.svg"
    run(LAYER, "--passes", "forward", "--torch-only", "--plot", str(path), *QUICK)
    assert path.read_text().startswith("<?xml")


def test_the_process_starts_anew_unless_asked_not_to(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Restarted(Exception):
        pass

    def restart() -> None:
        raise Restarted

    monkeypatch.setattr(memory, "restart_keeping", restart)
    with pytest.raises(Restarted):
        run(LAYER)
    with pytest.raises(UserError, match="--passes"):
        run(LAYER, "--plain-malloc", "--passes", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("64,56,64",), "CHANNELS,SIZE,OUTPUTS,KERNEL"),
        (("64,2,64,5",), "cannot be applied"),
        ((LAYER, "--passes", "forward,back"), "forward, input, weight, not 'forward,back'"),
        ((LAYER, "--algorithm", "nix"), "no algorithm 'nix'"),
        ((LAYER, "--plot", "roofline.gif"), "'roofline.gif'"),
        (("--list", "none.txt"), "'none.txt' cannot be read"),
        (("nothing",), "'nothing' is not a model"),
        ((LAYER, "--threads", "0"), "--threads must be 1 or more, not 0"),
    ],
)
def test_mistakes_are_said_in_one_sentence(run: Callable[..., str], arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises((UserError, SpecError), match=said):
        run(*arguments, *QUICK)


def test_help_teaches(run: Callable[..., str]) -> None:
    shown = run("--help")
    for words in ("64,56x56,128,3x3", "benchdnn", "--plain-malloc"):
        assert words in shown


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the variables are glibc's")
def test_the_command_itself_measures_with_memory_kept() -> None:
    program = "from convforge.cli import main; main()"
    words = [sys.executable, "-c", program, "bench", LAYER, "--passes", "forward", "--torch-only", "--seconds", "0"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["memory_kept"] is True
