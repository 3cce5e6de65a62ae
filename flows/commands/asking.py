"""The words that `run` and `plan` share: what can be run can be planned in the same words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.looking import complete_recipe

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A name in flows/recipes/ or a .yaml path.",
        autocompletion=complete_recipe,
    ),
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder for stores and runs; made when missing.")
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", "-d", metavar="NAME=ROOT", help="A dataset's folder; repeat for more."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, e.g. flow.size=128."),
]
Faces = Annotated[
    bool,
    typer.Option("--with-faces", help="Show faces of licensed sets; licences mostly forbid it."),
]
Names = list[str] | None
OPTIONS = {  # of a request's fields whose option has another name
    "recipe": "RECIPE",
    "stages": "--stage",
    "from_stage": "--from",
    "overrides": "--set",
    "max_gpu_memory_mb": "--max-gpu-memory",
    "wait_s": "--wait",
}


def request_of(
    recipe: Recipe,
    workspace: WorkspaceOption,
    data: DataOption = None,
    stage: Annotated[
        Names, typer.Option(help="Only this stage; refuses stale inputs. Repeatable.")
    ] = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", help="This stage and all that follow.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to and including this stage.")] = None,
    force: Annotated[
        Names, typer.Option(help="Redo this stage and all that depends on it. Repeatable.")
    ] = None,
    subjects: Annotated[
        Names, typer.Option(help="Preprocess only these subjects; no training. Repeatable.")
    ] = None,
    videos: Annotated[
        Names, typer.Option(help="Preprocess only these videos; no training. Repeatable.")
    ] = None,
    folds: Annotated[
        Names, typer.Option(help="Train only these folds: number, name or subject, as 7,12.")
    ] = None,
    only_failed: Annotated[
        bool, typer.Option(help="Preprocess again what has no data; no training.")
    ] = False,
    changes: SetOption = None,
    verify: Annotated[
        str,
        typer.Option(
            metavar="files|inputs",
            help="Read the bytes of everything published (files, also when no word follows), or "
            "of the raw recordings too (inputs); what is not as recorded is made anew.",
        ),
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one per core.")] = 0,
    scheduler: Annotated[
        str,
        typer.Option(help="Dask workers do the jobs: tcp://HOST:PORT, a file, slurm:PROFILE.yaml."),
    ] = "",
    memory: Annotated[
        str, typer.Option(help="Ceiling for all of it, e.g. 8G: the workers that fit are used.")
    ] = "",
    time_limit: Annotated[
        float,
        typer.Option(min=0, help="Seconds one video or event may take; 0: by what they took."),
    ] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    max_gpu_memory: Annotated[
        float | None, typer.Option(help="MB of a GPU that training may take; default all free.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the workspace.")] = 0.0,
    allow_shrink: Annotated[
        bool,
        typer.Option(help="Go on when many of a dataset's known videos are gone; none is deleted."),
    ] = False,
    landmark_model: Annotated[
        Path | None, typer.Option(help="A dlib 68-point model of your own, for align and motion.")
    ] = None,
    with_faces: Faces = False,
) -> Any:
    """The RunRequest of the options; values of --set are read as YAML.

    Raises ConfigError naming the option that is wrong.
    """
    from pydantic import ValidationError

    from data.errors import ConfigError
    from models.recipe_text import read_text
    from tasks.request import RunRequest

    pairs = named(changes, "--set").items()
    try:
        return RunRequest(
            recipe=recipe,
            workspace=str(workspace),
            data=named(data, "--data"),
            stages=stage or [],
            from_stage=from_stage,
            until=until,
            force=force or [],
            subjects=subjects or [],
            videos=videos or [],
            folds=folds or [],
            only_failed=only_failed,
            overrides={key: read_text(value, f"--set {key[:80]}") for key, value in pairs},
            verify=verify,
            workers=workers,
            scheduler=scheduler,
            memory=memory,
            time_limit_s=time_limit,
            device=device,
            max_gpu_memory_mb=max_gpu_memory,
            wait_s=wait,
            allow_shrink=allow_shrink,
            landmark_model=str(landmark_model or ""),
            with_faces=with_faces,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field, said = str(first["loc"][0]), str(first["msg"])
        raise ConfigError(
            OPTIONS.get(field, f"--{field.replace('_', '-')}"),
            expected=said[:1].lower() + said[1:],
            got=repr(first.get("input"))[:80],
        ) from error


def with_plain_verify(words: list[str]) -> list[str]:
    """The words of a command, with a plain `--verify` standing for `--verify=files`."""
    found = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        plain = word == "--verify" and following not in ("files", "inputs")
        found.append("--verify=files" if plain else word)
    return found


def named(items: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE items as a mapping. Raises ConfigError naming the option."""
    from data.errors import ConfigError

    found = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name or not value:
            raise ConfigError(option, expected="NAME=VALUE", got=repr(item))
        if name in found:
            raise ConfigError(option, expected=f"{name} once", got="twice")
        found[name] = value
    return found


def asks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command whose first parameter is a request the options that make one."""
    shared = inspect.signature(request_of, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def asked(**words: Any) -> Any:
        request = request_of(**{name: words.pop(name) for name in shared})
        return command(request, **words)

    every = [*shared.values(), *own]
    required = [p for p in every if p.default is p.empty]
    optional = [p for p in every if p.default is not p.empty]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=kind) for p in (*required, *optional)]
    asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asked.__annotations__ = {p.name: p.annotation for p in parameters}
    return asked
