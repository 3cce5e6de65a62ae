"""Spot and name micro-expressions in a video of one's own with a trained run.

The video goes through the same steps as the run's test videos: motion features (its own faces are
found), the network of one fold or the mean of all folds, smoothing, threshold, peaks, vote. Several
runs may look at it, each with its own motion and at its own rate; see `models.predict.ensemble`.
Which frames are used, so that they follow each other as in training, is said in
`models.predict.pace`.

Written into the target folder: `prediction.json`, `intervals.csv`, `scores.csv`, `timeline.png` and
on request `overlay.mp4`. Frame numbers are 0-based and inclusive; seconds are given where the frame
rate is known. The threshold is relative to the video's own maximum: nearly every video gets at
least one interval, so a video without expressions gets a false one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import ConfigError, InputError
from data.frames import FrameSource
from data.own_video import OwnVideo, open_own
from data.stages.files import replacing
from data.stages.identity import stable_hash
from models.family import family_of
from models.me_tst.fold import TrainedMeTst, load_fold
from models.me_tst.training import predict
from models.predict.ensemble import Look, combined
from models.predict.findings import Curves, Prediction, Reals, SpottedInterval
from models.predict.pace import NEVER_SEEN, choose_frames, company, trained_on
from models.predict.pictures import DEFAULT_FPS, timeline, write_overlay
from models.runs.files import RunFiles, read_tables
from models.spotting import (
    CLASS_NAMES,
    NEUTRAL,
    decode,
    stitch,
    vote,
)
from models.targets import AUS, NONE, THRESHOLD

Progress = Callable[[float, str], None]

BATCH = 64


def predict_video(
    video: Path,
    run: RunFiles | Sequence[RunFiles],
    out: Path,
    *,
    fps: float | None = None,
    overlay: bool = False,
    fold: str | None = None,
    recogniser: RunFiles | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    own: OwnVideo | None = None,
) -> Prediction:
    """Spot micro-expressions in a video file or a folder of frames; writes into `out`.

    `run`: one run, or several whose curves are averaged. `fps` overrides or supplies the frame rate
    (folders have none). `fold` names one fold of the runs; by default all folds' scores are
    averaged. `recogniser`: an HSTA run that also names each spotted interval, beside the spotter's
    own vote. `own`: the video opened already. Raises `ConfigError` for a run that does not spot,
    `InputError` for an unreadable, too short or faceless video, or one slower than a run was
    trained at.
    """
    runs = spotting_runs(run)
    own = own or open_own(video, fps)
    folds = [_folds(one, fold) for one in runs]
    whom = [trained_on(one) for one in runs]
    used = [
        choose_frames(own, trained_rate(one), one.recipe.stage_config("motion").frame_skip)
        for one in runs
    ]
    first = used[0]
    unseen = (NEVER_SEEN,) if set(whom) == {"synthetic"} else ()
    notes = dict.fromkeys((*unseen, *(n for u in used for n in u.notes), *company(own.source)))
    with new_folder(out):
        counted = _Counted(own.source)
        seen: dict[str, tuple[npt.NDArray[np.float32], int]] = {}
        looks = []
        for one, members, frames in zip(runs, folds, used, strict=True):
            key = stable_hash([str(part) for part in _options(one)], frames.frames.tolist())
            if key not in seen:
                seen[key] = _motion(counted, one, frames.frames, video.name, progress)
            features = seen[key][0]
            looks.append(_look(features, frames.frames, members, one, device))
        features, missing = next(iter(seen.values()))
        decode_by = runs[0].recipe.decode
        curves, k_p = combined(looks, decode_by.p)
        intervals = _intervals(curves, k_p, own.seconds, decode_by.p)
        if recogniser is not None:
            intervals = _recognised(intervals, own, recogniser, device)
        names = [f.fold if len(runs) == 1 else f"{r.folder.name}/{f.fold}"
                 for r, members in zip(runs, folds, strict=True) for f in members]  # fmt: skip
        prediction = Prediction(
            video=video.name,
            folds=tuple(names),
            num_frames=len(own.source),
            fps=own.fps,
            frame_skip=first.skip,
            k_p=k_p,
            view_fps=first.fps,
            windows_without_face=missing,
            num_windows=len(features),
            unreadable_frames=len(counted.unreadable),
            intervals=tuple(intervals),
            trained_on=_together(whom),
            notes=tuple(notes),
        )
        return _write(prediction, curves, own.source, out, overlay)


def _together(whom: Sequence[str]) -> str:
    """Whom several runs were trained on, as one of `trained_on`'s words."""
    kinds = set(whom)
    return kinds.pop() if len(kinds) == 1 else "unknown" if "unknown" in kinds else "both"


