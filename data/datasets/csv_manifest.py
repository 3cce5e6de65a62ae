"""Any dataset described by a CSV manifest: one row an event, or a video without events.

Required columns: `subject`, `path` (folder of frames or video file, relative to the manifest),
`fps`. Optional: `video`, `person`, `kind` (clip|long), `show_faces`, `event`, `type`, `onset`,
`apex`, `offset` (file numbers; frame 1 is the first of a video file), `aus`, `emotion`,
`objective_class`, `label_3`, `label_4`, `label_5`, `label_7`. A row with blank onset and offset
declares a video only.

Nothing a manifest says leads out of its folder: absolute paths, `..` and links to the outside are
dropped with a ledger row.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from data.datasets.base import Adapter, Video, VideoSpec
from data.datasets.checks import Annotation, Rules, numbers_of, read_units
from data.datasets.label_maps import MAPS, normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import MISSING, Cell, identifier, objective_class, text
from data.datasets.report import Report
from data.datasets.sheets import Sheet, Table, find_sheets, find_table
from data.datasets.tables import no_sheet
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


class CsvManifest(Adapter):
    """The generic manifest."""

    name = "csv"
    title = "a CSV manifest"
    fps = 0.0  # every row says its own
    rules = Rules(
        offset_missing="apex", first_number=0, apex_labelled=False, every_clip_coded=False
    )

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Videos named by the manifest, once each; rows with an unsafe path are dropped later."""
        table = find_manifest(self, tree, report)
        specs: dict[str, VideoSpec] = {}
        for number, cells in table.records():
            where = f"{table.sheet.where}, row {number}"
            path, reason = safe_path(table.sheet.path.parent, tree.root, cells["path"])
            if reason:
                continue
            name, fps = video_name(cells), rate(cells["fps"])
            if fps is None or not safe_id(name):
                continue
            subject = identifier(cells["subject"])
            file = path.name if path.suffix.lower() in VIDEO_SUFFIXES else ""
            folder = (path.parent if file else path).as_posix()
            spec = VideoSpec(
                subject,
                text(cells.get("person")) or self.person(subject),
                name,
                "" if folder == "." else folder,
                fps,
                "clip" if text(cells.get("kind")).lower() == "clip" else "long",
                file=file,
            )
            known = specs.setdefault(name, spec)
            if known != spec:
                report.flag(name, "video", "contradicting_rows", f"{where}: first row wins")
        return list(specs.values())

    def read_annotations(
        self, tree: Tree, videos: dict[str, Video], report: Report
    ) -> list[Annotation]:
        """Rows that have an onset or an offset."""
        table = find_manifest(self, tree, report)
        rows: list[Annotation] = []
        order: dict[str, int] = {}
        for number, cells in table.records():
            where = f"{table.sheet.where}, row {number}"
            _, reason = safe_path(table.sheet.path.parent, tree.root, cells["path"])
            name = video_name(cells)
            if not reason and rate(cells["fps"]) is None:
                reason = "bad_fps"
            if not reason and not (safe_id(name) and safe_id(text(cells.get("event")) or name)):
                reason = "bad_identifier"
            empty = all(text(cells.get(c)).lower() in MISSING for c in ("onset", "offset"))
            if reason:
                who = name if empty else where
                report.drop(who, "file" if empty else "row", reason, f"{where}: {cells['path']!r}")
                report.count("rows_refused", int(not empty))
            elif not empty:
                order[name] = order.get(name, 0) + 1
                rows.append(read_row(cells, where, name, order[name], report))
        return rows

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
    if len(named or tables) > 1:
        raise DatasetError(
            f"csv at {tree.root}",
            expected="one manifest",
            got=", ".join(t.sheet.where for t in named or tables),
            todo="Keep one of them, or call it manifest.csv.",
            code="several_manifests",
        )
    best = (named or tables)[0]
    report.variant["sheet"] = best.sheet.where
    return best


def safe_path(base: Path, root: Path, cell: Cell) -> tuple[PurePosixPath, str]:
    """(path relative to the root, "") or (the path as given, why it is refused)."""
    word = text(cell).replace("\\", "/")
    path = PurePosixPath(word)
    if not word or "\0" in word:
        return path, "no_path"
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return path, "path_outside_root"
    full = base / path
    if not full.resolve().is_relative_to(root.resolve()):
        return path, "path_outside_root"
    return PurePosixPath(full.relative_to(root).as_posix()), ""


def video_name(cells: dict[str, Cell]) -> str:
    """The row's video id: its own column, or its path."""
    return text(cells.get("video")) or text(cells["path"]).replace("\\", "/").strip("/")


def safe_id(name: str) -> bool:
    """Whether a name can be a unit's id, which is a path inside the stores."""
    return all(part not in ("", ".", "..") for part in name.split("/")) and "\0" not in name


def rate(cell: Cell) -> float | None:
    """Frames per second, or None when the cell holds no positive number."""
    try:
        fps = float(text(cell))
    except ValueError:
        return None
    return fps if 0 < fps < 1e6 else None


def read_row(
    cells: dict[str, Cell], where: str, video: str, count: int, report: Report
) -> Annotation:
    """One event row; its id is its own column, or the video and a running number."""
    event = text(cells.get("event")) or f"{video}#{count}"
    aus = read_units(cells.get("aus"), event, where, report)
    kind = text(cells.get("type")).lower().removesuffix("-expression") or "micro"
    if kind not in TYPES:
        report.repair(
            event, "event", "unknown_type", where,
            column="type", old=kind, new="micro", source="the default",
        )  # fmt: skip
        kind = "micro"
    return Annotation(
        who=event,
        where=where,
        subject=identifier(cells["subject"]),
        video=video,
        event=event,
        type=kind,
        aus=aus,
        emotion=normalise_emotion(text(cells.get("emotion"))),
        objective=objective_class(cells.get("objective")),
        labels={m: word for m in MAPS if (word := text(cells.get(m)))},
        **numbers_of(cells.get("onset"), cells.get("apex"), cells.get("offset")),
    )


ADAPTER = CsvManifest()
