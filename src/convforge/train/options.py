"""What the user may choose, with its defaults, and how it is stored beside a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from ..errors import UserError
from ..files import brief

MOST_EPOCHS, MOST_BATCH = 100_000, 65_536


@dataclass(frozen=True)
class Options:
    """Everything that decides how a run goes. The defaults reach 99 % on MNIST-5k in a quarter of a minute.

    Args:
        data: None for the embedded MNIST-5k, a folder with a sub-folder a class, 'fashion-mnist', or a hub name; for
            the task 'exemplar', a folder with photographs, or None for those that scikit-image carries.
        task: 'classes', to tell labelled images apart; 'exemplar', to tell patches of unlabelled photographs apart.
        model: 'vgg', 'resnet' or 'timm:NAME'.
        epochs: passes over the training images.
        batch: images a step.
        lr: the highest learning rate of the schedule; by default 0.004, for timm models 0.001.
        size: pixels a side; by default inferred.
        seed: of the split, the initial weights, the order and the augmentation.
        name: of the folder of the run; by default made from data, model and time.
        out: the folder that runs are put into.
        dense_twin: also train a fully connected network on the same data, and compare.
        threads: of torch; by default what torch has.
        augment: move the training images a little at random.
        flips: mirror them, too; by default decided from the data.
        resume: the folder of a run to continue. All other options then come from that run.

    >>> Options(epochs=0)
    Traceback (most recent call last):
    ...
    convforge.errors.UserError: --epochs must be from 1 to 100,000, not 0.
    """

    data: str | None = None
    task: str = "classes"
    model: str = "vgg"
    epochs: int = 12
    batch: int = 64
    lr: float | None = None
    size: int | None = None
    seed: int = 0
    name: str | None = None
    out: str = "runs"
    dense_twin: bool = False
    threads: int | None = None
    augment: bool = True
    flips: bool | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        for option, least, most in (
            ("epochs", 1, MOST_EPOCHS),
            ("batch", 2, MOST_BATCH),  # batch norm needs two images to have a spread
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 1024),
        ):
            value = getattr(self, option)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{option} must be from {least:,} to {most:,}, not {value}.")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"--lr must be a positive number, not {self.lr}.")
        if self.task not in ("classes", "exemplar"):
            raise UserError(f"--task must be classes or exemplar, not {self.task!r}.")
        if self.model not in ("vgg", "resnet") and not self.model.startswith("timm:"):
            raise UserError(f"--model must be vgg, resnet or timm:NAME, not {self.model!r}.")
        if self.name is not None and (self.name in ("", ".", "..") or set(self.name) & set("/\\\0")):
            raise UserError(f"--name must be the name of one folder, not {self.name!r}; use --out for where to put it.")

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the schedule."""
        if self.lr is not None:
            return self.lr
        return 0.001 if self.model.startswith("timm:") else 0.004

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> Options:
        """Options as `to_dict` gave them; `UserError` that names `origin` if these are none."""
        kinds = get_type_hints(cls)
        names = {option.name for option in fields(cls)}
        wrong = sorted(values.keys() ^ names) or [
            name
            for name, value in values.items()
            if not (isinstance(value, kinds[name]) or (name == "lr" and isinstance(value, int)))
            # To Python, True is an integer.
            or (isinstance(value, bool) and bool not in (kinds[name], *get_args(kinds[name])))
        ]
        if wrong:
            raise UserError(f"{origin} has no usable option {wrong[0][:80]!r}; it was not written by this version.")
        try:
            return cls(**values)
        except UserError as mistake:
            raise UserError(f"{origin} was edited or is damaged: {brief(mistake)}") from mistake
