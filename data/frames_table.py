"""One video's rows out of the frames table, without reading the table.

The table is sorted by video and written in row groups whose first and last video stand in the
file's footer. A reader keeps the footer and the row groups it used last: the videos of a chunk are
read in order, so that each row group is decoded about once a chunk, however long the table is.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import StoreError

COLUMNS = ["video", "index", "path", "time_s"]
KEPT = 2  # row groups held decoded, some 10 MB each


class FramesTable:
    """Ingest's frames table at `path`, opened when first asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._first: npt.NDArray[np.object_] | None = None
        self._last: npt.NDArray[np.object_] | None = None
        self._groups: OrderedDict[int, Any] = OrderedDict()

    def paths(self, video: str) -> list[str]:
        """Paths of the video's frames by index, relative to the dataset's root."""
        return [str(path) for path in self._rows(video)["path"].to_pylist()]

    def times(self, video: str) -> npt.NDArray[np.float64]:
        """(T,) container timestamps by index, seconds; NaN where there are none."""
        column = self._rows(video)["time_s"].to_numpy(zero_copy_only=False)
        return np.asarray(column, np.float64)

    def _rows(self, video: str) -> Any:
        """The video's rows as an arrow table, by index."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            pieces = []
            for number in self._where(video):
                group = self._group(number)
                found = group.filter(pc.equal(group["video"], video))
                if len(found):
                    pieces.append(found)
            table = pa.concat_tables(pieces) if pieces else self._group(0).slice(0, 0)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                str(self.path),
                expected="a readable Parquet table",
                got=f"{type(error).__name__}: {error}",
                todo="Run again: it is made anew from its inputs.",
                code="damaged_table",
            ) from error
        index = table["index"].to_numpy()
        if len(index) > 1 and (np.diff(index) < 0).any():
            table = table.take(pa.array(np.argsort(index, kind="stable")))
        return table.combine_chunks()

    def _where(self, video: str) -> list[int]:
        """Row groups that may hold the video."""
        self._open()
        assert self._first is not None and self._last is not None
        return np.flatnonzero((self._first <= video) & (self._last >= video)).tolist()

    def _open(self) -> None:
        import pyarrow.parquet as pq  # here: a GPU machine may lack it

        if self._file is not None:
            return
        file = pq.ParquetFile(self.path, page_checksum_verification=True)
        facts = file.metadata
        column = facts.schema.names.index("video")
        first, last = [], []
        for number in range(facts.num_row_groups):
            said = facts.row_group(number).column(column).statistics
            known = said is not None and said.has_min_max
            first.append(str(said.min) if known else "")
            last.append(str(said.max) if known else "\U0010ffff")
        self._first, self._last = np.array(first, object), np.array(last, object)
        self._file = file

    def _group(self, number: int) -> Any:
        """A row group's columns, decoded."""
        if number not in self._groups:
            self._groups[number] = self._file.read_row_group(number, columns=COLUMNS)
            while len(self._groups) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(number)
        return self._groups[number]
