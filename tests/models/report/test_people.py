"""The report's people, graph and methods: planted outliers are named, every citation is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from data.align.settings import AlignConfig
from data.stages import stores
from data.stages.workspace import Workspace
from models.recipe import list_recipes, load_recipe
from models.report.data import accounts
from models.report.graph import graph_svg
from models.report.methods import (
    ALIGNED,
    BIBLIOGRAPHY,
    NAMES,
    WITHOUT_FACES,
    _network,
    bibtex,
    cited,
    methods,
)
from models.report.people import Person, outliers, people, person_table, wilson
from models.runs import files
from models.runs.files import RunFiles
from models.runs.history import note_session
from tests.fakes.fabricated_run import (
    write_clip_stores,
    write_hsta_run,
    write_ingest,
    write_me_tst_run,
    write_motion_store,
)

NAN = float("nan")
UNCITED = ("csv", "flow_regression")  # no paper of their own


def someone(number: int, **facts: object) -> Person:
    base = {
        "name": f"sub{number:02d}", "dataset": "casme2", "tested": 10, "right": (6, 10),
        "false_alarms": None, "dropped": (0, 40), "residual_px": 0.10 + 0.002 * number,
    }  # fmt: skip
    return Person(**{**base, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"residual_px": 0.9}, "alignment leaves 0.90 px"),
        ({"dropped": (20, 40)}, "20 of 40 units without data"),
        ({"right": (0, 40), "tested": 40}, "0 of 40 right answers"),
    ],
)
def test_a_planted_outlier_is_named_and_nobody_else(facts: dict[str, object], says: str) -> None:
    group = [someone(n) for n in range(12)]
    assert outliers(group, False) == []
    group[7] = someone(7, **facts)
    [said] = outliers(group, False)
    assert said.startswith("casme2 sub07:") and says in said


def test_few_people_and_unmeasured_ones_are_no_outliers() -> None:
    group = [someone(n) for n in range(4)] + [someone(4, residual_px=9.0)]
    assert len(outliers(group, False)) == 1
    assert outliers(group[1:], False) == [], "among four nobody can stand out"
    unmeasured = [someone(n, residual_px=NAN, right=(0, 0), dropped=(0, 0)) for n in range(8)]
    assert outliers(unmeasured, True) == []
    _, rows = person_table(unmeasured, True)
    assert rows[0][2:] == ["10", "–", "–", "–", "–"], "unmeasured is not 0"


def test_wilson_is_the_textbooks() -> None:
    low, high = wilson(8, 10, 1.96)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    workspace = Workspace(tmp_path_factory.mktemp("people"))
    for name in ("casme2", "samm"):
        write_clip_stores(workspace, name, write_ingest(workspace, name, prefix=name[:3]))
    return RunFiles(write_hsta_run(workspace, ("casme2", "samm")))


def test_every_person_counts_once(run: RunFiles) -> None:
    found = people(run)
    table = run.predictions()
    assert {(p.dataset, p.tested) for p in found} == {
        (d, int(n)) for (d, _), n in table.groupby(["dataset", "person"]).size().items()
    }
    hits = int((table.label == table.predicted).sum())
    assert sum(p.right[0] for p in found) == hits
    assert sum(p.right[1] for p in found) == len(table)


def test_the_graph_shows_counts_and_what_came_from_the_store(run: RunFiles) -> None:
    for account in accounts(run):
        if account.stage != "train":
            assert f">{account.taken} {account.unit}<" in graph_svg(run, accounts(run))
    note_session(
        run.folder, "train", 2, 1.0, "cpu", {"align casme2": [0, 12], "flow samm": [3, 12]}
    )
    drawn = graph_svg(run, accounts(run))
    assert "all from store" in drawn and "3 made" in drawn
    assert drawn.count("<path") == drawn.count("</path>") == 2 * len(run.recipe.stages) + 1


def test_the_methods_say_the_runs_numbers_and_cite_what_was_used(run: RunFiles) -> None:
    text, references = methods(run)
    recipe = run.recipe
    for said in (f"{recipe.train.epochs} epochs", "CASME II [casme2]", "SAMM [samm]", "[hsta]"):  # type: ignore[attr-defined]
        assert said in text
    assert "not in the bibliography" not in references
    assert list(re.findall(r"^@\w+\{(\w+),", references, re.M)) == cited(text)


def test_the_methods_of_a_spotting_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=2)
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    run = RunFiles(write_me_tst_run(workspace))
    text, references = methods(run)
    assert "[me_tst, mamba]" in text and "IoU" in text and "@inproceedings{samm_lv" in references
    found = people(run)
    assert all(p.false_alarms is not None for p in found)
    assert sum(p.right[1] for p in found) > 0


def test_every_alignment_has_words() -> None:
    modes = get_args(AlignConfig.model_fields["mode"].annotation)
    assert sorted(modes) == sorted((*ALIGNED, *WITHOUT_FACES))


@pytest.mark.parametrize(
    ("recipe", "changes", "says", "never"),
    [
        ("ststnet_pictures", {}, "200 epochs, batches of 256, learning rate 0.001", "L-BFGS"),
        ("ststnet_pictures", {"seeds": [3, 4]}, "seeds 3, 4;", "seed 0"),
        ("ststnet_pictures", {"seed": 5}, "seed 5;", "seeds"),
        (
            "ststnet_pictures",
            {"model": {"name": "flow_regression"}, "train": {"solver": "lbfgs", "epochs": 30}},
            "at most 30 iterations of L-BFGS",
            "batches",
        ),
    ],
)
def test_the_methods_say_what_training_reads(
    recipe: str, changes: dict[str, Any], says: str, never: str
) -> None:
    said = _network(SimpleNamespace(recipe=load_recipe(recipe, changes)))  # type: ignore[arg-type]
    assert says in said and never not in said


def test_every_dataset_and_network_of_a_recipe_has_its_reference() -> None:
    known = set(re.findall(r"^@\w+\{(\w+),", BIBLIOGRAPHY.read_text(), re.M))
    for name in list_recipes():
        recipe = load_recipe(name)
        used = {*recipe.data, recipe.network_name}
        assert used <= set(NAMES) and used <= known | {"casme3_c", "smic_e", *UNCITED}, name
    entries = BIBLIOGRAPHY.read_text().count("\n@") + 1
    assert len(known) == entries, "no key twice"
    assert all(bibtex([key]).count("{") == bibtex([key]).count("}") for key in known)


def test_counts_are_read_as_the_stage_wrote_them(run: RunFiles) -> None:
    """The key is that of align's own counts (tests/data/align/test_stage.py)."""
    manifest = stores.read_manifest(run.workspace.stage("casme2", "align"))
    assert json.loads(manifest.counts[0])["residual_px"] == 0.125
    assert {p.residual_px for p in people(run)} == {0.125}


def test_a_person_of_two_datasets_has_each_ones_answers(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, read = run.predictions(), files.read_tables
    monkeypatch.setattr(RunFiles, "predictions", lambda _: table.assign(person="a:one"))
    monkeypatch.setattr(files, "read_tables", lambda *of: read(*of).assign(person="a:one"))
    right = table.label == table.predicted
    assert [(p.name, p.dataset, p.right) for p in people(run)] == [
        ("one", name, (int(right[table.dataset == name].sum()), int((table.dataset == name).sum())))
        for name in ("casme2", "samm")
    ]
