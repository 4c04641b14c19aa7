"""`python crowded.py` runs convolutions in an address space that is full but for holes far apart, and without torch.

What is free is a few pages here and there at the top, and more than 4 GB below them larger pieces. The system gives the
highest piece that is large enough, so small and large sections of machine code come to lie further apart than a 32-bit
displacement reaches, as happens by chance in processes that have mapped a great deal. Prints "right" if all is.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_PAGE = 4096
_END = 1 << 47
"""Of what a process has for itself."""
_MAP_PRIVATE_ANONYMOUS_NORESERVE_FIXED_NOREPLACE = 0x02 | 0x20 | 0x4000 | 0x100000


def crowd() -> None:
    """Take all that is free below the stack, but for the holes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

    def take(begin: int, end: int) -> None:
        got = libc.mmap(begin, end - begin, 0, _MAP_PRIVATE_ANONYMOUS_NORESERVE_FIXED_NOREPLACE, -1, 0)
        assert got == begin, (hex(begin), hex(end), ctypes.get_errno())

    maps = Path("/proc/self/maps").read_text().splitlines()
    taken = [(int(a, 16), int(b, 16)) for a, b in (line.split()[0].split("-") for line in maps)]
    taken = [(a, b) for a, b in taken if b < _END]
    free = list(zip([1 << 16, *(end for _, end in taken)], [begin for begin, _ in taken], strict=False))
    begin, end = max(free, key=lambda gap: gap[1] - gap[0])
    for a, b in free:
        if b - a >= _PAGE and (a, b) != (begin, end):
            take(a, b)
    # From the top down: 400 holes of 4 pages, then 60 of 64 MB; from one to the next more than a displacement.
    at = end
    for hole in [4 * _PAGE] * 400 + [64 << 20] * 60:
        take(at - (6 << 30), at)
        at -= (6 << 30) + hole
    take(begin, at)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from oracle import Case, check

    from convforge import Conv2dSpec
    from convforge.native import runtime, target

    target.current()  # may ask LLVM, whose library takes 160 MB in one piece
    runtime.workspace(1 << 20)
    crowd()
    check(Case(Conv2dSpec(20, 40, 3, padding=1), (9, 9), algorithm="winograd 4×4", exact=False))
    check(Case(Conv2dSpec(20, 40, 3, padding=1), (9, 9), algorithm="direct"))
    check(Case(Conv2dSpec(16, 16, 3, padding=1, groups=16), (9, 9)))
    print("right")


if __name__ == "__main__":
    main()
