"""Settings of stage apex."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.settings import Settings


class ApexConfig(Settings):
    """Apex frames: labelled, filled in, or spotted."""

    method: Literal["flow_peak", "lbp", "frequency", "middle", "label"] = Field(
        "flow_peak",
        title="How to find a missing apex",
        description="A valid label is always kept. label: events without one are dropped.",
    )
    size: int = Field(
        128, ge=64, le=320, title="Crop side, px", description="Crops are reduced to this first."
    )
    smooth_ms: float = Field(
        50.0, ge=0, le=500, title="Smoothing, ms", description="Length of the moving average."
    )
    margin: float = Field(
        0.1,
        ge=0,
        le=0.4,
        title="Margin",
        description="Share of the event at either end in which no apex is looked for.",
    )

    def unread(self) -> frozenset[str]:
        """What only measured motion needs."""
        return frozenset({"size", "smooth_ms", "margin"} if self.method == "middle" else ())


SETTINGS = ApexConfig
