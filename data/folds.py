"""Who is trained on and who is tested: splits of events by person, and published fold lists.

A split of ours never has a person, or a video, on both sides of a fold; that is proven when it is
made. Published lists are taken as they are, under their own name; the people they put on both sides
are listed in `people_shared`, and a fold list with any is subject-dependent.

Event ids are unique inside one dataset. Where events of several datasets come together, ids in a
split read "dataset:event"; with one dataset they are the plain event ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import SplitError
from data.held_out import Fold, HeldOut
from data.stages.identity import bucket_of, stable_hash

COLUMNS = ("dataset", "person", "video", "event")
BY_DATASET = "leave_one_dataset_out"


@dataclass(frozen=True)
class Split:
    """A named set of folds.

    `folds`: fold name -> (train event ids, test event ids), both sorted; splits of ours make a
    side when it is asked for (`data.held_out`).
    `people_shared`: fold name -> people on both sides; empty for a subject-independent split.
    `videos_shared`: the same for videos ("dataset:video").
    `datasets_shared`: the same for datasets, where the split holds out whole ones.
    `digest`: changes when any id of any fold changes; two runs with one digest used the same split.
    """

    name: str
    folds: Mapping[str, Fold]
    people_shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    videos_shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    datasets_shared: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Stable hash of all folds."""
        if isinstance(self.folds, HeldOut):
            return self.folds.digest()
        return stable_hash(sorted((n, list(a), list(b)) for n, (a, b) in self.folds.items()))

    @property
    def subject_independent(self) -> bool:
        """Whether no person is on both sides of any fold."""
        return not self.people_shared

    def named(self) -> set[str]:
        """Every id on a side of a fold."""
        if isinstance(self.folds, HeldOut):
            return self.folds.named()
        return {i for sides in self.folds.values() for side in sides for i in side}

    def tested(self) -> set[str]:
        """Every id that some fold tests."""
        if isinstance(self.folds, HeldOut):
            return {self.folds.ids[i] for own in self.folds.tests.values() for i in own.tolist()}
        return {i for _, test in self.folds.values() for i in test}

    def describe(self) -> str:
        """One line a fold that shares people, or one line saying that none does."""
        if self.subject_independent:
            return f"{self.name}: {len(self.folds)} folds, no person on both sides of any"
        lines = [f"{self.name}: SUBJECT-DEPENDENT, people on both sides of a fold:"]
        lines += [f"  fold {n}: {len(p)} people" for n, p in sorted(self.people_shared.items())]
        return "\n".join(lines)


def event_ids(events: pd.DataFrame) -> pd.Series:
    """Ids of events as a split names them: plain for one dataset, "dataset:event" for several."""
    if events["dataset"].nunique() > 1:
        return events["dataset"].astype(str) + ":" + events["event"].astype(str)
    return events["event"].astype(str)


def leave_one_subject_out(events: pd.DataFrame) -> Split:
    """One fold a person, named by the person; test = that person's events, train = all others'.

    `events` needs the columns dataset, person, video, event. Raises SplitError for fewer than two
    people, missing columns, repeated ids, or a video that two people share.
    """
    table = _checked(events)
    people = sorted(table["person"].unique())
    if len(people) < 2:
        raise SplitError(
            "leave_one_subject_out",
            expected="events of at least 2 people",
            got=f"{len(people)}",
            code="too_few_people",
        )
    return _by_person("leave_one_subject_out", table, {p: [p] for p in people})


