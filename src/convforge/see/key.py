"""What a browser must bring: everybody on this machine can reach the server's port, and one user alone may look.

The address that the command prints has a secret in it. The first visit exchanges it for a cookie, so that the page's
own addresses, reloads and bookmarks do without. A browser that the command starts itself gets another secret, good for
one visit, because everybody can read with which words a program was started.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.requests import cookie_parser

_KEPT = 30 * 24 * 3600  # seconds; in truth as long as this server runs


class Key:
    """The secret of one server.

    Args:
        port: of the server. Cookies do not tell ports apart, so that their names must.

    >>> key = Key(port=8642)
    >>> key.visits(f"token={key.token}"), key.visits("token=guessed"), key.visits("")
    (True, False, False)
    >>> key.opens(f"convforge-8642={key.token}", None), key.opens(None, f"Bearer {key.token}"), key.opens(None, None)
    (True, True, False)
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self._name = f"convforge-{port}"
        self._once: set[str] = set()

    def once(self) -> str:
        """A token for one visit."""
        token = secrets.token_urlsafe(32)
        self._once.add(token)
        return token

    def visits(self, query: str) -> bool:
        """Whether the query of an address has a token in it; one that is good once has been used then."""
        given = parse_qs(query).get("token", [""])[0]
        found = next((token for token in self._once if _same(token, given)), None)
        if found is not None:
            self._once.discard(found)
        return found is not None or _same(self.token, given)

    def opens(self, cookies: str | None, authorization: str | None) -> bool:
        """Whether a request brings the token: a browser in its cookie, a program as `Authorization: Bearer TOKEN`."""
        given = cookie_parser(cookies or "").get(self._name, "")
        scheme, _, credentials = (authorization or "").partition(" ")
        return _same(self.token, given) or (scheme.lower() == "bearer" and _same(self.token, credentials.strip()))

    @property
    def cookie(self) -> str:
        """The header that gives a browser the token: for this host alone, out of reach of scripts and other sites."""
        return f"{self._name}={self.token}; Path=/; Max-Age={_KEPT}; HttpOnly; SameSite=Strict"


def _same(token: str, given: str) -> bool:
    """In a time that does not say how much of it is right."""
    return secrets.compare_digest(token.encode(), given.encode("utf-8", "surrogateescape"))
