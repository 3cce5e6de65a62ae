"""From submission and truth files to a score sheet: the form is told from the truth file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.challenge.clips import ChallengeClip, is_clip_file, read_clips
from data.challenge.forms import Form, SpottedInterval, read_intervals, unpadded
from data.challenge.questions import LONG, Question, read_questions
from data.challenge.truth import drawn_truth
from data.errors import ConfigError, InputError
from models.challenge.answers import AnswerRow, clip_scores, long_scores, paired
from models.challenge.classes import FINE
from models.challenge.composite import composite_scores
from models.challenge.score import OVERALL, ChallengeScore, ScoreSheet
from models.challenge.spotting import ChallengePart, spotting_scores
from models.challenge.str_task import CLASSES, str_scores

PRIOR_NOTE = (
    "the priors of 'priors only' are those of the truth itself: the most that an answer can reach "
    "that looks at no video"
)


def evaluate_files(
    pred: Sequence[Path],
    truth: Sequence[Path],
    *,
    classes: Sequence[str] = CLASSES,
    fine: Sequence[str] = FINE,
) -> ScoreSheet:
    """Every measure of the challenge whose files these are.

    One truth file for each prediction file, in the same order; each pair is a part, named after the
    truth file. A truth may be `truth.json` of a synthetic test set: the part is then named after
    the prediction file. Question files may hold several parts (told by the ids), in one file or
    several.
    `classes`: emotions of spot-then-recognise; `fine`: fine classes of the questions. Raises
    ConfigError for files that do not go together, InputError for one that cannot be read.
    """
    if not pred or len(pred) != len(truth):
        raise ConfigError(
            "evaluate",
            expected="a truth file for each prediction file, in the same order",
            got=f"{len(pred)} prediction and {len(truth)} truth files",
            todo="Repeat --truth.",
        )
    if all(p.suffix.lower() == ".jsonl" for p in (*pred, *truth)):
        return _questions(pred, truth, fine)
    if not any(p.suffix.lower() == ".json" for p in truth) and all(
        is_clip_file(p) for p in (*pred, *truth)
    ):
        known, given = _clips("truth", truth), _clips("prediction", pred)
        strange = sorted({c.key for c in given} - {c.key for c in known})
        if strange:
            raise InputError(
                "predicted clips", expected="clips of the truth file",
                got=f"{len(strange)} unknown, such as {'/'.join(strange[0])}",
                code="bad_challenge_file",
            )  # fmt: skip
        scores = tuple(composite_scores(known, given))
        return ScoreSheet("composite recognition", scores, (PRIOR_NOTE,))
    return _intervals(pred, truth, classes)


def _clips(who: str, paths: Sequence[Path]) -> list[ChallengeClip]:
    """The clips of all files. Raises InputError for one that stands in two of them."""
    found: dict[tuple[str, ...], ChallengeClip] = {}
    for path in paths:
        for clip in read_clips(path):
            if clip.key in found:
                raise InputError(
                    f"{who} clips",
                    expected="every clip once in all files together",
                    got=f"{'/'.join(clip.key)} again in {path.name}",
                    code="bad_challenge_file",
                )
            found[clip.key] = clip
    return list(found.values())


def _intervals(pred: Sequence[Path], truth: Sequence[Path], classes: Sequence[str]) -> ScoreSheet:
    parts: list[ChallengePart] = []
    form: Form | None = None
    for given, known in zip(pred, truth, strict=True):
        other, found = read_intervals(given)
        name = part_name(known, [p.name for p in parts])
        if known.suffix.lower() == ".json":  # of our generator: it holds every part
            name = part_name(given, [p.name for p in parts])
            one, true = other, drawn_truth(known, name, other)
        else:
            one, true = read_intervals(known)
        if one != other or (form is not None and one != form):
            raise ConfigError(
                f"evaluate {given.name}",
                expected=f"the form of the truth, {_said(form or one)}",
                got=_said(other if one == other or form is None else one),
            )
        form = one
        parts.append(_spelled(name, true, found))
    if form == "str":
        return ScoreSheet("spot-then-recognise", tuple(str_scores(parts, classes)), (PRIOR_NOTE,))
    return ScoreSheet("spotting", tuple(spotting_scores(parts)), (PRIOR_NOTE,))


def _said(form: Form) -> str:
    return (
        "vid,pred_onset,pred_offset,type"
        if form == "spotting"
        else ("subject,video,onset,offset,emotion")
    )


def part_name(path: Path, taken: Sequence[str]) -> str:
    """`cas` for cas_truth.csv, cas_pred.csv or cas_gt.csv; numbered where that is taken.

    `OVERALL` is all parts together and no part's name.
    """
    stem = re.sub(r"[_-]?(truth|gt|pred|answers|labels?)$", "", path.stem, flags=re.IGNORECASE)
    name = stem or path.stem
    numbered = (f"{name}-{n}" for n in range(len(taken) + 1, 2 * len(taken) + 3))
    return next(one for one in (name, *numbered) if one not in (*taken, OVERALL))


def _spelled(
    name: str, truth: Sequence[SpottedInterval], pred: Sequence[SpottedInterval]
) -> ChallengePart:
    """Subjects without padding on both sides: 006 and 6 are one person."""

    def plain(one: SpottedInterval) -> SpottedInterval:
        if not one.subject:
            return one
        video = one.video.removeprefix(f"{one.subject}/")
        subject = unpadded(one.subject)
        return replace(one, subject=subject, video=f"{subject}/{video}")

    return ChallengePart(name, tuple(map(plain, truth)), tuple(map(plain, pred)))


def _questions(pred: Sequence[Path], truth: Sequence[Path], fine: Sequence[str]) -> ScoreSheet:
    known = [q for path in truth for q in read_questions(path)]
    given = [q for path in pred for q in read_questions(path)]
    ids = [q.id for q in known]
    unanswered = [q.id for q in known if not q.answer.strip()]
    if len(set(ids)) < len(ids) or unanswered:
        raise InputError(
            "truth of the questions",
            expected="every question once, with its true answer",
            got=f"{len(ids) - len(set(ids))} twice, {len(unanswered)} without an answer "
            f"({', '.join(unanswered[:3])})",
            todo="A file ..._to_answer.jsonl is no truth.",
            code="bad_challenge_file",
        )
    strange = sorted({q.id for q in given} - set(ids))
    if strange:
        raise InputError(
            "answers",
            expected="ids of the truth file",
            got=f"{len(strange)} unknown, such as {strange[0]}",
            code="bad_challenge_file",
        )
    answers = {q.id: q.answer for q in given}
    if len(answers) < len(given):
        raise InputError(
            "answers", expected="every id once", got=f"{len(given) - len(answers)} again",
            code="bad_challenge_file",
        )  # fmt: skip
    rows = paired(known, answers)
    missing = sum(not answers.get(i, "").strip() for i in ids)
    notes = [PRIOR_NOTE] + ([f"{missing} of {len(ids)} rows unanswered: wrong"] if missing else [])
    long = any(q.kind in LONG for q in known)
    scores: list[ChallengeScore] = []
    for part in _parts(known):
        some = [r for r in rows if part in (r.asked.part, OVERALL)]
        scores += _of_kind(part, some, long, fine)
    return ScoreSheet("LVQA" if long else "VQA", tuple(scores), tuple(notes))


def _parts(known: Sequence[Question]) -> list[str]:
    parts = sorted({q.part for q in known})
    return [*parts, OVERALL] if len(parts) > 1 else parts


def _of_kind(
    part: str, rows: Sequence[AnswerRow], long: bool, fine: Sequence[str]
) -> list[ChallengeScore]:
    """Long videos of another's question set may be asked for emotions and text, too."""
    if not long:
        return clip_scores(part, rows, fine)
    found = long_scores(part, rows)
    if any(r.asked.kind in ("coarse", "fine", "free") for r in rows):
        found += clip_scores(part, rows, fine)
    return found
