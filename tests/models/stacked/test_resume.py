"""Folds trained together and killed: each goes on from its own file, in any company, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import TrainingError
from models.hsta import many as hsta
from models.hsta import training as hsta_training
from models.hsta.training import HstaTrainConfig
from models.me_tst import training as me_tst
from models.me_tst.many import fit_many
from models.me_tst.training import MeTstTrainConfig
from models.progress import Pace, ProgressFile, read_progress
from tests.fakes.folds import gap, hsta_folds, me_tst_folds, toy_bank, toy_windows

CPU = torch.device("cpu")
TRAIN = MeTstTrainConfig(epochs=4, max_lr=1e-3, batch_size=8)
CLIPS = HstaTrainConfig(
    epochs=4, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=1
)


class Killed(Exception):
    pass


def kill_at(share: float) -> Callable[[float, str], None]:
    def progress(done: float, text: str) -> None:
        if done >= share:
            raise Killed

    return progress


@pytest.fixture(autouse=True)
def _save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(me_tst, "SECONDS_BETWEEN_SAVES", -1.0)


def test_a_killed_me_tst_pack_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = me_tst_folds("me_tst")
    want = fit_many(undisturbed, toy_windows(), TRAIN)

    def with_files(**changes: object) -> list[me_tst.FoldTraining]:
        folds = me_tst_folds("me_tst", **changes)
        return [replace(f, resume=tmp_path / f.who / "state.safetensors") for f in folds]

    with pytest.raises(Killed):
        fit_many(with_files(progress=kill_at(0.5)), toy_windows(), TRAIN)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    # Cut anew: two go on, further than before; then one alone; then all four, at unlike epochs.
    with pytest.raises(Killed):
        fit_many(with_files(progress=kill_at(0.75))[1:3], toy_windows(), TRAIN)
    alone = with_files()[0]
    rows = fit_many([alone], toy_windows(), TRAIN)[0]
    assert len(rows) == 4 and rows[-1] == pytest.approx(want[0][-1], rel=1e-5)
    assert gap(alone.network, undisturbed[0].network) < 1e-5
    last = with_files()
    for fold in last:  # what they end with can only come from the files
        for parameter in fold.network.parameters():
            torch.nn.init.zeros_(parameter)
    got = fit_many(last, toy_windows(), TRAIN)
    assert [len(rows) for rows in got] == [4] * 4
    for a, b in zip(last, undisturbed, strict=True):
        assert gap(a.network, b.network) < 1e-6


def test_a_killed_hsta_pack_ends_with_the_same_weights(tmp_path: Path) -> None:
    bank = toy_bank()
    undisturbed = hsta_folds(bank, CLIPS)
    want = hsta.fit_many(undisturbed, CLIPS, CPU)

    def with_files(**changes: object) -> list[hsta_training.FoldTraining]:
        folds = hsta_folds(bank, CLIPS, **changes)
        return [replace(f, resume=tmp_path / f.who / "state.safetensors") for f in folds]

    with pytest.raises(Killed):
        hsta.fit_many(with_files(progress=kill_at(0.5)), CLIPS, CPU)
    with pytest.raises(Killed):
        hsta.fit_many(with_files(progress=kill_at(0.75))[1:2], CLIPS, CPU)
    last = with_files()
    got = hsta.fit_many(last, CLIPS, CPU)
    for a, b, x, y in zip(last, undisturbed, got, want, strict=True):
        assert gap(a.model, b.model, ("key.bias",)) < 1e-6
        assert [r["epoch"] for r in x.history] == [0, 1, 2, 3] == [r["epoch"] for r in y.history]


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    folds = me_tst_folds("me_tst")[:2]
    path = tmp_path / "state.safetensors"
    short = TRAIN.model_copy(update={"epochs": 1})
    fit_many([replace(folds[0], resume=path)], toy_windows(), short)
    others = me_tst_folds("two_trunks")[:2]
    with pytest.raises(TrainingError, match="resume point of this training"):
        fit_many([others[0], replace(others[1], resume=path)], toy_windows(), TRAIN)


def test_every_fold_tells_of_every_epoch_with_rate_and_time_left() -> None:
    said: dict[int, list[tuple[float, str]]] = {0: [], 1: []}
    folds = [
        replace(fold, progress=lambda share, text, n=n: said[n].append((share, text)))
        for n, fold in enumerate(me_tst_folds("me_tst")[:2])
    ]
    config = TRAIN.model_copy(update={"epochs": 2})
    fit_many(folds, toy_windows(), config)
    fit_many(folds[:1], toy_windows(), config)
    assert [share for share, _ in said[1]] == [0.5, 1.0]
    assert [share for share, _ in said[0]] == [0.5, 1.0, 0.5, 1.0]
    for _, text in said[0] + said[1]:
        assert "loss" in text and "windows/s" in text and text.endswith(" left")
    clips: list[str] = []
    bank, once = toy_bank(), CLIPS.model_copy(update={"epochs": 1})
    hsta.fit_many(
        hsta_folds(bank, once, progress=lambda share, text: clips.append(text))[:2], once, CPU
    )
    assert len(clips) == 2 and all("clips/s" in text and " left" in text for text in clips)


def test_time_left_is_what_the_rate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 20.0])
    monkeypatch.setattr("models.progress.time.perf_counter", lambda: next(clock))
    pace = Pace("windows", 2000, started=0.0)
    assert pace.text(100) == "10 windows/s, 3 min left"
    assert pace.text(100) == "10 windows/s, 3 min left"


def test_progress_crosses_a_process_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fold" / "progress.json"
    assert read_progress(path) is None
    told = ProgressFile(path)
    told(0.25, "epoch 1/4: loss 0.5")
    assert read_progress(path) == (0.25, "epoch 1/4: loss 0.5")
    told(0.5, "too soon to write again")
    assert read_progress(path) == (0.25, "epoch 1/4: loss 0.5")
    told(1.0, "the end is always told")
    assert read_progress(path) == (1.0, "the end is always told")
    path.write_text("{damaged")
    assert read_progress(path) is None