def subject_kfold(events: pd.DataFrame, k: int, seed: int = 0, label: str | None = None) -> Split:
    """k folds grouped by person and, as far as groups allow, equal in size and class counts.

    People are dealt out greedily, the one with most events first, each to the fold it leaves most
    even; ties go by a seeded shuffle. `label` names the column to stratify by (default: label_3
    where it has values). Folds are named fold_1..fold_k. Raises SplitError as
    `leave_one_subject_out` does, and for k < 2 or more folds than people.
    """
    table = _checked(events)
    events = events.reset_index(drop=True)  # as `table` has it
    people = sorted(table["person"].unique())
    if not 2 <= k <= len(people):
        raise SplitError(
            "subject_kfold",
            expected=f"2 <= k <= {len(people)} people",
            got=f"k = {k}",
            code="bad_fold_count",
        )
    counts = _class_counts(events.assign(person=table["person"]), people, label)
    groups = _deal(people, counts, k, np.random.default_rng(seed))
    named = {f"fold_{i + 1}": sorted(group) for i, group in enumerate(groups)}
    return _by_person("subject_kfold", table, named)


def leave_one_dataset_out(events: pd.DataFrame) -> Split:
    """One fold a dataset, named by it; test = that dataset's events, train = all others'.

    A person of the tested dataset who was recorded for another one too (SAMM and SAMM-LV) does not
    train in that fold. `events` and errors as of `leave_one_subject_out`, with at least two
    datasets.
    """
    table = _checked(events)
    datasets = sorted(table["dataset"].unique())
    if len(datasets) < 2:
        raise SplitError(
            BY_DATASET,
            expected="events of at least 2 datasets",
            got=", ".join(datasets),
            code="too_few_datasets",
        )
    table = table.sort_values("id", kind="stable", ignore_index=True)
    tests, without = {}, {}
    for dataset in datasets:
        test = table["dataset"] == dataset
        tested = set(table.loc[test, "person"])
        tests[dataset] = np.flatnonzero(test)
        without[dataset] = np.flatnonzero(test | table["person"].isin(tested))
    folds = HeldOut(table["id"], tests, without)
    return _proven(BY_DATASET, folds, table)


def inner_people(
    events: pd.DataFrame, outer: Iterable[str], fold: str, k: int, label: str | None = None
) -> list[str]:
    """Those of a fold's training people who choose for it: one group of k, by `subject_kfold`.

    events: the fold's training side; outer: its tested people, never among the answer (a published
    list may train on them). Which group it is follows from the fold's name, so that over the folds
    most people have a turn. Raises SplitError `too_few_people` for fewer than two to deal.
    """
    own = events[~events["person"].astype(str).isin(set(outer))]
    people = own["person"].astype(str).nunique()
    if people < 2:
        raise SplitError(
            f"inner people of {fold}",
            expected="at least 2 training people",
            got=f"{people}",
            todo="Use fewer folds, or set epoch_scores.nested: false.",
            code="too_few_people",
        )
    k = min(k, people)
    groups = list(subject_kfold(own, k, 0, label).folds.values())
    owner = dict(zip(event_ids(own), own["person"].astype(str), strict=True))
    return sorted({owner[i] for i in groups[bucket_of(fold, k)][1]})


def _class_counts(
    events: pd.DataFrame, people: list[str], label: str | None
) -> dict[str, np.ndarray]:
    """Events a person has of each class; the last entry counts all of them."""
    column = label or ("label_3" if "label_3" in events else None)
    if column is not None and column not in events:
        raise SplitError(
            "subject_kfold", expected=f"a column {column}", got=f"{list(events.columns)}"
        )
    names = events[column].astype("string").fillna("") if column else pd.Series("", events.index)
    table = pd.crosstab(events["person"].astype(str), names).reindex(people)
    rows = np.column_stack([table.to_numpy(), table.to_numpy().sum(axis=1)]).astype(float)
    return dict(zip(people, rows, strict=True))


def _deal(
    people: list[str], counts: Mapping[str, np.ndarray], k: int, rng: np.random.Generator
) -> list[list[str]]:
    total = sum(counts.values(), np.zeros_like(next(iter(counts.values()))))
    scale = np.where(total > 0, total, 1.0)
    order = list(rng.permutation(people))
    order.sort(key=lambda p: -counts[p][-1])
    sums = np.zeros((k, len(total)))
    groups: list[list[str]] = [[] for _ in range(k)]
    for at, person in enumerate(order):
        empty = [i for i in range(k) if not groups[i]]
        choices = empty if len(empty) >= len(order) - at else list(range(k))
        best = min(choices, key=lambda i: _unevenness(sums, i, counts[person] / scale))
        sums[best] += counts[person] / scale
        groups[best].append(str(person))
    return groups


