"""Images in, checkpoint and report out: `convforge.train.train(Options(...))`."""

from .options import Options
from .run import Result, train

__all__ = ["Options", "Result", "train"]
