"""docs/tour.md: its Python is run, its commands print what stands there, and its pictures are there."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convforge.cli import app

TOUR = Path(__file__).parents[1] / "docs" / "tour.md"
CONSOLES = re.findall(r"```console\n\$ convforge (.*)\n((?:.*\n)*?)…\n```", TOUR.read_text(encoding="utf-8"))


def test_every_line_of_python_gives_what_stands_below_it() -> None:
    failed, tried = doctest.testfile(str(TOUR), module_relative=False, encoding="utf-8")
    assert tried > 30
    assert failed == 0


@pytest.mark.parametrize(("line", "expected"), CONSOLES)
def test_every_command_prints_what_stands_below_it(line: str, expected: str) -> None:
    said = [row.rstrip() for row in CliRunner().invoke(app, shlex.split(line)).output.splitlines()]
    for row in expected.splitlines():
        assert row in said


def test_there_are_commands_and_pictures() -> None:
    assert len(CONSOLES) == 2
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", TOUR.read_text(encoding="utf-8"))
    assert len(pictures) >= 4
    assert all((TOUR.parent / picture).is_file() for picture in pictures)
