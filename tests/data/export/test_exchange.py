"""Forms that others read, each read back: pictures, TIM clips, events, shards, MEGC's CSV."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from data.challenge.forms import read_intervals
from data.errors import ConfigError, InputError, StoreError
from data.export import reading, shards
from data.export.events_json import export_events, read_events
from data.export.flow_pictures import export_flow_pictures, flow_picture
from data.export.ordinary import write_megc_csv
from data.export.reading import OpenStores
from data.export.samples import labelled, with_flow
from data.export.shards import export_shards
from data.export.tim import export_tim_clips, interpolated, tim_weights
from data.schema import conform
from data.stages.files import read_table, write_table
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from flows.cli import app
from tests.fakes.fabricated_run import write_clip_stores, write_ingest


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """Two datasets whose subjects have the same names, and are other people."""
    found = Workspace(tmp_path_factory.mktemp("exchange") / "ws")
    for name in ("casme2", "mine"):
        events = write_ingest(found, name, subjects=3, per_subject=3, show_faces=name == "mine")
        write_clip_stores(found, name, events)
    return found


def events_of(workspace: Workspace, name: str) -> pd.DataFrame:
    return read_table(workspace.stage(name, "ingest") / "events.parquet")


def fields_of(workspace: Workspace) -> dict[tuple[str, str], np.ndarray]:
    """(dataset, event) → u, v and strain."""
    samples = labelled(workspace, ["casme2", "mine"], "label_3")
    with OpenStores(workspace) as opened:
        return {(s.dataset, s.event): field for s, field, _ in with_flow(opened, samples)}


@pytest.fixture
def twice(tmp_path: Path) -> Workspace:
    """A person in two datasets under one name, and names that are the same as files."""
    found = Workspace(tmp_path / "ws")
    for name in ("samm", "samm_lv"):
        events = write_ingest(found, name, subjects=3, per_subject=2)
        write_clip_stores(found, name, events)
        called = {"sub01": "006", "sub02": "s?1", "sub03": "s*1"}
        if name == "samm_lv":
            called |= {"sub02": "x" * 90 + "a", "sub03": "x" * 90 + "b"}
        subjects = events.subject.map(called)
        people = "samm:" + subjects  # 006 is the same person in both
        events = events.assign(subject=subjects, person=people, apex=pd.NA)
        path = found.stage(name, "ingest") / "events.parquet"
        write_table(conform(events, "events"), path)
    return found


# ------------------------------------------------------------------------------------ pictures


def test_flow_picture_is_stretched_channel_by_channel() -> None:
    y, x = np.mgrid[:8, :8].astype(np.float32)
    field = np.stack([x - 3, -y, np.full_like(x, 0.5)], -1)
    picture = flow_picture(field, 8)
    assert picture.shape == (8, 8, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 255, 0] and picture[7, 7].tolist() == [255, 0, 0]
    assert flow_picture(field, 16).shape == (16, 16, 3)


def test_pictures_are_laid_out_one_subject_out(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    count = export_flow_pictures(workspace, ["casme2", "mine"], out)
    rows = pd.read_csv(out / "samples.csv")
    assert count == len(rows) == 16  # 9 events of each, the last one without flow
    subjects = sorted(p.name for p in out.iterdir() if p.is_dir())
    assert subjects == sorted(set(rows.subject)) and "casme2-sub01" in subjects
    for subject in subjects:
        own = {p.name for p in (out / subject / "u_test").rglob("*.png")}
        others = {p.name for p in (out / subject / "u_train").rglob("*.png")}
        assert own == {Path(f).name for f in rows[rows.subject == subject].file}
        assert not own & others and len(own) + len(others) == count
    by_event = fields_of(workspace)
    for row in rows.itertuples():
        image = cv2.imread(str(out / row.file))[..., ::-1]
        np.testing.assert_array_equal(image, flow_picture(by_event[row.dataset, row.event], 28))
        number = {"negative": "0", "positive": "1", "surprise": "2"}[row.label]
        assert Path(row.file).parts[1:3] == ("u_test", number)
    with pytest.raises(ConfigError) as caught:
        export_flow_pictures(workspace, ["mine"], out)
    assert caught.value.code == "folder_not_empty"


def test_no_picture_takes_anothers_place(twice: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    count = export_flow_pictures(twice, ["samm", "samm_lv"], out)
    text = (out / "samples.csv").read_text()
    rows = pd.read_csv(out / "samples.csv", dtype=str)
    assert count == len(rows) == 10 == rows.file.nunique()
    assert len({Path(f).name for f in rows.file}) == 10, "in u_train all lie together"
    assert rows.groupby("subject").person.nunique().max() == 1 and rows.subject.nunique() == 6
    assert {"samm-006", "samm_lv-006"} < set(rows.subject)
    for subject, own in rows.groupby("subject"):
        person = own.person.iloc[0]
        assert len(list((out / subject / "u_test").rglob("*.png"))) == len(own)
        others = len(list((out / subject / "u_train").rglob("*.png")))
        assert others == (rows.person != person).sum()
    assert "<NA>" not in text, "no sheet names an apex"
    assert set(rows.onset) == {"2"} and set(rows.apex) == {"12"}, "the flow's own frames"


def test_no_label_leads_out_of_the_folder(twice: Workspace, tmp_path: Path) -> None:
    path = twice.stage("samm", "ingest") / "events.parquet"
    labels = ["../../../../out", "/tmp/out", "a/b", "a?b", "negative", "0"]
    write_table(conform(read_table(path).assign(label_3=labels), "events"), path)
    out = tmp_path / "deep" / "deeper" / "pictures"
    assert export_flow_pictures(twice, ["samm"], out) == 5
    rows = pd.read_csv(out / "samples.csv")
    assert len({Path(f).parts[2] for f in rows.file}) == 5, "a folder a class"
    inside = set(tmp_path.rglob("*.png"))
    assert inside and all(p.is_relative_to(out) for p in inside)
    assert {len(p.relative_to(out).parts) for p in inside} == {4}


def test_the_importer_reads_the_pictures(workspace: Workspace, tmp_path: Path) -> None:
    importing = pytest.importorskip("data.flow_pictures.importing")
    export_flow_pictures(workspace, ["casme2"], tmp_path / "pictures")
    found = importing.find_pictures(tmp_path / "pictures")
    rows = pd.read_csv(tmp_path / "pictures" / "samples.csv")
    assert len(found) == len(rows)
    assert {(p.subject, p.label) for p in found} == set(zip(rows.subject, rows.label, strict=True))
    assert {p.person for p in found} == set(rows.person)


def test_what_has_no_label_or_flow_is_said(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label_3"):
        export_flow_pictures(workspace, ["mine"], tmp_path / "a", label="label")
    with pytest.raises(StoreError) as caught:
        export_flow_pictures(workspace, ["other"], tmp_path / "a")
    assert caught.value.code == "no_data" and not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="512"):
        export_flow_pictures(workspace, ["mine"], tmp_path / "a", size=5000)


# ------------------------------------------------------------------------------------ TIM


@pytest.mark.parametrize(("frames", "length"), [(1, 5), (2, 10), (7, 7), (30, 10), (9, 1)])
def test_tim_weights(frames: int, length: int) -> None:
    weights = tim_weights(frames, length)
    assert weights.shape == (length, frames)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    if frames == length:
        np.testing.assert_allclose(weights, np.eye(frames), atol=1e-12)
    if length > 1:  # the ends stay what they are
        np.testing.assert_allclose(weights[[0, -1]], np.eye(frames)[[0, -1]], atol=1e-12)


def test_tim_by_its_own_derivation() -> None:
    """Against the method as published: an SVD, and eigenvectors of the path graph's Laplacian."""
    rng = np.random.default_rng(1)
    frames, length = 8, 13
    clip = rng.normal(100, 20, (frames, 40))
    mean = clip.mean(axis=0)
    u, s, vt = np.linalg.svd((clip - mean).T, full_matrices=False)
    q = s[:, None] * vt
    path = np.diag(np.ones(frames - 1), 1)
    adjacency = path + path.T
    values, vectors = np.linalg.eigh(np.diag(adjacency.sum(axis=0)) - adjacency)
    vectors = vectors[:, np.argsort(values)][:, 1:]
    k = np.arange(1, frames)

    def curve(t: np.ndarray) -> np.ndarray:
        return np.sin(np.pi * k * t[:, None] + np.pi * (frames - k) / (2 * frames))

    at = np.arange(1, frames + 1) / frames
    scale = (curve(at) * vectors).sum(axis=0)  # the eigenvectors, up to sign and length
    transform = q @ vectors
    wanted = np.linspace(1 / frames, 1, length)
    published = mean + (curve(wanted) / scale) @ transform.T @ u.T
    np.testing.assert_allclose(tim_weights(frames, length) @ clip, published, atol=1e-8)


