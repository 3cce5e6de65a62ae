"""Which samples a run has, what identifies each, and who is held out in which fold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from data.datasets.composite import CD6ME_COUNTS, MEGC_DATASETS, why_not_megc2019
from data.errors import ConfigError, SplitError
from data.folds import (
    Split,
    event_ids,
    inner_people,
    leave_one_dataset_out,
    leave_one_subject_out,
    published_split,
    shared,
    subject_kfold,
    with_training_events,
)
from data.held_out import Fold
from data.schema import LEDGER, conform
from data.stages.identity import stable_hash
from data.stages.inputs import StageInputs, shared_inputs
from data.stages.registry import STAGES
from data.stages.workspace import Workspace
from models.recipe import Recipe
from models.runs.files import Sample, read_tables
from models.targets import texts_of


@dataclass(frozen=True)
class Samples:
    """What a run learns from and is tested on.

    table: dataset subject person video event label …, one row a kept sample; keys: what identifies
    each one's inputs, label and person; inputs: the stages' results that were chosen.
    """

    table: pd.DataFrame
    ledger: pd.DataFrame
    keys: Mapping[Sample, str]
    inputs: pd.DataFrame  # dataset stage unit key


def choose_samples(workspace: Workspace, recipe: Recipe, *, expect: bool = False) -> Samples:
    """The recipe's samples whose inputs are all there; the others are ledger rows.

    `expect`: inputs that are to be made count as made, for a plan.

    Raises SplitError when nothing is left, ConfigError for a composite of other datasets.
    """
    _check_composite(recipe)
    configs = {name: recipe.stage_config(name) for name in STAGES}
    views = {d: shared_inputs(workspace, d, None, configs) for d in recipe.data}
    choose = _events if recipe.network.samples == "events" else _videos
    needed = recipe.network.needs(recipe.model)
    states = {(d, s): view.states(s, expect=expect) for d, view in views.items() for s in needed}
    table, ledger, keys = choose(workspace, recipe, states)
    if table.empty:
        raise SplitError(
            f"recipe {recipe.name}",
            expected="at least one usable sample",
            got=f"none of {len(ledger)} (reasons: {sorted(set(ledger.reason))})",
            todo="See the ledger; check the dataset with `python -m flows check`.",
        )
    return Samples(table, ledger, keys, _inputs_table(recipe, views))


def _check_composite(recipe: Recipe) -> None:
    """A composite's protocol is for its own datasets, labels and kind of sample only."""
    kind, data = recipe.split.kind, sorted(recipe.data)
    if kind == "megc2019":
        wrong = data != sorted(MEGC_DATASETS) or recipe.labels != "label_3"
        expected = f"data {', '.join(MEGC_DATASETS)} and labels label_3"
    elif kind == "cd6me":
        wrong = bool(set(data) - set(CD6ME_COUNTS))
        expected = f"datasets among {', '.join(CD6ME_COUNTS)}"
    else:
        return
    if wrong or recipe.network.samples != "events":
        raise ConfigError(
            f"split.kind {kind}",
            expected=f"{expected}, and a network that classifies clips",
            got=f"data {', '.join(data)}, labels {recipe.labels}, {recipe.network_name}",
            todo="Set split.kind: leave_one_subject_out or leave_one_dataset_out for other data.",
        )


def _inputs_table(recipe: Recipe, views: Mapping[str, StageInputs]) -> pd.DataFrame:
    rows = [
        (dataset, stage, unit, key)
        for dataset, view in views.items()
        for stage in recipe.stages[1:]
        for unit, key in view.keys(stage).items()
    ]
    return pd.DataFrame(rows, columns=["dataset", "stage", "unit", "key"]).astype("string")


_Chosen = tuple[pd.DataFrame, pd.DataFrame, dict[Sample, str]]
_States = Mapping[tuple[str, str], Mapping[str, tuple[str, str]]]  # (dataset, stage) → unit → …
NO_RESULT = ("missing", "")


