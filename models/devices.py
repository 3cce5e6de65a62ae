"""Which device a training runs on; torch is imported when it is asked."""

from __future__ import annotations

import re

from data.errors import ConfigError


def resolve_device(device: str) -> str:
    """'auto' → the first GPU or the CPU. Raises ConfigError for a device that is not there."""
    if device == "cpu":
        return device
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ConfigError("--device", expected="auto, cpu, cuda or cuda:N", got=device[:80])
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device", expected="a GPU that torch can use", got=f"{device}, none")
    number = device.partition(":")[2]
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(
            "--device", expected=f"one of {torch.cuda.device_count()} GPUs, from 0", got=device
        )
    return device
