"""A clip under two people's names: found as a copy and mirrored, and nothing else is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from data.errors import SplitError
from models.recipe import load_recipe
from models.runs import twins
from models.runs.twins import SIDE, Twins, find_twins, twins_of

RNG = np.random.default_rng(0)


def smooth(amount: float, size: int = SIDE) -> Any:
    """A smooth random image."""
    noise = RNG.normal(0, 1, (size, size)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), amount)
    return soft / soft.std()


FACE = 40 * smooth(5)  # what all faces have in common


def clip() -> Any:
    """Onset's face, much like everybody's, and the change of an expression of its own."""
    return np.stack([120 + FACE + 12 * smooth(3), 3 * smooth(4)])


@pytest.fixture
def clips() -> Any:
    return np.stack([clip() for _ in range(6)]).astype(np.float32)


PEOPLE = list("aabbcc")


def test_different_recordings_are_no_twins(clips: Any) -> None:
    assert find_twins(clips, PEOPLE) == []
    same_face = clips.copy()
    same_face[:, 0] = clips[0, 0]
    assert find_twins(same_face, PEOPLE) == [], "two expressions of one face"
    same_change = clips.copy()
    same_change[:, 1] = clips[0, 1]
    same_change[4, 0] = 120 + 40 * smooth(5)
    found = {(t.one, t.other) for t in find_twins(same_change, PEOPLE)}
    assert not {pair for pair in found if 4 in pair}, "one expression of two faces"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("move", [(0, 0), (2, -1)])
def test_a_copy_is_found_moved_brighter_and_noisy(
    clips: Any, mirrored: bool, move: tuple[int, int]
) -> None:
    copy = np.roll(clips[0], move, axis=(1, 2))
    copy = copy[..., ::-1] if mirrored else copy
    clips[4, 0] = 1.2 * copy[0] + 10 + RNG.normal(0, 2, (SIDE, SIDE))
    clips[4, 1] = 1.2 * copy[1] + RNG.normal(0, 0.5, (SIDE, SIDE))
    assert find_twins(clips, PEOPLE) == [Twins(0, 4, mirrored)]
    assert find_twins(clips, list("aabbac")) == [], "of one person: names keep them together"


def test_a_clip_without_contrast_agrees_with_nothing() -> None:
    assert find_twins(np.zeros((3, 2, SIDE, SIDE), np.float32), list("abc")) == []


def planned(tmp_path: Any, **changes: Any) -> Any:
    """What `twins_of` reads of a run."""
    names = [f"e{n}" for n in range(6)]
    table = pd.DataFrame({"dataset": "d", "event": names, "video": names, "person": PEOPLE})
    folder = tmp_path / "runs" / "r" / "id"
    return SimpleNamespace(recipe=load_recipe("demo_hsta", changes), folder=folder,
                           samples=SimpleNamespace(table=table))  # fmt: skip


def test_a_run_with_twins_is_refused_by_name(
    clips: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips[4] = clips[0][..., ::-1]
    monkeypatch.setattr(twins, "read_pictures", lambda workspace, table, keys: clips)
    with pytest.raises(SplitError, match="d:e0 and d:e4 mirrored") as caught:
        twins_of(planned(tmp_path))
    assert caught.value.code == "clips_shared"
    split = {"split": {"kind": "published", "name": "hsta_emotion", "path": "x"}}
    assert "d:e0 and d:e4 mirrored" in twins_of(planned(tmp_path, **split)), "said, not refused"
    with pytest.raises(SplitError):
        twins_of(planned(tmp_path, split={"kind": "published", "name": "csv", "path": "x"}))
    assert twins_of(SimpleNamespace(recipe=load_recipe("demo_me_tst"), folder=tmp_path,
                                    samples=SimpleNamespace(table=None))) == ""  # fmt: skip
