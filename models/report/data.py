"""What went into a run: datasets counted, accounts of stages, protocol, keys, versions.

A stage's account is: in = kept + dropped, each drop with its reason, from the stage's own manifest
and ledger. Nothing here reads a clock, a host name or a folder outside the workspace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from data.datasets.composite import CD6ME_COUNTS
from data.pictures.drawing import faces_shown
from data.plain_json import read_object
from data.stages import stores
from data.stages.identity import stable_hash
from data.stages.registry import find_stage
from models.report.scores import test_samples, with_dataset
from models.targets import texts_of

if TYPE_CHECKING:
    from models.recipe import Recipe
    from models.runs.files import RunFiles

MANY_CLASSES = 12
SOURCES = {
    "label": "are annotated",
    "spotted": "were spotted in the motion",
    "middle": "are the middle of the event",
}
EXAMPLES = 3  # units named beside a ledger reason

SPLITS = {
    "leave_one_subject_out": "Leave one subject out: {folds} folds, each tests on one person "
    "whom its network never saw.",
    "subject_kfold": "{folds} folds grouped by subject: nobody is on both sides of a fold.",
    "leave_one_dataset_out": "Leave one dataset out: {folds} folds, each tests on one dataset, "
    "none of whose recordings and people its network saw.",
    "megc2019": "MEGC 2019 composite: leave one subject out over CASME II, SAMM and SMIC-HS "
    "together, three classes, {folds} folds.",
    "cd6me": "CD6ME: leave one dataset out over {data}, of its six datasets ({six}), "
    "{folds} folds.",
    "published": "Published fold list “{name}”, {folds} folds, taken as it is.",
}


@dataclass(frozen=True)
class DatasetCount:
    """One dataset in numbers."""

    name: str
    facts: list[tuple[str, str]]
    classes: list[tuple[str, int]]  # mapped label → events
    shows_faces: bool


@dataclass(frozen=True)
class Reason:
    """Ledger rows of one reason, together."""

    action: str
    kind: str
    reason: str
    count: int
    examples: str


@dataclass(frozen=True)
class Account:
    """What one stage took in, kept and dropped."""

    dataset: str
    stage: str
    unit: str
    taken: int
    kept: int
    reasons: list[Reason] = field(default_factory=list)
    absent: bool = False

    @property
    def dropped(self) -> int:
        """Units without data."""
        return self.taken - self.kept


def dataset_counts(run: RunFiles) -> list[DatasetCount]:
    """Videos, people, frames, events and classes of each dataset as ingested."""
    from models.runs.files import read_tables

    recipe, found = run.recipe, []
    for name in recipe.data:
        videos = read_tables(run.workspace, (name,), "videos")
        events = read_tables(run.workspace, (name,), "events")
        kinds = ", ".join(f"{n} {k}" for k, n in sorted(events.type.value_counts().items()))
        rates = sorted({f"{f:g}" for f in videos.fps})
        sizes = sorted({f"{w}×{h}" for w, h in zip(videos.width, videos.height, strict=True)})
        facts = [
            ("people", str(videos.person.nunique())),
            ("videos", f"{len(videos)} ({', '.join(sorted(set(videos.kind)))})"),
            ("frames", f"{int(videos.num_frames.sum()):,}".replace(",", " ")),
            ("events", f"{len(events)} ({kinds})" if len(events) else "0"),
            ("frames/s", ", ".join(rates[:4])),
            ("size", ", ".join(sizes[:2]) + (" …" if len(sizes) > 2 else "")),
        ]
        labels = texts_of(events, recipe)[events.type == "micro"].fillna("no label")
        classes = [(str(c), int(n)) for c, n in labels.value_counts().items()]
        shown = bool(videos.show_faces.all()) or recipe.with_faces
        found.append(DatasetCount(name, facts, sorted(classes)[:MANY_CLASSES], shown))
    return found


def videos_with_faces(run: RunFiles) -> set[tuple[str, str]]:
    """(dataset, video) of the videos whose faces this run's pictures may show."""
    from models.runs.files import read_tables

    found = set()
    for name in run.recipe.data:
        videos = read_tables(run.workspace, (name,), "videos")
        found |= {(name, video) for video in faces_shown(videos, run.recipe.with_faces)}
    return found


def accounts(run: RunFiles) -> list[Account]:
    """One account a dataset and stage, in the order of work, then the run's choice of samples."""
    recipe = run.recipe
    found = [account(run, dataset, stage) for dataset in recipe.data for stage in recipe.stages]
    column = recipe.network.samples.removesuffix("s")
    ledger = stores.read_ledger(run.folder)
    sides = run.split["folds"].values()
    kept = with_dataset(run, (sample for fold in sides for name in fold for sample in fold[name]))
    rows = ledger[ledger.action == "dropped"]
    own = rows.dataset.isin(recipe.data)  # the others' units are named as the split names them
    dropped = set(rows.dataset[own] + ":" + rows.unit[own]) | with_dataset(run, rows.unit[~own])
    found.append(
        Account(
            "all" if len(recipe.data) > 1 else recipe.data[0],
            "train",
            f"{column}s",
            len(kept | dropped),  # one may be dropped for two reasons, or train and not be tested
            len(kept),
            reasons(ledger),
        )
    )
    return found


