"""HSTA: hierarchical space-time attention for micro-expression recognition.

Paper: Hao et al., arXiv 2405.03202 (2024). Origin: github.com/OceanSummerDay/HSTA_MER at bc5dc41;
this is an independent implementation from a description of that network, not a copy of its code.

Two branches read one clip: "special" (onset, apex: 2 frames, small patches) and "video" (F sampled
frames). Each keeps its own space-time tokens and class token. A group is a few pre-norm
transformer blocks inside each branch (the paper's USTA: attention over all tokens of space and time
together), then one exchange both ways (CSTA): a branch's class token, projected to the other
branch's width, attends once to the other branch's tokens and returns. Groups are stacked.

Deviations from the origin: the drop-path schedule counts max(special, video) blocks per group (the
origin runs short when special > video); depth's third number must be 0; head mode 3 is absent.
Tensor names differ; `load_authors_checkpoint` converts theirs.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data.errors import ConfigError, InputError
from models.authors import Checkpoint, assign_tensors, bad_checkpoint, read_authors_tensors
from models.hsta.config import DEPTH_CHOICES, SPECIAL, VARIANTS, VIDEO, HstaConfig, variant
from models.layers.attention import attention, merge_heads, single_query_attention, split_heads
from models.layers.dropout import Dropout
from models.layers.linear import Linear, linear
from models.layers.stochastic_depth import add_dropping

__all__ = [
    "DEPTH_CHOICES",
    "HSTA",
    "SPECIAL",
    "VARIANTS",
    "VIDEO",
    "HstaConfig",
    "create",
    "drop_path_rates",
    "load_authors_checkpoint",
    "sinusoid_positions",
    "variant",
]

logger = logging.getLogger(__name__)

NORM_EPS = 1e-6
INIT_STD, INIT_WIDTH = 0.02, 768


# -------------------------------------------------------------------------------------------- parts


def sinusoid_positions(length: int, width: int) -> Tensor:
    """Fixed positions (length, width) float32: sine at even, cosine at odd columns; row 0 = class.

    angle(position, j) = position / 10000^(2 floor(j/2) / width).
    """
    column = np.arange(width)
    angle = np.arange(length)[:, None] / np.power(10000.0, 2 * (column // 2) / width)
    table = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.tensor(table, dtype=torch.float32)


def drop_path_rates(config: HstaConfig) -> list[list[float]]:
    """Per group, the rate of its i-th block, rising linearly to `drop_path`; branches share it."""
    per_group = max(config.depth[SPECIAL], config.depth[VIDEO])
    rates = np.linspace(0, config.drop_path, config.num_groups * per_group)
    return [[float(r) for r in row] for row in rates.reshape(config.num_groups, per_group)]


class TubeletEmbedding(nn.Module):
    """Clip (B, 3, T, H, W) -> tokens (B, 1 + t·h·w, D): class token first, positions added."""

    positions: Tensor

    def __init__(self, config: HstaConfig, branch: int) -> None:
        super().__init__()
        width, patch = config.embed_dim[branch], config.patch_size[branch]
        kernel = (config.tubelet_size, patch, patch)
        self.project = nn.Conv3d(3, width, kernel_size=kernel, stride=kernel)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        table = sinusoid_positions(config.num_tokens(branch), width)
        self.register_buffer("positions", table, persistent=False)
        self.dropout = Dropout(config.dropout)

    def patches(self, clip: Tensor) -> Tensor:
        """Embedded tubelets (B, t·h·w, D), w fastest; what is left at the border is cut off.

        This is `self.project(clip)`. A convolution whose stride is its kernel is a product of
        matrices, and cuDNN is reported to take seconds for it in bfloat16 (transformers #45750).
        """
        return linear(self.tubelets(clip), self.project.weight.flatten(1), self.project.bias)

    def tubelets(self, clip: Tensor) -> Tensor:
        """The pixels of each tubelet in a row, (B, t·h·w, 3 · depth · p · p)."""
        depth, patch, _ = self.project.kernel_size
        t, h, w = clip.shape[2] // depth, clip.shape[3] // patch, clip.shape[4] // patch
        whole = clip[:, :, : t * depth, : h * patch, : w * patch]
        cut = whole.reshape(len(clip), 3, t, depth, h, patch, w, patch)
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(clip), t * h * w, -1)

    def forward(self, clip: Tensor) -> Tensor:
        patches = self.patches(clip)
        tokens = torch.cat([self.class_token.expand(len(clip), -1, -1), patches], dim=1)
        return self.dropout(tokens + self.positions)


class SelfAttention(nn.Module):
    """Joint space-time attention; queries and values have a bias, keys have none."""

    def __init__(self, config: HstaConfig, branch: int) -> None:
        super().__init__()
        width = config.embed_dim[branch]
        self.num_heads, self.path = config.num_heads[branch], config.attention
        self.qkv = Linear(width, 3 * width, bias=False)  # rows: queries, keys, values
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.project = Linear(width, width)
        self.dropout = Dropout(config.dropout)

    def heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (B, heads, N, head_dim)."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        projected = linear(tokens, self.qkv.weight, bias)
        query, key, value = (split_heads(t, self.num_heads) for t in projected.chunk(3, dim=-1))
        return query, key, value

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = merge_heads(attention(*self.heads(tokens), self.path))
        return self.dropout(self.project(mixed))


class Block(nn.Module):
    """USTA: t + attention(norm(t)), then t + mlp(norm(t)); stochastic depth on both residuals."""

    def __init__(self, config: HstaConfig, branch: int, rate: float) -> None:
        super().__init__()
        width = config.embed_dim[branch]
        hidden = int(width * config.mlp_ratio[branch] + 1e-6)
        self.drop_rate = rate
        self.generator: torch.Generator | None = None  # of stochastic depth; None: torch's own
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = SelfAttention(config, branch)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.expand = Linear(width, hidden)
        self.reduce = Linear(hidden, width)
        self.dropout = Dropout(config.dropout)

    def attend(self, tokens: Tensor) -> Tensor:
        return self.attention(self.norm_attention(tokens))

    def mlp(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.expand(self.norm_mlp(tokens))))
        return self.dropout(self.reduce(hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        rate = self.drop_rate if self.training else 0.0
        tokens = add_dropping(tokens, self.attend, rate, self.generator)
        return add_dropping(tokens, self.mlp, rate, self.generator)


class ClassExchange(nn.Module):
    """CSTA, one direction: branch's class token queries the other branch and returns.

    q0 = leave(cls); Z = norm([q0; patches of the other branch]); u = q0 + attention(Z_0 over Z);
    result = enter(u). No residual from the old class token.
    """

    def __init__(self, config: HstaConfig, branch: int) -> None:
        super().__init__()
        own, other = config.embed_dim[branch], config.embed_dim[1 - branch]
        self.num_heads, self.path = config.num_heads[1 - branch], config.attention
        self.leave_norm = nn.LayerNorm(own, eps=NORM_EPS)
        self.leave = Linear(own, other)
        self.norm = nn.LayerNorm(other, eps=NORM_EPS)
        self.query = Linear(other, other)
        self.key = Linear(other, other)
        self.value = Linear(other, other)
        self.project = Linear(other, other)
        self.dropout = Dropout(config.dropout)
        self.enter_norm = nn.LayerNorm(other, eps=NORM_EPS)
        self.enter = Linear(other, own)

    def visitor(self, class_token: Tensor) -> Tensor:
        """The class token (B, 1, own width) in the other branch's width."""
        return self.leave(F.gelu(self.leave_norm(class_token)))

    def attend(self, tokens: Tensor) -> Tensor:
        """Attention of token 0 over `tokens` (B, N, other width), normed. (B, 1, other width)."""
        if self.path == "plain":
            projected = (self.query(tokens[:, :1]), self.key(tokens), self.value(tokens))
            query, key, value = (split_heads(t, self.num_heads) for t in projected)
            return merge_heads(attention(query, key, value, "plain"))
        query = self.query(tokens[:, 0]).unflatten(-1, (self.num_heads, -1))
        weights = (self.key.weight, self.key.bias, self.value.weight, self.value.bias)
        return single_query_attention(query, tokens, *weights)[:, None]

    def forward(self, class_token: Tensor, other_patches: Tensor) -> Tensor:
        visitor = self.visitor(class_token)
        tokens = self.norm(torch.cat([visitor, other_patches], dim=1))
        visitor = visitor + self.dropout(self.project(self.attend(tokens)))
        return self.enter(F.gelu(self.enter_norm(visitor)))


class Group(nn.Module):
    """Blocks inside each branch, then the exchange both ways from the same tokens."""

    def __init__(self, config: HstaConfig, rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(config, b, rates[i]) for i in range(config.depth[b])))
            for b in (SPECIAL, VIDEO)
        )
        self.exchange = nn.ModuleList(ClassExchange(config, b) for b in (SPECIAL, VIDEO))

    def forward(self, special: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        special, video = self.blocks[SPECIAL](special), self.blocks[VIDEO](video)
        special_class = self.exchange[SPECIAL](special[:, :1], video[:, 1:])
        video_class = self.exchange[VIDEO](video[:, :1], special[:, 1:])
        return (
            torch.cat([special_class, special[:, 1:]], dim=1),
            torch.cat([video_class, video[:, 1:]], dim=1),
        )


# ------------------------------------------------------------------------------------------ network


class HSTA(nn.Module):
    """Clip (B, 3, F+2, H, W) float -> logits (B, num_classes).

    Time axis: 0 .. F-1 the video frames in time order, then the two special slots: onset and apex
    frames, or, with `special: flow`, the fields (u, v, strain) onset→apex and apex→offset.
    Values are as `models.hsta.input` normalises them. H = W = `image_size`.
    """

    def __init__(self, config: HstaConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # training may set it: less memory, more time
        self.unused_tensors: tuple[str, ...] = ()  # of the checkpoint it was loaded from
        self.embed = nn.ModuleList(TubeletEmbedding(config, b) for b in (SPECIAL, VIDEO))
        self.groups = nn.ModuleList(Group(config, rates) for rates in drop_path_rates(config))
        self.norm = nn.ModuleList(nn.LayerNorm(d, eps=NORM_EPS) for d in config.embed_dim)
        self.head_dropout = Dropout(config.head_dropout)
        head_width = sum(config.embed_dim) * (2 if config.head_mode == 1 else 1)
        self.head = Linear(head_width, config.num_classes)
        _initialise(self)

    def forward(self, clip: Tensor) -> Tensor:
        special, video = self.forward_tokens(clip)
        return self.head(self.head_dropout(self.pool(special, video)))

    def split(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """The special slots (B, 3, 2, H, W) and the video frames (B, 3, F, H, W)."""
        frames, side = self.config.num_frames, self.config.image_size
        if clip.ndim != 5 or clip.shape[1:] != (3, frames + 2, side, side):
            raise InputError(
                "HSTA input",
                expected=f"(batch, 3, num_frames + 2 = {frames + 2}, {side}, {side})",
                got=str(tuple(clip.shape)),
            )
        return clip[:, :, frames:], clip[:, :, :frames]

    def forward_tokens(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Normed tokens of both branches, (B, 1 + N, D) each, class token first."""
        special, video = (embed(t) for embed, t in zip(self.embed, self.split(clip), strict=True))
        for group in self.groups:
            if self.activation_checkpointing and self.training:
                special, video = checkpoint(group, special, video, use_reentrant=False)
            else:
                special, video = group(special, video)
        return self.norm[SPECIAL](special), self.norm[VIDEO](video)

    def pool(self, special: Tensor, video: Tensor) -> Tensor:
        """The head's input (B, width), by `head_mode`."""
        if self.config.head_mode == 4:
            return torch.cat([special.mean(1), video.mean(1)], dim=1)
        parts = [special[:, 0], video[:, 0]]
        if self.config.head_mode == 1:
            parts += [special[:, -1], video[:, -1]]
        return torch.cat(parts, dim=1)


def _initialise(network: HSTA) -> None:
    """Normal weights cut at ±2 (absolute), zero biases; Conv3d keeps torch's own rule."""
    for module in network.modules():
        if isinstance(module, Linear):
            inputs = module.in_features if network.config.init == "width" else INIT_WIDTH
            nn.init.trunc_normal_(module.weight, std=INIT_STD * (INIT_WIDTH / inputs) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, TubeletEmbedding):
            nn.init.trunc_normal_(module.class_token, std=INIT_STD)


def create(config: HstaConfig) -> HSTA:
    """A freshly initialised network; torch's global generator decides the weights."""
    return HSTA(config)


# -------------------------------------------------------------------------------- authors' layout

# Ours -> theirs. `fusion.b` refines branch b's class token in the other branch's width.
_EXCHANGE = r"^groups\.(\d+)\.exchange\.(\d)\."
_AUTHORS_NAMES = [
    (r"^embed\.(\d)\.project\.", r"patch_embed.\1.proj."),
    (r"^embed\.(\d)\.class_token$", r"cls_token.\1"),
    (_EXCHANGE + r"leave_norm\.", r"blocks.\1.projs.\2.0."),
    (_EXCHANGE + r"leave\.", r"blocks.\1.projs.\2.2."),
    (_EXCHANGE + r"norm\.", r"blocks.\1.fusion.\2.norm1."),
    (_EXCHANGE + r"(q|k|v)(?:uery|ey|alue)\.", r"blocks.\1.fusion.\2.attn.w\3."),
    (_EXCHANGE + r"project\.", r"blocks.\1.fusion.\2.attn.proj."),
    (_EXCHANGE + r"enter_norm\.", r"blocks.\1.revert_projs.\2.0."),
    (_EXCHANGE + r"enter\.", r"blocks.\1.revert_projs.\2.2."),
    (r"^groups\.(\d+)\.blocks\.", r"blocks.\1.blocks."),
    (r"\.norm_attention\.", ".norm1."),
    (r"\.norm_mlp\.", ".norm2."),
    (r"\.attention\.(q|v)(?:uery|alue)_bias$", r".attn.\1_bias"),
    (r"\.attention\.project\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.expand\.", ".mlp.fc1."),
    (r"\.reduce\.", ".mlp.fc2."),
]
# Leaving one of these out would compute another function; other unknown tensors are only named.
_NETWORK_TENSOR = re.compile(r"^(patch_embed|cls_token|pos_embed|blocks|norm|fc_norm|head)\b")


def authors_name(name: str) -> str:
    """The authors' name of one of our tensors."""
    for rule in _AUTHORS_NAMES:
        name = re.sub(*rule, name)
    return name


def load_authors_checkpoint(source: Checkpoint, **config: Any) -> HSTA:
    """The network of an authors'-layout checkpoint, float32, in eval mode.

    Widths, depths, groups, patches and classes come from the tensors; give what they cannot tell:
    image_size, num_frames, num_heads, head_mode (1 shows in the head's width), tubelet_size.
    `.unused_tensors` names what was left over. Raises InputError (`bad_checkpoint`) naming a
    missing, misshapen or unsupported tensor, ConfigError for a bad setting.
    """
    tensors, others = read_authors_tensors(source, "HSTA checkpoint")
    try:
        settings = HstaConfig(**{**_infer_config(tensors), **config})
    except ValidationError as error:
        found = (f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise ConfigError(
            "HSTA checkpoint settings",
            expected=f"valid ones among {', '.join(HstaConfig.model_fields)}",
            got="; ".join(found),
            todo="Settings that the tensors cannot tell must be given as they were trained.",
        ) from error
    model = HSTA(settings)
    names = {name: authors_name(name) for name in model.state_dict()}
    unused = assign_tensors(model, names, tensors, "HSTA checkpoint")
    unsupported = [name for name in unused if _NETWORK_TENSOR.match(name)]
    if unsupported:
        raise bad_checkpoint(
            "HSTA checkpoint", "only tensors of this network", f"also {', '.join(unsupported[:6])}"
        )
    model.unused_tensors = tuple(unused + others)
    if model.unused_tensors:
        logger.warning("HSTA checkpoint: not used: %s", ", ".join(model.unused_tensors))
    return model.eval()


def _infer_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in tensors:
            raise bad_checkpoint("HSTA checkpoint", f"tensor {name!r}", "none of that name")
        found = tuple(tensors[name].shape)
        if len(found) != ndim or 0 in found:
            expected = f"{ndim} axes, none of them empty"
            raise bad_checkpoint(f"HSTA checkpoint, tensor {name}", expected, f"shape {found}")
        return found

    def size(*places: tuple[str, int, int]) -> int:
        """The length that axes of one size agree on; places are (name, ndim, axis)."""
        lengths = {name: shape(name, ndim)[axis] for name, ndim, axis in places}
        length = Counter(lengths.values()).most_common(1)[0][0]
        if odd := {n: found for n, found in lengths.items() if found != length}:
            agreed = ", ".join(n for n in lengths if n not in odd)
            raise bad_checkpoint(
                f"HSTA checkpoint, tensor {', '.join(odd)}",
                f"an axis of {length}, as in {agreed}",
                ", ".join(map(str, odd.values())),
            )
        return length

    def count(pattern: str) -> int:
        return len({m[1] for name in tensors if (m := re.match(pattern, name))})

    widths, patches, hidden = [], [], []
    for b in (SPECIAL, VIDEO):
        patch, mlp = f"patch_embed.{b}.proj", f"blocks.0.blocks.{b}.0.mlp"
        rows = [(f"{mlp}.fc1.bias", 1, 0), (f"{mlp}.fc1.weight", 2, 0), (f"{mlp}.fc2.weight", 2, 1)]
        tokens = [(f"cls_token.{b}", 3, 2), (f"norm.{b}.weight", 1, 0), (f"{patch}.bias", 1, 0)]
        patches.append(shape(f"{patch}.weight", 5))
        widths.append(size(*tokens, (f"{patch}.weight", 5, 0)))
        hidden.append(size(*rows))
    depths = [count(rf"blocks\.0\.blocks\.{b}\.(\d+)\.") for b in (SPECIAL, VIDEO)]
    head_width = shape("head.weight", 2)[1]
    return {
        "embed_dim": widths,
        "patch_size": [patch[-1] for patch in patches],
        "tubelet_size": patches[0][2],
        "depth": (*depths, 0),
        "num_groups": count(r"blocks\.(\d+)\."),
        "mlp_ratio": [rows / width for rows, width in zip(hidden, widths, strict=True)],
        "num_classes": size(("head.weight", 2, 0), ("head.bias", 1, 0)),
        "head_mode": 1 if head_width == 2 * sum(widths) else 2,
    }
