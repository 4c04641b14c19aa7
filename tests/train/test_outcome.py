"""What a run tells of its held-out images, of each class and of itself, beside its checkpoints."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from time import monotonic
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import convforge
from convforge.errors import UserError
from convforge.models import checkpoint, own
from convforge.train import Options, precision, train
from convforge.train.data import load
from convforge.train.display import Display
from convforge.train.evaluation import at_a_time
from convforge.train.pictures import most_unsure
from convforge.train.scores import class_scores
from convforge.train.stop import Stop


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    return Options(str(photos), epochs=1, batch=8, out=str(tmp_path / "runs"), name="tiny", threads=1, flips=True)


def test_predictions_name_every_held_out_file_and_what_the_kept_network_says(options: Options, photos: Path) -> None:
    folder = train(replace(options, epochs=3)).folder
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(load(str(photos)).test.names)
    answers = convforge.load(folder).predict([photos / row["file"] for row in rows], top=3)
    for row, answer in zip(rows, answers, strict=True):
        assert row["true"] == row["file"].partition("/")[0]
        assert row["predicted"] == answer.ranking[0][0]
        assert float(row["probability"]) == pytest.approx(answer.ranking[0][1], abs=1e-4)
        assert float(row["probability of true"]) == pytest.approx(dict(answer.ranking)[row["true"]], abs=1e-4)


def test_each_class_has_precision_recall_and_f1_as_scikit_learn_counts_them(options: Options) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    draw = np.random.default_rng(0)
    truth, said = draw.integers(0, 3, 200), draw.integers(0, 3, 200)
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (truth, said), 1)
    expected = precision_recall_fscore_support(truth, said)
    for i, score in enumerate(class_scores(confusion, ("a", "b", "c"))):
        assert (score.precision, score.recall, score.f1, score.images) == pytest.approx(
            tuple(float(column[i]) for column in expected)
        )
    nothing = class_scores(np.array([[0, 0], [0, 0]]), ("a", "b"))[0]
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)

    result = train(options)
    told = json.loads(json.dumps(result.to_dict()))["classes"]
    assert [score["name"] for score in told] == ["left", "middle", "right"]
    assert told[0].keys() == {"name", "images", "precision", "recall", "f1"}
    page = (result.folder / "report.html").read_text()
    assert "Both (F1)" in page


def test_the_report_names_the_files_of_the_most_wrong_and_the_most_unsure(options: Options) -> None:
    folder = train(options).folder
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [row["file"] for row in rows if row["true"] != row["predicted"]]
    page = (folder / "report.html").read_text()
    assert wrong, "after one epoch there are mistakes"
    assert all(f'<span class="file">{name}</span>' in page for name in wrong)
    assert 'id="unsure"' in page


def test_the_smallest_lead_is_the_most_unsure() -> None:
    probabilities = np.array([[0.9, 0.1], [0.52, 0.48], [0.3, 0.7]], np.float32)
    found = most_unsure(
        torch.zeros(3, 1, 2, 2, dtype=torch.uint8), probabilities, np.array([0, 1, 1]), names=("a", "b", "c")
    )
    assert [(image.name, image.true, image.predicted) for image in found] == [("b", 1, 0), ("c", 1, 1)]


# ---------------------------------------------------------------------------------------------------------------------
# Any architecture
# ---------------------------------------------------------------------------------------------------------------------


def test_a_line_of_layers_learns_and_gets_the_last_layer_that_it_lacks(options: Options) -> None:
    line = "conv 4 3x3 same, bn, relu, gap"
    folder = train(replace(options, model=line)).folder
    model, architecture = checkpoint.load(folder)
    assert (architecture.family, architecture.arguments) == ("line", {"layers": line})
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(UserError, match="ends in 'linear 10', but there are 3 classes: write 'linear 3'"):
        train(replace(options, model=f"{line}, linear 10", name="ten"))
    train(replace(options, model=f"{line}, linear 3", name="three"))


MADE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's."""
    (tmp_path / "mynets.py").write_text(MADE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(own, "_trusted", set())
    yield "mynets:net"
    sys.modules.pop("mynets", None)


def test_a_function_that_makes_a_model_learns_and_is_run_by_nobody_who_does_not_trust_it(
    options: Options, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(replace(options, model=mine)).folder
    checkpoint.load(folder)  # the process that was told to
    own._trusted.clear()
    sys.modules.pop("mynets")
    with pytest.raises(UserError, match=r"made by mynets:net.*CONVFORGE_TRUST=mynets:net"):
        checkpoint.load(folder)
    assert "mynets" not in sys.modules
    monkeypatch.setenv("CONVFORGE_TRUST", mine)
    model, _ = checkpoint.load(folder)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    with pytest.raises(UserError, match="answers with 1×7 for one image, but there are 3 classes"):
        train(replace(options, model="mynets:wrong", name="wrong"))


# ---------------------------------------------------------------------------------------------------------------------
# Precision, TensorBoard, Ctrl-C
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not precision.has_bf16(), reason="this CPU does not multiply in bfloat16")
def test_bf16_computes_the_forward_pass_so_and_keeps_float32(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(replace(options, precision="bf16")).folder
    plain = train(replace(options, name="plain")).folder
    model, _ = checkpoint.load(folder)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert (folder / "model.safetensors").read_bytes() != (plain / "model.safetensors").read_bytes()
    losses = [json.loads((run / "metrics.jsonl").read_text())["train_loss"] for run in (folder, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


class Board:
    """What TensorBoard shows of a run's folder: points of all files, but for those that a later file says to forget."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points: list[tuple[str, float, int]] = []
        self.closed = 0
        board = self

        class SummaryWriter:
            def __init__(self, folder: str, purge_step: int | None = None) -> None:
                assert Path(folder).name == "tensorboard"
                if purge_step is not None:
                    board.points = [point for point in board.points if point[2] < purge_step]

            def add_scalar(self, curve: str, value: float, epoch: int) -> None:
                board.points.append((curve, value, epoch))

            def flush(self) -> None: ...
            def close(self) -> None:
                board.closed += 1

        module = ModuleType("torch.utils.tensorboard")
        module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(epoch, value) for curve, value, epoch in self.points if curve == name]


def test_event_files_hold_what_metrics_hold(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    result = train(replace(options, epochs=2, tensorboard=True))
    assert board.curve("loss/held out") == [(epoch["epoch"], epoch["test_loss"]) for epoch in result.epochs]
    assert board.closed == 1


@pytest.mark.parametrize("unwritten", [False, True])
def test_events_of_a_run_that_is_continued_go_on_without_a_gap_or_a_double(
    unwritten: bool, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run was killed before it wrote those of an epoch that was done."""
    board = Board(monkeypatch)
    stop = Stop()
    epoch = Display.epoch

    def at_the_second(self: Display, metrics: dict[str, float], epochs: int, best: bool) -> None:
        epoch(self, metrics, epochs, best)
        if metrics["epoch"] == 2:
            stop.ask()

    with monkeypatch.context() as patched:
        patched.setattr(Display, "epoch", at_the_second)
        assert not train(replace(options, epochs=4, tensorboard=True), stop=stop).finished
    assert [at for at, _ in board.curve("loss/train")] == [1, 2]
    if unwritten:
        board.points = [point for point in board.points if point[2] < 2]
    resume = str(Path(options.out) / "tiny")
    for epochs in (None, 6):  # to its end, and then on
        result = train(Options(resume=resume, epochs=epochs))
        for name, metric in (("loss/train", "train_loss"), ("learning rate", "lr")):
            assert board.curve(name) == [(one["epoch"], one[metric]) for one in result.epochs]
    assert len(result.epochs) == 6


def test_ctrl_c_is_answered_while_one_long_operation_runs() -> None:
    """As a backward pass over large images is: Python's own handlers wait until it is over."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    said: list[tuple[str, float]] = []
    factor = torch.eye(800)
    stop = Stop()
    try:
        with stop.listening(lambda sentence: said.append((sentence, monotonic()))):
            stop.doing = "this batch of 64 images"
            Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            torch.linalg.matrix_power(factor, 2**60)
            over = monotonic()
            while not stop.asked:  # the machine was quicker than the timer
                pass
    finally:
        signal.signal(signal.SIGINT, found)
    ((sentence, at),) = said
    assert sentence == "Stopping after this batch of 64 images; Ctrl-C again leaves at once."
    assert at < over


_NEVER_OVER = """
import os, signal, sys, threading, time
import torch
from rich.console import Console
from convforge.train import display as shown_by, run
from convforge.train.options import Options
from convforge.train.stop import Stop

def endless(self, progress, steps):  # one operation, which Python cannot interrupt
    print("batch", flush=True)
    torch.linalg.matrix_power(torch.eye(3000), 2**60)
    print("over", flush=True)

shown_by.Display.step = endless
run.train(Options(size=8, epochs=1, batch=500, out=sys.argv[1], name="left"), Console(width=60), Stop(exits=True))
"""


def test_a_second_ctrl_c_leaves_during_one_long_operation_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"]
    command[-1] += _NEVER_OVER
    with subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for awaited in ("batch", "Stopping after this batch of 500 images"):
            assert any(line.startswith(awaited) for line in process.stdout)
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "over" not in rest
    assert rest.splitlines()[-1] == (
        f"Left at once; what was written before is in {tmp_path}/left. "
        f"Continue with: convforge train --resume {tmp_path}/left"
    )
    assert train(Options(resume=str(tmp_path / "left"))).finished


def test_large_images_are_looked_at_few_at_a_time() -> None:
    sizes = {side: at_a_time((3, side, side)) for side in (28, 224, 1024, 4096)}
    assert sizes == {28: 250, 224: 41, 1024: 2, 4096: 1}


def test_a_precision_or_amount_that_is_none_is_refused() -> None:
    changes: list[dict[str, Any]] = [{"precision": "int8"}, {"augment": "much"}, {"weight_decay": -1.0}]
    for change, name in zip(changes, ("--precision", "--augment", "--weight-decay"), strict=True):
        with pytest.raises(UserError, match=name):
            Options(**change)
