"""One fold of HSTA: clips from the stores in, weights and predictions out.

`fit_folds` writes into each fold's folder `weights.safetensors` (the last epoch's: nothing is
chosen on held-out subjects), `model.json` (what is needed to use them), `history.parquet`,
`predictions.parquet` and `timings.parquet`. Killed, it goes on from its last resume point.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from data.errors import ConfigError, StoreError, TrainingError
from data.plain_json import read_object
from data.stages.files import write_table
from data.stages.workspace import Workspace
from models.epoch_record import note_epoch, read_notes, watch_of
from models.fitting import (
    discard_if_damaged,
    load_weights,
    save_weights,
    seed_everything,
    write_json,
)
from models.hsta.clips import ClipBank, Scale, read_clips
from models.hsta.many import fit_many, predict_many, rivals
from models.hsta.network import HSTA
from models.hsta.settings import HstaTrainConfig
from models.hsta.training import Fit, FoldTraining, predict
from models.recipe import Recipe
from models.registry import find_network
from models.runs.files import FoldJob, Sample, read_tables
from models.stacked.proof import Proof, Rivals, find_fold, prove
from models.targets import AUS, CLASSES, UNITS, code_of, seen, texts_of

logger = logging.getLogger(__name__)

PREDICTION_COLUMNS = ("dataset", "subject", "person", "event", "fold", "label", "predicted")


def class_names(recipe: Recipe, labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of a recipe's label map, or its action units, in the order of the outputs."""
    if recipe.labels == AUS:
        return UNITS
    known = CLASSES.get(recipe.labels, tuple(sorted(set(labels))))
    unknown = sorted(set(labels) - set(known))
    if unknown or len(known) < 2:
        raise ConfigError(
            f"recipe {recipe.name}, labels {recipe.labels}",
            expected=f"at least two classes, among {list(known)}",
            got=f"{unknown or list(known)}",
        )
    return known


def fit_folds(jobs: Sequence[FoldJob]) -> None:
    """Train each fold on its training events, predict its test events, write the folds' files.

    Several folds are trained and evaluated as one program; clips are decoded once. Raises
    TrainingError (`loss_not_finite`, naming fold and batch), StoreError for missing inputs.
    """
    pack = prepare(jobs)
    finish(pack, pack.train())


@dataclass
class Prepared:
    """A fold ready to be trained: its network and its events, training side first."""

    job: FoldJob
    model: HSTA
    bank: ClipBank
    events: pd.DataFrame
    classes: tuple[str, ...]
    training: list[int]
    held_out: list[int]
    scale: Scale

    @property
    def multi_label(self) -> bool:
        """Whether its outputs are action units, each yes or no."""
        return self.job.recipe.labels == AUS


@dataclass
class Pack:
    """Folds of one recipe whose clips lie in one bank."""

    folds: list[Prepared]
    config: HstaTrainConfig
    device: torch.device

    def trainings(self, files: bool = True) -> list[FoldTraining]:
        """What `fit_many` takes; `files`: with resume points and progress."""
        return [
            FoldTraining(
                one.model,
                one.bank,
                one.training,
                one.scale,
                one.job.seed,
                one.job.unit or one.job.fold,
                one.job.out / "resume" / "state.safetensors" if files else None,
                one.job.progress if files else None,
                one.multi_label,
            )
            for one in self.folds
        ]

    def train(self) -> list[Fit]:
        """What fitting leaves of each fold."""
        for one in self.folds:
            discard_if_damaged(one.job.out / "resume" / "state.safetensors", one.job.fold)
        watch = watch_of(self.config.epochs, self.folds[0].job.record, self.note)
        return fit_many(self.trainings(), self.config, self.device, watch=watch)

    def note(self, due: Sequence[tuple[int, int]]) -> None:
        """Keep the answers of the moment of folds (position, epochs done) on their test events."""
        part = replace(self, folds=[self.folds[position] for position, _ in due])
        for one, (_, epochs), chances in zip(part.folds, due, part.predict(), strict=True):
            note_epoch(one.job.out, epochs, {"chances": chances})

    def predict(self) -> list[npt.NDArray[np.float64]]:
        """Per fold the class probabilities of its test events."""
        return predict_many(
            [one.model for one in self.folds],
            self.folds[0].bank,
            [one.held_out for one in self.folds],
            self.config,
            seeds=[one.job.seed for one in self.folds],
            device=self.device,
            scales=[one.scale for one in self.folds],
            multi_label=self.folds[0].multi_label,
        )


