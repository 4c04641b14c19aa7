"""Draws docs/architecture.svg: the rooms of the package and who imports whom, read from the source.

    python docs/architecture.py            writes the drawing
    python docs/architecture.py --check    exits with 1 where the source makes another, or rooms import each other

A room stands above all that it imports. An arrow that follows from others (a → b → c makes a → c plain) is left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "convforge"
DRAWING = HERE / "architecture.svg"

ROOMS = {
    "cli": (1.5, "the command's verbs"),
    "relabel": (0, "doubtful labels on a page, decided"),
    "see": (0, "the page and its server"),
    "train": (1, "images to checkpoint and report"),
    "many": (0.5, "answers for very many pictures"),
    "explain": (3, "why a layer is as fast as it is"),
    "learned": (2, "what kernels became: names, films"),
    "bench": (2, "layers side by side with others"),
    "planning": (3, "a model followed, not computed"),
    "images": (0, "pictures read within bounds"),
    "models": (1, "families, checkpoints, load, export"),
    "inference": (2.5, "whole networks: call, predict, bundle"),
    "pytorch": (1.5, "operators, plain call, kept weights"),
    "graph": (2.5, "networks: nodes, passes, capture"),
    "engine": (1.5, "passes, the choice of a plan"),
    "engine.algorithms": (1.5, "job → plan, one a file"),
    "engine.plan": (1.5, "Job, Plan, what a plan prepares"),
    "engine.kernels": (1.5, "register tile, packing, transforms"),
    "engine.geometry": (1.5, "a pass, in numbers"),
    "native": (1.5, "machine code: IR, cache, threads"),
    "definition": (1.5, "spec, reference, errors, precision"),
}
"""Each with its column in the drawing, and what it is for. Files beside these are in the room of their folder; the
root's own are the definition."""

_NOT_DRAWN = {"__main__"}
_PLAN = {"plan", "nest", "prepared", "traffic"}
"""Files of the engine that algorithms are written with."""


def room_of(module: str) -> str:
    """The room of a module, by its name below the package: 'native.ir' is in 'engine.kernels'."""
    parts = module.split(".")
    if parts[0] == "engine" and len(parts) > 1:
        if parts[1] in ("algorithms", "kernels"):
            return f"engine.{parts[1]}"
        return "engine.plan" if parts[1] in _PLAN else "engine.geometry" if parts[1] == "geometry" else "engine"
    if parts[0] == "nn":  # the public name of PyTorch's side
        return "pytorch"
    return parts[0] if parts[0] in ROOMS else "definition"


def imports() -> Iterator[tuple[str, str]]:
    """(importer, imported), as names below the package; imports for types only are left out."""
    names = {_name(path): path for path in PACKAGE.rglob("*.py")}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in _walked(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = package.split(".") if package else []
                base = parts[: len(parts) - node.level + 1]
                target = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    whole = f"{target}.{alias.name}" if target else alias.name
                    yield name, whole if whole in names else target


def _walked(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _walked(node)


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for importer, imported in imports():
        if importer and importer not in _NOT_DRAWN:  # the package itself only hands out public names
            a, b = room_of(importer), room_of(imported)
            if a != b:
                found[a].add(b)
    return found


def below(found: dict[str, set[str]], room: str) -> set[str]:
    """All that a room rests on."""
    seen: set[str] = set()
    waiting = [room]
    while waiting:
        for other in found[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def cycles(found: dict[str, set[str]]) -> list[str]:
    """Rooms that rest on themselves."""
    return [room for room in found if room in below(found, room)]


def floors(found: dict[str, set[str]]) -> dict[str, int]:
    """How many floors are above each room: it stands right below the lowest of those that import it."""
    level: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in level:
            level[room] = 1 + max((of(other) for other in found if room in found[other]), default=-1)
        return level[room]

    return {room: of(room) for room in found}


_WIDE, _HIGH, _GAP_W, _GAP_H, _MARGIN = 250, 54, 30, 46, 24


def drawing() -> str:
    """The SVG."""
    found = arrows()
    if cycles(found):
        raise SystemExit(f"these rooms import each other: {', '.join(cycles(found))}.")
    level = floors(found)
    width = (1 + max(column for column, _ in ROOMS.values())) * (_WIDE + _GAP_W) - _GAP_W + 2 * _MARGIN
    height = (1 + max(level.values())) * (_HIGH + _GAP_H) - _GAP_H + 2 * _MARGIN
    place = {
        room: (_MARGIN + column * (_WIDE + _GAP_W), _MARGIN + level[room] * (_HIGH + _GAP_H))
        for room, (column, _) in ROOMS.items()
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-label="The rooms of convforge, each above all that it imports">',
        "<style>text{font:13px system-ui,sans-serif;fill:#1f2933}.name{font-weight:600;font-size:15px}"
        "rect{fill:#f5f7fa;stroke:#52606d}.engine rect{fill:#e6f0ff;stroke:#2b6cb0}"
        "path{fill:none;stroke:#9aa5b1;stroke-width:1.3}</style>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" style="fill:#9aa5b1;stroke:none"/></marker></defs>',
        f'<rect x="0" y="0" width="{width:g}" height="{height:g}" style="fill:#ffffff;stroke:none"/>',
    ]
    for room, others in found.items():
        plain = {b for b in others if any(b in below(found, other) for other in others - {b})}
        for other in sorted(others - plain, key=list(ROOMS).index):
            lines.append(f'<path d="{_arrow(place, room, other)}" marker-end="url(#to)"/>')
    for room, (x, y) in place.items():
        kind = ' class="engine"' if room.startswith("engine") else ""
        lines.append(
            f'<g{kind}><rect x="{x:g}" y="{y:g}" width="{_WIDE}" height="{_HIGH}" rx="7"/>'
            f'<text class="name" x="{x + _WIDE / 2:g}" y="{y + 22:g}" text-anchor="middle">{escape(room)}</text>'
            f'<text x="{x + _WIDE / 2:g}" y="{y + 41:g}" text-anchor="middle">{escape(ROOMS[room][1])}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _arrow(place: dict[str, tuple[float, float]], room: str, other: str) -> str:
    """Down in the column of one of the two, where no room is in the way, and across in the gap between two floors."""
    (x, y), (u, v) = place[room], place[other]
    free = not any(a == x and y < b < v for a, b in place.values())
    x, y, u, v = x + _WIDE / 2, y + _HIGH, u + _WIDE / 2, v - 2
    turn = v - _GAP_H if free else y
    end = turn + _GAP_H - 10  # the head points straight down
    middle = (turn + end) / 2
    return f"M{x:g},{y:g} L{x:g},{turn:g} C{x:g},{middle:g} {u:g},{middle:g} {u:g},{end:g} L{u:g},{v:g}"


def main() -> None:
    wanted = drawing()
    if "--check" in sys.argv[1:]:
        if not DRAWING.exists() or DRAWING.read_text(encoding="utf-8") != wanted:
            raise SystemExit("docs/architecture.svg is not what the source makes: run python docs/architecture.py.")
        return
    DRAWING.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
