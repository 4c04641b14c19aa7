"""What a page's server answers when something is wrong."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..errors import UserError
from ..shown import shown
from ..spec import SpecError
from .answers import as_error
from .network import NotThere


def answer_mistakes(app: FastAPI) -> None:
    """One plain sentence for whatever is wrong with a request; and where the server itself is wrong, no more than
    that."""

    @app.exception_handler(NotThere)
    def not_there(_: Request, error: NotThere) -> Response:
        return as_error(shown(str(error)), 404)

    @app.exception_handler(UserError)
    def mistake(_: Request, error: UserError) -> Response:
        return as_error(shown(str(error)), 400)

    @app.exception_handler(SpecError)
    def does_not_fit(_: Request, error: SpecError) -> Response:
        return as_error(shown(str(error)), 400)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
        reason = str(first["msg"]).removeprefix("Value error, ")
        return as_error(f"{name or 'the request'}: {reason}.", 400)

    @app.exception_handler(HTTPException)
    def other(_: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing at this address.", 405: "that method is not allowed at this address."}
        return as_error(words.get(error.status_code, f"{error.detail}."), error.status_code)

    @app.exception_handler(Exception)
    def bug(_: Request, error: Exception) -> Response:
        return as_error(
            f"something went wrong in the server ({type(error).__name__}); its terminal has the details.", 500
        )
