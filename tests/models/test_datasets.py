"""A finished workspace as plain PyTorch data sets: shapes, sides, scale, workers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from data.errors import ConfigError
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.datasets import ClipDataset, FlowDataset, Folds, WindowDataset
from models.recipe import Recipe, parse_recipe
from models.targets import code_of
from tests.fakes import fabricated_run as made

HSTA = {"name": "hsta", "special": "flow", "image_size": 24, "num_frames": 4, "embed_dim": 12,
        "num_heads": 2, "depth": [1, 1, 0], "num_groups": 1, "patch_size": 12}  # fmt: skip


def recipe_of(model: dict[str, object], **more: object) -> Recipe:
    return parse_recipe({"name": "made", "data": ["casme2"], "model": model, **more})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """casme2: 3 people with 3 clips each, the last clip without flow."""
    workspace = Workspace(tmp_path_factory.mktemp("clips"))
    events = made.write_ingest(workspace, "casme2", subjects=3)
    made.write_clip_stores(workspace, "casme2", events, recipe=recipe_of(HSTA))
    return workspace


def test_flow_pictures_of_a_fold(clips: Workspace) -> None:
    recipe = recipe_of({"name": "ststnet"})
    train = FlowDataset(clips.path, recipe, "sub01", "train")
    test = FlowDataset(clips.path, recipe, 0, "test")
    assert (len(train), len(test)) == (5, 3) and set(test.samples.person) == {"casme2:sub01"}
    picture, label = train[0]
    assert picture.shape == (3, 28, 28) and picture.dtype == torch.float32
    assert train.classes[label] == train.samples.label[0] and label == train.labels[0]
    # Standardised by the training side, and by no one else.
    pictures = torch.stack([train[i][0] for i in range(len(train))])
    assert pictures.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert pictures.std(dim=(0, 2, 3), correction=0) == pytest.approx([1, 1, 1], abs=1e-3)
    assert test.scale.mean == pytest.approx(train.scale.mean)
    event = train.samples.event[0]
    with StageStore(clips, "casme2", "flow").open(event) as group:
        u = group["flow"][0, ..., 0]
    got = picture[0].numpy() * train.scale.deviation[0] + train.scale.mean[0]
    assert got.mean() == pytest.approx(u.mean(), abs=1e-3)


def test_folds_share_what_is_read_and_hold_everybody_out_once(clips: Workspace) -> None:
    found = list(FlowDataset.folds(clips.path, recipe_of({"name": "flow_regression"})))
    assert [name for name, *_ in found] == [f"fold-{n:02d}-casme2_sub{n + 1:02d}" for n in range(3)]
    assert len({id(one.source.pictures) for _, *pair in found for one in pair}) == 1
    tested = [event for *_, test in found for event in test.samples.event]
    assert sorted(tested) == sorted(set(tested)) and len(tested) == 8
    for _, train, test in found:
        assert not set(train.samples.person) & set(test.samples.person)


def test_clips_as_hsta_takes_them_with_workers(clips: Workspace) -> None:
    from models import create_model

    recipe = recipe_of(HSTA)
    train = ClipDataset(clips.path, recipe, "sub02")
    test = ClipDataset(clips.path, recipe, "sub02", "test", shared=train.source)
    loader = DataLoader(
        train, batch_size=3, shuffle=True, num_workers=2, multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [3, 2]
    clip, labels = batches[0]
    assert clip.shape == (3, 3, 6, 24, 24) and labels.dtype == torch.int64
    assert torch.isfinite(create_model(**HSTA, num_classes=3)(clip)).all()
    loader.generator.manual_seed(1)
    again = list(loader)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))
    assert torch.equal(test[1][0], test[1][0]) and test.scale == train.scale


def test_windows_of_videos(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {"name": "made", "data": ["samm_lv"], "model": {"name": "me_tst"}, "motion": {"k": 20}}
    )
    workspace = Workspace(tmp_path)
    events = made.write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    made.write_motion_store(workspace, "samm_lv", sorted(set(events.video)), recipe=recipe)
    train = WindowDataset(tmp_path, recipe, 1)
    test = WindowDataset(tmp_path, recipe, 1, "test")
    assert (len(train), len(test)) == (3 * 23, 23) and train.labels.shape == (69, 20)
    motion, spot, classes = train[3]
    assert motion.shape == (1, 10, 20) and spot.shape == classes.shape == (20,)
    inside = [train[i] for i in range(len(train))]
    assert all(((s > 0) == (c != 4)).all() for _, s, c in inside)
    assert sum(bool(s.any()) for _, s, _ in inside) > 3
    batch = next(iter(DataLoader(test, batch_size=8)))
    assert [tuple(part.shape) for part in batch] == [(8, 1, 10, 20), (8, 20), (8, 20)]


def test_a_wrong_recipe_or_fold_is_refused(clips: Workspace) -> None:
    with pytest.raises(ConfigError, match="ClipDataset goes with HSTA"):
        FlowDataset(clips.path, recipe_of(HSTA))
    with pytest.raises(ConfigError, match="fold-00-casme2_sub01"):
        FlowDataset(clips.path, recipe_of({"name": "ststnet"}), "sub99")
    with pytest.raises(ConfigError, match="train or test"):
        FlowDataset(clips.path, recipe_of({"name": "ststnet"}), 0, "valid")  # type: ignore[arg-type]


def test_a_number_is_a_number_and_a_text_with_two_meanings_is_refused(clips: Workspace) -> None:
    folds = Folds.of(clips.path, recipe_of({"name": "ststnet"}), FlowDataset.family)
    plain = {str(n): sides for n, sides in enumerate(folds.split.folds.values(), 1)}
    folds = replace(folds, split=replace(folds.split, folds=plain))  # people 1, 2, 3
    test = FlowDataset(clips.path, folds.recipe, 1, "test", shared=folds)
    assert set(test.samples.person) == {"casme2:sub02"}
    with pytest.raises(ConfigError, match="fold-00-1, fold-01-2"):
        FlowDataset(clips.path, folds.recipe, "1", "test", shared=folds)


def test_sets_of_action_units_are_codes(tmp_path: Path) -> None:
    workspace, recipe = Workspace(tmp_path), recipe_of(HSTA, labels="aus")
    events = made.write_ingest(workspace, "casme2", subjects=2)
    made.write_clip_stores(workspace, "casme2", events, recipe=recipe)
    train = ClipDataset(tmp_path, recipe)
    assert train.labels.tolist() == [code_of(text) for text in train.samples.label]
    assert train[0][1] == train.labels[0]


def test_frames_repeat_by_the_seed_of_torch_without_workers(clips: Workspace) -> None:
    train = ClipDataset(clips.path, recipe_of(HSTA), "sub02")

    def item(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return train[0][0]

    assert torch.equal(item(3), item(3))
    assert any(not torch.equal(item(3), item(seed)) for seed in range(8))


def test_a_run_of_the_recipe_has_these_folds(
    clips: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same road through the project: folds, samples and answers of both baselines."""
    import shutil

    from models.family import family_of
    from models.runs.files import RunFiles
    from tests.fakes.steps import train

    monkeypatch.setattr("models.runs.twins.find_twins", lambda *_: [])  # all have one drawn face
    shutil.copytree(clips.path, tmp_path / "ws")
    workspace, truths = Workspace(tmp_path / "ws"), []
    for name, settings in (
        ("ststnet", {"epochs": 2, "balanced": True}),
        ("flow_regression", {"solver": "lbfgs", "epochs": 20, "standardise": "pixel"}),
    ):
        recipe = recipe_of(
            {"name": name}, train=settings, epoch_scores={"record": 2},
            split={"kind": "subject_kfold", "k": 2},
        )  # fmt: skip
        run = RunFiles(Path(train(workspace, recipe).detail["run"]))
        fold, _, held_out = next(FlowDataset.folds(workspace.path, recipe))
        assert fold == run.folds[0].name
        own = run.predictions().query("fold == @fold")
        assert sorted(own.event) == sorted(held_out.samples.event)
        chances = own.filter(like="prob_").to_numpy()
        assert chances.sum(axis=1) == pytest.approx(1) and chances.shape == (len(own), 3)
        epochs = pd.read_parquet(run.folds[0] / "epochs.parquet")
        assert sorted(set(epochs.epoch)) == ([1, 2] if name == "ststnet" else [20])
        truths.append(family_of(recipe).count(run).truth)
        assert not train(workspace, recipe).todo, "trained once"
    assert truths[0] == truths[1], "both can be compared"


def test_the_pages_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/extending.md, on a workspace of made-up clips."""
    from models.recipe import load_recipe

    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    block = re.search(r"## Your own training loop\n[^#]*?\n\n((?:    .*\n|\n)+)", page)
    assert block
    workspace = Workspace(tmp_path / "work")
    events = made.write_ingest(workspace, "casme2", subjects=3)
    recipe = load_recipe("ststnet_megc2019", {"data": ["casme2"]})
    made.write_clip_stores(workspace, "casme2", events, recipe=recipe)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(re.sub(r"^    ", "", block[1], flags=re.MULTILINE).replace("range(30)", "range(2)"), found)
    assert len(found["true"]) == len(found["said"]) == 8
    assert set(found["said"]) <= {"negative", "positive", "surprise"}
