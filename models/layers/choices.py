"""Choices that settings name and layers carry out. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

AttentionPath = Literal["fused", "plain"]
ScanBackend = Literal["auto", "reference", "fast", "triton", "mamba_ssm"]
Init = Literal["authors", "mamba"]
FoldsAtOnce = Literal["auto"] | Annotated[int, Field(ge=1)]
