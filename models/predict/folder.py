"""A folder of unlabelled videos, through one run or several, to the challenge's submission files.

OUT/VIDEO/...                          what `predict` writes of one video
OUT/spotting/cas_pred.csv              vid,pred_onset,pred_offset,type: a part each
OUT/recognised/cas_pred.csv            subject,video,onset,offset,emotion (spot, then recognise)
OUT/videos.json                        every video: what was found, or why it was refused

A video that a run cannot look at (too slow, too short, no face) is refused by name and the others
go on; where all are, nothing is left behind. Frames in the files are the recordings' own numbers.
A run spots micro-expressions, so every row's type is `me`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.challenge.forms import SpottedInterval, unpadded, write_recognised, write_spotting
from data.datasets import get_adapter, open_dataset
from data.datasets.listing import list_frames, walk
from data.errors import ApexflowError, ConfigError, InputError
from data.export.names import safe_folders
from data.frames import FrameSource
from data.own_video import OwnVideo, image_files, open_own
from data.stages.files import replacing
from data.video_file import seconds_of
from models.predict.findings import Prediction
from models.predict.spot import new_folder, predict_video, spotting_runs
from models.runs.files import RunFiles

Show = Callable[[str, int, int, str], None]
OWN_PART = "own"  # the part of videos of which no layout says another


@dataclass(frozen=True)
class Unlabelled:
    """A video to predict on: `name` in its part, `numbers` (T,) of its frames if files have any."""

    part: str
    subject: str
    name: str
    path: Path
    own: OwnVideo
    numbers: npt.NDArray[np.int64] | None

    @property
    def key(self) -> str:
        """Unique in the folder."""
        return f"{self.part}/{self.name}"

    def number(self, index: int) -> int:
        """A frame's own number, counted from 1 where it has none."""
        return index + 1 if self.numbers is None else int(self.numbers[index])


