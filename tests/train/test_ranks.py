"""A run that real torchrun shares out among processes is the run of one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convforge.errors import UserError
from convforge.train import Options, Result, train
from convforge.train.augment import Places, augment, augment_strongly
from convforge.train.display import Display
from convforge.train.loop import METRICS
from convforge.train.ranks import Ranks
from convforge.train.state import Progress, read_metrics
from convforge.train.stop import Stop
from convforge.train.telling import describe_ranks

from .torchrun import Torchrun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their rank in /proc")

EPOCHS, NOISE = 24, 2e-4
"""Losses and weights differ by what adding up in another order makes of float32 numbers in some 70 steps of AdamW."""


def options(photos: Path, **more: object) -> Options:
    """36 images to learn from, in batches of 12: three steps an epoch."""
    common = {"epochs": EPOCHS, "batch": 12, "threads": 2, "out": str(photos.parent / "runs"), "name": "one"}
    return Options(str(photos), **(common | more))  # type: ignore[arg-type]


def command(wanted: Options) -> tuple[str, ...]:
    said = ("epochs", "batch", "threads", "out", "name", "model")
    pairs = [(f"--{name}", str(getattr(wanted, name))) for name in said if getattr(wanted, name) is not None]
    return ("-m", "convforge", "train", str(wanted.data), *(word for pair in pairs for word in pair))


def assert_same_run(one: Path, other: Path, noise: float = NOISE) -> None:
    ours, theirs = read_metrics(one / METRICS), read_metrics(other / METRICS)
    assert len(ours) == len(theirs)
    for metrics, others in zip(ours, theirs, strict=True):
        for name in ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr"):
            assert metrics[name] == pytest.approx(others[name], rel=noise, abs=noise), (metrics["epoch"], name)
    weights, others_weights = (load_file(folder / "last" / "model.safetensors") for folder in (one, other))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others_weights[name], rtol=50 * noise, atol=50 * noise, msg=name)


def test_two_processes_do_what_one_does_and_a_killed_one_changes_nothing(photos: Path, tmp_path: Path) -> None:
    # Some 25 s: two times torchrun, whose processes import torch, and once more after the kill.
    alone = train(options(photos))
    two = options(photos, name="two")
    said = Torchrun(tmp_path, 2, *command(two), "--sync-batch-norm").wait()
    assert "2 processes share each batch: 6 images and 1 thread each" in said
    assert said.count("of the held-out images are recognised") == 1  # one of them speaks
    assert_same_run(alone.folder, tmp_path / "runs" / "two")
    assert (tmp_path / "runs" / "two" / "predictions.csv").read_text().count("\n") == 10

    killed = tmp_path / "runs" / "killed"
    run = Torchrun(tmp_path, 2, *command(options(photos, name="killed")), "--sync-batch-norm", restarts=2)
    run.kill(1, when=lambda: (killed / METRICS).exists() and len((killed / METRICS).read_text().splitlines()) > 2)
    assert "all begin again from the last checkpoint" in run.wait()
    assert_same_run(tmp_path / "runs" / "two", killed, noise=0)
    assert not (killed / "training.safetensors").exists()


def stopped(wanted: Options, step: int, monkeypatch: pytest.MonkeyPatch) -> Result:
    stop = Stop()

    def stopping(_self: Display, progress: Progress, _steps: int) -> None:
        if progress.step == step:
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stopping)
        result = train(wanted, stop=stop)
    assert not result.finished
    return result


def test_three_processes_continue_what_one_has_begun(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without batch norms: each process of another number of them sees other images. Stopped within an epoch.
    layers = {"model": "conv 8 3x3 same, relu, pool 2, conv 8 3x3 same, relu, gap", "batch": 10}
    alone = train(options(photos, **layers))
    begun = stopped(options(photos, name="begun", **layers), 8, monkeypatch).folder
    Torchrun(tmp_path, 3, "-m", "convforge", "train", "--resume", str(begun)).wait()
    assert_same_run(alone.folder, begun)


CHECKS = """
import torch
import torch.distributed as dist
from torch import nn
from convforge.errors import UserError
from convforge.pytorch.synchronised import synchronised
from convforge.train.ranks import joined

def refuse():
    raise UserError("no place")

