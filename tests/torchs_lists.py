"""What torch's own tests know of convolutions. Loading their lists takes seconds, so only tests that need them do."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch


@cache
def torchs_own(name: str = "conv2d") -> tuple[Any, Any]:
    """The operator of that name and its module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's test helpers warn about when they are imported is theirs
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    operator = next(op for op in op_db if op.name == f"nn.functional.{name}")
    cls = {"conv2d": torch.nn.Conv2d, "conv_transpose2d": torch.nn.ConvTranspose2d}[name]
    return operator, next(module for module in module_db if module.module_cls is cls)
