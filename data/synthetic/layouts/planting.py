"""Defects put into sheets and files on purpose, shared by the layouts.

Every function returns what it did as `Planted` records. A sheet's row is altered once at most.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.synthetic.layouts.base import Cell, PlacedVideo, Planted, Row


class Planter:
    """Alters rows of one table in random order and remembers it in `planted`.

    `who` names a row as the reader of the sheet will name it.
    """

    def __init__(
        self, table: str, rows: list[Row], who: Callable[[Row], str], rng: np.random.Generator
    ) -> None:
        self.table, self.rows, self.who = table, rows, who
        self.free = [int(i) for i in rng.permutation(len(rows))]
        self.planted: list[Planted] = []

    def plant(
        self,
        kind: str,
        change: Callable[[Row], Mapping[str, Cell]],
        fits: Callable[[Row], bool] = lambda row: True,
    ) -> bool:
        """Put `change(row)` (column -> new cell) into a free row that fits.

        False if there is none; then nothing was planted.
        """
        for index in self.free:
            row = self.rows[index]
            if fits(row):
                who, cells = self.who(row), change(row)
                self.free.remove(index)
                self.planted += [
                    Planted(kind, who, self.table, c, row[c], new) for c, new in cells.items()
                ]
                row.update(cells)
                return True
        return False


def number(row: Row, column: str) -> int:
    """A cell of a truthful table that is known to be a number."""
    return int(row[column] or 0)


def damage_frames(
    videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
) -> list[Planted]:
    """File defects any download shows: a missing, a cut-off and an empty frame file.

    Each hits another video where there are enough, and never a labelled frame. Layouts call this
    from `plant`, before anything moves folders. A missing file's record names the video, and the
    file as `old`; the others name the file, and its size as `old`.
    """
    planted = []
    order = [int(i) for i in rng.permutation(len(videos))]
    for k, kind in enumerate(("missing_frame", "truncated_image", "empty_file")):
        video = videos[order[k % len(order)]]
        labels = {f for e in video.plan.events for f in (e.onset, e.apex, e.offset)}
        inner = video.released[1:-1]
        free = [f for f in inner if f not in labels and (out / video.path(f)).exists()]
        if not free:
            continue
        path = out / video.path(int(rng.choice(free)))
        file = path.relative_to(out).as_posix()
        if kind == "missing_frame":
            path.unlink()
            planted.append(Planted(kind, video.place.video, old=file))
            continue
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3] if kind == "truncated_image" else b"")
        planted.append(Planted(kind, file, old=len(content)))
    return planted


def stray_file(out: Path, folder: str) -> Planted:
    """A file that is neither frame nor sheet, as desktops leave them."""
    path = f"{folder}/Desktop - Shortcut.lnk"
    (out / path).write_bytes(b"L\0\0\0")
    return Planted("stray_file", path)


def nest_folder(out: Path, name: str) -> Planted:
    """Move `out/name` to `out/name/name`, as archives unpacked twice leave it."""
    moved = out / f"{name}.moving"
    (out / name).rename(moved)
    (out / name).mkdir()
    moved.rename(out / name / name)
    return Planted("nested_folder", name, old=name, new=f"{name}/{name}")


def move_video(kind: str, who: str, out: Path, old: str, new: str) -> Planted:
    """Move the folder of the video `who` from `old` to `new`."""
    (out / new).parent.mkdir(parents=True, exist_ok=True)
    (out / old).rename(out / new)
    return Planted(kind, who, old=old, new=new)


def lose_video(video: PlacedVideo, out: Path) -> Planted:
    """Delete a video's folder; its rows stay in the sheet."""
    shutil.rmtree(out / video.place.folder)
    return Planted("missing_video", video.place.video, old=video.place.folder)


def copy_frames(out: Path, copies: Sequence[tuple[str, str]]) -> None:
    """Copy frame files (from, to), paths under `out`; for material that a loader leaves aside."""
    for source, target in copies:
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        (out / target).write_bytes((out / source).read_bytes())