def prepare(jobs: Sequence[FoldJob]) -> Pack:
    """Decode the clips of all folds once, make the networks.

    Raises ConfigError for folds of different recipes, or of different classes.
    """
    recipe, train = jobs[0].recipe, _train_config(jobs[0].recipe)
    if any((job.recipe.model, job.recipe.train) != (recipe.model, train) for job in jobs):
        raise ConfigError("folds at once", expected="folds of one recipe", got="several")
    tables = [read_events(job) for job in jobs]
    classes = [
        class_names(recipe, job.classes or list(events.label))
        for job, events in zip(jobs, tables, strict=True)
    ]
    if len(set(classes)) > 1:
        raise ConfigError(
            f"recipe {recipe.name}, folds at once",
            expected="the same classes in every fold",
            got="; ".join(sorted({", ".join(own) for own in classes})),
            todo="Set train.folds_at_once: 1.",
        )
    config = recipe.model.model_copy(update={"num_classes": len(classes[0])})
    union = pd.concat(tables, ignore_index=True).drop_duplicates(["dataset", "event"])
    union = union.reset_index(drop=True)
    code = code_of if recipe.labels == AUS else classes[0].index
    ids = [code(label) for label in union.label]
    scratch = jobs[0].out / "resume"
    bank = read_clips(jobs[0].workspace, union, ids, config, train.input, scratch, jobs[0].keys)
    place = {sample: i for i, sample in enumerate(zip(union.dataset, union.event, strict=True))}
    folds = []
    for job, events in zip(jobs, tables, strict=True):
        training, held_out = (
            [place[sample] for sample in side] for side in (job.train_events, job.test_events)
        )
        scale = bank.scale(training, train.input.pixels)
        seed_everything(job.seed)
        model = recipe.network.code().create(config)
        folds.append(Prepared(job, model, bank, events, classes[0], training, held_out, scale))
    return Pack(folds, train, torch.device(jobs[0].device))


def finish(pack: Pack, results: Sequence[Fit]) -> None:
    """Predict the test events and write every fold's files."""
    for one, result, chances in zip(pack.folds, results, pack.predict(), strict=True):
        tested = one.events[len(one.training) :]
        predictions = predictions_table(one.job, tested, one.classes, chances)
        _write(one.job, one.model, result, predictions, one.classes, one.scale)
        if one.job.record:
            notes = read_notes(one.job.out, pack.config.epochs, one.job.record, one.job.fold)
            answers = {n: arrays["chances"] for n, arrays in notes.items()}
            tables = [
                predictions_table(one.job, tested, one.classes, own).assign(epoch=number)
                for number, own in {**answers, pack.config.epochs: chances}.items()
            ]
            write_table(pd.concat(tables, ignore_index=True), one.job.out / "epochs.parquet")


