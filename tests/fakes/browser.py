"""A Chromium driven over its own debugging protocol: just enough to log in and read a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        self._number += 1
        words = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(words))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                return dict(answer.get("result", {}))

    def script(self, text: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call(
            "Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True
        )
        return found.get("result", {}).get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait for an expression to be true; its value."""
        deadline = time.monotonic() + seconds
        while not (found := self.script(expression)):
            assert time.monotonic() < deadline, self.script("document.body.innerText")
            time.sleep(0.3)
        return found

    def press(self, element: str, seconds: float = 60) -> None:
        """Click, as a mouse does, the element that a JavaScript expression gives once it is there.

        Prefect's menus open for a mouse, not for a script's `click()`.
        """
        self.until(f"!!({element})", seconds)
        x, y = self.script(
            "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2] }})({element})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def says(self, text: str, seconds: float = 60) -> None:
        """Wait for a text on the page."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})", seconds)

    def log_in(self, auth: str) -> str:
        """Paste the password into Prefect's own page; the address its other pages begin with."""
        self.until("document.querySelector('input[type=password]') !== null")
        self.script("document.querySelector('input[type=password]').focus()")
        self.call("Input.insertText", text=auth)
        self.script("document.querySelector('button[type=submit]').click()")
        self.until("document.querySelector('input[type=password]') === null")
        self.says("Dashboard")
        return str(self.script("location.href")).split("/dashboard")[0]


def named(text: str, kind: str = "button") -> str:
    """The JavaScript expression of the element of a kind with just this text."""
    words = json.dumps(text)
    return f"[...document.querySelectorAll('{kind}')].find(e => e.innerText.trim() === {words})"


@contextmanager
def open_page(url: str, profile: Path) -> Iterator[Page]:
    """A tab at `url` in a browser with a profile of its own."""
    port = profile / "DevToolsActivePort"
    port.unlink(missing_ok=True)  # of the last time
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (port.exists() and port.read_text().strip()):
            assert time.monotonic() < deadline and browser.poll() is None
            time.sleep(0.2)
        number = port.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{number}/json", timeout=20) as answer:
            [tab, *_] = [t for t in json.load(answer) if t["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.kill()
        browser.wait()
