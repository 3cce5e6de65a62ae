"""Commands that only look: `recipes`, `runs`, and what the shell completes with.

Imports what a command needs when it runs, as all commands do.
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
WorkspaceOfRuns = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Where runs are named by their short names."),
]
RUN_HELP = "A run: its short name (see `runs`) or folder."
SPLITS = {"leave_one_subject_out": "LOSO", "published": "published"}
COSTS = Path(__file__).parents[1] / "recipes" / "costs.csv"
ESTIMATED = (
    "~ counted, not measured: operations, launches and memory of one training step, times the "
    "published\nsizes of the datasets, on a GPU of 80 GB (tests/benchmarks/recipe_costs.py)."
)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project, from the folder alone (for completion)."""
    return sorted(path.stem for path in COSTS.parent.glob("*.yaml"))


def complete_recipe(incomplete: str) -> Iterator[str]:
    """Recipes that begin so; a path completes as files do."""
    yield from (name for name in recipe_names() if name.startswith(incomplete))


def complete_run(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Short names of the runs in --workspace or the current folder, with their recipes."""
    from models.runs.names import run_folders, short_names

    workspace = Path(ctx.params.get("workspace") or ".")
    for folder, name in short_names(run_folders(workspace)).items():
        if name.startswith(incomplete):
            yield name, folder.parent.name


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="One recipe: its whole text.", autocompletion=complete_recipe),
    ] = None,
    as_json: Json = False,
) -> None:
    """The recipes that come with the project: what each trains, on what, and what that takes.

    With a name: the recipe's file, with what is the paper's, the code's and ours.
    """
    from flows.terminal.tables import as_text
    from models.recipe import list_recipes, load_recipe, recipes_folder

    if name is not None:
        recipe = load_recipe(name)
        path = Path(name) if Path(name).suffix else recipes_folder() / f"{name}.yaml"
        plain = {"name": name, **recipe.model_dump(mode="json"), "text": path.read_text()}
        typer.echo(json.dumps(plain, indent=1) if as_json else path.read_text().rstrip())
        return
    costs = recipe_costs()
    rows = [recipe_row(n, load_recipe(n), costs.get(n, {})) for n in list_recipes()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(f"{as_text(rows)}\n\n{ESTIMATED}\nThe whole text of one: python -m flows recipes "
               "NAME")  # fmt: skip


def recipe_row(name: str, recipe: Any, cost: dict[str, str]) -> dict[str, str]:
    """A recipe in a line."""
    split = recipe.split.kind
    folds = f"{recipe.split.k}-fold" if split == "subject_kfold" else SPLITS.get(split, split)
    return {
        "recipe": name,
        "network": recipe.network_name.replace("_plus", "+").replace("_", "-"),
        "data": "+".join(recipe.data),
        "classes": recipe.labels.removeprefix("label_").replace("_class", ""),
        "split": recipe.split.name or folds,
        "parameters": cost.get("parameters", "?"),
        "GPU GB": _about(cost.get("gpu_gb")),
        "GPU hours": _about(cost.get("gpu_hours")),
        "source": cost.get("source", "?"),
    }


def next_command(report: Any) -> str:
    """What to type after a check: the layout it looks like, or a plan with a recipe for it."""
    root = shlex.quote(report.root)
    if report.error:
        names = report.layouts
        return f"python -m flows check {names[0]} {root}" if names else ""
    recipe = recipe_for(report.dataset)
    data = "" if recipe[1] else f" --set data='[{report.dataset}]'"
    return f"python -m flows plan {recipe[0]} -w WORKSPACE -d {report.dataset}={root}{data}"


def recipe_for(dataset: str) -> tuple[str, bool]:
    """A recipe to begin with for a dataset, small ones first; and whether it is made for it."""
    from models.recipe import load_recipe

    names = [n for n in recipe_names() if not n.startswith("demo")]
    found = {name: load_recipe(name) for name in names}
    pictures = {n for n, r in found.items() if "flow_pictures" in r.stages}  # of an import alone
    own = [n for n, r in found.items() if r.data == (dataset,) and n not in pictures]
    return (sorted(own, key=lambda n: "cpu" not in n)[0], True) if own else ("hsta_cpu", False)


def _about(value: str | None) -> str:
    return f"~{value}" if value else "?"


def recipe_costs() -> dict[str, dict[str, str]]:
    """Recipe → source, parameters, gpu_gb, gpu_hours; from the table beside the recipes."""
    if not COSTS.is_file():
        return {}
    with open(COSTS, newline="") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def runs(
    workspace: Annotated[Path, typer.Argument(help="Workspace folder.")],
    recipe: Annotated[
        str | None, typer.Option(help="Only runs of this recipe.", autocompletion=complete_recipe)
    ] = None,
    as_json: Json = False,
) -> None:
    """A workspace's runs: when, what they reached, in which settings they differ.

    The names in the first column are what `compare`, `report`, `predict` and `decode` take, with
    --workspace or as WORKSPACE/NAME. --json also has every session: device, host, commit, versions.
    """
    from data.errors import ConfigError
    from flows.terminal.tables import as_text
    from models.runs.listing import list_runs, side_by_side

    if not workspace.is_dir():
        raise ConfigError(
            "WORKSPACE", expected="a folder that `run --workspace` made", got=str(workspace)
        )
    found = list_runs(workspace, recipe)
    if as_json:
        typer.echo(json.dumps([run.to_json() for run in found], indent=1))
        return
    if not found:
        of = f" of {recipe}" if recipe else ""
        typer.echo(f"no runs{of} in {workspace}; make one: python -m flows run RECIPE -w "
                   f"{workspace} -d NAME=ROOT")  # fmt: skip
        return
    lines = [as_text([run.row() for run in found])]
    lines += [f"{run.name}: {run.problem}" for run in found if run.problem]
    if pair := side_by_side(found):
        names = " ".join(run.name for run in pair)
        lines.append(f"\nside by side: python -m flows compare -w {workspace} {names}")
    else:
        lines.append(f"\nthe last one's report: {found[-1].folder / 'report.html'}")
    typer.echo("\n".join(lines))
