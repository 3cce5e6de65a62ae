"""The networks by name: a small explicit map, filled here and nowhere else.

An entry says where a network is, which settings it and its training take, which module trains and
scores its folds, which stages feed it, and whether its samples are events or whole videos. A new
network is one file in `models/` and one entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

from data.errors import ConfigError
from data.settings import Settings
from models.authors import Checkpoint
from models.hsta import network as hsta
from models.hsta.training import HstaTrainConfig
from models.me_tst import network as me_tst
from models.me_tst import plus as me_tst_plus
from models.me_tst.training import MeTstTrainConfig


@dataclass(frozen=True)
class Entry:
    """What the rest of the project must know of a network."""

    module: ModuleType  # create(config), load_authors_checkpoint(source, **config)
    settings: type[Settings]
    train: type[Settings]
    family: str  # models/<family>_fold.py has fit_fold(job) and score(run)
    samples: Literal["events", "videos"]
    needs: Callable[[Any], tuple[str, ...]]  # settings → the last stages it reads


def _clip_stages(config: hsta.HstaConfig) -> tuple[str, ...]:
    return ("flow",) if config.special == "flow" else ("apex",)


def _motion(config: Settings) -> tuple[str, ...]:
    return ("motion",)


MODELS: dict[str, Entry] = {
    "hsta": Entry(hsta, hsta.HstaConfig, HstaTrainConfig, "hsta", "events", _clip_stages),
    "me_tst": Entry(me_tst, me_tst.MeTstConfig, MeTstTrainConfig, "me_tst", "videos", _motion),
    "me_tst_plus": Entry(
        me_tst_plus, me_tst_plus.MeTstPlusConfig, MeTstTrainConfig, "me_tst", "videos", _motion
    ),
}


def list_models() -> list[str]:
    """Known network names."""
    return sorted(MODELS)


def find_model(name: str) -> Entry:
    """The entry called `name`. Raises ConfigError listing the known ones."""
    if name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=1)
        raise ConfigError(
            "model",
            expected=f"one of {', '.join(MODELS)}",
            got=str(name),
            todo=f"Did you mean {near[0]}?" if near else "",
        )
    return MODELS[name]


def create_model(name: str, **config: Any) -> nn.Module:
    """A freshly initialised network; `config` are fields of its settings class.

    torch's global generator decides the weights. Raises ConfigError for an unknown name or setting.
    """
    entry = find_model(name)
    try:
        return entry.module.create(entry.settings(**config))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"model {name}",
            expected=f"settings among {', '.join(entry.settings.model_fields)}",
            got=problems,
        ) from error


def load_authors_checkpoint(name: str, path_or_state_dict: Checkpoint, **config: Any) -> nn.Module:
    """The network of an authors'-layout checkpoint, in eval mode, float32.

    Read weights-only. What the tensors tell (widths, depths, groups, patches, classes) is inferred;
    what they cannot tell is `config`, by the network's own names. `.unused_tensors` names every
    tensor that was not used. Raises InputError (`bad_checkpoint`) naming a missing, misshapen or
    unknown tensor, ConfigError for an unknown network or setting.
    """
    return find_model(name).module.load_authors_checkpoint(path_or_state_dict, **config)
