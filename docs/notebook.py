"""Writes docs/tour.ipynb: the tour as a notebook, each of its examples a cell that has been run.

    python docs/notebook.py            writes and runs it
    python docs/notebook.py --check    exits with 1 where the tour's text makes other cells

Text stays as it is. Lines of Python become a cell, up to where something is printed, and a command becomes one that
calls the shell. The answers are what Jupyter's kernel gives when it runs the cells.
"""

from __future__ import annotations

import doctest
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
TOUR = HERE / "tour.md"
NOTEBOOK = HERE / "tour.ipynb"

_CODE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"^This page is also \[a notebook\].*?\n\n", re.DOTALL | re.MULTILINE)
"""What the tour says of its notebook, which a notebook need not say of itself."""


def cells(text: str) -> Iterator[NotebookNode]:
    """The notebook's cells, none of them run."""
    for number, (kind, source) in enumerate(_sources(_LINK.sub("", text))):
        new = new_markdown_cell if kind == "text" else new_code_cell
        yield new(source.strip("\n"), id=f"cell-{number}")


def _sources(text: str) -> Iterator[tuple[str, str]]:
    pieces = _CODE.split(text)
    for prose, language, code in zip(pieces[::3], [*pieces[1::3], ""], [*pieces[2::3], ""], strict=True):
        if prose.strip():
            yield "text", prose
        if language == "console":
            yield "code", "!" + code.partition("\n")[0].removeprefix("$ ")
        elif language:
            yield from (("code", lines) for lines in _shown(code))


def _shown(code: str) -> Iterator[str]:
    """The lines that are typed, up to each answer."""
    lines = ""
    for example in doctest.DocTestParser().get_examples(code):
        lines += example.source
        if example.want:
            yield lines
            lines = ""
    if lines:
        yield lines


def made() -> NotebookNode:
    """The tour as a notebook, not run."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=list(cells(TOUR.read_text(encoding="utf-8"))), metadata=kernel)


def run(notebook: NotebookNode) -> NotebookNode:
    """Run each cell, with the command of this Python, and write down what it prints without colours."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    ).execute(env=os.environ | {"PATH": folders, "COLUMNS": "100"})  # fmt: skip
    notebook.metadata.pop("language_info")  # of the Python that ran it
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                plain = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
                output.text = "".join(f"{line.rstrip()}\n" for line in plain.splitlines())
    return notebook


def same(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether their cells say the same, whatever they have answered."""
    return [(c.cell_type, c.source) for c in one.cells] == [(c.cell_type, c.source) for c in other.cells]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if not NOTEBOOK.exists() or not same(made(), nbformat.read(NOTEBOOK, as_version=4)):
            sys.exit(f"{NOTEBOOK.name} is not what {TOUR.name} makes: run python docs/notebook.py.")
    else:
        nbformat.write(run(made()), NOTEBOOK)
