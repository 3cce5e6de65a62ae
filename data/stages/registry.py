"""The list of preprocessing stages, in the order in which they run."""

from __future__ import annotations

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.flow.settings import FlowConfig
from data.motion.settings import MotionConfig
from data.registration.settings import RegistrationConfig
from data.settings import Settings


class StageSettings(Settings):
    """Settings of every preprocessing stage, in the order in which stages run.

    This is the map of stages: the field `name` is the stage in `data/stage_<name>.py`.
    """

    align: AlignConfig = AlignConfig()
    registration: RegistrationConfig = RegistrationConfig()
    apex: ApexConfig = ApexConfig()
    flow: FlowConfig = FlowConfig()
    motion: MotionConfig = MotionConfig()
