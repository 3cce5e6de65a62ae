"""tvl1's settings, its choice of backend, and where its compiled kernels are kept."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from data.errors import ConfigError, InputError
from data.optical_flow import (
    PRESETS,
    cache_folder,
    choose_backend,
    make_settings,
    tvl1,
    tvl1_sequence,
)
from tests.fakes.flow_pairs import make_pair

QUICK = {"levels": 2, "warps": 2, "inner": 6, "outer": 1}
BACKENDS = ("numba", "torch", "opencv")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    first, second, _ = make_pair(48, 1)
    return first, second


# --- settings and backends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"preset": "quick"},
        {"preset": ["fast"]},
        {"levels": 65},
        {"theta": 1e300},
        {"backend": "cuda"},
        {"lam": 0.0},
        {"theta": -1.0},
        {"tau": float("nan")},
        {"levels": 0},
        {"levels": 2.5},
        {"step": 1.0},
        {"warps": True},
        {"eps": -0.1},
        {"median": 4},
        {"inner": 0},
        {"threads": 0},
    ],
)
def test_bad_settings_raise(setting: dict, pair: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ConfigError) as caught:
        tvl1(*pair, **setting)
    assert next(iter(setting)) in str(caught.value)


def test_settings_may_be_numpy_numbers_and_unknown_ones_are_named() -> None:
    changes = {"levels": np.int64(3), "lam": np.float32(0.25), "eps": np.float64(0)}
    assert make_settings("opencv", **changes) == make_settings("opencv", levels=3, lam=0.25, eps=0)
    with pytest.raises(ConfigError, match="from 1 to 64"):
        make_settings("opencv", levels=65)
    with pytest.raises(ConfigError, match="lamda"):
        tvl1_sequence(np.zeros((2, 9, 9), np.uint8), lamda=0.2)


def test_settings_names_and_presets() -> None:
    assert make_settings("opencv") == PRESETS["opencv"]
    assert make_settings("fast", warps=7).warps == 7
    assert PRESETS["opencv"].level_sizes(128, 128) == [
        (128, 128), (102, 102), (82, 82), (66, 66), (53, 53),
    ]  # fmt: skip
    assert PRESETS["opencv"].level_sizes(19, 300) == [(19, 300)]
    assert PRESETS["opencv"].level_sizes(3, 3) == [(3, 3)]


def test_the_choice_of_backend_is_told(pair: tuple[np.ndarray, np.ndarray]) -> None:
    choice = choose_backend()
    assert choice.backend == "numba" and "main memory" in choice.why
    assert choose_backend("opencv").why == "asked for"
    assert choose_backend(device="cuda:0").backend in ("triton", "torch")
    flow, info = tvl1(*pair, return_info=True, **QUICK)
    assert (info.backend, info.why) == (choice.backend, choice.why)
    assert info.steps.shape == info.error.shape == (1, 2)
    assert info.steps.min() >= 1 and (info.error > 0).all()
    assert flow.shape == (48, 48, 2)


def test_tensors_give_tensors(pair: tuple[np.ndarray, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    i0, i1 = (torch.from_numpy(image) for image in pair)
    for backend in ("auto", "torch"):
        flow = tvl1(i0, i1, backend=backend, **QUICK)
        expected = tvl1(*pair, backend=backend, **QUICK)
        assert isinstance(flow, torch.Tensor)
        assert np.array_equal(flow.numpy(), expected)
        out = torch.empty((2, 48, 48, 2))
        assert tvl1(i0, torch.stack([i1, i0]), backend=backend, out=out, **QUICK) is out
        assert np.array_equal(out[0].numpy(), expected)
    with pytest.raises(InputError):
        tvl1(i0, i1.double())
    start = torch.zeros((48, 48, 2))
    for bad in (i0.float().to_sparse(), i0.float().to("meta")):
        with pytest.raises(InputError):
            tvl1(bad, bad, value_range=255, backend="torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a gradient is not asked about
        tvl1(i0.float().requires_grad_(), i1.float(), value_range=255, backend="torch", **QUICK)
    with pytest.raises(InputError, match="bfloat16"):
        tvl1(i0.bfloat16(), i1.bfloat16(), value_range=255)
    with pytest.raises(InputError, match="init"):
        tvl1(*pair, init=start)
    for wrong in ({"init": start.numpy()}, {"out": start.numpy()}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            tvl1(i0, i1, backend="torch", **wrong)
    clip = torch.stack([i0, i1]).float().requires_grad_()
    expected = tvl1(*pair, **QUICK)
    assert np.array_equal(tvl1_sequence(clip, value_range=255, **QUICK)[0], expected)


def test_kernels_use_whole_vectors() -> None:
    """The inner step works on the widest registers this processor has."""
    from data.optical_flow import numba_backend

    kernels = numba_backend.kernels()
    state = np.zeros((10, 512), np.float32)
    kernels.update_flow(state, 1, 2, 16, np.float32(0.1), np.float32(0.3))
    kernels.update_dual(state, 1, 2, 16, np.float32(0.8))
    lines = [
        line
        for kernel in (kernels.update_flow, kernels.update_dual)
        for line in kernel.inspect_asm(kernel.signatures[0]).splitlines()
    ]
    if not any("ymm" in line for line in lines):
        pytest.skip("a processor without AVX: vectors are made of smaller ones")
    register = "zmm" if kernels.LANES == 16 else "ymm"
    for instruction in ("vminps", "vmaxps", "vfmadd", "vsqrtps"):
        assert any(instruction in line and register in line for line in lines), instruction


def test_compiled_kernels_are_kept_where_they_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.optical_flow import numba_backend

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_folder().parent == tmp_path / "chosen"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder().parent == tmp_path / "home" / "apexflow"
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert numba_backend.usable_folder().is_dir()


def test_compiled_kernels_of_a_user_without_a_home_or_with_a_squatted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No home directory is not an error; compiled code that another user left is not run."""
    import pwd

    from data.optical_flow import numba_backend

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = numba_backend.usable_folder()
    assert folder == cache_folder() and folder.is_dir()
    assert folder.parent == tmp_path / f"apexflow-{os.getuid()}"
    owner = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: owner)
    (tmp_path / f"apexflow-{owner}").mkdir()
    assert numba_backend.usable_folder().parent.parent == tmp_path
    assert numba_backend.usable_folder().parent != tmp_path / f"apexflow-{owner}"


@pytest.mark.slow
def test_a_processor_without_half_precision_stores_the_same(tmp_path: Path) -> None:
    """Without F16C, compiled code that rounds to float16 would jump to address 0."""
    code = (
        "import numpy as np; from data.flow.stage import quantise;"
        "f = np.random.default_rng(0).normal(0, 2, (1, 20, 20, 2)).astype(np.float32);"
        "half, _, loss, _ = quantise(f, 'float16');"
        "assert (half == f.astype(np.float16)).all() and loss == np.abs(half - f).max();"
    )
    settings = {"NUMBA_CPU_NAME": "sandybridge", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, **settings, "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_numba_without_its_compiler_is_told() -> None:
    code = (
        "import numpy as np; from data.optical_flow import ConfigError, tvl1\n"
        "try: tvl1(*np.zeros((2, 9, 9), np.uint8))\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[3], env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    assert "NUMBA_DISABLE_JIT" in done.stdout


def test_importing_starts_nothing() -> None:
    code = (
        "import sys, data.optical_flow, data.flow.strain, data.flow.stage;"
        "print([m for m in ('numba', 'torch', 'triton', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
