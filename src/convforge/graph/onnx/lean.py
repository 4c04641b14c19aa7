"""An ONNX file without its weights, and where these lie in it.

Protobuf's parser copies every tensor out of a file, and again when it is asked for. So the file is walked through here
first, no further than to the bytes of its weights: `ModelProto.graph` (7), `GraphProto.initializer` (5),
`TensorProto.raw_data` (9). What is left is small, and is parsed as any other file. Of the format, this knows how fields
are framed (protobuf.dev, "Encoding"): a tag, which is number · 8 + kind, and a value whose kind says how long it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _RAW_DATA = (number << 3 | _BYTES for number in (7, 5, 9))
_MOST_FIELDS = 1 << 20
"""Of one message: a parser in C takes a file of more."""
_MOST_IN_TENSOR = 64
"""One with more has its numbers one by one."""


def lean(content: memoryview) -> tuple[bytes, list[memoryview | None]]:
    """The file with nothing in the place of the bytes of its graph's weights; and these, for each of the graph's
    initializers in their order. None stands where the numbers are still in the file.

    Raises `ValueError` where the bytes are framed in no way that is known here, or in too many pieces.
    """
    weights: list[memoryview | None] = []

    def tensor(body: memoryview) -> bytes:
        raw, parts = None, []
        for count, (tag, value, field) in enumerate(_fields(body)):
            if count == _MOST_IN_TENSOR:
                weights.append(None)
                return bytes(body)
            if tag == _RAW_DATA:  # the last one counts
                raw = value
                parts.append(_field(tag, b""))
            else:
                parts.append(bytes(field))
        weights.append(raw)
        return b"".join(parts)

    def graph(body: memoryview) -> bytes:
        return _with_other(body, _INITIALIZER, tensor)

    return _with_other(content, _GRAPH, graph), weights


def _with_other(body: memoryview, wanted: int, other: Callable[[memoryview], bytes]) -> bytes:
    """A message with something else in its fields of one kind."""
    parts = []
    for count, (tag, value, field) in enumerate(_fields(body)):
        if count == _MOST_FIELDS:
            raise ValueError("too many fields")
        parts.append(_field(tag, other(value)) if tag == wanted else bytes(field))
    return b"".join(parts)


def _fields(body: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Of each field its tag, its value, and all of it."""
    at = 0
    while at < len(body):
        first = at
        tag, at = _varint(body, at)
        kind, begin = tag & 7, at
        if kind == _NUMBER:
            _, end = _varint(body, at)
        elif kind == _BYTES:
            size, begin = _varint(body, at)
            end = begin + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            end = at + (8 if kind == _EIGHT_BYTES else 4)
        else:
            raise ValueError("a kind of field that is not known")
        if end > len(body):
            raise ValueError("a field that ends behind its message")
        yield tag, body[begin:end], body[first:end]
        at = end


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    """A number in seven bits a byte, the lowest first, and where the next one begins."""
    number = 0
    for place in range(10):
        byte = body[at + place] if at + place < len(body) else -1
        if byte < 0:
            break
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise ValueError("a number without an end")


def _field(tag: int, value: bytes) -> bytes:
    """A field of bytes."""
    return _as_varint(tag) + _as_varint(len(value)) + value


def _as_varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
