"""ME-TST: spotting and recognition of micro-expressions by temporal state transition.

Paper: Zou et al., "Synergistic Spotting and Recognition of Micro-Expression via Temporal State
Transition", arXiv 2409.09707 (ICASSP 2025). Origin: the authors' release of 2024-09-15 (4e8c22e,
"C1", width 64) and their later one (2704e0c, "C2", width 128); this is an independent
implementation from a description of both, not a copy of their code.

A window of k frames of ROI motion passes a two-layer convolution stem and a stack of Mamba blocks;
two linear heads give, per frame, the probability that it lies in a micro-expression and five class
logits (negative, positive, surprise, others, neutral). The network is causal but for the stem's two
frames of look-ahead, and every window starts with an empty state.

Deviation from the origin: it owns a second list of blocks for recognition but runs the first list
twice, so that both heads read one trunk and the second list stays untrained. Here the trunk exists
and runs once (`share_trunk`, the default); two trunks that really are separate are the option.
The norm that its blocks own and never apply does not exist here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from data.errors import ConfigError, InputError
from data.settings import Settings
from models.authors import Checkpoint, assign_tensors, bad_checkpoint, read_authors_tensors
from models.layers.mamba import MambaBlock, drop_path_rates, initialise
from models.me_tst.settings import MeTstConfig

logger = logging.getLogger(__name__)

NUM_CLASSES = 5
Config = TypeVar("Config", bound=Settings)


class MeTst(nn.Module):
    """Forward: (B, 1, C, k) motion -> spot probability (B, k), class logits (B, k, 5)."""

    def __init__(self, config: MeTstConfig) -> None:
        super().__init__()
        self.config = config
        self.unused_tensors: tuple[str, ...] = ()
        self.stem = make_stem(config.in_channels, config.dim)
        rates = drop_path_rates(config.blocks, config.drop_path)
        self.trunks = nn.ModuleList(
            nn.Sequential(
                *(
                    MambaBlock(
                        config.dim,
                        rate,
                        config.d_state,
                        config.d_conv,
                        config.expand,
                        config.scan,
                    )
                    for rate in rates
                )
            )
            for _ in range(1 if config.share_trunk else 2)
        )
        self.head_spot = nn.Linear(config.dim, 1)
        self.head_recog = nn.Linear(config.dim, NUM_CLASSES)
        initialise(self, config.init, config.blocks)

    def forward(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """motion: (B, 1, C, k) float, ROI displacement in px since the window's first frame."""
        x = self.stem(check_motion(motion, self.config.in_channels)).transpose(1, 2)
        features = [trunk(x) for trunk in self.trunks]
        spot = torch.sigmoid(self.head_spot(features[0])).squeeze(-1)
        return spot, self.head_recog(features[-1])


def make_stem(in_channels: int, dim: int) -> nn.Sequential:
    """Two kernel-3 convolutions with batch norm and ReLU over (B, C, k)."""
    return nn.Sequential(
        nn.Conv1d(in_channels, dim, 3, padding=1),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Conv1d(dim, dim, 3, padding=1),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
    )


def check_motion(motion: Tensor, channels: int) -> Tensor:
    """(B, 1, C, k) -> (B, C, k); raises `InputError` for another shape."""
    if motion.ndim != 4 or motion.shape[1] != 1 or motion.shape[2] != channels:
        raise InputError(
            "ME-TST input", expected=f"(B, 1, {channels}, k)", got=str(tuple(motion.shape))
        )
    return motion.squeeze(1)


def create(config: MeTstConfig) -> MeTst:
    """A freshly initialised network; torch's global generator decides the weights."""
    return MeTst(config)


# -------------------------------------------------------------------------------- authors' layout

# Both releases name a block's parts alike; `norm2` has no counterpart.
_BLOCK_NAMES = [
    (r"\.norm_in\.", ".attn.norm."),
    (r"\.norm_out\.", ".norm1."),
    (r"\.mamba\.", ".attn.mamba."),
]


def rename_block(name: str) -> str:
    """The authors' name of a tensor inside a Mamba block."""
    for rule in _BLOCK_NAMES:
        name = re.sub(*rule, name)
    return name


