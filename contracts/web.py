"""Web addresses without credentials, and requests that follow no redirect."""

import re
import urllib.request
from typing import Any

from longreel.contracts.errors import LongreelError
from longreel.contracts.passwords import without_password

_USER = re.compile(r"https?://[^/?#]*@", re.IGNORECASE)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing: the answer becomes an HTTPError with its code."""


def open_url(request: urllib.request.Request, timeout_s: float) -> Any:
    """The answer to a request. No redirect is followed: the token in the headers is for the named server alone.

    Raises:
        urllib.error.HTTPError: the answer is a redirect or an error.
        OSError: there is no answer.
    """
    return urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s)


def require_no_user(uri: str, variable: str, place: str) -> None:
    """Raises LongreelError if the address of a web server has a user or a password: libraries print addresses."""
    if _USER.match(uri):
        raise LongreelError(
            f"{variable}: expected a server's address without user and password, which logs and links would show, got "
            f"{without_password(uri)}; put them into {place}"
        )
