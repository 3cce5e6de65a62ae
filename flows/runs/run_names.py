"""Names of runs that nobody chose. A person's name is kept, an invented one gives way to ours."""

from __future__ import annotations

from typing import Any

_OF_THE_FORM = {
    *("Awesome", "Rustic", "Small", "Gorgeous", "Fantastic", "Sleek", "Intelligent", "Unbranded"),
    *("Refined", "Licensed", "Generic", "Practical", "Ergonomic", "Handcrafted", "Tasty"),
    *("Handmade", "Incredible"),
}
_LONGEST_ANIMAL = 6


def invented(name: str) -> bool:
    """Whether Prefect made a name up: its server two words (lovely-lynx), the form in its UI one
    of a few adjectives and a short animal (Rustic-Slug)."""
    from coolname.data import config

    first, _, second = name.partition("-")
    if first in _OF_THE_FORM and second.istitle() and len(second) <= _LONGEST_ANIMAL:
        return True
    parts: Any = config.values()
    known = {w for part in parts if part["type"] == "words" for w in part["words"]}
    return all(word in known for word in name.split("-"))
