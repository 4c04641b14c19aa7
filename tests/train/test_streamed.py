"""Images that are read when they are needed: the same runs, in bounded memory, from folders, shards and tables."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from convforge.errors import UserError
from convforge.train import Options, data, streamed, train
from convforge.train.display import Display
from convforge.train.ranks import Ranks
from convforge.train.state import Progress, random_numbers
from convforge.train.stop import Stop
from convforge.train.streamed import ByShard, Streamed

from .test_run import assert_same_network, without_times


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    return Options(str(photos), epochs=3, batch=8, out=str(tmp_path / "runs"), name="kept", threads=1)


def test_a_streamed_folder_gives_the_run_of_one_in_memory(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = train(options)
    page = io.StringIO()
    read = train(replace(options, name="read", stream=True), Console(file=page, width=200))
    assert_same_network(kept.folder, read.folder)
    assert without_times(kept.folder) == without_times(read.folder)
    for name in ("predictions.csv", "film.safetensors"):
        assert (kept.folder / name).read_bytes() == (read.folder / name).read_bytes()
    assert "Images are read when they are needed: 45 of 1×8×8" in page.getvalue()
    epochs = [line for line in page.getvalue().splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 3
    assert all("GB of memory" in line for line in epochs)

    def stopping(_self: Display, progress: Progress, _steps: int) -> None:
        if progress.step == 6:
            stop.ask()

    stop = Stop()
    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stopping)
        stopped = train(replace(options, name="stopped", stream=True), stop=stop)
    assert not stopped.finished
    assert train(Options(resume=str(stopped.folder))).finished
    assert_same_network(kept.folder, stopped.folder)


def test_what_does_not_fit_into_memory_is_streamed_unless_that_is_ruled_out(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_usable_memory", lambda: 45 * 64 - 1)
    assert data.load(str(photos)).streams
    with pytest.raises(UserError, match=r"need 0\.0 GB of memory"):
        data.load(str(photos), stream=False)
    # Processes that share a machine share its memory.
    monkeypatch.setattr(data, "_usable_memory", lambda: 2 * 45 * 64 - 1)
    assert not data.load(str(photos)).streams
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert data.load(str(photos)).streams


def test_an_image_that_is_damaged_behind_its_header_is_left_out_and_named(options: Options, photos: Path) -> None:
    draw = np.random.default_rng(1)
    torn = photos / "left" / "3.png"
    Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(torn)
    torn.write_bytes(torn.read_bytes()[:60])
    result = train(replace(options, stream=True))
    assert result.finished
    assert data.load(str(photos), stream=True).fingerprint() == data.load(str(photos), stream=True).fingerprint()
    assert "3.png is damaged" in (result.folder / "skipped.txt").read_text()
    rows = (result.folder / "predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == len(set(rows))
    for split in (data.load(str(photos), stream=True).train, data.load(str(photos), stream=True).test):
        found = split.take(torch.arange(len(split)))
        assert not any(name.endswith("left/3.png") for name in found.names)
        assert len(found) == len(found.labels) == len(found.images)


def test_decoded_images_are_kept_in_a_file_and_found_again(
    options: Options, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: pip install 'convforge[train]'")
    torn = photos / "left" / "3.png"
    torn.write_bytes(torn.read_bytes()[:60])
    kept = train(options)
    cache = tmp_path / "cache"
    first = train(replace(options, name="first", stream=True, cache=str(cache)))
    assert_same_network(kept.folder, first.folder)  # what is damaged is left out before anything is learned, as there
    assert (kept.folder / "predictions.csv").read_bytes() == (first.folder / "predictions.csv").read_bytes()
    assert len(list(cache.glob("*.arrow"))) == 1
    monkeypatch.setattr(data, "_pixels", lambda *_: pytest.fail("decoded once more"))
    again = train(replace(options, name="again", stream=True, cache=str(cache)))
    assert_same_network(first.folder, again.folder)
    monkeypatch.undo()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photos / "left" / "4.png")
    data.load(str(photos), stream=True, cache=str(cache))
    assert len(list(cache.glob("*.arrow"))) == 2
    assert not list(cache.glob("*.part"))


def shards(sizes: list[int], buffer: int) -> tuple[Streamed, list[int]]:
    """A split of 1×1×1 images whose pixel is their number, without every fifth; and how often each shard was begun."""
    starts = [0, *np.cumsum(sizes).tolist()]
    begun = [0] * len(sizes)

    def opened(shard: int) -> Iterator[bytes]:
        begun[shard] += 1
        return (bytes([number]) for number in range(starts[shard], starts[shard + 1]))

    def decode(content: bytes, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        assert name == str(content[0])
        return np.frombuffer(content, np.uint8).reshape(1, 1, 1).copy()

    rows = torch.tensor([number for number in range(starts[-1]) if number % 5])
    reader = ByShard(starts, opened, decode, str, buffer)
    return Streamed(reader, rows, rows % 3, (1, 1, 1), rows), begun


@pytest.mark.parametrize(("sizes", "buffer"), [([50], 8), ([10, 0, 25, 7], 8), ([20, 20, 20], 1000), ([60, 60], 1)])
def test_shards_are_shuffled_through_a_buffer_and_read_once(sizes: list[int], buffer: int) -> None:
    split, begun = shards(sizes, buffer)
    orders = [split.order(random_numbers(0, "order", epoch)) for epoch in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(split)))
    assert torch.equal(orders[0], split.order(random_numbers(0, "order", 0)))
    assert not torch.equal(orders[0], orders[1]) or buffer == 1
    parts = list(orders[0].split(7))
    found = list(split.read(parts))
    assert begun == [1 if size > 1 else 0 for size in sizes]
    for part, images in zip(parts, found, strict=True):
        assert images.images.flatten().tolist() == split.rows[part].tolist()
        assert images.labels.tolist() == (split.rows[part] % 3).tolist()
    # Continued in the middle, and by several ranks: the same images.
    assert [images.names for images in split.read(parts[3:])] == [images.names for images in found[3:]]
    ranks = [Ranks(rank, 3) for rank in range(3)]
    by_rank = [list(split.read([part[rank.places(len(part))] for part in parts])) for rank in ranks]
    assert [sum((images.names for images in together), ()) for together in zip(*by_rank, strict=True)] == [
        images.names for images in found
    ]


def test_a_buffer_holds_no_more_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    split, _ = shards([100, 100], 16)
    order = split.order(random_numbers(0, "order", 0))
    # An image is given out at most so much earlier than it comes in that the buffer is full.
    firsts = [max(order[: at + 1].argsort().argsort().tolist()) for at in range(3)]
    assert firsts == [0, 1, 2]
    shard = (split.rows[order] >= 100).long()
    changes = (shard[1:] != shard[:-1]).nonzero().flatten()
    assert changes.max() - changes.min() < 2 * 16 + 16 * 5  # one shard ends among the first images of the other only


def tar(path: Path, images: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(path, "w") as file:
        for key, content, label in images:
            for ending, part in (("png", content), ("cls", label.encode())):
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(part)
                file.addfile(entry, io.BytesIO(part))


def contents(photos: Path) -> list[tuple[str, bytes, str]]:
    files = sorted(photos.rglob("*.png"))
    return [(f"{n:03}", file.read_bytes(), file.parent.name) for n, file in enumerate(files)]


def test_webdataset_shards_are_learned_from(photos: Path, tmp_path: Path, options: Options) -> None:
    pytest.importorskip("webdataset", reason="webdataset is not installed: pip install 'convforge[scale]'")
    images = contents(photos)
    (tmp_path / "shards").mkdir()
    for number in range(3):
        tar(tmp_path / "shards" / f"train-{number}.tar", images[number::3])
    found = data.load(str(tmp_path / "shards"))
    assert found.streams
    assert found.classes == ("left", "middle", "right")
    assert (len(found.train), len(found.test), found.input_shape) == (36, 9, (1, 8, 8))
    result = train(replace(options, data=str(tmp_path / "shards"), epochs=8))
    assert result.finished
    assert result.epochs[-1]["train_loss"] < result.epochs[0]["train_loss"]
    # Some for testing, and classes by number.
    (tmp_path / "shards" / "classes.txt").write_text("a\nb\nc\n")
    numbers = {"left": "0", "middle": "1", "right": "2"}
    for number in range(3):
        name = "val" if number == 2 else "train"
        (tmp_path / "shards" / f"train-{number}.tar").unlink()
        part = [(key, content, numbers[label]) for key, content, label in images[number::3]]
        tar(tmp_path / "shards" / f"{name}-{number}.tar", part)
    found = data.load(str(tmp_path / "shards"))
    assert (found.classes, len(found.train), len(found.test)) == (("a", "b", "c"), 30, 15)
    tar(tmp_path / "shards" / "train-9.tar", [("x", images[0][1], "7")])
    with pytest.raises(UserError, match="has the class '7', which its list of classes does not have"):
        data.load(str(tmp_path / "shards"))


def test_a_hugging_face_data_set_is_streamed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'convforge[train]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images, names = contents(photos), ["left", "middle", "right"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {
        "image": [{"bytes": content, "path": None} for _, content, _ in images],
        "label": [names.index(label) for *_, label in images],
    }
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "table" / "train-0.parquet")
    kept = data.load(str(tmp_path / "table"))
    read = data.load(str(tmp_path / "table"), stream=True)
    assert (kept.streams, read.streams) == (False, True)
    assert (kept.classes, kept.mean, kept.std) == (read.classes, read.mean, read.std)
    for ours, theirs in ((kept.train, read.train), (kept.test, read.test)):
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.take(torch.arange(len(ours))).images, theirs.take(torch.arange(len(ours))).images)


def test_memory_is_what_the_system_says() -> None:
    before = streamed.memory()
    assert before is not None
    taken = np.ones(2**24)
    assert (streamed.memory() or 0) - before > 2**26
    del taken
