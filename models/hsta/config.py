"""HSTA's settings: the size and behaviour of the network, and the sizes its origin registers.

Source: Hao et al., arXiv 2405.03202, and the origin's registrations (`models.hsta.network`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from data.errors import ConfigError
from data.settings import ASIDE, Settings
from models.layers.choices import AttentionPath

SPECIAL, VIDEO = 0, 1  # branch order everywhere: pairs are (special, video)

# The origin's depth table: choice -> (special blocks, video blocks, extra exchanges) of a group.
_DEPTHS = "1,4 1,1 1,2 1,3 1,4 2,2 2,1 1,5 3,1 3,2 3,3"
DEPTH_CHOICES: dict[int, tuple[int, int, int]] = {
    choice: (int(pair[0]), int(pair[2]), 0) for choice, pair in enumerate(_DEPTHS.split())
}

MlpRatio = Annotated[float, Field(gt=0, le=64)]


class HstaConfig(Settings):
    """The network's size and behaviour. Pairs are (special branch, video branch)."""

    name: Literal["hsta"] = "hsta"
    image_size: int = Field(
        224, ge=8, le=1024, title="Image size", description="Square input, px; any rest is ignored."
    )
    num_frames: int = Field(
        6, ge=1, le=128, title="Video frames", description="Sampled frames F, without onset, apex."
    )
    num_classes: int = Field(
        7,
        ge=2,
        le=1000,
        title="Classes",
        description="In a run the label map says how many.",
        json_schema_extra=ASIDE,
    )
    special: Literal["frames", "flow"] = Field(
        "frames",
        title="Special data",
        description="What the two special slots hold: onset and apex frames, or (u, v, strain) of "
        "onset→apex and apex→offset.",
    )
    patch_size: tuple[int, int] = Field((12, 16), title="Patch sides, px")
    embed_dim: tuple[int, int] = Field((384, 768), title="Token widths")
    num_heads: tuple[int, int] = Field((12, 12), title="Attention heads")
    depth: tuple[int, int, int] = Field(
        (1, 2, 0),
        title="Depth of a group",
        description="Blocks in the special branch, in the video branch, extra exchanges (only 0).",
    )
    num_groups: int = Field(4, ge=1, le=24, title="Groups")
    mlp_ratio: tuple[MlpRatio, MlpRatio] = Field((4.0, 4.0), title="MLP width over token width")
    tubelet_size: int = Field(
        2, ge=1, le=2, title="Frames per token", description="Divides F and the 2 special frames."
    )
    head_mode: Literal[1, 2, 4] = Field(
        2,
        title="Head input",
        description="1: class and last tokens; 2: class tokens; 4: means over all tokens.",
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, title="Dropout", description="Embedding, projections and MLPs."
    )
    drop_path: float = Field(0.2, ge=0, lt=1, title="Stochastic depth of the last block")
    head_dropout: float = Field(
        0.0, ge=0, lt=1, title="Head dropout", description="The origin never applies its own: 0."
    )
    init: Literal["published", "width"] = Field(
        "published",
        title="Initial weights",
        description="published: std 0.02 everywhere; width: 0.02 · sqrt(768 / inputs), the same at "
        "the published width, and needed for narrow networks to learn from few clips.",
    )
    attention: AttentionPath = Field(
        "fused",
        title="Attention path",
        description="fused, or plain: the written-out reference.",
        json_schema_extra=ASIDE,
    )

    @field_validator("patch_size", "embed_dim", "num_heads", "mlp_ratio", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        """One number serves both branches; the origin's unused third MLP ratio is dropped."""
        if isinstance(value, int | float):
            return (value, value)
        return value[:2] if isinstance(value, list | tuple) and len(value) == 3 else value

    @field_validator("depth", mode="before")
    @classmethod
    def _triple(cls, value: Any) -> Any:
        return (*value, 0) if isinstance(value, list | tuple) and len(value) == 2 else value

    @model_validator(mode="after")
    def _consistent(self) -> HstaConfig:
        sizes = zip(self.embed_dim, self.num_heads, self.patch_size, self.depth[:2], strict=True)
        for branch, (width, heads, patch, depth) in zip(("special", "video"), sizes, strict=True):
            if width < 1 or heads < 1 or width % heads:
                raise ValueError(f"{branch}: embed_dim {width} is no multiple of num_heads {heads}")
            if not 1 <= patch <= self.image_size:
                raise ValueError(f"{branch}: patch_size {patch} is not in 1..{self.image_size}")
            if depth < 1:
                raise ValueError(f"{branch}: depth {depth} is less than 1")
        if self.depth[2] != 0:
            raise ValueError(
                f"depth's third number is {self.depth[2]}; only 0 is supported: each further "
                "exchange of the origin attends to a single token"
            )
        if self.num_frames % self.tubelet_size:
            raise ValueError(
                f"num_frames {self.num_frames} is not a multiple of tubelet_size "
                f"{self.tubelet_size}"
            )
        return self

    def grid(self, branch: int) -> tuple[int, int, int]:
        """Tokens of a branch along (time, rows, columns); pixels past whole patches are unused."""
        frames = 2 if branch == SPECIAL else self.num_frames
        side = self.image_size // self.patch_size[branch]
        return frames // self.tubelet_size, side, side

    def num_tokens(self, branch: int) -> int:
        """Tokens of a branch, the class token included."""
        return int(np.prod(self.grid(branch))) + 1


_SMALLER = {"num_groups": 3, "depth": (1, 4, 0)}
_NARROW = {**_SMALLER, "mlp_ratio": 3.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "base_448": {"image_size": 448, "patch_size": (24, 32)},
    "small": {**_SMALLER, "embed_dim": (192, 384), "num_heads": (6, 6)},
    "tiny": {**_SMALLER, "embed_dim": (96, 192), "num_heads": (3, 3)},
    "9": {**_NARROW, "embed_dim": (128, 256), "num_heads": (4, 4), "depth": (1, 3, 0)},
    "15": {**_NARROW, "embed_dim": (192, 384), "num_heads": (6, 6), "depth": (1, 5, 0)},
    "18": {**_NARROW, "embed_dim": (224, 448), "num_heads": (7, 7), "depth": (1, 6, 0)},
}


def variant(name: str, **changes: Any) -> HstaConfig:
    """A size the origin registers, by short name, with `changes` applied."""
    if name not in VARIANTS:
        raise ConfigError("HSTA variant", expected=f"one of {list(VARIANTS)}", got=repr(name))
    return HstaConfig(**{**VARIANTS[name], **changes})
