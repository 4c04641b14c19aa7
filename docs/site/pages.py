"""What MkDocs is told beyond mkdocs.yml: the pages of the site that are made of something else than a file of docs/.

README and its neighbours are read where they are, the command's page is written by Typer from the program, and Python's
has the docstrings of the public names. So none of them can say what was true once.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from convforge.cli import app

ROOT = Path(__file__).parents[2]
NEIGHBOURS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE")

PUBLIC = {
    "Models of PyTorch": {
        "optimize": "pytorch.optimize.optimize",
        "report": "pytorch.optimize.report",
        "Report": "pytorch.optimize.Report",
        "freeze": "pytorch.kept.freeze",
        "set_precision": "precision.set_precision",
        "get_precision": "precision.get_precision",
    },
    "Layers": {
        "conv2d": "pytorch.functional.conv2d",
        "conv_transpose2d": "pytorch.functional.conv_transpose2d",
        "nn": "nn",
    },
    "Whole networks": {
        "load": "models.load.load",
        "compile": "inference.compile.compile",
        "Model": "inference.model.Model",
        "Prediction": "inference.prediction.Prediction",
    },
    "Learning": {"train": "train.called.learn", "Options": "train.options.Options", "Result": "train.run.Result"},
    "Counting and looking": {"plan": "planning.plan", "Plan": "planning.rows.Plan", "see": "see.notebook.see"},
    "The layer itself": {"Conv2dSpec": "spec.Conv2dSpec", "engine": "engine"},
    "Errors": {"UserError": "errors.UserError", "SpecError": "spec.SpecError"},
}
"""The public names by what they are for, each with its home in the package."""

_FROM_A_ROOM = {"Prediction": "inference.prediction", "Options": "train", "Result": "train", "Plan": "planning"}
"""What public functions take and return, and where that is imported from."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in NEIGHBOURS}
    pages |= {"command.md": command(), "python.md": python()}
    for name, text in pages.items():
        files.append(File.generated(config, "LICENSE.txt" if name == "LICENSE" else name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are right in the repository lead to the same page of the site, where docs/ is the root."""
    if page.file.src_uri in NEIGHBOURS:
        return re.sub(r'(\]\(|src=")docs/', r"\1", markdown).replace("](LICENSE)", "](LICENSE.txt)")
    up = "../" * page.file.src_uri.count("/")
    return re.sub(rf"\]\({up}\.\./(?={'|'.join(map(re.escape, NEIGHBOURS))})", f"]({up}", markdown)


def command() -> str:
    """Every verb of the command and its options, as Typer documents the program."""
    written = subprocess.run(
        [sys.executable, "-m", "typer", "convforge.cli", "utils", "docs", "--name", "convforge"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    intro, _, verbs = written.partition("\n## ")
    intro = intro.partition("**Commands**")[0].replace("# `convforge`", "# The command")  # that list is cut short
    program = typer.main.get_command(app)
    summaries = [
        f"- [`{name}`](#convforge-{name}): {(verb.help or '').strip().partition(chr(10))[0]}"
        for name, verb in getattr(program, "commands", {}).items()
    ]
    return _plain(intro) + "**Verbs**:\n\n" + "\n".join(summaries) + "\n\n## " + _plain(verbs)


def _plain(text: str) -> str:
    """Markdown for what Rich's markup became: its colours are code, and what is indented keeps its lines."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("  "):
            lines = (line[2:].rstrip() for line in _without_spans(block).splitlines())
            block = "```text\n" + "\n".join(lines) + "\n```"
        elif not block.startswith("```"):
            block = re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"**\1**", block)
            block = re.sub(r"<span [^>]*>(.*?)</span>", lambda span: f"`{html.unescape(span[1])}`", block)
            block = re.sub("^• ", "- ", block)
            block = re.sub(r"`[^`]*`|\[", lambda found: "\\[" if found[0] == "[" else found[0], block)  # no link
        blocks.append(block)
    return "\n\n".join(blocks)


def _without_spans(text: str) -> str:
    return html.unescape(re.sub(r"</?span[^>]*>", "", text))


def python() -> str:
    """Directives for mkdocstrings, one a public name."""
    lines = ["# Python", "", "The public names of `convforge`. Their examples are tests, and were run."]
    for title, names in PUBLIC.items():
        lines += ["", f"## {title}"]
        for name, home in names.items():
            where = ".".join(filter(None, ("convforge", _FROM_A_ROOM.get(name), name)))
            lines += ["", f"::: convforge.{home}", "    options:"]
            lines += [f"      heading: {where}", f"      toc_label: {name}"]
    return "\n".join(lines) + "\n"
