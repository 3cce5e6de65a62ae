"""Plant known micro-expressions into quiet stretches of real recordings; a csv dataset with truth.

OUT/manifest.csv                    one row an event, as layout `csv` reads it
OUT/planted/NAME/000001.png ...     the recording with its planted events
OUT/twin/NAME/000001.png ...        on request the same frames unplanted, with the same events
OUT/truth.json                      what was planted where; written last: its presence means whole

Frames are lossless; head motion, noise and compression are the recording's own. What people do by
themselves at the same moment is in the twin, and can be subtracted.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import ConfigError, DatasetError
from data.faces import Array, FaceFinder, face_finder, interpupil
from data.frames import FrameSource
from data.inject.stretches import landmarks_over, look_over, quiet_stretches
from data.own_video import open_own
from data.recordings import Recordings
from data.stages.workspace import Workspace
from data.synthetic.real_frames import (
    PlantedField,
    activation,
    parse_units,
    plant,
    planted_field,
)
from data.synthetic.rng import generator

TOOL, TRUTH_FILE, TWIN = "apexflow-inject", "truth.json", "~twin"
_MARKER = "_inject.partial"
COLUMNS = (
    *("subject", "path", "fps", "video", "kind", "show_faces"),
    *("event", "type", "onset", "apex", "offset", "aus", "emotion"),
)
EMOTIONS = {"1+2": "surprise", "12": "happiness", "4": "anger", "9": "disgust", "15": "sadness"}
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class InjectOptions:
    """How to plant. Amplitudes in the frame's own pixels, the largest displacement of a field."""

    amplitudes: tuple[float, ...] = (0.3, 0.5, 0.8, 1.2, 2.0, 3.0)
    units: tuple[str, ...] = tuple(EMOTIONS)
    events: int = 6  # for each recording, where it has as many quiet stretches
    seconds: float = 0.5  # length of an event
    gap: float = 0.5  # seconds between events, and from the recording's ends
    most: float = 60.0  # seconds of each recording that are used, from its beginning
    twin: bool = False
    show_faces: bool = False
    fps: float | None = None
    seed: int = 0
    at: tuple[tuple[str, float], ...] = ()  # (recording, second of onset); empty: the quietest

    def __post_init__(self) -> None:
        for name in ("amplitudes", "units"):
            if not getattr(self, name):
                raise ConfigError(f"inject: {name}", expected="at least one", got="none")
        if min(self.amplitudes) <= 0 or not np.isfinite(self.amplitudes).all():
            raise ConfigError("inject: amplitudes", expected="pixels > 0", got=str(self.amplitudes))
        for name in ("events", "seconds", "most"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"inject: {name}", expected="> 0", got=str(getattr(self, name)))
        for word in self.units:
            parse_units(word)


@dataclass(frozen=True)
class Recording:
    """One recording to plant into: `seconds` (T,) of its frames; `fps` their mean rate."""

    name: str
    subject: str
    origin: str
    source: FrameSource
    fps: float
    seconds: Array


@dataclass(frozen=True)
class _PlantedTruth:
    """One planted expression: per frame from `onset`, the activation and the field."""

    record: dict[str, Any]
    onset: int
    curve: Array
    fields: list[PlantedField]


