"""Hypothesis strategies that make csv manifests and dataset trees as people leave them behind.

`manifests` gives the bytes of a manifest and what a careful reader would make of each row; `trees`
gives folders with frames, doubles, edited frames, links, pipes and archives. Cells are drawn from
what was met in labs and from plain noise.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openpyxl
from hypothesis import strategies as st

from tests.fakes import dataset_trees as trees

COLUMNS = ("subject", "path", "video", "fps", "onset", "apex", "offset", "type", "aus", "emotion")
SEPARATORS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030")
FOLDERS = ("a", "b/c", "b/d")
LENGTH = 12  # frames of each folder

NOISE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"\r\n'), max_size=8)
NUMBERS = st.one_of(
    st.integers(-3, LENGTH + 3).map(str),
    st.floats(0, LENGTH, allow_nan=False).map(lambda x: f"{x:.1f}"),
    st.floats(0, LENGTH, allow_nan=False).map(lambda x: f"{x:.1f}".replace(".", ",")),
    st.sampled_from(["", "/", "?", "1,234", "9" * 400, "1e9", "inf", "nan", "MISSING", "=A1", "٣"]),
)
CELLS: dict[str, st.SearchStrategy[str]] = {
    "subject": st.sampled_from(["1", "01", "p", "p/q", "", "..", "x" * 300]) | NOISE,
    "path": st.sampled_from(
        [*FOLDERS, "b\\c", "./a", "A", ".", "..", "/etc", "C:\\x", "away", "pipe", "pipe.mp4", "no",
         "film.webm", "b", "", "x" * 300, "a/" * 600]
    ) | NOISE,
    "video": st.sampled_from(["", "v", "v", "w", "../v", "v/v", "x" * 300]) | NOISE,
    "fps": st.sampled_from(["25", "200", "29,97", "29.97", "0", "-1", "fast", "inf", ""]) | NOISE,
    "onset": NUMBERS, "apex": NUMBERS, "offset": NUMBERS,
    "type": st.sampled_from(["", "micro", "Macro", "blink", "Micro-expression"]) | NOISE,
    "aus": st.sampled_from(["", "4", "4+7", "4,7", "R6 or R12", "?"]) | NOISE,
    "emotion": st.sampled_from(["", "anger", "Fear", "happy, sad", "=1+1"]) | NOISE,
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """A manifest: its bytes, and its rows by column."""

    content: bytes
    rows: list[dict[str, str]] = field(default_factory=list)
    separator: str = ","


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any table with the required columns, in any order, separator and encoding."""
    extra = draw(st.sets(st.sampled_from(COLUMNS)))
    names = draw(st.permutations([c for c in COLUMNS if c in {"subject", "path", "fps", *extra}]))
    rows = draw(st.lists(st.fixed_dictionaries({c: CELLS[c] for c in names}), max_size=8))
    rows += rows[: draw(st.integers(0, 2))]  # doubles
    return Manifest(*_written(draw, names, rows))


@st.composite
def sound_manifests(draw: st.DrawFn) -> Manifest:
    """A table in which every row is right: one video a folder, intervals inside it."""
    names = draw(st.permutations(("subject", "path", "fps", "onset", "offset", "aus")))
    spans = draw(st.sets(st.tuples(st.integers(1, LENGTH), st.integers(0, LENGTH)), min_size=1))
    rows = [
        {
            "subject": f"p{start % 3}",
            "path": FOLDERS[start % 3],
            "fps": "29.97",
            "onset": str(start),
            "offset": str(min(LENGTH, start + more)),
            "aus": draw(CELLS["aus"]),
        }
        for start, more in sorted(spans)
    ]
    return Manifest(*_written(draw, names, rows))


@dataclass(frozen=True)
class Hurt:
    """A manifest with defects of which the truth is known.

    `kept`: (subject, folder, onset, offset) of every row that has a right value; `refused`: row
    number as a spreadsheet shows it → the reasons that name it.
    """

    name: str
    content: bytes = field(repr=False)
    kept: list[tuple[str, str, int, int]]
    refused: dict[int, tuple[str, ...]]


# Defect → the reasons why a row with it is refused; none: it is read as it was meant.
DEFECTS: dict[str, tuple[str, ...]] = {
    "": (),
    "decimal comma": (),
    "decimal point": (),
    "backslashes": (),
    "dot and backslashes": (),
    "other case": (),
    "another's video id": (),
    "path .": ("bad_identifier", "video_missing"),
    "path above": ("path_outside_root",),
    "drive letter": ("path_outside_root",),
    "no such folder": ("video_missing",),
    "thousands or decimals": ("onset_ambiguous_number",),
    "no number": ("onset_not_a_number",),
    "reversed": ("offset_before_onset",),
    "blank subject": ("no_subject",),
}
PLACES = {"p0": "a", "p1": "b/c", "p2": "b/d"}  # whose folder is which


