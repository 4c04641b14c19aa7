"""Which images of a folder are worth a look: those that a run gets most wrong, and those that it is most unsure about.

A network that has learned from an image with a wrong label often still contradicts it, because the other images of the
class speak against it; so all images are asked about, those that were held out and those that were learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..images.decisions import Decision
from ..inference.model import Model
from ..inference.prediction import Prediction
from ..shown import shown
from ..train import split
from ..train.data import folder_rows
from ..train.relabelled import name_in

Group = Literal["wrong", "unsure", "decided"]
Part = Literal["learned from", "held out", "not seen"]


@dataclass(frozen=True)
class Labelled:
    """An image of a folder: where it is, what decisions call it, and the class whose folder it lies in."""

    path: Path
    name: str
    was: str


@dataclass(frozen=True)
class Suspect:
    """An image with what the network answers: all classes, most probable first; `label` is what it is taken for now,
    None where it is left out; `part` is what the run did with it, None where nobody knows."""

    image: Labelled
    label: str | None
    ranking: tuple[tuple[str, float], ...]
    group: Group
    part: Part | None = None


def labelled(folder: Path) -> tuple[tuple[str, ...], list[Labelled]]:
    """The classes of a folder that `convforge train` learns from, and its images, whatever was decided about them."""
    classes, *splits = folder_rows(folder)
    names = tuple(map(shown, classes))
    return names, [
        Labelled(Path(row["image"]["path"]), name_in(folder, row["image"]["path"]), names[row["label"]])
        for rows in splits
        for row in rows or ()
    ]


def parts_of(run: Path) -> Callable[[str], Part | None]:
    """What a run did with the images of the folder that it has learned from, by their names; of a run that has not
    written that down, None.

    Raises:
        UserError: where the run's `split.csv` is damaged.
    """
    known = split.read(run)

    def part(name: str) -> Part | None:
        if not known:
            return None
        found = known.get(shown(name))
        return "not seen" if found is None else "held out" if found == split.HELD else "learned from"

    return part


def suspects(
    network: Model,
    images: Sequence[Labelled],
    decisions: dict[str, Decision],
    most: int,
    track: Callable[[Iterable[Prediction]], Iterable[Prediction]] = lambda answers: answers,
    parts: Callable[[str], Part | None] = lambda _: None,
) -> list[Suspect]:
    """The images to look at: the most wrong ones first, those where the label was given the smallest probability; then
    the most unsure ones, whose first two answers are closest; then those that were decided before.

    Args:
        network: it knows its classes.
        images: files that cannot be read are passed over.
        decisions: what is known already, by name.
        most: how many wrong ones, and how many unsure ones.
        track: shows how far it is.
        parts: what the run did with an image, by its name.
    """
    wrong: list[tuple[float, Suspect]] = []
    unsure: list[tuple[float, Suspect]] = []
    decided: list[Suspect] = []
    answers = network.predict_each([image.path for image in images], top=len(network.classes or ()))
    for image, answer in zip(images, track(answers), strict=True):
        if answer.error is not None:
            continue
        part = parts(image.name)
        decision = decisions.get(image.name)
        if decision is not None:
            decided.append(Suspect(image, decision.now, answer.ranking, "decided", part))
            continue
        shares = dict(answer.ranking)
        if answer.ranking[0][0] != image.was:
            wrong.append((shares[image.was], Suspect(image, image.was, answer.ranking, "wrong", part)))
        else:
            margin = answer.ranking[0][1] - answer.ranking[1][1]
            unsure.append((margin, Suspect(image, image.was, answer.ranking, "unsure", part)))
    found = [suspect for kind in (wrong, unsure) for _, suspect in sorted(kind, key=lambda pair: pair[0])[:most]]
    return found + decided
