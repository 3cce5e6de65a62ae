"""Items produced in a thread: the same ones in order, errors passed on, an end with the reader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data.prefetch import ahead


def test_order_is_kept_and_errors_passed_on() -> None:
    assert list(ahead(iter(range(50)), depth=3)) == list(range(50))

    def failing() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    found = ahead(failing())
    assert next(found) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(found)


def test_the_thread_stops_with_its_reader() -> None:
    made: list[int] = []
    items = ahead((made.append(i) or i for i in range(10_000)), depth=2)  # type: ignore[func-returns-value]
    next(items)
    items.close()
    assert len(made) < 20


def test_an_endless_supply_ends_with_its_reader() -> None:
    items = ahead(iter(lambda: 7, None), depth=1)
    assert next(items) == 7
    items.close()
