"""Frames as motion from the onset (`pixels: motion`) and scores averaged over mirror images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from data.errors import TrainingError
from models.fitting import save_weights
from models.hsta.clips import ClipBank, draw_batch, to_clip
from models.hsta.fold import load_fold
from models.hsta.input import FLAT, MIRROR, HstaInputConfig, apply_changes, motion_planes
from models.hsta.network import HstaConfig, create
from models.hsta.training import HstaTrainConfig, predict

CPU = torch.device("cpu")
SMALL = HstaConfig(
    image_size=16, num_frames=4, num_classes=3, patch_size=(4, 8), embed_dim=(16, 16),
    num_heads=(2, 2), depth=(1, 1, 0), num_groups=1, init="width",
)  # fmt: skip


def picture(side=48, seed=0):
    """A smooth picture with slopes well above FLAT, in 0 .. 1."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(noise, 3, mode="wrap")
    return (smooth - smooth.min()) / np.ptp(smooth)


def clip_of(*images):
    """(1, T, S, S, 1) float: the video frames, then onset and apex."""
    return torch.tensor(np.stack(images), dtype=torch.float32)[None, ..., None]


def test_a_ramp_that_moves_tells_its_shift():
    x = np.arange(48) / 48.0
    slope = 1 / 48.0
    still, right = np.tile(x, (48, 1)), np.tile(x - 0.3 * slope, (48, 1))  # 0.3 px to the right
    planes = motion_planes(clip_of(right, still, right.copy()))
    known = slope**2 / (slope**2 + FLAT)  # what FLAT leaves of it
    inner = planes[0, :, 0, 2:-2, 2:-2]
    assert inner[0].mean().item() == pytest.approx(0.3 * known, rel=1e-3)
    assert inner[1].abs().max() < 1e-6
    down = motion_planes(clip_of(right.T, still.T, right.T))[0, :, 0, 2:-2, 2:-2]
    torch.testing.assert_close(down[:2], inner[:2].flip(0).transpose(1, 2))


def test_shift_of_a_picture_along_its_slopes():
    still = picture()
    moved = ndimage.shift(still, (-0.2, 0.3), order=5, mode="grid-wrap")  # up 0.2, right 0.3
    planes = motion_planes(clip_of(moved, still, moved))[0, :, 0, 2:-2, 2:-2].numpy()
    slope_y, slope_x = (g[2:-2, 2:-2] for g in np.gradient((still + moved) / 2))
    square = slope_x**2 + slope_y**2
    steep = square > FLAT / 10
    along = planes[0] * slope_x + planes[1] * slope_y
    expected = (0.3 * slope_x - 0.2 * slope_y) * square / (square + FLAT)
    assert np.corrcoef(along[steep], expected[steep])[0, 1] > 0.99
    assert planes[0][steep].mean() > 0.05 and planes[1][steep].mean() < -0.05


def test_the_onset_moves_nowhere_and_colours_are_averaged():
    a, b = picture(seed=1), picture(seed=2)
    grey = clip_of(b, b, a, b)
    planes = motion_planes(grey)
    assert planes.shape == (1, 3, 4, 48, 48) and (planes[:, :, 2] == 0).all()
    torch.testing.assert_close(planes[0, 2, 0], torch.tensor(b - a, dtype=torch.float32))
    tinted = torch.cat([grey * 0.9, grey, grey * 1.1], dim=-1)
    torch.testing.assert_close(motion_planes(tinted), planes, rtol=0, atol=1e-4)


def test_a_mirror_image_moves_the_other_way():
    clip = clip_of(picture(seed=1), picture(seed=2), picture(seed=1))
    mirrored, _ = apply_changes(clip, None, torch.tensor([MIRROR]))
    torch.testing.assert_close(mirrored, clip.flip(3), rtol=0, atol=1e-5)
    sign = torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1, 1)
    expected = motion_planes(clip).flip(4) * sign
    torch.testing.assert_close(motion_planes(clip.flip(3)), expected)


def clips(num_events=6, side=16, length=5, seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_events * (length + 2), side, side, 1)).astype(np.uint8)
    return ClipBank(
        frames=frames,
        start=np.arange(num_events) * (length + 2),
        count=np.full(num_events, length),
        special=rng.normal(size=(num_events, 2, 3, side, side)).astype(np.float32),
        names=tuple(f"d:e{i}" for i in range(num_events)),
        labels=np.arange(num_events) % 3,
    )


