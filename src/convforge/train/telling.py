"""What a run says, in sentences: of the images before it learns, and of the outcome after it."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from ..errors import UserError
from ..shown import shown
from . import balance, defaults
from .data import Data
from .display import Display
from .folder import SKIPPED
from .keeping import LAST
from .loop import Learned
from .options import Options
from .ranks import Ranks

_SHOWN_SKIPPED = 5
_STILL_FALLING = 0.02  # of the loss, over as many epochs as patience has

_CHANGED = {
    "none": "as they are",
    "light": "turned, scaled and shifted a little",
    "strong": "cut, turned, and changed in light and colour at random",
}


def describe(display: Display, data: Data) -> None:
    """What there is to learn from."""
    shape = "×".join(map(str, data.input_shape))
    classes = ", ".join(data.classes[:10]) + (", …" if len(data.classes) > 10 else "")
    display.say(
        f"{data.name}: {len(data.train):,} images to learn from, {len(data.test):,} held out, each {shape}; "
        f"{len(data.classes)} classes: {classes}."
    )
    for note in data.notes:
        display.say(note)


def describe_choices(display: Display, data: Data, options: Options) -> None:
    """How it is learned, and what could not be used."""
    if (sentence := balance.about(data, options.balance)) is not None:
        display.say(sentence)
    changed = _CHANGED[str(options.augment)]
    if options.augment != "none":
        changed += f", {'mirrored' if data.flips else 'not mirrored'} (--no-augment leaves them)"
    passes = f", each {options.passes} times an epoch" if options.passes != 1 else ""
    ending = f" at most; it ends when the held-out loss has not fallen for {options.patience}"
    if not options.patience:
        ending = ""
    count = "1 epoch" if options.epochs == 1 else f"{options.epochs:,} epochs"
    display.say(f"Training images are shown {changed}, {options.batch} a step{passes}; {count}{ending}.")
    if len(data.test) < defaults.FEW_HELD_OUT and not options.patience:
        display.say(
            f"{len(data.test)} held-out images are too few to choose an epoch by: all epochs are used, and the last is "
            "kept."
        )
    if data.skipped:
        display.say(f"Skipped {len(data.skipped):,} files that cannot be used:")
        for sentence in data.skipped[:_SHOWN_SKIPPED]:
            display.say(f"  {sentence}")
        if len(data.skipped) > _SHOWN_SKIPPED:
            display.say(f"  … and {len(data.skipped) - _SHOWN_SKIPPED:,} more, all in {SKIPPED} of the run.")


def describe_ranks(display: Display, options: Options, ranks: Ranks) -> None:
    """How several processes share the run.

    Raises `UserError` for a batch that is too small for them.
    """
    if ranks.count == 1:
        return
    batch = options.batch or 0
    least = 1 if options.sync_batch_norm else 2  # batch norm needs two images to have a spread
    if batch < least * ranks.count:
        raise UserError(
            f"--batch {batch} is too small for {ranks.count} processes, each of which needs {least} images of it; "
            f"use --batch {least * ranks.count} or more, or fewer processes."
        )
    norms = "of all of them (--sync-batch-norm)" if options.sync_batch_norm else "of its own"
    threads = torch.get_num_threads()
    display.say(
        f"{ranks.count} processes share each batch: {batch / ranks.count:.4g} images and {threads} "
        f"thread{'' if threads == 1 else 's'} each; batch norms see the images {norms}."
    )


def outcome(learned: Learned, folder: Path) -> list[str]:
    """Why the run ended, which weights are kept, and whether more epochs would help."""
    progress, schedule = learned.progress, learned.schedule
    sentences = []
    if (since := schedule.stopped_early(progress.losses)) is not None:
        sentences.append(
            f"Ended after epoch {len(progress.epochs)} of {schedule.end}: the held-out loss had not fallen for "
            f"{schedule.patience} epochs, so the learning rate fell from epoch {since} on."
        )
    if (best := progress.best_epoch) is not None and best["epoch"] != len(progress.epochs):
        sentences.append(
            f"Kept is epoch {best['epoch']:.0f}, whose held-out loss is the lowest ({best['test_loss']:.3f}); the last "
            f"epoch's weights are in {shown(folder / LAST)}."
        )
    if more_would_help(learned):
        sentences.append(
            "The held-out loss was still falling: more epochs would help. convforge train --resume "
            f"{shlex.quote(shown(folder))} --epochs {2 * schedule.end} goes on."
        )
    return sentences


def more_would_help(learned: Learned) -> bool:
    """Whether the loss was still falling when the rate had to fall, because the epochs came to their end, and fell with
    it: then what is kept is not the best that there is."""
    progress, schedule = learned.progress, learned.schedule
    best, losses = progress.best_epoch, progress.losses
    if not schedule.patience or best is None or best["test_accuracy"] == 1:
        return False
    begin, end = schedule.cooling(losses)
    at_its_highest = losses[schedule.begin : begin]
    before, since = at_its_highest[: -schedule.patience], at_its_highest[-schedule.patience :]
    falling = not before or min(since, default=0.0) < (1 - _STILL_FALLING) * min(before)
    return end == schedule.end and best["epoch"] > begin and falling