def _authors_name(name: str, second_release: bool) -> str:
    """The authors' name of one of our tensors; both trunks come from the list they trained."""
    blocks = "spot_pathway.block." if second_release else "blocks_spot."
    head = "." if second_release else ".0."
    name = re.sub(r"^stem\.", "Stem.", name)
    name = re.sub(r"^trunks\.\d\.", blocks, name)
    name = re.sub(r"^head_(spot|recog)\.", rf"fc_\1{head}", name)
    return rename_block(name)


def load_authors_checkpoint(source: Checkpoint, **config: Any) -> MeTst:
    """The network of an authors'-layout checkpoint of either release, float32, in eval mode.

    Widths, depth and channels come from the tensors; give what they cannot tell (drop_path, scan).
    `share_trunk=False` starts both trunks from the one the authors trained. `.unused_tensors` names
    what was left over: each block's `norm2` and the recognition list that their forward never runs.
    Raises `InputError` (`bad_checkpoint`) naming a missing, misshapen or unknown tensor,
    `ConfigError` for a bad setting.
    """
    who = "ME-TST checkpoint"
    tensors, others = read_authors_tensors(source, who)
    second = any(name.startswith("spot_pathway.block.") for name in tensors)
    dead = r"recog_pathway\.block" if second else "blocks_recog"
    block = "spot_pathway.block." if second else "blocks_spot."
    inferred = {**infer_widths(tensors, block + "0.", who), "blocks": count_blocks(tensors, block)}
    model = MeTst(checked_config(MeTstConfig, inferred, config, who))
    names = {name: _authors_name(name, second) for name in model.state_dict()}
    unused = assign_tensors(model, names, tensors, who)
    model.unused_tensors = account_unused(unused, others, rf"{dead}\.|.*\.norm2\.", who)
    return model.eval()


def infer_widths(tensors: Mapping[str, Tensor], block: str, who: str) -> dict[str, int]:
    """Channels, width and Mamba sizes, from the stem and the block whose names begin with `block`.

    The width is the stem's; the Mamba sizes are those of the given block.
    """
    stem = _shape(tensors, "Stem.0.weight", 3, who)
    inner, d_state = _shape(tensors, f"{block}attn.mamba.A_log", 2, who)
    taps = _shape(tensors, f"{block}attn.mamba.conv1d.weight", 3, who)[2]
    width = _shape(tensors, f"{block}attn.mamba.in_proj.weight", 2, who)[1]
    return {
        "in_channels": stem[1],
        "dim": stem[0],
        "d_state": d_state,
        "d_conv": taps,
        "expand": inner // width,
    }


def count_blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks have tensors named `prefix`<number>."""
    return len({m[1] for name in tensors if (m := re.match(re.escape(prefix) + r"(\d+)\.", name))})


def checked_config(
    kind: type[Config], inferred: Mapping[str, Any], given: Mapping[str, Any], who: str
) -> Config:
    """The settings; a given value that contradicts the tensors or is invalid is a ConfigError."""
    wrong = [key for key in inferred if key in given and given[key] != inferred[key]]
    if wrong:
        raise ConfigError(
            f"{who} settings",
            expected=", ".join(f"{key} {inferred[key]} as in the tensors" for key in wrong),
            got=", ".join(f"{key} {given[key]}" for key in wrong),
        )
    try:
        return kind(**{**inferred, **given})
    except ValidationError as error:
        raise ConfigError(f"{who} settings", expected="valid ones", got=str(error)) from error


def account_unused(unused: list[str], others: list[str], known: str, who: str) -> tuple[str, ...]:
    """All names left over, logged; one that matches neither `known` nor a non-tensor is an error.

    An unknown tensor means another network: leaving it out would compute something else.
    """
    foreign = [name for name in unused if not re.match(known, name)]
    if foreign:
        raise bad_checkpoint(who, "only tensors of this network", f"also {', '.join(foreign[:6])}")
    if unused or others:
        logger.info("%s: %d tensors not used (dead in the origin)", who, len(unused) + len(others))
    return tuple(unused + others)


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int, who: str) -> tuple[int, ...]:
    if name not in tensors:
        raise bad_checkpoint(who, f"tensor {name!r}", "none of that name")
    if tensors[name].ndim != ndim:
        raise bad_checkpoint(f"{who}, tensor {name}", f"{ndim} axes", f"{tensors[name].ndim}")
    return tuple(tensors[name].shape)
