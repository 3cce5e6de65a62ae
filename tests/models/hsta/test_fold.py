"""HSTA's folds: from stores to weights, predictions and scores, killed halfway too."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError, StoreError
from data.schema import conform
from data.stages.files import read_table, write_table
from data.stages.identity import file_digest
from data.stages.stores import group_digest
from models.hsta.clips import read_clips, read_special_flow
from models.hsta.fold import class_names, fit_folds, load_fold, prove_fold
from models.hsta.input import HstaInputConfig, resize_crops
from models.hsta.packs import plan_packs
from models.registry import find_network
from models.runs.files import FoldJob
from models.scores import units
from models.scores.recognition import score_table
from models.targets import UNITS, seen
from tests.fakes.fabricated_run import ledger, write_tables
from tests.fakes.hsta_small import QUICK, SMALL
from tests.fakes.registered import fill_event


class Killed(Exception):
    pass


def write_store(folder, units, fill):
    """A stage store as the engine leaves it: one HDF5 part and its manifest."""
    folder.mkdir(parents=True)
    part = folder / "part-0.h5"
    with h5py.File(part, "w") as file:
        for unit in units:
            fill(file.create_group(unit), unit)
        content = {unit: group_digest(file[unit]) for unit in units}
    write_manifest(folder, units, part, content)


def write_manifest(folder, units, part, content=None):
    facts = {
        "part": part.name,
        "status": "ok",
        "bytes": part.stat().st_size,
        "digest": file_digest(part),
        "version": 1,
        "settings": "{}",
        "counts": "{}",
    }
    own = content or dict.fromkeys(units, "")
    rows = [{"unit": u, "key": f"key-{u}", "content": own[u], **facts} for u in units]
    write_tables(folder, rows, ledger([]))


@pytest.fixture
def workspace(tmp_path):
    """Four people with six clips each; the class is the direction of the flow at the apex."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(4):
        for clip in range(6):
            rows.append(
                {
                    "dataset": "toy",
                    "subject": f"s{person}",
                    "person": f"toy:s{person}",
                    "video": f"s{person}/v{clip}",
                    "event": f"s{person}/v{clip}",
                    "onset": 2,
                    "apex": 5,
                    "offset": 9,
                    "type": "micro",
                    "label_3": ["negative", "positive", "surprise"][clip % 3],
                    "aus": ["4+L7", "6+12", "1+2+38"][clip % 3],
                }
            )
    events = conform(pd.DataFrame(rows), "events")
    root = tmp_path / "ws" / "toy"
    write_table(events, root / "ingest" / "events.parquet")
    units, label = list(events.event), dict(zip(events.event, events.label_3, strict=True))

    def crops(group, unit):
        fill_event(group, rng.integers(0, 256, (8, 20, 20), dtype=np.uint8), first=2)

    def fields(group, unit):
        group["kind"] = np.array(["onset_apex", "apex_offset"], dtype="S16")
        flow = rng.normal(0, 0.1, (2, 20, 20, 2)).astype(np.float32)
        flow[:, :10, :, 1] += {"negative": 1, "positive": -1, "surprise": 0}[label[unit]]
        flow[:, :, :10, 0] += label[unit] == "surprise"
        stored = group.create_dataset("flow", data=np.rint(flow * 1024).astype(np.int16))
        stored.attrs["scale"] = 2.0**-10  # as the flow stage's int16 format
        group["strain"] = np.abs(flow[..., 0]).astype(np.float16)

    write_store(root / "registration", units, crops)
    write_store(root / "flow", units, fields)
    apex = pd.DataFrame({"unit": units, "event": units, "apex": 5})
    write_table(apex, root / "apex" / "part-0.parquet")
    write_manifest(root / "apex", units, root / "apex" / "part-0.parquet")
    return tmp_path / "ws"


def recipe(special="flow", labels="label_3", **changes):
    """What the fold reads of a recipe."""
    train = QUICK.model_copy(update={"epochs": 12, "base_lr": 0.1, **changes})
    model = SMALL.model_copy(update={"special": special})
    network = find_network("hsta")
    split = SimpleNamespace(kind="leave_one_subject_out")
    return SimpleNamespace(
        name="toy", labels=labels, split=split, model=model, train=train, network=network
    )


def job(workspace, held_out, out, special="flow", **changes):
    units = [("toy", f"s{p}/v{c}") for p in range(4) for c in range(6)]
    sides = [
        tuple(u for u in units if u[1].startswith(f"s{held_out}/") == test)
        for test in (False, True)
    ]
    return FoldJob(
        workspace=workspace,
        recipe=recipe(special, **changes),
        fold=f"fold-{held_out:02d}",
        datasets=("toy",),
        train_events=sides[0],
        test_events=sides[1],
        train_videos=(),
        test_videos=(),
        seed=0,
        out=out,
    )


