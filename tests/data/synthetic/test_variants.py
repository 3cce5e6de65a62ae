"""The other shapes in which datasets are shipped: written, and read by the same adapters."""

from __future__ import annotations

import json
import shutil

import pytest

from data.datasets import get_adapter, open_dataset
from data.errors import ConfigError
from data.ingest.check import check_dataset
from data.synthetic import get_layout, load_truth, variant_names, write_dataset
from tests.fakes import dataset_trees as trees
from tests.fakes.synthetic_defects import NATURAL, unexplained

QUICK = ("casme2:selected", "casme3:clips", "mmew:by_subject")
VARIANTS = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in variant_names()]


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory):
    """(name, sound copy, copy with planted defects), written once a variant."""
    folder = tmp_path_factory.mktemp(request.param.replace(":", "_"))
    sound = write_dataset(request.param, folder / "sound", preset="smoke", seed=29, workers=1)
    broken = write_dataset(
        request.param, folder / "broken", preset="smoke", seed=29, defects=True, workers=1
    )
    return request.param, sound, broken


def test_a_sound_copy_is_read_whole(variant):
    name, sound, _ = variant
    report = check_dataset(name.partition(":")[0], sound)
    natural = NATURAL.get(name, set())
    assert {d["reason"] for d in report.defects} == natural
    assert report.exit_code == (3 if natural else 0)
    drawn = [
        (video["video"], event["emotion"])
        for video in json.loads((sound / "truth.json").read_text())["videos"]
        for event in video["events"]
        if event["type"] == "micro"
    ]
    if not get_adapter(name.partition(":")[0]).labelled:
        drawn = []
    events = open_dataset(name.partition(":")[0], sound).events
    micro = events[events.type == "micro"]
    assert sorted(zip(micro.video, micro.emotion, strict=True)) == sorted(drawn)


def test_planted_defects_are_found_and_none_is_invented(variant):
    name, _, broken = variant
    assert load_truth(broken).defects
    assert unexplained(name, broken) == ([], [])


def test_an_unknown_variant_names_the_known():
    for name in ("casme2:whole", "casme2:", "samm_lv:films"):
        with pytest.raises(ConfigError, match=name.partition(":")[0]):
            get_layout(name)
    with pytest.raises(ConfigError, match="casme2:selected"):
        get_layout("casme2:whole")


def test_variants_show_one_performance(tmp_path):
    """Same seed, other shape: same people, same clips, same expressions, same labels."""
    whole = write_dataset("casme2", tmp_path / "a", preset="smoke", seed=5, workers=1)
    cut = write_dataset("casme2:selected", tmp_path / "b", preset="smoke", seed=5, workers=1)
    frames = sorted(cut.rglob("*.jpg"))
    twins = [whole / "CASME2-RAW" / f.relative_to(cut / "CASME2_RAW_selected") for f in frames]
    assert frames and len(frames) < len(list(whole.rglob("*.jpg")))
    assert [f.name for f in frames] == [t.name for t in twins] and all(t.exists() for t in twins)
    a, b = (open_dataset("casme2", r).events for r in (whole, cut))
    columns = ["event", "onset_number", "apex_number", "offset_number", "aus", "emotion"]
    assert a[columns].equals(b[columns])


def test_films_beside_their_frames_are_named_and_left_aside(tmp_path):
    films = write_dataset("casme2:films", tmp_path / "films", preset="smoke", seed=5, workers=1)
    alone = open_dataset("casme2", films)
    assert set(alone.videos.source) == {"video_file"} and alone.variant["frames"] == "video files"
    assert (alone.events.onset_number == alone.events.onset + 1).all(), "frame 1 is the first"
    for film in films.rglob("*.avi"):
        trees.write_frames(film.with_suffix(""), range(1, 400))
    both = open_dataset("casme2", films)
    assert set(both.videos.source) == {"frames"}
    assert "video files" in both.variant["also_present"]
    assert "stray_file" not in set(both.ledger.reason)


def test_a_folder_named_like_a_film_is_a_folder(tmp_path):
    root = trees.casme2(tmp_path)
    for clip in list((root / "CASME2-RAW").glob("*/*")):
        clip.rename(clip.with_name(f"{clip.name}.avi"))
    shutil.rmtree(root / "CASME2-RAW" / "sub09")
    report = check_dataset("casme2", root)
    assert report.exit_code in (3, 4) and "Traceback" not in report.to_text()