@st.composite
def hurt_manifests(draw: st.DrawFn) -> Hurt:
    """Sound rows, of which some have a defect of `DEFECTS` and some are said twice; any notation.

    As CSV of any separator and encoding, or as a workbook with merged subject cells.
    """
    spans = draw(
        st.sets(st.tuples(st.integers(2, LENGTH - 1), st.integers(0, 2)), min_size=1, max_size=7)
    )
    truth = sorted({(f"p{n % 3}", n, min(LENGTH, n + more)) for n, more in spans})
    names = draw(st.permutations(("subject", "path", "fps", "onset", "offset", "video")))
    book = draw(st.booleans())
    rows: list[dict[str, str]] = []
    kept: list[tuple[str, str, int, int]] = []
    refused: dict[int, tuple[str, ...]] = {}
    for subject, onset, offset in truth:
        defect = draw(st.sampled_from(sorted(DEFECTS)))
        cells = _with_defect(defect, subject, onset, offset)
        times = 2 if draw(st.integers(0, 3)) == 0 else 1
        for turn in range(times):
            rows.append(cells)
            if reasons := DEFECTS[defect]:
                refused[len(rows) + 1] = reasons
            elif turn:
                refused[len(rows) + 1] = ("duplicate_event",)
            else:
                kept.append((subject, PLACES[subject], onset, offset))
    if book:
        return Hurt("manifest.xlsx", _book(draw, names, rows), kept, refused)
    return Hurt("manifest.csv", _written(draw, list(names), rows)[0], kept, refused)


def _with_defect(defect: str, subject: str, onset: int, offset: int) -> dict[str, str]:
    place = PLACES[subject]
    cells = {
        "subject": subject,
        "path": place,
        "fps": "25",
        "onset": str(onset),
        "offset": str(offset),
        "video": "",
    }
    cells |= {
        "decimal comma": {"onset": f"{onset - 1},8"},
        "decimal point": {"onset": f"{onset - 1}.8"},
        "backslashes": {"path": place.replace("/", "\\")},
        "dot and backslashes": {"path": ".\\" + place.replace("/", "\\")},
        "other case": {"path": place.upper()},
        "another's video id": {"video": "clip"},
        "path .": {"path": "."},
        "path above": {"path": "../set/a"},
        "drive letter": {"path": "C:\\data\\a"},
        "no such folder": {"path": "nowhere"},
        "thousands or decimals": {"onset": "1,234"},
        "no number": {"onset": "four"},
        "reversed": {"onset": str(offset), "offset": str(onset - 1)},
        "blank subject": {"subject": ""},
    }.get(defect, {})
    return cells


def _book(draw: st.DrawFn, names: Sequence[str], rows: list[dict[str, str]]) -> bytes:
    """A workbook; subjects of neighbouring rows may be one merged cell, whole numbers numbers."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(list(names))
    numbers = draw(st.booleans())
    for row in rows:
        cells = [row[name] or None for name in names]
        sheet.append([int(c) if numbers and c and c.isdigit() else c for c in cells])
    if draw(st.booleans()):
        column, start = names.index("subject") + 1, 2
        subjects = [row["subject"] for row in rows]
        for subject, group in itertools.groupby(subjects):
            end = start + len(list(group)) - 1
            if subject and end > start:
                sheet.merge_cells(
                    start_row=start, end_row=end, start_column=column, end_column=column
                )
            start = end + 1
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _written(
    draw: st.DrawFn, names: list[str], rows: list[dict[str, str]]
) -> tuple[bytes, list[dict[str, str]], str]:
    between, encoding = draw(st.sampled_from(SEPARATORS)), draw(st.sampled_from(ENCODINGS))
    lines = [names, *([row[c] for c in names] for row in rows)]
    quoted = [[f'"{c}"' if any(s in c for s in SEPARATORS) else c for c in line] for line in lines]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(between.join(line) for line in quoted) + end
    return text.encode(encoding), rows, between


def write_tree(root: Path) -> Path:
    """The folders that the strategies' paths name, links outwards, pipes and a film not read."""
    for folder in FOLDERS:
        trees.write_frames(root / folder, range(1, LENGTH + 1), "{}.png")
    outside = root.parent / "outside"
    trees.write_frames(outside, range(1, LENGTH + 1), "{}.png")
    (root / "away").symlink_to(outside)
    (root / "film.webm").write_bytes(b"x")
    for name in ("pipe", "pipe.mp4"):
        os.mkfifo(root / name)
    return root


ODD = ("{} edited.png", "{} (2).png", "Copy of {}.png", "{}-1.png", "x{:09d}.png", "{}.PNG")
KINDS = ("file", "empty", "folder", "pipe", "link out", "link in", "dangling", "text")


@st.composite
def odd_files(draw: st.DrawFn) -> list[tuple[str, str]]:
    """(name, kind) of files that lie among the frames of a folder."""
    numbered = st.tuples(st.sampled_from(ODD), st.integers(0, 30)).map(lambda p: p[0].format(p[1]))
    named = st.sampled_from(["Thumbs.db", "a.zip", "b.rar", "c.webm", "d.txt", "no number.png"])
    files = st.tuples(numbered | named, st.sampled_from(KINDS))
    return draw(st.lists(files, max_size=6, unique_by=lambda file: file[0]))


def put(folder: Path, name: str, kind: str, outside: Path) -> None:
    """Make one of the odd files."""
    path = folder / name
    if path.exists() or path.is_symlink():
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("link") or kind == "dangling":
        inside = next(p for p in sorted(folder.iterdir()) if p.suffix == ".png")
        targets = {"link out": outside, "link in": inside, "dangling": folder / "nowhere"}
        path.symlink_to(targets[kind])
    else:
        content = {"empty": b"", "text": b"not a picture"}
        path.write_bytes(content.get(kind, trees.image_bytes(".png")))