def test_fold_writes_its_files_and_scores_above_chance(workspace, tmp_path):
    tables = []
    for person in range(4):
        out = tmp_path / f"fold-{person:02d}"
        out.mkdir()
        fit_folds([job(workspace, person, out, epochs=30)])
        table = read_table(out / "predictions.parquet")
        assert set(table.person) == {f"toy:s{person}"} and len(table) == 6
        chances = table[["prob_negative", "prob_positive", "prob_surprise"]].to_numpy()
        assert np.allclose(chances.sum(1), 1)
        tables.append(table)
    history = read_table(out / "history.parquet")
    assert list(history.epoch) == list(range(30)) and "train_uf1" in history
    assert len(read_table(out / "timings.parquet")) == 30
    facts = json.loads((out / "model.json").read_text())
    assert facts["classes"] == ["negative", "positive", "surprise"]
    assert facts["model"]["num_classes"] == 3 and len(facts["input_scale"]) == 5

    pooled = pd.concat(tables, ignore_index=True)
    metrics = score_table(pooled)
    main = metrics[metrics.scope == "pooled"].set_index("name")
    assert main.value["uf1"] > 0.8 and main["count"]["uf1"] == 24
    assert main.low["uf1"] <= main.value["uf1"] <= main.high["uf1"]
    assert main.chance["uar"] == pytest.approx(1 / 3)
    assert main.majority["accuracy"] == pytest.approx(1 / 3)
    hits = (pooled.label == pooled.predicted).mean()
    assert main.value["accuracy"] == pytest.approx(hits)
    assert len(metrics[metrics.scope.str.startswith("fold:")]) == 12
    assert len(metrics[metrics.scope == "class:surprise"]) == 3

    fold = load_fold(out)
    events = read_table(workspace / "toy" / "ingest" / "events.parquet")
    events = events[events.subject == "s3"]
    bank = read_clips(workspace, events, [0] * 6, fold.model.config, fold.train.input)
    stored = tables[3][[f"prob_{c}" for c in fold.classes]].to_numpy()
    assert np.allclose(fold.predict(bank), stored, atol=1e-6)


@pytest.mark.slow
def test_a_fold_learns_action_units(workspace, tmp_path):
    """Two units a clip; several folds given at once are trained one after the other."""
    jobs, settings = [], {"epochs": 40, "base_lr": 0.3, "resume_every": 50}
    for person in (0, 3):
        out = tmp_path / f"fold-{person:02d}"
        out.mkdir()
        jobs.append(job(workspace, person, out, labels="aus", **settings))
    fit_folds(jobs)
    pooled = pd.concat([read_table(j.out / "predictions.parquet") for j in jobs])
    assert set(pooled.label) == {"4+7", "6+12", "1+2"}  # 38 is none of CD6ME's
    chances = pooled[[f"prob_{u}" for u in UNITS]].to_numpy()
    assert not np.allclose(chances.sum(axis=1), 1) and pooled.predicted.tolist() == seen(chances)
    rows = units.score_table(pooled.reset_index(drop=True)).set_index(["name", "scope"])
    assert rows.value["uf1", "pooled"] > 0.8 > rows.majority["uf1", "pooled"]
    assert rows["count"]["f1", "class:AU12"] == 4
    fold = load_fold(jobs[1].out)
    assert fold.multi_label and fold.classes == UNITS
    history = read_table(jobs[1].out / "history.parquet")
    assert history.train_uf1.iloc[-1] > history.train_uf1.iloc[0]
    events = read_table(workspace / "toy" / "ingest" / "events.parquet")
    bank = read_clips(workspace, events[events.subject == "s3"], [0] * 6, fold.model.config,
                      fold.train.input)  # fmt: skip
    stored = pooled[pooled.fold == jobs[1].fold][[f"prob_{u}" for u in UNITS]].to_numpy()
    assert np.allclose(fold.predict(bank), stored, atol=1e-6)