def prove_fold(jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
    """Train fold `fold` alone and beside the other jobs' folds; see `models.stacked.proof.prove`.

    Compared are losses and the class probabilities of the test events. Nothing is written.
    """
    pack, at = prepare(jobs), find_fold([job.fold for job in jobs], fold)
    trainings, tested = pack.trainings(files=False), [one.held_out for one in pack.folds]

    def of_type(kind: torch.dtype) -> Rivals:
        return rivals(trainings, at, pack.config, tested, pack.device, kind)

    return prove(fold, len(jobs), of_type, steps)


@dataclass(frozen=True)
class TrainedHsta:
    """A fold's network as it was left, in eval mode, and what its inputs and outputs mean."""

    model: HSTA
    train: HstaTrainConfig
    classes: tuple[str, ...]
    scale: Scale
    seed: int
    multi_label: bool = False

    def predict(self, bank: ClipBank, device: str = "cpu") -> npt.NDArray[np.float64]:
        """Probabilities (len(bank), classes) of other clips; rows sum to 1 but for units."""
        positions = list(range(len(bank)))
        return predict(
            self.model,
            bank,
            positions,
            self.train,
            seed=self.seed,
            device=torch.device(device),
            scale=self.scale,
            multi_label=self.multi_label,
        )


def load_fold(folder: Path) -> TrainedHsta:
    """Read a fold's weights and side file. Raises TrainingError when they are not of one kind."""
    try:
        facts = read_object(folder / "model.json")
        network = find_network(str(facts["model"]["name"]))
        config = network.settings.model_validate(facts["model"])
        train = HstaTrainConfig.model_validate(facts["train"])
        u, v, strain, change, *rest = facts["input_scale"]
        classes, seed = tuple(facts["classes"]), int(facts["seed"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise TrainingError(
            str(folder / "model.json"), expected="the side file of a fold", got=str(error)
        ) from error
    model = network.code().create(config)
    load_weights(model, folder / "weights.safetensors")
    scale = (u, v, strain, change, rest[0] if rest else 1.0)
    return TrainedHsta(model.eval(), train, classes, scale, seed, classes == UNITS)


def _train_config(recipe: Recipe) -> HstaTrainConfig:
    if not isinstance(recipe.train, HstaTrainConfig):
        raise ConfigError(f"recipe {recipe.name}", expected="HSTA's train settings", got="others")
    return recipe.train


def read_events(job: FoldJob) -> pd.DataFrame:
    """Training events, then test events, in the job's order, with their `label` as text."""
    table = read_tables(Workspace(job.workspace), job.datasets, "events")
    table["label"] = texts_of(table, job.recipe)
    table.index = pd.MultiIndex.from_arrays([table.dataset, table.event])
    wanted: list[Sample] = [*job.train_events, *job.test_events]
    missing = [f"{d}:{e}" for d, e in wanted if (d, e) not in table.index]
    if missing:
        raise StoreError(
            job.fold, expected="its events in the ingest store", got=f"no {missing[:5]}"
        )
    events = table.loc[wanted].reset_index(drop=True)
    if events.label.isna().any():
        names = list(events.event[events.label.isna()][:5])
        raise StoreError(
            job.fold, expected=f"a {job.recipe.labels} of each event", got=f"none of {names}"
        )
    return events


def predictions_table(
    job: FoldJob, events: pd.DataFrame, classes: tuple[str, ...], chances: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """Rows of tested events with their class probabilities (n, classes), in the classes' order.

    Raises TrainingError `outputs_not_finite`.
    """
    if not np.isfinite(chances).all():
        bad = list(events.event[~np.isfinite(chances).all(axis=1)][:3])
        raise TrainingError(
            job.fold,
            expected="finite class probabilities",
            got=f"none for {', '.join(map(str, bad))}",
            todo="The network has diverged: lower its learning rate.",
            code="outputs_not_finite",
        )
    multi = job.recipe.labels == AUS
    predicted = seen(chances) if multi else [classes[i] for i in chances.argmax(1)]
    table = events.assign(fold=job.fold, predicted=predicted)
    table = table[list(PREDICTION_COLUMNS)].astype("string").reset_index(drop=True)
    for number, name in enumerate(classes):
        table[f"prob_{name}"] = chances[:, number]
    return table


def _write(
    job: FoldJob,
    model: HSTA,
    result: Fit,
    predictions: pd.DataFrame,
    classes: tuple[str, ...],
    scale: Scale,
) -> None:
    save_weights(model, job.out / "weights.safetensors")
    facts: dict[str, Any] = {
        "model": model.config.model_dump(mode="json"),
        "train": _train_config(job.recipe).model_dump(mode="json"),
        "classes": list(classes),
        "input_scale": list(scale),
        "seed": job.seed,
        "fold": job.fold,
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_train": len(job.train_events),
        "num_test": len(job.test_events),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(job.out / "model.json", facts)
    write_table(pd.DataFrame(result.history), job.out / "history.parquet")
    write_table(pd.DataFrame(result.timings), job.out / "timings.parquet")
    write_table(predictions, job.out / "predictions.parquet")
