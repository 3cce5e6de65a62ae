"""A small HSTA and a quick training, for the tests that train."""

from __future__ import annotations

from models.hsta.network import HstaConfig
from models.hsta.training import HstaTrainConfig

SMALL = HstaConfig(
    image_size=16,
    num_frames=2,
    num_classes=2,
    patch_size=8,
    embed_dim=(16, 16),
    num_heads=2,
    depth=(1, 1, 0),
    num_groups=1,
    mlp_ratio=2,
    dropout=0.1,
    drop_path=0.1,
)
QUICK = HstaTrainConfig(
    epochs=6, batch_size=8, base_lr=0.05, warmup_epochs=1, resume_every=1, precision="fp32"
)
