"""Flow pictures: hue is direction, white is rest, one scale a figure."""

from __future__ import annotations

import numpy as np
import pytest

from data.errors import InputError
from data.flow.pictures import colour_wheel, flow_colours, flow_figure, speed_limit
from data.pictures.drawing import png_bytes


def uniform(dx: float, dy: float) -> np.ndarray:
    return np.tile(np.float32([dx, dy]), (4, 5, 1))


def test_directions_have_their_colours_and_rest_is_white() -> None:
    assert (flow_colours(uniform(0, 0)) == 255).all()
    right = flow_colours(uniform(2, 0), largest=2)[0, 0]
    assert right.tolist() == [255, 0, 0]
    colours = {
        tuple(flow_colours(uniform(*d), 1)[0, 0]) for d in ((1, 0), (0, 1), (-1, 0), (0, -1))
    }
    assert len(colours) == 4
    half = flow_colours(uniform(1, 0), largest=2)[0, 0]
    assert half.tolist() == [255, 128, 128]
    assert flow_colours(uniform(3, 0), largest=2)[0, 0, 0] < 255  # beyond the scale: darker


def test_wheel_agrees_with_the_field_it_explains() -> None:
    wheel = colour_wheel(65)
    assert wheel[32, 32].tolist() == [255, 255, 255]
    assert wheel[0, 0].tolist() == [255, 255, 255]
    rim, field = wheel[32, 63].astype(int), flow_colours(uniform(31, 0), 32)[0, 0].astype(int)
    assert np.abs(rim - field).max() <= 1
    down, field = wheel[63, 32].astype(int), flow_colours(uniform(0, 31), 32)[0, 0].astype(int)
    assert np.abs(down - field).max() <= 1


def test_scale_ignores_a_few_wild_pixels() -> None:
    field = np.random.default_rng(0).normal(0, 0.5, (100, 100, 2)).astype(np.float32)
    field[0, 0] = 50
    assert 1 < speed_limit(field) < 3
    assert speed_limit(np.zeros((4, 4, 2))) == 0.05


def test_figure_draws_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    fields, strains = rng.normal(size=(2, 20, 24, 2)), rng.uniform(size=(2, 20, 24))
    kinds = ["onset_apex", "apex_offset"]
    pictures = [png_bytes(flow_figure(fields, strains, kinds, "sub01/EP02")) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert len(pictures[0]) < 200_000


def test_bad_input() -> None:
    for shape in ((4, 4), (4, 4, 3), (1, 4, 4, 2), (0, 4, 2)):
        with pytest.raises(InputError):
            flow_colours(np.zeros(shape))
    with pytest.raises(InputError):
        flow_colours(uniform(1, 0), largest=0)
    with pytest.raises(InputError):
        flow_figure(np.zeros((2, 4, 4, 2)), np.zeros((1, 4, 4)), ["a", "b"])
    with pytest.raises(InputError):
        flow_figure(np.zeros((0, 4, 4, 2)), np.zeros((0, 4, 4)), [])
