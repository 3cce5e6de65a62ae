"""Time courses: expression curves, head motion, gain and blinks, sampled at a camera's frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic.warp import Floats

HOLD = 0.04
REST, REST_TAU = 0.08, 0.3
BLINK_SD, BLINK_CAP = 0.05, 0.85
POSE_FIELDS = ("tx", "ty", "roll", "scale", "yaw", "pitch")
_POSE_SD = np.array([1.2, 1.0, 0.25, 0.002, 0.5, 0.4])
_TREMOR = 0.03
PITCH_SHARE = 0.8  # of the yaw's sd, when a head turns
SYLLABLES = (3.0, 6.0)  # Hz
SLOW_LIGHT = 0.15  # Hz
_CUTOFF = 1.2


@dataclass(frozen=True)
class ExpressionCourse:
    """One expression in seconds: starts at `start`, rises, holds, falls."""

    start: float
    rise: float
    hold: float
    fall: float

    @property
    def end(self) -> float:
        return self.start + self.rise + self.hold + self.fall


def minimum_jerk(t: Floats) -> Floats:
    """The minimum-jerk ramp 0 -> 1 over t in [0, 1] (Flash and Hogan 1985), clipped outside."""
    t = np.clip(t, 0.0, 1.0)
    return np.asarray(t**3 * (10.0 - 15.0 * t + 6.0 * t**2))


def curve(course: ExpressionCourse, times: Floats) -> Floats:
    """Activation s(t) in [0, 1]: ramp up, plateau, ramp down to a rest of 8 % that decays."""
    up = minimum_jerk((times - course.start) / course.rise)
    down = minimum_jerk((times - (course.end - course.fall)) / course.fall)
    rest = REST * np.exp(-np.maximum(times - course.end, 0.0) / REST_TAU)
    return np.asarray(up * (1.0 - down) + rest * down)


def frame_labels(course: ExpressionCourse, fps: float) -> tuple[int, int, int, float, int]:
    """(onset, apex_start, apex_end, apex_centre, offset) as sampled frames.

    `apex_start` and `apex_end` are the first and last frame of the hold.
    """
    low = course.start + course.rise
    high = low + course.hold
    onset, offset = round(course.start * fps), round(course.end * fps)
    start = int(np.ceil(low * fps - 1e-6))
    end = max(start, int(np.floor(high * fps + 1e-6)))
    start, end = (min(max(v, onset), offset) for v in (start, end))
    return onset, start, end, 0.5 * (low + high) * fps, offset


def head_pose(
    frames: int,
    fps: float,
    strength: float,
    unit: float,
    shifts: list[tuple[float, float, float]],
    rng: np.random.Generator,
    turn: float = 0.0,
) -> Floats:
    """(frames, 6): tx, ty px; roll, yaw, pitch degrees; scale about 0 (columns: `POSE_FIELDS`).

    Gaussian noise low-passed at 1.2 Hz with the sds of natural sitting, times `strength`, plus
    tremor; `unit` converts pixels at IPD 115 to this face; `shifts` are (time, dx, dy): moves of
    that many pixels at IPD 115 within half a second, for good. `turn` above 0 is the sd of yaw in
    degrees instead, whatever the strength; pitch has PITCH_SHARE of it.
    """
    pose = np.stack([_drift(frames, fps, rng) for _ in _POSE_SD], axis=1) * _POSE_SD * strength
    if turn > 0:
        pose[:, 4:] *= turn * np.array([1.0, PITCH_SHARE]) / (_POSE_SD[4:] * max(strength, 1e-9))
    pose[:, :2] += _TREMOR * strength * rng.standard_normal((frames, 2))
    times = np.arange(frames) / fps
    for at, dx, dy in shifts:
        pose[:, :2] += minimum_jerk((times - at) / 0.5)[:, None] * np.array([dx, dy])
    pose[:, :2] *= unit
    return np.asarray(np.round(pose, 5))


def _drift(frames: int, fps: float, rng: np.random.Generator) -> Floats:
    """White noise through a Gaussian low-pass at 1.2 Hz, unit sd as a process."""
    pad = int(2.0 * fps)
    n = frames + 2 * pad
    response = np.exp(-0.5 * (np.fft.rfftfreq(n, 1.0 / fps) / _CUTOFF) ** 2)
    spectrum = np.fft.rfft(rng.standard_normal(n)) * response
    power = (2.0 * np.sum(response[1:] ** 2) + response[0] ** 2) / n
    return np.asarray(np.fft.irfft(spectrum, n)[pad : pad + frames] / np.sqrt(power))


def camera_gain(frames: int, fps: float, rng: np.random.Generator) -> Floats:
    """(frames,) exposure factor: a flicker of 3-12 Hz plus white noise."""
    rate, phase = rng.uniform(3.0, 12.0), rng.uniform(0.0, 2.0 * np.pi)
    wave = 0.004 * np.sin(2.0 * np.pi * rate * np.arange(frames) / fps + phase)
    return np.asarray(np.round(1.0 + wave + 0.002 * rng.standard_normal(frames), 5))


def slow_light(frames: int, fps: float, sd: float, rng: np.random.Generator) -> Floats:
    """(frames,) factor about 1 of relative sd `sd`: clouds, a screen, an automatic exposure."""
    times = np.arange(frames) / fps
    waves = np.zeros(frames)
    for _ in range(4):
        rate, phase = SLOW_LIGHT * rng.uniform(0.5, 1.5), rng.uniform(0.0, 2.0 * np.pi)
        waves += np.sin(2.0 * np.pi * rate * times + phase) / np.sqrt(2.0)
    return np.asarray(np.round(1.0 + sd * np.clip(waves, -2.0, 2.0), 5))


def talk_curve(frames: int, fps: float, share: float, rng: np.random.Generator) -> Floats:
    """(frames,) opening of a talking mouth in [0, 1]: syllables in phrases, quiet between them.

    Phrases of 0.8 to 2.5 s fill about `share` of the time; in each, bumps at 3 to 6 Hz of random
    height.
    """
    times = np.arange(frames) / fps
    out = np.zeros(frames)
    now = float(rng.uniform(0.0, 1.0))
    while now < times[-1]:
        end = now + float(rng.uniform(0.8, 2.5))
        at = now
        while at < end:
            length = 1.0 / float(rng.uniform(*SYLLABLES))
            inside = np.clip((times - at) / length, 0.0, 1.0)
            out = np.maximum(out, float(rng.uniform(0.2, 1.0)) * np.sin(np.pi * inside) ** 2)
            at += length
        now = end + (end - now) * (1.0 - share) / max(share, 1e-3) * float(rng.uniform(0.5, 1.5))
    return np.asarray(np.round(out, 5))


def lid_closure(frames: int, fps: float, centres: list[float]) -> Floats:
    """(frames,) closure 0 .. 0.85 of the lids, a Gaussian bump of sd 50 ms for each blink."""
    times = np.arange(frames) / fps
    out = np.zeros(frames)
    for centre in centres:
        out = np.maximum(out, BLINK_CAP * np.exp(-0.5 * ((times - centre) / BLINK_SD) ** 2))
    return np.asarray(np.round(np.where(out < 0.005, 0.0, out), 5))
