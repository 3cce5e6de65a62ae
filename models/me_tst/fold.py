"""One fold of ME-TST or ME-TST+: motion from the stores in, weights, curves and intervals out.

`fit_folds` writes `weights.safetensors` (the last epoch's: nothing is chosen on held-out subjects),
`model.json`, `history.parquet`, `curves.h5` (see models/me_tst/curves.py) and
`predictions.parquet`, a row per predicted interval. Killed, it goes on from its last saved epoch.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from data.errors import ConfigError, TrainingError
from data.plain_json import read_object
from data.settings import Settings
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
from models.me_tst.curves import (
    VideoMotion,
    curves_of,
    read_curves,
    read_videos,
    write_curves,
)
from models.me_tst.epochs import write_epochs
from models.me_tst.fused import predict_many
from models.me_tst.labels import EMOTIONS, require_positives, sample_windows
from models.me_tst.many import fit_many, rivals
from models.me_tst.scores import score_table, unit_rows
from models.me_tst.settings import DecodeConfig, MeTstTrainConfig
from models.me_tst.training import FoldTraining, Windows, predict
from models.recipe import Recipe
from models.registry import find_network
from models.runs.files import FoldJob, RunFiles, Sample, read_tables
from models.scores.spotting import Protocol, VideoCurves, VideoResult, evaluate
from models.spotting import CLASS_NAMES, half_width
from models.stacked.proof import Proof, Rivals, find_fold, prove

logger = logging.getLogger(__name__)

PREDICTIONS = {
    "dataset": "string",
    "video": "string",
    "subject": "string",
    "person": "string",
    "fold": "string",
    "start": "int64",
    "end": "int64",
    "peak": "int64",
    "start_index": "int64",
    "end_index": "int64",
    "peak_index": "int64",
    "score": "float64",
    "predicted": "string",
    "label": "string",
    "matched_event": "string",
    "matched": "bool",
}


def fit_folds(jobs: Sequence[FoldJob]) -> None:
    """Train each fold on its training videos, predict its test videos, write the folds' files.

    Several folds are trained and evaluated as one program; the videos are read once. Raises
    `TrainingError` naming a fold without a positive training window or with a loss that is not
    finite.
    """
    pack = prepare(jobs)
    finish(pack, pack.train())


@dataclass
class Prepared:
    """A fold ready to be trained: its network, its rows of the pack's windows, its videos."""

    job: FoldJob
    network: nn.Module
    training: list[VideoMotion]
    tested: list[VideoMotion]
    k_p: int
    everyone: int
    train_rows: npt.NDArray[np.int64]
    test_rows: npt.NDArray[np.int64]


