"""Finding a dataset's folders by pattern, at any depth, in any of the variants it is shipped in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from data.datasets.base import Adapter
from data.datasets.films import not_read
from data.datasets.listing import Folder, Tree
from data.datasets.report import Report
from data.errors import DatasetError

VIDEO_FILES = "video files"  # the variant of a copy that has films instead of frames


@dataclass
class FolderGroup:
    """Folders that match a dataset's pattern under one frames root (one variant of the frames)."""

    root: str
    parts: tuple[str, ...]
    films: bool = False
    folders: list[tuple[Folder, list[re.Match[str]]]] = field(default_factory=list)


def group_by_pattern(tree: Tree, patterns: Iterable[str]) -> list[FolderGroup]:
    """Leaf folders whose last names match `patterns` (one regex a level), by frames root.

    Matching ignores case and depth, so nested archives and any starting level work. Video files
    named like such folders make groups of their own.
    """
    regexes = [re.compile(p, re.IGNORECASE) for p in patterns]
    groups: dict[tuple[bool, tuple[str, ...]], FolderGroup] = {}
    for folder in tree.sequences():
        parts = tree.names(folder)
        if len(parts) < len(regexes):
            continue
        tail = parts[-len(regexes) :]
        matches = [r.fullmatch(p) for r, p in zip(regexes, tail, strict=True)]
        if all(matches):
            head = parts[: -len(regexes)]
            key = (folder.film, head)
            group = groups.setdefault(key, FolderGroup("/".join(head[1:]), head, folder.film))
            group.folders.append((folder, [m for m in matches if m]))
    return list(groups.values())


def choose_group(
    adapter: Adapter,
    tree: Tree,
    groups: list[FolderGroup],
    variants: list[tuple[str, str]],
    preferred: list[str],
    report: Report,
) -> FolderGroup:
    """The group to use among several variants of the same frames; the choice goes to the variant.

    `variants`: (regex searched in folder names, variant name); of one folder the first that fits
    decides, and the last variant is the default. `preferred`: variant names, best first.
    Raises DatasetError `no_videos` without a group.
    """
    named = [
        (_variant_of(g, variants), g) for g in groups if any(f.has_frames for f, _ in g.folders)
    ]
    if not named:
        raise no_videos(adapter, tree)
    ranks = [*preferred, VIDEO_FILES]
    named.sort(key=lambda n: (ranks.index(n[0]), -len(n[1].folders), n[1].root))
    name, best = named[0]
    report.variant["frames"] = name
    report.variant["frames_root"] = best.root or "."
    if others := [f"{n} ({g.root or '.'})" for n, g in named[1:]]:
        report.variant["also_present"] = "; ".join(others) + " (give that folder to use it)"
    return best


def same_variant(
    groups: list[FolderGroup], variants: list[tuple[str, str]], report: Report
) -> list[FolderGroup]:
    """All groups of the variant in use: a set shipped in sections has one frames root each."""
    used = [g for g in groups if _variant_of(g, variants) == report.variant["frames"]]
    if len(used) > 1:
        report.variant["frames_root"] = "; ".join(g.root or "." for g in used)
        report.variant.pop("also_present", None)
    return used


def _variant_of(group: FolderGroup, variants: list[tuple[str, str]]) -> str:
    """Name of the variant: the folder nearest to the frames that says one decides."""
    if group.films:
        return VIDEO_FILES
    for part in reversed(group.parts):
        for regex, name in variants:
            if regex and re.search(regex, part, re.IGNORECASE):
                return name
    return variants[-1][1]


def no_videos(adapter: Adapter, tree: Tree, report: Report | None = None) -> DatasetError:
    """The error for a root without a video that fits: what is there, and why it was refused."""
    children = ", ".join(tree.folders[""].children[:8]) if "" in tree.folders else ""
    got = [f"folders {children or 'none'}"]
    films = Counter(said for _, said in films_not_read(tree))
    got += [f"{count} video files: {said}" for said, count in sorted(films.items())]
    got += [f"{path}: {said}" for path, said in archives(tree)]
    refused = [f for f in report.findings if f.action == "dropped"] if report else []
    for reason, count in Counter(f.reason for f in refused).most_common():
        first = next(f for f in refused if f.reason == reason)
        got.append(f"{count} refused, {reason} (first: {first.who}: {first.detail})")
    return DatasetError(
        f"{adapter.name} at {tree.root}",
        expected=f"folders of frames named as in {adapter.title}",
        got="; ".join(got),
        todo=(
            "Put this right."
            if refused
            else "Point ROOT at the folder with the frames and the sheet, or name another layout."
        ),
        code="no_videos",
    )


ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".001", ".z01")
_ARCHIVE_END = re.compile(r"(\.(part\d+|tar|zip|7z))?\.[^.]+$", re.IGNORECASE)


def archives(tree: Tree) -> list[tuple[str, str]]:
    """(path, what to do) of every archive without a folder of its name beside it."""
    found = []
    for folder in tree.folders.values():
        beside = {c.casefold() for c in folder.children}
        for name in folder.others:
            stem = _ARCHIVE_END.sub("", name)
            if name.lower().endswith(ARCHIVES) and stem.casefold() not in beside:
                found.append((f"{folder.path}/{name}".lstrip("/"), "unpack it"))
    return found


def films_not_read(tree: Tree) -> list[tuple[str, str]]:
    """(path, what is read instead) of every video file in a format that is not read."""
    return [
        (f"{folder.path}/{name}".lstrip("/"), said)
        for folder in tree.folders.values()
        for name in folder.others
        if (said := not_read(name))
    ]


def leave_out_strangers(
    tree: Tree, groups: list[FolderGroup], best: FolderGroup, report: Report
) -> None:
    """Folders of images that fit no pattern: dropped one by one inside the frames root in use,
    counted in the variant when they lie elsewhere."""
    known = {folder.path for group in groups for folder, _ in group.folders}
    prefix = best.root + "/" if best.root else ""
    elsewhere = 0
    for folder in tree.leaves():
        if folder.path in known or not folder.num_images:
            continue
        if folder.path.startswith(prefix):
            report.drop(folder.path or ".", "video", "unrecognised_folder", folder.first_image)
        else:
            elsewhere += 1
    if elsewhere:
        report.variant["ignored_folders"] = f"{elsewhere} folders of images outside {best.root}"
