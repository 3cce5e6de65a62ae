"""The report: one file, no network, the same bytes, honest words, no licensed face, nothing needed
that a run may lack."""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError
from data.stages.workspace import Workspace
from models.report.data import accounts, reasons
from models.report.figures import thin, training_figure
from models.report.scores import Score, confusions, scores, verdict
from models.report.write import render, write_report
from models.runs import pages as run_pages
from models.runs.files import RunFiles
from tests.fakes.fabricated_run import (
    has_face,
    ledger,
    write_clip_stores,
    write_hsta_run,
    write_ingest,
    write_me_tst_run,
    write_motion_store,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}


def text_of(page: str) -> str:
    """The words a reader sees."""
    plain = re.sub(r"<style.*?</style>", "", page, flags=re.S)
    words = html.unescape(re.sub(r"<[^>]+>", " ", plain)).replace("\u2060", "")
    return re.sub(r"\s+", " ", words)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two datasets of clips, one licensed, and a run over both."""
    workspace = Workspace(tmp_path_factory.mktemp("clips"))
    for name, show in (("casme2", True), ("samm", False)):
        events = write_ingest(workspace, name, show_faces=show, prefix=name[:3])
        write_clip_stores(workspace, name, events)
    return RunFiles(write_hsta_run(workspace, ("casme2", "samm")))


@pytest.fixture(scope="module")
def longs(tmp_path_factory):
    """Long videos and a spotting run."""
    workspace = Workspace(tmp_path_factory.mktemp("longs"))
    events = write_ingest(
        workspace, "samm_lv", kind="long", frames=240, per_subject=2, show_faces=False
    )
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    return RunFiles(write_me_tst_run(workspace))


@pytest.fixture(params=["clips", "longs"], scope="module")
def run(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def wordy(monkeypatch):
    """Reports without pictures, for tests of words: drawing is most of the work."""
    nothing = {"groups": [], "training": None, "spotting": None, "attention": None}
    monkeypatch.setattr("models.report.write._pictures", lambda run: nothing)


@pytest.fixture(autouse=True, scope="module")
def one_picture_of_each():
    """Drawing is most of the work: one event of each dataset and stage is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.report.pictures.PER_DATASET", 1)
        yield


@pytest.fixture(scope="module")
def rendered():
    """A run's report, drawn once."""
    return functools.cache(render)


@pytest.fixture(scope="module")
def page(run, rendered):
    return rendered(run)


# ----------------------------------------------------------------------------------------- the file


def test_one_file_that_needs_no_network(page):
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert sources
    assert all(s.startswith(("data:image/", "#")) for s in sources)
    assert not re.search(r"<script|@import|url\(", page)
    assert len(page) < 2_000_000


def test_the_same_run_gives_the_same_bytes(run, page, tmp_path):
    write_report(run, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_no_place_or_host_is_told(run, page):
    assert str(run.workspace.path) not in page
    assert ">here<" not in page  # the host in the timings


def test_tags_are_closed_in_order(page):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in VOID:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
            self.open.pop()

    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_every_entry_of_the_contents_leads_somewhere(page):
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page


def test_strange_names_are_escaped(wordy, tmp_path):
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "casme2", prefix="<img src=x>")
    write_clip_stores(workspace, "casme2", events)
    run = RunFiles(write_hsta_run(workspace, about="</pre><script>alert(1)</script>"))
    page = render(run)
    assert "<script>" not in page
    assert "<img src=x>" not in page


def pictures_in(page):
    """All raster images of the page, also those inside its drawings."""
    texts = re.findall(r"data:image/png;base64,([^\"]+)", page)
    for text in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        drawing = base64.b64decode(text).decode()
        texts += re.findall(r"data:image/png;base64,([^\"]+)", drawing, flags=re.S)
    data = [np.frombuffer(base64.b64decode(text), np.uint8) for text in texts]
    return [cv2.imdecode(one, cv2.IMREAD_GRAYSCALE) for one in data]