@dataclass
class Pack:
    """Folds of one recipe and the windows of all their videos."""

    windows: Windows
    folds: list[Prepared]
    train_config: MeTstTrainConfig
    strategy: int
    device: str

    def trainings(self, files: bool = True) -> list[FoldTraining]:
        """What `fit_many` takes; `files`: with resume points and progress."""
        return [
            FoldTraining(
                one.network,
                one.train_rows,
                one.job.seed,
                one.job.unit or one.job.fold,
                one.job.out / "resume" / "state.safetensors" if files else None,
                one.job.progress if files else None,
            )
            for one in self.folds
        ]

    def train(self) -> list[list[dict[str, float]]]:
        """The folds' histories; none without epochs."""
        if not self.train_config.epochs:
            return [[] for _ in self.folds]
        for one in self.folds:
            discard_if_damaged(one.job.out / "resume" / "state.safetensors", one.job.fold)
        return fit_many(
            self.trainings(),
            self.windows,
            self.train_config,
            strategy=self.strategy,
            device=self.device,
            watch=watch_of(self.train_config.epochs, self.folds[0].job.record, self.note),
        )

    def note(self, due: Sequence[tuple[int, int]]) -> None:
        """Keep the outputs of the moment of folds (position, epochs done) on their test windows."""
        part = replace(self, folds=[self.folds[position] for position, _ in due])
        for one, (_, epochs), (spot, logits) in zip(part.folds, due, part.predict(), strict=True):
            note_epoch(one.job.out, epochs, {"spot": spot, "logits": logits.astype(np.float16)})

    def predict(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Per fold the spot probability and logits of its test windows, video after video."""
        size = self.train_config.batch_size
        if len(self.folds) > 1:
            return predict_many(
                [one.network for one in self.folds],
                self.windows.motion,
                [one.test_rows for one in self.folds],
                size,
                self.device,
            )
        one = self.folds[0]
        each = [predict(one.network, video.motion, size, self.device) for video in one.tested]
        spots, logits = zip(*each, strict=True)
        return [(np.concatenate(spots), np.concatenate(logits))]


def prepare(jobs: Sequence[FoldJob]) -> Pack:
    """Read the videos of all folds once, choose training windows, make the networks.

    Raises ConfigError for folds of different recipes.
    """
    recipe, train = jobs[0].recipe, _train_config(jobs[0].recipe)
    if any((job.recipe.model, job.recipe.train) != (recipe.model, train) for job in jobs):
        raise ConfigError("folds at once", expected="folds of one recipe", got="several")
    wanted = sorted({sample for job in jobs for sample in (*job.train_videos, *job.test_videos)})
    videos = read_videos(Workspace(jobs[0].workspace), recipe, wanted, jobs[0].keys)
    labels = [video.labels() for video in videos]
    spot, classes = (np.concatenate(part) for part in zip(*labels, strict=True))
    windows = Windows(np.concatenate([video.motion for video in videos]), spot, classes)
    ends = np.cumsum([len(video.motion) for video in videos])
    rows = {
        (v.dataset, v.video): np.arange(end - len(v.motion), end)
        for v, end in zip(videos, ends, strict=True)
    }
    folds = []
    for job in jobs:
        sides = [
            [v for v in videos if (v.dataset, v.video) in set(side)]
            for side in (job.train_videos, job.test_videos)
        ]
        training, tested = sides
        k_p = _half_width(training, job.fold)
        everyone = _half_width([*training, *tested], job.fold)
        seed_everything(job.seed)
        network = _network(recipe, tested)
        own = training_rows(training, rows, train, job.seed, job.fold)
        test_rows = np.concatenate([rows[v.dataset, v.video] for v in tested])
        folds.append(Prepared(job, network, training, tested, k_p, everyone, own, test_rows))
    return Pack(windows, folds, train, recipe.decode.strategy, jobs[0].device)


def _require_finite(curves: Sequence[VideoCurves], fold: str) -> None:
    """A network that has diverged gets no score. Raises TrainingError `outputs_not_finite`."""
    bad = [c.video for c in curves if not (np.isfinite(c.spot).all() & np.isfinite(c.logits).all())]
    if bad:
        raise TrainingError(
            fold,
            expected="finite outputs",
            got=f"none for {', '.join(bad[:3])}",
            todo="The network has diverged: lower train.max_lr.",
            code="outputs_not_finite",
        )


def finish(pack: Pack, histories: Sequence[list[dict[str, float]]]) -> None:
    """Predict the test videos and write every fold's files."""
    for one, history, (spot, logits) in zip(pack.folds, histories, pack.predict(), strict=True):
        ends = np.cumsum([len(video.motion) for video in one.tested])[:-1]
        parts = zip(one.tested, np.split(spot, ends), np.split(logits, ends), strict=True)
        job = one.job
        curves = [curves_of(v, s, e, job.fold, one.k_p, one.everyone) for v, s, e in parts]
        _require_finite(curves, job.fold)
        job.out.mkdir(parents=True, exist_ok=True)
        save_weights(one.network, job.out / "weights.safetensors")
        write_curves(curves, job.out / "curves.h5")
        if job.record:
            notes = read_notes(job.out, pack.train_config.epochs, job.record, job.fold)
            write_epochs(notes, job.out / "epochs.h5")
        decode_fold(job.recipe, job.out)
        columns = ["epoch", "loss", "spot", "recog", "lr"]
        write_table(pd.DataFrame(history, columns=columns), job.out / "history.parquet")
        write_json(job.out / "model.json", _facts(one))


def decode_fold(recipe: Recipe, folder: Path) -> None:
    """Write `predictions.parquet` from the fold's curves, under the recipe's scoring settings."""
    results = evaluate(
        read_curves(folder / "curves.h5"), protocol_of(recipe.decode, _train_config(recipe))
    )
    write_table(intervals_table(results), folder / "predictions.parquet")


def prove_fold(jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
    """Train fold `fold` alone and beside the other jobs' folds; see `models.stacked.proof.prove`.

    Compared are losses, and spot probability and logits on the test windows. Biases without a
    gradient are frozen for it (see `biases_without_gradient`). Nothing is written.
    """
    pack, at = prepare(jobs), find_fold([job.fold for job in jobs], fold)
    trainings, tested = pack.trainings(files=False), [one.test_rows for one in pack.folds]

    def of_type(kind: torch.dtype) -> Rivals:
        return rivals(
            trainings, at, pack.windows, pack.train_config, tested,
            strategy=pack.strategy, device=pack.device, kind=kind,
        )  # fmt: skip

    return prove(fold, len(jobs), of_type, steps)


def training_rows(
    videos: Sequence[VideoMotion],
    rows: Mapping[Sample, npt.NDArray[np.int64]],
    config: MeTstTrainConfig,
    seed: int,
    who: str,
) -> npt.NDArray[np.int64]:
    """Rows of the windows a fold trains on: down-sampled over all its videos together.

    `rows`: (dataset, video) → where the video's windows lie among those that folds share.
    """
    used = [v for v in videos if config.videos == "all" or len(v.truth.intervals)]
    spots = [video.labels()[0] for video in used]
    require_positives(spots, who)
    rng = np.random.default_rng([seed, 0])
    chosen = sample_windows(np.concatenate(spots), config.negative_ratio, rng)
    return np.concatenate([rows[v.dataset, v.video] for v in used])[chosen]


def protocol_of(decode: DecodeConfig, train: MeTstTrainConfig) -> Protocol:
    """The recipe's protocol."""
    return Protocol(
        p=decode.p,
        k_p=decode.k_p,
        stitch=decode.stitch,
        matcher=decode.matcher,
        iou=decode.iou,
        strategy=decode.strategy,
        batch_size=train.batch_size,
        only_with_events=decode.videos == "with_events",
    )


def intervals_table(results: Sequence[VideoResult]) -> pd.DataFrame:
    """A row per predicted interval, view frames and the video's own frame indices.

    `start`, `end` are not clipped; `*_index` are, to the video. `label` and `matched_event` are
    null where no event is matched.
    """
    rows = []
    for result in results:
        curves, view = result.curves, result.curves.view_index
        for (start, end, peak), score, voted, gt in zip(
            result.intervals, result.confidence, result.votes, result.gt_index, strict=True
        ):
            own = view[np.clip([start, end, peak], 0, len(view) - 1)]
            rows.append(
                {
                    **{n: getattr(curves, n) for n in list(PREDICTIONS)[:5]},
                    **dict(zip(("start", "end", "peak"), (start, end, peak), strict=True)),
                    **dict(zip(("start_index", "end_index", "peak_index"), own, strict=True)),
                    "score": score,
                    "predicted": CLASS_NAMES[voted],
                    "label": EMOTIONS[curves.truth.emotions[gt]] if gt >= 0 else None,
                    "matched_event": curves.truth.events[gt] if gt >= 0 else None,
                    "matched": gt >= 0,
                }
            )
    return pd.DataFrame(rows, columns=list(PREDICTIONS)).astype(PREDICTIONS)


def score(run: RunFiles) -> pd.DataFrame:
    """The run's metrics table; see `models.me_tst.scores.score_table`."""
    recipe = run.recipe
    curves = [one for fold in run.folds for one in read_curves(fold / "curves.h5")]
    protocol = protocol_of(recipe.decode, _train_config(recipe))
    table = score_table(curves, protocol, draws=recipe.decode.draws, seed=recipe.each_seed[0])
    events = read_tables(run.workspace, recipe.data, "events")
    micro = events[(events.type == "micro") & events.aus.notna()]
    aus = dict(zip(zip(micro.dataset, micro.event, strict=True), micro.aus, strict=True))
    rows = unit_rows(evaluate(curves, protocol), aus) if aus else []
    more = pd.DataFrame(rows, columns=table.columns).astype(table.dtypes)
    return pd.concat([table, more], ignore_index=True) if rows else table


@dataclass(frozen=True)
class TrainedMeTst:
    """A fold's network as it was left, in eval mode, with what its outputs mean."""

    network: nn.Module
    model: Settings
    train: MeTstTrainConfig
    k_p: int
    fold: str


def load_fold(folder: Path) -> TrainedMeTst:
    """Read a fold's weights and side file. Raises `TrainingError` when they are not of one kind."""
    try:
        facts = read_object(folder / "model.json")
        config = find_network(str(facts["model"]["name"])).settings.model_validate(facts["model"])
        train = MeTstTrainConfig.model_validate(facts["train"])
        k_p, fold = int(facts["k_p"]), str(facts["fold"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise TrainingError(
            str(folder / "model.json"), expected="the side file of an ME-TST fold", got=str(error)
        ) from error
    network = _create(config)
    load_weights(network, folder / "weights.safetensors")
    return TrainedMeTst(network.eval(), config, train, k_p, fold)


def _create(config: Any) -> nn.Module:
    network: nn.Module = find_network(config.name).code().create(config)
    return network


def _network(recipe: Recipe, tested: Sequence[VideoMotion]) -> nn.Module:
    """A fresh network, or the authors' for the held-out subject where the recipe names weights."""
    config, source = recipe.model, _train_config(recipe).authors_weights
    if source is None:
        return _create(config)
    path = Path(source)
    if path.is_dir():
        subjects = sorted({video.subject for video in tested})
        path = _subjects_weights(path, subjects[0])
        if len(subjects) > 1:
            raise ConfigError(
                f"recipe {recipe.name}, train.authors_weights",
                expected="one held-out subject per fold for a folder of weights",
                got=f"{len(subjects)} subjects",
                todo="Split by leave_one_subject_out, or name one file.",
            )
    settings = config.model_dump(include={"drop_path", "scan"})
    code = recipe.network.code()
    network: nn.Module = code.load_authors_checkpoint(path, **settings)
    own: Any = network.config
    if own.in_channels != config.in_channels:
        raise ConfigError(
            f"authors' weights {path.name}",
            expected=f"{config.in_channels} motion channels",
            got=str(own.in_channels),
        )
    return network


def _subjects_weights(folder: Path, subject: str) -> Path:
    """The authors' file of a held-out subject; they call CAS(ME)^3's spNO.7 plainly 7."""
    own = folder / f"subject_{subject}.pkl"
    theirs = folder / f"subject_{subject.rpartition('.')[2]}.pkl"
    return own if own.is_file() else theirs


def _train_config(recipe: Recipe) -> MeTstTrainConfig:
    if not isinstance(recipe.train, MeTstTrainConfig):
        raise ConfigError(f"recipe {recipe.name}", expected="ME-TST's train settings", got="others")
    return recipe.train


def _half_width(videos: Sequence[VideoMotion], who: str) -> int:
    """k_p of these videos' events."""
    require_positives([v.labels()[0] for v in videos], who)
    spans = [v.truth.intervals[:, [0, 2]] for v in videos if len(v.truth.intervals)]
    return half_width(np.concatenate(spans))


def _facts(one: Prepared) -> dict[str, Any]:
    job = one.job
    config: Any = one.network.config
    return {
        "model": config.model_dump(mode="json"),
        "train": _train_config(job.recipe).model_dump(mode="json"),
        "motion": job.recipe.stage_config("motion").model_dump(mode="json"),
        "classes": list(CLASS_NAMES),
        "k_p": one.k_p,
        "seed": job.seed,
        "fold": job.fold,
        "parameters": sum(p.numel() for p in one.network.parameters()),
        "num_windows": len(one.train_rows),
        "num_train": len(one.training),
        "num_test": len(one.tested),
        "dropped_events": [list(d) for v in (*one.training, *one.tested) for d in v.truth.dropped],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
