"""Small pieces that fitting any network needs: seeds, weights, resume points, precision.

Nothing is pickled. Weights are safetensors; a resume point is one safetensors file with the network
and the optimiser, whose header carries plain JSON (epoch, history). A file is replaced by one
rename, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.errors import TrainingError
from data.stages.files import replacing

logger = logging.getLogger(__name__)


def seed_of(*numbers: int) -> int:
    """One 32-bit seed from a tuple such as (seed, epoch)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def seed_everything(*numbers: int) -> int:
    """Seed Python, NumPy and torch (all devices) from a tuple such as (seed, epoch)."""
    seed = seed_of(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def save_weights(model: nn.Module, path: Path) -> None:
    """The state dict as safetensors, on CPU; the same weights give the same bytes."""
    _save(dict(model.state_dict().items()), path, {})


def load_weights(model: nn.Module, path: Path) -> None:
    """Strict load of `save_weights`' file. Raises TrainingError naming what does not fit."""
    tensors, _ = _load(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(
            str(path), expected="weights of this network", got=str(error).replace("\n", " ")
        ) from error


def save_resume_point(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> None:
    """Network, optimiser moments and JSON `facts`, from which training goes on."""
    write_resume_point(path, training_state(model, optimiser), facts)


def training_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a resume point: model.<name> and optimiser.<number>.<moment>, not copied."""
    tensors = {f"model.{n}": t for n, t in model.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimiser.{number}.{name}"] = torch.as_tensor(value)
    return tensors


def load_training_state(
    tensors: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Set what `training_state` gave. Raises RuntimeError, ValueError or KeyError for another's."""
    state: dict[int, dict[str, Tensor]] = {}
    weights = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "model":
            weights[rest] = tensor
        else:
            number, key = rest.split(".", 1)
            state.setdefault(int(number), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    model.load_state_dict(weights)
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def write_resume_point(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A resume point from its tensors, named as `training_state` names them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts)
    _save(tensors, path, {"facts": text, "digest": _digest(tensors, text)})


def load_resume_point(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore what `save_resume_point` wrote and return its facts.

    Raises TrainingError when the file is damaged, before anything is restored, or of another
    training.
    """
    tensors, facts = read_resume_point(path)
    try:
        load_training_state(tensors, model, optimiser)
    except (RuntimeError, ValueError, KeyError) as error:
        raise no_resume_point(path, str(error)) from error
    return facts


def discard_if_damaged(path: Path, who: str) -> None:
    """Delete a resume point that cannot be trusted, and say so: training starts again."""
    if not path.exists():
        return
    try:
        read_resume_point(path)
    except TrainingError as error:
        logger.warning("%s starts again, its resume point is damaged: %s", who, error.got)
        path.unlink()


def read_resume_point(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts as they were saved. Raises TrainingError for anything else."""
    try:
        tensors, header = _load(path)
        if header["digest"] != _digest(tensors, header["facts"]):
            raise ValueError("content that does not match its digest")
        facts: dict[str, Any] = json.loads(header["facts"])
    except TrainingError as error:
        raise no_resume_point(path, error.got) from error
    except (ValueError, KeyError) as error:
        raise no_resume_point(path, f"{type(error).__name__}: {error}") from error
    return tensors, facts


def no_resume_point(path: Path, got: str) -> TrainingError:
    """What reading anything else than this training's resume point raises."""
    return TrainingError(
        str(path),
        expected="a resume point of this training",
        got=got.replace("\n", " "),
        todo="Delete the fold's resume folder to start it again.",
    )


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Of names, types, shapes and bytes, in order of names, and of the facts."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """What matrix products run in: None for float32. "auto" is bfloat16 where a GPU has it."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 products on GPUs that would shorten them to 10 bits of mantissa (TF32)."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, MB: the GPU's by this process, else the process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable JSON with sorted keys, replaced atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))


def _save(tensors: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> None:
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(plain, temporary, metadata=header or None)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            return {n: file.get_tensor(n) for n in names}, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError(
            str(path), expected="a readable safetensors file", got=str(error)
        ) from error
