"""Action-unit cells of annotation sheets, read into one canonical text.

Every coder has a spelling: `4+L10`, `AU4+AU7`, `R4,5`, `12L`, `4(B/C)+7B`, `A(4B/C)`, `(L/A)4B`,
`(R6 or R12)+R15`, `((8+25)or(50))`, `14(k)`, full-width signs, and remarks between the units.
Nothing here raises: what cannot be understood comes back in a note, the caller reports it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from data.datasets.parsing import MISSING, Cell, text


@dataclass(frozen=True)
class ActionUnit:
    """One coded action unit.

    `side`: "" both, L, R, A (asymmetric), T (top), B (bottom). `intensity`: "" or A..E.
    `kept`: held through the clip, not part of the movement.
    """

    number: int
    side: str = ""
    intensity: str = ""
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.side}{self.number}{self.intensity}{'(k)' if self.kept else ''}"


LONGEST = 300  # characters of a cell that is read; the longest known has about 60
_UNIT = re.compile(
    r"(?P<side>[LRATB]?)(?:AU|AD)?(?P<side2>[LRATB]?)(?P<number>[0-9]{1,2})(?:\.0)?"
    r"(?P<intensity>[A-E]?)[A-E]?(?P<side3>[LR]?)(?P<kept>\(K\))?"
)
# spellings brought into one, in this order
_REWRITES = [
    (re.compile(r"[,;]"), "+"),
    (re.compile(r"\bREF\s*\([^()]*\)"), "+"),  # seen as a consequence of another unit: none itself
    (re.compile(r"(?<=[0-9])\(([A-E])(?:/[A-E])*\)"), r"\1"),  # 4(B/C): the lower intensity
    (re.compile(r"(?<=[0-9])([A-E])(?:/[A-E])+(?![0-9A-Z])"), r"\1"),  # 4B/C
    (re.compile(r"(?<![0-9A-Z])\(?([LRATB])/[LRATB]\)?(?=[0-9])"), r"\1"),  # (L/A)4: the first side
    (re.compile(r"\b([LRATB])\(([0-9]{1,2}[A-E]?)\)"), r"\1\2"),  # A(4B)
]
_ALTERNATIVE = re.compile(r"\bOR\b|/")
_NOT_SEEN = re.compile(r"\b(?:LOSES|LOST|NO|NOT|WITHOUT)\b")


def action_units(cell: Cell) -> tuple[str | None, str]:
    """Canonical text of an action-unit cell and a note on what was not understood.

    Canonical: units joined by "+" in the sheet's order, side before, intensity (the lower of a
    range) after, "(k)" for kept; alternatives joined by "|", of alternative groups the first one.
    `?` and blank are no unit, nor is `ref(43)`, a movement the coder refers to another unit.
    Returns (None, note) when no unit is left; note "" when all was read.
    """
    word = unicodedata.normalize("NFKC", text(cell)).replace("\u2044", "/").upper()
    if word.lower() in MISSING:
        return None, ""
    if len(word) > LONGEST:
        return None, f"not understood: a cell of {len(word)} characters"
    for pattern, new in _REWRITES:
        word = pattern.sub(new, word)
    units: list[str] = []
    unread: list[str] = []
    for term in _split(word.replace("?", "")):
        units += _read_term(term, unread)
    note = f"not understood: {', '.join(dict.fromkeys(unread))}" if unread else ""
    return ("+".join(dict.fromkeys(units)) or None), note


def _split(word: str) -> list[str]:
    """Terms between the + signs outside parentheses, without the empty ones."""
    word = _closed(word)
    terms, depth, start = [], 0, 0
    for at, char in enumerate(word + "+"):
        depth = max(depth + (char == "(") - (char == ")"), 0)  # a stray ")" closes nothing
        if char == "+" and (depth == 0 or at == len(word)):
            terms.append(word[start:at].strip())
            start = at + 1
    return [t for t in terms if t.strip("() ")]


def _closed(word: str) -> str:
    """The word with a blank for every "(" that nothing closes."""
    signs, waiting = list(word), []
    for at, char in enumerate(word):
        if char == "(":
            waiting.append(at)
        elif char == ")" and waiting:
            waiting.pop()
    for at in waiting:
        signs[at] = " "
    return "".join(signs)


def _read_term(term: str, unread: list[str]) -> list[str]:
    """Units of one term: a unit, alternatives of units, or alternative groups of units."""
    options = [o.strip() for o in _ALTERNATIVE.split(_bare(term))]
    units = [_one_unit(_bare(o)) for o in options]
    if all(unit is not None for unit in units):
        return ["|".join(dict.fromkeys(map(str, units)))]
    if len(options) > 1:  # groups, or some that are no unit: the first that can be read
        unread.append(term)
        groups = [[_one_unit(_bare(t)) for t in _split(_bare(o))] for o in options]
        whole = [g for g in groups if g and all(unit is not None for unit in g)]
        return [str(unit) for unit in whole[0]] if whole else []
    parts = _split(options[0])
    if len(parts) > 1:
        return [unit for part in parts for unit in _read_term(part, unread)]
    unread.append(term)
    unit = _among_words(term)
    return [] if unit is None else [str(unit)]


def _bare(term: str) -> str:
    """The term without blanks and without parentheses that enclose all of it or close nothing."""
    term = term.strip()
    while term.startswith("(") and (not term.endswith(")") or _encloses(term)):
        term = term[1:-1].strip() if term.endswith(")") else term[1:].strip()
    return term[:-1].strip() if term.endswith(")") and term.count(")") > term.count("(") else term


def _encloses(term: str) -> bool:
    """Whether the first parenthesis is closed by the last sign only."""
    depth = 0
    for at, char in enumerate(term):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at == len(term) - 1
    return False


def _among_words(term: str) -> ActionUnit | None:
    """The one unit among a remark's words (`80 (big swallow)`), None for `loses 4`."""
    if _NOT_SEEN.search(term):
        return None
    words = re.split(r"[\s()\-]+", term)
    found = [unit for unit in map(_one_unit, words) if unit is not None]
    return found[0] if len(found) == 1 else None


def _one_unit(token: str) -> ActionUnit | None:
    match = _UNIT.fullmatch(token.replace(" ", ""))
    if match is None:
        return None
    return ActionUnit(
        int(match["number"]),
        match["side"] or match["side2"] or match["side3"],
        match["intensity"],
        match["kept"] is not None,
    )


def unit_numbers(aus: str | None, *, kept: bool = False) -> set[int]:
    """Numbers of the units in a canonical text; of alternatives the first, `kept` if asked."""
    if not aus:
        return set()
    numbers = set()
    for term in aus.split("+"):
        first = term.partition("|")[0]
        if kept or not first.endswith("(k)"):
            numbers |= {int(n) for n in re.findall(r"[0-9]+", first)[:1]}
    return numbers
