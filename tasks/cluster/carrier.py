"""Jobs handed to Dask workers: the carrier of `--runner dask`.

Prefect's tasks, the publication and all decisions stay in the run's process; only the computing is
elsewhere. A job whose worker is lost is given to another by the scheduler, a few times at most; the
one attempt whose answer arrives is published, what others leave is removed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from data.errors import ApexflowError, ConfigError
from data.stages.heartbeat import patiently, read_beat
from data.stages.limits import WorkerDiedError
from data.stages.pool import Events
from tasks.carriers import NO_GPU, Share, clear
from tasks.cluster import require_distributed
from tasks.cluster.site import Site, SiteError, processor, scheduler_address
from tasks.cluster.worker import EXPECTED, STARTED, Envelope, Reply, describe, dumps, loads
from tasks.request import RunRequest

Job = TypeVar("Job")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)
CONNECT_S = 20.0  # for a scheduler to answer
WORKERLESS_S = 120.0  # a run waits so long for the first or next worker
LOOK_S = 1.0
MOST_LOST = 3  # workers one job may cost
ANSWER_S = 20.0  # for an answer that is there to come over
_numbers = itertools.count()


class ClusterError(ApexflowError):
    """The scheduler or all workers are gone."""

    code = "no_cluster"


@contextlib.contextmanager
def connected(request: RunRequest) -> Iterator[DaskCarrier]:
    """A carrier for the scheduler that a request names. Raises ConfigError, MissingExtraError."""
    require_distributed("--scheduler")
    import distributed

    for name in ("distributed", "distributed.client"):  # what matters is said by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if request.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            "--device",
            expected="auto, cpu or cuda with --scheduler",
            got=request.device[:80],
            todo="Which GPUs a worker lends is said where it is started: worker --device.",
        )
    address = request.scheduler
    kind, _, profile = address.partition(":")
    if kind == "slurm" and not profile.startswith("//"):
        from tasks.cluster.slurm import started

        with started(Path(profile)) as cluster, distributed.Client(cluster) as client:
            yield DaskCarrier(client, address, request, patience_s=float("inf"))
        return
    address = scheduler_address(address)
    where: dict[str, Any] = (
        {"address": address} if "://" in address else {"scheduler_file": address}
    )
    if "://" not in address and not Path(address).is_file():
        raise ConfigError(
            "--scheduler",
            expected="tcp://HOST:PORT, a scheduler's file, or slurm:PROFILE.yaml",
            got=repr(address[:200]),
        )
    try:
        client = distributed.Client(**where, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"--scheduler {address}",
            expected="a Dask scheduler that answers",
            got=f"{type(error).__name__}: {error}"[:300],
            todo="Start one: dask scheduler. Then workers: python -m flows worker --scheduler …",
        ) from error
    try:
        yield DaskCarrier(client, address, request)
    finally:
        client.close(timeout=3)


def _trampoline() -> Callable[[bytes], bytes]:
    """A function that travels by value: the scheduler need not have our code to pass it on."""

    def carry(envelope: bytes) -> bytes:
        from tasks.cluster.worker import carry_out

        return carry_out(envelope)

    return carry


def _has(resources: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in needs.items())


def _as_site_error(error: BaseException) -> SiteError:
    """A worker that has not even this module says so in its own words."""
    if isinstance(error, SiteError):
        return error
    got = f"{type(error).__name__}: {error}"[:300]
    return SiteError("worker", expected="the code of the run", got=got)


@dataclass(frozen=True)
class _Given:
    """A job at the scheduler."""

    future: Any
    only: frozenset[str] | None  # workers that may do it; None: any that has what it needs

    def is_stranded(self, able: set[str]) -> bool:
        """Whether none of its workers is left, while others could do it."""
        return self.only is not None and bool(able) and not self.only & able


class DaskCarrier:
    """See `tasks.carriers.Carrier`, and `data.stages.contract.Machines`."""

    def __init__(
        self, client: Any, address: str, request: RunRequest, patience_s: float = WORKERLESS_S
    ) -> None:
        self._client, self._address, self._patience_s = client, address, patience_s
        self._workspace = Path(request.workspace).absolute()
        self._roots = {name: root.absolute() for name, root in request.roots().items()}
        self._known: Site | None = None
        self._refused: set[str] = set()  # addresses of workers that do not fit
        self._seen = time.monotonic()  # a worker was there

    @property
    def machines(self) -> DaskCarrier:
        """The workers."""
        return self

    def own_gpus(self, device: str) -> tuple[str, ...]:
        """None: the workers' are counted by Dask."""
        return ()

    # ------------------------------------------------------------------- who is there, and fits

    def _site(self) -> Site:
        """What workers must agree on; workers there now are asked, and named if they differ."""
        if self._known is None:
            beat = patiently(lambda: read_beat(self._workspace), time.sleep)
            self._known = Site.of(self._workspace, beat.token if beat else "", self._roots)
            told = {**asdict(self._known)}
            self._client.set_metadata(list(EXPECTED), told)
        return self._known

    def _workers(self) -> dict[str, Any]:
        """Workers by address that are there and were not refused. Raises ClusterError."""
        if self._client.status != "running":
            raise self._no_scheduler()
        found = self._client.scheduler_info(n_workers=-1)["workers"]
        return {name: facts for name, facts in found.items() if name not in self._refused}

    def _wait_for_workers(self) -> dict[str, Any]:
        """Workers that fit: new ones are checked. Raises SiteError if there are only others."""
        site, begun, said = self._site(), time.monotonic(), False
        refusals: list[BaseException] = []
        while True:
            found = self._workers()
            if found:
                order = Envelope(site, describe, (), "describe", "", pooled=False)
                answers = self._client.run(_trampoline(), dumps(order), on_error="return")
                for name, text in answers.items():
                    answer = loads(text) if isinstance(text, bytes) else Reply(error=text)
                    if name in found and answer.error is not None:
                        self._refuse(name, answer.error)
                        refusals.append(answer.error)
                        del found[name]
                    elif name in found:
                        found[name] = {**found[name], **answer.result}
            if found:
                self._seen = time.monotonic()
                self._say_other_processors(found)
                return found
            if refusals and not self._workers():
                raise _as_site_error(refusals[0])
            if not said:
                logger.warning("waiting for a worker at %s", self._address)
                said = True
            if time.monotonic() - begun > self._patience_s:
                raise self._no_workers(0)
            time.sleep(LOOK_S)

    def _refuse(self, name: str, error: BaseException) -> None:
        self._refused.add(name)
        logger.warning("worker %s is not used: %s", name, error)

    def _say_other_processors(self, workers: dict[str, Any]) -> None:
        models = {str(w.get("processor")) for w in workers.values()} | {processor()}
        if len(models) > 1 and not getattr(self, "_said", False):
            self._said = True
            logger.warning(
                "processors of several models (%s): results may differ in their last bits",
                ", ".join(sorted(models)),
            )

    def devices(self, asked: str) -> tuple[str, ...]:
        """A name per GPU of all workers, or ("cpu",). Raises ConfigError for GPUs not there."""
        if asked == "cpu":
            return ("cpu",)
        every = [gpu for w in self._wait_for_workers().values() for gpu in w["gpus"]]
        if every:
            return tuple("cuda" for _ in every)
        if asked == "auto":
            return ("cpu",)
        raise ConfigError("--device", expected="workers with a GPU", got=f"{asked}, none")

    def ask(self, function: Callable[..., Any], *args: Any, gpu: bool = False) -> Any:
        """See `data.stages.contract.Machines`. Raises what the function raises."""
        workers = self._wait_for_workers()
        needs = {"GPU": 1.0} if gpu and any(w["gpus"] for w in workers.values()) else {}
        key = f"ask-{self._site().token}-{next(_numbers)}"
        order = Envelope(self._site(), function, args, "a question", key, pooled=False)
        given = self._submit(order, needs, list(workers), priority=10)
        while True:
            try:
                answer: Reply = loads(given.future.result(timeout=LOOK_S))
                break
            except TimeoutError:
                if given.is_stranded(self._look(needs, 1)):
                    self._give_up([given.future])
                    order = replace(order, key=f"ask-{self._site().token}-{next(_numbers)}")
                    given = self._submit(order, needs, list(self._wait_for_workers()), priority=10)
            except Exception as error:
                raise self._failure("a question", error) from error
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _submit(
        self, order: Envelope, needs: dict[str, float], fit: Sequence[str], priority: int
    ) -> _Given:
        only = {"workers": list(fit), "allow_other_workers": False} if self._refused else {}
        future = self._client.submit(
            _trampoline(),
            dumps(order),
            key=order.key,
            pure=False,
            resources=needs,
            priority=priority,
            **only,
        )
        return _Given(future, frozenset(fit) if self._refused else None)

    # ------------------------------------------------------------------------------ the jobs

    def carry(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        *,
        label: Callable[[Job], str],
        share: Share = NO_GPU,
        started: Callable[[Job], None] | None = None,
        ended: Callable[[Job, BaseException | None], None] | None = None,
    ) -> Iterator[Result]:
        """See Carrier. All jobs are queued at the scheduler; started when a worker says so."""
        if not jobs:
            return
        workers = self._wait_for_workers()
        news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        needs = {"GPU": 1.0 / share.per_gpu} if share.per_gpu else {"CPU": 1.0}
        events = Events(label, started, ended, clear)
        given: dict[str, _Given] = {}
        waiting: dict[str, Any] = {}
        begun: set[int] = set()  # ids of jobs
        tries: Counter[int] = Counter()  # ids of jobs → how often given to others
        suspects: list[tuple[int, Any]] = []  # (starts, job) whose workers were lost
        starts: Counter[str] = Counter()  # keys → how often a worker said that it began
        stranded: Counter[int] = Counter()  # ids of jobs → how often their last worker was lost

        def submit(job: Any, fit: Sequence[str]) -> None:
            key = f"{label(job)}-{self._site().token}-{next(_numbers)}"
            order = Envelope(self._site(), function, job, label(job), key, gpu=bool(share.per_gpu))
            waiting[key] = job
            given[key] = self._submit(order, needs, fit, priority=-len(given))
            given[key].future.add_done_callback(lambda future: news.put(("ended", future.key)))

        def begin(key: str, host: str) -> None:
            job = waiting.get(key)
            if job is not None and id(job) not in begun:
                begun.add(id(job))
                events.start(job)
                logger.info("%s: on %s", label(job), host)

        def move(able: set[str]) -> None:
            """Give jobs whose workers have all gone to those that came since."""
            keys = [key for key in waiting if given[key].is_stranded(able)]
            fit = list(self._wait_for_workers()) if keys else []
            for key in keys:
                job = waiting.pop(key)
                self._give_up([given.pop(key).future])
                stranded[id(job)] += bool(starts[key])
                if stranded[id(job)] > MOST_LOST:
                    events.end(job, self._died(label(job), stranded[id(job)]))
                else:
                    submit(job, fit)

        self._client.subscribe_topic(STARTED, lambda event: news.put(("started", event[1])))
        try:
            for job in jobs:
                submit(job, list(workers))
            while waiting or suspects:
                if not waiting:  # whoever was seen to begin less often first
                    suspects.sort(key=lambda pair: pair[0])
                    submit(suspects.pop(0)[1], list(self._wait_for_workers()))
                try:
                    kind, what = news.get(timeout=LOOK_S)
                except queue.Empty:
                    move(self._look(needs, len(waiting)))
                    if events.full:
                        break
                    continue
                if kind == "started":
                    starts[what["key"]] += 1
                    begin(what["key"], what["host"])
                    continue
                if what not in waiting:
                    continue
                done = waiting[what]
                answer = self._answer(label(done), given[what].future)
                if answer is None:
                    given[what].future.add_done_callback(
                        lambda future: news.put(("ended", future.key))
                    )
                    continue
                if isinstance(answer.error, SiteError) and tries[id(done)] < 3:
                    tries[id(done)] += 1
                    logger.warning("%s The job goes to another worker.", answer.error)
                    del waiting[what]
                    submit(done, list(self._wait_for_workers()))
                    continue
                if starts[what] < answer.lost and not tries[id(done)]:
                    # it may only have waited on workers that another job has cost
                    tries[id(done)] += 1
                    logger.warning("%s It is tried again after the others, alone.", answer.error)
                    del waiting[what]
                    suspects.append((starts[what], done))
                    continue
                begin(what, answer.who)
                for said in answer.warnings:
                    logger.warning("%s: %s", answer.who, said)
                del waiting[what]
                del given[what]  # so that the worker may forget it
                events.end(done, answer.error)
                if answer.error is None:
                    yield answer.result
                    clear(done)  # what a lost attempt at it has left
                if events.full:
                    break
        finally:
            with contextlib.suppress(Exception):  # the scheduler has gone: that is said already
                self._client.unsubscribe_topic(STARTED)
            if waiting:
                self._give_up([given[key].future for key in waiting])
            for left in (*waiting.values(), *(job for _, job in suspects)):
                clear(left)
        if events.error is not None:
            raise events.error

    def _answer(self, label: str, future: Any) -> Reply | None:
        """What a worker answered, or why there is none; None: lost with its worker, it comes again.

        Raises ClusterError.
        """
        if future.status == "cancelled" or self._client.status != "running":
            raise self._no_scheduler()
        if future.status not in ("finished", "error"):
            return None
        end = time.monotonic() + ANSWER_S
        while True:
            try:
                found: Reply = loads(future.result(timeout=LOOK_S))
                return found
            except TimeoutError:  # lost with its worker a moment ago, or still on its way
                if future.status != "finished" or time.monotonic() > end:
                    return None
            except Exception as error:
                failure = self._failure(label, error)
                if isinstance(failure, ClusterError):
                    raise failure from error
                return Reply(error=failure, lost=getattr(error, "allowed_failures", -1) + 1)

    def _failure(self, label: str, error: BaseException) -> BaseException:
        """The error of a job that no worker answered."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return self._died(label, error.allowed_failures + 1)
        if self._client.status != "running" or type(error).__name__ in (
            "CancelledError",
            "FutureCancelledError",
            "FuturesCancelledError",
            "CommClosedError",
        ):
            return self._no_scheduler()
        return error

    def _died(self, label: str, lost: int) -> WorkerDiedError:
        return WorkerDiedError(
            label,
            expected="a worker to finish it",
            got=f"{lost} workers lost while they were at it",
            todo="See the workers' logs; other jobs were finished and are kept.",
        )

    def _give_up(self, futures: list[Any]) -> None:
        try:
            self._client.cancel(futures, force=True)
        except Exception as error:  # the scheduler has gone
            logger.debug("not cancelled: %s", error)

    def _look(self, needs: dict[str, float], left: int) -> set[str]:
        """Workers there now that may do what needs so much.

        Raises ClusterError when the scheduler has gone, or all of them for too long.
        """
        found = self._workers()
        able = {name for name, facts in found.items() if _has(facts.get("resources") or {}, needs)}
        if able:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > self._patience_s:
            raise self._no_workers(left, "a worker with a GPU" if found else "a worker")
        return able

    def _no_scheduler(self) -> ClusterError:
        return ClusterError(
            f"scheduler {self._address}",
            expected="it to answer",
            got="a connection that was lost",
            todo="Finished parts are kept: start the scheduler and workers, and run again.",
        )

    def _no_workers(self, left: int, expected: str = "a worker") -> ClusterError:
        return ClusterError(
            f"scheduler {self._address}",
            expected=expected,
            got=f"none for {self._patience_s:.0f} s, with {left} job(s) left",
            todo=f"Start some: python -m flows worker --scheduler {self._address}; then run again.",
        )
