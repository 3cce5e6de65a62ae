"""The truth file of a synthetic dataset, and what can be computed from it.

`truth.json` holds the parameters, the people (landmarks), and per video the labels, the activation
curves, head pose, gain and lid closure. Dense fields are not stored: they are recomputed on
demand. All indices are 0-based positions in the video's released frames, before any planted
defect removed a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import DatasetError
from data.synthetic.action_units import objective_class
from data.synthetic.geometry import Head
from data.synthetic.layouts.base import PlacedVideo, PlannedActionUnit, PlannedEvent, Planted
from data.synthetic.render import expression_field
from data.synthetic.script import Script
from data.synthetic.subjects import Subject, make_subject
from data.synthetic.warp import Floats

TRUTH_FILE = "truth.json"
_MOVES = ("nested_folder", "misplaced_video", "upper_case_video")  # `old` and `new` are folders


def truth_record(
    key: str,
    preset: str,
    parameters: dict[str, Any],
    people: Sequence[Subject],
    scripts: Sequence[Script],
    videos: Sequence[PlacedVideo],
    planted: Sequence[Planted],
) -> dict[str, Any]:
    """The content of `truth.json`, plain JSON types only."""
    moved = {str(p.old): str(p.new) for p in planted if p.kind in _MOVES}
    upper = {str(p.old): p.who for p in planted if p.kind == "upper_case_video"}
    names = {v.place.video: upper.get(v.place.folder, v.place.video) for v in videos}
    return {
        "generator": "apexflow-synthetic",  # adapters look for it: drawn faces may be shown
        "key": key,
        "preset": preset,
        "parameters": parameters,
        "subjects": [
            {
                "ordinal": s.ordinal,
                "ipd": round(s.ipd, 4),
                "mirrored": s.mirrored,
                "expressivity": round(s.expressivity, 5),
                "landmarks": np.round(s.landmarks, 3).tolist(),
            }
            for s in people
        ],
        "videos": [
            _video_record(s, v, names[v.place.video], moved)
            for s, v in zip(scripts, videos, strict=True)
        ],
        "defects": [_defect_record(p, names, moved) for p in planted],
    }


def _moved(path: str, moved: dict[str, str]) -> str:
    """`path` after the planted moves of folders, one after the other."""
    for old, new in moved.items():
        if path == old or path.startswith(f"{old}/"):
            path = f"{new}{path[len(old) :]}"
    return path


def _defect_record(
    planted: Planted, names: dict[str, str], moved: dict[str, str]
) -> dict[str, Any]:
    record = dict(vars(planted))
    if planted.kind in _MOVES and planted.kind != "nested_folder":
        record["new"] = _moved(str(planted.new), moved)
    if not planted.table and planted.kind not in _MOVES:
        record["who"] = names.get(planted.who) or _moved(planted.who, moved)
        if isinstance(planted.old, str):
            record["old"] = _moved(planted.old, moved)
    return record


def _video_record(
    script: Script, video: PlacedVideo, name: str, moved: dict[str, str]
) -> dict[str, Any]:
    plan, place, released = video.plan, video.place, video.released
    part = slice(released.start, released.stop)
    curves = iter(script.track.curves[:, part].tolist())
    return {
        "video": name,
        "subject": place.subject,
        "ordinal": plan.subject,
        "camera": plan.camera.name,
        "folder": _moved(place.folder, moved),
        "fps": plan.fps,
        "size": list(plan.size),
        "colour": plan.camera.colour,
        "frames": len(released),
        "first_number": video.number(released.start),
        "first_file": video.file_name(released.start),
        "extra": place.extra,
        "events": [
            _event_record(e, released.start, video, None if e.kind == "blink" else next(curves))
            for e in plan.events
            if e.kind != "blink" or (e.offset >= released.start and e.onset < released.stop)
        ],
        "pose": script.track.pose[part].tolist(),
        "gain": script.track.gain[part].tolist(),
        "blink": script.track.blink[part].tolist(),
        **_speech_record(script, part),
    }


def _speech_record(script: Script, part: slice) -> dict[str, Any]:
    """The speaking mouth, where there is one."""
    if script.speech is None:
        return {}
    units = [vars(u) for u in script.speech.units]
    return {"talk": {"units": units, "curve": script.track.talk[part].tolist()}}


def _event_record(
    event: PlannedEvent, start: int, video: PlacedVideo, curve: list[float] | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"type": event.kind}
    event = video.cut(event)
    for name in ("onset", "apex_start", "apex", "apex_end", "offset"):
        record[name] = getattr(event, name) - start
    record["apex_centre"] = round(event.apex_centre - start, 3)
    for name in ("onset", "apex", "offset"):
        record[f"{name}_number"] = video.number(getattr(event, name))
    record["emotion"] = event.emotion
    record["aus"] = event.aus
    record["objective_class"] = objective_class(event.aus) if event.units else None
    record["units"] = [vars(u) for u in event.units]
    record["curve"] = curve
    return record


class VideoTruth:
    """One video's truth. Frames are 0-based indices of the released frames.

    `record` is the plain dictionary of `truth.json`; `pose` (T, 6) as `dynamics.POSE_FIELDS`
    (px, degrees, relative scale); `gain`, `blink` (T,); `landmarks` (68, 2) of the neutral,
    unmoved face; `ipd` px.
    """

    def __init__(
        self, record: dict[str, Any], subject: Subject, shading: float, *, solid: bool = False
    ) -> None:
        self.record = record
        self.pose: Floats = np.asarray(record["pose"], np.float64)
        self.gain: Floats = np.asarray(record["gain"], np.float64)
        self.blink: Floats = np.asarray(record["blink"], np.float64)
        self.landmarks = subject.landmarks
        self.ipd = subject.ipd
        self.expressions = [e for e in record["events"] if e["type"] != "blink"]
        self._size = tuple(record["size"])
        self._head = Head.of(subject.landmarks, subject.ipd, self._size, solid=solid)
        box = self._head.box()
        self._fields = [expression_field(subject, box, _event(e), shading)
                        for e in self.expressions]  # fmt: skip
        self._curves = [self.curve(i) for i in range(len(self.expressions))]
        if talk := record.get("talk"):
            speech = _event(_NO_EVENT | {"units": talk["units"]})
            self._fields.append(expression_field(subject, box, speech, shading))
            self._curves.append(np.asarray(talk["curve"], np.float64))

    def curve(self, expression: int) -> Floats:
        """Activation s(t) in [0, 1], (T,), of the expression with that ordinal in the video."""
        return np.asarray(self.expressions[expression]["curve"], np.float64)

    def displacement(self, frame: int) -> NDArray[np.float32]:
        """u at every pixel of the neutral, unmoved face: (H, W, 2) px, (x right, y down)."""
        width, height = self._size
        out = np.zeros((height, width, 2), np.float32)
        for curve, field in zip(self._curves, self._fields, strict=True):
            x, y, w, h = field.box
            out[y : y + h, x : x + w] += np.float32(curve[frame]) * field.u
        return out

    def project(self, points: Floats, frame: int) -> Floats:
        """Where points (..., 2) of the neutral, unmoved face are seen in `frame`."""
        flat = np.asarray(points, np.float64).reshape(-1, 2)
        moved = flat + self._read(self.displacement(frame), flat)
        seen = moved + self._head.shift(moved, self.pose[frame])
        return np.asarray(seen.reshape(np.shape(points)))

    def unproject(self, points: Floats, frame: int, steps: int = 25) -> Floats:
        """Inverse of `project`: the neutral points seen at `points` (..., 2) in `frame`."""
        flat = np.asarray(points, np.float64).reshape(-1, 2)
        moved = self._head.undo(flat, self.pose[frame], steps=8)
        u = self.displacement(frame)
        x = moved
        for _ in range(steps):
            x = moved - self._read(u, x)
        return np.asarray(x.reshape(np.shape(points)))

    def flow(self, start: int, stop: int) -> NDArray[np.float32]:
        """True forward flow (H, W, 2) px from frame `start` to `stop`, at pixels of `start`.

        flow = project_stop(X) - project_start(X). Lids closing in a blink are not part of it.
        """
        width, height = self._size
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2)
        neutral = self.unproject(grid.astype(np.float64), start)
        return np.asarray(self.project(neutral, stop) - grid, np.float32)

    @staticmethod
    def _read(field: NDArray[np.float32], points: Floats) -> Floats:
        at = points.astype(np.float32)[None]
        limit = 32_000  # cv2.remap counts columns in 16 bits
        parts = [
            cv2.remap(field, at[:, i : i + limit], None, cv2.INTER_LINEAR)[0]
            for i in range(0, at.shape[1], limit)
        ]
        return np.asarray(np.concatenate(parts), np.float64)


@dataclass(frozen=True)
class Truth:
    """A dataset's truth: `record` is the whole of `truth.json`."""

    root: Path
    record: dict[str, Any]

    @property
    def videos(self) -> list[str]:
        """Names of all videos, in the order of the file."""
        return [str(v["video"]) for v in self.record["videos"]]

    @property
    def defects(self) -> list[dict[str, Any]]:
        """The planted defects: kind, who, table, column, old, new."""
        return list(self.record["defects"])

    def video(self, name: str) -> VideoTruth:
        """The truth of one video by its name; `DatasetError` if there is none of that name."""
        parameters = self.record["parameters"]
        for record in self.record["videos"]:
            if record["video"] == name:
                subject = make_subject(
                    parameters["people"], record["ordinal"], tuple(parameters["size"]),
                    parameters["expressivity"],
                )  # fmt: skip
                solid = parameters.get("turn", 0.0) > 0
                return VideoTruth(record, subject, parameters["shading"], solid=solid)
        raise DatasetError(
            str(self.root), expected="a video of the truth file", got=repr(name),
            todo=f"Known: {', '.join(self.videos[:5])}, ...",
        )  # fmt: skip


def load_truth(out: Path | str) -> Truth:
    """Read `truth.json` of a synthetic dataset; `DatasetError` where there is none."""
    path = Path(out) / TRUTH_FILE
    if not path.is_file():
        raise DatasetError(
            str(path), expected="the truth file of a synthetic dataset", got="no such file",
            todo="Write the dataset with data.synthetic.write_dataset; only whole ones have it.",
        )  # fmt: skip
    return Truth(Path(out), json.loads(path.read_text(encoding="utf-8")))


_NO_EVENT = {"type": "talk", "emotion": None} | dict.fromkeys(
    ("onset", "apex_start", "apex_end", "apex_centre", "offset"), 0
)


def _event(record: dict[str, Any]) -> PlannedEvent:
    return PlannedEvent(
        record["type"], record["onset"], record["apex_start"], record["apex_end"],
        record["apex_centre"], record["offset"], record["emotion"],
        tuple(PlannedActionUnit(**u) for u in record["units"]),
    )  # fmt: skip
