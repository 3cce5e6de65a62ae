"""A PostgreSQL server of a test's own; needs the real binaries."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Where initdb and pg_ctl are; None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextmanager
def postgres() -> Iterator[str]:
    """Start one, in a folder that its user may enter; yields its address, and ends it."""
    bin_ = binaries()
    assert bin_ is not None
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses root
    folder = Path(tempfile.mkdtemp(prefix="apexflow-postgres-"))
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*words: object) -> None:
        subprocess.run([*as_user, *map(str, words)], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = folder / "data"
    call(bin_ / "initdb", "-D", data, "-U", "apexflow", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call(bin_ / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        call(bin_ / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "apexflow", "prefect")
        yield f"postgresql://apexflow:secret@127.0.0.1:{port}/prefect"
    finally:
        call(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)
