"""Names of action units as the challenge's answers write them, and their FACS numbers.

Two public programs disagree on a few names ("eye closure" is 43 in FACS, 46 in one of them; one
folds "lip pressor", 24, into "lip tightener", 23); the numbers here are FACS's own. Names without a
number of their own (a turned head) are known as such, and unknown names are reported.
"""

from __future__ import annotations

import re

NAMES = {
    "inner brow raiser": 1, "outer brow raiser": 2, "brow lowerer": 4, "upper lid raiser": 5,
    "cheek raiser": 6, "lid tightener": 7, "nose wrinkler": 9, "upper lip raiser": 10,
    "nasolabial deepener": 11, "lip corner puller": 12, "cheek puffer": 13, "dimpler": 14,
    "lip corner depressor": 15, "lower lip depressor": 16, "chin raiser": 17, "lip puckerer": 18,
    "tongue show": 19, "lip stretcher": 20, "neck tightener": 21, "lip funneler": 22,
    "lip tightener": 23, "lip pressor": 24, "lips part": 25, "jaw drop": 26, "mouth stretch": 27,
    "lip suck": 28, "jaw thrust": 29, "jaw sideways": 30, "jaw clencher": 31, "lip bite": 32,
    "cheek blow": 33, "cheek puff": 34, "cheek suck": 35, "nostril dilator": 38,
    "nostril compressor": 39, "lid droop": 41, "slit": 42, "eye closure": 43, "squint": 44,
    "blink": 45, "wink": 46, "head turn left": 51, "head turn right": 52, "head up": 53,
    "head down": 54, "head tilt left": 55, "head tilt right": 56, "eyes left": 61,
    "eyes right": 62, "eyes up": 63, "eyes down": 64,
}  # fmt: skip
SPELLINGS = {
    "nostril dilater": "nostril dilator", "nostril compress": "nostril compressor",
    "tilt right": "head tilt right", "tilt left": "head tilt left", "eyes closed": "eye closure",
    "eye close": "eye closure", "lip press": "lip pressor", "lip tighten": "lip tightener",
    "turn left": "head turn left", "turn right": "head turn right", "eyes closure": "eye closure",
}  # fmt: skip
_NUMBER = re.compile(r"(?:au|action unit)?\s*(\d{1,2})")
_NOTHING = {"", "none", "no", "nothing", "no action unit", "no action units"}


def units_in(answer: str) -> tuple[frozenset[int], tuple[str, ...]]:
    """Numbers of the units that an answer lists, and the words that are none.

    Items are divided by commas, semicolons, "and" or line ends; each is a name, `AU12` or `12`. A
    sentence before a colon ("The action units present are:") is passed over.
    """
    text = answer.strip().lower().rstrip(".")
    text = re.sub(r"^[^:]*\b(?:is|are|unit|units)\b[^:]*:\s*", "", text)
    numbers: set[int] = set()
    unknown: list[str] = []
    for item in re.split(r"[,;\n]|\band\b", text):
        name = " ".join(re.sub(r"^(?:left|right|unilateral)\s+", "", item.strip(" .")).split())
        name = SPELLINGS.get(name, name)
        found = _NUMBER.fullmatch(name)
        if name in _NOTHING:
            continue
        if name in NAMES:
            numbers.add(NAMES[name])
        elif found:
            numbers.add(int(found[1]))
        else:
            unknown.append(name)
    return frozenset(numbers), tuple(unknown)


def name_of(number: int) -> str:
    """The name of a unit; `AU<n>` where it has none here."""
    return next((name for name, n in NAMES.items() if n == number), f"AU{number}")
