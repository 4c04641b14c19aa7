"""What the user may choose, with its defaults, and how it is stored beside a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from ..errors import UserError
from ..files import brief
from ..models.families import LARGEST_IMAGE
from .augment import LEVELS
from .split import check_part

MOST_EPOCHS, MOST_BATCH = 100_000, 65_536

_WRITTEN_BEFORE = {
    "passes": 1, "weight_decay": 0.05, "label_smoothing": 0.05, "patience": 0, "largest": 128, "channels": None,
    "val": None, "balance": False, "start": None, "pretrained": False, "freeze": False, "precision": "float32",
    "tensorboard": False, "sync_batch_norm": False, "stream": None, "cache": None,
}  # fmt: skip
"""What runs did whose configuration does not speak of it yet."""


@dataclass(frozen=True)
class Options:
    """Everything that decides how a run goes. What is None is chosen when the data is known (`defaults.chosen`).

    Args:
        data: None for the embedded MNIST-5k, a folder with a sub-folder a class, 'fashion-mnist', or a hub name; for
            the task 'exemplar', a folder with photographs, or None for those that scikit-image carries.
        task: 'classes', to tell labelled images apart; 'exemplar', to tell patches of unlabelled photographs apart.
        model: 'vgg', 'resnet', 'timm:NAME', 'torchvision:NAME', a line of layers, or 'package.module:callable'.
        epochs: at most.
        passes: over the training images, an epoch.
        batch: images a step.
        lr: the highest learning rate of the schedule.
        weight_decay: of AdamW, on weights that multiply.
        label_smoothing: the part of the target that is shared out among all classes.
        patience: epochs without a lower held-out loss after which the rate falls and the run ends; what is kept is
            the epoch with the lowest. 0 for a rate that falls over all epochs, of which the last is kept.
        size: pixels a side.
        largest: pixels a side at most, where `size` is not said.
        channels: of the images that the network gets: 1 for grey, 3 for colour; by default as they are.
        seed: of the split, the initial weights, the order and the augmentation.
        val: the part of each class that is held out, where the data comes without a split.
        balance: weigh each class as if it had as many images as the others.
        name: of the folder of the run; by default made from data, model and time.
        out: the folder that runs are put into.
        dense_twin: also train a fully connected network on the same data, and compare.
        threads: of torch; by default what torch has. Processes that share a machine share them.
        augment: how much training images are changed at random: 'none', 'light' or 'strong'. True leaves the choice to
            the data; False is 'none'.
        flips: mirror them, too; by default decided from the data.
        start: the folder of a run whose weights this one starts from.
        pretrained: start from the weights that timm or torchvision has for the model.
        freeze: let only the new last layer learn in the first fifth of the epochs.
        precision: 'float32', or 'bf16' where the CPU has it.
        tensorboard: write event files.
        stream: read images when they are needed instead of keeping all in memory; by default where they do not fit.
        cache: a folder that keeps decoded images in files which are mapped into memory, where images are streamed.
        sync_batch_norm: where several processes share a batch, its batch norms see all of it.
        resume: the folder of a run to continue. All other options then come from that run, but for `epochs`, which may
            be more.

    >>> Options(epochs=0)
    Traceback (most recent call last):
    ...
    convforge.errors.UserError: --epochs must be from 1 to 100,000, not 0.
    """

    data: str | None = None
    task: str = "classes"
    model: str | None = None
    epochs: int | None = None
    passes: int | None = None
    batch: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    patience: int | None = None
    size: int | None = None
    largest: int | None = None
    channels: int | None = None
    seed: int = 0
    val: float | None = None
    balance: bool = False
    name: str | None = None
    out: str = "runs"
    dense_twin: bool = False
    threads: int | None = None
    augment: bool | str = True
    flips: bool | None = None
    start: str | None = None
    pretrained: bool = False
    freeze: bool = False
    precision: str = "float32"
    tensorboard: bool = False
    sync_batch_norm: bool = False
    stream: bool | None = None
    cache: str | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        for option, least, most in (
            ("epochs", 1, MOST_EPOCHS),
            ("passes", 1, MOST_EPOCHS),
            ("batch", 2, MOST_BATCH),  # batch norm needs two images to have a spread
            ("patience", 0, MOST_EPOCHS),
            ("largest", 1, LARGEST_IMAGE),
            ("channels", 1, 3),
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 1024),
        ):
            value = getattr(self, option)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{option} must be from {least:,} to {most:,}, not {value}.")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"--lr must be a positive number, not {self.lr}.")
        for option in ("weight_decay", "label_smoothing"):
            value = getattr(self, option)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"--{option.replace('_', '-')} must be from 0 to less than 1, not {value:g}.")
        if self.val is not None:
            check_part(self.val)
        if self.task not in ("classes", "exemplar"):
            raise UserError(f"--task must be classes or exemplar, not {self.task!r}.")
        if self.model is not None and self.model not in ("vgg", "resnet") and not set(self.model) & set(": ,"):
            raise UserError(
                "--model must be vgg, resnet, timm:NAME, torchvision:NAME, package.module:callable or a line of layers "
                f"such as 'conv 32 3x3 same, relu, gap, linear 10', not {self.model!r}."
            )
        if not isinstance(self.augment, bool) and self.augment not in LEVELS:
            raise UserError(f"--augment must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, not {self.augment!r}.")
        if self.precision not in ("float32", "bf16"):
            raise UserError(f"--precision must be float32 or bf16, not {self.precision!r}.")
        if self.name is not None and (self.name in ("", ".", "..") or set(self.name) & set("/\\\0")):
            raise UserError(f"--name must be the name of one folder, not {self.name!r}; use --out for where to put it.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> Options:
        """Options as `to_dict` gave them; `UserError` that names `origin` if these are none."""
        kinds = get_type_hints(cls)
        names = {option.name for option in fields(cls)}
        if "passes" not in values and values.get("augment") is True:
            values = values | {"augment": "light"}
        values = _WRITTEN_BEFORE | values
        wrong = sorted(values.keys() ^ names) or [
            name
            for name, value in values.items()
            if not (isinstance(value, kinds[name]) or (float in get_args(kinds[name]) and isinstance(value, int)))
            # To Python, True is an integer.
            or (isinstance(value, bool) and bool not in (kinds[name], *get_args(kinds[name])))
        ]
        if wrong:
            raise UserError(f"{origin} has no usable option {wrong[0][:80]!r}; it was not written by this version.")
        try:
            return cls(**values)
        except UserError as mistake:
            raise UserError(f"{origin} was edited or is damaged: {brief(mistake)}") from mistake
