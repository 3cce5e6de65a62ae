"""Stage pages: small, true to the store, pictures inside, faces only where they may be shown."""

from __future__ import annotations

import base64
import functools
import re

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from data.errors import InputError, StoreError
from data.ingest.pictures import events_figure
from data.pictures import drawing as pictures
from data.pictures.pages import MOST_BYTES, stage_page
from data.pictures.stages import Shown
from data.stages.workspace import Workspace
from data.steps import find_preprocessing_step as step
from tests.fakes.fabricated_run import (
    has_face,
    write_clip_stores,
    write_ingest,
    write_motion_store,
    write_store,
)

STAGES = ("ingest", "align", "registration", "apex", "flow", "motion")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("ws"))
    for name, show in (("open", True), ("licensed", False)):
        events = write_ingest(found, name, show_faces=show)
        write_clip_stores(found, name, events)
        write_motion_store(found, name, sorted(set(events.video)))
    return found


@pytest.fixture(scope="module")
def page_of(workspace):
    """A stage's page, drawn once."""
    return functools.cache(lambda name, stage: stage_page(workspace, name, step(stage)))


def images_of(markdown):
    """The page's pictures, decoded, grey."""
    found = re.findall(r"\]\(data:image/png;base64,([^)]+)\)", markdown)
    data = [np.frombuffer(base64.b64decode(text), np.uint8) for text in found]
    return [cv2.imdecode(one, cv2.IMREAD_GRAYSCALE) for one in data]


@pytest.mark.parametrize("stage", STAGES)
def test_pages_are_small_and_have_pictures(page_of, stage):
    page = page_of("open", stage)
    assert page.markdown.startswith(f"# {stage} · open")
    assert all(image is not None for image in images_of(page.markdown))
    assert images_of(page.markdown)
    assert len(page.markdown) < MOST_BYTES
    assert not re.search(r"\]\((?!data:image/png)", page.markdown)


@pytest.mark.parametrize("stage", STAGES)
def test_no_licensed_face_is_in_a_picture(page_of, stage):
    page = page_of("licensed", stage)
    assert images_of(page.markdown)
    assert not any(has_face(image) for image in images_of(page.markdown))


def test_a_face_is_shown_where_it_may_be_or_is_asked_for(workspace, page_of):
    free = page_of("open", "align")
    asked = stage_page(workspace, "licensed", step("align"), with_faces=True)
    for page in (free, asked):
        assert any(has_face(image) for image in images_of(page.markdown))
        assert pictures.FACES_HIDDEN not in page.markdown
    assert pictures.FACES_HIDDEN in page_of("licensed", "align").markdown


def test_counts_and_reasons_are_those_of_the_store(page_of):
    page = page_of("open", "flow")
    assert "12 in, 11 with data, 1 without." in page.markdown
    assert "| dropped | event | crosses_cut | 1 |" in page.markdown
    (row,) = page.rows
    assert (row["units"], row["failures"], row["seconds"]) == (12, 1, 3.25)


def test_counters_of_the_manifest_are_summed(page_of):
    (row,) = page_of("open", "motion").rows
    assert row["windows"] == 23 * 12


def test_ingest_has_a_row_per_table(page_of):
    rows = {row["part"]: row["units"] for row in page_of("open", "ingest").rows}
    assert rows["videos.parquet"] == 12
    assert rows["frames.parquet"] == 12 * 24


def test_a_stage_that_never_ran_is_named(tmp_path):
    with pytest.raises(StoreError, match="x/flow") as caught:
        stage_page(Workspace(tmp_path), "x", step("flow"))
    assert caught.value.code == "no_data"


def test_a_stage_that_dropped_everything_has_a_page(tmp_path):
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "x")
    for stage in ("align", "registration", "apex", "flow", "motion"):
        units = events.event if stage in ("registration", "apex", "flow") else events.video
        write_store(workspace, "x", stage, {}, dict.fromkeys(units, "no_face"))
        page = stage_page(workspace, "x", step(stage))
        assert "12 in, 0 with data, 12 without." in page.markdown
        assert page.rows[0]["failures"] == 12


