"""The page as one self-contained file: style, modules and data inside, nothing to be fetched.

Modules become functions in one script, each after those that it imports: `import { a } from "./b.js"` becomes a
constant taken from what `b` returned. That needs no parser because the page's modules keep to a few rules, which are
checked: imports stand at the beginning of a line and name what they take, exports are declared where they are made, no
module imports itself in a circle.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from posixpath import dirname, join, normpath
from typing import Any

from ...errors import UserError

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|const|class) (\w+)", re.MULTILINE)
_ANY_MODULE_WORD = re.compile(r"^(?:import|export)\b|\bimport\(", re.MULTILINE)

_LINK = '<link rel="stylesheet" href="style.css">'
_SCRIPT = '<script type="module" src="main.js"></script>'
_CHARSET = '<meta charset="utf-8">'


def bundle(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with `stored` in it, as HTML.

    Args:
        stored: what the page would ask a server for, by the address that it would ask for with its parameters in
            alphabetical order (or `job {…}` for a job's result): `{"json": …}` for an answer in JSON, `{"shape": […],
            "base64": …}` for float32 numbers, `{"type": "image/png", "base64": …}` for pictures.

    >>> page = bundle({"/api/network": {"json": {"name": "</script>"}}})
    >>> 'src="main.js"' in page, page.count("</script>")
    (False, 2)
    """
    style, script = _file("style.css"), _one_script("main.js")
    if "</script" in script or "</style" in style:
        raise UserError("the page's own files cannot be put into one: they contain the end of a script or style.")
    # "<" would end the element that the data stand in, wherever a name contains "</script>".
    data = json.dumps(stored, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "form-action 'none'; base-uri 'none'"
    )
    replacements = {
        _CHARSET: f'{_CHARSET}\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        _LINK: f"<style>{style}</style>",
        _SCRIPT: f'<script type="application/json" id="stored">{data}</script>\n'
        f'<script type="module">{script}</script>',
    }
    page = _file("index.html")
    for old, new in replacements.items():
        head, found, tail = page.partition(old)
        assert found, f"index.html must contain {old}"
        page = head + new + tail
    return page


def _one_script(first: str) -> str:
    written: dict[str, str] = {}
    parts: list[str] = []

    def write(path: str, within: tuple[str, ...]) -> str:
        assert path not in within, f"{path} imports itself by way of {', '.join(within)}"
        if path in written:
            return written[path]
        text = _file(path)

        def take(found: re.Match[str]) -> str:
            target = write(normpath(join(dirname(path), found[2])), (*within, path))
            return f"const {{{found[1].replace(' as ', ': ')}}} = {target};\n"

        body = _EXPORT.sub(r"\1 \2", _IMPORT.sub(take, text))
        assert not _ANY_MODULE_WORD.search(body), f"{path} imports or exports in a way that cannot be bundled"
        names = ", ".join(found[2] for found in _EXPORT.finditer(text))
        written[path] = "module_" + re.sub(r"\W", "_", path.removesuffix(".js"))
        parts.append(f"// {path}\nconst {written[path]} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();\n")
        return written[path]

    write(first, ())
    return "\n" + "\n".join(parts)


def _file(path: str) -> str:
    return resources.files(__package__).joinpath(*path.split("/")).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
