"""What a dataset folder holds: its directory tree, and the frames of one video in numeric order.

Frame names are never built from numbers. A folder is listed, the last run of digits of each stem
is the file's number, and files are sorted by that number: paddings of 3 to 8 digits, prefixes and
blanks in names all come out right, and dropped frames stay visible as holes in the numbers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.datasets.images import is_cut_off
from data.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from data.stages.identity import KEY_LENGTH
from data.video_file import VideoFacts, examine_video

MAX_DEPTH = 12  # nested archives add levels; a deeper tree is a loop of links
MAX_NUMBER = 2**53  # beyond this a "number" is a time stamp or a hash
SILENT_S = 10.0  # a walk that takes longer says how far it is
KERNELS = ("/proc/", "/sys/", "/dev/")  # no files, and no end to some of them
_LAST_DIGITS = re.compile(r"([0-9]+)[^0-9]*$")
_SUSPICIOUS = 0.8  # a frame below this share of the median size is looked at
_NAMED = 5  # how many file names a message shows

logger = logging.getLogger(__name__)

# (reason, detail) of something wrong inside one folder
Problem = tuple[str, str]


@dataclass(frozen=True)
class Folder:
    """One directory: `path` is posix and relative to the dataset root ("" is the root itself).

    `film`: not a directory but a video file that stands in for a folder of frames.
    """

    path: str
    children: tuple[str, ...]
    num_images: int
    first_image: str
    videos: tuple[str, ...]
    others: tuple[str, ...]
    film: bool = False

    @property
    def has_frames(self) -> bool:
        """Whether frames may come from here."""
        return self.film or self.num_images > 0


@dataclass
class Tree:
    """All directories under `root`; frames are only counted here, not listed."""

    root: Path
    folders: dict[str, Folder] = field(default_factory=dict)
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # path, reason, detail

    def parts(self, folder: str) -> tuple[str, ...]:
        """Names from the root's own name down to `folder`: a user may point at any level."""
        return (self.root.name, *folder.split("/")) if folder else (self.root.name,)

    def names(self, folder: Folder) -> tuple[str, ...]:
        """The same for a folder or film; a film goes without its ending."""
        path = folder.path.rpartition(".")[0] if folder.film else folder.path
        return self.parts(path)

    def leaves(self) -> Iterator[Folder]:
        """Folders that can be a video: they hold images, or have no folder below them."""
        for folder in self.folders.values():
            if folder.num_images or not folder.children:
                yield folder

    def sequences(self) -> Iterator[Folder]:
        """Everything that can be a video: leaves, and video files."""
        yield from self.leaves()
        for folder in self.folders.values():
            for name in folder.videos:
                path = f"{folder.path}/{name}" if folder.path else name
                yield Folder(path, (), 0, "", (name,), (), film=True)

    def files(self, suffixes: tuple[str, ...]) -> Iterator[Path]:
        """Files other than frames whose name ends so, anywhere under the root."""
        for folder in self.folders.values():
            for name in folder.others:
                if name.lower().endswith(suffixes):
                    yield self.root / folder.path / name

    def files_above(self, suffixes: tuple[str, ...]) -> Iterator[Path]:
        """The same, one and two levels above the root, without descending anywhere."""
        for above in (self.root.parent, self.root.parent.parent):
            try:
                names = sorted(e.name for e in os.scandir(above) if e.is_file())
            except OSError:
                continue
            yield from (above / n for n in names if n.lower().endswith(suffixes) and n[0] != ".")


def walk(root: Path, *, confined: bool = False) -> Tree:
    """Read the directory tree under `root` once; no file is opened or stat'ed.

    `confined`: folders that are links out of it are not entered (`path_outside_root`). Hidden
    directories are skipped, and so are the whole disk and the kernel's folders, the root itself
    included (`whole_disk`). Unreadable directories become problems (`permission_denied`), links
    that loop end at MAX_DEPTH or at a folder already seen.
    """
    tree = Tree(root)
    seen = _Seen(root)
    _walk(tree, "", 0, seen, os.path.realpath(root) if confined else "")
    tree.folders = dict(sorted(tree.folders.items()))
    return tree


