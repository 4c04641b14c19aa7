"""The innermost loop of a kernel as assembly text: the basic block that has the most multiply-adds and jumps back to
itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llvmlite import ir

from ..engine.nest import Inner
from ..native import compiler, runtime
from ..native.target import Target

# Fused on x86-64 and arm64; without FMA the products.
_MULTIPLY_ADD = re.compile(r"\s*(vfn?m(add|sub)\w+|fml[as]|v?mul[ps][sd])\b")
_LABEL = re.compile(r"([.\w$]+):")
_FALL_THROUGH = re.compile(r"\s*[#/]+ %bb\.\d+:")
_DIRECTIVE = re.compile(r"\s*(\.|#|//)")
_MEMORY = re.compile(r"\(%|\[[xs]")


@dataclass(frozen=True, slots=True)
class InnerLoop:
    """One step of the innermost loop, and what it consists of."""

    function: str
    lines: tuple[str, ...]
    multiply_adds: int
    reads: int
    """Instructions that read memory, multiply-adds among them."""
    instructions: int


def inner_loop(inner: Inner, dtype: str, target: Target) -> InnerLoop | None:
    """Compile the function and find the loop; None where there is none."""

    def write(module: ir.Module) -> None:
        inner.build(module, dtype, target, *inner.parameters)
        _keep(module, inner.function)

    with runtime.compiling:
        text = compiler.assembly(write, target)
    return find(text, inner.function)


def _keep(module: ir.Module, name: str) -> None:
    """Leave of the other functions only what calls need to know of them: there are dozens, and each takes its time."""
    for function in module.functions:
        function.linkage = ""  # "internal" are those only that are there, and called
        if function.name != name:
            function.blocks = []


def find(text: str, function: str) -> InnerLoop | None:
    """The hottest loop of a function in assembly text.

    >>> lines = ["g:", "  movl $9, %eax", ".L1:", "  vmulps (%rax), %zmm1, %zmm2", "  decl %eax", "  jne .L1", "  retq"]
    >>> find("\\n".join(lines), "g").lines
    ('vmulps (%rax), %zmm1, %zmm2', 'decl %eax', 'jne .L1')
    """
    best: list[str] = []
    for label, block in _blocks(text, function):
        loops = any(re.search(rf"\s{re.escape(label)}$", line) for line in block)
        if loops and _count(_MULTIPLY_ADD, block) > _count(_MULTIPLY_ADD, best):
            best = block
    if not best:
        return None
    # Stores come last in AT&T's order and first in arm64's; the inner loops have none, they end in registers.
    return InnerLoop(
        function,
        tuple(" ".join(line.split()) for line in best),
        _count(_MULTIPLY_ADD, best),
        sum(bool(_MEMORY.search(line)) for line in best if not line.strip().startswith("lea")),
        len(best),
    )


def _count(pattern: re.Pattern[str], lines: list[str]) -> int:
    return sum(bool(pattern.match(line)) for line in lines)


def _blocks(text: str, function: str) -> list[tuple[str, list[str]]]:
    """The labelled basic blocks of a function: (label, instructions), without comments and directives."""
    blocks: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label and not label[1].startswith((".", "LBB")):  # a function's, not one inside it
            inside = label[1].lstrip("_") == function
        if not inside:
            continue
        if label or _FALL_THROUGH.match(line):
            blocks.append((label[1] if label else "", []))
        elif line.strip() and not _DIRECTIVE.match(line) and blocks:
            blocks[-1][1].append(re.sub(r"\s*(#|//).*", "", line))
            if re.match(r"\s*j\w+\s|\s*b(\.\w+)?\s", line):
                blocks.append(("", []))  # what follows a jump is another block
    return [(label, block) for label, block in blocks if label]
