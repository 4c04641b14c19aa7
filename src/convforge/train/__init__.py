"""Images in, checkpoint and report out: `convforge.train("photos/")`, or `train(Options(...))` of this package."""

import sys

from .called import Callable
from .options import Options
from .run import Result, train

__all__ = ["Options", "Result", "train"]

sys.modules[__name__].__class__ = Callable
