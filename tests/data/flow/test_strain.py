"""Optical strain and derived channels against closed forms and the plain reference."""

from __future__ import annotations

import numpy as np
import pytest

from data.errors import ConfigError, InputError
from data.flow.strain import flow_channels, optical_strain, strain_tensor
from data.optical_flow.numba_backend import strain_and_half
from tests.references.strain import optical_strain_reference


def affine_field(matrix: np.ndarray, h: int = 9, w: int = 12) -> np.ndarray:
    """Displacement (H,W,2) = matrix @ (x, y)."""
    y, x = np.mgrid[:h, :w].astype(np.float64)
    return np.stack([x, y], -1) @ np.asarray(matrix, float).T


def test_strain_of_affine_fields() -> None:
    stretch = affine_field([[0.03, 0], [0, 0]])
    assert np.allclose(optical_strain(stretch), 0.03, atol=1e-6)
    shear = affine_field([[0, 0.04], [0, 0]])  # du/dy = 0.04: e_xy = 0.02, twice
    assert np.allclose(optical_strain(shear), 0.02 * np.sqrt(2), atol=1e-6)
    general = affine_field([[0.01, 0.02], [-0.05, 0.03]])
    xx, yy, xy = strain_tensor(general)
    assert np.allclose(xx, 0.01, atol=1e-6)
    assert np.allclose(yy, 0.03, atol=1e-6)
    assert np.allclose(xy, -0.015, atol=1e-6)


def test_shift_and_small_turn_have_no_strain() -> None:
    field = affine_field([[0, -0.01], [0.01, 0]]) + np.array([3.5, -2.25])
    assert np.allclose(optical_strain(field), 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (7, 3), (31, 40)])
def test_vectorised_equals_reference(shape: tuple[int, int]) -> None:
    field = np.random.default_rng(0).normal(0, 2, (*shape, 2)).astype(np.float32)
    assert np.allclose(optical_strain(field), optical_strain_reference(field), atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 7, 5), (2, 31, 40), (1, 64, 64)])
def test_compiled_strain_and_halves_equal_numpy(shape: tuple[int, ...]) -> None:
    fields = np.random.default_rng(3).normal(0, 4, (*shape, 2)).astype(np.float32)
    half, strain, loss = strain_and_half(fields)
    assert half.tobytes() == fields.astype(np.float16).tobytes()
    assert loss == np.abs(half.astype(np.float32) - fields).max()
    assert strain.dtype == np.float16
    assert np.allclose(strain, optical_strain(fields), rtol=1e-3, atol=1e-6)
    fields[0, 0, 0, 0] = 1e6  # beyond float16
    assert strain_and_half(fields)[2] == np.inf


def test_batches_and_inputs_are_left_alone() -> None:
    fields = np.random.default_rng(1).normal(size=(2, 3, 8, 9, 2)).astype(np.float32)
    kept = fields.copy()
    strain = optical_strain(fields)
    assert strain.shape == (2, 3, 8, 9)
    assert strain.dtype == np.float32
    assert np.array_equal(strain[1, 2], optical_strain(fields[1, 2]))
    assert np.array_equal(fields, kept)


def test_channels_and_their_normalisations() -> None:
    fields = np.random.default_rng(2).normal(size=(3, 8, 9, 2)).astype(np.float32)
    plain = flow_channels(fields)
    assert plain.shape == (3, 3, 8, 9)
    assert np.array_equal(plain[:, 0], fields[..., 0])
    assert np.array_equal(plain[:, 2], optical_strain(fields))
    names = ("magnitude", "v", "strain")
    peak = flow_channels(fields, names, "peak")
    assert np.allclose(peak[:, 0].max((1, 2)), 1)
    assert np.allclose(peak[:, 2].max((1, 2)), 1)
    assert np.abs(peak).max() <= 1 + 1e-6
    angle = peak[:, 1] / np.maximum(peak[:, 0], 1e-9)  # one factor for u, v: directions stay
    assert np.allclose(angle, fields[..., 1] / np.hypot(*np.moveaxis(fields, -1, 0)), atol=1e-4)
    rms = flow_channels(fields, ("u", "v", "strain"), "rms")
    assert np.allclose((rms[:, 0] ** 2 + rms[:, 1] ** 2).mean((1, 2)), 1, atol=1e-4)
    assert np.allclose((rms[:, 2] ** 2).mean((1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize("normalise", ["none", "peak", "rms"])
def test_no_motion_stays_zero(normalise: str) -> None:
    assert not flow_channels(np.zeros((5, 5, 2)), normalise=normalise).any()


def test_bad_input() -> None:
    for shape in ((5, 5), (5, 5, 3), (1, 5, 2), (2,)):
        with pytest.raises(InputError):
            optical_strain(np.zeros(shape))
    with pytest.raises(ConfigError):
        flow_channels(np.zeros((5, 5, 2)), ("u", "w"))
    with pytest.raises(ConfigError):
        flow_channels(np.zeros((5, 5, 2)), ())
    with pytest.raises(ConfigError):
        flow_channels(np.zeros((5, 5, 2)), normalise="minmax")
    for flow in (
        np.zeros((5, 5, 2), complex),
        np.full((5, 5, 2), None),
        np.zeros((5, 5, 2)).astype(str).tolist(),
        np.ma.zeros((5, 5, 2)),
        [[0.0], [1.0, 2.0]],
    ):
        for function in (optical_strain, flow_channels):
            with pytest.raises(InputError):
                function(flow)
    for channels in (None, 3, "uv", ([],)):
        with pytest.raises(ConfigError):
            flow_channels(np.zeros((5, 5, 2)), channels)
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="grad"):
        optical_strain(torch.zeros((5, 5, 2), requires_grad=True))


def test_no_loss_is_a_plain_zero() -> None:
    assert not np.signbit(strain_and_half(np.zeros((1, 16, 16, 2), np.float32))[2])
