"""Options that the verbs which measure layers have in common: `bench`, `tune` and `explain`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from .numbers import within

Batch: TypeAlias = Annotated[
    int | None,
    typer.Option("--batch", callback=within(1), help="Images at once; without it 1, or what a layer itself says."),
]
Input: TypeAlias = Annotated[
    str | None, typer.Option("--input", metavar="CxHxW", help="Image size for models, as in plan.")
]
Passes: TypeAlias = Annotated[str, typer.Option("--passes", metavar="LIST", help="Which of forward, input and weight.")]
Exact: TypeAlias = Annotated[
    bool, typer.Option("--exact", help="Only algorithms that multiply each input by each weight.")
]
