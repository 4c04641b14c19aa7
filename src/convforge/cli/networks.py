"""`convforge bench --network`: from the words of the command line to the report."""

from __future__ import annotations

import json
import re

import typer

from ..errors import UserError
from .console import progress, wide_console

_SECONDS = 5.0


def measure(
    names: list[str], *, batches: tuple[int, ...], input: str | None, size: str | None, threads: int | None,
    seconds: float | None, exact: bool, peers: str | None, busy: bool, steps: bool, training: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure and print. The options are those of the command.

    Raises:
        UserError: where one of them cannot be.
    """
    if training and (exact or steps):
        raise UserError(f"{'--exact' if exact else '--steps'} is for inference: leave it out, or --training.")
    if not names:
        raise UserError("--network needs the name of a network, such as resnet18 or model.onnx.")
    if input is not None and size is not None:
        raise UserError("--input and --size both say how large the images are: give one of them.")
    pair = parse_size(size) if size is not None else None
    import torch

    from ..bench.networks import contenders, run
    from ..bench.networks.table import as_table
    from ..bench.table import WIDTH
    from ..models.sizes import parse_shape

    wanted = run.Wanted(
        tuple(dict.fromkeys(names)),
        tuple(contenders.chosen(None if peers is None else [word.strip() for word in peers.split(",")], training)),
        threads or torch.get_num_threads(),
        batches or (1,),
        parse_shape(input) if input is not None else None,
        pair,
        _SECONDS if seconds is None else seconds,
        exact,
        busy,
        steps,
        training,
    )
    report = run.measure(wanted, progress)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        wide_console(WIDTH).print(as_table(report))


def parse_size(text: str) -> tuple[int, int]:
    """Height and width: one number for squares, or two.

    >>> parse_size("224"), parse_size("192x320")
    ((224, 224), (192, 320))
    """
    found = re.fullmatch(r"0*([1-9][0-9]{0,5})(?:[x×]0*([1-9][0-9]{0,5}))?", text.strip().lower())
    if not found:
        raise UserError(f"--size is one number for square images, or height x width such as 192x320, not {text!r}.")
    height, width = found[1], found[2] or found[1]
    return int(height), int(width)
