"""Which names of runs are a person's own."""

from __future__ import annotations

import pytest

from flows.runs.run_names import invented


@pytest.mark.parametrize("name", ["lovely-lynx", "Incredible-Lynx", "Rustic-Slug"])
def test_a_name_that_prefect_made_up_is_known(name: str) -> None:
    assert invented(name)


@pytest.mark.parametrize("name", ["a name I chose", "Lovely-Lynx2", "Rustic-cabins", "My-Run", "x"])
def test_a_persons_name_is_kept(name: str) -> None:
    assert not invented(name)