@dataclass(frozen=True)
class FolderPrediction:
    """Predictions by video, refusals (video, code, what was said), and the files of submission."""

    found: dict[str, Prediction]
    refused: tuple[tuple[str, str, str], ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return {
            "videos": {name: one.to_json() for name, one in self.found.items()},
            "refused": [dict(zip(("video", "code", "said"), r, strict=True)) for r in self.refused],
            "files": list(self.files),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """A line a video, and what was written."""
        lines = [f"{len(self.found)} videos, {len(self.refused)} refused"]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"  {name}: {len(one.intervals)} intervals" for name, one in self.found.items()]
        lines += [f"  {name}: refused, {said} [{code}]" for name, code, said in self.refused]
        return "\n".join([*lines, *(f"wrote {name}" for name in self.files)])


def is_collection(path: Path) -> bool:
    """Whether a path is a folder of videos and not itself one: no images directly inside."""
    return path.is_dir() and not image_files(path) and any(path.iterdir())


def predict_folder(
    root: Path,
    run: RunFiles | Sequence[RunFiles],
    out: Path,
    *,
    layout: str | None = None,
    fps: float | None = None,
    overlay: bool = False,
    fold: str | None = None,
    recogniser: RunFiles | None = None,
    device: str = "cpu",
    show: Show | None = None,
) -> FolderPrediction:
    """Predict on every video under `root` and write the submission; see the module.

    `layout`: read the folder as that dataset's (`megc` knows the test sets' parts and rates).
    `fps`: of videos of which neither file nor layout says a rate. Raises ConfigError for runs that
    do not spot, InputError `no_videos` where there is none, and the first refusal where every
    video is refused.
    """
    runs = spotting_runs(run)
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise ConfigError(
            "--out", expected="a folder outside the videos", got=str(out),
            todo="What is written there would be taken for videos the next time.",
        )  # fmt: skip
    videos, refused = unlabelled(root, layout, fps)
    found: dict[str, Prediction] = {}
    first: ApexflowError | None = None
    with new_folder(out):
        folders = safe_folders(out, [v.key for v in videos])
        for number, video in enumerate(videos):
            if show is not None:
                show("predict", number, len(videos), video.key)
            try:
                found[video.key] = predict_video(
                    video.path, runs, folders[video.key], overlay=overlay, fold=fold,
                    recogniser=recogniser, device=device, own=video.own,
                )  # fmt: skip
            except InputError as error:
                first = first or error
                refused.append((video.key, error.code, str(error)))
        if not found:
            raise first or InputError(
                str(root), expected="a video that can be read", got=refused[0][2],
                code=refused[0][1],
            )  # fmt: skip
        if show is not None:
            show("predict", len(videos), len(videos), "done")
        files = [str(path) for path in _submission(videos, found, out)]
        notes = tuple(dict.fromkeys(n for one in found.values() for n in one.notes))
        result = FolderPrediction(found, tuple(refused), (*files, str(out / "videos.json")), notes)
        with replacing(out / "videos.json") as path:
            path.write_text(json.dumps(result.to_json(), indent=1), encoding="utf-8")
    return result


def unlabelled(
    root: Path, layout: str | None, fps: float | None
) -> tuple[list[Unlabelled], list[tuple[str, str, str]]]:
    """The videos under `root`, sorted, and those that could not even be opened.

    Raises InputError `no_videos` without any.
    """
    videos, refused = _of_layout(root, layout, fps) if layout else _found(root, fps)
    if not videos and not refused:
        raise InputError(
            str(root), expected="videos or folders of frames in it", got="none", code="no_videos"
        )
    return sorted(videos, key=lambda v: v.key), refused


def _of_layout(
    root: Path, layout: str, fps: float | None
) -> tuple[list[Unlabelled], list[tuple[str, str, str]]]:
    dataset = open_dataset(layout, root)
    frames = dict(iter(dataset.frames.groupby("video")))
    parts = not get_adapter(layout).labelled  # the challenges' parts stand before the video's name
    videos = []
    for row in dataset.videos.itertuples():
        part, _, name = row.video.partition("/") if parts else (layout, "", row.video)
        path = root / row.folder
        if row.source == "video_file":
            own, numbers = _opened(path, row.fps, fps), None
        else:
            own_frames = frames[row.video].sort_values("index")
            files = tuple(root / p for p in own_frames.path)
            rate = float(row.fps) if row.fps > 0 else fps
            seconds = seconds_of(np.full(len(files), np.nan), rate)
            own = OwnVideo(path, FrameSource(files), files, rate, seconds, None)
            numbers = own_frames.number.to_numpy(np.int64)
        videos.append(Unlabelled(part, row.subject, name, path, own, numbers))
    dropped = dataset.ledger[
        (dataset.ledger.kind == "video") & (dataset.ledger.action == "dropped")
    ]
    refused = [(r.unit, r.reason, r.detail) for r in dropped.itertuples()]
    return videos, refused


def _opened(path: Path, declared: float, fps: float | None) -> OwnVideo:
    """A video at the rate its layout says, else at its own, else at `fps`."""
    own = open_own(path, float(declared) if declared > 0 else None)
    return own if own.fps or fps is None else open_own(path, fps)


def _found(root: Path, fps: float | None) -> tuple[list[Unlabelled], list[tuple[str, str, str]]]:
    videos, refused = [], []
    for folder in walk(root).sequences():
        if not folder.has_frames or not folder.path:
            continue
        path, name = root / folder.path, folder.path
        try:
            own = _opened(path, 0.0, fps)
        except InputError as error:
            refused.append((name, error.code, str(error)))
            continue
        numbers = None
        if not folder.film:
            listed = list_frames(path)
            same = [p.name for p in own.files] == listed.names
            numbers = listed.numbers if same else None
        videos.append(Unlabelled(OWN_PART, name.partition("/")[0], name, path, own, numbers))
    return videos, refused


def _submission(
    videos: Sequence[Unlabelled], found: dict[str, Prediction], out: Path
) -> list[Path]:
    """Both forms, a file a part; videos that were refused have no rows."""
    parts: dict[str, list[SpottedInterval]] = {}
    for video in videos:
        rows = parts.setdefault(video.part, [])
        if video.key not in found:
            continue
        subject = unpadded(video.subject)
        for one in found[video.key].intervals:
            emotion = one.hsta if one.hsta in _CHALLENGE else one.challenge_emotion
            rows.append(
                SpottedInterval(
                    video.name, video.number(one.start), video.number(one.end), "me",
                    emotion or "", subject,
                )
            )  # fmt: skip
    files = []
    for part, intervals in sorted(parts.items()):
        for form, write in (("spotting", write_spotting), ("recognised", write_recognised)):
            path = out / form / f"{part}_pred.csv"
            write(intervals, path)
            files.append(path)
    return files


_CHALLENGE = ("negative", "positive", "surprise")
