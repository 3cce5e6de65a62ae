"""The command `inject`: known micro-expressions in one's own recordings, and what is seen of them.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def inject(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="WORKSPACE|VIDEO... OUT",
            help="Recordings (video files, folders of frames, or a workspace: all its videos), "
            "then the folder to write. With --measure only OUT.",
        ),
    ],
    amplitude: Annotated[
        list[float] | None,
        typer.Option(help="Largest displacement in px; repeat. Default 0.3 0.5 0.8 1.2 2 3."),
    ] = None,
    units: Annotated[
        list[str] | None,
        typer.Option("--au", help="Action units, as 1+2; repeat. Default 1+2, 12, 4, 9, 15."),
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="At most so many in each recording.")] = 6,
    seconds: Annotated[float, typer.Option(help="Length of an event.")] = 0.5,
    most: Annotated[
        float, typer.Option(help="Seconds used of each recording, from its start.")
    ] = 60.0,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:SECOND", help="Plant here, not where it is quietest; repeat."),
    ] = None,
    twin: Annotated[
        bool, typer.Option(help="Also write the same frames unplanted, to be subtracted.")
    ] = True,
    fps: Annotated[float | None, typer.Option(help="Frames per second, for frame folders.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which amplitude and units come where.")] = 0,
    show_faces: Annotated[
        bool, typer.Option("--show-faces", help="These faces may appear in reports.")
    ] = False,
    measured: Annotated[
        Path | None,
        typer.Option("--measure", metavar="WORKSPACE", help="Compare with this finished one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """How small a movement can this camera, this light and this pipeline see?

    Known micro-expressions are planted into quiet stretches of your own recordings; head motion,
    noise and compression stay as they are. OUT becomes a dataset of layout csv with truth.json.
    Then run the stages on it, and compare what flow found with what was planted:

    1. python -m flows inject interview.mp4 OUT

    2. python -m flows run hsta_cpu -w WORK -d csv=OUT --set data='\\[csv]' --stage ingest
    --stage align --stage registration --stage apex --stage flow

    3. python -m flows inject OUT --measure WORK

    The last prints, per amplitude: events that reached flow, the share detected, the displacement
    measured; and writes tables and a figure into OUT/measured. A movement counts as detected above
    the level that 95 % of the unplanted events stay below.
    """
    if measured is not None:
        typer.echo(measure_injected(paths, measured, as_json))
        return
    options = {
        "amplitudes": amplitude, "units": units, "events": events, "seconds": seconds,
        "most": most, "at": at, "twin": twin, "fps": fps, "seed": seed, "show_faces": show_faces,
    }  # fmt: skip
    typer.echo(inject_recordings(paths, options, as_json))


def inject_recordings(paths: list[Path], options: dict[str, Any], as_json: bool) -> str:
    """`data.inject.write.inject` of the options given; `paths` end with the folder to write."""
    from data.errors import ConfigError
    from data.inject import write
    from flows.terminal.live import terminal_progress

    *sources, out = paths
    if not sources:
        raise ConfigError("inject", expected="recordings, then the folder to write", got=str(out))
    given = {k: v for k, v in options.items() if v is not None}
    for name in ("amplitudes", "units"):
        if name in given:
            given[name] = tuple(given[name])
    given["at"] = write.parse_places(options["at"] or [])
    with terminal_progress() as show:
        record = write.inject(sources, out, write.InjectOptions(**given), progress=show)
    if as_json:
        return json.dumps(record, indent=1, default=list)
    return f"{write.summary(record)}\n{out}: layout csv, with truth.json"


def measure_injected(paths: list[Path], workspace: Path, as_json: bool) -> str:
    """`data.inject.measure` of one folder that `inject` wrote, against a finished workspace."""
    from data.errors import ConfigError
    from data.inject.measure import measure, write_measured
    from data.inject.write import read_truth

    if len(paths) != 1:
        raise ConfigError(
            "inject --measure", expected="the one folder it wrote", got=f"{len(paths)}"
        )
    found = measure(workspace, read_truth(paths[0]))
    files = write_measured(found, paths[0] / "measured")
    if as_json:
        return json.dumps(found.to_json(), indent=1)
    return "\n".join([found.to_text(), *(f"wrote {file}" for file in files)])