def test_killed_fold_goes_on_and_ends_the_same(workspace, tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    ours = HstaInputConfig(pixels="motion", level=0.5, augment=True, test_mirror=True)
    changes = {"resume_every": 2, "input": ours}
    fit_folds([job(workspace, 1, tmp_path / "whole", **changes)])
    assert load_fold(tmp_path / "whole").scale[4] not in (0, 1)  # the shifts' own unit

    def kill(share, message):
        if share > 0.5:
            raise Killed

    killed = job(workspace, 1, tmp_path / "killed", **changes)
    with pytest.raises(Killed):
        fit_folds([FoldJob(**{**vars(killed), "progress": kill})])
    assert (tmp_path / "killed" / "resume" / "state.safetensors").exists()
    damaged = FoldJob(**{**vars(killed), "out": tmp_path / "damaged"})
    shutil.copytree(killed.out, damaged.out)
    (damaged.out / "resume" / "state.safetensors").write_bytes(b"cut short")
    fit_folds([killed])
    fit_folds([damaged])  # starts again
    for name in ("weights.safetensors", "model.json", "history.parquet", "predictions.parquet"):
        for folder in ("killed", "damaged"):
            assert (tmp_path / "whole" / name).read_bytes() == (
                tmp_path / folder / name
            ).read_bytes()


def test_clips_of_frames_and_memory_mapping_agree(workspace, tmp_path):
    events = read_table(workspace / "toy" / "ingest" / "events.parquet")[:5]
    config = SMALL.model_copy(update={"special": "frames"})
    in_memory = read_clips(workspace, events, [0] * 5, config, HstaInputConfig())
    mapped = read_clips(
        workspace, events, [0] * 5, config, HstaInputConfig(cache_mb=0), tmp_path / "scratch"
    )
    assert isinstance(mapped.frames, np.memmap) and in_memory.special is None
    assert np.array_equal(mapped.frames, in_memory.frames)
    with h5py.File(workspace / "toy" / "registration" / "part-0.h5") as file:
        crops = file["s0/v1/crops"][:]
    start, count = in_memory.start[1], in_memory.count[1]
    assert count == 8
    expected = resize_crops(crops[[*range(8), 0, 3]], 16, 1)
    assert np.array_equal(in_memory.frames[start : start + 10], expected)


def test_flow_slots_hold_pixels_and_zeros_where_frames_are_the_same(workspace):
    path = workspace / "toy" / "flow" / "part-0.h5"
    with h5py.File(path) as file:
        group = file["s1/v0"]
        slots = read_special_flow(group, 20)
        pixels = group["flow"][:].astype(np.float32) / 1024
        np.testing.assert_allclose(slots[0, :2], pixels[0].transpose(2, 0, 1), atol=1e-6)
        np.testing.assert_allclose(slots[1, 2], group["strain"][1].astype(np.float32))
        only = {"kind": group["kind"][1:], "flow": group["flow"], "strain": group["strain"]}
        only["kind"] = np.array([b"apex_offset"])  # onset is the apex: no first pair
        assert (read_special_flow(only, 10)[0] == 0).all()
        assert read_special_flow(only, 10)[1].shape == (3, 10, 10)


def test_missing_inputs_are_named(workspace, tmp_path):
    bad = job(workspace, 0, tmp_path)
    with pytest.raises(StoreError, match="toy:nobody"):
        fit_folds([FoldJob(**{**vars(bad), "train_events": (("toy", "nobody"),)})])
    (workspace / "toy" / "flow" / "manifest.parquet").unlink()
    with pytest.raises(StoreError, match="flow"):
        fit_folds([bad])


def test_classes_of_a_label_map():
    assert class_names(recipe(), ["surprise"]) == ("negative", "positive", "surprise")
    own = SimpleNamespace(name="r", labels="emotion")
    assert class_names(own, ["sad", "happy", "sad"]) == ("happy", "sad")
    with pytest.raises(ConfigError, match="happy"):
        class_names(recipe(), ["happy"])
    with pytest.raises(ConfigError, match="two classes"):
        class_names(own, ["sad"])


# --- several folds at once


@pytest.mark.parametrize("special", ["flow", "frames"])
def test_a_pack_writes_each_fold_as_it_would_be_alone(workspace, tmp_path, special):
    kind = {"special": special, "epochs": 2, "base_lr": 0.01}
    pack = [job(workspace, n, tmp_path / f"pack-{n}", **kind) for n in range(3)]
    fit_folds(pack)
    for number, one in enumerate(pack):
        alone = job(workspace, number, tmp_path / f"alone-{number}", **kind)
        fit_folds([alone])
        facts = [json.loads((j.out / "model.json").read_text()) for j in (one, alone)]
        assert facts[0] == facts[1]
        tables = [read_table(j.out / "predictions.parquet") for j in (one, alone)]
        assert list(tables[0].event) == list(tables[1].event)
        columns = [c for c in tables[0].columns if c.startswith("prob_")]
        np.testing.assert_allclose(tables[0][columns], tables[1][columns], atol=1e-4)
    other = job(workspace, 3, tmp_path / "other", special, epochs=1)
    with pytest.raises(ConfigError, match="one recipe"):
        fit_folds([pack[0], other])


def test_a_fold_of_a_pack_is_proved_to_be_its_own(workspace, tmp_path):
    jobs = [job(workspace, n, tmp_path / f"{n}", base_lr=0.01) for n in range(4)]
    proof = prove_fold(jobs, "fold-02", steps=8)
    assert proof.holds and proof.stepwise.steps == 8, proof.sentence()
    assert not jobs[2].out.exists()
    packs, choice = plan_packs(jobs)
    assert packs == [[one] for one in jobs] and "per process" in choice.why
