"""ME-TST+: slow-fast Mamba over 18 ROIs.

Paper: Guo et al., "ME-TST+: Micro-expression Analysis via Temporal State Transition with ROI
Relationship Awareness", arXiv 2508.08082. Origin: the authors' release 2704e0c (their slow-fast
network); an independent implementation from a description, not a copy of their code.

Against ME-TST: 36 motion channels, and per task a trunk of two paths. The fast path keeps the frame
rate at width d, the slow path has half the rate at width 2d; each has three stages of four blocks,
and after the first two the fast path is added to the slow one through a strided convolution. The
heads read both, the slow path repeated to the frame rate. The two tasks have separate trunks on one
stem. "ROI relationship awareness" is the stack of ROIs mixed by the stem; there is no attention
over ROIs in the release.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError
from models.authors import Checkpoint, assign_tensors, read_authors_tensors
from models.layers.mamba import MambaBlock, drop_path_rates, initialise
from models.me_tst.network import (
    NUM_CLASSES,
    account_unused,
    check_motion,
    checked_config,
    count_blocks,
    infer_widths,
    make_stem,
    rename_block,
)
from models.me_tst.settings import MeTstPlusConfig

STAGES = 3


class SlowFastTrunk(nn.Module):
    """(B, d, k) stem output -> (B, k, 3d) features, slow path first; k even."""

    def __init__(self, config: MeTstPlusConfig) -> None:
        super().__init__()
        fast, slow = config.dim, 2 * config.dim
        self.enter_slow = _halving(fast, slow)
        self.slow = nn.ModuleList(_stage(config, slow) for _ in range(STAGES))
        self.fast = nn.ModuleList(_stage(config, fast) for _ in range(STAGES))
        self.lateral = nn.ModuleList(_halving(fast, slow) for _ in range(STAGES - 1))

    def forward(self, x: Tensor) -> Tensor:
        """No link leads from slow to fast, and none follows the last stage."""
        slow, fast = self.enter_slow(x).transpose(1, 2), x.transpose(1, 2)
        for stage in range(STAGES):
            slow, fast = self.slow[stage](slow), self.fast[stage](fast)
            if stage < STAGES - 1:
                slow = slow + self.lateral[stage](fast.transpose(1, 2)).transpose(1, 2)
        return torch.cat([slow.repeat_interleave(2, dim=1), fast], dim=-1)


class MeTstPlus(nn.Module):
    """Forward: (B, 1, C, k) motion, k even -> spot probability (B, k), class logits (B, k, 5)."""

    def __init__(self, config: MeTstPlusConfig) -> None:
        super().__init__()
        self.config = config
        self.unused_tensors: tuple[str, ...] = ()
        self.stem = make_stem(config.in_channels, config.dim)
        self.trunks = nn.ModuleList(
            SlowFastTrunk(config) for _ in range(1 if config.share_trunk else 2)
        )
        self.head_spot = nn.Linear(3 * config.dim, 1)
        self.head_recog = nn.Linear(3 * config.dim, NUM_CLASSES)
        initialise(self, config.init, STAGES * config.blocks)

    def forward(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """motion: (B, 1, C, k) float, ROI displacement in px since the window's first frame."""
        if motion.shape[-1] % 2:
            raise InputError(
                "ME-TST+ input", expected="an even number of frames k", got=str(motion.shape[-1])
            )
        x = self.stem(check_motion(motion, self.config.in_channels))
        features = [trunk(x) for trunk in self.trunks]
        spot = torch.sigmoid(self.head_spot(features[0])).squeeze(-1)
        return spot, self.head_recog(features[-1])


def _halving(dim: int, out: int) -> nn.Sequential:
    """Half the frames, another width: (B, dim, k) -> (B, out, k/2)."""
    return nn.Sequential(
        nn.Conv1d(dim, out, 3, stride=2, padding=1), nn.BatchNorm1d(out), nn.ReLU()
    )


def _stage(config: MeTstPlusConfig, dim: int) -> nn.Sequential:
    sizes = (config.d_state, config.d_conv, config.expand, config.scan)
    rates = drop_path_rates(config.blocks, config.drop_path)
    return nn.Sequential(*(MambaBlock(dim, rate, *sizes) for rate in rates))


def create(config: MeTstPlusConfig) -> MeTstPlus:
    """A freshly initialised network; torch's global generator decides the weights."""
    return MeTstPlus(config)


# -------------------------------------------------------------------------------- authors' layout


def _authors_name(name: str) -> str:
    """The authors' name of one of our tensors."""
    name = re.sub(r"^stem\.", "Stem.", name)
    name = re.sub(r"^trunks\.0\.", "spot_pathway.", name)
    name = re.sub(r"^trunks\.1\.", "recog_pathway.", name)
    name = re.sub(r"\.enter_slow\.", ".Stem_slow.", name)
    name = re.sub(r"\.slow\.(\d)\.", lambda m: f".block{int(m[1]) + 1}.", name)
    name = re.sub(r"\.fast\.(\d)\.", lambda m: f".block{int(m[1]) + 1}_fast.", name)
    name = re.sub(r"\.lateral\.(\d)\.", lambda m: f".fuse_{int(m[1]) + 1}.conv.", name)
    name = re.sub(r"^head_(spot|recog)\.", r"fc_\1.", name)
    return rename_block(name)


def load_authors_checkpoint(source: Checkpoint, **config: Any) -> MeTstPlus:
    """The network of an authors'-layout slow-fast checkpoint, float32, in eval mode.

    Widths, depth and channels come from the tensors; give what they cannot tell (drop_path, scan).
    `.unused_tensors` names what was left over: each block's `norm2`. Raises `InputError`
    (`bad_checkpoint`) naming a missing, misshapen or unknown tensor, `ConfigError` for a bad
    setting (a shared trunk cannot hold the release's two).
    """
    who = "ME-TST+ checkpoint"
    tensors, others = read_authors_tensors(source, who)
    fast = "spot_pathway.block1_fast."
    inferred = {
        **infer_widths(tensors, f"{fast}0.", who),
        "blocks": count_blocks(tensors, fast),
        "share_trunk": False,
    }
    model = MeTstPlus(checked_config(MeTstPlusConfig, inferred, config, who))
    names = {name: _authors_name(name) for name in model.state_dict()}
    unused = assign_tensors(model, names, tensors, who)
    model.unused_tensors = account_unused(unused, others, r".*\.norm2\.", who)
    return model.eval()
