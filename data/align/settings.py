"""Settings of stage align."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from data.settings import ASIDE, BY_CONTENT, Settings


class AlignConfig(Settings):
    """Face crops, aligned by registration to a reference frame."""

    mode: Literal[
        "none", "whole", "first_crop", "landmarks", "landmarks_smooth", "ecc", "track"
    ] = Field(
        "track",
        title="Alignment",
        description="track: points registered to a reference frame. landmarks shakes by 0.5 px. "
        "none: the frame's largest centred square; whole: all of it, squashed to a square.",
    )
    size: Literal[128, 224, 320] = Field(224, title="Crop side, px")
    colour: bool = Field(False, title="Colour crops", description="RGB, not grey; 2-3 × size.")
    store: Literal["crops", "transforms"] = Field(
        "crops",
        title="What is stored",
        description="transforms: poses only, crops are made from the raw frames when read.",
    )
    compression: Literal["gzip", "lzf", "none"] = Field(
        "gzip",
        title="Compression of crops",
        description="Lossless; gzip is level 1. Crops that are there stay as they are.",
        json_schema_extra=ASIDE,
    )
    upright: bool = Field(
        True, title="Level the eyes", description="Turn the crop by the reference's eye line."
    )
    parallax: bool = Field(
        True, title="Parallax", description="track: undo what yaw and pitch do to a deep face."
    )
    points: int = Field(200, ge=40, le=1000, title="Tracked points, at most")
    smooth_frames: float = Field(
        2.0, gt=0, le=20, title="Smoothing, frames", description="landmarks_smooth: Gaussian sd."
    )
    landmark_model: Path | None = Field(
        None,
        title="Landmark model",
        description="Path of a dlib 68-point predictor; empty: the packaged one.",
        json_schema_extra=BY_CONTENT,
    )

    def unread(self) -> frozenset[str]:
        """Settings of modes other than this one."""
        read = {"track": {"parallax", "points"}, "landmarks_smooth": {"smooth_frames"}}
        faceless = {"landmark_model"} if self.mode in ("none", "whole") else set()
        every = {name for names in read.values() for name in names}
        return frozenset((every - read.get(self.mode, set())) | faceless)


SETTINGS = AlignConfig
