"""How exact a convolution must be: a setting of the process, as torch has for its matrix products."""

from __future__ import annotations

from types import TracebackType
from typing import Literal

from .errors import UserError

Precision = Literal["fast", "exact"]

_current: Precision = "fast"


def get_precision() -> Precision:
    """'fast', the default, or 'exact'."""
    return _current


class set_precision:
    """Choose which algorithms may be used, from now on or, as a context manager, for a while.

    Args:
        precision: 'fast' may use algorithms that rearrange the products (Winograd); 'exact' uses only those
            that multiply each input by each weight.

    Raises:
        UserError: for any other word.

    >>> with set_precision("exact"):
    ...     get_precision()
    'exact'
    >>> get_precision()
    'fast'
    """

    def __init__(self, precision: Precision) -> None:
        global _current
        if precision not in ("fast", "exact"):
            raise UserError(f"precision must be 'fast' or 'exact', not {precision!r}.")
        self._before = _current
        _current = precision

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._before
