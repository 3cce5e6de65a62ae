"""Mamba-1 block as ME-TST uses it: selective state space between two layer norms.

Gu & Dao, arXiv 2312.00752, section 3.4 ("simple" block). ME-TST wraps it in a residual branch with
a norm before *and* after, and re-initialises it in a way that leaves the scan nearly memory-less at
the start; both initialisations are here. Tensors are (B, L, width), frames along L.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.choices import Init, ScanBackend
from models.layers.selective_scan import selective_scan, wide
from models.layers.stochastic_depth import DropPath

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
AUTHORS_STD = 0.02
# The authors divide out_proj by sqrt(4) whatever the depth: a left-over "n_layer = 4".
AUTHORS_OUT_SCALE = 2.0


class Mamba(nn.Module):
    """Selective state space mixing of (B, L, dim) along L; causal, so frame t sees 0 ... t."""

    def __init__(
        self,
        dim: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        scan: ScanBackend = "auto",
    ) -> None:
        super().__init__()
        inner, self.dt_rank, self.d_state = expand * dim, math.ceil(dim / 16), d_state
        self.scan: ScanBackend = scan
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = F.silu(self._causal_conv(x))
        sizes = [self.dt_rank, self.d_state, self.d_state]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        delta = F.softplus(self.dt_proj(dt))
        A = -torch.exp(wide(self.A_log))  # fp32 even under autocast
        y = selective_scan(x, delta, A, B, C, self.D, backend=self.scan)
        out: Tensor = self.out_proj(y * F.silu(z))
        return out

    def _causal_conv(self, x: Tensor) -> Tensor:
        """Depth-wise convolution over the last d_conv frames, zeros before the first."""
        mixed: Tensor = self.conv1d(x.transpose(1, 2))
        return mixed[..., : x.shape[1]].transpose(1, 2)


class MambaBlock(nn.Module):
    """x + DropPath(norm_out(Mamba(norm_in(x)))) on (B, L, dim)."""

    def __init__(
        self,
        dim: int,
        drop_path: float,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        scan: ScanBackend = "auto",
    ) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mamba = Mamba(dim, d_state, d_conv, expand, scan)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        branch: Tensor = self.drop_path(self.norm_out(self.mamba(self.norm_in(x))))
        return x + branch


def drop_path_rates(blocks: int, last: float) -> list[float]:
    """The authors' schedule: 0, then linspace(0, last, blocks) without its end."""
    return [0.0, *torch.linspace(0, last, blocks, dtype=torch.float64).tolist()][:blocks]


def initialise(network: nn.Module, init: Init, depth: int) -> None:
    """Re-draw the weights of a network of Mamba blocks; convolutions and batch norms keep torch's.

    "authors": every linear weight normal with std 0.02 and every linear bias 0, so the step bias of
    each Mamba too; out_proj uniform within 0.5 / sqrt(inner width). "mamba": the block's own rule,
    steps log-uniform in [0.001, 0.1], out_proj divided by sqrt(depth).
    """
    if init == "authors":
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=AUTHORS_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    for module in network.modules():
        if not isinstance(module, Mamba):
            continue
        nn.init.kaiming_uniform_(module.out_proj.weight, a=math.sqrt(5))
        scale = AUTHORS_OUT_SCALE if init == "authors" else math.sqrt(depth)
        with torch.no_grad():
            module.out_proj.weight /= scale
            if init == "mamba":
                _initialise_steps(module)


def _initialise_steps(module: Mamba) -> None:
    bound = module.dt_rank**-0.5
    nn.init.uniform_(module.dt_proj.weight, -bound, bound)
    low, high = math.log(DT_MIN), math.log(DT_MAX)
    dt = torch.exp(torch.rand_like(module.dt_proj.bias) * (high - low) + low).clamp(min=DT_FLOOR)
    # The inverse of softplus, so that softplus(bias) is dt.
    module.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
