"""Pages beside Prefect's: an address opens what it was made for, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.server.pages import HEADERS, PREFIX, address, find_file, with_pages

SECRET = "apexflow:secret"


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """A folder `ws/gallery` with a page, a picture below it, and things no page is made of."""
    folder = tmp_path / "ws" / "gallery Ü"
    (folder / "videos").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>gallery</h1>")
    (folder / "videos" / "a b.jpg").write_bytes(b"jpeg")
    (folder / "drawn.json").write_text("{}")
    (folder / "weights.pt").write_text("weights")
    (tmp_path / "ws" / "above.html").write_text("above")
    (folder / "out.html").symlink_to(tmp_path / "ws" / "above.html")
    return folder


def test_an_address_opens_its_page_and_the_pictures_below(gallery: Path) -> None:
    given = address(gallery / "index.html", SECRET)
    base = given.removesuffix("index.html")
    answer = ask(given)
    assert answer.status_code == 200 and answer.text == "<h1>gallery</h1>"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "same-origin" not in answer.headers["content-security-policy"]
    assert ask(base + "videos/a%20b.jpg").content == b"jpeg"
    assert ask("/api/health").text == "prefect"


@pytest.mark.parametrize(
    "name",
    ["", "videos", "weights.pt", "drawn.json", "no.html", "../above.html", "out.html", "x" * 5000,
     "%2e%2e/above.html", "..%2fabove.html", "/etc/os-release", "a\0.html"],
)  # fmt: skip
def test_nothing_else_is_opened(gallery: Path, name: str) -> None:
    base = address(gallery / "index.html", SECRET).removesuffix("index.html")
    answer = ask(base + name.replace("\0", "%00"))
    assert answer.status_code == 404 and "no page" in answer.text
    assert find_file(base + name, SECRET) is None


def test_only_who_knows_the_password_can_make_an_address(gallery: Path, tmp_path: Path) -> None:
    given = address(gallery / "index.html", SECRET)
    token = given.removeprefix(PREFIX).split("/")[0]
    packed, signature = token.split(".")
    other = address(tmp_path / "ws" / "above.html", SECRET).removeprefix(PREFIX).split(".")[0]
    for bad in (
        address(gallery / "index.html", "apexflow:guess"),
        given.replace(signature, signature[::-1]),
        given.replace(signature, ""),
        given.replace(signature, "Ü"),
        f"{PREFIX}{other}.{signature}/above.html",
        f"{PREFIX}{packed[:-1]}.{signature}/index.html",
        f"{PREFIX}index.html",
        PREFIX,
    ):
        assert find_file(bad, SECRET) is None, bad


def test_a_page_is_only_read(gallery: Path) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = ask(address(gallery / "index.html", SECRET), method)
        assert answer.status_code == 404
        assert set(answer.headers) >= {name.lower() for name in HEADERS}


def ask(path: str, method: str = "GET") -> httpx.Response:
    """The answer of Prefect's application with our pages beside it."""

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=with_pages(_prefect, SECRET))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path)

    return asyncio.run(answer())


async def _prefect(scope: Any, receive: Any, send: Any) -> None:
    from starlette.responses import PlainTextResponse

    await PlainTextResponse("prefect")(scope, receive, send)
