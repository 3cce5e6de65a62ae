"""Synthetic datasets through their adapters: planted defects are found, none is invented."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from data.datasets import ADAPTERS, get_adapter, open_dataset
from data.datasets.action_units import unit_numbers
from data.ingest.check import check_dataset
from data.synthetic import layout_names, write_dataset
from tests.fakes.synthetic_defects import NATURAL, unexplained

QUICK = "casme2"
LAYOUTS = [
    pytest.param(n, marks=[] if n == QUICK else pytest.mark.slow)
    for n in layout_names()
    if n in ADAPTERS
]


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, tmp_path_factory):
    """(name, sound copy, copy with planted defects), written once a layout."""
    name = request.param
    folder = tmp_path_factory.mktemp(name.replace("/", "_"))
    sound = write_dataset(name, folder / "sound", preset="smoke", seed=3)
    broken = write_dataset(name, folder / "broken", preset="smoke", seed=3, defects=True)
    return name, sound, broken


def test_a_sound_copy_has_no_defect(layout):
    name, sound, _ = layout
    dataset = open_dataset(name, sound)
    assert set(dataset.ledger.reason) <= NATURAL.get(name, set())
    assert dataset.show_faces and bool(len(dataset.events)) == get_adapter(name).labelled
    report = check_dataset(name, sound)
    assert report.exit_code == (3 if len(dataset.ledger) else 0)
    assert report.images["unreadable"] == 0 and report.images["truncated"] == 0


def test_labels_are_those_that_were_drawn(layout):
    name, sound, _ = layout
    dataset = open_dataset(name, sound)
    videos = json.loads((sound / "truth.json").read_text())["videos"]
    drawn = {
        (v["video"], e["type"], e["onset"]): e
        for v in videos
        for e in v["events"]
        if e["type"] != "blink"
    }
    read = dataset.events[dataset.events.type != "blink"]
    if not get_adapter(name).labelled:
        assert drawn and read.empty
        return
    assert len(read) == len(drawn) and len(dataset.videos) == len(videos)
    for row in read.itertuples():
        near = [drawn.get((row.video, row.type, row.onset + d)) for d in (0, -1, 1)]
        event = next(e for e in near if e is not None)
        assert abs(row.offset - event["offset"]) <= 1, "sheets round, no more"
        assert pd.isna(row.apex) or abs(row.apex - event["apex_centre"]) <= 1.5, "not the hold's"
        if row.type == "micro":
            assert row.emotion == event["emotion"]
            if not pd.isna(row.aus):  # SMIC's sheets have no action units
                assert unit_numbers(row.aus) == unit_numbers(event["aus"])


def test_planted_defects_are_found_and_none_is_invented(layout):
    name, _, broken = layout
    assert json.loads((broken / "truth.json").read_text())["defects"]
    assert unexplained(name, broken) == ([], [])
