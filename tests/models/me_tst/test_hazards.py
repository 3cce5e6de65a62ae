"""The released ME-TST code's known traps that no other test of a single function shows.

The others: stitching, votes and half-widths in test_models_spotting*, accepted pairs, flagged
events and losses in test_models_me_tst_training, folds in test_models_me_tst_fold.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from data.folds import leave_one_subject_out
from data.stages.workspace import Workspace
from models.me_tst.fold import protocol_of, score
from models.me_tst.labels import SpottingTruth
from models.me_tst.many import fit
from models.me_tst.scores import score_table
from models.me_tst.settings import DecodeConfig, MeTstTrainConfig
from models.me_tst.training import Windows, recog_loss
from models.recipe import parse_recipe
from models.runs.files import RunFiles
from models.scores.spotting import VideoCurves
from tests.fakes import steps
from tests.fakes.fabricated_run import planned_keys, write_ingest, write_store

K = 20


def events_of(subjects: list[str], dataset: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": dataset,
            "person": [f"{dataset}:{s}" for s in subjects],
            "video": [f"{s}/a" for s in subjects],
            "event": [f"{s}/a_1" for s in subjects],
        }
    )


@pytest.mark.parametrize(
    ("dataset", "subjects"),
    [
        ("casme3", ["spNO.1", "spNO.2", "spNO.10", "spNO.11", "spNO.100", "spNO.21"]),
        ("samm_lv", ["006", "016", "026", "007", "030", "037"]),
    ],
)
def test_a_fold_is_named_by_the_subject_it_tests(dataset: str, subjects: list[str]) -> None:
    """Text and natural order differ, and last characters repeat: neither merges nor renames."""
    split = leave_one_subject_out(events_of(subjects, dataset))
    assert len(split.folds) == len(subjects)
    for name, (train, test) in split.folds.items():
        (held_out,) = {str(event).split(":")[-1].split("/")[0] for event in map(last_part, test)}
        assert name.endswith(held_out) and f"{dataset}:{held_out}" == name
        assert held_out not in {last_part(e).split("/")[0] for e in train}


def last_part(event: object) -> str:
    return str(event[-1] if isinstance(event, tuple) else event)


def test_a_video_without_windows_leaves_the_others_in_place(tmp_path: Path) -> None:
    """Too short for a window: a ledger row; every other video keeps its own curves and truth."""
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "casme3", subjects=3, per_subject=2, kind="long", frames=240)
    names = sorted(set(events.video))
    short, rest = names[1], [v for v in names if v != names[1]]

    def fill(video: str):
        def write(group: h5py.Group) -> None:
            windows = 240 // (K // 2) - 1
            group["features"] = np.full((windows, 10, K), names.index(video), np.float32)
            group["status"] = np.zeros(windows, np.uint8)
            group["view_index"] = np.arange(240, dtype=np.int32)
            group.attrs.update(k=K, stride=K // 2, frame_skip=1, roi_set="coarse10")

        return write

    recipe = parse_recipe(
        {
            "name": "small",
            "data": ["casme3"],
            "labels": "label_3",
            "model": {"name": "me_tst", "dim": 16, "blocks": 1, "d_state": 4},
            "motion": {"k": K, "frame_skip": 1},
            "train": {"epochs": 1, "batch_size": 8, "negative_ratio": 1.0},
            "decode": {"draws": 10},
        }
    )
    keys, units = planned_keys(workspace, "casme3", "motion", recipe), {v: fill(v) for v in rest}
    write_store(workspace, "casme3", "motion", units, {short: "too_short"}, keys=keys)
    plan = steps.train(workspace, recipe).work
    jobs = plan.jobs.values()
    assert all(("casme3", short) not in (*j.train_videos, *j.test_videos) for j in jobs)
    table = score(RunFiles(plan.folder))
    pooled = table[(table.scope == "pooled") & (table.name == "spotting_f1")].iloc[0]
    assert f"in {len(rest)} videos" in pooled.note
    left_out = pd.read_parquet(plan.folder / "ledger.parquet")
    assert (left_out.unit == short).sum() == 1
    assert left_out[left_out.unit == short].reason.iloc[0] == "motion:too_short"


def curves(name: str, level: float) -> VideoCurves:
    """One event that is found, and a bump of height `level` where there is none."""
    t = np.arange(11 * K // 2)
    score_ = np.exp(-(((t - 46) / 6.0) ** 2)) + level * np.exp(-(((t - 80) / 6.0) ** 2))
    logits = np.where(t[:, None] > 65, [0, 0, 0, 0, 2.0], [2.0, 0, 0, 0, 0])
    starts = np.arange(10)[:, None] * (K // 2) + np.arange(K)
    truth = SpottingTruth(np.array([[40, 46, 52]]), np.array([0]), (f"{name}_1",))
    return VideoCurves(
        "casme3", name, name, f"casme3:{name}", f"fold-{name}", K, 6, 6,
        score_[starts].astype(np.float32), logits[starts].astype(np.float32),
        np.zeros(len(t), np.float32), truth, np.zeros((0, 2), np.int64),
        np.arange(len(t), dtype=np.int32), 1 / 30,
    )  # fmt: skip


def test_the_headline_is_the_recipes_protocol_not_the_best() -> None:
    """Strategy 1 would remove the false alarms; the recipe says 2 and 2 is reported."""
    videos = [curves("a", 0.9), curves("b", 0.9)]
    protocol = protocol_of(DecodeConfig(strategy=2, draws=10), MeTstTrainConfig())
    table = score_table(videos, protocol, draws=10).set_index(["scope", "name"]).value
    assert table["pooled", "spotting_f1"] == table["variant:strategy 2", "spotting_f1"]
    assert table["pooled", "spotting_f1"] < table["variant:strategy 1", "spotting_f1"] == 1.0


def test_threshold_and_strategy_come_from_the_recipe_alone() -> None:
    """No setting says "tuned": p is a number, the default the released one."""
    assert DecodeConfig().p == 0.55 and DecodeConfig().k_p == "train_fold"
    for settings in ({"p": 0.3}, {"strategy": 1}, {"k_p": "global"}):
        protocol = protocol_of(DecodeConfig(**settings), MeTstTrainConfig())
        for name, value in settings.items():
            assert getattr(protocol, name) == value


def test_five_classes_whatever_the_windows_hold() -> None:
    """One-hot targets without an explicit width would have as many columns as the largest label."""
    logits, classes = torch.randn(2, 6, 5), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    want = -torch.log_softmax(logits, -1).gather(-1, classes[..., None]).mean()
    torch.testing.assert_close(recog_loss(logits, classes, torch.ones(5)), want)


class Where(torch.nn.Module):
    """A network that remembers where it ran and whether a graph was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.seen: set[tuple[str, bool]] = set()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.add((x.device.type, torch.is_grad_enabled()))
        spot = torch.sigmoid(self.scale * x[:, 0, 0])
        return spot, spot[..., None].expand(*spot.shape, 5)


def test_no_device_is_assumed() -> None:
    """Training runs where it is told, with a graph; the device named is the only one touched."""
    network = Where()
    rng = np.random.default_rng(0)
    spot = (rng.random((8, K)) > 0.7).astype(np.float32)
    windows = Windows(rng.normal(size=(8, 10, K)).astype(np.float32), spot, spot.astype(np.int64))
    fit(network, windows, MeTstTrainConfig(epochs=1, batch_size=4), device="cpu")
    assert network.seen == {("cpu", True)}


def test_one_video_may_be_left_out_without_moving_the_rest() -> None:
    """Scores of two videos are those of each: no index runs across videos."""
    videos = [curves("a", 0.9), curves("b", 0.2)]
    protocol = protocol_of(DecodeConfig(draws=10), MeTstTrainConfig())
    both = score_table(videos, protocol, draws=10).set_index(["scope", "name"]).value
    for video in videos:
        alone = score_table([video], protocol, draws=10).set_index(["scope", "name"]).value
        scope = f"fold:{video.fold}"
        assert alone["pooled", "spotting_f1"] == both[scope, "spotting_f1"]
