"""Folds by who is left out: one list of ids and, a fold, the few that are tested.

Leave-one-subject-out over E events and P people has E × P ids on its training sides. Here a side is
made when somebody asks for it, so that a split costs memory by its events, however many folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from data.stages.identity import KEY_LENGTH, JoinedJson, plain_json

Fold = tuple[tuple[str, ...], tuple[str, ...]]
Places = npt.NDArray[np.int64]
Item = TypeVar("Item")


class HeldOut(Mapping[str, Fold]):
    """Fold name → (train ids, test ids), both sorted; a `dict` of tuples in all but memory.

    ids: all of them, sorted; tests: fold → places in `ids` that are tested, ascending; without:
    fold → places that are not trained on, ascending (default: those that are tested).
    """

    def __init__(
        self,
        ids: Sequence[str],
        tests: Mapping[str, Places],
        without: Mapping[str, Places] | None = None,
    ) -> None:
        self.ids = tuple(ids)
        self.tests = dict(tests)
        self.without = dict(tests if without is None else without)

    def __getitem__(self, name: str) -> Fold:
        train, test = self.places(name)
        ids = self.ids
        return tuple(ids[i] for i in train.tolist()), tuple(ids[i] for i in test.tolist())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tests)

    def __len__(self) -> int:
        return len(self.tests)

    def places(self, name: str) -> tuple[Places, Places]:
        """Places in `ids` of both sides, ascending."""
        trained = np.ones(len(self.ids), bool)
        trained[self.without[name]] = False
        return np.flatnonzero(trained), self.tests[name]

    def sizes(self, name: str) -> tuple[int, int]:
        """How many are trained on and tested."""
        return len(self.ids) - len(self.without[name]), len(self.tests[name])

    def named(self) -> set[str]:
        """Ids on a side of some fold."""
        never = np.ones(len(self.ids), bool)  # trained on in no fold
        for name, out in self.without.items():
            inside = np.zeros(len(self.ids), bool)
            inside[out] = True
            inside[self.tests[name]] = False
            never &= inside
        return {name for name, lost in zip(self.ids, never.tolist(), strict=True) if not lost}

    def shared(self, owner: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Fold → owners on both sides; folds without any are left out."""
        names, codes = np.unique([owner[i] for i in self.ids], return_inverse=True)
        total = np.bincount(codes, minlength=len(names))
        found = {}
        for fold, test in self.tests.items():
            own, counts = np.unique(codes[self.without[fold]], return_counts=True)
            gone = np.zeros(len(names), np.int64)
            gone[own] = counts
            tested = np.unique(codes[test])
            both = tested[total[tested] > gone[tested]]
            if len(both):
                found[fold] = tuple(str(names[i]) for i in both)
        return found

    def digest(self) -> str:
        """`stable_hash(sorted((name, train, test)))`, without the lists."""
        texts = JoinedJson(self.ids)
        digest = hashlib.sha256(b"[[")
        for number, name in enumerate(sorted(self)):
            digest.update(("," if number else "").encode() + plain_json(name)[:-1].encode() + b",")
            train, test = self.places(name)
            texts.feed(digest, train)
            digest.update(b",")
            texts.feed(digest, test)
            digest.update(b"]")
        digest.update(b"]]")
        return digest.hexdigest()[:KEY_LENGTH]


class Side(Sequence[Item]):
    """A side of a fold, made each time it is gone through; a tuple once it is sent to a worker."""

    def __init__(self, length: int, make: Callable[[], tuple[Item, ...]]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        return iter(self._make())

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        return self._make()[place]

    def __contains__(self, item: object) -> bool:
        return item in self._make()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Side | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self._make())

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._make(),)
