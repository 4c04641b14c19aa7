"""The decisions that lie beside a folder's images, followed: other classes, images left out, and a sentence on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..images import decisions
from ..shown import shown

Rows = list[dict[str, Any]]


def name_in(folder: Path, file: str) -> str:
    """What decisions call a file of the folder."""
    return Path(file).relative_to(folder).as_posix()


def corrected(
    folder: Path, classes: Sequence[str], splits: Sequence[Rows | None]
) -> tuple[list[Rows | None], list[str]]:
    """Rows of images as `decisions` about the folder have them, and what there is to say of that.

    Args:
        folder: that the decisions are beside of.
        classes: the names of its sub-folders.
        splits: rows with the image's path and the number of its class; None stays None.

    Raises:
        UserError: if the file cannot be read, or calls for a class that there is not.
    """
    known = decisions.read(folder)
    if not known:
        return list(splits), []
    called = shown(decisions.file_of(folder))
    numbers = {shown(name): number for number, name in enumerate(classes)}
    unused, changed, left_out = set(known), 0, 0
    results: list[Rows | None] = []
    for rows in splits:
        if rows is None:
            results.append(None)
            continue
        result: Rows = []
        for row in rows:
            name = name_in(folder, row["image"]["path"])
            decision = known.get(name)
            unused.discard(name)
            if decision is None:
                result.append(row)
            elif decision.now is None:
                left_out += 1
            elif decision.now not in numbers:
                raise UserError(
                    f"{called} calls {shown(name)} {decision.now!r}, and there is no class of that name: there are "
                    f"{', '.join(numbers)}."
                )
            else:
                label = numbers[decision.now]
                changed += label != row["label"]
                result.append({**row, "label": label})
        results.append(result)
    notes = []
    if changed or left_out:
        relabelled = "1 image is relabelled" if changed == 1 else f"{changed:,} images are relabelled"
        notes.append(f"{relabelled}, and {left_out:,} left out, by {called}.")
    if unused:
        some = ", ".join(map(shown, sorted(unused)[:3])) + (", …" if len(unused) > 3 else "")
        notes.append(f"Images of {called} that are not there any more: {len(unused):,} ({some}).")
    return results, notes
