"""The explorer: a page on which every number of a network can be traced to the products that made it.

`convforge.see(model, images)` is `notebook.see`: the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Explorer(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        from .notebook import see

        return see(*args, **settings)


sys.modules[__name__].__class__ = _Explorer
