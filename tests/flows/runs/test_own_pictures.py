"""From a folder of flow pictures in STSTNet's and HTNet's layout to scores, as a new user would.

Twenty-one people of three databases. The recipes by the command line; networks that a user brings
(one like HTNet, HSTA itself) on the same pictures and folds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from models.registry import NETWORKS
from tests.fakes import picture_networks as brought
from tests.fakes.flow_pictures import write_folder

PEOPLE = (
    *(f"sub{n:02d}" for n in range(1, 8)),
    *("006", "007", "009", "010", "011", "012", "013"),
    *(f"s{n:02d}" for n in range(1, 8)),
)
DATABASES = ("casme2", "samm", "smic")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder imported: a dataset of layout csv."""
    from flows.cli import app

    place = tmp_path_factory.mktemp("megc")
    folder, out = write_folder(place / "three_norm_u_v_os", PEOPLE, each=3), place / "pictures"
    done = CliRunner().invoke(app, ["import-pictures", str(folder), str(out)])
    assert done.exit_code == 0, done.output
    said = "63 pictures of 21 people: negative 21, positive 21, surprise 21"
    assert f"{said} (casme2 21, samm 21, smic 21)" in done.output
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["ststnet_pictures", pytest.param("flow_regression_pictures", marks=pytest.mark.ci)],
)
def test_a_recipe_scores_everybody_and_each_database(
    recipe: str, pictures: Path, tmp_path: Path
) -> None:
    from flows.cli import app

    few = ["--set", "train.epochs=40"] if recipe == "ststnet_pictures" else []
    words = ["run", recipe, "-w", str(tmp_path / "work"), "-d", f"csv={pictures}", *few]
    done = CliRunner().invoke(app, [*words, "--runner", "none", "--json"])
    assert done.exit_code == 0, done.output
    records = json.loads(done.stdout[done.stdout.index("[\n") :])
    run = Path(records[-1]["detail"]["run"])
    assert len(list(run.glob("fold-*"))) == 21, "leave one person out"
    uf1 = scores(pd.read_parquet(run / "metrics.parquet"))
    assert uf1["pooled"].value > 0.6 and uf1["pooled"].low <= uf1["pooled"].value
    report = (run / "report.html").read_text()
    assert all(f"{name} alone" in report for name in DATABASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least"),
    # HSTA learns little of 42 pictures in 30 epochs: it must run, and beat naming one class
    [(brought.HtNetLikeConfig, 0.6), (brought.HstaOfPicturesConfig, 1 / 6)],
)
def test_a_network_that_a_user_brings(
    config: Any, least: float, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.stages.workspace import Workspace
    from data.steps import find_preprocessing_step
    from models.recipe import parse_recipe
    from tests.fakes.steps import do, evaluate, ingest, scope, train

    module: Any = ModuleType(f"tests.fakes.{config.__name__}")
    module.NETWORK = brought.network_of(config)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    name = config.model_fields["name"].default
    monkeypatch.setitem(NETWORKS, name, module.__name__)
    recipe = parse_recipe(
        {
            "name": "brought", "data": ["csv"], "labels": "label_3",
            "split": {"kind": "subject_kfold", "k": 3},
            "model": {"name": name, "source": "pictures"},
            "train": {"epochs": 30, "batch_size": 16, "lr": 0.002},
        }
    )  # fmt: skip
    workspace = Workspace(tmp_path / "work")
    ingest(workspace, "csv", pictures)
    do(find_preprocessing_step("flow_pictures"), scope(workspace, "csv", pictures, recipe))
    train(workspace, recipe, pictures)
    evaluate(workspace, recipe, pictures)
    (metrics,) = (workspace.path / "runs").rglob("metrics.parquet")
    assert scores(pd.read_parquet(metrics))["pooled"].value > least


def scores(metrics: pd.DataFrame) -> dict[str, Any]:
    """UF1 by scope, of the pooled pictures and of each database's; seven people in each of these.

    The samples' rows say the same of people and classes.
    """
    found = {row.scope: row for row in metrics[metrics.name == "uf1"].itertuples()}
    for name in DATABASES:
        own, samples = found[f"dataset:{name}"], metrics[metrics.scope == f"samples:{name}"]
        assert own.count == 7 and own.low <= own.value <= own.high
        assert samples.note.str.contains("7 people").all() and len(samples)
        assert samples.note.str.contains("negative 7, positive 7, surprise 7").all()
    return found
