"""Whole runs: what is left in the folder, stopping and resuming, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from convforge.errors import UserError
from convforge.models import checkpoint
from convforge.spec import ceil_div
from convforge.train import Options, evaluation, train, twin
from convforge.train import loop as loop_module
from convforge.train.display import Display
from convforge.train.state import Progress
from convforge.train.stop import Stop


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    """36 images to learn from in batches of 8: four steps an epoch."""
    return Options(str(photos), epochs=3, batch=8, out=str(tmp_path / "runs"), name="tiny", threads=1, flips=True)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C after a step, counted over all networks of the run."""
    seen = 0

    def pressing(_self: Display, _progress: Progress, _steps: int) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "step", pressing)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def assert_same_network(one: Path, other: Path) -> None:
    for weights in ("model.safetensors", "last/model.safetensors"):
        ours, theirs = (load_file(folder / weights) for folder in (one, other))
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name


def test_folder_holds_all_that_was_promised(options: Options) -> None:
    result = train(options)
    assert result.finished
    assert {path.name for path in result.folder.iterdir()} == {
        "architecture.json", "config.json", "film.safetensors", "last", "metrics.jsonl", "model.safetensors",
        "predictions.csv", "report.html", "split.csv",
    }  # fmt: skip
    model, architecture = checkpoint.load(result.folder)
    assert (architecture.classes, architecture.input_shape) == (("left", "middle", "right"), (1, 8, 8))
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    metrics = without_times(result.folder)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert metrics[result.best_epoch - 1]["test_accuracy"] == result.test_accuracy
    assert json.loads(json.dumps(result.to_dict()))["network"]["parameters"] == result.network.parameters
    page = (result.folder / "report.html").read_text()
    assert "middle" in page
    assert "tiny" in page


def test_it_learns(options: Options) -> None:
    assert train(replace(options, epochs=12, augment=False)).test_accuracy == 1.0


