"""Folds spread over devices, and attempts at a fold that never write into one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from models import devices
from models.contract import FOLD_FILES
from models.devices import local_devices
from models.epoch_record import NOTES, note_epoch
from models.fitting import read_resume_point, write_resume_point
from models.recipe import load_recipe
from models.runs import packs
from models.runs.files import FoldJob
from models.runs.history import note_session, read_history
from models.runs.packs import RESUME, PackJob, attempt, attempts, fit_pack, spread


@pytest.fixture
def fold(tmp_path: Path) -> FoldJob:
    nothing: dict[str, Any] = dict.fromkeys(
        ("train_events", "test_events", "train_videos", "test_videos"), ()
    )
    return FoldJob(
        tmp_path, load_recipe("demo_hsta"), "fold-00-a", ("casme2",), seed=0,
        out=tmp_path / ".partial-fold-00-a", **nothing,
    )  # fmt: skip


def test_each_attempt_has_a_folder_and_goes_on_from_the_last(fold: FoldJob) -> None:
    first = attempt(fold)
    (first.out / RESUME).write_text("epoch 10")
    second = attempt(fold)
    assert second.out != first.out and (second.out / RESUME).read_text() == "epoch 10"
    assert attempts(fold.out) == [second.out], "what went before is swept"


def test_a_lost_worker_that_writes_on_changes_nothing(
    fold: FoldJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is swept a moment later; until then both points are one file."""
    monkeypatch.setattr(packs.shutil, "rmtree", lambda *_, **__: None)
    lost = attempt(fold)
    write_resume_point(lost.out / RESUME, {"model.w": torch.ones(2)}, {"epoch": 10})
    taken = attempt(fold)
    assert (taken.out / RESUME).samefile(lost.out / RESUME)
    write_resume_point(lost.out / RESUME, {"model.w": torch.zeros(2)}, {"epoch": 11})
    tensors, facts = read_resume_point(taken.out / RESUME)
    assert facts["epoch"] == 10 and tensors["model.w"].tolist() == [1, 1]


def test_a_point_comes_with_the_notes_of_all_epochs_before_it(
    fold: FoldJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a lost worker ends an epoch before each link that the next attempt makes."""
    lost, link = attempt(fold), packs.link
    done = 0

    def ends_an_epoch(*of: Path) -> None:
        nonlocal done
        done += 1
        note_epoch(lost.out, done, {"x": np.zeros(1)})
        write_resume_point(lost.out / RESUME, {}, {"epoch": done})
        if of:
            link(*of)

    ends_an_epoch()
    monkeypatch.setattr(packs, "link", ends_an_epoch)
    taken = attempt(fold)
    _, facts = read_resume_point(taken.out / RESUME)
    noted = {int(note.stem.split("-")[1]) for note in (taken.out / "resume").glob(NOTES)}
    assert facts["epoch"] >= 1 and noted >= set(range(1, facts["epoch"] + 1))


def test_a_result_says_the_device_of_the_worker(
    fold: FoldJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The head may have none of the workers' GPUs: it asks nobody but the results."""

    def fit(jobs: list[FoldJob]) -> None:
        for name in FOLD_FILES:
            (jobs[0].out / name).touch()

    monkeypatch.setattr(packs, "family_of", lambda recipe: SimpleNamespace(fit=fit))
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "3")
    result = fit_pack(PackJob((replace(fold, device="cuda:2"),)))
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "0")
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert result.device == "cuda:2"
    note_session(tmp_path, "train", 1, 1.0, result.device)
    assert [one.device for one in read_history(tmp_path)] == ["cuda:2"]


def test_an_older_version_left_its_resume_point_without_a_token(fold: FoldJob) -> None:
    (fold.out / RESUME).parent.mkdir(parents=True)
    (fold.out / RESUME).write_text("epoch 3")
    assert (attempt(fold).out / RESUME).read_text() == "epoch 3"


def test_a_fold_of_another_name_is_no_attempt_at_this_one(fold: FoldJob) -> None:
    other = attempt(replace(fold, out=fold.out.with_name(".partial-fold-01-a")))
    attempt(fold)
    assert other.out.is_dir()


@pytest.mark.parametrize(
    ("sizes", "gpus", "found"),
    [([7], 1, [7]), ([7], 4, [1, 2, 2, 2]), ([3, 3], 2, [3, 3]), ([1, 1], 4, [1, 1])],
)
def test_every_gpu_gets_a_pack(
    fold: FoldJob, sizes: list[int], gpus: int, found: list[int]
) -> None:
    assert sorted(map(len, spread([[fold] * size for size in sizes], gpus))) == found


def test_a_pack_is_trained_where_it_is_told(fold: FoldJob) -> None:
    assert {job.device for job in PackJob((fold, fold)).on("cuda:3").folds} == {"cuda:3"}


def test_devices_of_a_machine_with_and_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "3")
    assert local_devices("auto") == local_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert local_devices("cuda:0,cuda:2") == ("cuda:0", "cuda:2") and local_devices("cpu") == (
        "cpu",
    )
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        local_devices("tpu")
    for wrong in ("cuda:3", "cuda:0,cuda:7"):
        with pytest.raises(ConfigError, match="cuda:0, cuda:1, cuda:2"):
            local_devices(wrong)
    assert devices.real_device("cuda:1") == "cpu"
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert local_devices("auto") == ("cpu",)
    with pytest.raises(ConfigError, match="there is none"):
        local_devices("cuda")
