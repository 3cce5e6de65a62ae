"""Who does what when: every video of a dataset, planned before a pixel is rendered.

A plan holds the layout-facing `PlannedVideo` (labels in frames) and the arrays the renderer
follows (head pose, gain, lids, one curve per expression). Draws in seconds are shared by all
cameras of a layout, so that several cameras film one and the same performance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.synthetic.action_units import EMOTIONS
from data.synthetic.dynamics import (
    BLINK_SD,
    HOLD,
    ExpressionCourse,
    camera_gain,
    curve,
    frame_labels,
    head_pose,
    lid_closure,
    slow_light,
    talk_curve,
)
from data.synthetic.layouts.base import (
    Camera,
    PlannedActionUnit,
    PlannedEvent,
    PlannedVideo,
    SyntheticLayout,
)
from data.synthetic.presets import Preset
from data.synthetic.rng import generator
from data.synthetic.subjects import Subject
from data.synthetic.warp import Floats

_EXTRA_UNITS = (1, 2, 4, 7, 12, 14, 15, 17, 20, 24)
_LID_UNITS, _LID_LIMIT = (5, 7), 4.0
TALK_PX = 8.0  # of the lower lip at IPD 115 px, mouth wide open in speech


@dataclass(frozen=True)
class Track:
    """What the renderer follows, per rendered frame; `curves[i]` belongs to expression i.

    `pose` (T, 6); `gain`, `blink` (T,); `curves` (expressions, T) activation in [0, 1]; `talk`
    (T,) the same of the mouth's speaking, all 0 where nobody speaks.
    """

    pose: Floats
    gain: Floats
    blink: Floats
    curves: Floats
    talk: Floats


@dataclass(frozen=True)
class Script:
    """One planned video with its time courses; `speech` is what a wide-open speaking mouth does."""

    plan: PlannedVideo
    track: Track
    speech: PlannedEvent | None = None


@dataclass(frozen=True)
class _Act:
    """One expression in seconds with its strengths in pixels."""

    kind: str
    course: ExpressionCourse
    emotion: str
    units: tuple[PlannedActionUnit, ...]


def deal_emotions(weights: dict[str, float], subjects: int, clips: int) -> list[list[str]]:
    """Emotions per subject: totals follow the weights, subjects get near-equal mixes."""
    names = list(weights)
    share = np.array([weights[n] for n in names], dtype=np.float64)
    quota = share / share.sum() * subjects * clips
    count = np.floor(quota).astype(int)
    for i in np.argsort(count - quota, kind="stable")[: subjects * clips - count.sum()]:
        count[i] += 1
    deck = [name for name, n in zip(names, count, strict=True) for _ in range(n)]
    return [deck[i::subjects] for i in range(subjects)]


def write_scripts(
    layout: SyntheticLayout, preset: Preset, seed: int, people: Sequence[Subject]
) -> list[Script]:
    """All videos of the dataset, sorted by camera, subject, number."""
    each = 1 if layout.kind == "clip" else preset.micros[1] + preset.macros[1]
    hands = deal_emotions(layout.emotions, preset.subjects, preset.clips * each)
    scripts = []
    for camera in layout.cameras:
        first = preset.subjects - max(1, round(camera.subjects * preset.subjects))
        for subject in people[first:]:
            order = generator(seed, layout.name, "deal", subject.ordinal)
            emotions = [str(e) for e in order.permutation(hands[subject.ordinal])]
            for number in range(preset.clips):
                name = (seed, layout.name, subject.ordinal, number)
                rng = generator(*name, "acts")
                hand = emotions[number * each : (number + 1) * each]
                if layout.same_emotion:
                    hand = hand[:1] * each
                if layout.kind == "clip":
                    acts, blinks, seconds = _clip(layout, preset, subject, hand[0], rng)
                else:
                    acts, blinks, seconds = _long(preset, subject, hand, rng)
                shifts = _shifts(layout, preset, seconds, rng)
                scripts.append(
                    _film(name, camera, preset, subject, number, acts, blinks, seconds, shifts)
                )
    return scripts


def _units(
    emotion: str, peak: float, preset: Preset, rng: np.random.Generator
) -> tuple[PlannedActionUnit, ...]:
    """Action units of an emotion at about `peak` pixels, perhaps with a confounding extra."""
    sets = EMOTIONS[emotion]
    chosen = sets[int(rng.choice(len(sets), p=[p for _, p in sets]))][0]
    drawn = [(n, peak * float(rng.uniform(0.55, 1.1)), True) for n in chosen]
    if rng.random() < preset.confounder:
        extra = int(rng.choice([n for n in _EXTRA_UNITS if n not in chosen]))
        drawn.append((extra, peak * float(rng.uniform(0.15, 0.45)), False))
    units = []
    for number, size, coded in drawn:
        left, right = (float(size * rng.uniform(0.8, 1.2)) for _ in range(2))
        if number in _LID_UNITS:
            left, right = min(left, _LID_LIMIT), min(right, _LID_LIMIT)
        units.append(PlannedActionUnit(number, round(left, 4), round(right, 4), coded))
    return tuple(units)


def _micro(
    start: float, emotion: str, preset: Preset, subject: Subject, rng: np.random.Generator
) -> _Act:
    rise, fall = (float(rng.uniform(*preset.rise)) for _ in range(2))
    spread = float(np.exp(preset.spread * np.clip(rng.standard_normal(), -2, 2)))
    peak = preset.amplitude * subject.expressivity * spread
    return _Act(
        "micro",
        ExpressionCourse(start, rise, HOLD, fall),
        emotion,
        _units(emotion, peak, preset, rng),
    )


def _macro(
    start: float, emotion: str, preset: Preset, subject: Subject, rng: np.random.Generator
) -> _Act:
    total = float(rng.uniform(*preset.macro_seconds))
    hold = min(float(rng.uniform(0.4, 0.7)), 0.5 * total)
    rise = (total - hold) * float(rng.uniform(0.4, 0.6))
    spread = float(np.exp(0.1 * np.clip(rng.standard_normal(), -2, 2)))
    peak = preset.macro_amplitude * subject.expressivity * spread
    course = ExpressionCourse(start, rise, hold, total - hold - rise)
    return _Act("macro", course, emotion, _units(emotion, peak, preset, rng))


def _clip(
    layout: SyntheticLayout,
    preset: Preset,
    subject: Subject,
    emotion: str,
    rng: np.random.Generator,
) -> tuple[list[_Act], list[float], float]:
    lead = float(rng.uniform(*preset.lead)) * layout.lead_in
    act = _micro(lead, emotion, preset, subject, rng)
    seconds = act.course.end + float(rng.uniform(*preset.tail)) * layout.lead_in
    blinks = [float(rng.uniform(0.0, seconds))] if rng.random() < preset.blink else []
    return [act], blinks, seconds


def _long(
    preset: Preset, subject: Subject, emotions: list[str], rng: np.random.Generator
) -> tuple[list[_Act], list[float], float]:
    micros = int(rng.integers(preset.micros[0], preset.micros[1] + 1))
    macros = int(rng.integers(preset.macros[0], preset.macros[1] + 1))
    acts = [_micro(0.0, e, preset, subject, rng) for e in emotions[:micros]]
    acts += [_macro(0.0, e, preset, subject, rng) for e in emotions[micros : micros + macros]]
    acts = [acts[i] for i in rng.permutation(len(acts))]
    busy = sum(a.course.end for a in acts)
    least = 0.4
    seconds = max(preset.seconds, busy + least * (len(acts) + 1))
    free = seconds - busy - least * (len(acts) + 1)
    gaps = least + free * rng.dirichlet(np.full(len(acts) + 1, 2.0))
    placed, now = [], 0.0
    for act, gap in zip(acts, gaps[:-1], strict=True):
        course = act.course
        begin = now + float(gap)
        moved = ExpressionCourse(begin, course.rise, course.hold, course.fall)
        placed.append(_Act(act.kind, moved, act.emotion, act.units))
        now = moved.end
    return placed, _blinks(preset, placed, seconds, rng), seconds


def _blinks(
    preset: Preset, acts: list[_Act], seconds: float, rng: np.random.Generator
) -> list[float]:
    """Blink times, none during a micro-expression (they would hide it from any coder)."""
    times, now = [], float(rng.uniform(0.3, preset.blink_every[0]))
    while now < seconds - 0.2:
        quiet = [a.course for a in acts if a.kind == "micro"]
        if not any(c.start - 3 * BLINK_SD < now < c.end + 3 * BLINK_SD for c in quiet):
            times.append(now)
        now += float(rng.uniform(*preset.blink_every))
    return times


def _shifts(
    layout: SyntheticLayout, preset: Preset, seconds: float, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    if layout.kind == "clip":
        return []
    out = []
    for _ in range(int(rng.integers(preset.shifts[0], preset.shifts[1] + 1))):
        angle, size = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(5.0, 6.0)
        at = float(rng.uniform(0.2, max(0.3, seconds - 0.7)))
        out.append((at, float(size * np.cos(angle)), float(size * np.sin(angle))))
    return out


def _film(
    name: tuple[int, str, int, int],
    camera: Camera,
    preset: Preset,
    subject: Subject,
    number: int,
    acts: list[_Act],
    blinks: list[float],
    seconds: float,
    shifts: list[tuple[float, float, float]],
) -> Script:
    """Sample one performance with one camera."""
    fps = preset.fps or camera.fps
    frames = max(8, round(seconds * fps))
    times = np.arange(frames) / fps
    unit = subject.ipd / 115.0
    # Expressions start on a frame, so that "onset" is exact.
    courses = [_on_grid(a.course, fps) for a in acts]
    pose_rng = generator(*name, "head", camera.name)
    gain = camera_gain(frames, fps, generator(*name, "gain", camera.name))
    if preset.light > 0:
        lamp = generator(*name, "light", camera.name)
        gain = np.round(gain * slow_light(frames, fps, preset.light, lamp), 5)
    speech, talk = _speech(name, preset, frames, fps, unit)
    track = Track(
        pose=head_pose(frames, fps, preset.head, unit, shifts, pose_rng, preset.turn),
        gain=gain,
        blink=lid_closure(frames, fps, blinks),
        curves=np.array([np.round(curve(c, times), 5) for c in courses]).reshape(-1, frames),
        talk=talk,
    )
    events = [
        _event(a.kind, frame_labels(c, fps), frames, a.emotion, a.units, unit)
        for a, c in zip(acts, courses, strict=True)
    ]
    for centre in blinks:
        low, high = centre - 2.5 * BLINK_SD, centre + 2.5 * BLINK_SD
        apex = round(centre * fps)
        labels = (round(low * fps), apex, apex, centre * fps, round(high * fps))
        events.append(_event("blink", labels, frames, None, (), unit))
    events.sort(key=lambda e: (e.onset, e.kind))
    plan = PlannedVideo(camera, subject.ordinal, number, fps, frames, preset.size, tuple(events))
    return Script(plan, track, speech)


def _speech(
    name: tuple[int, str, int, int], preset: Preset, frames: int, fps: float, unit: float
) -> tuple[PlannedEvent | None, Floats]:
    """A speaking mouth: the lower lip and chin down, the corners a little in and out."""
    if preset.talk <= 0:
        return None, np.zeros(frames)
    rng = generator(*name, "talk")
    size = TALK_PX * float(rng.uniform(0.7, 1.3))
    left, right = (float(0.25 * size * v) for v in rng.uniform(-1.0, 1.0, 2))
    units = (
        PlannedActionUnit(25, size, size, False),
        PlannedActionUnit(17, -0.6 * size, -0.6 * size, False),
        PlannedActionUnit(20, left, right, False),
    )
    event = _event("talk", (0, 0, 0, 0.0, frames - 1), frames, None, units, unit)
    return event, talk_curve(frames, fps, preset.talk, rng)


def _on_grid(course: ExpressionCourse, fps: float) -> ExpressionCourse:
    return ExpressionCourse(round(course.start * fps) / fps, course.rise, course.hold, course.fall)


def _event(
    kind: str,
    labels: tuple[int, int, int, float, int],
    frames: int,
    emotion: str | None,
    units: tuple[PlannedActionUnit, ...],
    unit: float,
) -> PlannedEvent:
    onset, start, end, centre, offset = labels
    last = frames - 1
    scaled = tuple(
        PlannedActionUnit(u.number, round(u.left * unit, 4), round(u.right * unit, 4), u.coded)
        for u in units
    )
    return PlannedEvent(
        kind=kind,  # type: ignore[arg-type]
        onset=min(max(onset, 0), last),
        apex_start=min(max(start, 0), last),
        apex_end=min(max(end, 0), last),
        apex_centre=round(min(max(centre, 0.0), float(last)), 3),
        offset=min(max(offset, 0), last),
        emotion=emotion,
        units=scaled,
    )