def parse_places(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """(recording, second of onset) of words like "interview:12.4"; ConfigError for another form."""
    places = []
    for word in words:
        name, _, second = word.rpartition(":")
        try:
            places.append((name, float(second)))
        except ValueError as error:
            raise ConfigError(
                "--at", expected="NAME:SECOND, as interview:12.4", got=repr(word)
            ) from error
    return tuple(places)


def find_recordings(sources: Sequence[Path], fps: float | None) -> list[Recording]:
    """The recordings of video files, folders of frames, and workspaces (all their datasets).

    Raises InputError for a source that is none, ConfigError for a folder without a frame rate.
    """
    found: list[Recording] = []
    for path in sources:
        if path.is_dir() and _is_workspace(path):
            found += _of_workspace(Workspace(path))
            continue
        own = open_own(path, fps)
        if own.fps is None:
            raise ConfigError(
                f"frames per second of {path.name}",
                expected="--fps, for a folder of frames does not say",
                got="none",
            )
        found.append(Recording(path.stem, path.stem, str(path), own.source, own.fps, own.seconds))
    return _unique(found)


def _unique(found: list[Recording]) -> list[Recording]:
    """Recordings with names of their own: -2, -3 ... where two share one."""
    taken: dict[str, int] = {}
    out = []
    for one in found:
        count = taken[one.name] = taken.get(one.name, 0) + 1
        name = one.name if count == 1 else f"{one.name}-{count}"
        out.append(Recording(name, *list(vars(one).values())[1:]))
    return out


def _is_workspace(path: Path) -> bool:
    return any(path.glob("*/ingest/videos.parquet"))


def _of_workspace(workspace: Workspace) -> list[Recording]:
    found = []
    for dataset in workspace.datasets():
        recordings = Recordings(workspace, dataset)
        if not recordings.path("videos").exists():
            continue
        for video in recordings.videos.values():
            found.append(
                Recording(
                    video.id.replace("/", "_"),
                    video.subject,
                    f"{dataset}/{video.id}",
                    recordings.frames(video.id),
                    video.fps,
                    recordings.seconds(video.id),
                )
            )
    return found


def inject(
    sources: Sequence[Path],
    out: Path,
    options: InjectOptions,
    *,
    landmark_model: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Plant into every recording and write the dataset; returns the content of `truth.json`.

    A recording without a quiet stretch is left out and named under `left_out`. Raises DatasetError
    where OUT holds anything else than an earlier result, or where nothing could be planted.
    """
    recordings = find_recordings(sources, options.fps)
    finder = face_finder(landmark_model)
    _claim(out)
    videos, left_out, rows = [], [], []
    deck = _Deck(options)
    for recording in recordings:
        events, why = _plan(recording, options, deck, finder, progress)
        if not events:
            left_out.append({"video": recording.name, "origin": recording.origin, "why": why})
            continue
        size = _write(recording, events, out, options, progress)
        records = [event.record for event in events]
        rows += [_row(recording, record, options, twin=False) for record in records]
        if options.twin:
            rows += [_row(recording, record, options, twin=True) for record in records]
        videos.append(
            {
                "video": recording.name,
                "twin": f"{recording.name}{TWIN}" if options.twin else None,
                "origin": recording.origin,
                "fps": recording.fps,
                "size": list(size),
                "events": records,
            }
        )
    if not videos:
        shutil.rmtree(out)
        said = "; ".join(f"{one['video']}: {one['why']}" for one in left_out)
        raise DatasetError(
            str(out),
            expected="a recording with a quiet stretch",
            got=said or "no recording",
            todo="Choose the places yourself with --at NAME:SECOND.",
        )
    record = {
        "tool": TOOL,
        "version": 1,
        "options": {k: v for k, v in vars(options).items() if k != "at"},
        "videos": videos,
        "left_out": left_out,
    }
    _finish(out, rows, record)
    return record


class _Deck:
    """Deals amplitudes and action units: each round has every amplitude once, in random order.

    A unit follows an amplitude for as many rounds as there are units, so that all pairs come.
    """

    def __init__(self, options: InjectOptions) -> None:
        self._rng = generator(options.seed, "inject")
        self._amplitudes, self._units = options.amplitudes, options.units
        self._round = 0
        self._hand: list[tuple[float, str]] = []

    def deal(self) -> tuple[float, str]:
        if not self._hand:
            for at in self._rng.permutation(len(self._amplitudes)):
                unit = self._units[(int(at) + self._round) % len(self._units)]
                self._hand.append((self._amplitudes[int(at)], unit))
            self._round += 1
        return self._hand.pop()


def _plan(
    recording: Recording,
    options: InjectOptions,
    deck: _Deck,
    finder: FaceFinder,
    progress: Progress | None,
) -> tuple[list[_PlantedTruth], str]:
    """What is planted where in one recording; or none, and why."""
    seconds = recording.seconds[recording.seconds <= recording.seconds[0] + options.most]
    names = ("", recording.name, Path(recording.origin).name)
    given = [at for name, at in options.at if name in names]
    places: list[tuple[int, int, float]]
    if options.at:
        ends = [(at, at + options.seconds) for at in given if at + options.seconds <= seconds[-1]]
        places = [
            (int(np.searchsorted(seconds, a)), int(np.searchsorted(seconds, b)), np.nan)
            for a, b in ends
        ]
        if not places:
            return [], "no place was given that lies in it"
    else:

        def show(done: int, total: int) -> None:
            if progress is not None:
                progress(recording.name, done, total, "looking for quiet stretches")

        looks = look_over(recording.source, seconds, finder, show)
        places = quiet_stretches(looks, seconds, options.seconds, options.gap, options.events)
        if not places:
            seen = int(np.isfinite(looks.ipd).sum())
            return [], f"no quiet stretch (a face in {seen} of {len(looks.ipd)} looks)"
    size = recording.source.read(places[0][0]).shape[1::-1]
    events = []
    for number, (first, last, motion) in enumerate(places, start=1):
        amplitude, word = deck.deal()
        points = landmarks_over(recording.source, first, last, recording.seconds, finder)
        units = parse_units(word)
        fields = [planted_field(face, size, units, amplitude) for face in points]
        curve = activation(recording.seconds[first : last + 1])
        ipd = interpupil(points[0])
        events.append(
            _PlantedTruth(
                {
                    "event": f"{recording.name}#{number}",
                    "onset": first,
                    "apex": first + int(np.median(np.flatnonzero(curve >= curve.max() - 1e-3))),
                    "offset": last,
                    "aus": word,
                    "amplitude_px": amplitude,
                    "amplitude_ipd": round(amplitude / ipd, 6),
                    "ipd_px": round(ipd, 3),
                    "at_apex": round(float(curve.max()), 4),
                    "motion_ipd_s": None if np.isnan(motion) else round(motion, 5),
                    "curve": np.round(curve, 5).tolist(),
                    "landmarks": np.round(points[0], 3).tolist(),
                },
                first,
                curve,
                fields,
            )
        )
    return events, ""


def _write(
    recording: Recording,
    events: list[_PlantedTruth],
    out: Path,
    options: InjectOptions,
    progress: Progress | None,
) -> tuple[int, int]:
    """Frames of one recording, planted and on request plain; returns (width, height)."""
    count = int((recording.seconds <= recording.seconds[0] + options.most).sum())
    folders = {"planted": out / "planted" / recording.name}
    if options.twin:
        folders["twin"] = out / "twin" / recording.name
    for folder in folders.values():
        folder.mkdir(parents=True)
    size = (0, 0)
    for index, image in recording.source.iter(range(count), colour=True):
        if progress is not None:
            progress(recording.name, index + 1, count, "writing frames")
        if image is None:  # its number stays free: what the sheet says of the others holds
            continue
        size = (image.shape[1], image.shape[0])
        name = f"{index + 1:06d}.png"
        if options.twin:
            _save(folders["twin"] / name, image)
        for event in events:
            step = index - event.onset
            if 0 <= step < len(event.curve):
                image = plant(image, event.fields[step], float(event.curve[step]))
        _save(folders["planted"] / name, image)
    return size


def _save(path: Path, image: npt.NDArray[np.uint8]) -> None:
    good, data = cv2.imencode(
        ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    if not good:
        raise DatasetError(str(path), expected="a frame that can be written", got="none")
    path.write_bytes(bytes(data))


def _row(
    recording: Recording, record: dict[str, Any], options: InjectOptions, *, twin: bool
) -> dict[str, Any]:
    """A row of the manifest; file numbers begin at 1. The twin's events carry no label."""
    mark = TWIN if twin else ""
    return {
        "subject": recording.subject,
        "path": f"{'twin' if twin else 'planted'}/{recording.name}",
        "fps": recording.fps,
        "video": recording.name + mark,
        "kind": "long",
        "show_faces": int(options.show_faces),
        "event": record["event"] + mark,
        "type": "micro",
        **{name: record[name] + 1 for name in ("onset", "apex", "offset")},
        "aus": "" if twin else record["aus"],
        "emotion": "" if twin else EMOTIONS.get(record["aus"], ""),
    }


def read_truth(path: Path) -> dict[str, Any]:
    """The content of a `truth.json`, or of a folder's; DatasetError where there is none."""
    file = path / TRUTH_FILE if path.is_dir() else path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(str(file), expected="inject's truth file", got=str(error)) from error
    if not isinstance(record, dict) or record.get("tool") != TOOL:
        raise DatasetError(str(file), expected="inject's truth file", got="another JSON file")
    return record


def _claim(out: Path) -> None:
    """Make OUT an empty folder, never deleting what this module did not write."""
    content = list(out.iterdir()) if out.is_dir() else []
    if content and not (out / _MARKER).exists():
        try:
            read_truth(out)
        except DatasetError as error:
            raise DatasetError(
                str(out),
                expected="a new folder, or one that inject wrote",
                got=f"a folder with {len(content)} entries",
                todo="Choose another.",
            ) from error
    if out.exists() and not out.is_dir():
        raise DatasetError(str(out), expected="a folder", got="a file")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("being written\n", encoding="utf-8")
    for name in ("planted", "twin"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (TRUTH_FILE, "manifest.csv"):
        (out / name).unlink(missing_ok=True)


def _finish(out: Path, rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (out / "manifest.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    partial = out / f"{TRUTH_FILE}.partial"
    partial.write_text(json.dumps(record, separators=(",", ":"), default=list), encoding="utf-8")
    partial.replace(out / TRUTH_FILE)
    (out / _MARKER).unlink()


def summary(record: dict[str, Any]) -> str:
    """What was planted, a line a recording."""
    lines = []
    for video in record["videos"]:
        table = pd.DataFrame(video["events"])
        lines.append(
            f"{video['video']}: {len(table)} events, {table.ipd_px.median():.0f} px between the "
            f"pupils, {table.amplitude_px.min():g} to {table.amplitude_px.max():g} px"
        )
    lines += [f"{one['video']}: left out, {one['why']}" for one in record["left_out"]]
    return "\n".join(lines)
