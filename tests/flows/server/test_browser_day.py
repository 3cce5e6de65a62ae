"""A lab member's day in a real Chromium, on a real server with its worker.

A stage from its form, a schedule turned on and seen to fire, its run watched, its artifact, report
and gallery opened, and a run cancelled: all by the mouse, in Prefect's pages and in ours.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.browser import CHROMIUM, Page, named, open_page
from tests.fakes.prefect_server import Server, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]
OPEN = "[...document.querySelectorAll('a')].find(a => a.innerText.includes('-open'))"
LONG = 600  # seconds that a run may take on a busy machine


def test_a_day_at_the_desk(server: Server, smoke: dict[str, Path], tmp_path: Path) -> None:
    request = {
        "recipe": "demo_hsta",
        "workspace": str(tmp_path / "lab"),
        "data": [{"dataset": "casme2", "folder": str(smoke["casme2"])}],
    }
    _fill(server, "ingest", request)
    _fill(server, "full", {**request, "overrides": {"train.epochs": 2, "flow.size": 64}})
    with open_page(server.url + "/", tmp_path / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1400, height=1100,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        ui = page.log_in(server.auth)
        ingest = _start(page, ui, server, "ingest")
        _watch(page, ui, ingest, "Completed")
        scheduled = _let_the_schedule_fire(page, ui, server)
        _watch(page, ui, scheduled, "Completed")
        _open_report_and_gallery(page, ui, scheduled)
        _fill(server, "full", {**request, "workspace": str(tmp_path / "other")})
        _cancel(page, ui, server, _start(page, ui, server, "full"))
    assert (tmp_path / "lab" / "casme2" / "gallery" / "index.html").is_file()


def _fill(server: Server, name: str, request: dict[str, Any]) -> None:
    """What a form begins with."""
    found = server.deployment(name)
    own = {**found["parameters"], "request": request}
    server.patch(f"deployments/{found['id']}", {"parameters": own})


def _start(page: Page, ui: str, server: Server, name: str) -> str:
    before = {run["id"] for run in server.runs()}
    page.call("Page.navigate", url=f"{ui}/deployments/deployment/{server.deployment(name)['id']}")
    page.press(named("Run"))
    page.press(named("Custom run", "[role=menuitem], a"))
    page.says("Run Name")

    def made() -> list[str]:
        if page.script(f"!!({named('Submit')})"):  # a page that is still loading ignores a press
            page.press(named("Submit"))
            time.sleep(3)
        return [str(run["id"]) for run in server.runs() if run["id"] not in before]

    return str(until(made, f"a run of {name}")[0])


def _watch(page: Page, ui: str, run: str, state: str) -> None:
    page.call("Page.navigate", url=f"{ui}/runs/flow-run/{run}")
    page.says("demo_hsta")  # its name says what it does
    page.says(state, LONG)


def _let_the_schedule_fire(page: Page, ui: str, server: Server) -> str:
    """The nightly schedule, every minute for once, turned on and off again by its switch."""
    found = server.deployment("full")
    [nightly] = found["schedules"]
    path = f"deployments/{found['id']}/schedules/{nightly['id']}"
    server.patch(path, {"schedule": {"cron": "* * * * *", "timezone": "UTC"}})
    page.call("Page.navigate", url=f"{ui}/deployments/deployment/{found['id']}")
    switch = "document.querySelector('[role=switch][aria-label=\"toggle Every minute\"]')"
    page.press(switch)
    page.until(f"{switch}.ariaChecked === 'true'")
    mine = {"deployment_id": {"any_": [found["id"]]}}
    fired = until(lambda: server.runs("RUNNING", **mine), "the schedule to fire", 300)[0]
    assert fired["auto_scheduled"]
    page.press(switch)
    page.until(f"{switch}.ariaChecked === 'false'")
    server.patch(path, {"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}})
    return str(fired["id"])


def _open_report_and_gallery(page: Page, ui: str, run: str) -> None:
    for name in ("report.html", "index.html"):
        page.call("Page.navigate", url=f"{ui}/runs/flow-run/{run}?tab=Artifacts")
        page.press(OPEN)
        page.press(f"document.querySelector('a[href*=\"{name}\"]')")
        page.until(f"location.pathname.endsWith('{name}')")
        if name == "report.html":
            page.says("Scores")
            page.says("95 % interval")
    for part in ("flow.html", "videos/"):  # of the gallery: a stage, a clip
        page.press(f"document.querySelector('a[href*=\"{part}\"]')")
        page.until(f"location.pathname.includes('{part}')")
        drawn = "[...document.images].map(i => i.complete && i.naturalWidth)"
        page.until(f"{drawn}.length > 0 && {drawn}.every(w => w > 0)")
    page.says("registration")
    kept = page.script("(() => { try { return localStorage.length } catch { return 'none' } })()")
    assert kept == "none", "a page of ours could read what the browser keeps for the UI"


def _cancel(page: Page, ui: str, server: Server, run: str) -> None:
    _watch(page, ui, run, "Running")
    page.press(named("Open menu"))
    page.press(named("Cancel", "[role=menuitem]"))
    page.press(named("Cancel Flow Run"))
    page.says("Cancelled", 120)
    assert server.run(run)["state_type"] == "CANCELLED"
