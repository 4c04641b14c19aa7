"""The command `convforge`: one module a verb, this one gathers them and turns user mistakes into one sentence."""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from rich.console import Console

from ..errors import UserError
from ..spec import SpecError

app = typer.Typer(
    name="convforge",
    help="The convolutional layer, whole: count it, train it on your images, look into it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

# Each module defines its verb with a typer command that `register(app)` adds.
for _verb in ("plan", "train", "predict", "export"):
    import_module(f".{_verb}", __name__).register(app)


def main() -> None:
    """Run the command line; a `UserError` or `SpecError` is printed as a sentence, and the exit status is 2."""
    try:
        app()
    except (UserError, SpecError) as mistake:
        Console(stderr=True).print(f"[bold red]error:[/] {mistake}", highlight=False, soft_wrap=True, emoji=False)
        sys.exit(2)
