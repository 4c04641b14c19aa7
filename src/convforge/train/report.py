"""`report.html`: what a training run learned, how well, and what it looks like inside, in one file without references.

`Report` is the data, `write_report` puts it through the template `report.html.j2`. The template escapes everything:
class and file names are the user's and may contain anything. The page forbids itself every network access.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import write_atomically
from ..learned.namer import name_kernels, split
from . import charts, pictures
from .pictures import Mistake, Pictures
from .scores import class_scores

if TYPE_CHECKING:
    from jinja2 import Template

# A table of more classes than this is a picture and lists instead.
_CLASSES_IN_TABLE = 20
_PAIRS = 12
_SKIPPED = 50
_DOTS = 40


@dataclass(frozen=True)
class Report:
    """What there is to tell of a training run.

    Args:
        title: of the page; the name of the run.
        classes: their names, in the order of the indices.
        epochs: a mapping an epoch with `epoch`, `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy`, `lr`,
            `seconds`, `images_per_second`; accuracies from 0 to 1. The last one is the network of the report unless
            `best_epoch` says otherwise.
        pictures: from `pictures.collect`.
        data: facts about the data set, name → value.
        skipped: a sentence for each file that could not be used.
        plan: the layers, as rows of column → value, or as text.
        parameters: of the network.
        comparison: rows of column → value, the network beside its fully connected twin.
        settings: name → value, whatever is needed to run it again.
        best_epoch: the epoch whose weights were kept, where it is not the last.
        stopped_early: the sentence to show where the run did not finish, or True for a general one.
    """

    title: str
    classes: Sequence[str]
    epochs: Sequence[Mapping[str, float]]
    pictures: Pictures
    data: Mapping[str, object] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    plan: str | Sequence[Mapping[str, object]] = ()
    parameters: int | None = None
    comparison: Sequence[Mapping[str, object]] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped_early: bool | str = False


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one self-contained HTML file, in one step: an older report stays until the new one is whole.

    Raises:
        UserError: if Jinja2 is not installed, or the file cannot be written.
    """
    write_atomically(Path(path), render(report).encode("utf-8", errors="replace"))


def render(report: Report) -> str:
    """The page as text."""
    return _page().render(**_view(report))


@cache
def _page() -> Template:
    """The page's template. Compiling it takes longer than filling it in, so it is kept."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as failure:
        raise UserError("the report needs Jinja2: pip install 'convforge[train]'.") from failure
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "is_quantity": is_quantity}
    return environment.get_template("report.html.j2")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers as people read them
# ---------------------------------------------------------------------------------------------------------------------


def number(value: Any) -> str:
    """A value for a table cell: thousands separated, floats to four significant digits.

    >>> number(1234567), number(0.0012345), number(1234.5), number(True), number((1, 28, 28)), number(None)
    ('1,234,567', '0.001234', '1,234', 'yes', '1 × 28 × 28', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        real = float(value)
        if not isfinite(real):
            return "not a number" if real != real else "infinite"
        return f"{real:,.0f}" if abs(real) >= 1000 else f"{real:.4g}"
    if isinstance(value, tuple | list) and value and all(isinstance(v, int) for v in value):
        return " × ".join(map(str, value))
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


def is_quantity(value: object) -> bool:
    """Whether a table cell holds a number, with or without a unit: these stand right-aligned.

    >>> is_quantity(3), is_quantity("2.15 MB"), is_quantity("97.8%"), is_quantity("3×3"), is_quantity("vgg")
    (True, True, True, False, False)
    """
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | float | np.number) or bool(re.fullmatch(r"[\d.,]+( ?[%a-zA-Z]+)?", str(value)))


