"""The networks by name: a small explicit map, filled here and nowhere else."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

from pydantic import ValidationError
from torch import nn

from data.config import Settings
from data.errors import ConfigError
from models import hsta, me_tst, me_tst_plus
from models.authors import Checkpoint

# name → (module with create and load_authors_checkpoint, its settings)
MODELS: dict[str, tuple[ModuleType, type[Settings]]] = {
    "hsta": (hsta, hsta.HstaConfig),
    "me_tst": (me_tst, me_tst.MeTstConfig),
    "me_tst_plus": (me_tst_plus, me_tst_plus.MeTstPlusConfig),
}


def list_models() -> list[str]:
    """Known network names."""
    return sorted(MODELS)


def create_model(name: str, **config: Any) -> nn.Module:
    """A freshly initialised network; `config` are fields of its settings class.

    torch's global generator decides the weights. Raises ConfigError for an unknown name or setting.
    """
    module, settings = _entry(name)
    try:
        return module.create(settings(**config))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"model {name}",
            expected=f"settings among {', '.join(settings.model_fields)}",
            got=problems,
        ) from error


def load_authors_checkpoint(name: str, path_or_state_dict: Checkpoint, **config: Any) -> nn.Module:
    """The network of an authors'-layout checkpoint, in eval mode, float32.

    Read weights-only. What the tensors tell (widths, depths, groups, patches, classes) is inferred;
    what they cannot tell is `config`, by the network's own names. `.unused_tensors` names every
    tensor that was not used. Raises InputError (`bad_checkpoint`) naming a missing, misshapen or
    unknown tensor, ConfigError for an unknown network or setting.
    """
    module, _ = _entry(name)
    return module.load_authors_checkpoint(path_or_state_dict, **config)


def _entry(name: str) -> tuple[ModuleType, type[Settings]]:
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        raise ConfigError(
            "model",
            expected=f"one of {', '.join(MODELS)}",
            got=name,
            todo=f"Did you mean {near[0]}?" if near else "",
        )
    return MODELS[name]
