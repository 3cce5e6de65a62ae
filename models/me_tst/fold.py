"""One fold of ME-TST or ME-TST+: motion from the stores in, weights, curves and intervals out.

`fit_fold` writes `weights.safetensors` (the last epoch's: nothing is chosen on held-out subjects),
`model.json`, `history.parquet`, `curves.h5` (see models/me_tst/curves.py) and
`predictions.parquet`, a row per predicted interval. Killed, it goes on from its last saved epoch.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from data.errors import ConfigError, TrainingError
from data.plain_json import read_object
from data.settings import Settings
from data.stages.files import write_table
from data.stages.workspace import Workspace
from models.fitting import (
    discard_if_damaged,
    load_weights,
    save_weights,
    seed_everything,
    write_json,
)
from models.me_tst.curves import VideoMotion, curves_of, read_curves, read_videos, write_curves
from models.me_tst.labels import EMOTIONS, require_positives, sample_windows
from models.me_tst.scores import score_table
from models.me_tst.settings import DecodeConfig, MeTstTrainConfig
from models.me_tst.training import Windows, fit, predict
from models.recipe import Recipe
from models.registry import find_network
from models.runs.files import FoldJob, RunFiles
from models.scores.spotting import Protocol, VideoResult, evaluate
from models.spotting import CLASS_NAMES, half_width

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


def fit_fold(job: FoldJob) -> None:
    """Train on the fold's training videos, predict its test videos, write the fold's files.

    Raises `TrainingError` without a positive training window or for a loss that is not finite.
    """
    recipe, train = job.recipe, _train_config(job.recipe)
    workspace = Workspace(job.workspace)
    training = read_videos(workspace, recipe, job.train_videos, job.keys)
    tested = read_videos(workspace, recipe, job.test_videos, job.keys)
    k_p = _half_width(training, job.fold)
    everyone = _half_width([*training, *tested], job.fold)
    seed_everything(job.seed)
    network = _network(recipe, tested)
    history: list[dict[str, float]] = []
    resume = job.out / "resume" / "state.safetensors"
    discard_if_damaged(resume, job.fold)
    windows = training_windows(training, train, job.seed, job.fold)
    if train.epochs:
        history = fit(
            network,
            windows,
            train,
            strategy=recipe.decode.strategy,
            seed=job.seed,
            device=job.device,
            resume=resume,
            progress=job.progress,
        )
    curves = [
        curves_of(
            v, *predict(network, v.motion, train.batch_size, job.device), job.fold, k_p, everyone
        )
        for v in tested
    ]
    save_weights(network, job.out / "weights.safetensors")
    write_curves(curves, job.out / "curves.h5")
    decode_fold(recipe, job.out)
    columns = ["epoch", "loss", "spot", "recog", "lr"]
    write_table(pd.DataFrame(history, columns=columns), job.out / "history.parquet")
    write_json(job.out / "model.json", _facts(job, network, k_p, training, tested, len(windows)))


def decode_fold(recipe: Recipe, folder: Path) -> None:
    """Write `predictions.parquet` from the fold's curves, under the recipe's scoring settings."""
    results = evaluate(
        read_curves(folder / "curves.h5"), protocol_of(recipe.decode, _train_config(recipe))
    )
    write_table(intervals_table(results), folder / "predictions.parquet")


def training_windows(
    videos: Sequence[VideoMotion], config: MeTstTrainConfig, seed: int, who: str
) -> Windows:
    """Windows a fold trains on: down-sampled over all its videos together."""
    used = [v for v in videos if config.videos == "all" or len(v.truth.intervals)]
    labels = [video.labels() for video in used]
    require_positives([spot for spot, _ in labels], who)
    motion = np.concatenate([video.motion for video in used])
    spot, classes = (np.concatenate(part) for part in zip(*labels, strict=True))
    chosen = sample_windows(spot, config.negative_ratio, np.random.default_rng([seed, 0]))
    return Windows(motion[chosen], spot[chosen], classes[chosen])


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
    return score_table(curves, protocol, draws=recipe.decode.draws, seed=recipe.seed)


@dataclass(frozen=True)
class TrainedFold:
    """A fold's network as it was left, in eval mode, with what its outputs mean."""

    network: nn.Module
    model: Settings
    train: MeTstTrainConfig
    k_p: int
    fold: str


def load_fold(folder: Path) -> TrainedFold:
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
    return TrainedFold(network.eval(), config, train, k_p, fold)


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


def _facts(
    job: FoldJob,
    network: nn.Module,
    k_p: int,
    training: Sequence[VideoMotion],
    tested: Sequence[VideoMotion],
    num_windows: int,
) -> dict[str, Any]:
    config: Any = network.config
    return {
        "model": config.model_dump(mode="json"),
        "train": _train_config(job.recipe).model_dump(mode="json"),
        "motion": job.recipe.stage_config("motion").model_dump(mode="json"),
        "classes": list(CLASS_NAMES),
        "k_p": k_p,
        "seed": job.seed,
        "fold": job.fold,
        "parameters": sum(p.numel() for p in network.parameters()),
        "num_windows": num_windows,
        "num_train": len(training),
        "num_test": len(tested),
        "dropped_events": [list(d) for v in (*training, *tested) for d in v.truth.dropped],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
