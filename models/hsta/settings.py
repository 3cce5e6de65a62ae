"""Settings of HSTA's input and training. No torch: recipes are read without it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.settings import ASIDE, Settings
from models.layers.choices import FoldsAtOnce

Padding = Literal["edge", "zeros"]
Pixels = Literal["image", "change", "motion"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class HstaInputConfig(Settings):
    """How clips are made from the stores."""

    max_span: int = Field(
        50, ge=1, title="Longest span", description="Frames are drawn from onset .. onset + this."
    )
    pixels: Pixels = Field(
        "image",
        title="Pixels of a frame",
        description="image: as the paper. Ours: change: minus the onset frame, over the training "
        "side's root mean square, the onset slot stays an image; motion: what that change says of "
        "the shift along the grey slope, (x, y, change), each over its root mean square.",
    )
    padding: Padding = Field(
        "edge",
        title="Short clips",
        description="edge repeats the first and last frame; zeros appends black frames.",
    )
    test_sampling: Literal["even", "random"] = Field(
        "even",
        title="Frames at evaluation",
        description="even: one fixed draw; random: the origin's random draw, seeded.",
    )
    test_mirror: bool = Field(
        False,
        title="Mirror at evaluation",
        description="Logits are averaged over the clip and its mirror image. Not in the paper.",
    )
    test_draws: int = Field(
        1, ge=1, le=64, title="Draws at evaluation", description="Logits are averaged over them."
    )
    augment: bool = Field(
        False,
        title="Augment",
        description="Small shift, scale, mirror and light changes, one per clip. Not in the paper.",
    )
    max_shift: float = Field(0.04, ge=0, le=0.3, description="Augment: shift, share of the side.")
    max_scale: float = Field(0.05, ge=0, le=0.3, description="Augment: relative size change.")
    max_light: float = Field(0.1, ge=0, le=0.5, description="Augment: gain and offset change.")
    max_amplitude: float = Field(
        0.0, ge=0, le=2, description="Augment: factor of flow and strain, exp of at most ± this."
    )
    level: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Level amplitudes",
        description="A clip's flow and strain are divided by their root mean square to this power: "
        "weak and strong expressions come closer. Not in the paper.",
    )
    mirror: float = Field(0.5, ge=0, le=1, description="Augment: probability of a mirror image.")
    cache_mb: int = Field(
        2048,
        ge=0,
        title="Memory for clips, MB",
        description="Above it the decoded clips lie in a memory-mapped file.",
        json_schema_extra=ASIDE,
    )

    @model_validator(mode="after")
    def _consistent(self) -> HstaInputConfig:
        if self.padding == "zeros" and self.pixels != "image":
            raise ValueError(f"padding zeros: a black frame is no {self.pixels} from the onset")
        return self

    def unread(self) -> frozenset[str]:
        """Sizes of changes that are not made."""
        sizes = {"max_shift", "max_scale", "max_light", "max_amplitude", "mirror"}
        return frozenset() if self.augment else frozenset(sizes)


class HstaTrainConfig(Settings):
    """One fold's training. Defaults are the origin's scripts unless said otherwise."""

    epochs: int = Field(150, ge=1, le=100_000, title="Epochs", description="The last one counts.")
    batch_size: int = Field(32, ge=1, le=65_536, title="Clips per step")
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        title="Steps per update",
        description="Gradients of so many batches are averaged.",
    )
    base_lr: float = Field(
        5e-4, gt=0, title="Learning rate", description="For 256 clips; scaled by clips per update."
    )
    min_lr: float = Field(1e-6, ge=0, title="Final learning rate", description="For 256 clips.")
    warmup_epochs: float = Field(5, ge=0, le=100_000, title="Warm-up, epochs")
    weight_decay: float = Field(0.05, ge=0, title="Weight decay")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), title="AdamW betas")
    eps: float = Field(1e-8, gt=0, title="AdamW epsilon")
    layer_decay: float = Field(
        0.9, gt=0, le=1, title="Layer decay", description="Learning-rate factor per group down."
    )
    class_tokens: Literal["fixed", "origin"] = Field(
        "fixed",
        title="Class-token rule",
        description="fixed: no decay, the embeddings' rate; origin: decayed, the head's rate.",
    )
    balanced: bool = Field(
        True, title="Balanced sampler", description="Draw with replacement by 1 / class count."
    )
    macro: bool = Field(
        False,
        title="Train on macro-expressions too",
        description="As most of the origin's CAS(ME)^3 scripts; never on those of tested people.",
    )
    class_weights: Literal["none", "inverse"] = Field(
        "none", title="Loss weights", description="inverse: 1 / class count, mean one."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, title="Label smoothing")
    clip_norm: float | None = Field(None, gt=0, title="Gradient norm limit")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", title="Precision", description="auto: bf16 on a GPU that has it, else fp32."
    )
    compile: bool = Field(False, title="torch.compile", json_schema_extra=ASIDE)
    activation_checkpointing: bool = Field(
        False,
        title="Activation checkpointing",
        description="Less memory, about a third slower.",
        json_schema_extra=ASIDE,
    )
    resume_every: int = Field(
        10,
        ge=0,
        title="Resume point",
        description="Every so many epochs; 0: none.",
        json_schema_extra=ASIDE,
    )
    folds_at_once: FoldsAtOnce = Field(
        "auto",
        title="Folds at once",
        description="Folds trained as one program; auto: by measured speed and memory of the GPU, "
        "1 on a CPU. A fold's result is the same to rounding.",
        json_schema_extra=ASIDE,
    )
    input: HstaInputConfig = HstaInputConfig()