def _events(workspace: Workspace, recipe: Recipe, states: _States) -> _Chosen:
    """Micro-expression events with a label whose inputs are all there, and macro where asked."""
    events = read_tables(workspace, recipe.data, "events")
    label = texts_of(events, recipe)
    macro = bool(getattr(recipe.train, "macro", False))  # a setting of families that can
    with_micro = set(events.dataset[(events.type == "micro") & label.notna()])
    needed = recipe.network.needs(recipe.model)
    keep, dropped, keys = [], [], {}
    outside = _outside_megc2019(recipe, events)
    for row, name, why in zip(events.itertuples(index=False), label, outside, strict=True):
        reason = ""
        trains_only = macro and row.type == "macro" and row.dataset in with_micro
        if row.type != "micro" and not trains_only:
            reason = "not_micro"
        elif pd.isna(name):
            reason = f"no_{recipe.labels}"
        elif why:
            reason = "outside_megc2019"
        else:
            for stage in needed:
                status, _ = states[row.dataset, stage].get(row.event, NO_RESULT)
                if status != "ok":
                    reason = f"{stage}:{status}"
        if reason:
            dropped.append(ledger_row(row.dataset, row.event, "event", reason, why))
        else:
            own = [states[row.dataset, stage][row.event][1] for stage in needed]
            keys[row.dataset, row.event] = "|".join([*own, str(name), str(row.person)])
        keep.append(not reason)
    return events.assign(label=label)[keep].reset_index(drop=True), as_ledger(dropped), keys


def _outside_megc2019(recipe: Recipe, events: pd.DataFrame) -> list[str]:
    """Why each event is not in the composite, where the recipe's split is the composite's."""
    found = pd.Series("", events.index)
    if recipe.split.kind == "megc2019":
        for dataset, rows in events.groupby("dataset"):
            found[rows.index] = why_not_megc2019(str(dataset), rows)
    return [str(why) for why in found]


def _videos(workspace: Workspace, recipe: Recipe, states: _States) -> _Chosen:
    """Videos whose inputs are all there, with and without micro-expressions."""
    videos = read_tables(workspace, recipe.data, "videos")
    events = read_tables(workspace, recipe.data, "events")
    columns = ["event", "onset", "apex", "offset", "type", recipe.labels]
    truth = {
        place: stable_hash(group[columns].astype("string").fillna("").to_dict("records"))
        for place, group in events.groupby(["dataset", "video"])
    }
    needed = recipe.network.needs(recipe.model)
    keep, dropped, keys = [], [], {}
    for row in videos.itertuples(index=False):
        status = {s: states[row.dataset, s].get(row.video, NO_RESULT)[0] for s in needed}
        bad = [f"{stage}:{word}" for stage, word in status.items() if word != "ok"]
        if bad:
            dropped.append(ledger_row(row.dataset, row.video, "video", bad[-1]))
        else:
            own = [states[row.dataset, stage][row.video][1] for stage in needed]
            facts = truth.get((row.dataset, row.video), "")
            keys[row.dataset, row.video] = "|".join([*own, facts, str(row.person)])
        keep.append(not bad)
    micro = events[events.type == "micro"]
    spotted = set(zip(micro.dataset, micro.video, strict=True))
    places = zip(videos.dataset, videos.video, strict=True)
    samples = videos.assign(
        event=videos.video, label=pd.NA, has_micro=[place in spotted for place in places]
    )[keep]
    return samples.reset_index(drop=True), as_ledger(dropped), keys


def make_split(recipe: Recipe, samples: pd.DataFrame) -> Split:
    """The recipe's split over `samples`; ids as `data.folds.event_ids` makes them.

    In splits of ours macro-expressions only train, where their person is not tested; a published
    list is taken as it is.
    """
    config = recipe.split
    if config.kind == "published":
        if not config.name or not config.path:
            raise ConfigError(
                "split", expected="name and path of a published split", got=str(config)
            )
        split = published_split(config.name, config.path)
        return _by_our_own_people(split, samples, f"split {config.name} at {config.path}")
    extra = samples[samples.type == "macro"] if "type" in samples else samples[:0]
    tested = samples.drop(extra.index)
    if config.kind in ("leave_one_subject_out", "megc2019"):
        split = leave_one_subject_out(tested)
    elif config.kind in ("leave_one_dataset_out", "cd6me"):
        split = leave_one_dataset_out(tested)
    else:
        label = "label" if tested.label.notna().all() else None
        split = subject_kfold(tested, config.k, config.seed, label=label)
    return with_training_events(split, tested, extra) if len(extra) else split


