"""Logistic regression on flow: every number of u, v and strain is a feature. What must be beaten.

With the solver lbfgs and pixels standardised it is the textbook model, the same as scikit-learn's
(a test compares them).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.contract import Network
from models.flow_nets.settings import FlowNetConfig, FlowNetTrainConfig, stage_of


class FlowRegressionConfig(FlowNetConfig):
    """Nothing but the picture's side."""

    name: Literal["flow_regression"] = "flow_regression"


class FlowRegression(nn.Module):
    """(B, 3, S, S) float32 → (B, classes) logits: one linear map, zero at first."""

    def __init__(self, config: FlowRegressionConfig) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(3 * config.image_size**2, config.num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(picture.flatten(1))
        return logits


def create(config: FlowRegressionConfig) -> FlowRegression:
    """The network of its settings."""
    return FlowRegression(config)


NETWORK = Network(
    settings=FlowRegressionConfig,
    train=FlowNetTrainConfig,
    module=__name__,
    family="models.flow_nets.family",
    samples="events",
    needs=stage_of,
)