class _Seen:
    """Folders that a walk has entered; it says how many while it goes on for long."""

    def __init__(self, root: Path) -> None:
        self.paths: set[str] = set()
        self._root, self._due = root, time.monotonic() + SILENT_S

    def enter(self, real: str) -> None:
        self.paths.add(real)
        if time.monotonic() > self._due:
            self._due = time.monotonic() + SILENT_S
            logger.warning("%s: %d folders so far, now in %s", self._root, len(self.paths), real)


def _no_place_for_data(real: str) -> str:
    """What a folder is that nobody's dataset is in and whose walk would take minutes; "" if not."""
    if real == os.sep:
        return "the whole disk"
    kernels = f"{real}/".startswith(KERNELS) and not f"{real}/".startswith("/dev/shm/")
    return "no files but the kernel's" if kernels else ""


def _walk(tree: Tree, path: str, depth: int, seen: _Seen, inside: str) -> None:
    full = tree.root / path
    real = os.path.realpath(full)
    if said := _no_place_for_data(real):
        tree.problems.append((path, "whole_disk", f"{full}: {said}; name the dataset's own folder"))
        return
    if inside and not Path(real).is_relative_to(inside):
        tree.problems.append((path, "path_outside_root", f"a link to {real}"))
        return
    if real in seen.paths or depth > MAX_DEPTH:
        tree.problems.append((path, "folder_loop", f"{full} leads back to {real}"))
        return
    seen.enter(real)
    children, videos, others = [], [], []
    num_images, first_image = 0, ""
    try:
        with os.scandir(full) as entries:
            for entry in entries:
                name, kind = entry.name, _kind(entry)
                if name[0] == ".":
                    continue
                is_image = kind != "folder" and name.lower().endswith(IMAGE_SUFFIXES)
                if not _is_text(name) and not is_image:  # an image is named with its video
                    shown = f"{path}/{ascii(name)[1:-1]}".lstrip("/")
                    tree.problems.append((shown, "undecodable_name", f"a {kind}; rename it"))
                    continue
                if kind == "folder":
                    if name != "__MACOSX":
                        children.append(name)
                elif is_image:
                    num_images += 1
                    if _is_text(name):
                        first_image = min(first_image, name) if first_image else name
                elif kind != "file":  # reading a pipe waits for ever, a device never ends
                    tree.problems.append(
                        (f"{path}/{name}" if path else name, "not_a_file", f"{full / name}: {kind}")
                    )
                elif name.lower().endswith(VIDEO_SUFFIXES):
                    videos.append(name)
                else:
                    others.append(name)
    except OSError as error:
        tree.problems.append((path, "permission_denied", f"{full}: {error.strerror}"))
        return
    tree.folders[path] = Folder(
        path,
        tuple(sorted(children)),
        num_images,
        first_image,
        tuple(sorted(videos)),
        tuple(sorted(others)),
    )
    for child in sorted(children):
        _walk(tree, f"{path}/{child}" if path else child, depth + 1, seen, inside)


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, `file`, or what else an entry is, links followed."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:  # a link to itself
        return str(error.strerror)
    return "a link that leads nowhere" if entry.is_symlink() else "a pipe, socket or device"


