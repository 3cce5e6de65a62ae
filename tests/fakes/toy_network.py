"""Two networks in one file each, as a user would add them; here both in one.

`NETWORK` classifies clips (the family of HSTA); `WINDOWS` spots in windows (that of ME-TST).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.settings import ASIDE, Settings
from models.contract import Network
from models.hsta.settings import HstaTrainConfig
from models.me_tst.settings import DecodeConfig, MeTstTrainConfig


class ToyConfig(Settings):
    """What the clip family asks for, and a width."""

    name: Literal["toy_net"] = "toy_net"
    image_size: int = 16
    num_frames: int = 4
    num_classes: int = Field(3, json_schema_extra=ASIDE)
    special: Literal["frames"] = "frames"
    width: int = 8


class ToyNet(nn.Module):
    """(B, 3, F+2, H, W) → (B, classes): onset against apex, pooled."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.read = nn.Conv2d(3, config.width, 4, stride=4)
        self.head = nn.Linear(config.width, config.num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits."""
        change = clip[:, :, -1] - clip[:, :, -2]
        logits: Tensor = self.head(torch.relu(self.read(change)).mean(dim=(2, 3)))
        return logits


class ToyGruConfig(Settings):
    """What the window family asks for, and a width."""

    name: Literal["toy_gru"] = "toy_gru"
    in_channels: int = 10
    width: int = 8


class ToyGru(nn.Module):
    """(B, 1, C, k) → spot (B, k), classes (B, k, 5)."""

    def __init__(self, config: ToyGruConfig) -> None:
        super().__init__()
        self.config = config
        self.gru = nn.GRU(config.in_channels, config.width, batch_first=True)
        self.spot, self.classes = nn.Linear(config.width, 1), nn.Linear(config.width, 5)

    def forward(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Spot probability and class logits of every frame."""
        x, _ = self.gru(motion[:, 0].transpose(1, 2))
        return torch.sigmoid(self.spot(x)).squeeze(-1), self.classes(x)


def create(config: Any) -> nn.Module:
    """The network of its settings."""
    return ToyGru(config) if isinstance(config, ToyGruConfig) else ToyNet(config)


NETWORK = Network(
    settings=ToyConfig,
    train=HstaTrainConfig,
    module=__name__,
    family="models.hsta.family",
    samples="events",
    needs=lambda config: ("apex",),
)
WINDOWS = Network(
    settings=ToyGruConfig,
    train=MeTstTrainConfig,
    module=__name__,
    family="models.me_tst.family",
    samples="videos",
    needs=lambda config: ("motion",),
    decode=DecodeConfig,
)
