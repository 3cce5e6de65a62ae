"""HSTA's training: settings, optimiser groups, schedule, balanced sampler, and the fit loop.

The recipe is the origin's (AdamW, layer decay per group, warm-up and cosine per step, balanced
sampling, no augmentation), with its class-token rule repaired. Every epoch seeds its own random
numbers, so training resumed at any epoch continues exactly as if it had not stopped.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.config import Settings
from models.hsta_input import HstaInputConfig


class HstaTrainConfig(Settings):
    """One fold's training. Defaults are the origin's scripts unless said otherwise."""

    epochs: int = Field(150, ge=1, le=100_000, title="Epochs", description="The last one counts.")
    batch_size: int = Field(32, ge=1, title="Clips per step")
    accumulate: int = Field(
        1, ge=1, title="Steps per update", description="Gradients of so many batches are averaged."
    )
    base_lr: float = Field(
        5e-4, gt=0, title="Learning rate", description="For 256 clips; scaled by clips per update."
    )
    min_lr: float = Field(1e-6, ge=0, title="Final learning rate", description="For 256 clips.")
    warmup_epochs: float = Field(5, ge=0, title="Warm-up, epochs")
    weight_decay: float = Field(0.05, ge=0, title="Weight decay")
    betas: tuple[float, float] = Field((0.9, 0.999), title="AdamW betas")
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
    class_weights: Literal["none", "inverse"] = Field(
        "none", title="Loss weights", description="inverse: 1 / class count, mean one."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, title="Label smoothing")
    clip_norm: float | None = Field(None, gt=0, title="Gradient norm limit")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", title="Precision", description="auto: bf16 on a GPU that has it, else fp32."
    )
    compile: bool = Field(False, title="torch.compile")
    activation_checkpointing: bool = Field(
        False, title="Activation checkpointing", description="Less memory, about a third slower."
    )
    resume_every: int = Field(
        10, ge=0, title="Resume point", description="Every so many epochs; 0: none."
    )
    input: HstaInputConfig = HstaInputConfig()
