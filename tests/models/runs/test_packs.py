"""Folds spread over devices, and attempts at a fold that never write into one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError
from models import devices
from models.devices import local_devices
from models.recipe import load_recipe
from models.runs.files import FoldJob
from models.runs.packs import RESUME, PackJob, attempt, attempts, spread


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
    lost = first.out / RESUME  # a worker believed lost writes on
    lost.parent.mkdir(parents=True)
    lost.write_text("epoch 11 of the lost one")
    assert (second.out / RESUME).read_text() == "epoch 10", "a link is replaced, not written into"


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
    packs = spread([[fold] * size for size in sizes], gpus)
    assert sorted(map(len, packs)) == found


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
