"""Settings of stage registration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from data.settings import ASIDE, BY_CONTENT, Settings


class RegistrationConfig(Settings):
    """Every event's frames, brought onto its own onset frame."""

    method: Literal["onset", "stored"] = Field(
        "onset",
        title="Registration",
        description="onset: points tracked from the onset frame into each frame of the event. "
        "stored: the crops as aligned; so too wherever align's mode is not track.",
    )
    points: int = Field(300, ge=40, le=1000, title="Tracked points, at most")
    store: Literal["crops", "transforms"] = Field(
        "crops",
        title="What is stored",
        description="transforms: poses only, crops are made from the raw frames when read.",
    )
    compression: Literal["gzip", "lzf", "none"] = Field(
        "gzip",
        title="Compression of crops",
        description="Lossless; gzip is level 1. Crops that are there stay as they are.",
        json_schema_extra=ASIDE,
    )

    landmark_model: Path | None = Field(
        None,
        title="Landmark model",
        description="Path of a dlib 68-point predictor; empty: the packaged one.",
        json_schema_extra=BY_CONTENT,
    )

    def unread(self) -> frozenset[str]:
        """What only tracking needs."""
        return frozenset({"points", "landmark_model"} if self.method == "stored" else ())


SETTINGS = RegistrationConfig