def spotting_runs(run: RunFiles | Sequence[RunFiles]) -> list[RunFiles]:
    """The runs as a list. Raises ConfigError for none, and for one that does not spot."""
    runs = [run] if isinstance(run, RunFiles) else list(run)
    if not runs:
        raise ConfigError("--run", expected="at least one trained run", got="none")
    for one in runs:
        if not family_of(one.recipe).spots:
            raise ConfigError(
                f"run {one.folder.name}",
                expected="a run of a network that spots, such as ME-TST or ME-TST+",
                got=one.recipe.network_name,
            )
    return runs


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Make the folder of the results before the work, and take it away again if that fails.

    Raises `InputError` (`not_writable`) where it cannot be made.
    """
    made = [p for p in (out, *out.parents) if not p.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            str(out),
            expected="a folder that can be made or written to",
            got=error.strerror or str(error),
            code="not_writable",
        ) from error
    try:
        yield
    except BaseException:
        for folder in made:  # the innermost first; one that got something is kept
            try:
                folder.rmdir()
            except OSError:
                break
        raise


def trained_rate(run: RunFiles) -> float | None:
    """Frames per second that the run's networks were trained at: the videos' rate over the skip."""
    rate = float(read_tables(run.workspace, run.recipe.data, "videos").fps.median())
    return rate / run.recipe.stage_config("motion").frame_skip if rate > 0 else None


def _folds(run: RunFiles, name: str | None) -> list[TrainedMeTst]:
    folders = [f for f in run.folds if name in (None, f.name)]
    if not folders:
        raise ConfigError(
            f"run {run.folder.name}, fold",
            expected=f"one of {', '.join(f.name for f in run.folds) or 'its trained folds'}",
            got=str(name),
        )
    return [load_fold(folder) for folder in folders]


class _Counted:
    """Frames as they are read, and which of them could not be; several runs may read one."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.read: set[int] = set()
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def iter(self, indices: Iterable[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None]]:
        """As `FrameSource.iter`."""
        for index, image in self._source.iter(indices):
            self.read.add(index)
            if image is None:
                self.unreadable.add(index)
            yield index, image


def _motion(
    source: _Counted,
    run: RunFiles,
    view: npt.NDArray[np.int64],
    who: str,
    progress: Progress | None,
) -> tuple[npt.NDArray[np.float32], int]:
    """Features (W, C, k) of the view's frames, and how many windows are without a face."""
    from data.motion.features import NO_FACE, dlib_face, motion_features

    options, landmark_model = _options(run)
    find_face = dlib_face(landmark_model)
    shown = _reported(view.tolist(), progress)
    motion = motion_features(source, shown, options, find_face, who=who)
    if source.unreadable == source.read:
        raise InputError(
            who,
            expected="frames that can be decoded",
            got=f"none of {len(source.read)}",
            code="unreadable_video",
        )
    missing = int((motion.status == NO_FACE).sum())
    if missing == len(motion.status):
        raise InputError(
            who,
            expected="a frontal face",
            got=f"none in any of {missing} windows",
            todo="The face must be upright, lit and at least about 80 px wide.",
            code="no_face",
        )
    return motion.features, missing


def _options(run: RunFiles) -> tuple[Any, Any]:
    """How the run's motion features are made, and its landmark model."""
    from data.motion.features import MotionOptions

    config = run.recipe.stage_config("motion")
    options = MotionOptions(
        k=config.k, roi_set=config.roi_set, flow=config.flow, clamp=config.clamp
    )
    return options, config.landmark_model


def _reported(frames: Sequence[int], progress: Progress | None) -> Iterable[int]:
    for number, frame in enumerate(frames):
        if progress is not None and number % 50 == 0:
            progress(number / len(frames), f"frame {frame}")
        yield frame


