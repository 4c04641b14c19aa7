"""convforge: the convolutional layer, whole."""

from .spec import Conv2dSpec, SpecError

__all__ = ["Conv2dSpec", "SpecError"]
__version__ = "0.1.0"
