"""Object code as LLVM emits it, laid into memory so that it can be called: what a linker does, as far as kernels need.

LLVM does this as well, but takes 50 MB of memory and a tenth of a second to be there, and a process that finds all its
code on disk needs it for nothing else. Kernels for x86-64 Linux are ELF files of code and constants, whose references
to each other are distances of 32 bits (System V ABI, AMD64 supplement: R_X86_64_PC32 and R_X86_64_PLT32). Their files
are laid into one block, where such a distance reaches everything; functions of the process (libm's, Python's) are
reached by jumps with whole addresses, which stand behind the code. What is of any other kind is left to LLVM.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from ..spec import round_up
from .lasting import for_good

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_ELF, _RELOCATABLE, _X86_64 = b"\x7fELF\x02\x01\x01", 1, 62
_RELOCATION = struct.Struct("<QIIq")
_DISTANCES = (2, 4)
_JUMP, _JUMP_BYTES = b"\xff\x25\x00\x00\x00\x00", 16  # jmp [rip + 0]: to the address that follows


class CannotLink(Exception):
    """Object code of another kind than is known here; the message says what of it."""


class _Section(NamedTuple):
    """An ELF file's Elf64_Shdr."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int

    @property
    def loaded(self) -> bool:
        """Whether it is code or constants; not what is there for exceptions, of which kernels have none."""
        return bool(self.flags & 2) and self.kind != 0x7000_0001  # SHF_ALLOC, SHT_X86_64_UNWIND


class _Symbol(NamedTuple):
    """Its Elf64_Sym."""

    name: int
    info: int
    other: int
    section: int
    value: int
    size: int

    @property
    def shared(self) -> bool:
        """Whether other files may mean it by its name."""
        return self.info >> 4 != 0  # STB_LOCAL


@dataclass
class _Object:
    """One file: its tables, and where in the block its sections lie."""

    content: bytes
    sections: list[_Section] = field(default_factory=list)
    symbols: list[tuple[str, _Symbol]] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ident, kind, machine, *_, at, _, _, _, _, _, count, _ = _HEADER.unpack_from(self.content)
        if not ident.startswith(_ELF) or (kind, machine) != (_RELOCATABLE, _X86_64):
            raise CannotLink("it is no ELF file for x86-64")
        self.sections = [_Section(*fields) for fields in self._table("<IIQQQQIIQQ", at, count)]
        for section in self.sections:
            if section.kind == 2:  # SHT_SYMTAB
                fields = self._table("<IBBHQQ", section.offset, section.size // 24)
                self.symbols = [(self._text(section.link, one[0]), _Symbol(*one)) for one in fields]
            elif section.loaded and (section.kind != 1 or section.flags & 1):  # SHT_PROGBITS, SHF_WRITE
                raise CannotLink("it has data that are neither code nor constants")

    def _table(self, form: str, at: int, count: int) -> Iterator[tuple[int, ...]]:
        return struct.iter_unpack(form, self.content[at : at + count * struct.calcsize(form)])

    def _text(self, section: int, offset: int) -> str:
        first = self.sections[section].offset + offset
        return self.content[first : self.content.index(b"\0", first)].decode()

    def laid(self, size: int) -> int:
        """Its sections have their places in the block from `size` on; how large that then is."""
        for number, section in enumerate(self.sections):
            if section.loaded:
                self.places[number] = round_up(size, max(section.alignment, 1))
                size = self.places[number] + section.size
        return size

    def place(self, symbol: _Symbol) -> int:
        """Where in the block it is."""
        if symbol.section not in self.places:
            raise CannotLink("it refers to what is not in memory")
        return self.places[symbol.section] + symbol.value

    def references(self) -> Iterator[tuple[int, tuple[str, _Symbol], int]]:
        """Places in the block for distances, each with the symbol that it is the distance to, and what is added."""
        for section in self.sections:
            if section.kind not in (4, 9) or section.info not in self.places:  # SHT_RELA, SHT_REL
                continue
            for offset, kind, symbol, addend in self._table(_RELOCATION.format, section.offset, section.size // 24):
                if section.kind == 9 or kind not in _DISTANCES:
                    raise CannotLink(f"it has a reference of the kind {kind}")
                yield self.places[section.info] + offset, self.symbols[symbol], addend


def joined(files: Sequence[bytes]) -> bytes:
    """Object files as one piece: how many there are, how long each is, themselves."""
    return struct.pack(f"<{len(files) + 1}q", len(files), *map(len, files)) + b"".join(files)


def parted(whole: bytes) -> list[bytes]:
    """What `joined` has joined."""
    (count,) = struct.unpack_from("<q", whole)
    sizes, at, files = struct.unpack_from(f"<{count}q", whole, 8), 8 * (count + 1), []
    for size in sizes:
        files.append(whole[at : at + size])
        at += size
    return files


def linked(files: Sequence[bytes], names: Sequence[str]) -> dict[str, int]:
    """The addresses of these functions; the code of all files is in memory from now on, for good.

    The files are this process's own, or their hash says that they are as one has written them: nothing here looks for
    malice.

    Raises:
        CannotLink: where they are not such as LLVM makes of kernels for x86-64 Linux.
        OSError: where there is no memory that may be executed.
    """
    objects, size = [_Object(content) for content in files], 0
    places: dict[str, int] = {}
    for one in objects:
        size = one.laid(size)
        places |= {name: one.place(symbol) for name, symbol in one.symbols if symbol.shared and symbol.section}
    references = [
        (place, name, one.place(symbol) if symbol.section else None, addend)
        for one in objects
        for place, (name, symbol), addend in one.references()
    ]
    outside = dict.fromkeys(name for _, name, to, _ in references if to is None and name not in places)
    for name in outside:
        places[name] = size = round_up(size, _JUMP_BYTES)
        size += _JUMP_BYTES

    block = mmap.mmap(-1, size)
    for one in objects:
        for number, place in one.places.items():
            section = one.sections[number]
            block[place : place + section.size] = one.content[section.offset : section.offset + section.size]
    for name in outside:
        struct.pack_into("<6sQ", block, places[name], _JUMP, _address_of(name))
    for place, name, to, addend in references:
        struct.pack_into("<i", block, place, (places[name] if to is None else to) + addend - place)
    base = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if _process().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    for_good(block)
    return {name: base + places[name] for name in names}


@cache
def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _address_of(name: str) -> int:
    """Of a function that the process has."""
    try:
        return ctypes.cast(getattr(_process(), name), ctypes.c_void_p).value or 0
    except AttributeError as error:
        raise CannotLink(f"it calls {name}, which is not in this process") from error
