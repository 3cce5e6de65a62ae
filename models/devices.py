"""Which device a training runs on; torch is imported when it is asked."""

from __future__ import annotations

from data.errors import ConfigError


def resolve_device(device: str) -> str:
    """'auto' → the first GPU or the CPU. Raises ConfigError for a device that is not there."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device", expected="a GPU that torch can use", got=f"{device}, none")
    return device
