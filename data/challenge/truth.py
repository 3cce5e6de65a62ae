"""What was drawn into synthetic test recordings, as a challenge's truth (`truth.json`)."""

from __future__ import annotations

import json
from pathlib import Path

from data.challenge.forms import Form, SpottedInterval, read_text, unpadded
from data.datasets.base import GENERATOR
from data.datasets.label_maps import label_of
from data.errors import InputError

KINDS = {"micro": "me", "macro": "mae"}
LABELS = "dfme"  # all seven emotions in three classes


def drawn_truth(path: Path, part: str, form: Form) -> tuple[SpottedInterval, ...]:
    """Events of the videos `part/...`, named and numbered as a submission names them.

    For "str" only micro-expressions, their emotion in three classes. Raises InputError
    `bad_challenge_file` for another JSON file, or one without a video of that part.
    """
    try:
        record = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise _bad(path, str(error)) from error
    if not isinstance(record, dict) or record.get("generator") != GENERATOR:
        raise _bad(path, "another JSON file")
    found, known = [], False
    for video in record["videos"]:
        of, _, name = video["video"].partition("/")
        if of != part:
            continue
        known = True
        subject = unpadded(video["subject"])
        for event in video["events"]:
            kind = KINDS.get(event["type"])
            ends = event["onset_number"], event["offset_number"]
            if kind is None or (form == "str" and kind != "me"):
                continue
            if form == "spotting":
                found.append(SpottedInterval(name, *ends, kind))
            else:
                emotion = label_of(LABELS, "label_3", event["emotion"]) or "others"
                found.append(SpottedInterval(f"{subject}/{name}", *ends, "me", emotion, subject))
    if not known:
        raise _bad(path, f"no video of part {part}")
    return tuple(found)


def _bad(path: Path, got: str) -> InputError:
    return InputError(
        str(path), expected="truth.json of a synthetic test set", got=got[:200],
        code="bad_challenge_file",
    )  # fmt: skip
