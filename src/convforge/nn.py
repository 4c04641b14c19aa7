"""`convforge.nn`: the modules by the name that users, and the models that they have saved, know them by."""

from __future__ import annotations

from .pytorch.modules import BatchNorm2d, Conv2d, ConvTranspose2d
from .pytorch.whole import Whole as Whole

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d"]
