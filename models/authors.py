"""Reading checkpoints that the papers' authors wrote, without running what is inside them.

Files are opened weights-only; besides tensors and plain containers only `argparse.Namespace` is let
through, since training scripts store their arguments that way. Nothing is guessed silently: what is
missing, misshapen or not understood is an error or a name in the answer.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.errors import InputError

WRAPPERS = ("model", "module", "state_dict")
PREFIXES = ("module.", "model.", "backbone.", "encoder.", "_orig_mod.")

Checkpoint = str | Path | Mapping[str, Any]


def bad_checkpoint(who: str, expected: str, got: str, todo: str = "") -> InputError:
    """The error, code `bad_checkpoint`, for a file or tensor that cannot be used."""
    return InputError(who, expected=expected, got=got, todo=todo, code="bad_checkpoint")


def read_authors_tensors(source: Checkpoint, who: str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name, wrappers and prefixes stripped, and the names of what is not a tensor.

    `source` is a checkpoint file (torch's or safetensors) or a state dict, bare or wrapped.
    Raises InputError (`bad_checkpoint`) when it cannot be read weights-only or holds no tensor.
    """
    content = _unwrap(_open(Path(source), who) if isinstance(source, str | Path) else source)
    if not isinstance(content, Mapping):
        raise bad_checkpoint(who, "a mapping of names to tensors", type(content).__name__)
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for key, value in content.items():
        name = _strip(str(key))
        if not isinstance(value, Tensor):
            others.append(name)
        elif name in tensors:
            raise bad_checkpoint(who, f"one tensor {name!r}", "two after stripping prefixes")
        else:
            tensors[name] = value.detach()
    if not tensors:
        raise bad_checkpoint(who, "tensors by name", f"none among keys {sorted(others)[:8]}")
    return tensors, others


def assign_tensors(
    model: nn.Module, names: Mapping[str, str], tensors: Mapping[str, Tensor], who: str
) -> list[str]:
    """Copy `tensors` into `model`; `names` maps each state-dict name to the authors' name.

    Returns the authors' names that were not used. Raises InputError (`bad_checkpoint`) naming the
    tensors that are missing or have another shape; then the model is left as it was.
    """
    own = model.state_dict()
    missing = [names[n] for n in own if names[n] not in tensors]
    if missing:
        raise bad_checkpoint(
            who, f"{len(own)} tensors", f"{len(missing)} missing: {', '.join(missing[:6])}"
        )
    for name, mine in own.items():
        theirs = tensors[names[name]]
        if theirs.shape != mine.shape:
            raise bad_checkpoint(
                f"{who}, tensor {names[name]}",
                f"shape {tuple(mine.shape)}",
                f"{tuple(theirs.shape)}",
                "Settings that the tensors cannot tell must be given as they were trained.",
            )
        if theirs.layout is not torch.strided or theirs.is_meta or theirs.is_complex():
            kind = "meta" if theirs.is_meta else f"{theirs.layout}, {theirs.dtype}"
            raise bad_checkpoint(f"{who}, tensor {names[name]}", "dense real numbers", kind)
    model.load_state_dict({n: tensors[names[n]].to(own[n].dtype) for n in own})
    return sorted(set(tensors) - {names[n] for n in own})


def _open(path: Path, who: str) -> Any:
    if not path.is_file():
        raise bad_checkpoint(who, "a checkpoint file", f"no file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise anything on bytes that are no checkpoint
        refused = re.search(r"WeightsUnpickler error: (.*)", str(error))  # torch's advice is unsafe
        raise bad_checkpoint(
            f"{who}, {path.name}",
            "a file that loads weights-only",
            refused[1] if refused else f"{type(error).__name__}: {error}".split("\n")[0][:200],
            "Re-save its state dict alone, or convert it to safetensors.",
        ) from error


def _unwrap(content: Any) -> Any:
    """Follow `model` / `module` / `state_dict` down to the mapping that holds tensors."""
    seen: list[Any] = []
    while isinstance(content, Mapping) and not any(content is outer for outer in seen):
        seen.append(content)
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            return content
        content = inner
    return content


def _strip(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name