def test_same_seed_same_result_other_seed_other(options: Options) -> None:
    first, again, other = (
        train(replace(options, name=name, seed=seed)).folder for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert_same_network(first, again)
    assert without_times(first) == without_times(again)
    assert without_times(first) != without_times(other)


def test_callers_random_sequence_and_threads_are_left_alone(options: Options) -> None:
    torch.manual_seed(7)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(replace(options, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_long_epoch_is_written_down_within(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(options)
    monkeypatch.setattr(loop_module, "_SAVED_EVERY", 0.0)
    died = False

    def dying(_self: Display, progress: Progress, _steps: int) -> None:
        nonlocal died
        if progress.step == 7 and not died:  # the third of four steps of an epoch
            died = True
            raise SystemExit

    monkeypatch.setattr(Display, "step", dying)
    with pytest.raises(SystemExit):
        train(replace(options, name="died"))
    folder = whole.folder.parent / "died"
    with safe_open(folder / "training.safetensors", framework="pt") as state:
        assert json.loads(state.metadata()["progress"])["step"] == 6
    assert train(Options(resume=str(folder))).finished
    assert_same_network(whole.folder, folder)
    assert without_times(whole.folder) == without_times(folder)


@pytest.mark.parametrize("model", ["vgg", "resnet"])
@pytest.mark.parametrize("step", [1, 6, 8, 12])
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(
    options: Options, monkeypatch: pytest.MonkeyPatch, model: str, step: int
) -> None:
    options = replace(options, model=model)
    whole = train(replace(options, name="whole"))
    with monkeypatch.context() as patched:
        interrupt_at(step, patched)
        stopped = train(options)
    assert not stopped.finished
    assert len(stopped.epochs) == (step - 1) // 4  # the epoch that it ends in was not evaluated
    assert (stopped.folder / "report.html").exists()
    checkpoint.load(stopped.folder)
    resumed = train(Options(resume=str(stopped.folder)))
    assert resumed.finished
    assert not (stopped.folder / "training.safetensors").exists()
    assert_same_network(whole.folder, stopped.folder)
    assert without_times(whole.folder) == without_times(stopped.folder)
    films = [(run.folder / "film.safetensors").read_bytes() for run in (whole, stopped)]
    assert films[0] == films[1]


@pytest.mark.parametrize("step", [1, 8, 12, 12 + 4])
def test_nothing_is_evaluated_once_a_stop_was_asked_for(
    options: Options, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    calls = asked_at = 0
    normalise = evaluation.normalise

    def counting(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return normalise(*arguments)

    def asking(_self: Display, _progress: Progress, _steps: int) -> None:
        nonlocal step, asked_at
        step -= 1
        if step == 0:
            stop.ask()
            asked_at = calls

    stop = Stop()
    monkeypatch.setattr(evaluation, "normalise", counting)
    monkeypatch.setattr(twin, "normalise", counting)
    monkeypatch.setattr(Display, "step", asking)
    result = train(replace(options, dense_twin=True), stop=stop)
    assert not result.finished
    assert result.dense_twin is None
    assert calls == asked_at


@pytest.mark.parametrize("which", [2, 4, 5])
def test_a_stop_while_images_are_evaluated_leads_to_the_same_files(
    options: Options, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """The second of three epochs, then what the network knows of the images it has learned from, and of the others."""
    whole = train(replace(options, name="whole"))
    monkeypatch.setattr(evaluation, "_BATCH", 5)
    calls, normalise = 0, evaluation.normalise

    def pressing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == before_it + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return normalise(*arguments)

    held_out, learned = ceil_div(9, 5), ceil_div(36, 5)
    before_it = {2: held_out, 4: 3 * held_out, 5: 3 * held_out + learned}[which]
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "normalise", pressing)
        stopped = train(options)
    assert calls == before_it + 1
    assert not stopped.finished
    assert stopped.network is None
    assert train(Options(resume=str(stopped.folder))).finished
    assert_same_network(whole.folder, stopped.folder)
    assert [line["epoch"] for line in without_times(stopped.folder)] == [1, 2, 3]


def test_the_report_of_a_stopped_run_looks_at_few_images_and_says_so(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convforge.train.run._PIXELS_WHEN_STOPPED", 3 * 64)
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        folder = train(options).folder
    assert "looked at with 3 of the 9 held-out images" in (folder / "report.html").read_text()
    train(Options(resume=str(folder)))
    assert "looked at with" not in (folder / "report.html").read_text()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises `KeyboardInterrupt`, as in a terminal; a shell's background job ignores it."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.mark.usefixtures("ctrl_c")
def test_the_first_ctrl_c_is_answered_before_the_batch_ends(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    line = "Stopping after this batch of 8 images; Ctrl-C again leaves at once.\n"
    answered = False

    def pressing(_self: Display, _progress: Progress, _steps: int) -> None:
        nonlocal answered
        os.kill(os.getpid(), signal.SIGINT)
        given_up = monotonic() + 60
        while not (answered := line in printed.getvalue()) and monotonic() < given_up:
            sleep(0.01)

    monkeypatch.setattr(Display, "step", pressing)
    train(options, Console(file=printed, width=100))
    assert answered
    assert printed.getvalue().count("Stopping") == 1


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("while_reporting", [False, True])
def test_a_second_ctrl_c_leaves_at_once_and_says_how_to_continue(
    options: Options, monkeypatch: pytest.MonkeyPatch, while_reporting: bool
) -> None:
    whole = train(replace(options, name="whole"))
    printed, folder = io.StringIO(), Path(options.out) / "tiny"

    def pressing(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if not while_reporting:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Display, "step", pressing)
        patched.setattr("convforge.train.run._write_report", pressing)
        with pytest.raises(KeyboardInterrupt):
            train(options, Console(file=printed, width=40))
    last = printed.getvalue().splitlines()[-1]
    assert last == (
        f"Left at once; what was written before is in {folder}. Continue with: convforge train --resume {folder}"
    )
    assert train(Options(resume=str(folder))).finished
    assert_same_network(whole.folder, folder)


def test_a_run_can_be_stopped_and_resumed_again_and_again(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(replace(options, name="whole"))
    folder = Path(options.out) / "tiny"
    for _ in range(20):
        with monkeypatch.context() as patched:
            interrupt_at(3, patched)
            if train(Options(resume=str(folder)) if folder.exists() else options).finished:
                break
    assert_same_network(whole.folder, folder)


def test_dense_twin_is_compared_and_resumed_too(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(options, dense_twin=True)
    printed = io.StringIO()
    whole = train(replace(options, name="whole"), Console(file=printed, width=100))
    assert whole.dense_twin is not None
    assert f"{whole.dense_twin.parameters:,}" in printed.getvalue()
    assert f"{whole.dense_twin.parameters:,}" in (whole.folder / "report.html").read_text()
    with monkeypatch.context() as patched:
        interrupt_at(12 + 5, patched, signal.SIGTERM)  # in the second epoch of the twin
        assert not train(options).finished
    resumed = train(Options(resume=str(Path(options.out) / "tiny")))
    assert resumed.finished
    assert_same_network(whole.folder / "dense-twin", resumed.folder / "dense-twin")
    assert_same_network(whole.folder, resumed.folder)


def test_signal_handlers_are_put_back(options: Options) -> None:
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        train(replace(options, epochs=1))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Stop().listening() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, found)


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong
# ---------------------------------------------------------------------------------------------------------------------


def test_existing_run_is_never_overwritten(options: Options) -> None:
    folder = train(replace(options, epochs=1)).folder
    before = contents(folder)
    with pytest.raises(UserError, match="not overwritten"):
        train(options)
    assert contents(folder) == before


def test_a_name_that_is_taken_is_refused_before_anything_is_read(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(options.out) / "tiny").mkdir(parents=True)
    printed = io.StringIO()
    monkeypatch.setattr("convforge.train.run._load", lambda *_: pytest.fail("the images were read"))
    with pytest.raises(UserError, match=r"tiny is there already.*--resume"):
        train(options, Console(file=printed))
    assert printed.getvalue() == ""


def test_default_names_do_not_collide(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convforge.train.folder.strftime", lambda _format: "now")
    names = [train(replace(options, epochs=1, name=None)).folder.name for _ in range(2)]
    assert names == ["photos-vgg-now", "photos-vgg-now-2"]


def test_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = train(replace(options, name="reference"))
    good: list[bytes] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def breaking(logits: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        weights = Path(options.out) / "tiny" / "model.safetensors"
        metrics = weights.parent / "metrics.jsonl"
        if metrics.exists() and metrics.read_text() and logits.requires_grad:
            good.append(weights.read_bytes())
            return cross_entropy(logits * float("nan"), *arguments, **named)
        return cross_entropy(logits, *arguments, **named)

    monkeypatch.setattr(loop_module.functional, "cross_entropy", breaking)
    with pytest.raises(UserError, match=r"step 5.*--lr 0\.004.*epoch 1 is kept.*--lr 0\.0004"):
        train(options)
    assert (Path(options.out) / "tiny" / "model.safetensors").read_bytes() == good[0]
    checkpoint.load(Path(options.out) / "tiny")
    assert without_times(Path(options.out) / "tiny") == without_times(reference.folder)[:1]


def test_absurd_learning_rate_ends_in_one_sentence(options: Options) -> None:
    with pytest.raises(UserError, match=r"--lr 1e\+30"):
        train(replace(options, lr=1e30))
    model, _ = checkpoint.load(Path(options.out) / "tiny")
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_full_disk_is_one_sentence_and_the_run_can_be_resumed(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(replace(options, name="whole"))
    folder = Path(options.out) / "tiny"
    fsync = os.fsync

    def full_after_an_epoch(handle: int) -> None:
        if (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "fsync", full_after_an_epoch)
        with pytest.raises(UserError, match="No space left on device"):
            train(options)
    checkpoint.load(folder)
    assert train(Options(resume=str(folder))).finished
    assert_same_network(whole.folder, folder)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_that_dies_at_any_write_is_resumed_to_the_same_files(
    options: Options, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(loop_module, "perf_counter", lambda: float(next(clock)))
    replaced, replace_file = [""], os.replace

    def dying_at(number: int) -> Callable[[str, Path], None]:
        def dying(part: str, path: Path) -> None:
            replaced.append(path.name)
            if len(replaced) == number and not after:
                raise Killed
            replace_file(part, path)
            if len(replaced) == number and after:
                raise Killed

        return dying

    folder = Path(options.out) / "tiny"
    options = replace(options, epochs=2)
    monkeypatch.setattr(checkpoint.os, "replace", dying_at(0))
    train(options)
    expected = contents(folder)
    deaths = list(range(1, len(replaced)))
    # The configuration and the split; the state, two architectures, two checkpoints and the metrics; an epoch's film,
    # state, last weights, best weights and metrics, twice; the predictions and the report.
    assert len(deaths) == 2 + 6 + 2 * 5 + 2, replaced
    for death in deaths:
        shutil.rmtree(folder)
        replaced.clear()
        monkeypatch.setattr(checkpoint.os, "replace", dying_at(death))
        with pytest.raises(Killed):
            train(options)
        monkeypatch.setattr(checkpoint.os, "replace", replace_file)
        result = train(replace(options, resume=str(folder)) if folder.exists() else options)
        assert result.finished, replaced[-1]
        found = contents(folder)
        assert [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)] == []


def test_what_a_killed_process_left_half_written_is_removed(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        folder = train(options).folder
    (folder / ".model.safetensors-xyz.part").write_bytes(b"half a mod")
    train(Options(resume=str(folder)))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_run_killed_between_the_states_of_two_networks_is_finished_and_tidied(options: Options) -> None:
    folder = train(replace(options, epochs=1, dense_twin=True)).folder
    (folder / "dense-twin" / "training.safetensors").touch()
    with pytest.raises(UserError, match="is finished"):
        train(Options(resume=str(folder)))
    assert not (folder / "dense-twin" / "training.safetensors").exists()


def test_a_state_that_contradicts_itself_is_refused(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(6, patched)
        path = train(options).folder / "training.safetensors"
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert (progress["step"], progress["seen"], len(progress["epochs"])) == (6, 16, 1)
    changes: list[dict[str, Any]] = [
        *({"step": step} for step in (10**30, -4, True, 8, 6.0)),
        *({"epochs": epochs} for epochs in ([], [{}], ["one"], {}, 1)),
        {"epochs": [progress["epochs"][0] | {"seconds": "long"}]},
        {"epochs": [progress["epochs"][0] | {"extra": 1}]},
        {"seen": -1},
        {"seen": 0},
        {"loss": float("nan")},
        {"loss": 10**400},
        {"seconds": float("inf")},
        {"extra": 1},
    ]
    for change in changes:
        save_file(tensors, path, {"progress": json.dumps(progress | change)})
        with pytest.raises(UserError, match=r"training\.safetensors does not say how far the run was"):
            train(Options(resume=str(path.parent)))


def test_a_film_of_another_network_is_refused(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(6, patched)
        folder = train(options).folder
    described = json.dumps({"layer": "0", "frames": [[0, 0.0]]})
    save_file({"kernels": torch.zeros(1, 16, 1, 5, 5)}, folder / "film.safetensors", {"film": described})
    with pytest.raises(UserError, match=r"film\.safetensors"):
        train(Options(resume=str(folder)))


def test_disk_that_is_full_from_the_start_leaves_no_folder(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UserError, match=r"config\.json: No space left"):
        train(options)
    assert not (Path(options.out) / "tiny").exists()


def test_finished_run_other_data_and_no_run_cannot_be_resumed(
    options: Options, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"config\.json is not there"):
        train(Options(resume=str(tmp_path)))
    with pytest.raises(UserError, match=r"there is no folder .*absent"):
        train(Options(resume=str(tmp_path / "absent")))
    finished = train(replace(options, epochs=1, name="finished")).folder
    with pytest.raises(UserError, match="is finished"):
        train(Options(resume=str(finished)))
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        stopped = train(options).folder
    Image.new("L", (8, 8)).save(photos / "left" / "new.png")
    with pytest.raises(UserError, match="start a new run"):
        train(Options(resume=str(stopped)))


@pytest.mark.parametrize("name", ["training.safetensors", "config.json"])
@pytest.mark.parametrize("keep", [0, 20, -5])
def test_damaged_state_is_named(options: Options, monkeypatch: pytest.MonkeyPatch, name: str, keep: int) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(5, patched)
        folder = train(options).folder
    (folder / name).write_bytes((folder / name).read_bytes().rstrip()[:keep])
    with pytest.raises(UserError, match=name):
        train(Options(resume=str(folder)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"model": "os.system"}, "os.system"),
        ({"extra": 1}, "extra"),
        ({"threads": 10**9}, "threads"),
        ({"epochs": True}, "epochs"),
        ({"lr": True}, "lr"),
        ({"task": "x" * 10**5}, "task"),
    ],
)
def test_edited_configuration_is_checked(
    options: Options, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(1, patched)
        path = train(options).folder / "config.json"
    config = json.loads(path.read_text())
    config["options"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=named) as caught:
        train(Options(resume=str(path.parent)))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch": 1}, "--batch"),
        ({"seed": -1}, "--seed"),
        ({"threads": 0}, "--threads"),
        ({"lr": 0.0}, "--lr"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": float("inf")}, "--lr"),
        ({"model": "alexnet"}, "alexnet"),
        ({"name": "a/b"}, "a/b"),
        ({"name": ".."}, "--name"),
    ],
)
def test_options_that_make_no_sense_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Options(**change)


def test_folder_that_cannot_be_made_is_named(options: Options, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out"):
        train(replace(options, out=str(tmp_path / "file")))


def test_skipped_files_are_said_and_listed(options: Options, photos: Path) -> None:
    for number in range(7):
        (photos / "left" / f"bad[{number}].png").write_text("no image")
    printed = io.StringIO()
    result = train(replace(options, epochs=1), Console(file=printed, width=100))
    assert result.skipped == 7
    assert "Skipped 7 files" in printed.getvalue()
    assert "bad[0].png" in printed.getvalue()
    assert "2 more" in printed.getvalue()
    assert len((result.folder / "skipped.txt").read_text().splitlines()) == 7


def test_a_resumed_run_lists_the_same_skipped_files_and_settings(
    options: Options, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "left" / "bad.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    clock = itertools.count()
    monkeypatch.setattr(loop_module, "perf_counter", lambda: float(next(clock)))
    options = replace(options, data=photos.name, out="runs")
    names = ("skipped.txt", "report.html", "config.json")
    folder = train(options).folder
    expected = {name: (folder / name).read_bytes() for name in names}
    shutil.rmtree(tmp_path / "runs")
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        train(options)
    folder = train(Options(resume="runs/tiny")).folder
    assert {name: (folder / name).read_bytes() for name in names} == expected


def test_piped_output_has_one_line_an_epoch(options: Options) -> None:
    printed = io.StringIO()
    train(options, Console(file=printed, width=100))
    lines = printed.getvalue().splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert lines.index(next(line for line in lines if "multiply-accumulates" in line)) < lines.index(
        next(line for line in lines if line.startswith("epoch 1/3"))
    )
    assert "\r" not in printed.getvalue()


def test_sentences_are_not_broken_where_the_output_is_narrow(options: Options) -> None:
    printed = io.StringIO()
    train(replace(options, epochs=1), Console(file=printed, width=60))
    (line,) = (line for line in printed.getvalue().splitlines() if line.startswith("Fully connected layers"))
    assert len(line) > 60
    assert line.endswith(".")


def test_terminal_shows_a_bar(options: Options) -> None:
    printed = io.StringIO()
    train(options, Console(file=printed, width=120, force_terminal=True))
    assert "images/s" in printed.getvalue()
    assert "left" in printed.getvalue()
