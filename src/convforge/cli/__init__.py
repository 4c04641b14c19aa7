"""The command `convforge`: one module a verb, this one gathers them and turns what goes wrong into one sentence."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from .. import __version__
from ..errors import UserError
from ..shown import shown
from ..spec import SpecError

app = typer.Typer(
    name="convforge",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"convforge {__version__}")
        raise typer.Exit


@app.callback()
def _convforge(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """The convolutional layer, whole: count it, train it on your images, look into it."""


# Each module defines its verb with a typer command that `register(app)` adds.
for _verb in ("plan", "train", "see", "relabel", "predict", "run", "export", "bench", "explain", "tune"):
    import_module(f".{_verb}", __name__).register(app)


def main() -> None:
    """Run the command line; what the user or the machine cannot help is one sentence and exit status 2.

    A reader that has seen enough (`convforge plan … | head`) ends the command without a word.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch loads its OpenMP. Threads wait for each other some hundred times a training step; by default
        # they spin for milliseconds, and beside another busy process that makes a step a hundred times slower. This is
        # tens of microseconds, enough where the cores are free.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # The interpreter's last collections walk over all that torch has made: of an exit of 0.45 s they are 0.3.
    atexit.register(gc.freeze)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, because at the interpreter's end nobody could catch what it raises
    except (UserError, SpecError) as mistake:
        _give_up(str(mistake))
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        _give_up(
            "this needs PyTorch, which is not installed: pip install torch. ONNX files and bundles run without it, by "
            "convforge run and convforge predict."
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {failure.filename}" if failure.filename else ""
        _give_up(f"there is no space left on the disk{where}; make room, or write to another one.")
    except (MemoryError, RuntimeError) as failure:
        # torch's allocator raises RuntimeError, which only its words tell apart.
        if isinstance(failure, RuntimeError) and "can't allocate memory" not in str(failure):
            raise
        _give_up("there is not enough memory for this; try a smaller --batch, smaller images or a smaller model.")


def _give_up(sentence: str) -> NoReturn:
    words = Text.assemble(("error:", "bold red"), " ", shown(sentence.replace("\n", " ")))
    Console(stderr=True).print(words, soft_wrap=True)
    sys.exit(2)
