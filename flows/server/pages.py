"""Reports and galleries in the browser: files of a workspace, by addresses that cannot be guessed.

The server that `up` and `demo` start answers `/apexflow/pages/TOKEN/NAME` beside Prefect's own
pages. TOKEN holds a folder and a signature of it made with the server's password, so an address is
written only by who knows the password and read only by who may see the artifact it stands in; it
opens nothing but pages and pictures in that folder. A page is served in a sandbox: its scripts run,
and cannot see what the browser keeps for the UI.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

PREFIX = "/apexflow/pages/"
SHOWN = {".html", ".css", ".js", ".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp4"}
HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-modals allow-popups allow-downloads",
    "Referrer-Policy": "no-referrer",  # the address is the key
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def address(file: Path, secret: str) -> str:
    """The address of a file, from the server's root on; with it all pages in the file's folder."""
    folder = str(file.parent.absolute())
    token = base64.urlsafe_b64encode(folder.encode()).decode().rstrip("=")
    return f"{PREFIX}{token}.{_signature(folder, secret)}/{quote(file.name)}"


def find_file(path: str, secret: str) -> Path | None:
    """The file of an address; None for a wrong signature, no page or picture, or no file there."""
    token, _, name = path.removeprefix(PREFIX).partition("/")
    packed, _, signature = token.partition(".")
    try:
        folder = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
        if not hmac.compare_digest(signature.encode(), _signature(folder, secret).encode()):
            return None
        root = Path(folder).resolve()
        file = (root / name).resolve()
    except (ValueError, OSError, RuntimeError):
        return None
    inside = file.is_relative_to(root) and file.suffix.lower() in SHOWN
    return file if inside and file.is_file() else None


def with_pages(app: App, secret: str) -> App:
    """The application `app`, and these pages beside it."""
    from starlette.responses import FileResponse, HTMLResponse, Response

    async def both(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not str(scope["path"]).startswith(PREFIX):
            await app(scope, receive, send)
            return
        file = find_file(str(scope["path"]), secret) if scope["method"] in ("GET", "HEAD") else None
        answer: Response
        if file is None:
            answer = HTMLResponse(_absent(str(scope["path"])), 404, HEADERS)
        else:
            answer = FileResponse(file, headers=HEADERS)
        await answer(scope, receive, send)

    return both


def _signature(folder: str, secret: str) -> str:
    return hmac.new(
        secret.encode(), b"apexflow pages\0" + folder.encode(), hashlib.sha256
    ).hexdigest()


def _absent(path: str) -> str:
    name = html.escape(unquote(path.rsplit("/", 1)[-1]))
    return (
        f"<!doctype html><title>not here</title><p>There is no page {name} here. It may have been "
        "moved or deleted, or lie on another machine than this server, or the server has a new "
        "password since the link was made: run the recipe again, and take the new link.</p>"
    )
