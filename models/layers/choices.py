"""Choices that settings name and layers carry out. No torch."""

from __future__ import annotations

from typing import Literal

AttentionPath = Literal["fused", "plain"]
ScanBackend = Literal["auto", "reference", "fast", "triton", "mamba_ssm"]
Init = Literal["authors", "mamba"]
