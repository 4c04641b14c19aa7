"""The command itself: quick to answer, and whatever goes wrong is one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import convforge
from convforge.cli import app, main

PROGRAM = [sys.executable, "-c", "from convforge.cli import main; main()"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["convforge", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


@pytest.mark.parametrize("module", ["convforge", "convforge.cli"])
def test_neither_the_package_nor_its_help_waits_for_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules, 'llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("verb", [None, *(command.name for command in app.registered_commands)])
def test_h_is_help(verb: str | None) -> None:
    words = [] if verb is None else [verb]
    short, long = (CliRunner().invoke(app, [*words, option]) for option in ("-h", "--help"))
    assert short.exit_code == long.exit_code == 0
    assert short.stdout == long.stdout
    assert "Usage:" in short.stdout


@pytest.mark.parametrize("arguments", [["plan", "conv 8 3x3"], ["train"], ["predict", "tests", "cat.jpg"]])
def test_without_torch_it_is_said_what_needs_it(arguments: list[str]) -> None:
    program = "import sys; sys.modules['torch'] = None; from convforge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this needs PyTorch, which is not installed: pip install torch.")
    assert "Traceback" not in done.stderr


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"convforge {convforge.__version__}\n"


def test_threads_that_wait_give_way_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    run(monkeypatch, "--version")
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    run(monkeypatch, "--version")
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    run(monkeypatch, "--version")
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("verb", [["plan"], ["train"], ["predict"], ["run"], ["export", "--to", "onnx"]])
@pytest.mark.parametrize("folder", ["./a[bold]b[/]c[/bold]", "./a[/]", "./[link=x]"])
def test_brackets_in_a_path_are_said_as_they_are(
    verb: list[str], folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{folder}/photos"
    image = ["image.png"] if verb == ["predict"] else []
    assert run(monkeypatch, *verb, path, *image) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert os.path.normpath(path) in printed
    assert len(printed.splitlines()) == 1


def test_a_terminal_does_not_obey_a_path(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "train", "./a\x1b[2J\nb/") == 2
    printed = capsys.readouterr().err
    assert r"./a\x1b[2J\x0ab/" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "error: there is not enough memory for this"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "here.bin"), 2, "no space left on the disk for here.bin"),
    ],
)
def test_what_the_machine_cannot_give_is_one_sentence(
    failure: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("convforge.models.resolve.resolve", fails)
    assert run(monkeypatch, "plan", "conv 1 3x3") == status
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == bool(said)


def test_torchs_own_want_of_memory_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wants_too_much(*_: object, **__: object) -> None:
        torch.empty(10**15)

    def is_wrong(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr("convforge.models.resolve.resolve", wants_too_much)
    assert run(monkeypatch, "plan", "conv 1 3x3") == 2
    assert "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr("convforge.models.resolve.resolve", is_wrong)
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        main()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan", "conv 4 3x3, relu", "--json"]])
def test_a_reader_that_leaves_early_gets_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=stderr) as it,
    ):
        assert it.stdout is not None
        it.stdout.close()
    assert it.returncode == 1
    assert errors.read_text() == ""
