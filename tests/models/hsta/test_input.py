"""HSTA's input on arrays: sampling rules, annotation repair, clips, augmentation, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import InputError
from models.hsta.clips import ClipBank, draw_batch, to_clip
from models.hsta.input import (
    BLACK,
    PIXEL_MEAN,
    PIXEL_STD,
    HstaInputConfig,
    apply_changes,
    draw_changes,
    normalise_frames,
    repair_interval,
    resize_crops,
    sample_frame_indices,
    span_indices,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((3, 7, 11), (3, 7, 11)),
        ((5, 2, 11), (5, 5, 11)),  # apex before onset
        ((5, 7, 2), (5, 5, 5)),  # offset before onset, then apex after offset
        ((5, 40, 12), (5, 8, 12)),  # apex after offset: the middle
    ],
)
def test_repair(given, expected):
    assert repair_interval(*given) == expected


def test_span_is_51_frames_at_most_and_inside_the_video():
    assert span_indices(10, 20, 100).tolist() == list(range(10, 21))
    assert span_indices(10, 400, 1000).tolist() == list(range(10, 61))
    assert span_indices(10, 20, 15).tolist() == list(range(10, 15))


def test_even_sampling_is_rounded_linspace():
    available = np.arange(100, 122)
    assert sample_frame_indices(available, 6).tolist() == [100, 104, 108, 113, 117, 121]
    for n in range(1, 60):
        for count in range(1, 9):
            chosen = sample_frame_indices(np.arange(n), count)
            assert len(chosen) == count and (np.diff(chosen) >= (1 if n >= count else 0)).all()


def test_random_sampling_is_sorted_distinct_and_covers_all():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        chosen = sample_frame_indices(np.arange(50, 60), 4, rng=rng)
        assert (np.diff(chosen) > 0).all()
        seen |= set(chosen.tolist())
    assert seen == set(range(50, 60))


@pytest.mark.parametrize(
    ("n", "count", "expected"),
    [
        (4, 6, [0, 0, 1, 2, 3, 3]),
        (3, 6, [0, 0, 1, 2, 2, 2]),  # odd shortage: one more last copy
        (1, 6, [0, 0, 0, 0, 0, 0]),
        (5, 6, [0, 1, 2, 3, 4, 4]),
        (0, 2, [BLACK, BLACK]),
    ],
)
def test_padding_of_short_clips(n, count, expected):
    rng = np.random.default_rng(0)
    assert sample_frame_indices(np.arange(n), count).tolist() == expected
    assert sample_frame_indices(np.arange(n), count, rng=rng).tolist() == expected


def test_padding_with_black_frames():
    chosen = sample_frame_indices(np.arange(3), 5, padding="zeros")
    assert chosen.tolist() == [0, 1, 2, BLACK, BLACK]


def test_resizing_averages_and_keeps_means():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, 64, 64), dtype=np.uint8)
    small = resize_crops(crops, 16, 1)
    assert small.shape == (2, 16, 16, 1)
    assert abs(small.mean() - crops.mean()) < 2 and small.std() < 0.4 * crops.std()
    assert np.array_equal(resize_crops(crops, 64, 3)[..., 1], crops)
    with pytest.raises(InputError):
        resize_crops(crops[0], 16, 1)


def bank(num_events=5, side=8, flow=False, length=7, seed=0):
    rng = np.random.default_rng(seed)
    frames = np.repeat(np.arange(num_events * (length + 2), dtype=np.uint8), side * side)
    return ClipBank(
        frames=frames.reshape(-1, side, side, 1),
        start=np.arange(num_events) * (length + 2),
        count=np.full(num_events, length),
        special=rng.normal(size=(num_events, 2, 3, side, side)).astype(np.float32)
        if flow
        else None,
        names=tuple(f"d:e{i}" for i in range(num_events)),
        labels=np.arange(num_events) % 2,
    )


def test_batch_rows_come_from_their_events():
    config = HstaInputConfig()
    batch = draw_batch(bank(), [2, 4], 4, config, np.random.default_rng(1))
    values = batch.frames[:, :, 0, 0, 0].tolist()
    for event, row in zip([2, 4], values, strict=True):
        assert all(event * 9 <= v < event * 9 + 7 for v in row[:4])
        assert row[4:] == [event * 9 + 7, event * 9 + 8]
    assert batch.names == ("d:e2", "d:e4") and batch.labels.tolist() == [0, 0]
    clip = to_clip(batch, torch.device("cpu"), (1, 1, 1, 1, 1))
    assert clip.shape == (2, 3, 6, 8, 8)


def test_flow_fills_the_special_slots_scaled():
    flows, config = bank(flow=True), HstaInputConfig()
    scale = flows.scale([0, 1, 2])
    expected = np.sqrt((flows.special[:3].astype(float) ** 2).mean((0, 1, 3, 4)))
    assert scale[:3] == pytest.approx(expected.tolist())
    clip = to_clip(draw_batch(flows, [3], 4, config, None), torch.device("cpu"), scale)
    assert clip.shape == (1, 3, 6, 8, 8)
    for channel in range(3):
        field = flows.special[3, 1, channel] / scale[channel]
        torch.testing.assert_close(clip[0, channel, 5], torch.from_numpy(field).float())
    assert bank().scale([0])[:3] == (1, 1, 1)


@pytest.mark.parametrize("flow", [False, True])
def test_change_is_against_the_onset_and_scaled(flow):
    clips, config = bank(flow=flow), HstaInputConfig(pixels="change")
    scale = clips.scale([1, 2])
    # Frames of event e are 9e .. 9e+6, its onset 9e+7: differences -7 .. -1 of 255.
    assert scale[3] == pytest.approx(np.sqrt(np.mean(np.arange(1, 8) ** 2)) / 255)
    batch = draw_batch(clips, [2], 4, config, None)
    clip = to_clip(batch, torch.device("cpu"), scale)
    expected = torch.tensor([-7, -5, -3, -1]) / 255 / scale[3]
    torch.testing.assert_close(clip[0, 1, :4, 0, 0], expected)
    if not flow:
        onset = normalise_frames(batch.frames[:, 4:5].float() / 255)
        torch.testing.assert_close(clip[:, :, 4:5], onset)
        assert clip[0, 2, 5, 3, 3].item() == pytest.approx(1 / 255 / scale[3])


def test_mirror_reverses_columns_and_u():
    frames, special = torch.rand(2, 3, 8, 8, 1), torch.randn(2, 3, 2, 8, 8)
    change = torch.tensor([[-1.0, 0, 0, 1, 1, 0, 1], [1.0, 0, 0, 1, 1, 0, 2]])
    moved, fields = apply_changes(frames, special, change)
    torch.testing.assert_close(moved[0], frames[0].flip(2))
    torch.testing.assert_close(moved[1], frames[1])
    sign = torch.tensor([-1.0, 1, 1]).view(3, 1, 1, 1)
    torch.testing.assert_close(fields[0], special[0].flip(3) * sign)
    torch.testing.assert_close(fields[1], 2 * special[1])  # amplitude


def test_augmentation_is_one_change_per_clip_within_bounds():
    config = HstaInputConfig(augment=True, mirror=0.5)
    change = draw_changes(500, config, np.random.default_rng(0))
    assert set(change[:, 0]) == {-1.0, 1.0}
    assert np.abs(change[:, 1:3]).max() <= 2 * config.max_shift
    assert np.abs(change[:, 3] - 1).max() <= config.max_scale + 1e-6
    frames = torch.rand(1, 1, 8, 8, 1).expand(3, 5, 8, 8, 1)
    moved, none = apply_changes(frames, None, torch.from_numpy(change[:3]))
    assert none is None and (moved == moved[:, :1]).all()
    assert not torch.equal(moved[0], moved[1])
    same = [
        draw_batch(bank(), [0, 1], 4, config, np.random.default_rng(7), augment=True).change
        for _ in range(2)
    ]
    assert torch.equal(same[0], same[1])
    assert draw_batch(bank(), [0], 4, config, None, augment=True).change is None


def test_normalise_matches_the_published_statistics():
    frames = torch.full((1, 1, 2, 2, 3), 0.5)
    values = normalise_frames(frames)[0, :, 0, 0, 0]
    torch.testing.assert_close(values, (0.5 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD))
