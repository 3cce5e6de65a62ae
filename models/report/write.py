"""The report of a run: one HTML file that loads nothing, from the run's own files.

Scores first, then what they are worth: the protocol, the data and its losses, pictures of every
stage, folds, errors, training, settings. The same folder gives the same bytes: no clock is read,
no host, no path outside the workspace. Of time there is what was recorded when its parts were made,
so that a run made twice differs in the seconds of its graph. What a run does not have is said to be
missing, never an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import StoreError
from data.pictures.drawing import class_colour, svg_uri
from models.family import family_of
from models.report import choices, graph, methods, people
from models.report import data as report_data
from models.report import pictures as report_pictures
from models.report import scores as report_scores
from models.report.scores import Score, number
from models.targets import AUS

if TYPE_CHECKING:
    from jinja2 import Environment

    from models.runs.files import RunFiles

TEMPLATE = Path(__file__).with_name("template.html.j2")
CONTENTS = (
    ("scores", "Scores"),
    ("limits", "What it can say"),
    ("graph", "Stages"),
    ("data", "Data"),
    ("pictures", "Pictures"),
    ("folds", "Folds"),
    ("people", "People"),
    ("confusion", "Confusion"),
    ("spotting", "Spotting"),
    ("training", "Training"),
    ("attention", "Attention"),
    ("methods", "Methods"),
    ("provenance", "Provenance"),
)


def write_report(run: RunFiles, path: Path) -> None:
    """Write the run's report to `path`, replacing what is there.

    Raises StoreError when the folder holds no readable recipe, split or fold.
    """
    path.write_text(render(run), encoding="utf-8")


def render(run: RunFiles) -> str:
    """The report as HTML text."""
    page = {**_scores(run), **_data(run), **_pictures(run)}
    page["contents"] = [(i, t) for i, t in CONTENTS if page.get(_GATE.get(i, "recipe"))]
    return _environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


SCORE_TABLES = {
    "seed": "By seed",
    "class": "By class",
    "dataset": "By dataset",
    "baseline": "Beside it: what needs no learning, and what perfect intervals would give",
    "errors": "What went wrong",
}
MORE_TABLES = {
    "videos": "Which videos count",
    "variant": "The same curves decoded otherwise",
    "iou": "At other overlaps",
    "megc": "The challenge's counts (MEGC)",
}
MATRIX_NOTES = {
    "events": "All tested clips.",
    "videos": "Only intervals that match an event: what was missed is not in here.",
}
_GATE = {"confusion": "matrices", "spotting": "spotting", "attention": "attention"}


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["num"] = number
    environment.filters["heat"] = _heat
    environment.filters["unbroken"] = _unbroken
    return environment


def _unbroken(text: str) -> str:
    """A range of numbers never breaks across lines at its dash."""
    return text.replace("–", "\u2060–\u2060")


def _heat(share: float) -> str:
    """White to blue."""
    blue = int(class_colour("negative")[1:], 16)
    ends = ((255, (blue >> 16) & 255), (255, (blue >> 8) & 255), (255, blue & 255))
    # A touch of blue in every cell keeps the grid visible.
    strength = 0.05 + 0.95 * share
    return "#" + "".join(f"{round(a + (b - a) * strength):02x}" for a, b in ends)


def _scores(run: RunFiles) -> dict[str, Any]:
    recipe = run.recipe
    found = _read_scores(run)
    predictions = run.predictions()
    cards = report_scores.headline(found)
    text, dependent = report_data.protocol(run)
    tables = [
        (title, *report_scores.scope_table(found, prefix)) for prefix, title in SCORE_TABLES.items()
    ]
    more = [
        (title, *report_scores.scope_table(found, prefix)) for prefix, title in MORE_TABLES.items()
    ]
    head, rows = report_scores.fold_table(run, found)
    apex = report_data.apex_statement(run)
    return {
        "verdicts": [report_scores.verdict(s) for s in cards[:2]],
        "cards": cards,
        "pooled": report_scores.pooled(found),
        "score_tables": [t for t in tables if t[2]],
        "more_tables": [t for t in more if t[2]],
        "gap": _gap(found),
        "fold_head": head,
        "fold_rows": rows,
        "matrices": [] if recipe.labels == AUS else report_scores.confusions(predictions),
        "matrix_note": MATRIX_NOTES[recipe.network.samples],
        "protocol": text,
        "subject_dependent": dependent,
        "limits": [*report_scores.limits(run, found), *([apex] if apex else [])],
        "expected": "" if recipe.expected == "not found" else recipe.expected,
    }


def _gap(found: list[Score]) -> dict[str, Any] | None:
    """The scores by the choice of the epoch, as picture and table; None where none is recorded."""
    picture = choices.gap_figure(found)
    if picture is None:
        return None
    head, rows = report_scores.scope_table(found, "choice")
    return {
        "uri": svg_uri(picture),
        "note": choices.NOTE,
        "sentence": choices.gap_sentence(found),
        "head": head,
        "rows": rows,
    }


def _read_scores(run: RunFiles) -> list[Score]:
    try:
        return report_scores.scores(run.metrics())
    except StoreError:
        return []


def _data(run: RunFiles) -> dict[str, Any]:
    recipe = run.recipe
    accounts = report_data.accounts(run)
    spots = family_of(recipe).spots
    everybody = people.people(run)
    paragraph, references = methods.methods(run)
    return {
        "graph": graph.graph_svg(run, accounts),
        "outliers": people.outliers(everybody, spots),
        "person_table": people.person_table(everybody, spots),
        "person_note": people.score_note(spots),
        "few_people": len(everybody) < people.FEWEST,
        "methods": paragraph,
        "references": references,
        "recipe": recipe,
        "run_id": run.folder.name,
        "facts": [
            ("run", run.folder.name),
            *report_data.model_facts(run),
            ("data", ", ".join(recipe.data)),
            ("labels", report_scores.label_word(recipe.labels)),
            ("split", recipe.split.kind.replace("_", " ")),
            ("seed", ", ".join(map(str, recipe.each_seed))),
        ],
        "labels": recipe.labels,
        "datasets": report_data.dataset_counts(run),
        "accounts": accounts,
        "ledger_rows": [
            (f"{a.dataset} {a.stage}", r.count, r) for a in accounts for r in a.reasons
        ],
        "provenance": report_data.provenance(run),
        "versions": report_data.versions(run),
        "settings": report_data.settings_yaml(recipe),
    }


def _pictures(run: RunFiles) -> dict[str, Any]:
    return {
        "groups": report_pictures.stage_groups(run),
        "training": report_pictures.training(run),
        "spotting": None,
        "attention": None,
        **report_pictures.family_sections(run),
    }
