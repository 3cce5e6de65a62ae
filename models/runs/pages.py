"""A run outside its report: a picture page and tables for the UI, a scoreboard for a terminal.

The words and numbers are those of the report (models/report/scores.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from data.export.names import safe_name
from data.export.ordinary import write_megc_csv
from data.pictures.drawing import markdown_image, markdown_table, markdown_text
from data.stages import stores
from models.family import family_of
from models.report import choices
from models.report import data as report_data
from models.report import scores as report_scores
from models.report.figures import confusion_figure, training_figure
from models.report.scores import Score, number
from models.runs.files import run_times
from models.targets import AUS

if TYPE_CHECKING:
    from models.runs.files import RunFiles

NOT_IN_ROWS = ("fold:", "epoch:")  # a table and a picture of their own
MOST_PICTURES = 6  # on a UI page, which must stay small
MARKS = {"above": "✓", "unsure": "~", "below": "✕", "open": "?"}


def run_page(run: RunFiles) -> str:
    """A scored run as Markdown with pictures inside: verdict, scores, confusion, training."""
    recipe, found = run.recipe, report_scores.scores(run.metrics())
    text, dependent = report_data.protocol(run)
    lines = [f"# {markdown_text(recipe.name)}", ""]
    if dependent:
        lines += [f"> **Subject-dependent.** {markdown_text(text)}", ""]
    for score in report_scores.headline(found)[:2]:
        said = report_scores.verdict(score)
        lines += [f"**{MARKS[said.tone]}** {said.text}", ""]
    if gap := choices.gap_sentence(found):
        lines += [gap, ""]
    lines += [markdown_table([_row(s) for s in report_scores.pooled(found)]), ""]
    lines += [*report_scores.limits(run, found), ""]
    lines += _pictures(run)
    lines += [f"Full report: `{run.folder / 'report.html'}`", ""]
    return "\n".join(lines)


def _pictures(run: RunFiles) -> list[str]:
    lines: list[str] = []
    predictions = run.predictions()
    named = run.recipe.labels != AUS  # sets of units have no confusion matrix
    for matrix in report_scores.confusions(predictions)[: int(named)]:
        picture = markdown_image(confusion_figure(matrix), f"Confusion matrix, {matrix.title}")
        lines += ["## Confusion", "", picture, ""]
    gap = choices.gap_figure(report_scores.scores(run.metrics()))
    if gap is not None:
        picture = markdown_image(gap, "Scores by epoch and by the choice of the epoch")
        lines += ["## What choosing an epoch would be worth", "", choices.NOTE, "", picture, ""]
    for section in family_of(run.recipe).sections(run, MOST_PICTURES):
        lines += [f"## {section.title}", "", section.note, ""]
        for picture, caption in section.pictures:
            image = markdown_image(picture, caption, scale=1.0)
            lines += [markdown_text(caption), "", image, ""]
    histories = {
        fold.name: stores.read_table(fold / "history.parquet")
        for fold in run.folds
        if (fold / "history.parquet").exists()
    }
    curves = training_figure(histories) if histories else None
    if curves is not None:
        lines += ["## Training", "", markdown_image(curves, "Training curves of all folds"), ""]
    return lines


def score_rows(run: RunFiles) -> list[dict[str, Any]]:
    """The metrics table for people: pooled scores first, then by class and dataset."""
    found = report_scores.scores(run.metrics())
    chosen = report_scores.pooled(found)
    chosen += [s for s in found if s.scope != "pooled" and not s.scope.startswith(NOT_IN_ROWS)]
    return [{"scope": s.scope, **_row(s), "note": s.note} for s in chosen]


def fold_rows(run: RunFiles) -> list[dict[str, Any]]:
    """A row per fold: samples on either side, its scores, seconds of training."""
    head, rows = report_scores.fold_table(run, report_scores.scores(run.metrics()))
    seconds = run_times(run.folder)
    names = [h.lower() for h in head]
    return [
        {**dict(zip(names, row, strict=True)), "seconds": round(seconds.get(row[0], 0.0), 1)}
        for row in rows
    ]


def scoreboard(run: RunFiles) -> str:
    """Scores with chance and majority beside them, and what they allow to say, as plain text."""
    found = report_scores.scores(run.metrics())
    rows = [_row(s) for s in report_scores.pooled(found)]
    lines = [_columns(rows)] if rows else ["no scores"]
    for score in report_scores.headline(found)[:2]:
        said = report_scores.verdict(score)
        lines.append(f"{MARKS[said.tone]} {said.text}")
    if gap := choices.gap_sentence(found):
        lines.append(gap)
    text, _ = report_data.protocol(run)
    return "\n".join([*lines, text, *report_scores.limits(run, found)[:1]])


def export_spotting(run: RunFiles, out: Path) -> int:
    """Predicted intervals as `out/DATASET_pred.csv` in MEGC's form; returns how many.

    Raises ConfigError for a run whose model does not spot.
    """
    found = family_of(run.recipe).intervals(run)
    if found is None:
        raise ConfigError(
            f"export spotting of {run.folder.name}",
            expected="a run of a network that spots, such as ME-TST or ME-TST+",
            got=f"a run of {run.recipe.network_name}",
            todo="It classifies given clips; its predictions are in predictions.parquet.",
        )
    return sum(
        write_megc_csv(rows, out / f"{safe_name(dataset)}_pred.csv")
        for dataset, rows in found.items()
    )


def _row(score: Score) -> dict[str, str]:
    return {
        "score": score.title,
        "value": number(score.value, 3),
        "95 % interval": score.interval or "–",
        "majority": number(score.majority),
        "chance": number(score.chance),
        "n": "–" if score.count is None else str(score.count),
    }


def _columns(rows: list[dict[str, str]]) -> str:
    """Rows under their names, columns aligned."""
    names = list(rows[0])
    width = {n: max(len(n), *(len(r[n]) for r in rows)) for n in names}
    lines = [dict(zip(names, names, strict=True)), *rows]
    return "\n".join(
        "  ".join(
            line[n].ljust(width[n]) if i == 0 else line[n].rjust(width[n])
            for i, n in enumerate(names)
        ).rstrip()
        for line in lines
    )
