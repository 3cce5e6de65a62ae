"""Which names of runs are a person's own."""

from __future__ import annotations

import pytest
from coolname import generate_slug

from flows.runs.run_names import invented


@pytest.mark.parametrize("name", ["lovely-lynx", "Incredible-Lynx", "Rustic-Slug"])
def test_a_name_that_prefect_made_up_is_known(name: str) -> None:
    assert invented(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a name I chose", "Lovely-Lynx2", "Rustic-cabins", "My-Run", "x", "", "-"),
        *("paper", "original", "first", "final", "lynx", "Small-Test", "Generic-Folds"),
        *("original-paper", "first-light-lynx", "golden-standard", "small-camera"),
    ],
)
def test_a_persons_name_is_kept(name: str) -> None:
    assert not invented(name)


def test_every_name_of_coolname_with_two_words_is_known() -> None:
    assert all(invented(generate_slug(2)) for _ in range(500))
