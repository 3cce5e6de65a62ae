"""Epochs that are looked at: of the right weights, without a trace in training, across kills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import TrainingError
from models.epoch_record import Watch, note_epoch, read_notes, recorded_epochs, watch_of
from models.hsta import many as hsta
from models.hsta.training import HstaTrainConfig
from models.me_tst import training as me_tst
from models.me_tst.many import fit_many
from models.me_tst.training import MeTstTrainConfig, predict
from tests.fakes.folds import gap, hsta_folds, me_tst_folds, toy_bank, toy_windows

CPU = torch.device("cpu")
TRAIN = MeTstTrainConfig(epochs=4, max_lr=1e-3, batch_size=8)
TWO = TRAIN.model_copy(update={"epochs": 2})
CLIPS = HstaTrainConfig(
    epochs=2, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=1
)


def test_recorded_epochs_are_evenly_spread_and_end_with_the_last() -> None:
    assert recorded_epochs(120, 4) == [30, 60, 90, 120]
    assert recorded_epochs(10, 3) == [4, 7, 10]
    assert recorded_epochs(3, 50) == [1, 2, 3]
    assert recorded_epochs(30, 0) == [] and watch_of(30, 0, lambda due: None) is None
    assert watch_of(30, 1, lambda due: None) is None, "the last one is the fold's own predictions"
    watch = watch_of(4, 2, lambda due: None)
    assert watch is not None and watch.due([(0, 1), (1, 2), (2, 4)]) == [(1, 2)]


@pytest.mark.parametrize("count", [1, 2])
def test_looking_at_me_tst_changes_nothing_and_sees_each_epoch(count: int) -> None:
    windows = toy_windows()
    plain = me_tst_folds("me_tst")[:count]
    fit_many(plain, windows, TWO)
    folds, seen = me_tst_folds("me_tst")[:count], {}

    def look(due: Sequence[tuple[int, int]]) -> None:
        for fold, epochs in due:
            seen[fold, epochs] = predict(folds[fold].network, windows.motion[:8])[0]

    fit_many(folds, windows, TWO, watch=Watch(frozenset({1, 2}), look))
    assert set(seen) == {(f, e) for f in range(count) for e in (1, 2)}
    for own, other in zip(folds, plain, strict=True):
        assert gap(own.network, other.network) == 0
    for f in range(count):
        assert np.array_equal(seen[f, 2], predict(folds[f].network, windows.motion[:8])[0])
        assert not np.array_equal(seen[f, 1], seen[f, 2])


@pytest.mark.parametrize("count", [1, 2])
def test_looking_at_hsta_changes_nothing_and_sees_each_epoch(count: int) -> None:
    bank = toy_bank()
    plain = hsta_folds(bank, CLIPS)[:count]
    hsta.fit_many(plain, CLIPS, CPU)
    folds, seen = hsta_folds(bank, CLIPS)[:count], {}

    def answers(fold: int) -> Any:
        one = folds[fold]
        args = ([one.model], bank, [range(8)], CLIPS)
        return hsta.predict_many(*args, seeds=[0], device=CPU, scales=[one.scale])[0]

    def look(due: Sequence[tuple[int, int]]) -> None:
        seen.update({place: answers(place[0]) for place in due})

    hsta.fit_many(folds, CLIPS, CPU, watch=Watch(frozenset({1, 2}), look))
    assert set(seen) == {(f, e) for f in range(count) for e in (1, 2)}
    for own, other in zip(folds, plain, strict=True):
        assert gap(own.model, other.model) == 0
    for f in range(count):
        assert np.array_equal(seen[f, 2], answers(f)) and not np.array_equal(seen[f, 1], seen[f, 2])


class Killed(Exception):
    pass


def test_a_kill_loses_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note is there before the resume point that lies behind it."""
    monkeypatch.setattr(me_tst, "SECONDS_BETWEEN_SAVES", -1.0)
    windows, want = toy_windows(), {}

    def run(folds: list[Any], keep: Callable[[int, int, Any], None]) -> None:
        def look(due: Sequence[tuple[int, int]]) -> None:
            for fold, epochs in due:
                keep(fold, epochs, predict(folds[fold].network, windows.motion[:4])[0])

        fit_many(folds, windows, TRAIN, watch=Watch(frozenset({1, 2, 3}), look))

    def note(fold: int, epochs: int, spot: Any) -> None:
        note_epoch(tmp_path / str(fold), epochs, {"spot": spot})

    def kill(share: float, text: str) -> None:
        if share >= 0.5:
            raise Killed

    def with_files(**changes: object) -> list[Any]:
        folds = me_tst_folds("me_tst", **changes)[:2]
        return [replace(f, resume=tmp_path / f.who / "state.safetensors") for f in folds]

    run(me_tst_folds("me_tst")[:2], lambda f, e, spot: want.update({(f, e): spot}))
    with pytest.raises(Killed):
        run(with_files(progress=kill), note)
    run(with_files(), note)
    for fold in range(2):
        notes = read_notes(tmp_path / str(fold), 4, 4, "fold")
        assert list(notes) == [1, 2, 3]
        for epochs, arrays in notes.items():
            assert np.allclose(arrays["spot"], want[fold, epochs], atol=1e-5)


@pytest.mark.parametrize("kept", [0, 2, 0.5, 0.9])
def test_a_damaged_note_is_an_error_that_names_it(kept: float, tmp_path: Path) -> None:
    for epochs in (1, 2, 3):
        note_epoch(tmp_path, epochs, {"spot": np.arange(500.0)})
    assert list(read_notes(tmp_path, 4, 4, "fold-00")) == [1, 2, 3]
    note = tmp_path / "resume" / "epoch-000002.npz"
    whole = note.read_bytes()
    note.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(TrainingError, match="fold-00, epoch 2"):
        read_notes(tmp_path, 4, 4, "fold-00")
