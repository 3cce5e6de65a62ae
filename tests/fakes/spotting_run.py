"""A spotting run with real, small networks, and videos of one moving texture for it to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from data.stages.workspace import Workspace
from models.fitting import save_weights, write_json
from models.me_tst.network import MeTst, MeTstConfig
from models.runs.files import RunFiles
from tests.fakes.fabricated_run import (
    enter_again,
    write_ingest,
    write_me_tst_run,
    write_motion_store,
)

SIDE, FRAMES = 160, 60


def picture(shift: float) -> np.ndarray:
    """A textured square that moves right by `shift` px."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    x = x - shift
    return (127 + 60 * np.sin(x / 5) * np.cos(y / 7) + 40 * np.sin((x + y) / 3)).astype(np.uint8)


def landmarks(_: np.ndarray) -> np.ndarray:
    """A face that is always in the middle."""
    rng = np.random.default_rng(0)
    points = rng.integers(SIDE // 3, 2 * SIDE // 3, (68, 2))
    points[39], points[42] = (70, 70), (90, 70)
    return points


def write_pictures(
    folder: Path, count: int = FRAMES, name: str = "img{}.png", at: int = 30
) -> Path:
    """Frames 1 to `count` of the texture, jerked about frame `at`."""
    folder.mkdir(parents=True)
    for i in range(count):
        shift = 3 * np.exp(-(((i - at) / 4) ** 2))
        cv2.imwrite(str(folder / name.format(i + 1)), picture(shift))
    return folder


def spotting_run(workspace: Workspace, seed: int = 0) -> RunFiles:
    """Two folds, trained at 100 frames/s; half-width 4."""
    events = write_ingest(workspace, "samm_lv", subjects=2, per_subject=1, kind="long", frames=240)
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    folder = write_me_tst_run(workspace)
    for number, fold in enumerate(sorted(folder.glob("fold-*"))):
        torch.manual_seed(seed + number)
        network = MeTst(MeTstConfig(dim=16, blocks=2, d_state=4))
        save_weights(network, fold / "weights.safetensors")
        facts = {"model": network.config.model_dump(), "train": {}, "k_p": 4, "fold": fold.name}
        write_json(fold / "model.json", facts)
    enter_again(folder)
    return RunFiles(folder)
