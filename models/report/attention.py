"""Where HSTA looked: attention of its class tokens over tested clips, drawn for the report.

Every clip is shown to the network that did not train on it. Maps are of the last group, the token's
own branch; see models/hsta/attention.py for what they mean and what they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data.errors import ApexflowError
from data.pictures.drawing import evenly, side_by_side, thumbnail
from models.report.data import videos_with_faces

if TYPE_CHECKING:
    from models.hsta.fold import TrainedHsta
    from models.runs.files import RunFiles

CLIPS = 3
STRENGTH = 0.75  # of full orange over the picture
SIDE = 196  # px of a frame in the strip
NOTE = (
    "Orange is where the class token of the last group attends more than evenly, over the video "
    "frames and, right of the gap, in the special branch; full orange is twice an even share or "
    "more. Attention shows what was mixed, not what decided."
)


def attention_strips(run: RunFiles) -> Iterator[tuple[Any, str]]:
    """(image, caption) of a few tested clips, spread over folds; none where a part is missing."""
    from models.runs.files import read_tables

    predictions = run.predictions()
    events = read_tables(run.workspace, run.recipe.data, "events")
    allowed = videos_with_faces(run)
    table = predictions.merge(
        events[["dataset", "event", "video", "onset", "offset"]], on=["dataset", "event"]
    )
    for row in evenly(list(table.itertuples(index=False)), CLIPS):
        try:
            image = _strip(
                run, run.folder / str(row.fold), row, (row.dataset, row.video) in allowed
            )
        except (ApexflowError, LookupError, ValueError, OSError):  # a fold of another time
            continue
        chance = getattr(row, f"prob_{row.predicted}", float("nan"))
        said = f"true {row.label}, predicted {row.predicted} ({chance:.2f})"
        yield image, f"{row.dataset} · {row.event} · {said}"


def _strip(run: RunFiles, folder: Path, row: Any, with_face: bool) -> Any:
    from models.hsta.attention import class_attention, covered_share, overlay
    from models.hsta.clips import draw_batch, read_clips, to_clip
    from models.hsta.fold import load_fold
    from models.hsta.network import SPECIAL, VIDEO

    fold = load_fold(folder)
    model, config = fold.model, fold.model.config
    event = pd.DataFrame([row._asdict()])
    bank = read_clips(run.workspace, event, [0], config, fold.train.input, keys=run.keys)
    batch = draw_batch(bank, [0], config.num_frames, fold.train.input, None)
    maps = class_attention(model, to_clip(batch, _cpu(), fold.scale))
    frames = batch.frames[0].numpy()
    frames = frames[..., 0] if frames.shape[-1] == 1 else frames
    if not with_face:
        frames = np.full_like(frames, 235)
    shown = []
    for branch, images in ((VIDEO, frames[: config.num_frames]), (SPECIAL, _special(frames, fold))):
        own = maps[branch].own[0, -1]  # (t, h, w)
        step = max(1, len(images) // len(own))
        share = covered_share(model, branch)
        # How much more than an even share: a network that learnt nothing paints nothing.
        excess = np.clip(own * own.size / max(float(own.sum()), 1e-12) - 1, 0, 1)
        painted = [
            overlay(images[min(i * step, len(images) - 1)], one, share, STRENGTH * float(one.max()))
            for i, one in enumerate(excess)
        ]
        shown.append(side_by_side([_at_side(image) for image in painted]))
    return side_by_side(shown, gap=18)


def _at_side(image: Any) -> Any:
    """An image SIDE px long: a network's input may be as small as 48."""
    import cv2

    if max(image.shape[:2]) >= SIDE:
        return thumbnail(image, SIDE)
    scale = SIDE / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def _special(frames: Any, fold: TrainedHsta) -> Any:
    """Images under the special branch's maps: onset and apex, or the first frame under flow."""
    count = fold.model.config.num_frames
    return frames[count:] if len(frames) > count else frames[:1]


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
