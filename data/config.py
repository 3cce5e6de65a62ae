"""Settings of the preprocessing stages: frozen, strict, self-describing.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. Every value
a stage's result depends on is here, so that the stage's key can be made from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
        "gzip", title="Compression of crops", description="Lossless; gzip is level 1."
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
    )


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

    pairs: tuple[Literal["onset_apex", "apex_offset", "sampled", "consecutive"], ...] = Field(
        ("onset_apex", "apex_offset"),
        min_length=1,
        title="Frame pairs",
        description="sampled: onset to frames spread evenly over the event; consecutive: each of"
        " its frames to the next. HSTA's special slot needs onset_apex and apex_offset.",
    )
    samples: int = Field(
        8, ge=1, le=1000, title="Sampled frames", description="Per event, for pairs: sampled."
    )
    size: int | None = Field(
        None,
        ge=16,
        le=1024,
        title="Field side, px",
        description="Crops are reduced to this by area averaging; none, or more: as aligned.",
    )
    preset: Literal["opencv", "fast"] = Field(
        "opencv",
        title="TV-L1 preset",
        description="opencv: OpenCV's defaults; fast: a third to a half of the time.",
    )
    backend: Literal["auto", "numba", "torch", "triton", "opencv"] = Field(
        "auto",
        title="TV-L1 backend",
        description="auto: compiled CPU kernels. triton: a GPU, many events at once.",
    )
    register_to_onset: Literal["stored", "residual"] = Field(
        "stored",
        title="Registration to the onset",
        description="stored: crops as aligned, all to one reference. residual: also subtract the"
        " similarity (shift, turn, zoom) that the head still makes between the two frames.",
    )
    store: Literal["float16", "int16", "float32"] = Field(
        "float16",
        title="Number format",
        description="float16 and float32 hold pixels (float16 gives way to float32 where it would"
        " lose 0.005 px); int16 holds pixels divided by the attribute `scale`.",
    )


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
    landmark_model: str | None = Field(
        None, title="Landmark model", description="Path of a dlib 68-point file; none: packaged."
    )

    @field_validator("k")
    @classmethod
    def _even(cls, k: int) -> int:
        if k % 2:
            raise ValueError("k must be even: windows overlap by k/2 frames")
        return k


class StageSettings(Settings):
    """Settings of every preprocessing stage, in the order in which stages run.

    This is the map of stages: the field `name` is the stage in `data/stage_<name>.py`.
    """

    align: AlignConfig = AlignConfig()
    apex: ApexConfig = ApexConfig()
    flow: FlowConfig = FlowConfig()
    motion: MotionConfig = MotionConfig()
