"""What an algorithm does for one pass, as data: its loops, its register tile, and what lies in which cache.

A plan shows its nest, which it makes of the numbers that its kernels are given;
`convforge explain` puts them into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from ..spec import ceil_div


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a loop nest: `count` times a `unit`, of which `detail` says more; `before` is what is done first in
    each of them.

    >>> str(Level(3, "tile", "of at most 14 pixels"))
    '3 tiles of at most 14 pixels'
    """

    count: int
    unit: str
    detail: str = ""
    before: str = ""

    def __str__(self) -> str:
        return f"{many(self.count, self.unit)} {self.detail}".rstrip()


def shared_out(unit: str, threads: int, parts: Sequence[Level], always: int = 0, before: str = "") -> Level:
    """The outermost level: a unit for each combination of the parts. But for the first `always` of them, those of which
    there is one are not named.

    >>> str(shared_out("task", 2, [Level(1, "image"), Level(1, "group"), Level(4, "panel", "of 8 channels")], always=1))
    '4 tasks shared out among 2 threads: 1 image × 4 panels of 8 channels'
    """
    named = [str(part) for n, part in enumerate(parts) if n < always or part.count > 1]
    how = f"shared out among {many(threads, 'thread')}: {' × '.join(named) or 'all of it'}"
    return Level(prod(part.count for part in parts), unit, how, before)


def many(count: int, unit: str) -> str:
    """A number of things.

    >>> many(1, "block"), many(12345, "block")
    ('1 block', '12,345 blocks')
    """
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class TileStep:
    """What a step takes where each number that it loads meets several sums: `held` vectors that stay in registers for
    the whole step, and `read` loads of the others."""

    multiply_adds: int
    held: int
    read: int


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """The sums that are held in registers: `rows` of `row` × `vectors` of `lane`, and what one step of them takes.

    A step loads `vectors` vectors and one number a row (a `factor`), which is broadcast, for one product a sum; where
    `lanewise`, a vector for every sum. `step` is for those that are not so.
    """

    rows: int
    row: str
    vectors: int
    lane: str
    lanes: int
    registers: int
    lanewise: bool = False
    factor: str = "input"
    step: TileStep | None = None

    @property
    def sums(self) -> int:
        """Accumulators."""
        return self.rows * self.vectors

    @property
    def multiply_adds(self) -> int:
        """Of a step."""
        return self.step.multiply_adds if self.step else self.sums

    @property
    def held(self) -> int:
        """Vectors that stay in registers for a step."""
        return self.step.held if self.step else self.vectors

    @property
    def read(self) -> int:
        """Loads of a step beside those of the vectors held."""
        if self.step:
            return self.step.read
        return self.sums if self.lanewise else self.rows

    @property
    def registers_used(self) -> int:
        """The sums, a step's vectors, and one register that takes the other factors in turn."""
        return self.sums + self.held + 1

    @property
    def loads(self) -> int:
        """Loads of a step."""
        return self.held + self.read

    @property
    def cycles(self) -> float:
        """Of a step, at two multiply-adds and two loads a cycle; four cycles is how long a sum waits for itself, which
        it does for each of its products."""
        return max(self.multiply_adds / 2, self.loads / 2, 4.0 * self.multiply_adds / self.sums)

    @property
    def limit(self) -> str:
        """What a step waits for."""
        if self.cycles == self.multiply_adds / 2:
            return "the multipliers"
        return "loads" if self.cycles == self.loads / 2 else "the multiply-add's own four cycles"


@dataclass(frozen=True, slots=True)
class Held:
    """Data that a level of the loops uses again and again, and the cache it is meant to stay in ('' for none)."""

    what: str
    bytes: int
    cache: str = ""


@dataclass(frozen=True, slots=True)
class Inner:
    """Where the innermost loop is found: `function` in the module that `build(module, dtype, target, *parameters)`
    writes."""

    build: Callable[..., None]
    function: str
    parameters: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Nest:
    """One pass. Loops from outside in; `after` is what follows them; `note` says what part of the pass this is, where
    it is not all of it."""

    loops: tuple[Level, ...]
    tile: RegisterTile
    held: tuple[Held, ...]
    inner: Inner
    after: str = ""
    note: str = ""


def largest_tile(count: int, most: int) -> int:
    """Rows of the largest tile where `count` are cut into as few tiles of at most `most` as there must be, all of
    nearly the same size (`blocks.tiles` cuts them).

    >>> largest_tile(15, 14), largest_tile(56, 14)
    (8, 14)
    """
    return ceil_div(count, max(1, ceil_div(count, most)))
