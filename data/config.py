"""Settings of the preprocessing stages: frozen, strict, self-describing.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. Every value
a stage's result depends on is here, so that the stage's key can be made from it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AlignConfig(Settings):
    """Face crops, aligned by registration to a reference frame."""


class ApexConfig(Settings):
    """Apex frames: labelled, filled in, or spotted."""

    method: Literal["flow_peak", "lbp", "frequency", "middle", "label"] = Field(
        "flow_peak",
        title="How to find a missing apex",
        description="A valid label is always kept. label: events without one are dropped.",
    )
    size: int = Field(
        128, ge=64, le=320, title="Crop side, px", description="Crops are reduced to this first."
    )
    smooth_ms: float = Field(
        50.0, ge=0, le=500, title="Smoothing, ms", description="Length of the moving average."
    )
    margin: float = Field(
        0.1,
        ge=0,
        le=0.4,
        title="Margin",
        description="Share of the event at either end in which no apex is looked for.",
    )


class FlowConfig(Settings):
    """TV-L1 flow and strain between chosen frames of an event."""


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
        "farneback", title="Optical flow", description="farneback is the authors'."
    )
    clamp: bool = Field(
        True,
        title="Clamp",
        description="Windows that leave their patch are cut at its edge; off: Python's negative"
        " indices wrap, as in the authors' code.",
    )
    landmark_model: str | None = Field(
        None, title="Landmark model", description="Path of a dlib 68-point file; none: packaged."
    )

    @field_validator("k")
    @classmethod
    def _even(cls, k: int) -> int:
        if k % 2:
            raise ValueError("k must be even: windows overlap by k/2 frames")
        return k
