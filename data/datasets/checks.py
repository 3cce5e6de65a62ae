"""From an annotation to an event: value checks, corrections, and file numbers to frame indices.

Every check looks at values, never at row positions. A published correction that matches the very
value found wins; otherwise the adapter's rules say what to do, and where nothing can be trusted
the annotation is dropped. An apex that cannot be trusted becomes null: the apex stage fills it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

import numpy as np

from data.datasets.action_units import action_units
from data.datasets.listing import FrameList
from data.datasets.parsing import UNREAD, Cell, Number, frame_number, text
from data.datasets.report import Correction, Report, corrections

LEAST_INSIDE = 0.1  # share of an interval that must lie in its video


@dataclass(frozen=True)
class Annotation:
    """One row of a sheet, values as file numbers; `who` is its key, `where` its place.

    `event` is the id the event will have, `video` the video it belongs to; `numbered`: the id is
    only a running number, made here.
    """

    who: str
    where: str
    subject: str
    video: str
    event: str
    onset: Number
    apex: Number
    offset: Number
    type: str = "micro"
    aus: str | None = None
    emotion: str | None = None
    objective: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    numbered: bool = False


class Numbers(TypedDict):
    """The three frame numbers of a row."""

    onset: Number
    apex: Number
    offset: Number


def numbers_of(onset: Cell, apex: Cell, offset: Cell) -> Numbers:
    """The three frame-number cells of a row, as keyword arguments of Annotation."""
    return {
        "onset": frame_number(onset),
        "apex": frame_number(apex),
        "offset": frame_number(offset),
    }


def read_units(cell: Cell, who: str, where: str, report: Report) -> str | None:
    """Canonical action units of a cell; what is uncertain or not understood is flagged."""
    aus, note = action_units(cell)
    if note:
        report.flag(who, "event", "au_not_understood", f"{where}: {note}", column="aus")
    elif "?" in text(cell):
        report.flag(who, "event", "au_uncertain", where, column="aus", old=text(cell))
    return aus


@dataclass(frozen=True)
class Rules:
    """What to do where a value is wrong and no correction is published.

    `offset_missing`: use the apex as offset (offset 0 or blank), or drop the annotation.
    `first_number`: smallest number a frame can have; smaller ones mean "before the recording".
    `long_micro_seconds`: a micro-expression longer than this is flagged as implausible.
    `apex_labelled`: the sheet has an apex column, so a missing apex is a finding.
    `every_clip_coded`: a clip (not a long video) that no row names is a finding.
    """

    offset_missing: Literal["apex", "drop"] = "drop"
    first_number: int = 1
    long_micro_seconds: float = 30.0
    apex_labelled: bool = True
    every_clip_coded: bool = True


@dataclass
class Interval:
    """Onset, apex and offset of one annotation while it is being checked."""

    onset: int | None
    apex: int | None
    offset: int | None


class EventChecker:
    """Checks the annotations of one dataset and maps them onto listed frames."""

    def __init__(self, dataset: str, rules: Rules, report: Report) -> None:
        self.rules, self.report = rules, report
        self.corrections = corrections(dataset)

    def correct_number(self, who: str, column: str, number: Number, reason: str) -> Number:
        """The number after the published correction for it, if there is one."""
        fix = self._fix(who, column, number.raw) or self._fix(who, column, str(number.value))
        if fix is None:
            return number
        self._repaired(who, fix, number.raw, reason or fix.reason)
        return frame_number(fix.new)

    def correct_text(self, who: str, column: str, old: str | None) -> str | None:
        """A text value after the published correction for it, if there is one."""
        fix = self._fix(who, column, old or "")
        if fix is None:
            return old
        self._repaired(who, fix, old or "", fix.reason)
        return fix.new or None

    def _fix(self, who: str, column: str, old: str) -> Correction | None:
        return self.corrections.get((who, column, old))

    def _repaired(self, who: str, fix: Correction, old: str, reason: str) -> None:
        detail = "" if reason == fix.reason else fix.reason
        self.report.repair(
            who, "event", reason, detail, column=fix.column, old=old, new=fix.new, source=fix.source
        )

    def check(
        self, row: Annotation, fps: float, clip: tuple[int, int] | None = None
    ) -> tuple[Annotation, Interval] | None:
        """Values made consistent: onset <= apex <= offset, apex null where unknown.

        `clip`: first and last file number of a clip that its owner cut to the expression; its ends
        stand in for an interval that is missing, reversed or elsewhere. Returns None when the
        annotation had to be dropped; its ledger row is written.
        """
        self._note_fractions(row)
        row = replace(
            row,
            aus=self.correct_text(row.who, "aus", row.aus),
            emotion=self.correct_text(row.who, "emotion", row.emotion),
        )
        onset = self._onset(row, clip)
        if onset is None:
            return None
        offset = self._offset(row, clip)
        if offset is None:
            return None
        wrong = "offset_before_onset" if offset < onset else ""
        if clip is not None and (onset > clip[1] or offset < clip[0]):
            wrong = wrong or "interval_not_in_clip"
        if wrong and clip is None:
            self._drop(row, wrong, "onset..offset", f"{onset}..{offset}")
            return None
        if wrong and clip is not None:
            self._from_clip(row, wrong, "onset..offset", f"{onset}..{offset}", f"{clip}")
            onset, offset = clip
        elif clip is not None and (clip[0] < onset or clip[1] > offset):
            self.report.flag(
                row.who, "event", "clip_longer_than_event", f"{row.where}: files {clip}",
                column="onset..offset", old=f"{onset}..{offset}",
            )  # fmt: skip
        self._length(row, onset, offset, fps)
        apex = self._apex(row, onset, offset)
        return row, Interval(onset, apex, offset)

    def _from_clip(self, row: Annotation, reason: str, column: str, old: str, new: str) -> None:
        self.report.repair(
            row.who, "event", reason, row.where,
            column=column, old=old, new=new, source="the clip's own first and last file",
        )  # fmt: skip

    def _note_fractions(self, row: Annotation) -> None:
        parts = {"onset": row.onset, "apex": row.apex, "offset": row.offset}
        if any(p.note == "fractional_frame_number" for p in parts.values()):
            self.report.repair(
                row.who,
                "event",
                "fractional_frame_number",
                row.where,
                column=",".join(parts),
                old=",".join(p.raw for p in parts.values()),
                new=",".join(str(p.value) for p in parts.values()),
                source="rounded half up",
            )

    def _onset(self, row: Annotation, clip: tuple[int, int] | None) -> int | None:
        early = row.onset.value is not None and row.onset.value < self.rules.first_number
        reason = "onset_before_first_frame" if early else ""
        onset = self.correct_number(row.who, "onset", row.onset, reason)
        if onset.value is not None:
            return onset.value
        reason = f"onset_{onset.note or 'missing'}"
        if clip is not None:
            self._from_clip(row, reason, "onset", row.onset.raw, str(clip[0]))
            return clip[0]
        self._drop(row, reason, "onset", row.onset.raw)
        return None

    def _offset(self, row: Annotation, clip: tuple[int, int] | None) -> int | None:
        value = row.offset.value
        absent = value is None or value <= 0
        reason = "offset_missing" if absent else ""
        offset = self.correct_number(row.who, "offset", row.offset, reason).value
        if offset is not None and offset > 0:
            return offset
        unread = row.offset.note in UNREAD
        reason = f"offset_{row.offset.note}" if unread else "offset_missing"
        if self.rules.offset_missing == "apex" and (row.apex.value or 0) > (row.onset.value or 0):
            self.report.repair(
                row.who,
                "event",
                reason,
                row.where,
                column="offset",
                old=row.offset.raw,
                new=str(row.apex.value),
                source="the apex, as published baselines do",
            )
            return row.apex.value
        if clip is not None:
            self._from_clip(row, reason, "offset", row.offset.raw, str(clip[1]))
            return clip[1]
        self._drop(row, reason, "offset", row.offset.raw)
        return None

    def _length(self, row: Annotation, onset: int, offset: int, fps: float) -> None:
        """A micro-expression of half a minute is said so; nothing says which end is wrong."""
        if row.type != "micro" or (offset - onset) / fps <= self.rules.long_micro_seconds:
            return
        self.report.flag(
            row.who,
            "event",
            "implausible_length",
            f"{(offset - onset + 1) / fps:.1f} s for a micro-expression",
            column="offset",
            old=str(offset),
        )

    def _apex(self, row: Annotation, onset: int, offset: int) -> int | None:
        apex = row.apex
        inside = apex.value is not None and onset <= apex.value <= offset
        absent = apex.value is None or apex.value <= 0 < onset
        if absent and (not self.rules.apex_labelled or apex.note == "not_labelled"):
            return None
        reason = "" if inside else "apex_missing" if absent else "apex_outside"
        if apex.note in UNREAD:
            reason = f"apex_{apex.note}"
        apex = self.correct_number(row.who, "apex", apex, reason)
        word = "outside" if not inside else "onset+1" if apex.value == onset + 1 else ""
        if word and apex is row.apex:
            fix = self._fix(row.who, "apex", word)
            if fix is not None:
                self._repaired(row.who, fix, apex.raw, reason or fix.reason)
                apex = frame_number(fix.new)
        value = apex.value
        if value is not None and onset <= value <= offset:
            self._note_ends(row, onset, value, offset)
            return value
        self.report.repair(
            row.who,
            "event",
            reason or "apex_outside",
            row.where,
            column="apex",
            old=apex.raw,
            new="",
            source=f"no label to trust within {onset}..{offset}: the apex stage fills it",
        )
        return None

    def _note_ends(self, row: Annotation, onset: int, apex: int, offset: int) -> None:
        for reason, end in (("apex_equals_onset", onset), ("apex_equals_offset", offset)):
            replaced = end == offset and offset != row.offset.value
            if apex == end and onset < offset and not replaced:
                self.report.flag(row.who, "event", reason, row.where, column="apex", old=str(apex))

    def _drop(self, row: Annotation, reason: str, column: str, old: str) -> None:
        self.report.drop(row.who, "row", reason, row.where, column=column, old=old)

    def locate(self, row: Annotation, interval: Interval, frames: FrameList) -> Interval | None:
        """Indices (0-based, inclusive) of an interval of file numbers in a video's frame list.

        An interval reaching past either end is cut to the video; a bound whose frame is missing
        moves inwards to the next one there. None when no frame of the interval exists, or when one
        number of it does, or of an interval that began before the video less than a tenth.
        """
        numbers = frames.numbers
        onset, apex, offset = interval.onset, interval.apex, interval.offset
        assert onset is not None and offset is not None
        first, last = (int(numbers[0]), int(numbers[-1])) if len(numbers) else (0, -1)
        inside, said = min(offset, last) - max(onset, first) + 1, offset - onset + 1
        least = LEAST_INSIDE * said if onset < first else 0
        if inside < said and (inside <= 1 or inside < least):
            self.report.drop(
                row.who,
                "row",
                "outside_video",
                f"{row.where}: frames {onset}..{offset}, the video has {first}..{last}",
            )
            return None
        start = int(np.searchsorted(numbers, onset, side="left"))
        stop = int(np.searchsorted(numbers, offset, side="right")) - 1
        if start > stop:
            self.report.drop(
                row.who,
                "row",
                "no_frame_in_interval",
                f"{row.where}: no file for {onset}..{offset}",
            )
            return None
        self._moved(row, "onset", onset, int(numbers[start]), onset < first)
        self._moved(row, "offset", offset, int(numbers[stop]), offset > last)
        middle = None
        if apex is not None:
            span = numbers[start : stop + 1]
            middle = start + int(np.abs(span - apex).argmin())
            self._moved(row, "apex", apex, int(numbers[middle]), not first <= apex <= last)
        return Interval(start, middle, stop)

    def _moved(self, row: Annotation, column: str, old: int, new: int, past: bool) -> None:
        if old == new:
            return
        ends = {"onset": "onset_before_first_frame", "offset": "offset_past_last_frame"}
        reason = ends.get(column, "apex_outside_video") if past else "frame_missing"
        self.report.repair(
            row.who,
            "event",
            reason,
            row.where,
            column=column,
            old=str(old),
            new=str(new),
            source="nearest frame on disk",
        )
