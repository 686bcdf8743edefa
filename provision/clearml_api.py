"""A small client of the ClearML API (`service.action`, HTTP GET with a JSON body)."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from provision import forward
from provision.errors import ApiError
from provision.secrets import KeyPair

TIMEOUT_S = 30.0


class ClearmlApi:
    """Calls to one API server with one key pair; logs in at the first call and again when a token is refused."""

    def __init__(self, url: str, key: KeyPair) -> None:
        self.url = url
        self._key = key
        self._token: str | None = None
        self._http = forward.client(base_url=url, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def login(self) -> str:
        """Return a fresh token. Raises `ApiError` (code 401 when the key is not accepted, 0 without an answer)."""
        data = self._send("auth.login", {}, {}, auth=(self._key.access_key, self._key.secret_key))
        self._token = str(data["token"])
        return self._token

    def call(self, endpoint: str, impersonate: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the `data` of `endpoint`'s answer; `impersonate` is a user ID. Raises `ApiError`."""
        headers = {"X-Clearml-Impersonate-As": impersonate} if impersonate else {}
        fresh = self._token is None
        headers["Authorization"] = f"Bearer {self._token or self.login()}"
        try:
            return self._send(endpoint, parameters, headers)
        except ApiError as error:
            if error.code != httpx.codes.UNAUTHORIZED or fresh:
                raise
        headers["Authorization"] = f"Bearer {self.login()}"
        return self._send(endpoint, parameters, headers)

    def _send(
        self, endpoint: str, parameters: dict[str, Any], headers: dict[str, str], auth: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            answer = self._http.request("GET", f"/{endpoint}", json=parameters, headers=headers, auth=auth)
        except httpx.HTTPError as error:
            raise ApiError(
                f"{self.url}: {endpoint}: {error or type(error).__name__}", "See `testbed status` and the server's log."
            ) from None
        try:
            body = answer.json()
            meta, data = body["meta"], body.get("data") or {}
        except (ValueError, KeyError, TypeError):
            raise ApiError(
                f"{self.url}: {endpoint}: HTTP {answer.status_code}, not an answer of the ClearML API",
                "Check that the URL is that of the API server.",
                code=answer.status_code,
            ) from None
        if answer.is_success:
            return dict(data)
        raise ApiError(
            f"{self.url}: {endpoint}: {meta.get('result_code')}/{meta.get('result_subcode')} {meta.get('result_msg')}",
            code=answer.status_code,
            subcode=int(meta.get("result_subcode") or 0),
        )
