"""What tvl1 accepts and refuses, and that it keeps no state: one test for each known pitfall."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from data.optical_flow import (
    tvl1,
    tvl1_sequence,
)
from tests.fakes.flow_pairs import distance, make_pair

QUICK = {"levels": 2, "warps": 2, "inner": 6, "outer": 1}
BACKENDS = ("numba", "torch", "opencv")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    first, second, _ = make_pair(48, 1)
    return first, second


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_shapes(backend: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    i0, i1 = pair
    single = tvl1(i0, i1, backend=backend, **QUICK)
    assert single.shape == (48, 48, 2) and single.dtype == np.float32
    both = tvl1(np.stack([i0, i1]), np.stack([i1, i0]), backend=backend, **QUICK)
    assert both.shape == (2, 48, 48, 2)
    assert np.array_equal(both[0], single)
    clip = tvl1(i0, np.stack([i1, i0, i1]), backend=backend, **QUICK)
    assert np.array_equal(clip[0], single) and np.array_equal(clip[2], single)
    assert not clip[1].any()
    assert tvl1(i0, np.empty((0, 48, 48), np.uint8), backend=backend).shape == (0, 48, 48, 2)


def test_wrong_shapes_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    i0, i1 = pair
    colour = np.repeat(i0[..., None], 3, axis=-1)
    for first, second in (
        (i0, i1[:-1]),
        (np.stack([i0, i0]), i1),
        (np.stack([i0, i0]), np.stack([i1] * 3)),
        (colour, colour),
        (i0[0], i1[0]),
        (i0[:2], i1[:2]),
        (i0[None, None], i1[None, None]),
    ):
        with pytest.raises(InputError):
            tvl1(first, second)


def test_wrong_types_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    i0, i1 = pair
    for first, second in (
        (i0.astype(np.float64), i1.astype(np.float64)),
        (i0.astype(np.int32), i1.astype(np.int32)),
        (i0.tolist(), i1.tolist()),
        (i0, i1.astype(np.float32)),
    ):
        with pytest.raises(InputError):
            tvl1(first, second, value_range=255 if first is i0 else None)


def test_masked_arrays_are_refused_and_stored_ones_read(
    tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    """A mask hides NaN from the check; HDF5 datasets are neither views nor have a minimum."""
    import h5py

    floats = [image.astype(np.float32) for image in pair]
    holed = floats[0].copy()
    holed[3, 4] = np.nan
    for bad in (np.ma.masked_invalid(holed), np.ma.masked_array(floats[0])):
        with pytest.raises(InputError, match="mask"):
            tvl1(bad, floats[1], value_range=255)
        with pytest.raises(InputError, match="mask"):
            tvl1(floats[0], floats[1], value_range=255, init=np.ma.zeros((48, 48, 2), np.float32))
    expected = tvl1(*floats, value_range=255, **QUICK)
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        for name, image in zip("ab", floats, strict=True):
            file[name] = image
        assert np.array_equal(tvl1(file["a"], file["b"], value_range=255, **QUICK), expected)


# --- value range ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_ranges_equal_uint8(backend: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    if backend == "opencv":
        pytest.importorskip("cv2.optflow", reason="cv2.optflow is not in this OpenCV wheel")
    i0, i1 = pair
    expected = tvl1(i0, i1, backend=backend, **QUICK)
    f0, f1 = i0.astype(np.float32), i1.astype(np.float32)
    for gain, value_range in ((1, 255), (255, 1)):
        flow = tvl1(f0 / gain, f1 / gain, value_range=value_range, backend=backend, **QUICK)
        assert distance(flow, expected).mean() <= 1e-4


def test_range_mix_ups_raise(pair: tuple[np.ndarray, np.ndarray]) -> None:
    f0, f1 = (image.astype(np.float32) for image in pair)
    bad = [
        (f0, f1, None),  # not said
        (f0, f1, 1),  # said wrong: OpenCV would silently scale to 0–65025
        (f0 / 255, f1 / 255, 255),
        (f0 / 255, f1, 255),
        (f0, f1 / 255, 255),
        (f0, f1, np.array([255, 255])),
        (f0, f1, 100),
        (f0, f1, True),
        (f0 * 257, f1 * 257, 255),
        (f0 - 255, f1, 255),
    ]
    for first, second, value_range in bad:
        with pytest.raises(InputError, match="value_range"):
            tvl1(first, second, value_range=value_range)
    for first, second, value_range in (*bad[:3], *bad[6:]):
        with pytest.raises(InputError, match="value_range"):
            tvl1_sequence(np.stack([first, second]), value_range=value_range)
    with pytest.raises(InputError, match="value_range"):
        tvl1(*pair, value_range=1)
    tvl1(*pair, value_range=255, **QUICK)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_non_finite_pixels_raise(
    value: float, which: int, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    images = [image.astype(np.float32) for image in pair]
    images[which][3, 4] = value
    with pytest.raises(InputError) as caught:
        tvl1(*images, value_range=255)
    assert caught.value.code == "not_finite"


def test_non_finite_or_misshapen_initial_flow_raises(pair: tuple[np.ndarray, np.ndarray]) -> None:
    start = np.zeros((48, 48, 2), np.float32)
    with pytest.raises(InputError, match="init"):
        tvl1(*pair, init=start[:-1])
    with pytest.raises(InputError, match="init"):
        tvl1(*pair, init=start.astype(int))
    start[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="init"):
        tvl1(*pair, init=start)
    with pytest.raises(InputError, match="finite in float32"):
        tvl1(*pair, init=np.full((48, 48, 2), 1e300))


# --- degenerate images ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_identical_or_constant_images_give_exactly_zero(
    backend: str, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    flat = np.full((33, 20), 77, np.uint8)
    for first, second in ((pair[0], pair[0]), (flat, flat), (flat, flat + 40)):
        flow, info = tvl1(first, second, backend=backend, return_info=True)
        assert not flow.any()
        assert info.steps.max() <= 5 and not info.error.any()


@pytest.mark.parametrize("shape", [(3, 3), (3, 64), (4, 5), (15, 15), (16, 16), (17, 3), (53, 61)])
def test_any_size_from_three_pixels(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (2, 2, *shape), dtype=np.uint8)
    flow = tvl1(*images)
    assert flow.shape == (2, *shape, 2)
    assert np.isfinite(flow).all()
    assert flow.any()


def test_brightness_change_spoils_and_joint_normalisation_repairs() -> None:
    """A darker second frame breaks the data term; the same mean and spread for both repair it."""
    i0, i1, truth = make_pair(64, 0)
    darker = (i1 * 0.8).astype(np.float32)
    first = i0.astype(np.float32)
    repaired = (darker - darker.mean()) * (first.std() / darker.std()) + first.mean()
    plain = distance(tvl1(i0, i1), truth).mean()
    spoiled = distance(tvl1(first, darker, value_range=255), truth).mean()
    better = distance(tvl1(first, repaired, value_range=255), truth).mean()
    assert spoiled > 1.5 * plain
    assert better < 1.2 * plain


def test_content_leaving_the_frame_spoils_only_a_rim() -> None:
    i1 = make_pair(96, 1, noise=0)[1]
    i0, second = i1[:, :-6], i1[:, 6:]  # the camera moves 6 px right: content moves 6 px left
    flow = tvl1(np.ascontiguousarray(i0), np.ascontiguousarray(second))
    assert np.isfinite(flow).all()
    assert abs(np.median(flow[10:-10, 16:-16, 0]) + 6) < 0.1


# --- no state, no order, no threads in the result -------------------------------------------------


def test_a_small_image_in_between_changes_nothing() -> None:
    """OpenCV's object forgets levels after one small image."""
    i0, i1, _ = make_pair(64, 0)
    before = tvl1(i0, i1, threads=1)
    tvl1(i0[:19, :19].copy(), i1[:19, :19].copy(), threads=1)
    assert np.array_equal(tvl1(i0, i1, threads=1), before)


