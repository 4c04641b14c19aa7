"""The tour and the guides: their Python is run, their commands print what stands there, and their pictures are there.

A page is followed from top to bottom in an empty folder. Of what a command prints, … stands for anything.
"""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from convforge.cli import app

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "tour.md": (30, 2),
    "guides/pytorch.md": (25, 1),
    "guides/images.md": (10, 5),
    "guides/understanding.md": (20, 2),
}
"""Examples of Python that each page has at least, and its commands, so that none is passed over."""

_CONSOLE = re.compile(r"```console\n(\$ .*\n)((?:.*\n)*?)```")
_PIECES = re.compile(r"(```console\n(?:.*\n)*?```)")


@pytest.mark.parametrize("name", PAGES)
def test_everything_gives_what_stands_below_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner, names = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), dict[str, Any]()
    commands = 0
    for piece in _PIECES.split((DOCS / name).read_text(encoding="utf-8")):
        if found := _CONSOLE.fullmatch(piece):
            assert_prints(found[1], found[2])
            commands += 1
        else:
            python = doctest.DocTestParser().get_doctest(piece, names, name, str(DOCS / name), 0)
            runner.run(python, clear_globs=False)
            names = python.globs
    failed, tried = runner.summarize(verbose=False)
    assert failed == 0
    assert (tried >= PAGES[name][0], commands) == (True, PAGES[name][1])


def assert_prints(line: str, expected: str) -> None:
    """The command says what stands below it."""
    program, *arguments = shlex.split(line.removeprefix("$ "))
    assert program == "convforge"
    said = CliRunner().invoke(app, arguments).output
    got = "".join(f"{row.rstrip()}\n" for row in said.splitlines())
    want = expected.replace("…", "...")
    assert doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS), f"{line}prints\n{got}and not\n{expected}"


@pytest.mark.parametrize("name", PAGES)
def test_its_pictures_are_there(name: str) -> None:
    page = DOCS / name
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / picture).is_file(), picture


def test_no_page_is_left_out() -> None:
    assert {f"guides/{file.name}" for file in (DOCS / "guides").iterdir()} | {"tour.md"} == set(PAGES)


@pytest.mark.parametrize("name", ["../README.md", "performance.md", *(name for name in PAGES if "guides" in name)])
def test_its_other_commands_could_be_typed(name: str) -> None:
    """Those that are only shown: each has a verb of the command, and arguments and options that this verb takes."""
    program: Any = typer.main.get_command(app)
    found = 0
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line.partition("# convforge")[0] or line.removeprefix("# "), comments=True)
            if "convforge" in words:
                _, verb, *arguments = words[words.index("convforge") :]
                program.commands[verb].make_context(verb, arguments, parent=typer.Context(program))
                found += 1
    assert found > 2


def test_the_notebook_is_the_tour_and_runs() -> None:
    """Each cell of docs/tour.ipynb gives what stands below it.

    That takes eight seconds: a kernel and two commands start, and each imports torch.
    """
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    pytest.importorskip("nbclient", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    pytest.importorskip("ipykernel", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    notebook = runpy.run_path(str(DOCS / "notebook.py"))
    kept, made = nbformat.read(DOCS / "tour.ipynb", as_version=4), notebook["made"]()
    assert notebook["same"](kept, made), "it is not what the tour makes: run python docs/notebook.py"
    assert [cell.get("outputs") for cell in notebook["run"](made).cells] == [cell.get("outputs") for cell in kept.cells]
