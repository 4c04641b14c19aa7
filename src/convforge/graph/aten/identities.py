"""What is nothing in eval mode."""

from __future__ import annotations

from typing import Any

from .builder import Arguments, Builder, Cannot, Converter


def _itself(b: Builder, a: Arguments) -> Any:
    return (a["self"] if "self" in a else a["input"]).name


def _dropout(b: Builder, a: Arguments) -> Any:
    if a["train"] and a["p"]:
        raise Cannot("in training mode draws random numbers: call eval() first")
    return _itself(b, a)


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "to", "_to_copy"), _itself),
    **dict.fromkeys(("type_as", "positive", "_assert_tensor_metadata", "resolve_conj", "resolve_neg"), _itself),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
}