def account(run: RunFiles, dataset: str, stage: str) -> Account:
    """The account of one stage store; `absent` when it was never computed."""
    folder = run.workspace.stage(dataset, stage)
    if not (folder / "manifest.parquet").exists() and not (folder / "videos.parquet").exists():
        return Account(dataset, stage, "units", 0, 0, absent=True)
    if stage == "ingest":
        ledger = stores.read_ledger(folder)
        events = len(stores.read_table(folder / "events.parquet"))
        rows = ledger[(ledger.action == "dropped") & ledger.kind.isin(["row", "event"])]
        return Account(dataset, stage, "annotations", events + len(rows), events, reasons(ledger))
    manifest = run.store(dataset, stage).manifest
    ledger = stores.read_ledger(folder, dict(zip(manifest.unit, manifest.key, strict=True)))
    unit = f"{find_stage(stage).unit_kind}s"
    kept = int((manifest.status == "ok").sum())
    return Account(dataset, stage, unit, len(manifest), kept, reasons(ledger))


def reasons(ledger: pd.DataFrame) -> list[Reason]:
    """Ledger rows grouped by action, kind and reason: drops first, then the most frequent."""
    found = []
    for (action, kind, reason), part in ledger.groupby(["action", "kind", "reason"]):
        rows = [
            f"{u}: {d}" if d else str(u)
            for u, d in zip(part.unit, part.detail.fillna(""), strict=True)
        ]
        more = f" … and {len(rows) - EXAMPLES} more" if len(rows) > EXAMPLES else ""
        found.append(
            Reason(str(action), str(kind), str(reason), len(part),
                   " · ".join(sorted(rows)[:EXAMPLES]) + more)
        )  # fmt: skip
    return sorted(found, key=lambda r: (r.action != "dropped", -r.count, r.reason))


def protocol(run: RunFiles) -> tuple[str, bool]:
    """The split in a sentence, and whether people are on both sides of a fold."""
    config, split = run.recipe.split, run.split
    shared = split["people_shared"]
    text = SPLITS[config.kind].format(
        folds=len(split["folds"]),
        name=config.name,
        data=", ".join(run.recipe.data),
        six=", ".join(CD6ME_COUNTS),
    )
    if shared:
        text += (
            f" SUBJECT-DEPENDENT: {len(shared)} people are in training and test of the same fold, "
            "so the score says nothing about people the network has not seen."
        )
    return text, bool(shared)


def apex_statement(run: RunFiles) -> str:
    """Where the tested clips' apex frames come from; '' for models that do not use them."""
    recipe = run.recipe
    if "apex" not in recipe.stages:
        return ""
    tested, counts = test_samples(run), dict[str, int]()
    for dataset in recipe.data:
        table = run.store(dataset, "apex").table()
        table = table[(dataset + ":" + table.unit).isin(tested)]
        if "source" in table:
            for source, n in table.source.value_counts().items():
                counts[str(source)] = counts.get(str(source), 0) + int(n)
    if not counts:
        return "Clips are cut at the annotated onset and offset."
    parts = ", ".join(f"{n} {SOURCES.get(source, source)}" for source, n in sorted(counts.items()))
    return f"Clips are cut at the annotated onset and offset; of their apex frames {parts}."


def sample_digest(run: RunFiles) -> str:
    """Hash of the tested sample ids: two runs with one digest were scored on the same samples."""
    return stable_hash(sorted(test_samples(run)))[:12]


def provenance(run: RunFiles) -> list[tuple[str, str]]:
    """What identifies the run: ids, digests, stage keys and versions."""
    recipe = run.recipe
    rows = [
        ("run id", run.folder.name),
        ("recipe digest", recipe.digest[:12]),
        ("split digest", str(run.split["digest"])[:12]),
        ("sample list digest", sample_digest(run)),
    ]
    for dataset in recipe.data:
        for stage in recipe.stages:
            manifest = _manifest(run, dataset, stage)
            if len(manifest):
                versions = "/".join(str(v) for v in sorted(set(manifest.version)))
                key = stable_hash(sorted(set(manifest.key)))[:12]
                rows.append((f"{dataset} {stage}", f"version {versions}, keys {key}"))
    return rows


def _manifest(run: RunFiles, dataset: str, stage: str) -> pd.DataFrame:
    if stage == "ingest":
        return stores.read_manifest(run.workspace.stage(dataset, stage))
    return run.store(dataset, stage).manifest


def versions(run: RunFiles) -> list[tuple[str, str]]:
    """Versions of what made the stores and the folds, as recorded there."""
    recipe, found = run.recipe, dict[str, set[str]]()
    texts = [
        text
        for dataset in recipe.data
        for stage in recipe.stages
        for text in stores.read_timings(run.workspace.stage(dataset, stage)).versions
    ]
    records: list[dict[str, Any]] = [json.loads(t) for t in texts if t]
    records += [fold_facts(fold).get("versions", {}) for fold in run.folds]
    for record in records:
        for name, version in record.items():
            found.setdefault(str(name), set()).add(str(version))
    return [(name, ", ".join(sorted(values))) for name, values in sorted(found.items())]


def fold_facts(fold: Any) -> dict[str, Any]:
    """A fold's model.json; empty when it cannot be read (it is only shown)."""
    try:
        return read_object(fold / "model.json")
    except (OSError, ValueError):
        return {}


def model_facts(run: RunFiles) -> list[tuple[str, str]]:
    """Name and size of the network, as the header shows them."""
    recipe = run.recipe
    rows = [("model", str(recipe.model.name))]
    parameters = [int(p) for f in run.folds if (p := fold_facts(f).get("parameters"))]
    if parameters:
        rows.append(("parameters", f"{max(parameters):,}".replace(",", " ")))
    return rows


def settings_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML that can be run again."""
    plain = recipe.model_dump(mode="json")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88)
