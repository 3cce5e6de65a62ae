"""A finished workspace as plain PyTorch data sets, with the project's own split.

    from models.datasets import ClipDataset, FlowDataset, WindowDataset

    for fold, train, test in FlowDataset.folds("work", "ststnet_megc2019"):
        for pictures, labels in DataLoader(train, batch_size=32, shuffle=True): ...

A recipe (a name, a file, or a `Recipe`) says which datasets, labels, split and inputs; its stages
must have been run. Samples that lack an input are left out, as in a run of the recipe, and folds
are the run's. What is scaled is scaled by a fold's training side, also for its test side.

    ClipDataset    an event: clip (3, F + 2, S, S) float32 as HSTA reads it; its class, int
    FlowDataset    an event: picture (3, S, S) float32 of u, v, strain, standardised; its class, int
    WindowDataset  a window: motion (1, C, k) float32; spot (k,) float32; classes (k,) int64

A set made alone reads its recipe's samples itself. `folds()` reads them once for the sets of all
folds, and `shared=other.source` gives one set what another has read; worker processes of a
`DataLoader` share it too (they are forked; spawned ones get a copy). Nothing in a set is an open
file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.errors import ConfigError
from data.folds import Split, event_ids
from data.stages.workspace import Workspace
from models.flow_nets.fold import Scale as FlowScale
from models.flow_nets.fold import read_pictures, scale_of
from models.hsta.clips import ClipBank, Scale, draw_batch, read_clips, to_clip
from models.hsta.fold import class_names
from models.me_tst.curves import read_videos
from models.recipe import Recipe, load_recipe
from models.runs.files import Sample
from models.runs.samples import Samples, choose_samples, find_fold, fold_name, make_split
from models.targets import AUS, code_of

Side = Literal["train", "test"]
CPU = torch.device("cpu")


@dataclass
class Folds:
    """A workspace under a recipe: samples, split, and what is read of them (once)."""

    workspace: Workspace
    recipe: Recipe
    samples: Samples
    split: Split

    @classmethod
    def of(cls, workspace: Path | str, recipe: Recipe | str | Path, family: str) -> Self:
        """Choose samples and make the split. Raises ConfigError for a network of another family."""
        read = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))
        if read.network.family != family:
            raise ConfigError(
                f"recipe {read.name}",
                expected=f"a network of {family}",
                got=f"{read.network_name} of {read.network.family}",
                todo="ClipDataset goes with HSTA, FlowDataset with ststnet and flow_regression, "
                "WindowDataset with ME-TST.",
            )
        place = Workspace(workspace)
        samples = choose_samples(place, read)
        return cls(place, read, samples, make_split(read, samples.table))

    @cached_property
    def names(self) -> list[str]:
        """Folds as a run of the recipe calls them."""
        return [fold_name(i, str(name)) for i, name in enumerate(self.split.folds)]

    def rows(self, fold: str | int, side: Side) -> list[int]:
        """Rows of the samples' table on one side of a fold, said as `find_fold` takes it."""
        held = list(self.split.folds)
        number = find_fold([str(name) for name in held], fold)
        ids = set(self.split.folds[held[number]][0 if side == "train" else 1])
        return list(np.flatnonzero(event_ids(self.samples.table).isin(ids)))

    def keys(self, dataset: str, stage: str) -> dict[str, str] | None:
        """Unit → key of the stage's results that the samples were chosen from."""
        table = self.samples.inputs
        own = table[(table.dataset == dataset) & (table.stage == stage)]
        return dict(zip(own.unit, own.key, strict=True)) if len(own) else None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels' numbers."""
        return class_names(self.recipe, [str(label) for label in self.samples.table.label])

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """A class number for each sample; of action units their set (`models.targets.bits_of`)."""
        number = code_of if self.recipe.labels == AUS else self.classes.index
        names = [number(str(label)) for label in self.samples.table.label]
        return np.array(names, np.int64)

    @cached_property
    def bank(self) -> ClipBank:
        """Decoded clips of all samples."""
        return read_clips(
            self.workspace,
            self.samples.table,
            self.labels.tolist(),
            self.recipe.model,
            self.recipe.train.input,  # type: ignore[attr-defined]
            keys=self.keys,
        )

    @cached_property
    def pictures(self) -> npt.NDArray[np.float32]:
        """(n, 3, S, S) of all samples, not standardised."""
        return read_pictures(self.workspace, self.samples.table, self.recipe.model, self.keys)

    @cached_property
    def windows(self) -> tuple[list[npt.NDArray[Any]], list[int]]:
        """Motion, spot and class of all windows, and the sample of each."""
        table = self.samples.table
        wanted: list[Sample] = list(zip(table.dataset, table.video, strict=True))
        videos = read_videos(self.workspace, self.recipe, wanted, self.keys)
        place = {sample: i for i, sample in enumerate(wanted)}
        parts = [(video.motion, *video.labels()) for video in videos]
        owner = [place[v.dataset, v.video] for v in videos for _ in range(len(v.motion))]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)], owner


