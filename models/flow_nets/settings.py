"""Settings that networks of a flow picture share. No torch: recipes are read without it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from data.settings import ASIDE, Settings

Source = Literal["flow", "pictures"]


class FlowNetConfig(Settings):
    """What a network of this family has: picture side, classes, where the picture comes from."""

    image_size: int = Field(28, ge=8, le=256, title="Picture side, px")
    num_classes: int = Field(
        3,
        ge=2,
        le=1000,
        title="Classes",
        description="In a run the label map says how many.",
        json_schema_extra=ASIDE,
    )
    source: Source = Field(
        "flow",
        title="Source",
        description="flow: onset→apex of stage flow; pictures: as the dataset ships them.",
    )


def stage_of(config: Any) -> tuple[str, ...]:
    """The stage a network with these settings reads."""
    return ("flow",) if config.source == "flow" else ("flow_pictures",)


class FlowNetTrainConfig(Settings):
    """One fold's training."""

    solver: Literal["adam", "lbfgs"] = Field(
        "adam", title="Solver", description="lbfgs: all pictures at once, for convex models."
    )
    epochs: int = Field(
        500, ge=1, le=100_000, title="Epochs", description="Of lbfgs: iterations at most."
    )
    batch_size: int = Field(
        256,
        ge=2,  # batch normalisation has nothing to learn from one
        le=65_536,
        title="Pictures per step",
        description="A last step of one picture is left out.",
    )
    lr: float = Field(5e-5, gt=0, title="Learning rate")
    weight_decay: float = Field(
        0.0,
        ge=0,
        title="Penalty",
        description="Half the squared weights, biases apart, times this is added to the mean loss "
        "(1 / (C · pictures) in scikit-learn's words).",
    )
    balanced: bool = Field(
        False, title="Balanced", description="The loss weighs classes by 1 / their count."
    )
    standardise: Literal["channel", "pixel"] = Field(
        "channel",
        title="Standardise",
        description="Mean and deviation of the training pictures, of each channel or each pixel.",
    )

    def unread(self) -> frozenset[str]:
        """lbfgs takes all pictures at once, at its own step length."""
        return frozenset({"batch_size", "lr"} if self.solver == "lbfgs" else ())
