"""ME-TST as the registry knows it."""

from __future__ import annotations

from data.settings import Settings
from models.contract import Network
from models.me_tst.settings import DecodeConfig, MeTstConfig, MeTstTrainConfig


def motion_stage(config: Settings) -> tuple[str, ...]:
    """Both networks read motion."""
    return ("motion",)


NETWORK = Network(
    settings=MeTstConfig,
    train=MeTstTrainConfig,
    module="models.me_tst.network",
    family="models.me_tst.family",
    samples="videos",
    needs=motion_stage,
    decode=DecodeConfig,
)
