"""What Griffe is told of docstrings: their examples, from `>>>` on, are code and not Markdown's quotations."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^( *)>>> (?:.*\n?)(?:(?!\s*$).*\n?)*", re.MULTILINE)


class Examples(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Fence each paragraph of an example."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(
                lambda found: f"{found[1]}```pycon\n{found[0].rstrip()}\n{found[1]}```\n", obj.docstring.value
            )
