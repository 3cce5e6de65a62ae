"""ME-TST folds from stores to metrics on made-up motion: files, protocol, leaks, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from data.errors import ConfigError, TrainingError
from data.stages.files import read_table, write_table
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.me_tst.curves import read_curves, read_videos, write_curves
from models.me_tst.fold import (
    PREDICTIONS,
    _subjects_weights,
    fit_folds,
    load_fold,
    prove_fold,
    score,
    training_rows,
)
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.packs import plan_packs
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.training import predict
from models.recipe import Recipe, parse_recipe
from models.runs.files import FoldJob, RunFiles
from models.runs.publishing import RunPlan
from models.runs.training import plan_run
from tests.fakes import steps
from tests.fakes.fabricated_run import planned_keys, write_ingest, write_store

K, FRAMES, SKIP = 20, 480, 2
DATASET = "samm_lv"
SMALL = {"name": "me_tst", "dim": 16, "blocks": 2, "d_state": 4}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "small",
        "data": [DATASET],
        "labels": "label_4",
        "model": SMALL,
        "motion": {"k": K, "frame_skip": SKIP},
        "train": {"epochs": 6, "max_lr": 0.01, "batch_size": 8, "negative_ratio": 1.0},
        "decode": {"draws": 20},
        "seed": 0,
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return parse_recipe(values)


def write_events(workspace: Workspace) -> pd.DataFrame:
    """Two micro-expressions and a macro-expression in each of 8 videos; the last has none."""
    write_ingest(workspace, DATASET, subjects=4, per_subject=2, kind="long", frames=FRAMES)
    path = workspace.stage(DATASET, "ingest") / "events.parquet"
    events = read_table(path)
    events = events[events.video != "sub04/EP02"].reset_index(drop=True)
    events["label_4"] = events.label_3
    write_table(events, path)
    return events


def write_motion(workspace: Workspace, events: pd.DataFrame, scale: float = 1.0) -> None:
    """Noise, and a bump in two channels per class during each micro-expression."""
    classes = ("negative", "positive", "surprise")

    def fill(video: str) -> Any:
        rng = np.random.default_rng(sum(map(ord, video)))
        view = np.arange(0, FRAMES, SKIP, dtype=np.int32)
        path = rng.normal(0, 0.2, (len(view), 10))
        for e in events[(events.video == video) & (events.type == "micro")].itertuples():
            c = 2 * classes.index(str(e.label_4))
            path[e.onset // SKIP : e.offset // SKIP + 1, c : c + 2] += 2

        def write(group: h5py.Group) -> None:
            starts = range(0, len(view) - K + 1, K // 2)
            windows = [(path[s : s + K] - path[s]).T for s in starts]
            group["features"] = scale * np.stack(windows).astype(np.float32)
            group["status"] = np.zeros(len(windows), np.uint8)
            group["view_index"] = view
            group.attrs.update(k=K, stride=K // 2, frame_skip=SKIP, roi_set="coarse10")

        return write

    videos = [f"sub{s:02d}/EP{v:02d}" for s in range(1, 5) for v in (1, 2)]
    keys = planned_keys(workspace, DATASET, "motion", recipe())
    write_store(workspace, DATASET, "motion", {v: fill(v) for v in videos}, keys=keys)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("ws"))
    write_motion(made, write_events(made))
    return made


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> tuple[RunPlan, pd.DataFrame]:
    """All folds trained and published, and their scores."""
    plan: RunPlan = steps.train(workspace, recipe()).work
    return plan, score(RunFiles(plan.folder))


def planned(workspace: Workspace, of: Recipe) -> RunPlan:
    return plan_run(steps.scope(workspace, None, Path(), of))


def jobs_of(plan: RunPlan) -> list[FoldJob]:
    return list(plan.jobs.values())


def job_in(workspace: Workspace, out: Path, number: int = 0, **changes: Any) -> FoldJob:
    return replace(jobs_of(planned(workspace, recipe(**changes)))[number], out=out)


def value(table: pd.DataFrame, name: str, scope: str = "pooled") -> float:
    return float(table[(table["name"] == name) & (table["scope"] == scope)]["value"].iloc[0])


def test_leave_one_subject_out_run(trained: tuple[RunPlan, pd.DataFrame]) -> None:
    plan, table = trained
    assert len(plan.jobs) == 4
    assert value(table, "spotting_f1") > 0.5
    assert value(table, "strs") <= value(table, "spotting_f1")
    assert set(table[table.scope.str.startswith("fold:")].scope) == {
        f"fold:{job.fold}" for job in jobs_of(plan)
    }
    assert (table[table["name"] == "spotting_f1"]["count"].iloc[0]) == 14


def test_fold_files(trained: tuple[RunPlan, pd.DataFrame]) -> None:
    plan, _ = trained
    folder = plan.folder / jobs_of(plan)[0].fold
    facts = json.loads((folder / "model.json").read_text())
    assert facts["model"]["dim"] == 16 and facts["train"]["epochs"] == 6 and facts["k_p"] >= 1
    assert facts["dropped_events"] == []
    history = pd.read_parquet(folder / "history.parquet")
    assert list(history.epoch) == list(range(6)) and history.loss.notna().all()
    predicted = pd.read_parquet(folder / "predictions.parquet")
    assert list(predicted.columns) == list(PREDICTIONS)
    assert (predicted.end - predicted.start == 2 * facts["k_p"]).all()
    hits = predicted[predicted.matched]
    assert len(hits) and hits.label.notna().all() and hits.matched_event.notna().all()
    assert predicted[~predicted.matched].label.isna().all()
    inside = (hits.peak_index >= 0) & (hits.peak_index < FRAMES)
    assert inside.all() and (hits.peak_index == hits.peak * SKIP).all()
    assert not (folder / "resume").exists()


def test_a_damaged_resume_point_is_left_and_the_fold_starts_again(
    workspace: Workspace,
    trained: tuple[RunPlan, pd.DataFrame],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan, _ = trained
    job = job_in(workspace, tmp_path / "fold")
    state = job.out / "resume" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"damaged")
    with caplog.at_level("WARNING"):
        fit_folds([job])
    assert "starts again" in caplog.text
    same = (job.out / "weights.safetensors").read_bytes()
    assert same == (plan.folder / job.fold / "weights.safetensors").read_bytes()


def test_curves_hold_what_scoring_needs(trained: tuple[RunPlan, pd.DataFrame]) -> None:
    plan, _ = trained
    path = plan.folder / jobs_of(plan)[-1].fold / "curves.h5"
    with h5py.File(path) as file:
        group = file[f"{DATASET}/sub04/EP01"]
        assert group["score"].shape == (240,) and group["classes"].shape == (240, 5)
        assert group.attrs["subject"] == "sub04"
    first, without = read_curves(path)
    assert first.truth.intervals[0].tolist() == [20, 24, 28] and len(first.others) == 1
    assert len(without.truth.intervals) == 0


def test_curves_are_written_deterministically(
    trained: tuple[RunPlan, pd.DataFrame], tmp_path: Path
) -> None:
    plan, _ = trained
    path = plan.folder / jobs_of(plan)[0].fold / "curves.h5"
    write_curves(read_curves(path), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_loaded_fold_predicts_the_same(
    workspace: Workspace, trained: tuple[RunPlan, pd.DataFrame]
) -> None:
    plan, _ = trained
    folder = plan.folder / jobs_of(plan)[0].fold
    fold = load_fold(folder)
    video = read_videos(workspace, plan.recipe, jobs_of(plan)[0].test_videos)[0]
    spot, _ = predict(fold.network, video.motion, fold.train.batch_size)
    assert np.array_equal(spot, read_curves(folder / "curves.h5")[0].spot)
    with pytest.raises(TrainingError, match="side file"):
        load_fold(plan.folder)


def test_a_fold_never_sees_its_test_subject(workspace: Workspace, tmp_path: Path) -> None:
    """Weights, k_p and windows are the same whatever the held-out subject's data say."""
    other = Workspace(tmp_path / "ws")
    events = write_events(other)
    held = events.subject == "sub01"
    events.loc[held, "offset"] += 30
    events.loc[held & (events.type == "micro"), "label_4"] = "surprise"
    write_table(events, other.stage(DATASET, "ingest") / "events.parquet")
    original = read_table(workspace.stage(DATASET, "ingest") / "events.parquet")
    write_motion(other, original)
    found = []
    for space in (workspace, other):
        job = job_in(space, tmp_path / space.path.name / "fold", train={"epochs": 1})
        job.out.mkdir(parents=True)
        assert {v for _, v in job.test_videos} == {"sub01/EP01", "sub01/EP02"}
        fit_folds([job])
        weights = (job.out / "weights.safetensors").read_bytes()
        found.append((weights, json.loads((job.out / "model.json").read_text())["k_p"]))
    assert found[0] == found[1]


