"""convforge: the convolutional layer, whole.

Names are loaded when they are first used, so that `import convforge` costs nothing that is not needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .spec import Conv2dSpec, SpecError

if TYPE_CHECKING:
    from . import engine, nn
    from .inference.compile import compile
    from .inference.model import Model
    from .models.load import load
    from .planning import plan
    from .precision import get_precision, set_precision
    from .pytorch.functional import conv2d, conv_transpose2d
    from .pytorch.kept import freeze
    from .pytorch.optimize import Report, optimize, report
    from .see.notebook import see
    from .train.called import learn as train

__version__ = "0.1.0"

_HOMES = {
    "Model": ".inference.model",
    "compile": ".inference.compile",
    "load": ".models.load",
    "conv2d": ".pytorch.functional",
    "conv_transpose2d": ".pytorch.functional",
    "freeze": ".pytorch.kept",
    "optimize": ".pytorch.optimize",
    "report": ".pytorch.optimize",
    "Report": ".pytorch.optimize",
    "plan": ".planning",
    "set_precision": ".precision",
    "get_precision": ".precision",
}

__all__ = [
    "Conv2dSpec",
    "Model",
    "Report",
    "SpecError",
    "UserError",
    "compile",
    "conv2d",
    "conv_transpose2d",
    "engine",
    "freeze",
    "get_precision",
    "load",
    "nn",
    "optimize",
    "plan",
    "report",
    "see",
    "set_precision",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("nn", "engine", "see", "train"):
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