class _FoldDataset(Dataset[Any], ABC):
    """What the three have in common: whose samples, on which side of which fold."""

    family: ClassVar[str]

    def __init__(
        self,
        workspace: Path | str,
        recipe: Recipe | str | Path,
        fold: str | int = 0,
        side: Side = "train",
        *,
        shared: Folds | None = None,
    ) -> None:
        if side not in ("train", "test"):
            raise ConfigError("side", expected="train or test", got=repr(side))
        self.source = shared or Folds.of(workspace, recipe, self.family)
        self.fold, self.side = fold, side
        self._train = self.source.rows(fold, "train")
        self._own = self._train if side == "train" else self.source.rows(fold, side)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Read, and scale by the training side."""

    @classmethod
    def folds(
        cls, workspace: Path | str, recipe: Recipe | str | Path
    ) -> Iterator[tuple[str, Self, Self]]:
        """(name, training set, test set) of every fold; everything is read once for all."""
        shared = Folds.of(workspace, recipe, cls.family)
        for name in shared.names:
            pair = [cls(workspace, recipe, name, side, shared=shared) for side in _SIDES]
            yield name, pair[0], pair[1]

    @property
    def samples(self) -> pd.DataFrame:
        """This side's rows: dataset, subject, person, video, event, label, …, in item order."""
        return self.source.samples.table.iloc[self._own].reset_index(drop=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels' numbers."""
        return self.source.classes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """A class number for each item, for samplers and class weights."""
        return self.source.labels[self._own]

    def __len__(self) -> int:
        return len(self._own)


_SIDES: tuple[Side, Side] = ("train", "test")


class ClipDataset(_FoldDataset):
    """Clips: item i is ((3, F + 2, S, S) float32, class number), as HSTA's forward pass takes them.

    The time axis is F frames of onset … offset, then the two special slots: onset and apex frames,
    or (u, v, strain) of onset→apex and apex→offset with `model.special: flow`. Frames of the
    training side are drawn at random by torch's own generator: `torch.manual_seed` makes them
    repeat, and with workers `DataLoader(generator=…)`, which seeds these; of the test side evenly.
    """

    family = "models.hsta.family"
    scale: Scale

    def _prepare(self) -> None:
        self.scale = self.source.bank.scale(self._train, self._input.pixels)

    @property
    def _input(self) -> Any:
        return self.source.recipe.train.input  # type: ignore[attr-defined]

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        train = self.side == "train"
        rng = np.random.default_rng(int(torch.randint(2**31, ())) if train else 0)
        batch = draw_batch(
            self.source.bank,
            [self._own[item]],
            self.source.recipe.model.num_frames,
            self._input,
            rng if train else None,
            augment=train,
        )
        return to_clip(batch, CPU, self.scale)[0], int(batch.labels[0])


class FlowDataset(_FoldDataset):
    """Flow pictures: item i is ((3, S, S) float32 of u, v, strain of onset→apex, class number).

    Standardised by the training side, by channel or pixel as the recipe's `train.standardise` says.
    """

    family = "models.flow_nets.family"
    scale: FlowScale

    def _prepare(self) -> None:
        by = self.source.recipe.train.standardise  # type: ignore[attr-defined]
        self.scale = scale_of(self.source.pictures[self._train], by)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        row = self._own[item]
        return torch.from_numpy(self.scale.apply(self.source.pictures[row])), int(
            self.source.labels[row]
        )


class WindowDataset(_FoldDataset):
    """Windows of motion: item i is ((1, C, k) float32, spot (k,) float32, class (k,) int64).

    spot is 1 inside a micro-expression; classes 0 … 3 are the emotions of
    `models.spotting.CLASS_NAMES`, 4 is neutral. All windows of this side's videos, video after
    video and in time order, overlapping by half; nothing is down-sampled.
    """

    family = "models.me_tst.family"

    def _prepare(self) -> None:
        _, owner = self.source.windows
        own = set(self._own)
        self._rows: Sequence[int] = [i for i, sample in enumerate(owner) if sample in own]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class numbers."""
        from models.spotting import CLASS_NAMES

        return CLASS_NAMES

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n, k) class numbers of every frame of every window."""
        classes: npt.NDArray[np.int64] = self.source.windows[0][2][list(self._rows)]
        return classes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        motion, spot, classes = (arrays[self._rows[item]] for arrays in self.source.windows[0])
        return (
            torch.from_numpy(motion)[None],
            torch.from_numpy(spot),
            torch.from_numpy(classes),
        )
