"""Settings of ME-TST, ME-TST+, their training and decoding. No torch is imported for them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.settings import ASIDE, Settings
from models.layers.choices import FoldsAtOnce, Init, ScanBackend

KP = Literal["train_fold", "global"] | int


class MeTstConfig(Settings):
    """Size and behaviour of the network; the defaults are the first release's (C1)."""

    name: Literal["me_tst"] = "me_tst"
    in_channels: int = Field(
        10, ge=1, title="Motion channels", description="10 (5 ROIs) or 36 (18 ROIs)."
    )
    dim: int = Field(64, ge=1, le=4096, title="Width", description="64 in C1, 128 in C2.")
    blocks: int = Field(12, ge=1, le=200, title="Mamba blocks of a trunk")
    d_state: int = Field(64, ge=1, le=1024, title="States per channel")
    d_conv: int = Field(4, ge=1, le=64, title="Taps of the causal convolution")
    expand: int = Field(2, ge=1, le=16, title="Inner width over width")
    drop_path: float = Field(0.2, ge=0, lt=1, title="Stochastic depth the blocks approach")
    share_trunk: bool = Field(
        True, title="One trunk", description="One trunk for both heads, as the authors' code acts."
    )
    init: Init = Field(
        "authors",
        title="Initial weights",
        description="authors: normal 0.02, zero step bias; mamba: the block's own rule.",
    )
    scan: ScanBackend = Field(
        "auto",
        title="Scan backend",
        description="auto, reference, fast, triton or mamba_ssm.",
        json_schema_extra=ASIDE,
    )


class MeTstPlusConfig(Settings):
    """Size and behaviour of the network; the defaults are the release's."""

    name: Literal["me_tst_plus"] = "me_tst_plus"
    in_channels: int = Field(
        36, ge=1, title="Motion channels", description="36 (18 ROIs) or 10 (5 ROIs)."
    )
    dim: int = Field(
        128, ge=1, le=4096, title="Width of the fast path", description="The slow path has twice."
    )
    blocks: int = Field(4, ge=1, le=50, title="Mamba blocks of a stage and path")
    d_state: int = Field(64, ge=1, le=1024, title="States per channel")
    d_conv: int = Field(4, ge=1, le=64, title="Taps of the causal convolution")
    expand: int = Field(2, ge=1, le=16, title="Inner width over width")
    drop_path: float = Field(0.2, ge=0, lt=1, title="Stochastic depth a stage approaches")
    share_trunk: bool = Field(
        False, title="One trunk", description="One trunk for both heads; the release has two."
    )
    init: Init = Field(
        "authors",
        title="Initial weights",
        description="authors: normal 0.02, zero step bias; mamba: the block's own rule.",
    )
    scan: ScanBackend = Field(
        "auto",
        title="Scan backend",
        description="auto, reference, fast, triton or mamba_ssm.",
        json_schema_extra=ASIDE,
    )


class MeTstTrainConfig(Settings):
    """How a fold is trained; the defaults are the first release's for SAMM-LV."""

    epochs: int = Field(
        30,
        ge=0,
        le=100_000,
        title="Epochs",
        description="0 evaluates the starting weights as they are.",
    )
    max_lr: float = Field(1e-4, gt=0, title="Peak learning rate", description="Of the OneCycle.")
    batch_size: int = Field(
        32, ge=1, le=65_536, title="Batch size", description="32 for SAMM-LV, 256 for CAS(ME)^3."
    )
    negative_ratio: float = Field(
        0.5,
        ge=0,
        title="Negative windows per positive one",
        description="0.5 for SAMM-LV, 4 for CAS(ME)^3.",
    )
    videos: Literal["with_events", "all"] = Field(
        "with_events",
        title="Training videos",
        description="The authors train on videos with micro-expressions only.",
    )
    jitter: float = Field(0.1, ge=0, lt=1, title="Scale jitter of a window")
    spot_weight: float = Field(0.9, ge=0, title="Weight of the spotting loss")
    recog_weight: float = Field(0.1, ge=0, title="Weight of the recognition loss")
    neutral_factor: float = Field(6.0, ge=0, title="Factor on the neutral class weight")
    authors_weights: str | None = Field(
        None,
        title="Authors' weights",
        description="A file, or a folder with subject_<id>.pkl per held-out subject, to start "
        "from; with epochs 0 they are evaluated as they are.",
    )
    folds_at_once: FoldsAtOnce = Field(
        "auto",
        title="Folds at once",
        description="Folds trained as one program; auto: by measured speed and memory of the GPU, "
        "1 on a CPU. A fold's result is the same to rounding.",
        json_schema_extra=ASIDE,
    )


class DecodeConfig(Settings):
    """From per-frame scores to intervals, emotions and counts."""

    p: float = Field(0.55, ge=0, le=1, title="Threshold between a video's mean and maximum")
    k_p: KP = Field(
        "train_fold",
        title="Half-width of an interval",
        description="From the training subjects (train_fold), from all subjects as the authors "
        "(global), or a number of view frames.",
    )
    stitch: Literal["clean", "authors"] = Field(
        "clean", title="Stitching", description="authors: their batch-dependent rule."
    )
    matcher: Literal["one_to_one", "authors"] = Field(
        "one_to_one", title="Matcher", description="authors: soft counts, greedy list."
    )
    iou: float = Field(0.5, gt=0, le=1, title="Least IoU of a hit")
    strategy: Literal[0, 1, 2] = Field(
        2,
        title="Synergy",
        description="0: none; 1: intervals voted neutral are removed; 2: neutral is no candidate.",
    )
    videos: Literal["all", "with_events"] = Field(
        "all",
        title="Tested videos",
        description="with_events leaves out videos without micro-expressions, as published; the "
        "table holds both figures either way.",
    )
    draws: int = Field(1000, ge=10, le=100_000, title="Bootstrap draws over subjects")
