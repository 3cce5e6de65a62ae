"""Settings of stage motion."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from data.settings import BY_CONTENT, Settings


class MotionConfig(Settings):
    """ME-TST's ROI motion series per window."""

    k: int = Field(
        50,
        ge=4,
        le=1000,
        title="Window, frames",
        description="Even; windows are k/2 apart. Published: CAS(ME)³ 50, SAMM-LV 30.",
    )
    frame_skip: int = Field(
        1,
        ge=1,
        le=100,
        title="Frame skip",
        description="Every n-th frame is used. Published: CAS(ME)³ 1, SAMM-LV (200 fps) 7.",
    )
    gaps: Literal["list", "fill"] = Field(
        "list",
        title="Missing file numbers",
        description="list: frames as they come. fill: position = file number − 1, a missing number"
        " shows the next image (the authors' CAS(ME)³ loader).",
    )
    roi_set: Literal["coarse10", "multi36"] = Field(
        "coarse10", title="ROIs", description="5 ROIs (ME-TST) or 18 (ME-TST+), two channels each."
    )
    flow: Literal["farneback", "tvl1"] = Field(
        "farneback",
        title="Optical flow",
        description="farneback: the authors' and the default: on 18 ROIs tvl1 (preset fast) takes"
        " twice the time for the same score (docs/me_tst_synthetic.md).",
    )
    clamp: bool = Field(
        True,
        title="Clamp",
        description="Windows that leave their patch are cut at its edge; off: Python's negative"
        " indices wrap, as in the authors' code.",
    )
    landmark_model: Path | None = Field(
        None,
        title="Landmark model",
        description="Path of a dlib 68-point file; none: packaged.",
        json_schema_extra=BY_CONTENT,
    )

    @field_validator("k")
    @classmethod
    def _even(cls, k: int) -> int:
        if k % 2:
            raise ValueError("k must be even: windows overlap by k/2 frames")
        return k


SETTINGS = MotionConfig
