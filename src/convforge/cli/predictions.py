"""What networks answer for pictures, as lines and as JSON: for `predict` and `run` the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ..shown import shown

if TYPE_CHECKING:
    from ..inference.prediction import Prediction


def say(answers: Sequence[Prediction], as_json: bool) -> None:
    """Answers on the output, what could not be read on the error output, where there is any with exit status 2."""
    for answer in answers:
        if answer.error is not None:
            typer.echo(shown(f"error: {answer.error}"), err=True)
    typer.echo(_as_json(answers) if as_json else _as_text(answers), nl=as_json)
    if any(answer.error is not None for answer in answers):
        raise typer.Exit(2)


def _as_json(answers: Sequence[Prediction]) -> str:
    found = [
        {
            "image": answer.image,
            "class": answer.ranking[0][0],
            "probability": answer.ranking[0][1],
            "top": [{"class": name, "probability": probability} for name, probability in answer.ranking],
        }
        for answer in answers
        if answer.error is None
    ]
    errors = [{"image": answer.image, "error": answer.error} for answer in answers if answer.error is not None]
    return json.dumps({"predictions": found, "errors": errors}, indent=2)


def _as_text(answers: Sequence[Prediction]) -> str:
    rows = [
        (shown(answer.image) if rank == 0 else "", shown(name), f"{probability:6.1%}")
        for answer in answers
        for rank, (name, probability) in enumerate(answer.ranking)
    ]
    wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return "".join(f"{image:<{wide[0]}}  {name:<{wide[1]}}  {probability}\n" for image, name, probability in rows)
