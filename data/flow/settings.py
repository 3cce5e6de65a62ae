"""Settings of stage flow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.settings import Settings


class FlowConfig(Settings):
    """TV-L1 flow and strain between chosen frames of an event."""

    pairs: tuple[Literal["onset_apex", "apex_offset", "sampled", "consecutive"], ...] = Field(
        ("onset_apex", "apex_offset"),
        min_length=1,
        title="Frame pairs",
        description="sampled: onset to frames spread evenly over the event; consecutive: each of"
        " its frames to the next. HSTA's special slot needs onset_apex and apex_offset.",
    )
    samples: int = Field(
        8, ge=1, le=1000, title="Sampled frames", description="Per event, for pairs: sampled."
    )
    size: int | None = Field(
        None,
        ge=16,
        le=1024,
        title="Field side, px",
        description="Crops are reduced to this by area averaging; none, or more: as aligned.",
    )
    preset: Literal["opencv", "fast"] = Field(
        "opencv",
        title="TV-L1 preset",
        description="opencv: OpenCV's defaults; fast: a third to a half of the time.",
    )
    backend: Literal["auto", "numba", "torch", "triton", "opencv"] = Field(
        "auto",
        title="TV-L1 backend",
        description="auto: compiled CPU kernels. triton: a GPU, many events at once.",
    )
    register_to_onset: Literal["stored", "residual"] = Field(
        "stored",
        title="Registration to the onset",
        description="stored: crops as aligned, all to one reference. residual: also subtract the"
        " similarity (shift, turn, zoom) that the head still makes between the two frames.",
    )
    store: Literal["float16", "int16", "float32"] = Field(
        "float16",
        title="Number format",
        description="float16 and float32 hold pixels (float16 gives way to float32 where it would"
        " lose 0.005 px); int16 holds pixels divided by the attribute `scale`.",
    )

    def unread(self) -> frozenset[str]:
        """The number of sampled frames where none are sampled."""
        return frozenset() if "sampled" in self.pairs else frozenset({"samples"})


SETTINGS = FlowConfig
