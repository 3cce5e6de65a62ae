"""The networks by name: a small explicit map, filled here and nowhere else.

A network is one file or one folder and one line here. It holds NETWORK (`models.contract.Network`;
in a folder in `entry.py`). Reading entries imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data import plugins
from data.errors import ConfigError
from models.contract import Network

if TYPE_CHECKING:
    from torch import nn

    from models.authors import Checkpoint

NETWORKS = {
    "hsta": "models.hsta",
    "me_tst": "models.me_tst",
    "me_tst_plus": "models.me_tst.plus_entry",
    "ststnet": "models.flow_nets.ststnet",
    "flow_regression": "models.flow_nets.flow_regression",
}


def list_models() -> list[str]:
    """Known network names."""
    return sorted(NETWORKS)


def find_network(name: str) -> Network:
    """The network called `name`. Raises ConfigError listing the known ones."""
    found: Network = plugins.find(plugins.place_of(NETWORKS, name, "model"), "NETWORK", "entry")
    return found


def create_model(name: str, **config: Any) -> nn.Module:
    """A freshly initialised network; `config` are fields of its settings class.

    torch's global generator decides the weights. Raises ConfigError for an unknown name or setting.
    """
    network = find_network(name)
    try:
        settings = network.settings(**config)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"model {name}",
            expected=f"settings among {', '.join(network.settings.model_fields)}",
            got=problems,
        ) from error
    made: nn.Module = network.code().create(settings)
    return made


def load_authors_checkpoint(name: str, path_or_state_dict: Checkpoint, **config: Any) -> nn.Module:
    """The network of an authors'-layout checkpoint, in eval mode, float32.

    Read weights-only. What the tensors tell (widths, depths, groups, patches, classes) is inferred;
    what they cannot tell is `config`, by the network's own names. `.unused_tensors` names every
    tensor that was not used. Raises InputError (`bad_checkpoint`) naming a missing, misshapen or
    unknown tensor, ConfigError for an unknown network or setting, and for a network
    that no authors published weights of.
    """
    code = find_network(name).code()
    if not hasattr(code, "load_authors_checkpoint"):
        raise ConfigError(
            f"checkpoint of {name}",
            expected="a network whose authors published weights",
            got="one without",
            todo="Weights of the project's own runs are read by `predict --run`.",
        )
    loaded: nn.Module = code.load_authors_checkpoint(path_or_state_dict, **config)
    return loaded
