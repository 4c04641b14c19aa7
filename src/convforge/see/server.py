"""The page's server: what the page asks for about a network and its images, as JSON, pixels and float32 numbers.

Nothing is read from disk but the page's own files and the images that were listed at the start, which requests know by
number only. See `guard.py` for who may ask at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from ..learned.film import Film
from .answers import as_floats, as_json
from .asked import View
from .backward import Backward
from .bounded import Bounded
from .described import describe
from .guard import Guard
from .jobs import Jobs
from .key import Key
from .mistakes import answer_mistakes
from .network import Network, NotThere
from .pictures import Pictures
from .server_answers import answers_router
from .server_backward import backward_router
from .server_jobs import jobs_router
from .server_layers import kernels_router, layers_router
from .server_why import why_router
from .shelf import Shelf
from .verdict import Verdicts

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


# ---------------------------------------------------------------------------------------------------------------------
# The application
# ---------------------------------------------------------------------------------------------------------------------


def create_app(
    network: Network,
    pictures: Pictures,
    port: int,
    key: Key | None,
    shelf: Shelf | None = None,
    film: Callable[[], Film | None] = lambda: None,
) -> FastAPI:
    """The server of one network and its images.

    Args:
        network, pictures: what is shown.
        port: requests must be for 127.0.0.1:`port` or localhost:`port`.
        key: what requests must bring; None where no socket leads to the application.
        shelf: where what jobs have found is kept for the next time; nowhere, if there is none.
        film: reads the film of the first layer's kernels as it is now; a network that is being trained adds to it.
    """
    jobs = Jobs()

    @asynccontextmanager
    async def until_it_ends(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=until_it_ends)
    app.add_middleware(Bounded)
    app.add_middleware(Guard, port=port, key=key)  # before all others: who is refused, or still sends, takes no turn
    answer_mistakes(app)
    _add_network(app, network, pictures, film)
    _add_images(app, pictures)
    verdicts = Verdicts(network, pictures)
    app.include_router(answers_router(verdicts, pictures))
    app.include_router(why_router(network, pictures, verdicts, jobs))
    app.include_router(backward_router(network, verdicts, Backward(network, pictures, verdicts)))
    app.include_router(layers_router(network, pictures))
    app.include_router(kernels_router(network))
    app.include_router(jobs_router(network, pictures, jobs, shelf or Shelf(None)))
    _add_page(app)
    return app


def _add_network(app: FastAPI, network: Network, pictures: Pictures, film: Callable[[], Film | None]) -> None:
    def shown() -> Film | None:
        """The film, if it is of this network."""
        first, found = network.first_convolution, film()
        if first is None or first.convolution is None or found is None:
            return None
        return found if (found.layer, found.shape) == (first.name, tuple(first.convolution.weight.shape)) else None

    def existing() -> Film:
        found = shown()
        if found is None:
            raise NotThere("there is no film of this network's kernels: convforge train records one.")
        return found

    @app.get("/api/network")
    def described() -> Response:
        return as_json(describe(network, pictures, shown() is not None))

    @app.get("/api/film")
    def frames() -> Response:
        listed = [{"step": frame.step, "epoch": frame.epoch, "label": frame.label} for frame in existing().frames]
        assert network.first_convolution is not None
        return as_json({"frames": listed, "layer": network.first_convolution.index})

    @app.get("/api/film/{number}")
    def frame(number: int) -> Response:
        try:
            return as_floats(existing().values(number))
        except IndexError as reason:
            raise NotThere(str(reason)) from None


def _add_images(app: FastAPI, pictures: Pictures) -> None:
    @app.get("/api/images/{number}")
    def image(number: int, asked: Annotated[View, Query()]) -> Response:
        if asked.box is not None:
            top, left, height, width = (int(n) for n in asked.box.split(","))
            content = pictures.seen(number, (top, left, height, width))
        elif asked.view == "input":
            content = pictures.seen(number)
        elif asked.view == "thumb":
            content = pictures.thumbnail(number, asked.side)
        else:
            content = pictures.original(number)
        return Response(content, media_type="image/png")

    @app.get("/api/images/{number}/values")
    def values(number: int) -> Response:
        return as_floats(pictures.input(number).numpy())


# ---------------------------------------------------------------------------------------------------------------------
# The page's own files
# ---------------------------------------------------------------------------------------------------------------------


def page_files() -> dict[str, Any]:
    """The page's files by the path that they are asked for with; '' is index.html."""
    files: dict[str, Any] = {}

    def add(folder: Any, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                add(entry, f"{prefix}{entry.name}/")
            elif any(entry.name.endswith(suffix) for suffix in _TYPES):
                files[prefix + entry.name] = entry

    add(resources.files("convforge.see") / "page", "")
    return files | ({"": files["index.html"]} if "index.html" in files else {})


def _add_page(app: FastAPI) -> None:
    # A path is looked up among the files that there are, and never put together.
    @app.get("/{path:path}")
    def page(path: str) -> Response:
        file = page_files().get(path)
        if file is None:
            raise NotThere("there is nothing at this address.")
        suffix = "." + file.name.rpartition(".")[2]
        return Response(file.read_bytes(), media_type=_TYPES[suffix])
