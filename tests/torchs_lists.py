"""What torch's own tests know of conv2d. Loading their lists takes seconds, so only tests that need them do."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch


@cache
def torchs_own() -> tuple[Any, Any]:
    """The operator and the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's test helpers warn about when they are imported is theirs
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    operator = next(op for op in op_db if op.name == "nn.functional.conv2d")
    return operator, next(module for module in module_db if module.module_cls is torch.nn.Conv2d)
