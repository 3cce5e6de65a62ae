"""Synthetic datasets measured: rendering speed, faces found, and how hard recognition is.

    python tests/benchmarks/bench_synthetic.py speed|faces|recognition [--preset P] [--json PATH]

`recognition` renders onset and apex of every clip, takes the mean flow on an 8 x 8 grid of a
128-pixel face crop as features and scores logistic regression by leave-one-subject-out UF1, for the
true field of the expression alone, the true motion with the head's, and TV-L1 between the frames
as they are and after the true head pose was undone (what perfect alignment would give).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

from data.synthetic.geometry import Head
from data.synthetic.layouts import get_layout
from data.synthetic.presets import resolve
from data.synthetic.render import Renderer
from data.synthetic.rng import generator
from data.synthetic.script import Script, write_scripts
from data.synthetic.subjects import Subject, make_subject

Rows = list[dict[str, Any]]
CROP = 128


def plan(layout: str, preset: str, seed: int, **overrides: Any) -> tuple[Any, list[Any], list[Any]]:
    """Preset, people and scripts of a dataset, without writing it."""
    house = get_layout(layout)
    values = resolve(house.kind, preset, overrides)
    people = [
        make_subject(house.population(seed), i, values.size, values.expressivity)
        for i in range(values.subjects)
    ]
    return values, people, write_scripts(house, values, seed, people)


def speed(preset: str, seed: int) -> Rows:
    """Frames per second of CPU time, one thread, picture made and encoded."""
    rows: Rows = []
    for layout, name, colour in (
        ("casme2", "tiny", True), ("casme2", "default", True), ("casme2", "default", False),
        ("samm_lv", "tiny", False), ("samm_lv", "default", False),
    ):  # fmt: skip
        values, people, scripts = plan(layout, name, seed, subjects=1, clips=2)
        count, start = 0, time.process_time()
        for script in scripts:
            renderer = Renderer(
                people[0], script, colour=colour, noise=values.noise, shading=values.shading
            )
            for image in renderer.frames(range(min(script.plan.frames, 300)), generator(seed)):
                cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
                count += 1
        rate = count / (time.process_time() - start)
        size = "x".join(map(str, values.size))
        rows.append({"layout": layout, "preset": name, "size": size,
                     "colour": colour, "frames_per_second": round(rate)})  # fmt: skip
    return rows


def faces(preset: str, seed: int) -> Rows:
    """Share of frames in which dlib's detector finds exactly one face, without upsampling."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    rows: Rows = []
    for layout in ("casme2", "samm_lv"):
        values, people, scripts = plan(layout, preset, seed)
        counts = []
        for script in scripts:
            renderer = Renderer(
                people[script.plan.subject], script,
                colour=False, noise=values.noise, shading=values.shading,
            )  # fmt: skip
            for frame in range(0, script.plan.frames, 40):
                image = next(renderer.frames(range(frame, frame + 1), generator(seed, frame)))
                counts.append(len(detector(np.ascontiguousarray(image), 0)))
        one = float(np.mean(np.array(counts) == 1))
        rows.append({"layout": layout, "preset": preset, "frames": len(counts), "one_face": one})
    return rows


def recognition(preset: str, seed: int) -> Rows:
    """Leave-one-subject-out UF1 of simple features, per source of motion."""
    values, people, scripts = plan("casme2", preset, seed)
    solver = cv2.optflow.createOptFlow_DualTVL1()
    sources: dict[str, list[Any]] = {k: [] for k in ("true expression", "TV-L1, pose undone",
                                                     "TV-L1, as filmed")}  # fmt: skip
    labels, groups, peaks = [], [], []
    for script in scripts:
        event = script.plan.expressions[0]
        if event.emotion not in ("happiness", "disgust", "surprise", "repression", "others"):
            continue
        person = people[script.plan.subject]
        renderer = Renderer(
            person, script, colour=False, noise=values.noise, shading=values.shading
        )
        onset, apex = (
            next(renderer.frames(range(k, k + 1), generator(seed, script.plan.number, k)))
            for k in (event.onset, event.apex)
        )
        box = _crop_box(person)
        field = np.zeros((*onset.shape, 2), np.float32)
        x, y, w, h = renderer._fields[0].box
        field[y : y + h, x : x + w] = renderer._fields[0].u
        sources["true expression"].append(_grid(_crop(field, box) * (CROP / box[2])))
        sources["TV-L1, as filmed"].append(_grid(_flow(solver, onset, apex, box)))
        still = [_undo(person, script, f, k) for f, k in ((onset, event.onset), (apex, event.apex))]
        sources["TV-L1, pose undone"].append(_grid(_flow(solver, *still, box)))
        labels.append(event.emotion)
        groups.append(script.plan.subject)
        peaks.append(float(np.abs(field).max()))
    rows: Rows = []
    for name, features in sources.items():
        uf1, accuracy = _leave_one_subject_out(np.array(features), labels, groups)
        rows.append({
            "preset": preset, "clips": len(labels), "median_peak_px": round(np.median(peaks), 2),
            "features": name, "UF1": round(uf1, 3), "accuracy": round(accuracy, 3),
            "majority": round(max(map(labels.count, labels)) / len(labels), 3),
        })  # fmt: skip
    return rows


def _crop_box(person: Subject) -> tuple[int, int, int]:
    side = round(2.3 * person.ipd)
    x, y = person.landmarks[27:36].mean(axis=0) - side / 2
    return int(x), int(y), side


def _crop(image: Any, box: tuple[int, int, int]) -> Any:
    x, y, side = box
    part = image[max(y, 0) : y + side, max(x, 0) : x + side]
    return cv2.resize(part, (CROP, CROP), interpolation=cv2.INTER_AREA)


def _flow(solver: Any, first: Any, second: Any, box: tuple[int, int, int]) -> Any:
    return solver.calc(_crop(first, box), _crop(second, box), None)


def _undo(person: Subject, script: Script, image: Any, frame: int) -> Any:
    """The frame as seen with the head at rest."""
    height, width = image.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float64)
    head = Head.of(person.landmarks, person.ipd, (width, height))
    at = (grid + head.shift(grid, script.track.pose[frame])).astype(np.float32)
    return cv2.remap(image, at, None, cv2.INTER_CUBIC)


def _grid(flow: Any) -> Any:
    return cv2.resize(flow, (8, 8), interpolation=cv2.INTER_AREA).ravel()


def _leave_one_subject_out(
    features: Any, labels: list[str], groups: list[int]
) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    guess = cross_val_predict(model, features, labels, groups=groups, cv=LeaveOneGroupOut())
    return f1_score(labels, guess, average="macro"), accuracy_score(labels, guess)


def main(argv: list[str] | None = None) -> int:
    """Run one measurement, print its table, optionally write it as JSON."""
    tasks = {"speed": speed, "faces": faces, "recognition": recognition}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tasks)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    rows = tasks[options.what](options.preset, options.seed)
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(str(v) for v in row.values()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
