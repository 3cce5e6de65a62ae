"""What the Prefect server holds for us: work pool, deployments, GPU limit, automation.

Made, and made again, by `python -m flows up`. The pool's job template has no variables: whoever may
create a run chooses what our flows offer, never the command, environment or folder of a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.ghosts import GONE
from tasks.prefect_executor import GPU_LIMIT

POOL = "apexflow"
AUTOMATION = "apexflow: close runs that are gone"
_REPLACED = ("apexflow: close runs that stopped answering",)  # names of earlier versions
TEMPLATE: dict[str, Any] = {
    "job_configuration": {"stream_output": True},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


def set_up(prefect: Callable[..., str], gpus: int | None = None) -> None:
    """Everything of the above, on the server in use; idempotent. `prefect` runs its command.

    gpus: slots of the GPU limit, where a person has said how many.
    """
    _make_pool()
    prefect("deploy", "--all")
    _make_gpu_limit(gpus)
    _make_automation()


def _make_pool() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=TEMPLATE)
    with get_client(sync_client=True) as client:
        client.create_work_pool(pool, overwrite=True)


def _make_gpu_limit(gpus: int | None) -> None:
    """As many slots as there are GPUs (at least one), unless somebody has set another number."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        if gpus is not None:
            client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpus)
            return
        try:
            client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            from models.devices import count_gpus

            client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, max(1, count_gpus()))


def _make_automation() -> None:
    """Mark as Crashed a run that the server's watcher found to be gone: its process has ended.

    Not Prefect's documented trigger on missing heartbeats, which also fires on a laptop that slept
    and can crash runs that have finished.
    """
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    for name in (*_REPLACED, AUTOMATION):
        try:
            found: Any = Automation.read(name=name)
        except ValueError:  # there is none
            continue
        if name == AUTOMATION:
            return
        found.delete()
    Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            expect={GONE},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="Its process is gone.")],
    ).create()