def checks():
    with joined() as ranks:
        assert (ranks.count, ranks.here) == (2, 2)
        # What only the first rank may do: all get what came of it, and its mistakes.
        assert ranks.by_first(lambda: ranks.rank) == 0
        for mistake in (lambda: ranks.by_first(refuse), lambda: ranks.must_agree(str(ranks.rank), "no place")):
            try:
                mistake()
            except UserError as error:
                assert str(error) == "no place"
            else:
                raise AssertionError
        assert ranks.any(ranks.rank == 1) and not ranks.any(False)
        for layer, shape in ((nn.BatchNorm2d(3), (5, 3, 4, 4)), (nn.BatchNorm1d(3, momentum=None), (5, 3)),
                             (nn.BatchNorm2d(3, affine=False), (5, 3, 2, 2))):
            torch.manual_seed(0)
            layer.double().train()
            x, dy = 1e3 + torch.rand(shape, dtype=torch.double), torch.rand(shape, dtype=torch.double)
            expected = {}
            for shared in (False, True):
                layer.reset_running_stats()
                layer.zero_grad()
                # Three images here and two there.
                rows = slice(None) if not shared else slice(0, 3) if ranks.first else slice(3, None)
                mine = x[rows].clone().requires_grad_()
                if shared:
                    with synchronised(layer):
                        for _ in range(2):
                            y = layer(mine)
                    assert type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d)
                else:
                    for _ in range(2):
                        y = layer(mine)
                if shared:
                    with synchronised(layer):
                        y = layer(mine)
                        (y * dy[rows]).sum().backward()
                else:
                    y = layer(mine)
                    (y * dy[rows]).sum().backward()
                found = {"y": y.detach(), "dx": mine.grad, **layer.state_dict()}
                for name, parameter in layer.named_parameters():
                    found["d" + name] = parameter.grad.clone()
                found = {name: tensor.clone() for name, tensor in found.items()}
                if not shared:
                    expected = found
                    continue
                for name, tensor in found.items():
                    wanted = expected[name]
                    if name in ("y", "dx"):
                        wanted = wanted[rows]
                    elif name.startswith("d"):
                        dist.all_reduce(tensor)  # each has its part
                    torch.testing.assert_close(tensor, wanted, rtol=1e-9, atol=1e-9, msg=name)
        # A parameter that has no part in the answer: a sentence, and no gradient that is waited for.
        learner = ranks.learner(Partly())
        for _ in range(2):
            learner(torch.rand(3, 2)).sum().backward()

class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)

try:
    checks()
except UserError as error:
    assert "no part in its answer" in str(error), error
    print("sound\\n", end="")
"""


def test_batch_norms_of_two_processes_are_those_of_one_and_mistakes_are_everybodys(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(CHECKS)
    said = Torchrun(tmp_path, 2, "checks.py").wait()
    assert said.splitlines().count("sound") == 2


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [1, 6, 25])
def test_each_image_is_one_ranks(images: int, count: int) -> None:
    for parts in ([Ranks(rank, count).every(images) for rank in range(count)],
                  [Ranks(rank, count).places(images) for rank in range(count)]):  # fmt: skip
        assert sorted(torch.cat(parts).tolist()) == list(range(images))
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("change", [augment, augment_strongly])
def test_an_image_is_changed_alike_whoever_has_the_rest_of_its_batch(change: object) -> None:
    images = torch.rand(7, 3, 9, 9)

    def changed(rows: Sequence[int]) -> torch.Tensor:
        draw, places = torch.Generator().manual_seed(3), Places(torch.tensor(rows), 7)
        found: torch.Tensor = change(images[rows], draw, True, places)  # type: ignore[operator]
        return found

    torch.testing.assert_close(torch.cat([changed([0, 1, 2]), changed([3, 4]), changed([5, 6])]), changed(range(7)))


def test_threads_are_divided_and_a_batch_must_be_large_enough() -> None:
    assert [Ranks(0, 4, here).threads(8) for here in (1, 2, 4, 16)] == [8, 4, 2, 1]
    assert Ranks().threads(None) is None
    from rich.console import Console

    display = Display(Console(quiet=True))
    describe_ranks(display, Options(batch=6), Ranks(0, 3))
    with pytest.raises(UserError, match=r"--batch 6 is too small for 4 processes.*--batch 8 or more"):
        describe_ranks(display, Options(batch=6), Ranks(0, 4))
    describe_ranks(display, Options(batch=6, sync_batch_norm=True), Ranks(0, 4))
