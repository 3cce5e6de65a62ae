"""The Triton kernels, through Triton's interpreter on the CPU, or on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import ApexflowError, InputError
from data.optical_flow import tvl1
from tests.fakes.flow_pairs import distance, make_pair

HAS_TRITON = importlib.util.find_spec("triton") is not None

INTERPRETED = """
import numpy as np
import torch
from data.optical_flow import triton_backend, tvl1
from tests.fakes.flow_pairs import distance, make_pair

i0, i1, truth = make_pair(56, 1)
cut = (slice(16, 39), slice(12, 36))
first, second = np.stack([i0[cut], i1[cut]]), np.stack([i1[cut], i0[cut]])
for settings in (
    dict(levels=2, warps=2, inner=4, outer=2, eps=0.0),
    dict(levels=1, warps=1, inner=4, outer=2, eps=0.02, median=3, init=True),
    dict(levels=1, warps=2, inner=6, outer=2, eps=0.05, median=1),
):
    start = np.stack([truth[cut], -truth[cut]]) if settings.pop("init", False) else None
    flow, info = tvl1(first, second, backend="triton", init=start, return_info=True, **settings)
    plain, told = tvl1(first, second, backend="torch", init=start, return_info=True, **settings)
    assert np.array_equal(info.steps, told.steps), (info.steps, told.steps)
    assert np.allclose(info.error, told.error, atol=1e-5)
    assert distance(flow, plain).max() < 1e-3, distance(flow, plain).max()
    assert distance(flow, plain).mean() < 2e-5
one = tvl1(first[0], second, backend="triton", **settings)
assert one[0].tobytes() == flow[0].tobytes()
turned = torch.from_numpy(first[0].T.copy()).T  # the same pixels, columns first in memory
one = tvl1(turned, torch.from_numpy(second), backend="triton", **settings).numpy()
assert one[0].tobytes() == flow[0].tobytes()
alone = tvl1(first[1], second[1], backend="triton", **settings)
assert alone.tobytes() == flow[1].tobytes()
# Several tiles in both directions; with eps 0.12 the last step falls inside a block, which
# is done again.
large = i0[:49, :41], i1[:49, :41]
triton_backend.choose_tiling = lambda h, w: triton_backend.Tiling(4, 4, 2, 2)
for eps, median in ((0.12, 1), (0.0, 5)):
    same = dict(levels=1, warps=1, inner=7, outer=2, eps=eps, median=median, return_info=True)
    tiled, info = tvl1(*large, backend="triton", **same)
    plain, told = tvl1(*large, backend="torch", **same)
    assert info.steps[0, 0] == told.steps[0, 0] == (14 if eps == 0 else 6), (info, told)
    assert np.allclose(info.error, told.error, atol=1e-6)
    assert distance(tiled, plain).max() < 1e-4, distance(tiled, plain).max()
# However the image is cut, a step computes the same.
triton_backend.choose_tiling = lambda h, w: triton_backend.Tiling(5, 3, 2, 2)
assert tvl1(*large, backend="triton", **same)[0].tobytes() == tiled.tobytes()
print("agrees")
"""


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed (extra kernels)")
@pytest.mark.parametrize("size", [(3, 3), (16, 200), (53, 53), (92, 131), (224, 224), (1000, 40)])
def test_tiles_cover_a_level_and_overlap_by_what_the_steps_spoil(size: tuple[int, int]) -> None:
    from data.optical_flow.triton_backend import COLUMNS, SLOTS, STRIPS, choose_tiling

    cut = choose_tiling(*size)
    assert cut.ahead <= SLOTS
    sides = ((size[0], cut.down, STRIPS * cut.rows), (size[1], cut.across, COLUMNS))
    for length, count, tile in sides:
        stride, end = tile - 2 * cut.ahead, 0
        for number in range(count):  # as the kernel places them
            start = min(number * stride, max(length - tile, 0))
            first = number * stride + cut.ahead if number else 0
            last = (number + 1) * stride + cut.ahead if number < count - 1 else length
            assert first == end and last > first
            assert start == 0 or first - start >= cut.ahead
            assert start + tile >= length or start + tile - last >= cut.ahead
            assert start + tile >= last
            end = last
        assert end == length


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed (extra kernels)")
def test_interpreted_kernels_agree_with_the_plain_backend() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "agrees", done.stderr[-2000:]


def test_without_triton_or_gpu_the_error_says_what_to_do() -> None:
    images = np.zeros((2, 16, 16), np.uint8)
    if HAS_TRITON and os.environ.get("TRITON_INTERPRET") != "1":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has both")
        with pytest.raises(InputError, match="CUDA device"):
            tvl1(*images, backend="triton")
    elif not HAS_TRITON:
        with pytest.raises(ApexflowError, match="triton") as caught:
            tvl1(*images, backend="triton")
        assert "numba" in str(caught.value)


def test_memory_that_torch_keeps_for_itself_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from data.optical_flow.torch_backend import BYTES_PER_PIXEL, _chunk_pixels

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 20, 1 << 34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 33)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 32)
    expected = ((1 << 20) + (1 << 32)) // BYTES_PER_PIXEL
    assert _chunk_pixels(torch.device("cuda"), "triton") == expected


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_on_a_gpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from data.optical_flow import torch_backend

    pairs = [make_pair(128, number)[:2] for number in range(4)]
    i0, i1 = (torch.from_numpy(np.stack(images)).cuda() for images in zip(*pairs, strict=True))
    flow = tvl1(i0, i1, backend=backend)
    assert flow.device.type == "cuda"
    peer = tvl1(i0.cpu().numpy(), i1.cpu().numpy(), backend="numba")
    gap = distance(flow.cpu().numpy(), peer).mean((1, 2))
    assert gap.mean() <= 0.02
    assert gap.max() <= 0.03
    again = tvl1(i0[1:3], i1[1:3], backend=backend)
    assert torch.equal(again, flow[1:3])
    monkeypatch.setitem(torch_backend.CHUNK_PIXELS, "triton", 128 * 128)
    monkeypatch.setitem(torch_backend.CHUNK_PIXELS, "cuda", 128 * 128)
    fetched, info = tvl1(i0.cpu().numpy(), i1.cpu().numpy(), backend=backend, return_info=True)
    assert fetched.tobytes() == flow.cpu().numpy().tobytes()  # a pair a chunk, fetched beside
    assert info.steps is not None
    assert (info.steps > 0).all()
    fixed = {"levels": 1, "warps": 1, "outer": 1, "median": 1, "eps": 0.0}
    sharp = tvl1(i0, i1, backend=backend, **fixed).cpu().numpy()
    expected = tvl1(i0.cpu().numpy(), i1.cpu().numpy(), backend="numba", **fixed)
    assert distance(sharp, expected).max() <= 1e-5
