"""When the rate falls and a run ends; and that runs do so, keep their best epoch, and go on where more is asked for."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from convforge.errors import UserError
from convforge.models import checkpoint
from convforge.train import Options, train
from convforge.train import loop as loop_module
from convforge.train.schedule import Schedule


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    """Nine images are held out: too few to be asked, unless patience is said."""
    return Options(
        str(photos), epochs=4, batch=8, patience=9, out=str(tmp_path / "runs"), name="tiny", threads=1, flips=True
    )


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    leg = Schedule(0, 20, per_epoch=50, patience=5)
    rates = [leg.rate(step, [1.0] * (step // 50), 1.0) for step in range(6 * 50)]
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert max(rates) == 1.0
    falling = [leg.rate(step, [1.0] * 6, 1.0) for step in range(6 * 50, 8 * 50)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1.0
    assert falling[-1] == pytest.approx(1 / 100)


def test_a_loss_that_falls_all_the_way_uses_all_epochs() -> None:
    leg = Schedule(0, 20, per_epoch=10, patience=3)
    losses = [1 / (1 + epoch) for epoch in range(20)]
    assert leg.cooling(losses) == (15, 20)
    assert leg.stopped_early(losses) is None
    assert [leg.done(losses[:count]) for count in (19, 20)] == [False, True]


def test_a_loss_that_falls_no_more_ends_the_run_and_what_comes_later_changes_nothing() -> None:
    leg = Schedule(0, 100, per_epoch=10, patience=4)
    losses = [1.0, 0.5, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5]
    assert leg.cooling(losses[:7]) == (75, 100)
    assert leg.cooling(losses) == leg.cooling([*losses, 0.1, 0.05]) == (8, 11)
    assert leg.stopped_early(losses) == 8


def test_a_leg_of_its_own_begins_anew() -> None:
    leg = Schedule(10, 30, per_epoch=10, patience=3)
    before = [0.1] * 10
    assert leg.cooling(before) == (25, 30)
    assert leg.rate(100, before, 1.0) < 0.1
    assert leg.rate(150, before, 1.0) == 1.0
    assert leg.cooling([*before, 0.9, 0.9, 0.9, 0.9]) == (14, 16)


def with_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make the held-out images say so, epoch by epoch."""
    waiting = iter(losses)
    monkeypatch.setattr(loop_module, "evaluate", lambda *_: (next(waiting), 0.5))