def _is_text(name: str) -> bool:
    """Whether a name's bytes are text; the stores hold nothing else."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class FrameList:
    """Frames of one video in numeric order.

    `numbers` int64 (T,), strictly increasing, the files' own numbers; `sizes` int64 (T,) bytes;
    `names` (T,) file names, empty for a video file, of which `facts` says the rest.
    """

    names: list[str]
    numbers: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    problems: list[Problem] = field(default_factory=list)
    video_file: str = ""
    facts: VideoFacts | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def padding(self) -> tuple[int, int]:
        """Shortest and longest digit run among the names (0, 0 for a video file)."""
        widths = [len(m.group(1)) for m in map(_digits, self.names) if m]
        return (min(widths), max(widths)) if widths else (0, 0)

    @property
    def missing_numbers(self) -> int:
        """How many numbers between the first and the last have no file."""
        if not len(self):
            return 0
        return int(self.numbers[-1] - self.numbers[0]) + 1 - len(self)


def _digits(name: str) -> re.Match[str] | None:
    return _LAST_DIGITS.search(name.rpartition(".")[0])


def list_frames(folder: Path, inside: Path | None = None) -> FrameList:
    """List the frames of one folder; everything that is not a frame becomes a problem.

    `inside`: a resolved folder that links may not lead out of. Reasons: `no_such_folder`,
    `permission_denied`, `directory_named_like_image`, `not_a_file`, `path_outside_root`,
    `no_number`, `number_too_large`, `undecodable_name`, `duplicate_number`, `other_name_style`,
    `zero_byte_file`, `truncated_file`, `number_gaps`.
    """
    odd: dict[str, list[str]] = {}
    names: list[str] = []
    numbers: list[int] = []
    sizes: list[int] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or not name.lower().endswith(IMAGE_SUFFIXES):
                    continue
                number, reason = _frame_number(entry, inside)
                if reason:
                    odd.setdefault(reason, []).append(name)
                    continue
                names.append(name)
                numbers.append(number)
                sizes.append(entry.stat().st_size)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "no_such_folder" if gone else "permission_denied"
        return FrameList(
            [],
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            [(reason, f"{folder}: {error.strerror}")],
        )
    frames = _sorted_unique(names, numbers, sizes, odd)
    frames.problems += [(reason, _some(sorted(found))) for reason, found in sorted(odd.items())]
    if empty := int((frames.sizes == 0).sum()):
        named = [frames.names[i] for i in np.flatnonzero(frames.sizes == 0)[:_NAMED]]
        frames.problems.append(("zero_byte_file", f"{empty} of {len(frames)}: {', '.join(named)}"))
    if cut := _cut_off(folder, frames):
        frames.problems.append(("truncated_file", _some(cut)))
    if frames.missing_numbers:
        gaps = np.flatnonzero(np.diff(frames.numbers) > 1)
        where = ", ".join(f"after {frames.numbers[g]}" for g in gaps[:_NAMED])
        frames.problems.append(
            ("number_gaps", f"{frames.missing_numbers} numbers have no file ({where})")
        )
    return frames


def _frame_number(entry: os.DirEntry[str], inside: Path | None) -> tuple[int, str]:
    """(number, "") of a frame file, or (0, reason why it is none)."""
    kind = _kind(entry)
    if kind != "file":
        return 0, "directory_named_like_image" if kind == "folder" else "not_a_file"
    if inside and entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
        return 0, "path_outside_root"
    if not _is_text(entry.name):
        return 0, "undecodable_name"
    match = _digits(entry.name)
    if match is None:
        return 0, "no_number"
    number = int(match.group(1)) if len(match.group(1)) < 20 else MAX_NUMBER
    return (number, "") if number < MAX_NUMBER else (0, "number_too_large")


def _cut_off(folder: Path, frames: FrameList) -> list[str]:
    """Truncated frames among those much smaller than the others; the rest is not opened."""
    if not len(frames):
        return []
    small = (frames.sizes > 0) & (frames.sizes < _SUSPICIOUS * np.median(frames.sizes))
    return [frames.names[i] for i in np.flatnonzero(small) if is_cut_off(folder / frames.names[i])]


def _sorted_unique(
    names: list[str], numbers: list[int], sizes: list[int], odd: dict[str, list[str]]
) -> FrameList:
    """Numeric order; where two files claim one number, the commoner naming style wins, of two
    equally common ones the plainer (`img20.jpg` before `img20 edited.jpg`), then the one that is
    filled with zeros if the others are."""
    styles = list(map(_style, names))
    often = Counter(styles)
    order = list(range(len(names)))
    if len(set(numbers)) < len(numbers):
        digits = [found[1] if (found := _digits(name)) else "" for name in names]
        zeros = [len(d) > 1 and d[0] == "0" for d in digits]
        short = sum(len(d) < max(map(len, digits)) for d in digits)
        filled = sum(zeros) > short  # so the others write 2 as 02
        order.sort(key=lambda i: (-often[styles[i]], len(styles[i]), zeros[i] != filled, names[i]))
    taken: set[int] = set()
    keep = []
    for i in order:
        if numbers[i] in taken:
            odd.setdefault("duplicate_number", []).append(names[i])
            continue
        taken.add(numbers[i])
        keep.append(i)
    usual = max(often, key=lambda s: (often[s], -len(s)), default="")
    if often[usual] > 0.9 * len(names) and "#." in usual:  # 1 in 10 at most has words behind it
        strange = [names[i] for i in keep if "#." not in styles[i]]
        if strange:
            odd["other_name_style"] = strange
    keep.sort(key=numbers.__getitem__)
    return FrameList(
        [names[i] for i in keep],
        np.fromiter((numbers[i] for i in keep), np.int64, len(keep)),
        np.fromiter((sizes[i] for i in keep), np.int64, len(keep)),
    )


def _style(name: str) -> str:
    """A name with its number taken out: the series it belongs to."""
    stem, _, suffix = name.rpartition(".")
    found = _LAST_DIGITS.search(stem)
    series = stem[: found.start(1)] + "#" + stem[found.end(1) :] if found else stem
    return f"{series}.{suffix}"


def _some(names: list[str]) -> str:
    shown = ", ".join(ascii(n)[1:-1] for n in names[:_NAMED])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > _NAMED else "")


def list_video_file(path: Path) -> FrameList:
    """Frames of a video file, numbered from 1; length counted by decoding, not by the header.

    What the file contradicts itself in (`truncated_video`, `variable_frame_rate`, ...: see
    `data.video_file`) is a problem. Raises InputError `not_a_file` for a pipe or a device (reading
    it would never end), `unreadable_video`.
    """
    facts = examine_video(path)
    size = np.zeros(facts.num_frames, np.int64)
    size[:1] = path.stat().st_size
    numbers = np.arange(1, facts.num_frames + 1, dtype=np.int64)
    return FrameList([], numbers, size, list(facts.problems), path.name, facts)


def content_identity(folder: Path, frames: FrameList) -> str:
    """Hex identity of a video: its sorted (file name, size) and its first, middle and last bytes.

    Survives a copy or a move, changes when a frame is added, removed, renamed or resized.
    """
    digest = hashlib.sha256()
    if frames.video_file:
        path = folder / frames.video_file
        digest.update(f"{frames.video_file}\t{path.stat().st_size}\n".encode())
        _update_with_ends(digest, path)
        return digest.hexdigest()[:KEY_LENGTH]
    rows = sorted(zip(frames.names, frames.sizes.tolist(), strict=True))
    digest.update("".join(f"{name}\t{size}\n" for name, size in rows).encode())
    for index in sorted({0, len(frames) // 2, len(frames) - 1} if len(frames) else set()):
        try:
            digest.update((folder / frames.names[index]).read_bytes())
        except OSError as error:
            digest.update(f"unreadable:{error.errno}".encode())
    return digest.hexdigest()[:KEY_LENGTH]


def _update_with_ends(digest: hashlib._Hash, path: Path, block: int = 1 << 20) -> None:
    """The first, middle and last megabyte of a file too large to read whole."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for start in sorted({0, max(size // 2 - block // 2, 0), max(size - block, 0)}):
            file.seek(start)
            digest.update(file.read(block))
