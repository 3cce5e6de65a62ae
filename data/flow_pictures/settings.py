"""Settings of stage flow_pictures."""

from __future__ import annotations

from pydantic import Field

from data.settings import Settings


class FlowPicturesConfig(Settings):
    """Pictures as they are stored."""

    size: int = Field(
        28, ge=8, le=512, title="Side, px", description="Larger or smaller pictures are resized."
    )


SETTINGS = FlowPicturesConfig
