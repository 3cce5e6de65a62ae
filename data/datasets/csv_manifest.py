"""Any dataset described by a CSV manifest: one row an event, or a video without events.

Required columns: `subject`, `path` (folder of frames or video file, relative to the manifest),
`fps`. Optional: `video`, `person`, `kind` (clip|long), `show_faces`, `event`, `type`, `onset`,
`apex`, `offset` (file numbers; frame 1 is the first of a video file), `aus`, `emotion`,
`objective_class`, `label_3`, `label_4`, `label_5`, `label_7`. A row with blank onset and offset
declares a video only.

Nothing a manifest says leads out of its folder: absolute paths, `..` and links to the outside,
frames that are such links included, are dropped with a ledger row. One video id used for two
subjects or two folders is two videos: each gets its subject (or its path) into its id.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules, numbers_of, read_units
from data.datasets.grouping import no_videos
from data.datasets.label_maps import MAPS, normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import MISSING, Cell, identifier, objective_class, real_number, text
from data.datasets.report import Report
from data.datasets.sheets import Sheet, Table, find_sheets, find_table
from data.datasets.tables import no_sheet, note_shape
from data.datasets.versions import is_copy
from data.errors import DatasetError
from data.frames import VIDEO_SUFFIXES

COLUMNS: dict[str, tuple[str, ...]] = {
    name: (name.replace("_", ""),)
    for name in (
        *("subject", "person", "video", "fps", "kind", "event", "type", "onset", "apex", "offset"),
        *("emotion", *MAPS),
    )
} | {
    "path": ("path", "folder", "file"),
    "aus": ("aus", "au", "actionunits"),
    "objective": ("objectiveclass", "objectiveclasses"),
    "show": ("showfaces",),
}
REQUIRED = ("subject", "path", "fps")
TYPES = {"micro", "macro", "blink"}
TRUE = {"1", "true", "yes"}
LONGEST_ID = 200  # characters of a subject, video or event


class CsvManifest(Adapter):
    """The generic manifest."""

    name = "csv"
    title = "a CSV manifest"
    fps = 0.0  # every row says its own
    confined = True
    rules = Rules(
        offset_missing="apex", first_number=0, apex_labelled=False, every_clip_coded=False
    )

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Videos named by the manifest, once each; rows that are refused are dropped by name."""
        table = find_manifest(self, tree, report)
        note_shape(table, report)
        rows = manifest_rows(table, tree)
        specs: dict[str, VideoSpec] = {}
        for row in rows:
            if row.reason:
                report.drop(row.who, row.kind, row.reason, row.detail)
                report.count("rows_refused", int(row.kind == "row"))
                continue
            spec = self.spec(row, tree)
            known = specs.setdefault(row.video, spec)
            if known != spec:
                said = f"{row.where}: {_contradiction(known, spec)}; the first row wins"
                report.flag(row.video, "video", "contradicting_rows", said)
        _note_renamed(rows, report)
        _note_shared(specs.values(), report)
        if not rows and not table.too_long():
            raise DatasetError(
                f"csv at {tree.root}",
                expected="rows under the header",
                got=f"{table.describe()}, and nothing under it",
                code="no_videos",
            )
        if not specs:
            raise no_videos(self, tree, report)
        return list(specs.values())

    def spec(self, row: ManifestRow, tree: Tree) -> VideoSpec:
        """The video of a row that is not refused."""
        is_film = row.path.suffix.lower() in VIDEO_SUFFIXES and not (tree.root / row.path).is_dir()
        folder = (row.path.parent if is_film else row.path).as_posix()
        return VideoSpec(
            row.subject,
            text(row.cells.get("person")) or self.person(row.subject),
            row.video,
            "" if folder == "." else folder,
            row.fps,
            "clip" if text(row.cells.get("kind")).lower() == "clip" else "long",
            file=row.path.name if is_film else "",
        )

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows that have an onset or an offset."""
        annotations: list[Annotation] = []
        order: Counter[str] = Counter()
        for row in manifest_rows(find_manifest(self, tree, report), tree):
            if row.is_event and not row.reason:
                order[row.video] += 1
                annotations.append(read_row(row, order[row.video], report))
        return annotations

    def may_show_faces(self, tree: Tree) -> bool:
        """Only when every row of the manifest says so."""
        table = find_manifest(self, tree, Report(self.name))
        words = [text(cells.get("show")).lower() for _, cells in table.records()]
        return super().may_show_faces(tree) or (bool(words) and all(w in TRUE for w in words))


def find_manifest(adapter: Adapter, tree: Tree, report: Report) -> Table:
    """`manifest.csv`, or the only sheet with the required columns.

    Raises DatasetError: none, or several and none called manifest.
    """

    def accept(sheet: Sheet) -> Table | None:
        return find_table(sheet, COLUMNS, REQUIRED)

    search = find_sheets(tree, accept)
    tables: list[Table] = [t for t in search.found if t.sheet.path.is_relative_to(tree.root)]
    named = [t for t in tables if t.sheet.path.stem.lower() == "manifest"]
    if not tables:
        raise no_sheet(adapter, tree, search, REQUIRED)
    if not named and len(firsts := [t for t in tables if not is_copy(t.sheet.path)]) == 1:
        named = firsts
    if len(named or tables) > 1:
        raise DatasetError(
            f"csv at {tree.root}",
            expected="one manifest",
            got=", ".join(str(t.sheet.path.relative_to(tree.root)) for t in named or tables),
            todo="Keep one of them, or call it manifest.csv.",
            code="several_manifests",
        )
    best = (named or tables)[0]
    report.variant["sheet"] = best.sheet.where
    return best


@dataclass(frozen=True)
class ManifestRow:
    """A row of the manifest. `path` relative to the root; `video`: its id, unique for subject and
    path; `named`: the id as the manifest has it; `reason`: why it is refused, "" when it is not."""

    where: str
    cells: dict[str, Cell]
    subject: str
    named: str
    video: str
    path: PurePosixPath
    fps: float
    reason: str = ""
    detail: str = ""

    @property
    def is_event(self) -> bool:
        """Whether it annotates something, or only declares a video."""
        said = (text(self.cells.get(c)).lower() for c in ("onset", "offset"))
        return any(word not in MISSING for word in said)

    @property
    def kind(self) -> str:
        """What the ledger calls it."""
        return "row" if self.is_event else "file"

    @property
    def who(self) -> str:
        """What the ledger calls the unit of a refused row."""
        return self.where if self.is_event or not safe_id(self.named) else self.named


def manifest_rows(table: Table, tree: Tree) -> list[ManifestRow]:
    """All rows, refused ones with their reason, ids made unique for each subject and path."""
    base = table.sheet.path.parent
    rows = []
    for number, cells in table.records():
        where = f"{table.sheet.where}, row {number}"
        path, reason = safe_path(base, tree.root, cells["path"])
        fps = rate(cells["fps"])
        subject = identifier(cells["subject"])
        named = text(cells.get("video")) or ("" if path == PurePosixPath() else path.as_posix())
        detail = f"{where}: {cells['path']!r}"
        if not reason and fps is None:
            reason, detail = "bad_fps", f"{where}: fps {cells['fps']!r}"
        if not reason and not safe_id(subject):
            reason, detail = "no_subject", f"{where}: subject {subject[:LONGEST_ID]!r}"
        if not reason and not (safe_id(named) and safe_id(text(cells.get("event")) or named)):
            said = text(cells.get("event")) if safe_id(named) else named
            reason, detail = "bad_identifier", f"{where}: {said[:LONGEST_ID]!r}"
        rows.append(
            ManifestRow(where, cells, subject, named, named, path, fps or 0.0, reason, detail)
        )
    return _unique_videos(rows)


def _unique_videos(rows: list[ManifestRow]) -> list[ManifestRow]:
    """A video id that two subjects or two paths share gets one of them in front."""
    used: dict[str, list[tuple[str, PurePosixPath]]] = {}
    for row in rows:
        if not row.reason and (row.subject, row.path) not in used.setdefault(row.named, []):
            used[row.named].append((row.subject, row.path))
    ids: dict[tuple[str, str, PurePosixPath], str] = {}
    taken = {name for name, those in used.items() if len(those) == 1}
    for name, those in used.items():
        for subject, path in those:
            new = name if len(those) == 1 else f"{subject}/{name}"
            if len(those) > 1 and [s for s, _ in those].count(subject) > 1:
                new = f"{subject}/{name}/{path.as_posix()}"
            while len(those) > 1 and new in taken:
                new += "-2"
            taken.add(new)
            ids[name, subject, path] = new
    return [
        row if row.reason else replace(row, video=ids[row.named, row.subject, row.path])
        for row in rows
    ]


def _note_renamed(rows: Iterable[ManifestRow], report: Report) -> None:
    for new, old in {r.video: r.named for r in rows if not r.reason and r.video != r.named}.items():
        report.repair(
            new, "video", "repeated_key", column="video", old=old, new=new,
            source="another subject or folder has this video id",
        )  # fmt: skip


def _note_shared(specs: Iterable[VideoSpec], report: Report) -> None:
    """One folder declared for two people: whoever is held out is also trained on."""
    first: dict[str, VideoSpec] = {}
    for spec in specs:
        other = first.setdefault(spec.path, spec)
        if other.person != spec.person:
            report.flag(
                spec.video, "video", "frames_of_two_subjects",
                f"{spec.path or '.'}: of {spec.person} here, of {other.person} as {other.video}",
            )  # fmt: skip


def _contradiction(known: VideoSpec, spec: VideoSpec) -> str:
    fields = ("person", "fps", "kind")
    pairs = ((f, getattr(known, f), getattr(spec, f)) for f in fields)
    return ", ".join(f"{f} {old} before, {new} here" for f, old, new in pairs if old != new)


def safe_path(base: Path, root: Path, cell: Cell) -> tuple[PurePosixPath, str]:
    """(path relative to the root, "") or (the path as given, why it is refused).

    Backslashes are slashes; where upper and lower case differ from the disk's and only one entry
    fits, that entry is meant (manifests are written on systems that see no difference).
    """
    word = text(cell).replace("\\", "/")
    if not word or not plain(word):
        return PurePosixPath(), "no_path"
    path = PurePosixPath(word)
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        return path, "path_outside_root"
    try:
        full = _as_on_disk(base, path)
        if not full.resolve().is_relative_to(root.resolve()):
            return path, "path_outside_root"
    except (OSError, RuntimeError):  # a name longer than the disk takes, a link to itself
        return path, "bad_path"
    return PurePosixPath(full.relative_to(root).as_posix()), ""


def _as_on_disk(base: Path, path: PurePosixPath) -> Path:
    full = base
    for part in path.parts:
        step = full / part
        if not step.exists() and full.is_dir() and not step.is_symlink():
            alike = [p for p in full.iterdir() if p.name.casefold() == part.casefold()]
            step = alike[0] if len(alike) == 1 else step
        full = step
    return full


def safe_id(name: str) -> bool:
    """Whether a name can be a unit's id, which is a path inside the stores."""
    parts = name.split("/")
    return (
        all(part not in ("", ".", "..") for part in parts)
        and len(name) <= LONGEST_ID
        and plain(name)
    )


