"""What an annotation sheet says, counted before anything is checked, corrected or dropped.

Published numbers ("343 macro- and 159 micro-expressions") are numbers of the sheet, not of what is
left of it once frames are missing: both are counted here, side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from data.datasets.base import ListedVideo
from data.datasets.checks import Annotation
from data.datasets.parsing import UNREAD

Census = dict[str, dict[str, int]]


def take_census(rows: Sequence[Annotation], videos: Mapping[str, ListedVideo]) -> Census:
    """Counts by kind of event (micro, macro, blink), in the sheet's own values.

    Of each kind: `rows`, `subjects`, `videos`, and every oddity that occurs (`apex_equals_onset`,
    `offset_zero_or_less`, ...) with the number of rows that have it.
    """
    census: Census = {}
    for kind in sorted({row.type for row in rows}):
        some = [row for row in rows if row.type == kind]
        oddities = Counter(name for row in some for name in _oddities(row, videos.get(row.video)))
        census[kind] = {
            "rows": len(some),
            "subjects": len({row.subject for row in some}),
            "videos": len({row.video for row in some}),
            **dict(sorted(oddities.items())),
        }
    return census


def _oddities(row: Annotation, video: ListedVideo | None) -> Iterator[str]:
    onset, apex, offset = row.onset.value, row.apex.value, row.offset.value
    parts = {"onset": row.onset, "apex": row.apex, "offset": row.offset}
    if any(number.note == "fractional_frame_number" for number in parts.values()):
        yield "fractional_numbers"
    for name, number in parts.items():
        if number.note in ("missing", *UNREAD):
            yield f"{name}_no_number"
        elif number.value is not None and number.value <= 0:
            yield f"{name}_zero_or_less"
    if apex is not None and apex == onset:
        yield "apex_equals_onset"
    if apex is not None and apex == offset:
        yield "apex_equals_offset"
    if onset is not None and offset is not None and 0 < offset < onset:
        yield "offset_before_onset"
    elif apex is not None and apex > 0 and _outside(apex, onset, offset):
        yield "apex_outside"
    if video is not None and offset is not None and offset > video.frames.numbers[-1]:
        yield "offset_past_last_frame"
    if row.emotion is None:
        yield "no_emotion"


def _outside(apex: int, onset: int | None, offset: int | None) -> bool:
    before = onset is not None and apex < onset
    return before or (offset is not None and 0 < offset < apex)


def kept_and_dropped(census: Census, events: pd.DataFrame) -> Census:
    """The census with `kept` and `dropped` beside the rows of every kind."""
    kept = events["type"].value_counts()
    return {
        kind: {
            "rows": counts["rows"],
            "kept": int(kept.get(kind, 0)),
            "dropped": counts["rows"] - int(kept.get(kind, 0)),
            **{name: n for name, n in counts.items() if name != "rows"},
        }
        for kind, counts in census.items()
    }


def account(census: Census, refused: int) -> str:
    """One sentence: rows in the sheet = events kept + rows dropped, by kind.

    `refused`: rows of a manifest that could not be read as annotations at all, of no kind.
    """

    def said(name: str) -> str:
        total = sum(counts[name] for counts in census.values())
        parts = [f"{counts[name]} {kind}" for kind, counts in census.items() if counts[name]]
        return f"{total} ({', '.join(parts)})" if len(parts) > 1 else parts[0] if parts else "0"

    more = f" + {refused} rows refused" if refused else ""
    return f"{said('rows')} in the sheet = {said('kept')} kept + {said('dropped')} dropped{more}"
