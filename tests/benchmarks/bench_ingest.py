"""Ingest cost against the number of files, on trees of empty frames laid out as CAS(ME)^3 part A.

Shows that cost is linear in files and memory far below the frames' own size. The tree is written to
a temporary folder (inodes, not bytes: 1.3 million files need as many inodes) and removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADER = "Subject,Filename,Onset,Apex,Offset,AU,Objective class,emotion"
LETTERS = "abcdefghijklm"


def write_tree(root: Path, videos: int, frames: int) -> None:
    """`videos` folders of `frames` empty files and a sheet with one event each."""
    rows = [HEADER]
    for i in range(videos):
        subject, letter = f"spNO.{i // len(LETTERS) + 1}", LETTERS[i % len(LETTERS)]
        folder = root / "part_A" / subject / letter / "color"
        folder.mkdir(parents=True)
        for number in range(1, frames + 1):
            (folder / f"{number}.jpg").touch()
        rows.append(f"{subject},{letter},5,9,{min(30, frames)},4,III,disgust")
    (root / "labels_v2.csv").write_text("\n".join(rows) + "\n")


def measure(root: Path) -> dict[str, float]:
    """CPU and wall seconds and peak memory of one ingest in a process of its own."""
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from data.ingest.tables import ingest\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "cpu, wall = time.process_time(), time.perf_counter()\n"
        "tables = ingest(Path(sys.argv[1]), 'casme3')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(time.process_time() - cpu, time.perf_counter() - wall, base, peak,"
        " len(tables.frames), len(tables.events))\n"
    )
    house = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=house, check=True, capture_output=True
    )
    cpu, wall, base, peak, frames, events = (float(x) for x in out.stdout.split())
    unit = 1024 if sys.platform != "darwin" else 1
    return {
        "frames": frames,
        "events": events,
        "cpu_s": round(cpu, 3),
        "wall_s": round(wall, 3),
        "us_per_file": round(cpu / frames * 1e6, 3),
        "memory_mb": round((peak - base) * unit / 2**20, 1),
        "peak_mb": round(peak * unit / 2**20, 1),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure ingest for growing trees; print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=60, help="folders (956 in the real set)")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[100, 400, 1600], help="files in each folder"
    )
    parser.add_argument("--folder", type=Path, help="where to write the tree (default: temporary)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args(argv)
    results = []
    print(f"{'files':>9} {'cpu s':>8} {'wall s':>8} {'us/file':>8} {'MB more':>8} {'MB peak':>8}")
    for frames in options.frames:
        root = Path(tempfile.mkdtemp(prefix="bench_ingest_", dir=options.folder))
        try:
            start = time.perf_counter()
            write_tree(root, options.videos, frames)
            written = time.perf_counter() - start
            row = measure(root) | {"written_s": round(written, 1)}
        finally:
            shutil.rmtree(root)
        results.append(row)
        print(
            f"{row['frames']:9.0f} {row['cpu_s']:8.2f} {row['wall_s']:8.2f}"
            f" {row['us_per_file']:8.2f} {row['memory_mb']:8.1f} {row['peak_mb']:8.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"bench": "ingest", "rows": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