def test_same_bytes_for_any_threads_and_batch_split() -> None:
    pairs = [make_pair(52, number)[:2] for number in range(5)]
    i0, i1 = (np.stack(images) for images in zip(*pairs, strict=True))
    whole = tvl1(i0, i1, threads=1)
    for threads in (2, 3, 8):
        assert tvl1(i0, i1, threads=threads).tobytes() == whole.tobytes()
    split = np.concatenate([tvl1(i0[a:b], i1[a:b]) for a, b in ((0, 1), (1, 4), (4, 5))])
    assert split.tobytes() == whole.tobytes()
    assert tvl1(i0[2], i1[2]).tobytes() == whole[2].tobytes()
    reference = tvl1(i0[0], i1, threads=2)
    assert reference.tobytes() == tvl1(np.stack([i0[0]] * 5), i1, threads=1).tobytes()


def test_plain_backend_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from data.optical_flow import torch_backend

    pairs = [make_pair(40, number)[:2] for number in range(3)]
    i0, i1 = (np.stack(images) for images in zip(*pairs, strict=True))
    whole, told = tvl1(i0, i1, backend="torch", return_info=True, **QUICK)
    assert tvl1(i0[1], i1[1], backend="torch", **QUICK).tobytes() == whole[1].tobytes()
    monkeypatch.setitem(torch_backend.CHUNK_PIXELS, "cpu", 2 * i0[0].size)
    chunks, info = tvl1(i0, i1, backend="torch", return_info=True, **QUICK)
    assert chunks.tobytes() == whole.tobytes()
    assert np.array_equal(info.steps, told.steps)
    assert np.array_equal(info.error, told.error)


