"""Networks of flow pictures that a user might bring: one like HTNet, one that is our HSTA.

Each is one file and one line for a user; here both in one.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.contract import Network
from models.flow_nets.settings import FlowNetConfig, FlowNetTrainConfig, stage_of


class HtNetLikeConfig(FlowNetConfig):
    """What the family asks for, and a width."""

    name: Literal["htnet_like"] = "htnet_like"
    width: int = 16


class HtNetLike(nn.Module):
    """(B, 3, S, S) → logits: attention inside each quarter of the picture, then over all four."""

    def __init__(self, config: HtNetLikeConfig) -> None:
        super().__init__()
        self.config, side = config, config.image_size // 7  # 7 x 7 patches of 4 px at 28 px
        self.patches = nn.Conv2d(3, config.width, side, stride=side)
        layer = {"d_model": config.width, "nhead": 2, "dim_feedforward": 32, "batch_first": True}
        self.local = nn.TransformerEncoderLayer(**layer, dropout=0.0)
        self.whole = nn.TransformerEncoderLayer(**layer, dropout=0.0)
        self.head = nn.Linear(4 * config.width, config.num_classes)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits."""
        grid = self.patches(picture)
        quarters = [grid[:, :, y : y + 4, x : x + 4] for y in (0, 3) for x in (0, 3)]
        tokens = [self.local(q.flatten(2).transpose(1, 2)).mean(1) for q in quarters]
        logits: Tensor = self.head(self.whole(torch.stack(tokens, 1)).flatten(1))
        return logits


class HstaOfPicturesConfig(FlowNetConfig):
    """HSTA whose video branch sees nothing."""

    name: Literal["hsta_of_pictures"] = "hsta_of_pictures"


class HstaOfPictures(nn.Module):
    """(B, 3, S, S) → logits: the picture fills both special slots of HSTA, its frames are black."""

    def __init__(self, config: HstaOfPicturesConfig) -> None:
        super().__init__()
        from models import create_model

        self.config = config
        self.net = create_model(
            "hsta", special="flow", image_size=28, num_frames=2, patch_size=(7, 14),
            embed_dim=(24, 24), num_heads=(2, 2), depth=(1, 1, 0), num_groups=2, head_mode=4,
            num_classes=config.num_classes, dropout=0.0, drop_path=0.0, init="width",
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        """Logits."""
        special = picture[:, :, None].expand(-1, -1, 2, -1, -1)
        logits: Tensor = self.net(torch.cat([torch.zeros_like(special), special], dim=2))
        return logits


def create(config: Any) -> nn.Module:
    """The network of its settings."""
    return HtNetLike(config) if isinstance(config, HtNetLikeConfig) else HstaOfPictures(config)


def network_of(settings: type[FlowNetConfig]) -> Network:
    """What such a file's NETWORK says."""
    return Network(
        settings=settings,
        train=FlowNetTrainConfig,
        module=__name__,
        family="models.flow_nets.family",
        samples="events",
        needs=stage_of,
    )
