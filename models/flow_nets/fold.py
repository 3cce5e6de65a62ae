"""Folds of a network of flow pictures: pictures from the stores in, weights and predictions out.

A fold's folder gets `weights.safetensors` (the last epoch's), `model.json` (with the mean and
deviation its pictures are standardised by), `history.parquet` and `predictions.parquet`. A fold
takes seconds, so none has a resume point.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ConfigError, TrainingError
from data.stages.files import write_table
from data.stages.pool import cpu_count
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.epoch_record import recorded_epochs
from models.fitting import exact_products, save_weights, seed_everything, write_json
from models.flow_nets.settings import FlowNetConfig, FlowNetTrainConfig
from models.hsta.clips import read_special_flow
from models.hsta.fold import class_names, predictions_table, read_events
from models.hsta.input import resize_planes
from models.recipe import Recipe
from models.runs.files import FoldJob
from models.stacked.choice import Packing

Floats = npt.NDArray[np.float32]
Keys = Callable[[str, str], Mapping[str, str] | None]
FLAT = 1e-6  # a pixel that never changes is divided by one
REPORTS = 20  # times a training says how far it is


def read_pictures(
    workspace: Workspace | Path,
    events: pd.DataFrame,
    config: FlowNetConfig,
    keys: Keys = lambda dataset, stage: None,
) -> Floats:
    """(n, 3, S, S) u, v, strain of onset→apex of each row of `events` (dataset, event).

    From stage flow: u right and v down in px of the stored field, strain as stored, reduced to
    S px. From stage flow_pictures: 0 … 1 as somebody else stretched them. keys: (dataset, stage) →
    the results to read, None for those that were made last. Raises StoreError naming an event
    without one.
    """
    stage = "flow" if config.source == "flow" else "flow_pictures"
    stores = {d: StageStore(workspace, d, stage, keys(d, stage)) for d in events.dataset.unique()}
    side = config.image_size
    found = np.empty((len(events), 3, side, side), np.float32)
    for number, (dataset, event) in enumerate(zip(events.dataset, events.event, strict=True)):
        with stores[dataset].open(event) as group:
            if stage == "flow":
                found[number] = read_special_flow(group, side)[0]
            else:
                planes = group["picture"][:].astype(np.float32).transpose(2, 0, 1) / 255
                found[number] = resize_planes(torch.from_numpy(planes)[None], side)[0].numpy()
    for store in stores.values():
        store.close()
    return found


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of the training pictures: (3, 1, 1) by channel, (3, S, S) by pixel."""

    mean: Floats
    deviation: Floats

    def apply(self, pictures: Floats) -> Floats:
        """Standardised pictures."""
        return np.asarray((pictures - self.mean) / self.deviation, np.float32)


def scale_of(pictures: Floats, by: str) -> Scale:
    """The scale of training pictures (n, 3, S, S), by "channel" or "pixel"."""
    axes = (0, 2, 3) if by == "channel" else (0,)
    mean = pictures.mean(axis=axes, keepdims=True, dtype=np.float64)[0]
    deviation = pictures.std(axis=axes, keepdims=True, dtype=np.float64)[0]
    safe = np.where(deviation > FLAT, deviation, 1.0)
    return Scale(mean.astype(np.float32), safe.astype(np.float32))