def _unevenness(sums: np.ndarray, fold: int, extra: np.ndarray) -> tuple[float, float]:
    """How uneven folds are, class by class, once `fold` takes `extra`; ties by its size."""
    trial = sums.copy()
    trial[fold] += extra
    return float(trial.std(axis=0).sum()), float(sums[fold, -1])


def _checked(events: pd.DataFrame) -> pd.DataFrame:
    """The four columns as text plus the split's ids."""
    missing = [c for c in COLUMNS if c not in events]
    if missing:
        raise SplitError(
            "events", expected=f"columns {', '.join(COLUMNS)}", got=f"without {', '.join(missing)}"
        )
    if events.empty:
        raise SplitError("events", expected="at least one event", got="none", code="no_events")
    if events[list(COLUMNS)].isna().to_numpy().any():
        raise SplitError("events", expected="no empty dataset, person, video or event", got="some")
    table = events[list(COLUMNS)].astype(str).reset_index(drop=True)
    table["id"] = event_ids(table)
    repeated = table["id"][table["id"].duplicated()].unique()
    if len(repeated):
        raise SplitError(
            "events",
            expected="unique event ids",
            got=f"{', '.join(repeated[:5])} more than once",
            code="repeated_ids",
        )
    table["video"] = table["dataset"] + ":" + table["video"]
    return table


def _by_person(name: str, table: pd.DataFrame, groups: Mapping[str, Iterable[str]]) -> Split:
    table = table.sort_values("id", kind="stable", ignore_index=True)
    places = {str(p): np.asarray(own) for p, own in table.groupby("person").indices.items()}
    tests = {fold: np.sort(np.concatenate([places[p] for p in g])) for fold, g in groups.items()}
    return _proven(name, HeldOut(table["id"], tests), table)


def _proven(name: str, folds: HeldOut, table: pd.DataFrame) -> Split:
    """The split of these folds. Raises SplitError when a person, a video or, where whole ones are
    held out, a dataset is on both sides."""
    people, videos, datasets = (
        folds.shared(dict(zip(table["id"], table[of], strict=True)))
        for of in ("person", "video", "dataset")
    )
    split = Split(name, folds, people, videos, datasets if name == BY_DATASET else {})
    prove_disjoint(split)
    return split


def with_training_events(split: Split, events: pd.DataFrame, extra: pd.DataFrame) -> Split:
    """The same folds with `extra` events, which nobody is tested on, added to training.

    An extra event joins a fold unless its person is tested there or, in a split that holds out
    whole datasets, its dataset. `events` are those the split was made of; both need the columns
    dataset, person, video, event, and the same datasets. Raises SplitError when that puts a person,
    a video or a held-out dataset on both sides.
    """
    table = _checked(pd.concat([events, extra], ignore_index=True))
    before = split.folds
    if not isinstance(before, HeldOut):
        raise SplitError(split.name, expected="a split of ours", got="a published one")
    known = set(table["id"][: len(events)])
    strange = sorted(set(before.ids) - known)
    if strange:
        raise SplitError(split.name, expected="events of these tables", got=", ".join(strange[:5]))
    added = set(table["id"][len(events) :])
    table = table.sort_values("id", kind="stable", ignore_index=True)
    ids = table["id"].tolist()
    here = {name: place for place, name in enumerate(ids)}
    people, extras = table["person"].tolist(), table[table["id"].isin(added)]
    of_person, of_dataset = (extras.groupby(of).indices for of in ("person", "dataset"))
    datasets, places = table["dataset"].tolist(), extras.index.to_numpy()
    moved = np.array([here[i] for i in before.ids], np.int64)
    unused = [here[name] for name in known - set(before.ids)]
    tests = {fold: moved[own] for fold, own in before.tests.items()}
    without = {}
    for fold, own in before.without.items():
        own_people = {people[place] for place in tests[fold].tolist()}
        left = [of_person[person] for person in own_people & of_person.keys()]
        if split.name == BY_DATASET:
            held_out = {datasets[place] for place in tests[fold].tolist()}
            left += [of_dataset[name] for name in held_out & of_dataset.keys()]
        gone = places[np.concatenate(left)] if left else []
        without[fold] = np.unique([*moved[own].tolist(), *gone, *unused])
    return _proven(split.name, HeldOut(ids, tests, without), table)


