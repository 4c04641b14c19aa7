"""The rooms of the package stand as docs/architecture.svg draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "convforge"


def test_the_drawing_is_that_of_the_source() -> None:
    """And no two rooms import each other: such a source cannot be drawn."""
    done = subprocess.run(
        [sys.executable, "docs/architecture.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()))
def test_no_two_files_of_a_room_import_each_other(room: str) -> None:
    """Imports for types only do not count."""
    found: dict[str, set[str]] = {}
    for path in (SOURCE / room).rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE / room).with_suffix("").parts)
        found[name] = _imported(path, SOURCE / room)
    for name, others in found.items():
        assert not {other for other in others if name in found.get(other, ())}, name


def _imported(path: Path, room: Path) -> set[str]:
    """The files of the room that a file imports, by their names in it."""
    folder = path.parent.relative_to(room).parts
    names = set()
    for node in _walked(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(folder) + 1:
            base = folder[: len(folder) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join(target)} if node.module else {".".join([*target, alias.name]) for alias in node.names}
    return names


def _walked(node: ast.AST) -> list[ast.AST]:
    found = []
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            found += [child, *_walked(child)]
    return found


def test_the_engine_needs_no_tensor_library() -> None:
    program = "import sys; import convforge.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
