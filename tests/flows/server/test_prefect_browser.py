"""A page of another origin in a real Chromium attacks the server; the owner's browser is let in."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fakes.browser import CHROMIUM, FLAGS, named, open_page
from tests.fakes.prefect_server import Server, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]
PAGE = """<!doctype html><pre id=told></pre><script>
const api = API, path = PATH, body = BODY, auth = AUTH;
const kind = {"Content-Type": "application/json"};
const basic = {"Authorization": "Basic " + btoa(auth)};
const tries = {
  form: () => fetch(api + path, {method: "POST", mode: "no-cors", body}),
  json: () => fetch(api + path, {method: "POST", body, headers: kind}),
  known: () => fetch(api + path, {method: "POST", body, headers: {...kind, ...basic}}),
  token: () => fetch(api + "/csrf-token?client=x", {headers: basic}),
  read: () => fetch(api + "/health"),
};
(async () => {
  const told = {};
  for (const [name, attack] of Object.entries(tries))
    try { const a = await attack(); told[name] = a.type + " " + a.status; }
    catch (error) { told[name] = "blocked"; }
  document.getElementById("told").textContent = JSON.stringify(told);
})();
</script>"""


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """The page at an address after its scripts ran, as HTML."""

    def dom(url: str, *words: str) -> str:
        profile = f"--user-data-dir={tmp_path / 'chromium'}"
        command = [CHROMIUM, *FLAGS, profile, *words]
        done = subprocess.run(
            [*command, "--virtual-time-budget=15000", "--dump-dom", url],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        return done.stdout

    return dom


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A web server of another origin; gives the address of a page."""
    folder = tmp_path / "evil"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()

        def page(text: str) -> str:
            (folder / "page.html").write_text(text)
            return f"http://127.0.0.1:{web.server_port}/page.html"

        yield page
        web.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def test_a_foreign_page_can_neither_start_nor_read_anything(
    server: Server, browse: Callable[..., str], evil: Callable[[str], str], tmp_path: Path
) -> None:
    mark = tmp_path / "PWNED"
    body = {
        "parameters": {"request": {"recipe": "demo_hsta"}, "stage": "ingest"},
        "job_variables": {"command": f"touch {mark}"},
        "state": {"type": "SCHEDULED"},
    }
    known = {
        "API": f"{server.url}/api",
        "PATH": f"/deployments/{server.deployment('stage')['id']}/create_flow_run",
        "BODY": json.dumps(body),
        "AUTH": server.auth,  # even if it knew
    }
    page = PAGE
    for name, value in known.items():
        page = page.replace(name, json.dumps(value), 1)
    before = len(server.runs())
    html = browse(evil(page))
    told = json.loads(html.split('<pre id="told">')[1].split("</pre>")[0])
    assert told.pop("form") == "opaque 0"  # sent, and refused: see the runs below
    assert set(told) == {"json", "known", "token", "read"} and set(told.values()) == {"blocked"}
    assert len(server.runs()) == before and not mark.exists()


def test_a_rebound_name_gets_nothing(server: Server, browse: Callable[..., str]) -> None:
    port = urlsplit(server.url).port
    html = browse(
        f"http://evil.example:{port}/", "--host-resolver-rules=MAP evil.example 127.0.0.1"
    )
    assert "Invalid host header" in html and "<script" not in html


def test_the_owners_browser_is_asked_once_and_then_can_start_a_run(
    server: Server, tmp_path: Path
) -> None:
    """Password, token and origin at work in Prefect's own pages; the form has our fields."""
    with open_page(server.url + "/", tmp_path / "owner") as page:
        where = page.log_in(server.auth)
        deployment = server.deployment("ingest")["id"]
        page.call("Page.navigate", url=f"{where}/deployments/deployment/{deployment}/run")
        for title in (
            "Recipe", "One of ours", "A YAML file", "Workspace", "Dataset", "Folder", "Add item",
            "Wait for the workspace", "Allow a dataset to shrink", "Redo",
        ):  # fmt: skip
            page.says(title)
        for title in ("Only these stages", "Only these folds", "Device", "Landmark model"):
            assert not page.script(f"document.body.innerText.includes('{title}')"), title
        values = "[...document.querySelectorAll('button')].map(b => b.innerText.trim())"
        assert {"demo_hsta", "casme2", "samm_lv"} <= set(page.script(values)), "no drop-downs"
        before = {run["id"] for run in server.runs()}
        page.press(named("Submit"))
        made = until(lambda: [r for r in server.runs() if r["id"] not in before], "the run")
        assert made[0]["deployment_id"] == deployment
        page.script("location.reload()")
        page.says("Dashboard")
        assert page.script("document.querySelector('input[type=password]') === null")
    server.post(f"flow_runs/{made[0]['id']}/set_state", {"state": {"type": "CANCELLED"}})