def inner_sides(samples: pd.DataFrame, sides: Fold, fold: str, k: int) -> Fold:
    """A fold's training side again in two: who trains and who chooses, for a nested choice.

    samples: as of `choose_samples`; sides: the fold's training and tested ids. Nobody who is tested
    chooses; all samples of those who choose are kept from training. Raises SplitError.
    """
    table = samples.assign(id=event_ids(samples)).set_index("id", drop=False)
    train, tested = (table[table.id.isin(side)] for side in sides)
    macro = train.type == "macro" if "type" in train else pd.Series(False, train.index)
    label = "label" if train.label.notna().all() else "has_micro"
    people = inner_people(train[~macro], set(tested.person.astype(str)), fold, k, label)
    chooses = train.person.astype(str).isin(people)
    return tuple(sorted(train.id[~chooses])), tuple(sorted(train.id[chooses & ~macro]))


def _by_our_own_people(split: Split, samples: pd.DataFrame, who: str) -> Split:
    """The split with people and videos as ingested, whatever the file's own columns say.

    A list of one's own (`csv`) with a person or a video on both sides of a fold is refused; one
    that was published so is taken as it is and labelled. Raises SplitError `people_shared` or
    `videos_shared`.
    """
    ids = event_ids(samples)
    people = dict(zip(ids, samples.person.astype(str), strict=True))
    places = zip(samples.dataset, samples.video, strict=True)
    videos = dict(zip(ids, (f"{d}:{v}" for d, v in places), strict=True))
    known = {
        name: (tuple(i for i in train if i in people), tuple(i for i in test if i in people))
        for name, (train, test) in split.folds.items()
    }
    by_person, by_video = shared(known, people), shared(known, videos)
    if split.name == "csv" and (by_person or by_video):
        fold, names = next(iter((by_person or by_video).items()))
        raise SplitError(
            who,
            expected="nobody, and no video, on both sides of a fold",
            got=f"fold {fold}: {', '.join(names[:5])}",
            todo="Scores of people who were trained on say nothing about others.",
            code="people_shared" if by_person else "videos_shared",
        )
    found = {**split.people_shared, **by_person}
    return Split(split.name, split.folds, found, {**split.videos_shared, **by_video})


def fold_name(number: int, name: str) -> str:
    """'fold-03-sub04': safe as a folder's name."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[:40]
    return f"fold-{number:02d}-{safe}"


def find_fold(held: Sequence[str], wanted: str | int, who: str = "fold") -> int:
    """The number of a fold of those that hold out `held`, in a split's order.

    A number is a fold's number. A text is a fold's whole name (`fold_name`), who is held out, with
    or without the dataset, or a number. Raises ConfigError for none, and for a text that means
    several.
    """
    names = [fold_name(number, text) for number, text in enumerate(held)]
    number = wanted if isinstance(wanted, int) else None
    found: set[int] = set()
    if number is None and wanted in names:
        found = {names.index(str(wanted))}
    elif number is None:
        for place, text in enumerate(held):
            own = {text, text.rpartition(":")[2], names[place].split("-", 2)[2]}
            if wanted in own | {str(place), f"{place:02d}"}:
                found.add(place)
    elif 0 <= number < len(names):
        found = {number}
    if len(found) == 1:
        return found.pop()
    meant = ", ".join(names[place] for place in sorted(found))
    raise ConfigError(
        who,
        expected=f"name, number or subject of one of {meant or ', '.join(names)}",
        got=f"{str(wanted)[:80]!r}{', which may mean each of these' if meant else ''}",
        todo="Write the fold's whole name." if meant else "",
    )


def outside_split(recipe: Recipe, samples: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Ledger rows for events a published split names in vain, and for samples no fold tests."""
    ids = event_ids(samples)
    testable = ids[samples.type != "macro"] if "type" in samples else ids
    named, tested = split.named(), split.tested()
    missing, untested = sorted(named - set(ids)), sorted(set(testable) - tested)
    dataset = "+".join(recipe.data)
    rows = [ledger_row(dataset, i, "event", "split_names_no_sample") for i in missing]
    rows += [ledger_row(dataset, i, "event", "not_tested_by_split") for i in untested]
    return as_ledger(rows)


def ledger_row(dataset: str, unit: str, kind: str, reason: str, detail: str = "") -> dict[str, str]:
    """A dropped sample."""
    return {
        "stage": "train",
        "dataset": dataset,
        "unit": unit,
        "kind": kind,
        "reason": reason,
        "detail": detail,
        "action": "dropped",
    }


def as_ledger(rows: list[dict[str, str]]) -> pd.DataFrame:
    """Rows as a ledger table."""
    return conform(pd.DataFrame(rows, columns=list(LEDGER)), "ledger")
