"""A file's name as text that can be shown.

A name on disk is bytes without a slash: it need not be UTF-8, and may hold what moves a terminal's cursor, or turns the
order of the letters after it around. Python keeps bytes that are no UTF-8 as lone surrogates, with which a file is
opened, and which no file, terminal or page takes. So files are opened by their own names, and shown by these.
"""

from __future__ import annotations

import os
import re

_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_LINES = r"\u2028\u2029"
# Marks, embeddings, overrides and isolates: each can make what follows read from the other end.
_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SURROGATES = r"\ud800-\udfff"
_UNSHOWN = re.compile(f"[{_CONTROLS}{_LINES}{_DIRECTIONS}{_SURROGATES}]")


def shown(name: str | os.PathLike[str]) -> str:
    r"""The name or path on one line of text that always encodes to UTF-8.

    Bytes that are no UTF-8 and control characters become `\xNN`; line separators, what turns the direction of writing,
    and surrogates become `\uNNNN`. Everything else stays as it is, backslashes too, so that shown twice is shown once.

    >>> print(shown("café.png"), shown("red\x1b[31m.png"), shown(os.fsdecode(b"caf\xe9.png")))
    café.png red\x1b[31m.png caf\xe9.png
    """
    return _UNSHOWN.sub(_escaped, os.fspath(name))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's mark for the byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