def test_the_network_reads_motion_over_the_training_sides_scale():
    bank, config = clips(), HstaInputConfig(pixels="motion")
    scale = bank.scale([0, 1], "motion")
    frames = torch.from_numpy(bank.frames[:14].reshape(2, 7, 16, 16, 1)) / 255.0
    shifts = motion_planes(frames)[:, :2, :-2]
    assert scale[4] == pytest.approx(float(shifts.square().mean().sqrt()), rel=1e-5)
    assert bank.scale([0, 1])[4] == 1 and bank.scale([0, 1])[:4] == scale[:4]
    batch = draw_batch(bank, [1], 4, config, None)
    clip = to_clip(batch, CPU, scale)
    planes = motion_planes(batch.frames.float() / 255)
    torch.testing.assert_close(clip[:, :2, :4], planes[:, :2, :4] / scale[4])
    torch.testing.assert_close(clip[:, 2, :4], planes[:, 2, :4] / scale[3])
    torch.testing.assert_close(clip[:, 0, 4:], batch.special[:, :, 0] / scale[0])  # flow stays
    batch.special, batch.change = None, torch.tensor([[1.0, 0, 0, 1, 1, 0, 2]])
    stronger = to_clip(batch, CPU, scale)
    torch.testing.assert_close(stronger[:, :, :4], 2 * clip[:, :, :4], rtol=1e-3, atol=1e-3)


def test_black_padding_is_no_motion():
    with pytest.raises(ValidationError, match="padding zeros"):
        HstaInputConfig(pixels="motion", padding="zeros")
    assert HstaInputConfig(padding="zeros").padding == "zeros"


def test_mirrored_evaluation_takes_a_clip_and_its_mirror_image_for_one():
    bank = clips()
    turned = ClipBank(
        np.ascontiguousarray(bank.frames[:, :, ::-1]), bank.start, bank.count,
        bank.special[..., ::-1] * np.array([-1, 1, 1], np.float32)[:, None, None],
        bank.names, bank.labels,
    )  # fmt: skip
    torch.manual_seed(0)
    model = create(SMALL.model_copy(update={"special": "flow"}))
    facts = {"seed": 0, "device": CPU, "scale": bank.scale(range(6))}
    plain = HstaTrainConfig(precision="fp32", batch_size=4)
    both = plain.model_copy(update={"input": HstaInputConfig(test_mirror=True)})
    one, other = (predict(model, b, range(6), plain, **facts) for b in (bank, turned))
    assert np.abs(one - other).max() > 1e-3
    one_both, other_both = (predict(model, b, range(6), both, **facts) for b in (bank, turned))
    np.testing.assert_allclose(one_both, other_both, atol=1e-5)
    mean = np.sqrt(one * other)  # the mean of logits
    np.testing.assert_allclose(one_both, mean / mean.sum(1, keepdims=True), atol=1e-5)


def test_folds_of_before_are_still_read(tmp_path):
    model = create(SMALL)
    save_weights(model, tmp_path / "weights.safetensors")
    facts = {
        "model": SMALL.model_dump(mode="json"),
        "train": HstaTrainConfig().model_dump(mode="json"),
        "classes": ["a", "b", "c"],
        "input_scale": [1.0, 2.0, 3.0, 4.0],
        "seed": 0,
    }
    (tmp_path / "model.json").write_text(json.dumps(facts))
    assert load_fold(tmp_path).scale == (1.0, 2.0, 3.0, 4.0, 1.0)
    for damage in ({"input_scale": None}, {"input_scale": [1.0]}, {"classes": None}):
        (tmp_path / "model.json").write_text(json.dumps({**facts, **damage}))
        with pytest.raises(TrainingError, match="side file"):
            load_fold(tmp_path)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_levelled_flow_keeps_its_shape_and_narrows_amplitudes(power):
    bank = clips()
    bank.special[0] *= 4
    bank.special[1] *= 0.25
    scale = bank.scale(range(6))
    plain, level = (
        to_clip(draw_batch(bank, range(6), 4, HstaInputConfig(level=p), None), CPU, scale)[:, :, 4:]
        for p in (0.0, power)
    )
    rms = plain[:, :2].square().mean(dim=(1, 2, 3, 4)).sqrt()
    levelled = level[:, :2].square().mean(dim=(1, 2, 3, 4)).sqrt()
    torch.testing.assert_close(levelled, rms ** (1 - power))
    factor = level / plain  # one number a clip, for flow and strain alike
    torch.testing.assert_close(factor, factor[:, :1, :1, :1, :1].expand_as(factor))
    still = bank.special[2] * 0
    bank.special[2] = still
    quiet = to_clip(draw_batch(bank, [2], 4, HstaInputConfig(level=power), None), CPU, scale)
    assert torch.isfinite(quiet).all() and (quiet[:, :, 4:] == 0).all()
