"""Rows that say one event twice: the same again, in contradiction, or with a key used before."""

from __future__ import annotations

from data.datasets.checks import Annotation, Interval
from data.datasets.report import Report

Kept = tuple[Annotation, Interval]


class EventIds:
    """Gives each event a unique id and drops rows that annotate one interval again."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._taken: set[str] = set()
        self._seen: dict[tuple[str, str, int | None, int | None], Kept] = {}

    def take(self, row: Annotation, video: str, placed: Interval) -> str | None:
        """The row's event id, with -2, -3 ... where rows share one; None for a row dropped.

        Of rows with one video, type, onset and offset the first stays. A later one that says the
        same is dropped as `duplicate_event`; one that says otherwise as `contradicting_event`,
        unless it has an id of its own: then it stays and is flagged `same_interval`.
        """
        where = (video, row.type, placed.onset, placed.offset)
        first = self._seen.setdefault(where, (row, placed))
        if first[0] is not row:
            differs = _differences(first, (row, placed))
            same_key = row.event == first[0].event or (row.numbered and first[0].numbered)
            said = f"{row.where}; first in {first[0].where}"
            if not differs:
                self.report.drop(row.who, "row", "duplicate_event", said)
                return None
            if same_key:
                said = f"{said}; {'; '.join(differs)}"
                self.report.drop(row.who, "row", "contradicting_event", said)
                return None
            self.report.flag(row.who, "event", "same_interval", f"{said}; {'; '.join(differs)}")
        return self._unique(row)

    def _unique(self, row: Annotation) -> str:
        event, count = row.event, 1
        while event in self._taken:
            count += 1
            event = f"{row.event}-{count}"
        if count > 1:
            self.report.repair(
                row.who, "event", "repeated_key", row.where,
                column="event", old=row.event, new=event, source="another interval has this key",
            )  # fmt: skip
        self._taken.add(event)
        return event


def _differences(first: Kept, second: Kept) -> list[str]:
    """What two rows of one interval say differently, e.g. `emotion fear, here anger`."""
    old, new = _said(*first), _said(*second)
    return [f"{k} {old[k] or 'none'}, here {new[k] or 'none'}" for k in old if old[k] != new[k]]


def _said(row: Annotation, placed: Interval) -> dict[str, object]:
    return {
        "apex": None if placed.apex is None else row.apex.raw,
        "aus": row.aus,
        "emotion": row.emotion,
        "objective class": row.objective,
        **{name: row.labels.get(name) for name in sorted(row.labels)},
    }
