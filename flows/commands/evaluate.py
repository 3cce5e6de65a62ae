"""The command `evaluate`: a challenge's measures of a submission, against a truth file.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    predictions: Annotated[
        list[Path],
        typer.Argument(
            metavar="PRED...",
            help="Prediction files: cas_pred.csv, samm_pred.csv, ..._test_pred.jsonl, or a "
            "composite list or log.",
        ),
    ],
    truth: Annotated[
        list[Path],
        typer.Option("--truth", help="Truth file of each, in the same order and form; repeat."),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Emotions of spot-then-recognise; repeat. Default negative, positive, surprise.",
        ),
    ] = None,
    fine: Annotated[
        list[str] | None,
        typer.Option("--fine", help="Fine classes of the questions; repeat. Default six."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all/--defined", help="All rules' lines, or the definition's alone."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Also write the sheet here, .json or .csv.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Every measure of MEGC 2019 to 2026 of a submission, with its counts.

    What is computed is told from the truth file: composite recognition (2019), spotting (2020 to
    2024), spot-then-recognise (2024 and 2025), questions on clips (2025, 2026) or on long videos
    (2026). Beside each measure as defined stand published programs' own figures, by name, and what
    one reaches who sees no video. A value that cannot be computed is unavailable, with the reason.

    python -m flows evaluate cas_pred.csv samm_pred.csv --truth cas_truth.csv --truth
    samm_truth.csv
    """
    from models.challenge.classes import FINE
    from models.challenge.evaluate import evaluate_files
    from models.challenge.str_task import CLASSES

    sheet = evaluate_files(predictions, truth, classes=classes or CLASSES, fine=fine or FINE)
    if out is not None:
        write_sheet(sheet.to_json(), out)
    if as_json:
        typer.echo(json.dumps(sheet.to_json(), indent=1, ensure_ascii=False))
        return
    from flows.terminal.tables import as_text

    rows = [s.row() for s in sheet.scores if every or not s.rule]
    typer.echo("\n".join([f"{sheet.form}, {len(rows)} lines", as_text(rows), *sheet.notes]))


def write_sheet(sheet: dict[str, object], out: Path) -> None:
    """The sheet as JSON, or as CSV with a line a score. Raises ConfigError for another ending."""
    from data.errors import ConfigError
    from data.export.names import defused
    from data.stages.files import replacing

    if out.suffix.lower() not in (".json", ".csv"):
        raise ConfigError("--out", expected="a name ending in .json or .csv", got=out.name)
    with replacing(out) as temporary:
        if out.suffix.lower() == ".json":
            temporary.write_text(json.dumps(sheet, indent=1, ensure_ascii=False), encoding="utf-8")
            return
        import pandas as pd

        scores = sheet["scores"]
        assert isinstance(scores, list)
        table = pd.DataFrame([{**s, "counts": json.dumps(s["counts"])} for s in scores])
        table.map(defused).to_csv(temporary, index=False, lineterminator="\n")
