"""One video's rows of the frames table: right, in order, and without reading the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.errors import StoreError
from data.frames_table import FramesTable
from data.schema import conform
from data.stages import files
from data.stages.files import write_table


def frames(videos: list[str], count: int) -> pd.DataFrame:
    rows = [
        {"video": v, "index": i, "number": i + 1, "path": f"{v}/{i}.jpg", "time_s": i / 10}
        for v in videos
        for i in range(count)
    ]
    return conform(pd.DataFrame(rows), "frames")


def test_only_row_groups_of_the_video_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROW_GROUP", 8)
    videos = [f"s{i:02d}" for i in range(20)]
    write_table(frames(videos, 5), tmp_path / "frames.parquet")
    table = FramesTable(tmp_path / "frames.parquet")
    assert table.paths("s07") == [f"s07/{i}.jpg" for i in range(5)]
    assert sorted(table._groups) == [4]
    assert table.paths("s01") == [f"s01/{i}.jpg" for i in range(5)]  # lies in two row groups
    np.testing.assert_array_equal(table.times("s19"), np.arange(5) / 10)
    assert len(table._groups) <= 2
    assert table.paths("nobody") == []


def test_rows_come_by_index(tmp_path: Path) -> None:
    write_table(frames(["a", "b"], 4).iloc[::-1], tmp_path / "frames.parquet")
    assert FramesTable(tmp_path / "frames.parquet").paths("a") == [f"a/{i}.jpg" for i in range(4)]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "frames.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(StoreError, match=r"frames\.parquet") as error:
        FramesTable(tmp_path / "frames.parquet").paths("a")
    assert error.value.code == "damaged_table"