def shared(folds: Mapping[str, Fold], owner: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Fold name -> owners (people or videos) on both sides; folds without any are left out."""
    if isinstance(folds, HeldOut):
        return folds.shared(owner)
    found = {}
    for name, (train, test) in folds.items():
        both = {owner[i] for i in train} & {owner[i] for i in test}
        if both:
            found[name] = tuple(sorted(both))
    return found


def prove_disjoint(split: Split) -> None:
    """Raise SplitError naming the people, videos, held-out datasets or events on both sides of a
    fold, or an empty side. Our own splits are always proven; a published list need not pass."""
    for name in split.folds:
        sizes, both = _sizes_and_common(split.folds, name)
        for what, names in (
            ("people", split.people_shared.get(name, ())),
            ("videos", split.videos_shared.get(name, ())),
            ("datasets", split.datasets_shared.get(name, ())),
            ("events", tuple(sorted(both))),
        ):
            if names:
                raise SplitError(
                    f"{split.name}, fold {name}",
                    expected=f"no {what} on both sides",
                    got=f"{len(names)} shared: {', '.join(names[:10])}",
                    code=f"{what}_shared",
                )
        if not all(sizes):
            raise SplitError(
                f"{split.name}, fold {name}",
                expected="events on both sides",
                got=f"{sizes[0]} to train on, {sizes[1]} to test on",
                code="empty_fold",
            )


def _sizes_and_common(folds: Mapping[str, Fold], name: str) -> tuple[tuple[int, int], set[str]]:
    """How many are on each side, and ids that are on both."""
    if isinstance(folds, HeldOut):
        both = np.setdiff1d(folds.tests[name], folds.without[name])
        return folds.sizes(name), {folds.ids[i] for i in both.tolist()}
    train, test = folds[name]
    return (len(train), len(test)), set(train) & set(test)


def published_split(name: str, path: str | Path) -> Split:
    """A fold list as published; `name` is its format, `path` its file or folder.

    hsta_objective, hsta_objective_macro, hsta_emotion: folder with the HSTA authors' fold CSVs for
    CAS(ME)^3 (train_fold_1.csv, test_fold_1.csv, ...); subject-dependent.
    megc2019: the official composite list (database,subject,clip,label), one fold a subject.
    csv: columns fold, role (train|test), event, and optionally dataset, person, video.

    Raises SplitError for an unknown name, a missing or malformed file, an empty side, or an event
    on both sides of a fold. People on both sides are no error here: see `people_shared`.
    """
    from data.datasets.published import READERS

    if name not in READERS:
        raise SplitError("published split", expected=f"one of {', '.join(READERS)}", got=name)
    table = READERS[name](Path(path))
    if table.empty:
        raise SplitError(
            f"{name} at {path}", expected="rows", got="none that fit", code="bad_fold_file"
        )
    people = dict(zip(table["event"], table["person"], strict=True))
    videos = dict(zip(table["event"], table["video"], strict=True))
    folds = {}
    for fold, rows in table.groupby("fold", sort=True):
        test = rows["role"] == "test"
        folds[str(fold)] = (
            tuple(sorted(rows.loc[~test, "event"].unique())),
            tuple(sorted(rows.loc[test, "event"].unique())),
        )
    split = Split(name, folds, shared(folds, people), shared(folds, videos))
    prove_disjoint(Split(name, folds))  # empty sides and shared events stay errors
    return split