def test_too_many_pictures_are_left_out_and_said(workspace, monkeypatch):
    monkeypatch.setattr("data.pictures.pages.MOST_BYTES", 20_000)
    page = stage_page(workspace, "open", step("align"))
    assert len(page.markdown) < 21_000
    assert "too large" in page.markdown


def test_chosen_events_are_those_asked_for(workspace):
    wanted = frozenset({"sub01/EP02", "sub03/EP01"})
    shown = Shown(workspace, "open", events=wanted, most=9)
    assert set(shown.chosen_events(shown.store("apex")).event) == wanted


def test_events_without_any_label_are_drawn_by_type(workspace):
    shown = Shown(workspace, "open")
    events = shown.table("events")
    for column in ("label_3", "label_4", "label_5", "label_7", "emotion"):
        events[column] = pd.NA
    figure = events_figure(events, shown.table("videos"))
    assert figure.axes[0].get_legend_handles_labels()[1] == ["micro"]


# ------------------------------------------------------------------------------ shared picture code


def test_figures_give_the_same_bytes_every_time():
    def draw():
        figure, (axis,) = pictures.figure(200, 100)
        axis.plot([0, 1, 2], [1, 0, 2], label="x")
        pictures.legend(axis)
        return figure

    assert pictures.png_bytes(draw()) == pictures.png_bytes(draw())
    assert pictures.svg_uri(draw()) == pictures.svg_uri(draw())


def test_png_keeps_every_pixel():
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    back = cv2.imdecode(np.frombuffer(pictures.png_bytes(image), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(back[..., ::-1], image)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(InputError, match="uint8 image"):
        pictures.png_bytes(image)


def test_thumbnails_shrink_and_never_grow():
    assert pictures.thumbnail(np.zeros((400, 200), np.uint8), 100).shape == (100, 50)
    assert pictures.thumbnail(np.zeros((40, 20), np.uint8), 100).shape == (40, 20)


def test_side_by_side_joins_grey_and_colour():
    grey, red = np.zeros((5, 4), np.uint8), np.zeros((5, 6, 3), np.uint8)
    red[..., 0] = 200
    joined = pictures.side_by_side([grey, red], gap=2)
    assert joined.shape == (5, 12, 3)
    assert joined[0, 4].tolist() == [255, 255, 255]
    assert joined[0, -1].tolist() == [200, 0, 0]
    with pytest.raises(InputError):
        pictures.side_by_side([grey, np.zeros((6, 4), np.uint8)])


@pytest.mark.parametrize(("have", "want"), [(10, 3), (3, 3), (2, 5), (100, 1), (0, 2)])
def test_evenly_keeps_the_ends(have, want):
    found = pictures.evenly(list(range(have)), want)
    assert len(found) == min(have, want)
    assert found == sorted(set(found))
    if have > 1 and want > 1:
        assert (found[0], found[-1]) == (0, have - 1)


def test_a_table_cell_cannot_break_its_table():
    text = pictures.markdown_table([{"a": "x|y\nz", "b": None}])
    assert text.splitlines()[-1] == "| x\\|y z |  |"


def test_colour_crops_are_drawn_too(tmp_path):
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "x", subjects=1, per_subject=1)
    write_clip_stores(workspace, "x", events)
    store = Shown(workspace, "x").store("align")
    with store.open("sub01/EP01") as group:
        whole = {name: group[name][:] for name in group}
        attributes, names = dict(group.attrs), list(group["status"].attrs["status_names"])
    store.close()

    def fill(group: h5py.Group) -> None:
        for name, array in whole.items():
            colour = np.repeat(array[..., None], 3, axis=-1) if name == "crops" else array
            group[name] = colour
        group["status"].attrs["status_names"] = names
        group.attrs.update(attributes)

    write_store(workspace, "x", "align", {"sub01/EP01": fill})
    assert any(
        has_face(image) for image in images_of(stage_page(workspace, "x", step("align")).markdown)
    )
