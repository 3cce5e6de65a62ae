"""Hypothesis strategies that make csv manifests and dataset trees as people leave them behind.

`manifests` gives the bytes of a manifest and what a careful reader would make of each row; `trees`
gives folders with frames, doubles, edited frames, links, pipes and archives. Cells are drawn from
what was met in labs and from plain noise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

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