def test_the_best_epoch_is_kept_beside_the_last(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with_losses(monkeypatch, [0.9, 0.5, 0.7, 0.6])
    seen: list[dict[str, torch.Tensor]] = []
    save_weights = checkpoint.save_weights

    def saving(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        if folder.name == "last":
            seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        save_weights(folder, tensors)

    monkeypatch.setattr(checkpoint, "save_weights", saving)
    printed = io.StringIO()
    result = train(options, Console(file=printed, width=200))
    assert (result.best_epoch, len(result.epochs)) == (2, 4)
    best, last = (load_file(result.folder / place / "model.safetensors") for place in (".", "last"))
    assert all(torch.equal(best[name], seen[2][name]) for name in best)  # seen[0] was before the first epoch
    assert all(torch.equal(last[name], seen[4][name]) for name in last)
    assert not torch.equal(best["0.weight"], last["0.weight"])
    assert checkpoint.load(result.folder / "last")[1] == checkpoint.load(result.folder)[1]
    assert "best so far" in printed.getvalue()
    assert any("Kept is epoch 2, whose held-out loss is the lowest (0.500)" in line for line in result.sentences)
    assert "kept is epoch 2" in (result.folder / "report.html").read_text()


def test_few_held_out_images_are_not_asked_and_the_last_epoch_is_kept(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_losses(monkeypatch, [0.9, 0.5, 0.7, 0.6])
    printed = io.StringIO()
    result = train(replace(options, patience=None), Console(file=printed, width=200))
    assert result.best_epoch == 4
    best, last = (load_file(result.folder / place / "model.safetensors") for place in (".", "last"))
    assert all(torch.equal(best[name], last[name]) for name in best)
    assert "9 held-out images are too few to choose an epoch by" in printed.getvalue()
    assert "best so far" not in printed.getvalue()


def test_a_run_ends_when_its_loss_falls_no_more_and_says_so(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with_losses(monkeypatch, [0.9, 0.5, *[0.6] * 20])
    result = train(replace(options, epochs=20, patience=2))
    assert len(result.epochs) == 6
    assert "Ended after epoch 6 of 20" in result.sentences[0]
    assert not any("more epochs would help" in sentence for sentence in result.sentences)


def test_a_loss_that_is_still_falling_asks_for_more_epochs(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with_losses(monkeypatch, [0.9, 0.7, 0.5, 0.3])
    (sentence,) = train(replace(options, patience=2, name="falling")).sentences
    assert "more epochs would help" in sentence
    assert sentence.endswith("--epochs 8 goes on.")
    with_losses(monkeypatch, [0.9, 0.7, 0.5, 0.6])
    (sentence,) = train(replace(options, patience=2, name="not since the rate fell")).sentences
    assert "more epochs would help" not in sentence
    with_losses(monkeypatch, [0.9, 0.7, 0.5, 0.3])
    assert train(replace(options, patience=0, name="cosine")).sentences == ()


def test_a_finished_run_goes_on_with_more_epochs(options: Options) -> None:
    folder = train(options).folder
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"is finished after 4 epochs.*--epochs 8"):
        train(Options(resume=str(folder)))
    with pytest.raises(UserError, match=r"has 4 epochs already"):
        train(Options(resume=str(folder), epochs=4))
    result = train(Options(resume=str(folder), epochs=7))
    assert result.finished
    assert (folder / "metrics.jsonl").read_text().startswith(before)
    assert [epoch["epoch"] for epoch in result.epochs] == [1, 2, 3, 4, 5, 6, 7]
    losses = [epoch["test_loss"] for epoch in result.epochs]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert json.loads((folder / "config.json").read_text())["options"]["epochs"] == 7
    assert not (folder / "training.safetensors").exists()


def test_a_run_that_goes_on_can_be_stopped_and_resumed_to_the_same_result(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(replace(options, dense_twin=True)).folder
    shutil.copytree(folder, tmp_path / "copy")
    whole = train(Options(resume=str(tmp_path / "copy"), epochs=7))
    with monkeypatch.context() as patched:
        steps = 0

        class Asking(loop_module.Stop):
            pass

        stop = Asking()
        step = loop_module._Run._step

        def asking(run: loop_module._Run, *arguments: Any) -> tuple[bool, bool]:
            nonlocal steps
            steps += 1
            stop.asked = steps == 6
            return step(run, *arguments)

        patched.setattr(loop_module._Run, "_step", asking)
        assert not train(Options(resume=str(folder), epochs=7), stop=stop).finished
    assert train(Options(resume=str(folder))).finished
    for weights in ("model.safetensors", "last/model.safetensors", "dense-twin/model.safetensors"):
        assert (folder / weights).read_bytes() == (whole.folder / weights).read_bytes(), weights


def test_a_finished_run_of_before_there_were_two_checkpoints_goes_on_too(options: Options) -> None:
    """Its configuration does not know the newer options, and its only checkpoint is the last."""
    folder = train(replace(options, patience=0, augment="light", largest=128)).folder
    shutil.rmtree(folder / "last")
    (folder / "predictions.csv").unlink()
    config = json.loads((folder / "config.json").read_text())
    for name in (
        "passes", "weight_decay", "label_smoothing", "patience", "largest", "channels", "val", "balance", "start",
        "pretrained", "freeze", "precision", "tensorboard",
    ):  # fmt: skip
        del config["options"][name]
    config["options"] |= {"augment": True}
    (folder / "config.json").write_text(json.dumps(config))
    result = train(Options(resume=str(folder), epochs=6))
    assert len(result.epochs) == 6
    assert json.loads((folder / "config.json").read_text())["options"]["augment"] is True
    checkpoint.load(folder / "last")