def test_tim_writes_nothing_where_nothing_is_known(twice: Workspace, tmp_path: Path) -> None:
    path = twice.stage("samm", "ingest") / "events.parquet"
    write_table(conform(read_table(path).assign(emotion=pd.NA, label_3=pd.NA), "events"), path)
    export_tim_clips(twice, "samm", tmp_path / "tim", length=4)
    lines = (tmp_path / "tim" / "clips.csv").read_text().splitlines()
    assert len(lines) == 7 and all(line.endswith(",,") for line in lines[1:])


def test_tim_clips_are_written_and_read(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--with-faces"):
        export_tim_clips(workspace, "casme2", tmp_path / "tim")
    assert not (tmp_path / "tim").exists()
    count = export_tim_clips(workspace, "mine", tmp_path / "tim", length=6)
    rows = pd.read_csv(tmp_path / "tim" / "clips.csv")
    assert count == len(rows) and set(rows.length) == {6}
    for row in rows.itertuples():
        files = sorted((tmp_path / "tim" / row.folder).glob("*.png"))
        assert [f.name for f in files] == [f"{i:06d}.png" for i in range(6)]
    with pytest.raises(InputError, match="TIM"):
        export_tim_clips(workspace, "mine", tmp_path / "none", length=0)
    still = np.full((4, 5, 5), 77, np.uint8)
    assert (interpolated(still, 9) == 77).all()


# ------------------------------------------------------------------------------------ events


def test_events_come_back_as_they_were(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    count = export_events(workspace, ["casme2", "mine"], path)
    before = pd.concat([events_of(workspace, n) for n in ("casme2", "mine")], ignore_index=True)
    back = read_events(path)
    assert count == len(back)
    pd.testing.assert_frame_equal(back, before[list(back.columns)], check_dtype=False)
    content = json.loads(path.read_text())
    one = content["annotations"][0]
    assert one["segment"] == [before.onset[0], before.offset[0]]
    fps = content["videos"][one["video_id"] - 1]["fps"]
    assert one["segment_s"] == pytest.approx([before.onset[0] / fps, (before.offset[0] + 1) / fps])
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert names[one["category_id"]] == before.emotion[0]
    path.write_text("[]")
    with pytest.raises(InputError) as caught:
        read_events(path)
    assert caught.value.code == "bad_events_file"


# ------------------------------------------------------------------------------------ shards


def samples_in(shard: Path) -> dict[str, dict[str, bytes]]:
    """As WebDataset groups a tar: by what stands before the first dot, in order."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, kind = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None and member.mtime == 0
            found.setdefault(key, {})[kind] = file.read()
    return found


def test_shards_hold_one_person_each(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    count = export_shards(workspace, ["casme2", "mine"], out)
    index = json.loads((out / "shards.json").read_text())
    assert count == 16 == sum(s["samples"] for s in index.values()) and len(index) == 6
    fields = fields_of(workspace)
    for name, said in index.items():
        for parts in samples_in(out / name).values():
            facts = json.loads(parts["json"])
            assert facts["person"] == said["person"] and set(parts) == {"flow.npy", "json"}
            field = np.load(io.BytesIO(parts["flow.npy"]))
            np.testing.assert_array_equal(field, fields[facts["dataset"], facts["event"]])
    export_shards(workspace, ["casme2", "mine"], tmp_path / "again")
    for name in index:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_shards_hold_every_sample_and_one_field_at_a_time(
    twice: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        reading, "open_store", lambda w, d, s: opened.append(s) or StageStore(w, d, s)
    )
    waiting, most = [0], [0]

    def counted(stores: OpenStores, samples: list[Any]) -> Iterator[Any]:
        for one in with_flow(stores, samples):
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            yield one

    put = shards._put
    monkeypatch.setattr(shards, "with_flow", counted)
    monkeypatch.setattr(
        shards, "_put", lambda tar, name, content: put(tar, name, content) or
        (name.endswith(".json") and waiting.__setitem__(0, waiting[0] - 1))
    )  # fmt: skip
    count = export_shards(twice, ["samm", "samm_lv"], tmp_path / "out", with_frames=True, length=3)
    found = [samples_in(path) for path in (tmp_path / "out").glob("*.tar")]
    assert count == 10 == sum(map(len, found)) and len(found) == 5
    assert len({key for shard in found for key in shard}) == 10
    assert all(
        set(parts) == {"flow.npy", "frames.npy", "json"} for s in found for parts in s.values()
    )
    assert most == [1] and opened.count("registration") == 2


def test_shards_with_clips_ask_for_faces(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        export_shards(workspace, ["casme2"], tmp_path / "a", with_frames=True)
    assert caught.value.code == "faces_not_shown" and not (tmp_path / "a").exists()
    export_shards(workspace, ["mine"], tmp_path / "a", with_frames=True, length=4)
    first = next(iter(samples_in(next((tmp_path / "a").glob("*.tar"))).values()))
    assert np.load(io.BytesIO(first["frames.npy"])).shape[0] == 4


# ------------------------------------------------------------------------------------ the rest


def test_megc_csv_is_read_by_the_challenge(tmp_path: Path) -> None:
    rows = [("006_1", 5, 9, "me"), ("006_1", 1, 3, "mae")]
    write_megc_csv(rows, tmp_path / "samm_pred.csv")
    form, back = read_intervals(tmp_path / "samm_pred.csv")
    assert form == "spotting"
    assert [(i.video, i.onset, i.offset, i.type) for i in back] == sorted(rows)


def test_command(workspace: Workspace, tmp_path: Path) -> None:
    def run(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["export", *map(str, words)])
        return result.exit_code, result.output

    root = workspace.path
    assert run("pictures", root, tmp_path / "p", "--size", 32)[0] == 0
    assert cv2.imread(str(next((tmp_path / "p").rglob("*.png")))).shape == (32, 32, 3)
    code, text = run("events", root, tmp_path / "e.json", "--dataset", "mine")
    assert code == 0 and "events: 9 from mine" in text
    assert run("tim", root, tmp_path / "t", "--dataset", "mine", "--length", 5)[0] == 0
    assert run("shards", root, tmp_path / "s")[0] == 0
    code, text = run("frames", root, tmp_path / "x")
    assert code == 2 and "pictures" in text
