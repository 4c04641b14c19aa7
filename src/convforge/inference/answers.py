"""What a network returns: one array, or several in tuples, lists and dictionaries.

A template has numbers in the places of arrays: 0 alone for a network with one output, `{"boxes": 0, "scores": 1}` for
one that returns a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from reprlib import repr as short
from typing import Any, TypeAlias

from ..errors import UserError

Template: TypeAlias = Any
"""An output's number, None, or a tuple, list or dictionary of templates."""

_DEEPEST = 16


def usual(outputs: int) -> Template:
    """One output by itself, several as a tuple."""
    return 0 if outputs == 1 else tuple(range(outputs))


def filled(template: Template, outputs: Sequence[Any]) -> Any:
    """The outputs in the template's places.

    >>> filled({"boxes": 1, "scores": [0, None]}, ["first", "second"])
    {'boxes': 'second', 'scores': ['first', None]}
    """
    if isinstance(template, int):
        return outputs[template]
    return _inside(template, lambda item: filled(item, outputs))


def plain(answer: Any) -> Template:
    """A template of tuples, lists and dictionaries, from one that may have classes of its own for these.

    Raises `UserError` for what is none of them.
    """
    if answer is None or type(answer) is int:
        return answer
    if isinstance(answer, dict) and all(isinstance(key, str) for key in answer):
        return {key: plain(item) for key, item in answer.items()}
    if isinstance(answer, tuple):
        return tuple(map(plain, answer))
    if isinstance(answer, list):
        return list(map(plain, answer))
    raise UserError(f"it returns {type(answer).__name__}, and tensors, tuples, lists and dictionaries are known.")


def _inside(template: Template, each: Callable[[Any], Any]) -> Any:
    if isinstance(template, dict):
        return {key: each(item) for key, item in template.items()}
    if isinstance(template, tuple):
        return tuple(map(each, template))
    return list(map(each, template)) if isinstance(template, list) else template


def to_json(template: Template) -> Any:
    """As JSON, which has no tuples: `{"tuple": [0, 1]}`, `{"list": […]}`, `{"dict": {…}}`.

    >>> to_json((0, {"more": [1]}))
    {'tuple': [0, {'dict': {'more': {'list': [1]}}}]}
    """
    if template is None or isinstance(template, int):
        return template
    inside = _inside(template, to_json)
    return {type(template).__name__: list(inside) if isinstance(inside, tuple) else inside}


def from_json(value: Any, outputs: int, depth: int = 0) -> Template:
    """What `to_json` made, from anybody. Raises `UserError` for what it cannot have made for so many outputs."""
    if value is None or (type(value) is int and 0 <= value < outputs):
        return value
    if isinstance(value, dict) and len(value) == 1 and depth < _DEEPEST:
        ((kind, inside),) = value.items()
        if kind in ("tuple", "list") and isinstance(inside, list):
            items = [from_json(item, outputs, depth + 1) for item in inside]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict" and isinstance(inside, dict):
            return {key: from_json(item, outputs, depth + 1) for key, item in inside.items()}
    raise UserError(f"a network with {outputs} outputs cannot return {short(value)}.")
