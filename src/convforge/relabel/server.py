"""The page's server: the images to look at, and decisions about them, which are written down before it answers.

Who may ask is decided as for `convforge see`, by the same guard. A request names an image by its number in the list and
a class by its name; no path ever comes from one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from ..errors import UserError
from ..images import decisions
from ..images.decisions import Decision
from ..see.answers import as_json
from ..see.bounded import Bounded
from ..see.guard import Guard
from ..see.key import Key
from ..see.mistakes import answer_mistakes
from ..see.network import NotThere
from ..see.pictures import Pictures
from ..see.server import page_files
from .suspects import Suspect

CHANGES = "/api/decisions"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_SEES = ("style.css", "dom.js", "theme.js")
"""Files of `see`'s page that this one is made of, too."""
_ANSWERS = 9
"""Of the network's, that the page is told: as many as there are keys for them."""


class Said(BaseModel):
    """A decision, as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: int
    label: Annotated[str | None, Field(max_length=4096)]
    """The class; None leaves the image out."""


class Desk:
    """What is on the page: the images, their pictures, and the decisions about them.

    Args:
        folder: that the images are in, and beside of whose images the decisions are written.
        run: what to call the run.
        classes: those of the folder.
        suspects: the images, in their order.
        pictures: of these, in the same order.
    """

    def __init__(
        self, folder: Path, run: str, classes: Sequence[str], suspects: Sequence[Suspect], pictures: Pictures
    ) -> None:
        self.folder, self.run, self.classes = folder, run, tuple(classes)
        self.suspects, self.pictures = tuple(suspects), pictures

    def suspect(self, number: int) -> Suspect:
        """Raises `NotThere` if there is none of that number."""
        if not 0 <= number < len(self.suspects):
            raise NotThere(f"there is no image {number}: there are {len(self.suspects)}, and counting starts at 0.")
        return self.suspects[number]

    def decide(self, number: int, label: str | None) -> None:
        """Write down what an image is. Raises `UserError` for a class that there is not, or where that failed."""
        image = self.suspect(number).image
        if label is not None and label not in self.classes:
            raise UserError(f"there is no class {label!r}: there are {', '.join(self.classes)}.")
        decisions.put(self.folder, {image.name: Decision(image.was, label)})

    def take_back(self, number: int) -> None:
        """Forget what was decided about an image."""
        decisions.put(self.folder, {self.suspect(number).image.name: None})

    def described(self) -> dict[str, Any]:
        """All of it, for the page; what is decided is read from the file, which others may have written to."""
        known = decisions.read(self.folder)
        return {
            "run": self.run,
            "folder": self.folder.name,
            "file": f"{self.folder.name}/{decisions.NAME}",
            "classes": self.classes,
            "images": [
                {
                    "name": suspect.image.name,
                    "was": suspect.image.was,
                    "group": suspect.group,
                    "part": suspect.part,
                    "answers": [{"class": name, "share": share} for name, share in suspect.ranking[:_ANSWERS]],
                    "share": dict(suspect.ranking).get(suspect.image.was, 0.0),
                    "decided": suspect.image.name in known,
                    "label": known[suspect.image.name].now if suspect.image.name in known else suspect.image.was,
                }
                for suspect in self.suspects
            ],
        }


def counted(folder: Path) -> Counter[str]:
    """How many decisions there are about a folder: 'relabelled', 'kept' and 'left out'."""
    return Counter(
        "left out" if decision.now is None else "kept" if decision.now == decision.was else "relabelled"
        for decision in decisions.read(folder).values()
    )


def create_app(desk: Desk, port: int, key: Key | None) -> FastAPI:
    """The server of one desk. `port` and `key` are as for `see.server.create_app`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Bounded)
    app.add_middleware(Guard, port=port, key=key, changes=CHANGES)
    answer_mistakes(app)

    @app.get("/api/images")
    def images() -> Response:
        return as_json(desk.described())

    @app.get("/api/images/{number}")
    def image(number: int, side: Annotated[int | None, Query(ge=16, le=512)] = None) -> Response:
        desk.suspect(number)
        content = desk.pictures.original(number) if side is None else desk.pictures.thumbnail(number, side)
        return Response(content, media_type="image/png")

    @app.post(CHANGES)
    def decide(said: Said) -> Response:
        desk.decide(said.image, said.label)
        return as_json({"image": said.image, "decided": True, "label": said.label})

    @app.delete(CHANGES + "/{number}")
    def take_back(number: int) -> Response:
        desk.take_back(number)
        return as_json({"image": number, "decided": False, "label": desk.suspect(number).image.was})

    # A path is looked up among the files that there are, and never put together.
    files = {entry.name: entry for entry in (resources.files("convforge.relabel") / "page").iterdir()}
    files |= {f"see/{name}": page_files()[name] for name in _SEES}
    files[""] = files["index.html"]

    @app.get("/{path:path}")
    def page(path: str) -> Response:
        file = files.get(path)
        suffix = "" if file is None else "." + file.name.rpartition(".")[2]
        if file is None or suffix not in _TYPES:
            raise NotThere("there is nothing at this address.")
        return Response(file.read_bytes(), media_type=f"{_TYPES[suffix]}; charset=utf-8")

    return app
