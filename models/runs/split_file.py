"""split.json of a run: who is trained on and who is held out, fold by fold.

Sides hold samples only, not what a published list names in vain. Small splits list both sides of
every fold. A split of ours with more than MOST ids on its sides lists every event once (`events`)
and, a fold, who is tested and who is left out of training: the file grows with the events, not with
events times folds.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.folds import Split
from data.held_out import HeldOut, Side

MOST = 5_000_000  # ids on all sides of all folds


def split_text(
    split: Split,
    folds: Iterable[str],
    inner: Mapping[str, Sequence[str]] | None = None,
    samples: Container[str] | None = None,
) -> str:
    """The file's text; `folds`: the folders' names, in the split's order.

    `inner`: fold → ids that choose for it, with a nested choice. `samples`: ids there are; a
    published list may name others, which are then on no side. The digest is the whole list's.
    """
    people = sorted({p for shared in split.people_shared.values() for p in shared})
    lines = [
        f' "digest": {json.dumps(split.digest)}',
        f' "people_shared": {_joined([json.dumps(p) for p in people], 2)}',
    ]
    own = split.folds
    compact = isinstance(own, HeldOut) and len(own.ids) * len(own) > MOST
    written = []
    if isinstance(own, HeldOut):
        texts = [json.dumps(i) for i in own.ids]
        if compact:
            lines.append(f' "events": {_joined(texts, 2)}')
    for fold, name in zip(folds, own, strict=True):
        if isinstance(own, HeldOut):
            train, test = own.places(name)
            first = own.without[name] if compact else train
            sides = [[texts[i] for i in side.tolist()] for side in (first, test)]
        else:
            sides = [
                [json.dumps(i) for i in side if samples is None or i in samples]
                for side in own[name]
            ]
        words = ("without" if compact else "train", "test")
        both = (f'   "{w}": {_joined(s, 4)}' for w, s in zip(words, sides, strict=True))
        written.append(f"  {json.dumps(fold)}: {{\n" + ",\n".join(both) + "\n  }")
    lines.append(' "folds": {\n' + ",\n".join(written) + "\n }")
    if inner:
        each = [
            f"  {json.dumps(f)}: {_joined([json.dumps(i) for i in own], 3)}"
            for f, own in inner.items()
        ]
        lines.append(' "inner": {\n' + ",\n".join(each) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}"


def _joined(texts: Sequence[str], depth: int) -> str:
    """As `json.dumps(..., indent=1)` writes a list at this depth."""
    if not texts:
        return "[]"
    gap = "\n" + " " * depth
    return "[" + gap + f",{gap}".join(texts) + "\n" + " " * (depth - 1) + "]"


def with_sides(facts: dict[str, Any]) -> dict[str, Any]:
    """What split.json says, with both sides of every fold; sides are made when asked for."""
    if "events" not in facts:
        return facts
    place = {name: at for at, name in enumerate(facts["events"])}

    def places(of: str) -> Mapping[str, Any]:
        return {
            fold: np.array([place[i] for i in sides[of]], np.int64)
            for fold, sides in facts["folds"].items()
        }

    whole = HeldOut(facts["events"], places("test"), places("without"))
    folds = {
        fold: {
            "train": Side(whole.sizes(fold)[0], lambda f=fold: whole[f][0]),  # type: ignore[misc]
            "test": sides["test"],
        }
        for fold, sides in facts["folds"].items()
    }
    return {k: v for k, v in facts.items() if k != "events"} | {"folds": folds}
