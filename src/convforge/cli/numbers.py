"""Options that are numbers within limits: said in a sentence when they are not, which typer has no words for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from ..errors import UserError


def within(least: float, most: float | None = None) -> Callable[[typer.CallbackParam, Any], Any]:
    """The `callback` of an option that is from `least` to `most`, or not given.

    >>> from types import SimpleNamespace
    >>> option = SimpleNamespace(opts=["--top"])  # what typer hands over has more
    >>> within(1)(option, 3)
    3
    >>> within(1)(option, 0)
    Traceback (most recent call last):
    ...
    convforge.errors.UserError: --top must be 1 or more, not 0.
    >>> within(0, 65535)(option, -1)
    Traceback (most recent call last):
    ...
    convforge.errors.UserError: --top must be from 0 to 65535, not -1.
    """

    def checked(option: typer.CallbackParam, value: Any) -> Any:
        # The other way around, a value that is not a number would pass.
        if value is not None and not (least <= value and (most is None or value <= most)):
            limits = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
            raise UserError(f"{option.opts[0]} must be {limits}, not {value}.")
        return value

    return checked


def a_channel(text: str | None, option: str) -> tuple[float, ...] | None:
    """Numbers with commas between, one a channel.

    >>> a_channel("0.5,.25,1", "--mean")
    (0.5, 0.25, 1.0)
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (float("nan"),)
    if not all(abs(number) < 1e6 for number in numbers):
        raise UserError(f"{option} must be numbers with commas between, one a channel, not {text!r}.")
    return numbers


def several(text: str | None, option: str) -> tuple[int, ...]:
    """Numbers of 1 or more with commas between them; none of them where nothing was said.

    >>> several("1,8", "--batch"), several(None, "--batch")
    ((1, 8), ())
    >>> several("8,no", "--batch")
    Traceback (most recent call last):
    ...
    convforge.errors.UserError: --batch is a number of 1 or more, or several such as 1,8, not '8,no'.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise UserError(f"{option} is a number of 1 or more, or several such as 1,8, not {text!r}.")
    return tuple(dict.fromkeys(map(int, words)))
