"""The few requests we make to a Prefect server: authenticated, with its CSRF token, never retried.

Plain HTTP instead of Prefect's client, which repeats a request for a minute when the server is
gone: whoever computes must not wait for whoever watches.
"""

from __future__ import annotations

import os
import socket
import uuid
from typing import Any

import httpx
import psutil

TIMEOUT_S = 10.0


class Unreachable(Exception):
    """The server does not answer, or says that it cannot now: the request may be made again."""


class Refused(Exception):
    """The server answered that it will not do this; asking again would not help."""


class PrefectApi:
    """Requests to one server. `auth` is `user:password`, as in its auth string; "" for none."""

    def __init__(self, url: str, auth: str = "", timeout_s: float = TIMEOUT_S) -> None:
        user, _, password = auth.partition(":")
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/",
            auth=(user, password) if auth else None,
            timeout=timeout_s,
            trust_env=False,  # a proxy for the internet does not know this machine's servers
        )
        self._client = uuid.uuid4().hex
        self._token: dict[str, str] | None = None

    @classmethod
    def from_environment(cls) -> PrefectApi:
        """The server this process's Prefect settings name."""
        return cls(
            os.environ.get("PREFECT_API_URL", ""), os.environ.get("PREFECT_API_AUTH_STRING", "")
        )

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, so that its process numbers mean ours."""
        return self._http.base_url.host in ("127.0.0.1", "localhost", "::1")

    @property
    def whose(self) -> str:
        """Which server: "" for this machine's own, whatever its port; else its address."""
        host = self._http.base_url.host
        own = {a.address for card in psutil.net_if_addrs().values() for a in card}
        return (
            "" if self.local or host in {*own, socket.gethostname()} else str(self._http.base_url)
        )

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON (None when empty). Raises Unreachable or Refused."""
        answer = self._send(method, path, body)
        if answer.status_code == 403 and "CSRF" in answer.text:  # the token's hour is over
            self._token = None
            answer = self._send(method, path, body)
        if answer.status_code in (408, 423, 429) or answer.status_code >= 500:
            raise Unreachable(f"{answer.status_code} {answer.text[:200]}")
        if answer.is_error:
            raise Refused(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def post(self, path: str, body: Any) -> Any:
        """POST; see `request`."""
        return self.request("POST", path, body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            headers = {} if method == "GET" else self._csrf()
            return self._http.request(
                method, path, headers=headers, **({} if body is None else {"json": body})
            )
        except httpx.HTTPError as error:
            raise Unreachable(str(error) or type(error).__name__) from error

    def _csrf(self) -> dict[str, str]:
        """The token that proves we could read the server's answers; empty when it wants none."""
        if self._token is None:
            answer = self._http.get("csrf-token", params={"client": self._client})
            self._token = {}
            if answer.status_code == 200:
                token = answer.json()["token"]
                self._token = {
                    "Prefect-Csrf-Token": token,
                    "Prefect-Csrf-Client": self._client,
                }
        return self._token