def test_k_p_of_all_subjects_is_a_variant(trained: tuple[RunPlan, pd.DataFrame]) -> None:
    _, table = trained
    assert value(table, "spotting_f1", "variant:k_p of all subjects") >= 0


def test_same_job_same_files(workspace: Workspace, tmp_path: Path) -> None:
    outs = []
    for name in ("a", "b"):
        job = job_in(workspace, tmp_path / name, train={"epochs": 1})
        job.out.mkdir()
        torch.manual_seed(len(outs))
        fit_folds([job])
        outs.append({p.name: p.read_bytes() for p in job.out.iterdir() if p.is_file()})
    assert outs[0] == outs[1] and len(outs[0]) == 5


def test_training_videos_with_events_or_all(workspace: Workspace) -> None:
    plan = planned(workspace, recipe())
    videos = read_videos(workspace, plan.recipe, jobs_of(plan)[0].train_videos)
    rows = {(v.dataset, v.video): 100 * i + np.arange(23) for i, v in enumerate(videos)}
    counts = {}
    for which in ("with_events", "all"):
        config = MeTstTrainConfig(videos=which, negative_ratio=100)
        counts[which] = len(found := training_rows(videos, rows, config, 0, "fold"))
        assert (found % 100 < 23).all() and (np.diff(found) > 0).all()
    assert counts["all"] - counts["with_events"] == 23