def test_every_stage_is_shown(page):
    words = text_of(page)
    assert "Not computed." not in words
    assert "could not be drawn" not in words


def test_faces_are_shown_only_where_they_may_be(clips, rendered, tmp_path):
    assert any(has_face(image) for image in pictures_in(rendered(clips)))
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "samm", show_faces=False)
    write_clip_stores(workspace, "samm", events)
    page = render(RunFiles(write_hsta_run(workspace, ("samm",))))
    assert pictures_in(page)
    assert not any(has_face(image) for image in pictures_in(page))
    assert "licence forbids" in text_of(page)


# ---------------------------------------------------------------------------------------- the words


def test_scores_come_first_with_what_guessing_gives(run, page):
    words = text_of(page)
    first = run.metrics()
    first = first[first.scope == "pooled"].iloc[0]
    assert words.index("Scores") < words.index("Folds")
    assert f"{first.value:.3f}" in words
    assert "chance" in words
    assert "majority class" in words


def _score(**values):
    base = {"name": "uf1", "scope": "pooled", "value": 0.6, "low": 0.5, "high": 0.7,
            "chance": 0.33, "majority": 0.2, "count": 9, "note": ""}  # fmt: skip
    return Score(**{**base, **values})


@pytest.mark.parametrize(
    ("values", "tone", "words"),
    [
        ({}, "above", "beats chance"),
        ({"low": 0.3}, "unsure", "this run alone does not show it"),
        ({"low": 0.33}, "unsure", "does not show"),
        ({"value": 0.33}, "below", "does not beat"),
        ({"value": 0.1, "low": 0.0}, "below", "does not beat"),
        ({"majority": 0.6}, "below", "does not beat the majority class"),
        ({"low": None, "high": None}, "unsure", "luck"),
        ({"value": None}, "open", "could not be computed"),
        ({"chance": None, "majority": None}, "open", "no chance level"),
        ({"baselines": ((0.9, "thresholded motion"),)}, "below", "thresholded motion 0.90"),
    ],
)
def test_verdict_claims_no_more_than_the_interval(values, tone, words):
    said = verdict(_score(**values))
    assert said.tone == tone
    assert words in said.text


def test_not_a_number_is_a_missing_number():
    nan = float("nan")
    row = {"name": "uf1", "scope": "pooled", "value": nan, "low": nan, "high": 0.5}
    row |= {"chance": 0.3, "majority": nan, "count": 0, "note": None}
    (score,) = scores(pd.DataFrame([row]))
    assert (score.value, score.low, score.majority, score.note) == (None, None, None, "")


def test_perfect_intervals_are_no_guess(longs):
    found = {s.name: s for s in scores(longs.metrics()) if s.scope == "pooled"}
    names = [name for _, name in found["spotting_f1"].guesses]
    assert "thresholded motion" in names
    assert "perfect intervals" not in names


def test_small_runs_are_called_small(wordy, clips):
    assert "That is few" in text_of(render(clips))


def test_a_split_that_shares_people_is_called_subject_dependent(wordy, clips, tmp_path):
    folder = tmp_path / "runs" / "made_up" / "shared"
    shutil.copytree(clips.workspace.path, tmp_path, dirs_exist_ok=True)
    shutil.copytree(clips.folder, folder)
    split = json.loads((folder / "split.json").read_text())
    split["people_shared"] = ["casme2:cas01", "samm:sam02", "samm:sam03"]
    (folder / "split.json").write_text(json.dumps(split))
    assert "Subject-dependent" not in text_of(render(clips))
    words = text_of(render(RunFiles(folder)))
    assert "Subject-dependent. Leave one subject out" in words
    assert "3 people are in training and test of the same fold" in words
    assert "SUBJECT-DEPENDENT" in run_pages.scoreboard(RunFiles(folder))


# -------------------------------------------------------------------------------------- the account


