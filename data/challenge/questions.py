"""The challenges' question files: one JSON object a line, answers filled in or empty.

    {"video_id": "casme3_test_CAS-1_1", "video": "CAS-1", "question": "...", "answer": "..."}

2025 and 2026 ask five questions of each short clip (VQA), 2026 six of each long video (LVQA). What
a question asks is told from its words. A submission has the rows of `..._to_answer.jsonl` in their
order, every other key as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.challenge.forms import read_text
from data.errors import InputError
from data.stages.files import replacing

Kind = Literal[
    "coarse", "fine", "units", "presence", "free",
    "events", "micro_events", "macro_events", "all_units", "event_type",
]  # fmt: skip
LONG = ("events", "micro_events", "macro_events", "all_units", "event_type")
_CODE = "bad_challenge_file"


@dataclass(frozen=True)
class Question:
    """One row; `record` is the whole object as read."""

    id: str
    video: str
    question: str
    answer: str
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> Kind:
        """What is asked."""
        return kind_of(self.question)

    @property
    def part(self) -> str:
        """The dataset it is of: the first word of its id."""
        return self.id.split("_", 1)[0]


def kind_of(question: str) -> Kind:
    """What a question asks, by its words; whatever is none of the known ones is free text."""
    words = " ".join(question.lower().split())
    coarse, fine = "coarse" in words, "fine-grained" in words or "fine grained" in words
    if words.startswith("how many") or re.match(r"what is the (total )?number of", words):
        if re.search(r"\bmicro\b|micro-expression", words):
            return "micro_events"
        return "macro_events" if "macro" in words else "events"
    if re.search(r"type of the \d+-?(?:th|st|nd|rd)", words):
        return "event_type"
    if "distinct action unit" in words:
        return "all_units"
    if coarse != fine and words.startswith("what"):
        return "coarse" if coarse else "fine"
    if re.match(r"(?:is|are|does|do|can)\b", words):
        return "presence"
    if re.match(r"what (?:is|are) the (?:left |right )?action units?\b", words) and not coarse:
        return "units"
    return "free"


def several(question: str) -> bool:
    """Whether the wording gives away that there is more than one unit."""
    return "action units" in question.lower()


def read_questions(path: Path) -> tuple[Question, ...]:
    """Rows in order. Raises InputError `bad_challenge_file`: what is wrong, and in which line."""
    rows: list[Question] = []
    seen: set[str] = set()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad(where, "a JSON object", str(error)[:120]) from error
        missing = [
            k for k in ("video_id", "question")
            if not isinstance(record, dict) or not isinstance(record.get(k), str)
        ]  # fmt: skip
        if missing:
            raise _bad(where, f"texts video_id and question, missing {missing}", line[:80])
        identity, answer = record["video_id"], record.get("answer")
        if identity in seen:
            raise _bad(where, "every video_id once", f"{identity} again")
        seen.add(identity)
        video = str(record.get("video") or identity)
        given = "" if answer is None else str(answer)
        rows.append(Question(identity, video, record["question"], given, record))
    if not rows:
        raise _bad(path.name, "at least one question", "none")
    return tuple(rows)


def write_answers(asked: Sequence[Question], answers: Mapping[str, str], path: Path) -> int:
    """A submission: the rows asked, in order, with their answers; returns how many.

    Raises InputError `bad_challenge_file` for an id that was not asked, a missing or empty answer.
    """
    known = {q.id for q in asked}
    strange = sorted(answers.keys() - known)
    empty = [q.id for q in asked if not answers.get(q.id, "").strip()]
    if strange or empty:
        got = f"{len(strange)} unknown ({', '.join(strange[:3])}), {len(empty)} empty"
        raise _bad(path.name, f"one answer to each of {len(asked)} questions", got)
    lines = [
        json.dumps({**q.record, "answer": " ".join(answers[q.id].split())}, ensure_ascii=False)
        for q in asked
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _bad(who: str, expected: str, got: str) -> InputError:
    return InputError(who[:300], expected=expected, got=got[:300], code=_CODE)