def test_no_training_event_stops_by_name(workspace: Workspace, tmp_path: Path) -> None:
    job = job_in(workspace, tmp_path)
    only = replace(job, train_videos=((DATASET, "sub04/EP02"),))
    with pytest.raises(TrainingError, match="micro-expression"):
        fit_folds([only])


def test_channels_must_be_the_stored_ones(workspace: Workspace, tmp_path: Path) -> None:
    job = job_in(workspace, tmp_path, model={"in_channels": 36})
    with pytest.raises(ConfigError, match="coarse10"):
        fit_folds([job])


def test_videos_come_in_natural_order(workspace: Workspace) -> None:
    plan = planned(workspace, recipe())
    wanted = [(DATASET, v) for v in ("sub02/EP02", "sub01/EP01", "sub02/EP01")]
    found = [v.video for v in read_videos(workspace, plan.recipe, wanted)]
    assert found == ["sub01/EP01", "sub02/EP01", "sub02/EP02"]


# --- authors' weights


def authors_state(model: MeTst) -> dict[str, torch.Tensor]:
    """Our weights under the authors' names."""
    from models.me_tst.network import _authors_name

    return {f"module.{_authors_name(n, False)}": t for n, t in model.state_dict().items()}


def test_authors_weights_are_evaluated_per_subject(workspace: Workspace, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = MeTst(MeTstConfig(dim=16, blocks=2, d_state=4)).eval()
    torch.save(authors_state(model), tmp_path / "subject_sub01.pkl")
    train = {"epochs": 0, "authors_weights": str(tmp_path)}
    job = job_in(workspace, tmp_path / "out", train=train)
    job.out.mkdir()
    fit_folds([job])
    curves = read_curves(job.out / "curves.h5")[0]
    video = read_videos(workspace, job.recipe, job.test_videos)[0]
    with torch.no_grad():
        want = model(torch.from_numpy(video.motion)[:, None])[0].numpy()
    np.testing.assert_allclose(curves.spot, want, atol=1e-5)
    assert len(pd.read_parquet(job.out / "history.parquet")) == 0


def test_authors_weights_are_found_by_the_authors_names(tmp_path: Path) -> None:
    """CAS(ME)^3's spNO.1 is their subject_1, and never subject_10 or subject_11."""
    for name in ("1", "10", "11", "006"):
        (tmp_path / f"subject_{name}.pkl").touch()
    found = [_subjects_weights(tmp_path, s).stem for s in ("spNO.1", "spNO.10", "spNO.11", "006")]
    assert found == ["subject_1", "subject_10", "subject_11", "subject_006"]
    assert not _subjects_weights(tmp_path, "spNO.2").exists()


def test_training_goes_on_from_authors_weights(workspace: Workspace, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = MeTst(MeTstConfig(dim=16, blocks=2, d_state=4))
    torch.save(authors_state(model), tmp_path / "w.pkl")
    train = {"epochs": 1, "max_lr": 1e-9, "authors_weights": str(tmp_path / "w.pkl")}
    job = job_in(workspace, tmp_path / "out", train=train)
    job.out.mkdir()
    fit_folds([job])
    kept = load_fold(job.out).network.state_dict()["head_spot.weight"]
    torch.testing.assert_close(kept, model.state_dict()["head_spot.weight"], atol=1e-6, rtol=0)


def test_a_folder_of_weights_needs_one_subject_per_fold(
    workspace: Workspace, tmp_path: Path
) -> None:
    train = {"epochs": 0, "authors_weights": str(tmp_path)}
    split = {"kind": "subject_kfold", "k": 2}
    values = recipe(train=train).model_dump(mode="json")
    parsed = parse_recipe({**values, "split": split})
    job = replace(jobs_of(planned(workspace, parsed))[0], out=tmp_path)
    with pytest.raises(ConfigError, match="one held-out subject"):
        fit_folds([job])


def test_slow_fast_network_trains_from_the_same_store(workspace: Workspace, tmp_path: Path) -> None:
    model = {"name": "me_tst_plus", "dim": 8, "blocks": 1, "d_state": 4, "in_channels": 10}
    job = job_in(workspace, tmp_path, train={"epochs": 1}, model=model)
    fit_folds([job])
    assert load_fold(tmp_path).model.name == "me_tst_plus"


# --- several folds at once


def test_a_pack_writes_each_fold_as_it_would_be_alone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_store = StageStore.open
    monkeypatch.setattr(
        StageStore, "open", lambda self, unit: opened.append(unit) or open_store(self, unit)
    )
    plan = planned(workspace, recipe(train={"epochs": 2, "max_lr": 1e-3}))
    pack = [replace(job, out=tmp_path / "pack" / job.fold) for job in jobs_of(plan)[:3]]
    fit_folds(pack)
    assert len(opened) == 8  # each video once, not once per fold
    for job in pack:
        alone = replace(job, out=tmp_path / "alone" / job.fold)
        fit_folds([alone])
        names = sorted(p.name for p in job.out.iterdir() if p.is_file())
        assert names == sorted(p.name for p in alone.out.iterdir() if p.is_file())
        assert json.loads((job.out / "model.json").read_text()) == json.loads(
            (alone.out / "model.json").read_text()
        )
        ours, theirs = (read_curves(j.out / "curves.h5") for j in (job, alone))
        assert [c.video for c in ours] == [c.video for c in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.spot, b.spot, atol=2e-3)
    other = replace(pack[0], recipe=recipe(train={"epochs": 1}))
    with pytest.raises(ConfigError, match="one recipe"):
        fit_folds([pack[1], other])


def test_a_fold_of_a_pack_is_proved_to_be_its_own(workspace: Workspace) -> None:
    jobs = jobs_of(planned(workspace, recipe(train={"max_lr": 1e-3})))
    proof = prove_fold(jobs, "1", steps=8)
    assert proof.holds and proof.free_double.steps == 8, proof.sentence()
    assert "beside 3 others: the same" in proof.sentence()
    assert proof.fold == "1" and not jobs[1].out.exists()
    with pytest.raises(ConfigError, match="fold-00"):
        prove_fold(jobs, "fold-77")


def test_packs_on_a_cpu_are_single_folds_unless_set(workspace: Workspace) -> None:
    jobs = jobs_of(planned(workspace, recipe()))
    packs, choice = plan_packs(jobs)
    assert packs == [[job] for job in jobs] and "per process" in choice.why
    packs, choice = plan_packs(jobs_of(planned(workspace, recipe(train={"folds_at_once": 2}))))
    assert [len(pack) for pack in packs] == [2, 2] and choice.at_once == 2