def test_in_is_kept_plus_dropped(clips):
    found = {(a.dataset, a.stage): a for a in accounts(clips)}
    for account in found.values():
        assert account.taken == account.kept + account.dropped
    flow = found["samm", "flow"]
    assert (flow.taken, flow.kept, flow.dropped) == (12, 11, 1)
    assert [(r.reason, r.count) for r in flow.reasons] == [("crosses_cut", 1)]
    ingest = found["samm", "ingest"]
    assert (ingest.taken, ingest.dropped) == (13, 1)


def test_ledger_groups_keep_the_count_of_every_row():
    rows = [("align", "x", f"v{i}", "video", "no_face", "", "dropped") for i in range(5)]
    rows.append(("align", "x", "v9", "frame", "dark", "", "flagged"))
    found = reasons(ledger(rows))
    assert [(r.action, r.count) for r in found] == [("dropped", 5), ("flagged", 1)]
    assert "and 2 more" in found[0].examples


def test_confusion_counts_are_the_predictions(clips):
    table = clips.predictions()
    everything, *single = confusions(table)
    assert everything.total == len(table)
    assert sum(m.total for m in single) == len(table)
    hits = sum(everything.counts[i][i] for i in range(len(everything.labels)))
    assert hits == int((table.label == table.predicted).sum())


# ------------------------------------------------------------------------------------ what may lack


def test_a_run_without_metrics_still_has_a_report(wordy, clips, tmp_path):
    shutil.copytree(clips.workspace.path, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / clips.folder.relative_to(clips.workspace.path)
    (folder / "metrics.parquet").unlink()
    assert "No scores: not computed." in text_of(render(RunFiles(folder)))


def test_pruned_stores_are_said_to_be_missing(clips, tmp_path):
    shutil.copytree(clips.workspace.path, tmp_path, dirs_exist_ok=True)
    for stage in ("align", "apex", "flow"):
        shutil.rmtree(tmp_path / "samm" / stage)
        shutil.rmtree(tmp_path / "casme2" / stage)
    words = text_of(render(RunFiles(tmp_path / clips.folder.relative_to(clips.workspace.path))))
    assert "not computed" in words


def test_folds_without_history_have_no_curves(clips):
    empty = pd.DataFrame({"epoch": pd.Series(dtype=float), "lr": pd.Series(dtype=float)})
    assert training_figure({"fold-00": empty}) is None


def test_thinning_keeps_every_peak():
    curve = [0.0] * 100_000
    curve[77_777] = 1.0
    curve[50] = -1.0
    at, values = thin(curve, 200)
    assert len(at) <= 400
    assert (values.max(), values.min()) == (1.0, -1.0)
    assert at[values.argmax()] == 77_777
    assert (at[1:] > at[:-1]).all()


# ------------------------------------------------------------------------------- pages and terminal


def test_run_page_is_small_and_has_its_pictures(run):
    page = run_pages.run_page(run)
    assert page.count("](data:image/png;base64,") >= 2
    assert len(page) < 300_000
    assert "http" not in page


def test_scoreboard_puts_chance_beside_each_score(run):
    board = run_pages.scoreboard(run)
    header = board.splitlines()[0]
    assert "majority" in header
    assert "chance" in header
    assert "people" in board


def test_tables_for_the_ui_are_plain(run):
    for rows in (run_pages.score_rows(run), run_pages.fold_rows(run)):
        json.dumps(rows)
        assert len({tuple(row) for row in rows}) == 1
    seconds = [row["seconds"] for row in run_pages.fold_rows(run)]
    assert seconds == [12.5] * len(run.folds)


def test_spotting_leaves_in_file_numbers(longs, tmp_path):
    count = run_pages.export_spotting(longs, tmp_path)
    found = pd.read_csv(tmp_path / "samm_lv_pred.csv")
    table = longs.predictions()
    assert count == len(found) == len(table)
    # The made-up files are numbered from 1: number = index + 1.
    assert sorted(found.pred_onset) == sorted(table.start_index.astype(int) + 1)


def test_spotting_of_a_model_that_does_not_spot_is_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="a network that spots, such as ME-TST"):
        run_pages.export_spotting(clips, tmp_path)
