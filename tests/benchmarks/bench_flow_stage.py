"""The flow stage as a whole against its kernel alone.

    python -m tests.benchmarks.bench_flow_stage [--events N] [--size 224] [--backend NAME]

Events of two pairs each (onset→apex, apex→offset) are read from a store of crops as alignment
leaves it (one HDF5 chunk a frame, lzf), their flow and strain computed and written. share: time of
the flow kernel alone on the same images, divided by the time of the whole; CPU time of the process
(wall time with a GPU, where a worker's events are computed together), in turn, medians. The rest is
split into reading, strain with rounding, and writing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.flow.fields import quantise
from data.flow.settings import FlowConfig
from data.flow.stage import compute_fields, compute_many, wants_batches
from data.optical_flow import warm_up
from data.registration.settings import RegistrationConfig
from data.stages.identity import file_digest
from data.stages.inputs import StageInputs
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from tests.fakes.fabricated_run import write_store
from tests.fakes.flow_pairs import make_pair
from tests.fakes.registered import fill_event
from tests.fakes.steps import one_part, write_tables

DATASET = "bench"
ONSET, APEX, OFFSET = 0, 6, 11


def write_data(folder: Path, events: int, size: int) -> StageInputs:
    """A workspace with tables, crops and apexes of some videos, as the stages before leave them."""
    workspace, names = Workspace(folder / "ws"), [f"s{n:02}/e1" for n in range(events)]
    about = {"video": names, "identity": names, "num_frames": OFFSET + 1, "fps": 100.0}
    marks = {"video": names, "event": names, "onset": ONSET, "offset": OFFSET}
    write_tables(workspace, DATASET, videos=pd.DataFrame(about), events=pd.DataFrame(marks))
    inputs = inputs_of(workspace, FlowConfig())

    def fill(number: int) -> Callable[[h5py.Group], None]:
        def write(group: h5py.Group) -> None:
            onset, apex, _ = make_pair(size, number)
            clip = np.stack([onset] * APEX + [apex] * (OFFSET - APEX) + [onset])
            fill_event(group, clip)

        return write

    crops = {name: fill(number) for number, name in enumerate(names)}
    apexes = {name: [{"event": name, "video": name, "apex": APEX}] for name in names}
    for stage, units in (("registration", crops), ("apex", apexes)):
        write_store(workspace, DATASET, stage, units, keys=inputs.keys(stage))  # type: ignore[arg-type]
    return inputs


def inputs_of(workspace: Workspace, config: FlowConfig) -> StageInputs:
    """The workspace's stages under these flow settings; every crop is stored: no raw frames."""
    configs = {
        "align": AlignConfig(),
        "registration": RegistrationConfig(),
        "apex": ApexConfig(),
        "flow": config,
    }
    return StageInputs(workspace, DATASET, None, configs)


def whole(
    workspace: Workspace, config: FlowConfig, target: Path, clock: Callable[[], float]
) -> float:
    """Seconds of the stage on every event, the part's digest included."""
    inputs = inputs_of(workspace, config)
    inputs.keys("flow")
    began = clock()
    result = one_part(inputs, "flow", target)
    spent = clock() - began
    assert set(result.status.values()) == {"ok"}
    return spent


def parts(
    workspace: Workspace, config: FlowConfig, target: Path, clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds of the steps, each on every event by itself; the flow as the stage computes it."""
    wanted = [("onset_apex", ONSET, APEX), ("apex_offset", APEX, OFFSET)]
    t0 = clock()
    store, clips = StageStore(workspace, DATASET, "registration"), []
    names = store.units()
    for name in names:
        with store.open(name) as group:
            clips.append({frame: group["crops"][frame] for frame in (ONSET, APEX, OFFSET)})
    store.close()
    t1 = clock()
    if wants_batches(config):
        fields = compute_many([(clip, wanted) for clip in clips], config)
    else:
        fields = [compute_fields(clip, wanted, config) for clip in clips]
    t2 = clock()
    stored = [quantise(field, config.store) for field in fields]
    t3 = clock()
    with h5py.File(target, "w") as file:
        for name, (flow, *_, strain) in zip(names, stored, strict=True):
            file[f"{name}/flow"], file[f"{name}/strain"] = flow, strain
    file_digest(target)
    t4 = clock()
    return {"read": t1 - t0, "flow": t2 - t1, "strain": t3 - t2, "write": t4 - t3}


def main(argv: list[str] | None = None) -> int:
    """Measure, print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backend", default="numba", choices=["numba", "torch", "triton"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    print(f"kernels ready after {warm_up():.1f} s")
    print("preset   pairs/s whole  kernel alone  share   read  flow  strain  write (ms a pair)")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = write_data(folder, options.events, options.size).workspace
        pairs = 2 * options.events
        for preset in ("opencv", "fast"):
            config = FlowConfig.model_validate({"preset": preset, "backend": options.backend})
            clock = time.perf_counter if wants_batches(config) else time.process_time
            whole(workspace, config, folder / "part.h5", clock)  # compiles what is to be compiled
            totals, splits = [], []
            for _ in range(options.rounds):
                totals.append(whole(workspace, config, folder / "part.h5", clock))
                splits.append(parts(workspace, config, folder / "split.h5", clock))
            ms = {k: 1e3 * statistics.median(s[k] for s in splits) / pairs for k in splits[0]}
            total = statistics.median(totals) / pairs
            share = statistics.median(s["flow"] / t for s, t in zip(splits, totals, strict=True))
            rows.append(
                {
                    "preset": preset,
                    "backend": options.backend,
                    "size": options.size,
                    "share": share,
                    "ms": ms,
                }
            )
            print(
                f"{preset:8} {1 / total:13.1f} {1e3 / ms['flow']:13.1f} {share:6.1%} "
                f"{ms['read']:6.2f} {ms['flow']:5.2f} {ms['strain']:7.2f} {ms['write']:6.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
