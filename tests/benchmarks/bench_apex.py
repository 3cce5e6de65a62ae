"""Apex spotting measured against the true plateau centre, beside the middle-frame rule.

    python -m tests.benchmarks.bench_apex [--setting normal|default] [--seed N] [--subjects 16]
                                          [--clips 10] [--methods flow_peak,…] [--json PATH]

A synthetic CASME II is written at 100 frames/s (JPEG), ingested, aligned and spotted by the real
stages; labels are ignored in scoring. `normal`: typical peak 1.5 px, normal head motion, noise 1.5;
`default`: the generator's default preset (weaker, double head motion, noise 2, confounding action
units). `plain_peak` is the usual recipe: largest tenth of the flow magnitude in brows and mouth
less the nose's, end frame scaled linearly subtracted, five-frame mean, peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

from data.align.settings import AlignConfig
from data.apex import flow_peak as apex_flow
from data.apex import spotting as apex
from data.apex.clip import every_frame, smoothed
from data.apex.settings import ApexConfig
from data.registration.settings import RegistrationConfig
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.workspace import Workspace
from data.synthetic import load_truth, write_dataset
from tests.fakes.steps import ingest

SETTINGS: dict[str, dict[str, Any]] = {
    "normal": {"amplitude": 1.5, "head": 1.0, "noise": 1.5, "confounder": 0.3},
    "default": {},
}
LAYOUT, TOKEN = "casme2", "bench"


def plain_peak(clip: apex.Clip) -> apex.Spotted:
    """The usual flow peak, for comparison."""
    size = clip.crops.shape[1]
    mask, nose = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    points = np.round(clip.landmarks).astype(np.int32)
    for part in (slice(17, 22), slice(22, 27), slice(48, 60)):
        cv2.fillConvexPoly(mask, cv2.convexHull(points[part]), 1)
    reach = 2 * round(0.18 * clip.ipd) + 1
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    mask &= apex_flow.face_mask(clip).astype(np.uint8)
    cv2.fillConvexPoly(nose, cv2.convexHull(points[27:36]), 1)
    fields = apex_flow.onset_flow(clip.crops)
    inside = fields[:, mask > 0] - np.median(fields[:, nose > 0], axis=1)[:, None]
    inside -= (clip.times / (clip.length - 1)).astype(np.float32)[:, None, None] * inside[-1].copy()
    curve = smoothed(apex_flow._top_magnitude(inside), clip.times, clip.smooth)
    low, high = clip.limits
    allowed = np.flatnonzero((clip.times >= low) & (clip.times <= high))
    best = allowed[int(np.argmax(curve[allowed]))]
    return apex.Spotted(int(clip.times[best]), 1.0, every_frame(curve, clip))


def prepare(folder: Path, options: argparse.Namespace) -> tuple[StageInputs, dict[str, Any]]:
    """Write, ingest and align; returns the stage inputs and the truth of each event."""
    root = write_dataset(
        LAYOUT, folder / "raw", preset="default", seed=options.seed, workers=options.workers,
        fps=100.0, subjects=options.subjects, clips=options.clips, **SETTINGS[options.setting],
    )  # fmt: skip
    workspace = Workspace(folder / "ws")
    configs = {
        "align": AlignConfig(),
        "registration": RegistrationConfig(),
        "apex": ApexConfig(),
    }
    ingest(workspace, LAYOUT, root)
    inputs = StageInputs(workspace, LAYOUT, root, configs)
    run_stage(inputs, "align", TOKEN)
    run_stage(inputs, "registration", TOKEN)
    truth = {
        video["video"]: event
        for video in load_truth(root).record["videos"]
        for event in video["events"]
        if event["type"] == "micro"
    }
    return inputs, truth


def score(name: str, found: dict[str, float], truth: dict[str, Any], cpu: float) -> dict[str, Any]:
    """Errors against the plateau centre, frames, beside those of the middle of the event."""
    errors = np.array([found[v] - truth[v]["apex_centre"] for v in found])
    marks = [truth[v] for v in found]
    middle = np.array([(m["onset"] + m["offset"]) / 2 - m["apex_centre"] for m in marks])
    return {
        "method": name,
        "events": len(errors),
        "mae": round(float(np.abs(errors).mean()), 2),
        "median": round(float(np.median(np.abs(errors))), 2),
        "within_5_%": round(100 * float((np.abs(errors) <= 5).mean()), 1),
        "bias": round(float(errors.mean()), 2),
        "times_middle": round(float(np.abs(errors).mean() / np.abs(middle).mean()), 2),
        "events_per_min": round(60 * len(errors) / cpu) if cpu else None,
    }


def spotted_frames(inputs: StageInputs) -> dict[str, float]:
    """Spotted frame of every event, from the stage's own table (label + stated error)."""
    table = inputs.store("apex").table()
    frames = table["label_apex"] + table["error_frames"]
    return dict(zip(table["video"], frames.astype(float), strict=True))


def measure(inputs: StageInputs, truth: dict[str, Any], methods: list[str]) -> list[dict[str, Any]]:
    """A row per method; `plain_peak` runs through the same stage in place of flow_peak."""
    rows = []
    own = apex_flow.flow_peak
    for method in methods:
        apex_flow.flow_peak = plain_peak if method == "plain_peak" else own
        used = "flow_peak" if method == "plain_peak" else method
        configs = {**inputs.configs, "apex": ApexConfig(method=used)}
        own_inputs = StageInputs(inputs.workspace, LAYOUT, inputs.root, configs)
        start = time.process_time()
        run_stage(own_inputs, "apex", TOKEN, force=True)
        seconds = time.process_time() - start
        rows.append(score(method, spotted_frames(own_inputs), truth, seconds))
    apex_flow.flow_peak = own
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--setting", choices=list(SETTINGS), default="normal")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--methods", default="flow_peak,plain_peak,lbp,frequency,middle")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        inputs, truth = prepare(Path(folder), options)
        rows = measure(inputs, truth, options.methods.split(","))
    print(f"setting {options.setting}, seed {options.seed}, 100 frames/s")
    print("method      events   MAE  median  <=5 %   bias  x middle  events/min/core")
    for row in rows:
        print(
            f"{row['method']:11s} {row['events']:6d} {row['mae']:5.2f} {row['median']:7.2f}"
            f" {row['within_5_%']:6.1f} {row['bias']:+6.2f} {row['times_middle']:9.2f}"
            f" {row['events_per_min']:10d}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