def plan_packs(jobs: Sequence[FoldJob]) -> tuple[list[list[FoldJob]], Packing]:
    """As many packs as cores on a CPU, one on a GPU: each reads the pictures once."""
    count = min(len(jobs), cpu_count() if jobs[0].device == "cpu" else 1)
    ends = [len(jobs) * (n + 1) // count for n in range(count)]
    packs = [list(jobs[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    return packs, Packing(1, count, "one fold after the other: each takes seconds")


def fit_folds(jobs: Sequence[FoldJob]) -> None:
    """Train every fold on its training events, predict its test events, write its files.

    Raises ConfigError for folds of different recipes, TrainingError (`loss_not_finite`,
    `outputs_not_finite`) naming the fold, StoreError for a missing picture.
    """
    recipe = jobs[0].recipe
    if any((job.recipe.model, job.recipe.train) != (recipe.model, recipe.train) for job in jobs):
        raise ConfigError("folds at once", expected="folds of one recipe", got="several")
    tables = [read_events(job) for job in jobs]
    union = pd.concat(tables).drop_duplicates(["dataset", "event"]).reset_index(drop=True)
    pictures = read_pictures(jobs[0].workspace, union, recipe.model, jobs[0].keys)
    place = {key: i for i, key in enumerate(zip(union.dataset, union.event, strict=True))}
    for job, events in zip(jobs, tables, strict=True):
        rows = [place[key] for key in zip(events.dataset, events.event, strict=True)]
        _fit_fold(job, events, pictures[rows])


def _fit_fold(job: FoldJob, events: pd.DataFrame, pictures: Floats) -> None:
    train, cut = train_config(job.recipe), len(job.train_events)
    classes = class_names(job.recipe, job.classes or list(events.label))
    labels = np.array([classes.index(str(label)) for label in events.label[:cut]], np.int64)
    scale = scale_of(pictures[:cut], train.standardise)
    seed_everything(job.seed)
    config = job.recipe.model.model_copy(update={"num_classes": len(classes)})
    network: nn.Module = job.recipe.network.code().create(config)
    device = torch.device(job.device)
    inputs = torch.from_numpy(scale.apply(pictures)).to(device)
    targets = torch.from_numpy(labels).to(device)
    network = network.to(device)
    notes: dict[int, npt.NDArray[np.float64]] = {}

    def look(epochs: int) -> None:
        """Note what the network says of the tested events after so many epochs."""
        network.eval()
        with torch.no_grad():
            answers = torch.softmax(network(inputs[cut:]).double(), dim=1)
        notes[epochs] = answers.cpu().numpy()

    with exact_products():
        history = fit(network, inputs[:cut], targets, train, job, look)
        look(train.epochs)
    tested = events[cut:]
    tables = {n: predictions_table(job, tested, classes, notes[n]) for n in sorted(notes)}
    job.out.mkdir(parents=True, exist_ok=True)
    save_weights(network, job.out / "weights.safetensors")
    write_table(pd.DataFrame(history), job.out / "history.parquet")
    write_table(tables[train.epochs], job.out / "predictions.parquet")
    if job.record:
        every = [table.assign(epoch=number) for number, table in tables.items()]
        write_table(pd.concat(every, ignore_index=True), job.out / "epochs.parquet")
    write_json(job.out / "model.json", _facts(job, network, config, classes, scale))


def fit(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    train: FlowNetTrainConfig,
    job: FoldJob | None = None,
    look: Callable[[int], None] = lambda epochs: None,
) -> list[dict[str, float]]:
    """Train on (n, 3, S, S) and (n,) class numbers of one device; returns a row per epoch.

    The order of pictures and dropout come from torch's global generator. `job`: whose name an
    error carries, whose progress is told, and which of whose epochs `look` gets (epochs done). The
    solver lbfgs has no epochs to look at but its end.
    """
    weights = None
    if train.balanced:
        config: Any = network.config
        counts = torch.bincount(targets, minlength=config.num_classes)
        present = int((counts > 0).sum())
        weights = (len(targets) / (present * counts.clamp(min=1))).to(inputs)
        weights[counts == 0] = 0.0
    decayed = [p for n, p in network.named_parameters() if not n.endswith("bias")]
    who = job.fold if job else "fit"

    def loss_of(rows: Tensor | slice) -> Tensor:
        loss = F.cross_entropy(network(inputs[rows]), targets[rows], weight=weights)
        if train.weight_decay:
            loss = loss + 0.5 * train.weight_decay * torch.stack(
                [p.square().sum() for p in decayed]
            ).sum()  # fmt: skip
        return loss

    network.train()
    history: list[dict[str, float]] = []
    if train.solver == "lbfgs":
        history.append({"epoch": 0.0, "loss": _lbfgs(network, loss_of, train)})
    else:
        history = _adam(network, loss_of, len(targets), train, job, look)
    if not all(np.isfinite(row["loss"]) for row in history):
        raise TrainingError(
            who,
            expected="a finite loss",
            got="one that is not",
            todo="Lower train.lr.",
            code="loss_not_finite",
        )
    return history


def _lbfgs(
    network: nn.Module, loss_of: Callable[[Tensor | slice], Tensor], train: FlowNetTrainConfig
) -> float:
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=train.epochs,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(slice(None))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(loss_of(slice(None)))


def _adam(
    network: nn.Module,
    loss_of: Callable[[Tensor | slice], Tensor],
    count: int,
    train: FlowNetTrainConfig,
    job: FoldJob | None,
    look: Callable[[int], None],
) -> list[dict[str, float]]:
    wanted = set(recorded_epochs(train.epochs, job.record)) if job else set()
    optimiser = torch.optim.Adam(network.parameters(), lr=train.lr)
    history = []
    for epoch in range(train.epochs):
        spent = 0.0
        order = torch.randperm(count)
        for rows in torch.split(order, train.batch_size):
            if len(rows) == 1 and count > 1:  # only ever the last: see FlowNetTrainConfig
                continue
            optimiser.zero_grad()
            loss = loss_of(rows.to(next(network.parameters()).device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            spent += float(loss.detach()) * len(rows) / count
        history.append({"epoch": float(epoch), "loss": spent})
        if not np.isfinite(spent):
            break
        if epoch + 1 in wanted - {train.epochs}:
            look(epoch + 1)
            network.train()
        if job is not None and job.progress and (epoch + 1) % max(1, train.epochs // REPORTS) == 0:
            job.progress((epoch + 1) / train.epochs, f"epoch {epoch + 1} of {train.epochs}")
    return history


def train_config(recipe: Recipe) -> FlowNetTrainConfig:
    """The recipe's training settings. Raises ConfigError for another network's."""
    if not isinstance(recipe.train, FlowNetTrainConfig):
        raise ConfigError(
            f"recipe {recipe.name}", expected="a flow network's train settings", got="others"
        )
    return recipe.train


def _facts(
    job: FoldJob, network: nn.Module, config: Any, classes: Sequence[str], scale: Scale
) -> dict[str, Any]:
    return {
        "model": config.model_dump(mode="json"),
        "train": train_config(job.recipe).model_dump(mode="json"),
        "classes": list(classes),
        "mean": scale.mean.tolist(),
        "deviation": scale.deviation.tolist(),
        "seed": job.seed,
        "fold": job.fold,
        "parameters": sum(p.numel() for p in network.parameters()),
        "num_train": len(job.train_events),
        "num_test": len(job.test_events),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
