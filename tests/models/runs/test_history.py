"""A run's history: its lines as they were written, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.runs.history import NAME, note_session, read_history


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two lines of history."""
    place = tmp_path / "aaaa1"
    place.mkdir()
    note_session(place, "train", 2, 10.0, "cpu", {"align casme2": [4, 4]})
    note_session(place, "evaluate", 1, 3.5, "cpu")
    return place


def test_no_flipped_bit_gives_another_history(folder: Path) -> None:
    whole, path = read_history(folder), folder / NAME
    assert [session.step for session in whole] == ["train", "evaluate"]
    raw = path.read_bytes()
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
        assert all(session in whole for session in read_history(folder)), at


def test_the_rest_of_a_cut_history_is_read_and_added_to(folder: Path) -> None:
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:-40])
    note_session(folder, "evaluate", 1, 5.0, "cpu")
    assert [session.seconds for session in read_history(folder)] == [10.0, 5.0]


def test_another_runs_history_is_not_this_ones(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "bbbb2"
    shutil.copytree(folder, other)
    assert read_history(other) == []
    shutil.copytree(folder, tmp_path / "elsewhere" / "aaaa1")
    assert len(read_history(tmp_path / "elsewhere" / "aaaa1")) == 2, "a copied workspace keeps it"


def test_lines_of_the_version_before_have_no_digest(folder: Path) -> None:
    line = json.loads((folder / NAME).read_text().splitlines()[0])
    del line["check"]
    (folder / NAME).write_text(json.dumps(line) + "\n")
    assert len(read_history(folder)) == 1
