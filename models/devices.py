"""Which devices a training runs on; torch is imported when it is asked."""

from __future__ import annotations

import os
import re

from data.errors import ConfigError
from data.stages.contract import Scope
from data.stages.limits import FAKE_GPUS


def local_devices(asked: str) -> tuple[str, ...]:
    """The devices of this machine that `asked` names, each able to take a job of its own.

    auto: every GPU, or the CPU where there is none; cuda: every GPU; cuda:0,cuda:2: these. Raises
    ConfigError for a device that is not there.
    """
    if asked == "cpu":
        return ("cpu",)
    if asked != "auto" and not re.fullmatch(r"cuda(:\d+(,cuda:\d+)*)?", asked):
        raise ConfigError("--device", expected="auto, cpu, cuda or cuda:N", got=asked[:80])
    every = tuple(f"cuda:{number}" for number in range(count_gpus()))
    if asked == "auto":
        return every or ("cpu",)
    wanted = every if asked == "cuda" else tuple(asked.split(","))
    if not wanted or set(wanted) - set(every):
        raise ConfigError(
            "--device",
            expected=f"a GPU that torch can use ({', '.join(every) or 'there is none'})",
            got=asked[:80],
        )
    return wanted


def gpus_for(asked: str) -> tuple[str, ...]:
    """GPUs of this machine for work that was told to be done on one, as flow's backend can be.

    Those asked for; all where that is the CPU.
    """
    found = local_devices(asked)
    return found if found != ("cpu",) else local_devices("auto")


def count_gpus() -> int:
    """GPUs that torch can use here; as many as $APEXFLOW_FAKE_GPUS says, where it is set."""
    if faked := os.environ.get(FAKE_GPUS):
        return int(faked) if re.fullmatch(r"\d{1,2}", faked) else 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(device: str) -> str:
    """The first of `local_devices`."""
    return local_devices(device)[0]


def device_name(device: str) -> str:
    """'cpu', or a GPU of this machine with its maker's name: 'cuda:0 (NVIDIA H100)'."""
    resolved = resolve_device(device)
    if real_device(resolved) == "cpu":
        return resolved
    import torch

    return f"{resolved} ({torch.cuda.get_device_name(resolved)})"


def real_device(name: str) -> str:
    """A device of that name that computes: the CPU for one that $APEXFLOW_FAKE_GPUS made up."""
    return "cpu" if os.environ.get(FAKE_GPUS) else name


def devices_of(scope: Scope) -> tuple[str, ...]:
    """The devices of wherever a scope's jobs are done."""
    if scope.machines is not None:
        return scope.machines.devices(scope.device)
    return local_devices(scope.device)
