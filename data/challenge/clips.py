"""Composite recognition files of MEGC 2019: one class a clip, over three databases.

    casme2,sub01,EP02_01f,1            the official list and, with predicted classes, a prediction
    casme2 sub01                       or the official log: a line a fold,
    EP02_01f 1 0                       then clip, true class, predicted class

Classes are 0 negative, 1 positive, 2 surprise, or their names. Clips are known by database and
clip, subjects with or without padding.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from data.challenge.forms import read_text
from data.datasets.published import unpadded
from data.errors import InputError

CLASSES = ("negative", "positive", "surprise")
DATABASES = ("casme2", "samm", "smic")


@dataclass(frozen=True)
class ChallengeClip:
    """A clip's class, true or predicted, whatever the file holds."""

    database: str
    subject: str
    clip: str
    label: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Database, subject without padding, clip: names repeat between subjects of CASME II."""
        digits = re.search(r"\d+", self.subject)
        return self.database, str(int(digits[0])) if digits else self.subject, unpadded(self.clip)


def is_clip_file(path: Path) -> bool:
    """Whether a file begins with a clip row or a fold's line."""
    first = next((line for line in read_text(path).split("\n") if line.strip(" ,")), "")
    return bool(re.match(r"(database\b|casme2|samm|smic)[, ]", first.strip().lower()))


def read_clips(path: Path) -> tuple[ChallengeClip, ...]:
    """Clips in order; of a log the predicted classes. Raises InputError `bad_challenge_file`."""
    clips: list[ChallengeClip] = []
    fold: tuple[str, str] | None = None
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path.name}, line {number}"
        comma = "," in line
        try:
            cells = next(csv.reader(io.StringIO(line)), []) if comma else line.split()
        except csv.Error as error:
            raise _bad(where, "database,subject,clip,class", str(error)) from error
        cells = [c.strip() for c in cells]
        if not any(cells) or cells[0].lower() == "database":
            continue
        if comma and len(cells) >= 4 and cells[0].lower() in DATABASES:
            clips.append(
                ChallengeClip(cells[0].lower(), cells[1], cells[2], _label(where, cells[3]))
            )
        elif not comma and len(cells) == 2 and cells[0].lower() in DATABASES:
            fold = (cells[0].lower(), cells[1])
        elif not comma and len(cells) == 3 and fold is not None:
            clips.append(ChallengeClip(*fold, cells[0], _label(where, cells[2])))
        else:
            raise _bad(where, "database,subject,clip,class or a log line", line[:80])
    keys = [c.key for c in clips]
    if len(set(keys)) < len(keys):
        again = next(k for k in keys if keys.count(k) > 1)
        raise _bad(path.name, "every clip once", f"{'/'.join(again)} again")
    return tuple(clips)


def _label(where: str, cell: str) -> str:
    word = cell.lower()
    if word.isdigit() and int(word) < len(CLASSES):
        return CLASSES[int(word)]
    if not word:
        raise _bad(where, f"a class, 0 to 2 or {', '.join(CLASSES)}", "none")
    return word  # a class outside the list is a wrong answer, not an absent one


def _bad(who: str, expected: str, got: str) -> InputError:
    return InputError(who[:300], expected=expected, got=got, code="bad_challenge_file")