def _look(
    features: npt.NDArray[np.float32],
    view: npt.NDArray[np.int64],
    folds: Sequence[TrainedMeTst],
    run: RunFiles,
    device: str,
) -> Look:
    """The mean curves of a run's folds, and the median of their half-widths."""
    k, settings = run.recipe.stage_config("motion").k, run.recipe.decode
    outputs = [predict(f.network, features, BATCH, device) for f in folds]
    spot, logits = (np.mean(part, axis=0) for part in zip(*outputs, strict=True))
    score = stitch(spot, [len(spot)], k)[0].astype(np.float64)
    stitched = stitch(logits, [len(spot)], k)[0]
    fixed = settings.k_p if isinstance(settings.k_p, int) else None
    k_p = fixed or int(np.median([f.k_p for f in folds]))
    return Look(score, stitched, view[: len(score)], k_p, settings.strategy)


def _intervals(curves: Curves, k_p: int, seconds: Reals, p: float) -> list[SpottedInterval]:
    """Decoded intervals without those voted neutral, clipped to the video."""
    last = len(curves.frames) - 1
    found = []
    for start, end, peak in decode(curves.score, k_p, p):
        voted = vote(curves.classes, start, end)
        if voted == NEUTRAL:
            continue
        own = [int(curves.frames[min(max(0, t), last)]) for t in (start, end, peak)]
        times = [None if np.isnan(seconds[f]) else round(float(seconds[f]), 4) for f in own]
        found.append(
            SpottedInterval(
                start=own[0],
                end=own[1],
                peak=own[2],
                emotion=CLASS_NAMES[voted],
                challenge_emotion=CLASS_NAMES[vote(curves.three, start, end)],
                score=round(float(curves.smoothed[peak]), 6),
                start_s=times[0],
                end_s=times[1],
                peak_s=times[2],
            )
        )
    return found


def _recognised(
    intervals: Sequence[SpottedInterval], own: OwnVideo, run: RunFiles, device: str
) -> list[SpottedInterval]:
    """The intervals with HSTA's most probable class; None where its preprocessing failed."""
    from models.predict.recognise import recognise

    frames = list(own.files) or len(own.source)
    spans = [(one.start, one.end) for one in intervals]
    found = recognise(own.path, frames, spans, run, fps=own.fps or DEFAULT_FPS, device=device)
    named = []
    for one, chances in zip(intervals, found, strict=True):
        if chances is not None:
            best = max(chances, key=lambda name: chances[name])
            named_as = best
            if run.recipe.labels == AUS:
                named_as = "+".join(n for n in chances if chances[n] >= THRESHOLD) or NONE
            one = replace(one, hsta=named_as, hsta_probability=round(chances[best], 6))
        named.append(one)
    return named


def _write(
    prediction: Prediction, curves: Curves, source: FrameSource, out: Path, overlay: bool
) -> Prediction:
    names = ["prediction.json", "intervals.csv", "scores.csv", "timeline.png"]
    with replacing(out / "intervals.csv") as path:
        rows = [list(asdict(one).values()) for one in prediction.intervals]
        _csv(path, list(SpottedInterval.__dataclass_fields__), rows)
    with replacing(out / "scores.csv") as path:
        _csv(path, ["frame", "score", "smoothed", "class"], _score_rows(curves))
    with replacing(out / "timeline.png") as path:
        path.write_bytes(timeline(prediction, curves))
    if overlay:
        names.append("overlay.mp4")
        write_overlay(prediction, curves, source, out / "overlay.mp4")
    files = tuple(str(out / name) for name in names)
    result = Prediction(**{**vars(prediction), "files": files})
    with replacing(out / "prediction.json") as path:
        path.write_text(json.dumps(result.to_json(), indent=1))
    return result


def _score_rows(curves: Curves) -> Iterable[list[Any]]:
    for frame, score, smoothed, voted in zip(
        curves.frames, curves.score, curves.smoothed, curves.classes, strict=True
    ):
        yield [int(frame), f"{score:.6f}", f"{smoothed:.6f}", CLASS_NAMES[voted]]


def _csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