def plain(word: str) -> bool:
    """Whether a word has no control character, line break or half a character in it."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in word)


def rate(cell: Cell) -> float | None:
    """Frames per second, or None when the cell holds no positive number."""
    fps, note = real_number(cell)
    return fps if not note and 0 < fps < 1e6 else None


def read_row(row: ManifestRow, count: int, report: Report) -> Annotation:
    """One event row; its id is its own column, or the video and a running number."""
    cells, where = row.cells, row.where
    event = text(cells.get("event"))
    numbered, event = not event, event or f"{row.video}#{count}"
    aus = read_units(cells.get("aus"), event, where, report)
    kind = text(cells.get("type")).lower().removesuffix("-expression") or "micro"
    if kind not in TYPES:
        report.repair(
            event, "event", "unknown_type", where,
            column="type", old=kind[:LONGEST_ID], new="micro", source="the default",
        )  # fmt: skip
        kind = "micro"
    return Annotation(
        who=event,
        where=where,
        subject=row.subject,
        video=row.video,
        event=event,
        type=kind,
        aus=aus,
        emotion=normalise_emotion(text(cells.get("emotion"))),
        objective=objective_class(cells.get("objective")),
        labels={m: word for m in MAPS if (word := text(cells.get(m)))},
        numbered=numbered,
        **numbers_of(cells.get("onset"), cells.get("apex"), cells.get("offset")),
    )


ADAPTER = CsvManifest()
