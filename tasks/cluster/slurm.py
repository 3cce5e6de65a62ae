"""Workers as batch jobs of Slurm, through dask-jobqueue: started, replaced and ended with a run.

Tried against programs that stand in for `sbatch`, `squeue` and `scancel`; not on a real Slurm.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from data.errors import ConfigError, MissingExtraError
from data.settings import Settings
from models.recipe_text import read_file
from tasks.cluster.site import ROOT

logger = logging.getLogger(__name__)


class SlurmProfile(Settings):
    """One batch job, and how many of them. Read from YAML; see docs/cluster.md."""

    cores: int = Field(1, ge=1, description="Cores of a job: so many chunks at once.")
    memory: str = Field("4GB", description="Memory of a job.")
    walltime: str = Field("01:00:00", description="A job's longest life, HH:MM:SS.")
    signal_s: int = Field(120, ge=10, description="Seconds before its end that it is told.")
    queue: str | None = Field(None, description="Partition.")
    account: str | None = None
    gpus: int = Field(0, ge=0, description="GPUs of a job.")
    minimum: int = Field(1, ge=0, description="Jobs kept, while the run lasts.")
    maximum: int = Field(8, ge=1, description="At most so many jobs.")
    interface: str | None = Field(None, description="Network interface, e.g. ib0.")
    host: str | None = Field(None, description="Address under which jobs reach the run.")
    directives: tuple[str, ...] = Field((), description="More #SBATCH lines.")
    prologue: tuple[str, ...] = Field((), description="Shell lines before the worker starts.")
    logs: str | None = Field(None, description="Folder of the jobs' logs.")
    python: str | None = Field(None, description="Python on the nodes; default this one.")


def read_profile(path: Path) -> SlurmProfile:
    """The profile in a YAML file. Raises ConfigError naming what is wrong in it."""
    values = read_file(path)
    try:
        return SlurmProfile.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        known = ", ".join(SlurmProfile.model_fields)
        raise ConfigError(f"profile {path}", expected=f"keys of {known}", got=said) from error


def arguments(profile: SlurmProfile) -> dict[str, Any]:
    """What dask-jobqueue's SLURMCluster is given for a profile."""
    directives = [f"--signal=B:USR1@{profile.signal_s}", "--requeue", *profile.directives]
    if profile.gpus:
        directives.append(f"--gres=gpu:{profile.gpus}")
    scheduler = {"host": profile.host} if profile.host else {}
    return {
        "cores": profile.cores,
        "processes": 1,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "queue": profile.queue,
        "account": profile.account,
        "interface": profile.interface,
        "job_extra_directives": directives,
        "job_script_prologue": [f"cd '{ROOT}'", *profile.prologue],
        "log_directory": profile.logs,
        "python": profile.python,
        "worker_command": "tasks.cluster.batch",
        "scheduler_options": {"dashboard_address": None, **scheduler},
    }


@contextmanager
def started(path: Path) -> Iterator[Any]:
    """A scheduler in this process, whose workers Slurm starts; its jobs end with the run.

    A job that ends (its wall time, a lost node) is replaced as long as there is work.
    """
    try:
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler slurm:…",
            expected="the package dask-jobqueue",
            got="none",
            todo='Install the extra: pip install -c constraints.txt -e ".[cluster]".',
        ) from error

    template = SLURMJob._script_template
    # the worker takes the place of the job's shell: signals for the job are its own
    script = template.replace("%(worker_command)s", "exec %(worker_command)s")
    job = type("Job", (SLURMJob,), {"_script_template": script})
    Cluster = type("Cluster", (SLURMCluster,), {"job_cls": job})
    profile = read_profile(path)
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "--scheduler slurm:…", expected="a machine that has Slurm", got="no sbatch on the PATH"
        )
    try:
        cluster = Cluster(**arguments(profile))
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"profile {path}", expected="a cluster that can be started", got=str(error)[:300]
        ) from error
    try:
        cluster.adapt(minimum_jobs=profile.minimum, maximum_jobs=profile.maximum)
        logger.info("Slurm: %d to %d jobs of %s", profile.minimum, profile.maximum, path.name)
        yield cluster
    finally:
        cluster.close(timeout=20)
