"""HSTA as the registry knows it."""

from __future__ import annotations

from models.contract import Network
from models.hsta.config import HstaConfig
from models.hsta.settings import HstaTrainConfig


def _stages(config: HstaConfig) -> tuple[str, ...]:
    return ("flow",) if config.special == "flow" else ("apex",)


NETWORK = Network(
    settings=HstaConfig,
    train=HstaTrainConfig,
    module="models.hsta.network",
    family="models.hsta.family",
    samples="events",
    needs=_stages,
)
