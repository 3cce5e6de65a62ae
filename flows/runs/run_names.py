"""Names of runs that nobody chose. A person's name is kept, an invented one gives way to ours."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

_OF_THE_FORM = {
    *("Awesome", "Rustic", "Small", "Gorgeous", "Fantastic", "Sleek", "Intelligent", "Unbranded"),
    *("Refined", "Licensed", "Generic", "Practical", "Ergonomic", "Handcrafted", "Tasty"),
    *("Handmade", "Incredible"),
}
_ANIMALS = Path(__file__).with_name("form_animals.txt")  # of Prefect 3.9.1's form


def invented(name: str) -> bool:
    """Whether Prefect made a name up, which is always of two words.

    Its server joins an adjective and an animal of coolname's (lovely-lynx), the form in its UI one
    of a few adjectives and an animal of at most six letters (Rustic-Slug).
    """
    if name.count("-") != 1:
        return False
    first, second = name.split("-")
    if first in _OF_THE_FORM and second in _ANIMALS.read_text(encoding="utf-8").split():
        return True
    return first in _of_coolname("adj_any") and second in _of_coolname("subj")


@cache
def _of_coolname(rule: str) -> frozenset[str]:
    """The words that a rule of coolname's chooses from."""
    from coolname.data import config

    part: Any = config[rule]
    if part["type"] == "words":
        return frozenset(part["words"])
    return frozenset().union(*map(_of_coolname, part["lists"]))
