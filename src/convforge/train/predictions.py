"""`predictions.csv`: what the network says of each held-out image, for whoever wants to go through them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_atomically

PREDICTIONS = "predictions.csv"
COLUMNS = ("file", "true", "predicted", "probability", "probability of true")


def write(
    folder: Path,
    names: Sequence[str],
    truth: NDArray[Any],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
) -> None:
    """A row an image, in the order given: its file as seen from the data's folder, both classes, and what the network
    gave to each of them. Raises `UserError` if that cannot be written."""
    page = StringIO()
    rows = csv.writer(page, lineterminator="\n")
    rows.writerow(COLUMNS)
    guesses = probabilities.argmax(1)
    for i, name in enumerate(names):
        said, true = int(guesses[i]), int(truth[i])
        rows.writerow(
            (name, classes[true], classes[said], f"{probabilities[i, said]:.4f}", f"{probabilities[i, true]:.4f}")
        )
    write_atomically(folder / PREDICTIONS, page.getvalue().encode(errors="replace"))
