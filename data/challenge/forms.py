"""The challenges' interval files: spotting (2022 to 2024) and spot-then-recognise (2024, 2025).

    vid,pred_onset,pred_offset,type            cas_pred.csv, samm_pred.csv; type me or mae
    subject,video,onset,offset,emotion         the same names; micro-expressions only

Frames are the files' own numbers, inclusive, counted from 1. The second header in use
(`vid,onset,offset,type`) and a byte-order mark are read; the first header is written, without one.
A truth file has either form.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.stages.files import replacing

SPOTTING = ("vid", "pred_onset", "pred_offset", "type")
RECOGNISED = ("subject", "video", "onset", "offset", "emotion")
Form = Literal["spotting", "str"]
MAX_BYTES = 50 << 20
MACRO_SECONDS = 0.5  # entries call longer intervals macro-expressions
_TYPES = {
    "me": "me", "micro": "me", "micro-expression": "me", "micro expression": "me",
    "mae": "mae", "macro": "mae", "macro-expression": "mae", "macro expression": "mae",
}  # fmt: skip


@dataclass(frozen=True)
class SpottedInterval:
    """One interval of a video: frame numbers, inclusive; `type` me or mae; `emotion` "" if none."""

    video: str
    onset: int
    offset: int
    type: str = "me"
    emotion: str = ""
    subject: str = ""

    def moved(self, video: str) -> SpottedInterval:
        """The same interval in another video."""
        return replace(self, video=video)


def read_intervals(path: Path) -> tuple[Form, tuple[SpottedInterval, ...]]:
    """The form of a file and its rows in order.

    In the second form the video is known as `subject/video`, for names repeat between subjects.
    Raises InputError `bad_challenge_file` naming the line that cannot be read.
    """
    text = read_text(path)
    reader, rows = csv.reader(io.StringIO(text)), list[tuple[int, list[str]]]()
    try:
        rows += ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:  # a quote that nothing closes makes a cell of all that follows
        raise _bad(f"{path.name}, line {reader.line_num}", "rows of cells", str(error)) from error
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if "emotion" in header and {"subject", "video", "onset", "offset"} <= set(header):
        form: Form = "str"
    elif "vid" in header and "type" in header and {"onset", "pred_onset"} & set(header):
        form = "spotting"
    else:
        raise _bad(path, f"a header {','.join(SPOTTING)} or {','.join(RECOGNISED)}",
                   ",".join(header) or "an empty file")  # fmt: skip
    return form, tuple(_interval(path, number, header, row, form) for number, row in rows[1:])


def _interval(
    path: Path, number: int, header: list[str], row: list[str], form: Form
) -> SpottedInterval:
    where = f"{path.name}, line {number}"
    if len(row) != len(header):
        raise _bad(where, f"{len(header)} cells", f"{len(row)}")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    onset, offset = (
        _frame(where, name, cells.get(name, cells.get(f"pred_{name}", "")))
        for name in ("onset", "offset")
    )
    if offset < onset:
        raise _bad(where, "onset ≤ offset", f"{onset} to {offset}")
    if form == "str":
        subject, emotion = cells["subject"], cells["emotion"].lower()
        if not emotion or not cells["video"]:
            raise _bad(where, "a video and an emotion", ",".join(row))
        return SpottedInterval(f"{subject}/{cells['video']}", onset, offset, "me", emotion, subject)
    kind = _TYPES.get(cells["type"].lower())
    if kind is None or not cells["vid"]:
        raise _bad(where, "a video, and type me or mae", ",".join(row))
    return SpottedInterval(cells["vid"], onset, offset, kind)


def _frame(where: str, name: str, cell: str) -> int:
    if not re.fullmatch(r"-?\d{1,12}(\.0*)?", cell):
        raise _bad(where, f"a whole frame number as {name}", repr(cell))
    return int(float(cell))


def write_spotting(intervals: Iterable[SpottedInterval], path: Path) -> int:
    """`vid,pred_onset,pred_offset,type`, sorted by video and onset; returns how many."""
    rows = sorted((i.video, i.onset, i.offset, i.type) for i in intervals)
    write_rows(path, SPOTTING, rows)
    return len(rows)


def write_recognised(intervals: Iterable[SpottedInterval], path: Path) -> int:
    """`subject,video,onset,offset,emotion` of the micro-expressions; returns how many.

    The video loses its subject where the reader put it in front. Raises InputError without an
    emotion.
    """
    rows = []
    for one in intervals:
        if one.type != "me":
            continue
        if not one.emotion:
            raise _bad(path, f"an emotion for the interval at {one.onset}", "none")
        video = one.video.removeprefix(f"{one.subject}/") if one.subject else one.video
        rows.append((one.subject, video, one.onset, one.offset, one.emotion.lower()))
    write_rows(path, RECOGNISED, sorted(rows))
    return len(rows)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file under its name at once, lines ended by LF, cells as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def unpadded(subject: str) -> str:
    """A subject's number without padding, "6" of "006"; other names as they are."""
    return (subject.lstrip("0") or "0") if subject.isdigit() else subject


def read_text(path: Path) -> str:
    r"""A text file's content without a byte-order mark, its lines ended by \n and nothing else.

    Raises InputError `bad_challenge_file`.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _bad(path, "a readable text file in UTF-8", str(error)) from error


def _bad(who: Path | str, expected: str, got: str) -> InputError:
    return InputError(str(who)[:300], expected=expected, got=got[:300], code="bad_challenge_file")
