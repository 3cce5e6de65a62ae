"""A run's folder when something behind its back was cut short or changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.errors import StoreError
from data.stages.files import write_table
from data.stages.identity import stable_hash
from data.stages.planning import why_not_fresh
from data.stages.workspace import Workspace
from models.runs.files import QUICK_BYTES, SCORES, RunFiles, done_folds, run_manifest, run_times
from models.runs.scoring import VERSION
from tests.fakes.fabricated_run import write_hsta_run, write_ingest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    workspace = Workspace(tmp_path)
    write_ingest(workspace, "casme2")
    return write_hsta_run(workspace)


def evaluated(folder: Path) -> bool:
    """Whether `evaluate` would leave the scores as they are."""
    wanted = {SCORES: stable_hash(SCORES)}  # the made-up run's own key
    manifest = run_manifest(folder)
    redo, _ = why_not_fresh(folder, manifest, wanted, VERSION, always_read=QUICK_BYTES)
    return not redo


def test_sound_folds_are_done(folder: Path) -> None:
    assert done_folds(folder) == set(RunFiles(folder).split["folds"])
    assert evaluated(folder)


@pytest.mark.parametrize("name", ["predictions.parquet", "model.json", "history.parquet"])
def test_a_fold_with_a_changed_file_is_trained_again(folder: Path, name: str) -> None:
    first, *others = sorted(done_folds(folder))
    path = folder / first / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1  # same size
    path.write_bytes(raw)
    assert done_folds(folder) == set(others)
    with pytest.raises(StoreError, match=first):  # scores never quietly lack a fold
        RunFiles(folder).predictions()
    path.unlink()
    assert done_folds(folder) == set(others)


def test_large_weights_are_read_only_to_verify(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.runs.files.QUICK_BYTES", 10)
    first = min(done_folds(folder))
    path = folder / first / "model.json"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time say nothing
    assert first in done_folds(folder)
    assert first not in done_folds(folder, verify=True)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # another time: read
    assert first not in done_folds(folder)


def test_a_damaged_manifest_trusts_no_fold(folder: Path) -> None:
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    assert done_folds(folder) == set()


@pytest.mark.parametrize("name", ["predictions.parquet", "metrics.parquet"])
def test_unreadable_scores_are_not_called_evaluated(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"PAR1")
    assert not evaluated(folder)


def test_altered_scores_are_never_read(folder: Path) -> None:
    """A readable table of other numbers is no table of this run."""
    scores = RunFiles(folder).metrics()
    write_table(scores.assign(value=1.0), folder / "metrics.parquet")
    assert not evaluated(folder)
    with pytest.raises(StoreError, match=r"altered metrics\.parquet") as caught:
        RunFiles(folder).metrics()
    assert caught.value.code == "damaged_run"
    (folder / "metrics.parquet").unlink()
    with pytest.raises(StoreError, match="evaluate"):
        RunFiles(folder).metrics()


def test_damaged_timings_are_only_news(folder: Path) -> None:
    assert len(run_times(folder)) == len(done_folds(folder))
    (folder / "timings.parquet").write_bytes(b"")
    assert run_times(folder) == {}


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_a_damaged_description_is_a_named_error(folder: Path, text: str) -> None:
    (folder / "split.json").write_text(text)
    (folder / "recipe.json").write_text(text)
    with pytest.raises(StoreError, match=r"split\.json"):
        _ = RunFiles(folder).split
    with pytest.raises(StoreError, match=r"recipe\.json"):
        _ = RunFiles(folder).recipe