def percent(share: float) -> str:
    """A share as per cent: one decimal, and never 100 or 0 unless it is all or nothing.

    >>> percent(0.986), percent(0.9999), percent(1.0), percent(0.0004), percent(0)
    ('98.6%', '> 99.9%', '100%', '< 0.1%', '0%')
    """
    if not isfinite(share):
        return "–"
    if share in (0, 1):
        return f"{share * 100:.0f}%"
    if share > 0.9995:
        return "> 99.9%"
    return "< 0.1%" if share < 0.0005 else f"{share * 100:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.84), duration(41.2), duration(125), duration(7380)
    ('0.8 s', '41 s', '2 min 5 s', '2 h 3 min')
    """
    if not isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# ---------------------------------------------------------------------------------------------------------------------
# What the template is given
# ---------------------------------------------------------------------------------------------------------------------


def _view(report: Report) -> dict[str, Any]:
    confusion = report.pictures.confusion
    images, right = int(confusion.sum()), int(np.trace(confusion))
    kept = next(
        (e for e in report.epochs if e["epoch"] == report.best_epoch), report.epochs[-1] if report.epochs else None
    )
    return {
        "report": report,
        "kept": kept,
        "accuracy": right / images if images else None,
        "images": images,
        "wrong": images - right,
        "chance": 1 / len(report.classes) if report.classes else 0.0,
        "seconds": sum(epoch["seconds"] for epoch in report.epochs),
        "rate": float(np.mean([epoch["images_per_second"] for epoch in report.epochs])) if report.epochs else None,
        "stopped": _stopped(report.stopped_early),
        "charts": _charts(report.epochs),
        "chart_size": charts,
        "dots": len(report.epochs) <= _DOTS,
        "kernels": _kernels(report.pictures),
        "feature_maps": _feature_maps(report),
        "confusion": _confusion(report),
        "mistakes": _named(report, report.pictures.mistakes),
        "unsure": _named(report, report.pictures.unsure),
        "skipped": list(report.skipped)[:_SKIPPED],
        "skipped_more": max(0, len(report.skipped) - _SKIPPED),
        "plan_text": report.plan if isinstance(report.plan, str) else None,
        "plan_rows": [] if isinstance(report.plan, str) else list(report.plan),
    }


def _stopped(flag: bool | str) -> str | None:
    if flag is True:
        return "The run was stopped before its last epoch; this is the network as it was then."
    return flag or None


def _charts(epochs: Sequence[Mapping[str, float]]) -> list[charts.Chart]:
    if not epochs:
        return []
    numbers = [epoch["epoch"] for epoch in epochs]

    def curves(what: str) -> dict[str, Sequence[float]]:
        return {name: [epoch[f"{name}_{what}"] for epoch in epochs] for name in ("train", "test")}

    return [
        charts.chart("Loss", numbers, curves("loss"), lambda value: f"{value:.3g}"),
        charts.chart("Accuracy", numbers, curves("accuracy"), _axis_percent, top=1.0),
    ]


def _axis_percent(share: float) -> str:
    """Round ticks without a needless decimal."""
    short = f"{share * 100:.0f}%"
    return short if float(short[:-1]) == round(share * 100, 6) else percent(share)


def _kernels(found: Pictures) -> dict[str, Any] | None:
    after = found.kernels_after
    if after is None:
        return None
    before = (
        found.kernels_before if found.kernels_before is not None and found.kernels_before.shape == after.shape else None
    )
    change = after - before if before is not None else None
    ranked_by = np.linalg.norm(np.nan_to_num(after if change is None else change).reshape(len(after), -1), axis=1)
    order = np.argsort(-ranked_by, kind="stable")[: pictures.KERNELS]
    scale = pictures.kernel_scale(before, after)
    count, channels, height, width = after.shape
    moved = None
    if before is not None and change is not None and np.isfinite(after).all() and before.any():
        moved = float(np.linalg.norm(change) / np.linalg.norm(before))

    def drawn(kernels: NDArray[np.float32] | None, scale: float) -> str | None:
        return None if kernels is None else pictures.data_uri(pictures.draw_kernels(kernels[order], scale))

    return {
        "after": drawn(after, scale),
        "before": drawn(before, scale),
        "change": drawn(change, pictures.kernel_scale(change)),
        "change_scale": f"{pictures.kernel_scale(change):.2g}",
        "moved": moved,
        "named": split(name_kernels(after)).words,
        "named_before": None if before is None else split(name_kernels(before)).words.partition(": ")[2],
        "shown": len(order),
        "count": count,
        "size": f"{height} × {width}",
        "colour": channels == 3,
        "scale": f"{scale:.2g}",
    }


def _feature_maps(report: Report) -> dict[str, Any] | None:
    found = report.pictures
    if not len(found.samples) or not found.layers:
        return None
    blocks = []
    for layer in found.layers:
        rows = []
        for channel, maps in zip(layer.channels, layer.maps, strict=True):
            # One scale for a kernel's whole row: its maps can be compared from image to image.
            low, high = (float(value) for value in np.nan_to_num(np.percentile(maps, (1, 99.5))))
            kernel = None
            if layer.stage == "early" and found.kernels_after is not None and channel < len(found.kernels_after):
                one = found.kernels_after[channel : channel + 1]
                kernel = pictures.data_uri(pictures.draw_kernels(one, pictures.kernel_scale(one)))
            rows.append(
                {
                    "channel": channel,
                    "kernel": kernel,
                    "maps": [pictures.data_uri(pictures.draw_map(one, low, high)) for one in maps],
                }
            )
        blocks.append({"layer": layer, "rows": rows})
    return {
        "images": [
            {"picture": pictures.data_uri(pictures.draw_image(image)), "name": report.classes[label]}
            for image, label in zip(found.samples, found.sample_labels, strict=True)
        ],
        "blocks": blocks,
    }


def _confusion(report: Report) -> dict[str, Any] | None:
    counts, names = report.pictures.confusion, report.classes
    if not counts.sum():
        return None
    share = counts / counts.sum(1).clip(1)[:, np.newaxis]
    off = counts - np.diag(np.diag(counts))
    order = [divmod(int(i), len(names)) for i in np.argsort(-off, axis=None, kind="stable")[:_PAIRS]]
    pairs = [
        {"true": names[t], "predicted": names[p], "count": int(off[t, p]), "share": float(share[t, p])}
        for t, p in order
        if off[t, p]
    ]
    by_class = [
        {"score": score, "taken_for": names[int(off[i].argmax())] if off[i].any() else None}
        for i, score in enumerate(class_scores(counts, names))
    ]
    small = len(names) <= _CLASSES_IN_TABLE
    return {
        "pairs": pairs,
        "by_class": by_class,
        "rows": [
            [{"count": int(n), "strength": round(15 + 85 * float(np.sqrt(s)))} for n, s in zip(row, part, strict=True)]
            for row, part in zip(counts, share, strict=True)
        ]
        if small
        else None,
        "picture": None if small else pictures.data_uri(pictures.draw_confusion(counts)),
    }


def _named(report: Report, images: Sequence[Mistake]) -> list[dict[str, Any]]:
    return [
        {
            "picture": pictures.data_uri(pictures.draw_image(image.image)),
            "file": image.name,
            "true": report.classes[image.true],
            "predicted": report.classes[image.predicted],
            "right": image.true == image.predicted,
            "probability": image.probability,
            "probability_of_true": image.probability_of_true,
        }
        for image in images
    ]