def test_calls_from_several_threads_at_once() -> None:
    pairs = [make_pair(44, number)[:2] for number in range(4)]
    expected = [tvl1(*p, threads=1) for p in pairs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: tvl1(*p, threads=1), pairs * 3))
    assert all(np.array_equal(f, e) for f, e in zip(found, expected * 3, strict=True))


def test_inputs_are_not_changed_and_views_work(pair: tuple[np.ndarray, np.ndarray]) -> None:
    wide = [np.repeat(image, 2, axis=1) for image in pair]
    views = [image[:, ::2] for image in wide]
    assert np.array_equal(tvl1(*views, **QUICK), tvl1(*pair, **QUICK))
    kept = [image.copy() for image in pair]
    tvl1(*pair, **QUICK)
    assert all(np.array_equal(a, b) for a, b in zip(kept, pair, strict=True))


def test_out_is_filled_and_checked(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = tvl1(*pair, **QUICK)
    out = np.full((48, 48, 2), np.nan, np.float32)
    assert tvl1(*pair, out=out, **QUICK) is out
    assert np.array_equal(out, expected)
    out[:] = expected  # an array may be both start and target
    tvl1(*pair, init=out, out=out, **QUICK)
    assert np.array_equal(out, tvl1(*pair, init=expected, **QUICK))
    read_only = np.zeros((48, 48, 2), np.float32)
    read_only.flags.writeable = False
    for bad in (
        np.zeros((48, 48, 2)),
        np.zeros((48, 47, 2), np.float32),
        np.zeros((2, 48, 48), np.float32).transpose(1, 2, 0),
        read_only,
        [0.0],
    ):
        with pytest.raises(InputError, match="out"):
            tvl1(*pair, out=bad)


@pytest.mark.parametrize("threads", [1, 2])
def test_out_may_lie_in_the_memory_of_what_is_read(threads: int) -> None:
    """Pairs are written one by one, so a later one must not read what an earlier one wrote."""
    rng = np.random.default_rng(0)
    pairs = [make_pair(20, number)[:2] for number in range(6)]
    first, second = (np.stack(images).astype(np.float32) for images in zip(*pairs, strict=True))
    start = rng.normal(0, 1, (6, 20, 20, 2)).astype(np.float32)
    options = {"value_range": 255, "threads": threads, **QUICK}
    expected = tvl1(first, second, init=start, **options)
    memory = np.zeros((7, 20, 20, 2), np.float32)
    for source, target in ((memory[:-1], memory[1:]), (memory[1:], memory[:-1])):
        source[:] = start
        assert np.array_equal(tvl1(first, second, init=source, out=target, **options), expected)
    expected = tvl1(first, second, **options)
    images = memory.reshape(-1)[: second.size].reshape(second.shape)
    images[:] = second
    assert np.array_equal(tvl1(first, images, out=memory[:6], **options), expected)
    expected = tvl1_sequence(second, **options)
    images[:] = second
    assert np.array_equal(tvl1_sequence(images, out=memory[:5], **options), expected)


def test_tensors_whose_out_lies_in_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are fetched one behind: a chunk in between would be overwritten before it is read."""
    import torch

    from data.optical_flow import torch_backend

    pairs = [make_pair(20, number)[:2] for number in range(6)]
    first, second = (
        torch.from_numpy(np.stack(images).astype(np.float32)) for images in zip(*pairs, strict=True)
    )
    options = {"value_range": 255, "backend": "torch", **QUICK}
    expected = tvl1(first, second, **options)
    monkeypatch.setitem(torch_backend.CHUNK_PIXELS, "cpu", 20 * 20)
    memory = torch.zeros(6, 20, 20, 2)
    images = memory.view(-1)[: second.numel()].view(second.shape)
    images[:] = second
    assert torch.equal(tvl1(first, images, out=memory, **options), expected)
