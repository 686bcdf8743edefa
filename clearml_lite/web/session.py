"""Logins of browsers: a token in a cookie of the pages' own, and what shows that a form came from a page of ours."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from starlette.responses import Response

from clearml_lite.auth import Authenticator, Identity
from clearml_lite.errors import ApiError

LIFE = 12 * 3600
# API and file server do not take it: browsers send a host's cookies to all of its ports, whatever page asks, and only
# the pages' forms carry what shows where they come from
SESSION_COOKIE = "clearml_lite_session"
# what a browser has before it is logged in, so that nobody else can log it in
VISITOR_COOKIE = "clearml_lite_visitor"
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")


class Sessions:
    """Cookies and form tokens.

    Args:
        secret: what form tokens are made with; they end with it.
        secure: the pages are reached by https, so cookies go over nothing else.
    """

    def __init__(self, authenticator: Authenticator, secret: str, *, secure: bool) -> None:
        self._authenticator = authenticator
        self._secret = secret.encode()
        self._secure = secure

    def identity(self, cookies: Mapping[str, str]) -> Identity | None:
        """Who is logged in; None for nobody."""
        try:
            return self._authenticator.identify_bearer({"authorization": f"Bearer {cookies[SESSION_COOKIE]}"}, {})
        except (ApiError, KeyError):
            return None

    def log_in(self, response: Response, identity: Identity) -> None:
        """Gives the browser a session."""
        token, life = self._authenticator.issue_token(identity, LIFE)
        self._set(response, SESSION_COOKIE, token, life)
        response.delete_cookie(VISITOR_COOKIE)

    def log_out(self, response: Response) -> None:
        """Takes the session out of the browser; ending it is the API's part."""
        self._set(response, SESSION_COOKIE, "", 0)

    def visitor(self, cookies: Mapping[str, str]) -> str:
        """What stands for a browser that is not logged in."""
        return cookies.get(VISITOR_COOKIE) or secrets.token_urlsafe(32)

    def remember_visitor(self, response: Response, visitor: str) -> None:
        """Lets the browser show who it is when it logs in."""
        self._set(response, VISITOR_COOKIE, visitor, LIFE)

    def form_token(self, holder: str) -> str:
        """What forms of this session (or visitor) carry."""
        return hmac.new(self._secret, f"form:{holder}".encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, token: str, holder: str) -> bool:
        """Whether a form came from a page that this session (or visitor) was given."""
        return bool(holder) and hmac.compare_digest(token.encode(), self.form_token(holder).encode())

    def _set(self, response: Response, name: str, value: str, life: int) -> None:
        response.set_cookie(name, value, max_age=life, httponly=True, samesite="strict", secure=self._secure)


def local_path(path: str) -> str:
    """A path on this server to go on to; `/` for whatever leads elsewhere."""
    return path if _LOCAL_PATH.fullmatch(path) else "/"
