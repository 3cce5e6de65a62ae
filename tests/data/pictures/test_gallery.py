"""The gallery: every unit on its stage's page, one click to its video; no face that may not be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from data.errors import ConfigError
from data.pictures.gallery import page_name, write_gallery
from data.recordings import Recordings
from data.stages import stores
from data.stages.files import read_table, write_table
from data.stages.workspace import Workspace
from tests.fakes.fabricated_run import has_face, write_clip_stores, write_ingest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of a free dataset and of a licensed one."""
    space = Workspace(tmp_path_factory.mktemp("gallery") / "ws")
    for name, free in (("casme2", True), ("samm", False)):
        events = write_ingest(
            space, name, subjects=3, per_subject=1, show_faces=free, prefix=name[:3]
        )
        write_clip_stores(space, name, events)
    return space.path


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    """A copy of it for one test."""
    shutil.copytree(made, tmp_path / "ws")
    return Workspace(tmp_path / "ws")


def faces(folder: Path) -> bool:
    return any(has_face(cv2.imread(str(p), 0)) for p in sorted(folder.rglob("*.jpg")))


def test_every_unit_is_on_its_stages_page_and_one_click_from_its_own(workspace: Workspace) -> None:
    index = write_gallery(workspace, "casme2")
    pages = re.findall(r'href="(\w+)\.html"', index.read_text())
    assert {"align", "registration", "apex", "flow"} <= set(pages)
    for stage in pages:
        text = (index.parent / f"{stage}.html").read_text()
        manifest = stores.read_manifest(workspace.stage("casme2", stage))
        assert text.count('<a class="card') == len(manifest)
        for row in manifest.itertuples(index=False):
            assert f'data-name="{row.unit}"' in text
        for page in set(re.findall(r'href="(videos/[^"]+)"', text)):
            assert (index.parent / page).is_file()
        for picture in re.findall(r'src="([^"]+)"', text):
            assert (index.parent / picture).is_file()
        assert text.count('class="card lost"') == int((manifest.status != "ok").sum())


def test_a_videos_page_has_strip_flow_curve_and_ledger(workspace: Workspace) -> None:
    index = write_gallery(workspace, "casme2")
    ledger = stores.read_ledger(workspace.stage("casme2", "flow"))
    lost = str(ledger.unit[ledger.action == "dropped"].iloc[0])
    events = Recordings(workspace, "casme2").table("events")
    video = str(events.video[events.event == lost].iloc[0])
    text = (index.parent / "videos" / f"{page_name(video)}.html").read_text()
    for said in ("<h2>align</h2>", "<h2>flow</h2>", "<polyline", "<h2>Ledger</h2>", "crosses_cut"):
        assert said in text
    other = next(v for v in events.video if v != video)
    text = (index.parent / "videos" / f"{page_name(other)}.html").read_text()
    assert "strip-flow-" in text and "strip-align-" in text
    for picture in re.findall(r'src="([^"]+)"', text):
        assert (index.parent / "videos" / picture).is_file()


def test_faces_are_only_where_they_may_be_shown(workspace: Workspace) -> None:
    assert faces(write_gallery(workspace, "casme2").parent)
    hidden = write_gallery(workspace, "samm").parent
    assert len(list(hidden.rglob("*.jpg"))) > 3 and not faces(hidden)
    assert faces(write_gallery(workspace, "samm", with_faces=True).parent)
    assert not faces(write_gallery(workspace, "samm").parent), "taken away again"
    assert "licence forbids" in next((hidden / "videos").glob("*.html")).read_text()


def test_what_did_not_change_is_not_drawn_again(workspace: Workspace) -> None:
    folder = write_gallery(workspace, "casme2").parent
    before = {p: p.stat().st_mtime_ns for p in (folder / "videos").rglob("*") if p.is_file()}
    write_gallery(workspace, "casme2")
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "videos").rglob("*.*")}
    next((folder / "videos").glob("*.html")).unlink()
    write_gallery(workspace, "casme2")
    assert len(list((folder / "videos").glob("*.html"))) == 3


def test_nothing_stays_of_who_is_gone(workspace: Workspace) -> None:
    """A face that was drawn once must not outlive its video or its event's name."""
    folder = write_gallery(workspace, "samm", with_faces=True).parent
    assert faces(folder)
    events = write_ingest(
        workspace, "samm", subjects=2, per_subject=1, show_faces=False, prefix="sam"
    )
    path = workspace.stage("samm", "ingest") / "events.parquet"
    write_table(events.assign(event=[*events.event[:-1], "renamed"]), path)
    write_gallery(workspace, "samm")
    assert not faces(folder)
    pages = {p.stem for p in (folder / "videos").glob("*.html")}
    assert pages == {page_name(v) for v in ("sam01/EP01", "sam02/EP01")}
    assert {p.name for p in (folder / "videos").iterdir() if p.is_dir()} == pages
    assert len(json.loads((folder / "drawn.json").read_text())) == 2
    before = {p: p.stat().st_mtime_ns for p in (folder / "videos").rglob("*")}
    write_gallery(workspace, "samm")
    assert {p: p.stat().st_mtime_ns for p in (folder / "videos").rglob("*")} == before


def test_a_corrected_annotation_is_shown(workspace: Workspace) -> None:
    folder = write_gallery(workspace, "casme2").parent
    path = workspace.stage("casme2", "ingest") / "events.parquet"
    events = read_table(path)
    write_table(events.assign(emotion="corrected"), path)
    write_gallery(workspace, "casme2")
    for video in events.video:
        assert "corrected" in (folder / "videos" / f"{page_name(video)}.html").read_text()


def test_strange_names_stay_words(tmp_path: Path) -> None:
    made = Workspace(tmp_path)
    events = write_ingest(
        made, "casme2", subjects=1, per_subject=1, prefix='"><script>alert(1)</script>'
    )
    write_clip_stores(made, "casme2", events)
    folder = write_gallery(made, "casme2").parent
    for page in folder.rglob("*.html"):
        assert "<script>alert" not in page.read_text()
        assert page.resolve().is_relative_to(folder.resolve())


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finished stages"):
        write_gallery(Workspace(tmp_path), "casme2")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_browser_sorts_and_searches(workspace: Workspace) -> None:
    page = write_gallery(workspace, "casme2").parent / "flow.html"
    clicked = page.with_name("clicked.html")
    acts = (
        "document.querySelector('[data-by=status]').click();"
        "const i=document.querySelector('input');i.value='cas03';"
        "i.dispatchEvent(new Event('input'))"
    )
    clicked.write_text(page.read_text().replace("</body>", f"<script>{acts}</script></body>"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", clicked.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    states = re.findall(r'data-status="([^"]+)"', done.stdout)
    assert states[0] != "ok" and set(states[1:]) == {"ok"}, "the lost unit comes first"
    shown = re.search(r'id="count">(\d+)<', done.stdout)
    assert shown is not None and shown[1] == str(done.stdout.count('data-subject="cas03"'))
