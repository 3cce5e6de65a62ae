"""STSTNet: three shallow streams over one picture of u, v and strain (Liong et al., FG 2019).

Written from the paper's description (arXiv 1902.03634): 28 × 28 × 3 input; three convolutions side
by side with 3, 5 and 8 kernels of 3 × 3; max pooling of 3 × 3 with stride 3; the maps joined and
averaged 2 × 2; one linear map of the 400 numbers to the classes. Streams over one input whose maps
are joined are one convolution with all their kernels, which is how they are computed here. Batch
normalisation and dropout, after the max pooling, are ours where the paper does not fix them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from models.contract import Network
from models.flow_nets.settings import FlowNetConfig, FlowNetTrainConfig, stage_of


class StstNetConfig(FlowNetConfig):
    """Size of the network; defaults are the paper's."""

    name: Literal["ststnet"] = "ststnet"
    kernels: tuple[int, int, int] = Field((3, 5, 8), title="Kernels of each stream")
    dropout: float = Field(0.5, ge=0, lt=1, title="Dropout of the maps")


class StstNet(nn.Module):
    """(B, 3, S, S) float32 of u, v, strain → (B, classes) logits."""

    def __init__(self, config: StstNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = sum(config.kernels)
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.MaxPool2d(3, stride=3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(channels),
            nn.Dropout(config.dropout),
            nn.AvgPool2d(2, stride=2),
        )
        side = ((config.image_size - 1) // 3 + 1) // 2
        self.head = nn.Linear(channels * side * side, config.num_classes)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(picture).flatten(1))
        return logits


def create(config: StstNetConfig) -> StstNet:
    """The network of its settings."""
    return StstNet(config)


NETWORK = Network(
    settings=StstNetConfig,
    train=FlowNetTrainConfig,
    module=__name__,
    family="models.flow_nets.family",
    samples="events",
    needs=stage_of,
)
