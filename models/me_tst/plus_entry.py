"""ME-TST+ as the registry knows it."""

from __future__ import annotations

from models.contract import Network
from models.me_tst.entry import motion_stage
from models.me_tst.settings import DecodeConfig, MeTstPlusConfig, MeTstTrainConfig

NETWORK = Network(
    settings=MeTstPlusConfig,
    train=MeTstTrainConfig,
    module="models.me_tst.plus",
    family="models.me_tst.family",
    samples="videos",
    needs=motion_stage,
    decode=DecodeConfig,
)
