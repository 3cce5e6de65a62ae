"""Spotting made visible: each test video's score and threshold over the annotated and predicted
intervals, from the folds' curves, decoded by the recipe's own protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.pictures.drawing import EMOTION_COLOURS, evenly
from models.report.figures import TimelineSpan, timeline_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.runs.files import RunFiles
    from models.scores.spotting import VideoCurves, VideoResult

MOST_VIDEOS = 24


@dataclass(frozen=True)
class Timeline:
    """One video drawn, and what happened in it in words."""

    figure: Figure
    caption: str


def note(run: RunFiles) -> str:
    """How the drawn score, threshold and hits were made."""
    decode = run.recipe.decode
    return (
        "The line is the smoothed score, shaded above its video's threshold. Filled intervals are "
        "annotated micro-expressions, and predictions that match one "
        f"(IoU ≥ {decode.iou:g}), in the colour of their emotion."
    )


def colour_key() -> list[tuple[str, str]]:
    """Emotions and their colours on a timeline."""
    return list(EMOTION_COLOURS.items())


def results_of(run: RunFiles) -> tuple[list[VideoResult], list[Any]]:
    """Every test video's intervals with their fate, and its smoothed score and threshold."""
    from models.me_tst.curves import read_curves
    from models.me_tst.fold import protocol_of
    from models.scores.spotting import evaluate, half_width_of, scored_videos, stitched
    from models.spotting import smooth, threshold

    recipe = run.recipe
    train: Any = recipe.train
    protocol = protocol_of(recipe.decode, train)
    paths = [fold / "curves.h5" for fold in run.folds]
    curves = [one for path in paths if path.exists() for one in read_curves(path)]
    curves = scored_videos(curves, protocol)
    if not curves:
        return [], []
    scores = []
    for one, (spot, _) in zip(curves, stitched(curves, protocol), strict=True):
        smoothed = smooth(spot, half_width_of(one, protocol))
        scores.append((smoothed, threshold(smoothed, protocol.p)))
    return evaluate(curves, protocol), scores


def timelines(run: RunFiles, most: int = MOST_VIDEOS) -> tuple[list[Timeline], int]:
    """Up to `most` videos, spread over all, those with events first in line; and how many exist."""
    results, scores = results_of(run)
    both = list(zip(results, scores, strict=True))
    eventful = [pair for pair in both if len(pair[0].curves.truth.intervals)]
    empty = [pair for pair in both if not len(pair[0].curves.truth.intervals)]
    shown = evenly(eventful, most)
    shown += evenly(empty, most - len(shown)) if len(shown) < most and empty else []
    return [_timeline(result, *score) for result, score in shown], len(both)


def _timeline(result: VideoResult, smoothed: Any, level: float) -> Timeline:
    curves = result.curves
    predicted = list(_predicted(result))
    hits = sum(item.kind == "hit" for item in predicted)
    events = len(curves.truth.intervals)
    text = f"{curves.dataset} · {curves.video}: {hits} of {events} events found"
    if false := len(predicted) - hits:
        text += f", {false} false alarm{'s' if false > 1 else ''}"
    fig = timeline_figure(
        smoothed,
        level,
        predicted,
        list(_annotated(curves)),
        seconds_per_frame=curves.seconds_per_frame,
    )
    return Timeline(fig, text)


def _predicted(result: VideoResult) -> Iterator[TimelineSpan]:
    from models.spotting import CLASS_NAMES

    for (start, end, _), voted, index in zip(
        result.intervals, result.votes, result.gt_index, strict=True
    ):
        kind = "hit" if index >= 0 else "false"
        yield TimelineSpan(float(start), float(end), CLASS_NAMES[voted], kind)


def _annotated(curves: VideoCurves) -> Iterator[TimelineSpan]:
    from models.me_tst.labels import EMOTIONS

    for start, end in curves.others:
        yield TimelineSpan(float(start), float(end), "", "macro")
    for (onset, _, offset), emotion in zip(
        curves.truth.intervals, curves.truth.emotions, strict=True
    ):
        yield TimelineSpan(float(onset), float(offset), EMOTIONS[emotion], "micro")


def megc_rows(run: RunFiles) -> dict[str, list[tuple[str, int, int, str]]]:
    """Predicted intervals by dataset as (video, first, last, "me"), in the files' own numbers.

    Where a video's frames carry no number, frames count from 1.
    """
    from models.runs.files import read_tables

    found: dict[str, list[tuple[str, int, int, str]]] = {}
    for dataset, table in run.predictions().groupby("dataset"):
        frames = read_tables(run.workspace, (str(dataset),), "frames")
        wanted = frames[frames.video.isin(set(table.video))]
        by_place = wanted.set_index(["video", "index"]).number
        found[str(dataset)] = [
            (
                str(row.video),
                _file_number(by_place, row.video, row.start_index),
                _file_number(by_place, row.video, row.end_index),
                "me",
            )
            for row in table.itertuples(index=False)
        ]
    return found


def _file_number(by_place: pd.Series, video: Any, index: Any) -> int:
    number = by_place.get((video, int(index)))
    return int(index) + 1 if number is None or pd.isna(number) else int(number)
