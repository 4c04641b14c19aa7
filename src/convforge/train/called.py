"""`convforge.train(…)`: a run of the command `train`, called from Python.

The name is this package's, too, from which `Options` and `Result` are imported; so the package itself can be called.
"""

from __future__ import annotations

import os
from dataclasses import fields
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from rich.console import Console

from ..errors import UserError
from .options import Options
from .run import Result, train


def learn(data: str | os.PathLike[str] | None = None, *, quiet: bool = False, **options: Any) -> Result:
    """Learn to classify images, as `convforge train` does, and write a run's folder.

    Args:
        data: a folder with a sub-folder a class, the name of a data set, or None for the embedded MNIST-5k.
        quiet: print nothing; otherwise plan and progress, as the command does.
        options: those of `convforge.train.Options`, by their names, such as `epochs=30`, `size=96`, `name="pets"`.

    Returns:
        What came of it. Its `folder` is what `convforge.load` takes.

    Raises:
        UserError: for an option that there is not, and anything in options, data or machine that it cannot work with.

    >>> import tempfile, convforge
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = convforge.train(size=8, epochs=1, batch=500, out=folder, quiet=True)
    ...     network = convforge.load(result.folder)
    >>> result.finished, network.input_shape, network.classes[:3]
    (True, (1, 8, 8), ('0', '1', '2'))
    """
    known = [option.name for option in fields(Options)]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(f"convforge.train has no option {name!r}{hint}; it has {', '.join(known)}.")
    place = None if data is None else os.fspath(data)
    for name in ("out", "resume"):
        if isinstance(options.get(name), os.PathLike):
            options[name] = os.fspath(options[name])
    return train(Options(data=place, **options), Console(quiet=quiet))


class Callable(ModuleType):
    """This package, as a module that can be called."""

    __call__ = staticmethod(learn)
