"""The forms of the deployments: which fields each has, and what a filled one asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from data.datasets import ADAPTERS
from data.errors import ConfigError
from models.recipe import list_recipes
from models.steps import find_step, step_names
from tasks import forms
from tasks.forms import FORMS, AnyStageForm, FullForm, fields
from tasks.request import RunRequest

PROJECT = Path(__file__).resolve().parents[2]


def test_fields_are_where_their_steps_use_them() -> None:
    """What the lists say of the steps is what the steps say of themselves."""
    for name in step_names():
        step, has = find_step(name), set(fields(name))
        assert ("workers" in has) == (not step.in_parent) == (name not in forms.IN_PARENT)
        assert ("subjects" in has) == (step.per_dataset and name != "ingest")
        assert ("with_faces" in has) == (step.shows_faces or name == "evaluate")
        assert set(FORMS[name].model_fields) == has | {"redo"}
    landmarks = [name for name in step_names() if "landmark_model" in fields(name)]
    assert landmarks == [n for n in step_names() if n not in ("ingest", "flow_pictures")]
    own = {field: [s for s in step_names() if field in fields(s)] for field in forms.ONLY_OF}
    assert own == {field: list(stages) for field, stages in forms.ONLY_OF.items()}


def test_every_field_of_a_request_is_in_the_full_form_and_in_some_stage() -> None:
    assert set(FullForm.model_fields) == set(RunRequest.model_fields)
    of_stages = {field for stage in step_names() for field in fields(stage)}
    assert of_stages == set(RunRequest.model_fields) - set(forms.OF_THE_WHOLE)
    assert set(AnyStageForm.model_fields) == of_stages | {"redo"}


def test_a_filled_form_asks_for_its_stage_only() -> None:
    asked: Any = FORMS["align"](subjects=["s1"], redo=True, data={"casme2": "/d"})
    request = asked.request("align")
    assert (request.stages, request.force, request.subjects) == (["align"], ["align"], ["s1"])
    assert request.wait_s == forms.DAY_S and str(request.roots()["casme2"]) == "/d"
    assert FORMS["align"]().request("align").force == []


def test_any_stages_form_refuses_what_the_chosen_stage_has_no_use_for() -> None:
    asked: Any = AnyStageForm(folds=["0"])
    assert asked.request("train").folds == ["0"]
    with pytest.raises(ConfigError, match="Only these folds"):
        asked.request("align")


@pytest.mark.parametrize("wrong", [{"folds": ["0"]}, {"force": ["align"]}, {"workers": -1}])
def test_a_stages_form_has_no_other_fields(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FORMS["align"](**wrong)


def test_choices_are_drop_downs() -> None:
    schema = FullForm.model_json_schema()
    own, row = schema["properties"], schema["$defs"]["DataRow"]["properties"]
    assert [part.get("enum") for part in own["recipe"]["anyOf"]] == [list_recipes(), None]
    assert own["stages"]["items"]["enum"] == list(step_names())
    assert row["dataset"]["enum"] == list(ADAPTERS)
    assert {"auto", "cpu", "cuda", "cuda:3"} <= set(own["device"]["enum"])


def test_a_dataset_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="casme2 twice"):
        RunRequest(data=[{"dataset": "casme2", "folder": f} for f in "ab"])


def test_what_is_deployed_is_a_filled_form_of_its_stage() -> None:
    deployed = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    names = sorted(one["name"] for one in deployed)
    assert names == sorted(["full", "stage", *step_names()]), "each once"
    for one in deployed:
        form = {"full": FullForm, "stage": AnyStageForm}.get(one["name"]) or FORMS[one["name"]]
        form.model_validate(one["parameters"]["request"])


def test_a_device_is_asked_where_one_is_used() -> None:
    assert {stage for stage in FORMS if "device" in fields(stage)} == {"flow", "train"}
