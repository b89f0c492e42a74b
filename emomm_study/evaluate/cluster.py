"""Ray: workers on several GPUs or machines that compute what one process would (extra ``cluster``).

A worker opens a model by name and holds it. The driver, which is the process that asks, cuts the
batches, gives them out in their order, and alone reads and writes stores. Workers read clips, which
have to be at the same paths for all of them.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from emomm_study.evaluate.files import Read, Reader
from emomm_study.evaluate.parallel import Raised, once_done, processes_for
from emomm_study.evaluate.plan import Item
from emomm_study.evaluate.questions import ANSWERING, Group, all_failed, prepared
from emomm_study.evaluate.schedule import AT_ONCE, Schedule, Task
from emomm_study.evaluate.states import Key
from emomm_study.evaluate.steered import Steering
from emomm_study.evaluate.unsteered import Unsteered
from emomm_study.failures import IN_A_ROW, Broken, Failure, RunStopped, one_line
from emomm_study.media.region_store import LOOKING, Found, RegionStore, look, open_locator
from emomm_study.media.regions import PersonRegions, PersonSettings
from emomm_study.media.video import MediaError, VideoSettings
from emomm_study.systems.interface import System

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

Ask = Unsteered | Steering
STARTS = 3
"""Workers in a row that may be lost before one of them is ready; and tries to start Ray."""
PROBE = 60.0
"""Seconds that a cluster may take to do nothing, where it is there."""
VIDEOS = 4
"""Videos in which a worker looks for people at a time."""
LOST = "WorkerLost"
"""Stands for the type of an exception in failures of clips that workers are lost with."""


# What is sent


@dataclass(frozen=True)
class Known:
    """Stands for the store of regions in a process that has none, with those of some videos."""

    fingerprint: str
    found: Mapping[Path, PersonRegions | Exception] = field(default_factory=dict)

    def read(self, video: Path) -> PersonRegions:
        """Like :meth:`RegionStore.read`."""
        found = self.found[video]
        if isinstance(found, Exception):
            raise found
        return found


class Job(Protocol):
    """Work of one kind: it is sent to every worker, and a piece at a time with what it needs."""

    def open(self) -> Any:
        """The tool that a worker holds."""

    def check(self, tool: Any) -> None:
        """Raises ``ValueError`` for another tool than the driver's."""

    def read(self, tool: Any, sent: Any) -> Any:
        """What can be made ready while another piece is computed."""

    def compute(self, tool: Any, sent: Any, read: Any) -> Any:
        """The result of a piece."""


@dataclass(frozen=True)
class Sent:
    """A batch, and what of the driver's stores it takes to ask about it."""

    items: Sequence[Item]
    importance: Mapping[Key, np.ndarray]
    regions: Mapping[Path, PersonRegions | Exception]


@dataclass(frozen=True)
class Computed:
    """What came of a batch, and what the driver is to keep of it."""

    groups: list[Group]
    states: Sequence[tuple] = ()
    encodings: Sequence[tuple] = ()


@dataclass(frozen=True)
class Asking:
    """Asks a model, which has to say of itself what the driver's does (``settings``)."""

    open_model: Callable[[], System]
    settings: Mapping[str, Any]
    ask: Ask
    reader: Reader

    def open(self) -> System:
        return self.open_model()

    def check(self, tool: System) -> None:
        own = tool.settings()
        names = sorted(
            name for name in {*own, *self.settings} if own.get(name) != self.settings.get(name)
        )
        if names:
            shown = "; ".join(f"{n}: {own.get(n)!r}, not {self.settings.get(n)!r}" for n in names)
            raise ValueError(f"a worker's model is not the one that asks ({shown})")

    def read(self, tool: System, sent: Sent) -> Sequence[Read]:
        regions = self.reader.regions and replace(self.reader.regions, found=sent.regions)
        reader = replace(self.reader, device=tool.device, regions=regions)
        return prepared(tool, [reader(item) for item in sent.items])

    def compute(self, tool: System, sent: Sent, read: Sequence[Read]) -> Computed:
        ask = self.ask.here(tool, sent.importance)
        groups = list(ask(read))
        stores = (getattr(ask, name, None) for name in ("states", "encodings"))
        return Computed(groups, *(store.written if store else () for store in stores))


@dataclass(frozen=True)
class Looking:
    """Looks for people."""

    person: PersonSettings
    video: VideoSettings

    def open(self) -> Any:
        return open_locator(self.person)

    def check(self, tool: Any) -> None:
        pass

    def read(self, tool: Any, sent: Sequence[Path]) -> None:
        pass

    def compute(self, tool: Any, sent: Sequence[Path], read: None) -> list[Found]:
        return [(video, look(tool, video, self.video)) for video in sent]


# In a worker


class Worker:
    """The process that holds a tool. Computes one piece at a time, and reads the next meanwhile."""

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._tool: Any = None
        self._jobs: dict[int, Job] = {}

    def begin(self, number: int, job: Job) -> Raised | None:
        """Take a job, with the tool of before where there is one."""
        try:
            with self._alone:
                _one_thread()
                if self._tool is None:
                    self._tool = job.open()
                job.check(self._tool)
                # Two calls run side by side, and need not end in their order.
                if number > max(self._jobs, default=0):
                    self._jobs = {number: job}
        except Exception as error:
            return Raised.by(error)
        return None

    def work(self, number: int, sent: Any) -> tuple[Any, float] | Raised | None:
        """The result of a piece, and seconds that it took to compute; None for a job of before."""
        if (job := self._jobs.get(number)) is None:
            return None
        try:
            _one_thread()
            read = job.read(self._tool, sent)
            with self._alone:
                began = time.monotonic()
                result = job.compute(self._tool, sent, read)
                return result, time.monotonic() - began
        except Exception as error:
            return Raised.by(error)


def _one_thread() -> None:
    # So that answers do not hang on how many cores a machine has.
    torch.set_num_threads(1)


# In the driver


def imported() -> ModuleType:
    """Ray; raises ``RunStopped`` that says how to add it where it is not installed."""
    # It reports who uses it to its makers, where nobody says no.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's workers give way to all else on a machine (nice 15); here they are the run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise RunStopped(
            "executor: ray needs the package ray; add it by the extra cluster "
            "(pip install -e '.[cluster]'), or set executor: local"
        ) from error
    return ray


def _nothing() -> None:
    pass


def started(workers: int | None = None) -> ModuleType:
    """Ray, connected to the cluster of ``RAY_ADDRESS``, or to one of this machine's own.

    The latter has room for ``workers`` on the CPU, one a core at least.
    """
    ray = imported()
    address = os.environ.get("RAY_ADDRESS")
    own = {"address": address}
    if not address:
        cores = processes_for("cpu")
        own = {"address": "local", "num_cpus": max(cores, workers or 1), "include_dashboard": False}
    for left in reversed(range(STARTS)):
        if ray.is_initialized():
            break
        try:
            # A cluster of this machine's own is made anew where it fails.
            ray.init(**own, log_to_driver=False, logging_level=logging.CRITICAL)
            # It may say that it has begun, and then end for want of a part that was too slow.
            ray.get(ray.remote(num_cpus=0)(_nothing).remote(), timeout=PROBE)
        except Exception:
            # A busy machine may take longer than Ray waits.
            ray.shutdown()
            if not left:
                raise
    return ray


@dataclass(eq=False)
class _Actor:
    """A worker as the driver sees it."""

    handle: ActorHandle
    begun: ObjectRef
    ready: bool = False
    since: float = 0.0


class Fleet:
    """Workers that hold the same tool. One fleet is there at a time: another takes its GPUs."""

    _now: Fleet | None = None

    def __init__(self, ray: ModuleType, most: int, gpus: int) -> None:
        Fleet.now_ends()
        Fleet._now = self
        self._ray, self.most, self._gpus = ray, most, gpus
        self._class = ray.remote(Worker)
        self._number, self._job = 0, None
        self.actors: list[_Actor] = []
        self.seconds: list[float] = []
        """What pieces took to compute, in the order in which they were finished."""

    @classmethod
    def now_ends(cls) -> None:
        """End the workers of the fleet that is there, if one is."""
        if cls._now is not None:
            cls._now.end()

    @property
    def there(self) -> bool:
        """Whether it can still be used."""
        return Fleet._now is self and self._ray.is_initialized()

    def begin(self, job: Job) -> int:
        """Give every worker a job; its number."""
        self._number += 1
        self._job = self._ray.put(job)
        for actor in self.actors:
            actor.begun = actor.handle.begin.remote(self._number, self._job)
            actor.ready = False
        return self._number

    def fill(self, wanted: int) -> None:
        """Start workers until there are so many, or as many as there may be."""
        while len(self.actors) < min(wanted, self.most):
            # Both calls of AT_ONCE run: one waits for its turn when it has read its clips.
            options = {"num_cpus": 1, "num_gpus": self._gpus, "max_concurrency": AT_ONCE}
            handle = self._class.options(**options).remote()
            begun = handle.begin.remote(self._number, self._job)
            self.actors.append(_Actor(handle, begun))

    def drop(self, actor: _Actor) -> None:
        """End a worker, if it is still there."""
        self.actors.remove(actor)
        self._ray.kill(actor.handle)

    def end(self) -> None:
        """End all workers."""
        if self._ray.is_initialized():
            for actor in list(self.actors):
                self.drop(actor)
        self.actors.clear()
        Fleet._now = None


@dataclass(eq=False)
class Cluster:
    """Computes batches by workers of a Ray cluster, each with a model of its own.

    Attributes
    ----------
    open_model
        Opens the model in a worker, where it is sent by pickling: a function and names or settings,
        never weights. An experiment's own model, whose settings it has to have, stays where it is.
    device
        ``cuda`` for workers with a GPU each, ``cpu`` for workers of one thread.
    workers
        How many; None for as many as the cluster has GPUs, or CPUs.
    patience, times
        A piece hangs after so many seconds, or after so many times what the slowest has taken,
        whichever is longer: its worker is ended.
    opening
        Seconds in which some worker has to be ready, where none is.
    """

    open_model: Callable[[], System]
    device: str = "cpu"
    workers: int | None = None
    patience: float = 1800.0
    times: float = 10.0
    opening: float = 1800.0

    def __post_init__(self) -> None:
        self._fleets: dict[Any, Fleet] = {}

    def groups(
        self, model: System, batches: Sequence[Sequence[Item]], ask: Ask, reader: Reader
    ) -> Iterator[Group]:
        """What ``ask`` gives for every batch, in their order; late where a worker was lost with it.

        What is to be kept of a batch is written by a second thread, and whole on disk before its
        answers are given. A clip is a failure, to be asked once more in the next run, where losing
        workers is its own fault (``schedule``). Raises what workers raise for the program's (no
        memory, no disk), and what writing does, in its turn; ``Broken`` where workers are lost
        whatever they do; ``RunStopped`` for more workers than there can be.
        """
        regions = reader.regions and Known(reader.regions.fingerprint)
        carried = replace(reader, regions=regions)
        job = Asking(self.open_model, model.settings(), ask.sent(), carried)

        def sent(batch: Sequence[Item]) -> Sent:
            return Sent(batch, ask.lent(batch), _regions(reader.regions, batch))

        def at_fault(batch: Sequence[Item]) -> Computed:
            failure = _lost(ANSWERING)
            return Computed(
                [all_failed(item, ask.fingerprints, failure, again="once") for item in batch]
            )

        def written(done: Computed) -> None:
            for store, parts in (("encodings", done.encodings), ("states", done.states)):
                for part in parts:
                    getattr(ask, store).write(*part)

        schedule = Schedule(batches, lambda batch: [(item,) for item in batch], at_fault)
        with (
            closing(self._carried_out("model", job, schedule, sent, len(batches))) as turns,
            closing(once_done(written, turns)) as results,
        ):
            for done in results:
                yield from done.groups

    def located(
        self, videos: Sequence[Path], *, person: PersonSettings, video: VideoSettings
    ) -> Iterator[Found]:
        """Regions of people in some videos, or why one has none; on CPUs. As :meth:`groups`."""
        pieces = [videos[i : i + VIDEOS] for i in range(0, len(videos), VIDEOS)]
        job = Looking(person, video)

        def at_fault(piece: Sequence[Path]) -> list[Found]:
            return [(video, _lost(LOOKING)) for video in piece]

        schedule = Schedule(pieces, lambda piece: [[video] for video in piece], at_fault)
        kind = "people", person
        with closing(self._carried_out(kind, job, schedule, lambda x: x, len(pieces))) as turns:
            for done in chain.from_iterable(turns):
                yield from done

    @property
    def seconds(self) -> Sequence[float]:
        """What batches took workers to compute, so far."""
        return self._fleets["model"].seconds if "model" in self._fleets else ()

    def end(self) -> None:
        """End all workers. They are also ended with this process, and when others are needed."""
        for fleet in self._fleets.values():
            if fleet.there:
                fleet.end()
        self._fleets.clear()

    def _fleet(self, kind: Any) -> Fleet:
        if kind in self._fleets and self._fleets[kind].there:
            return self._fleets[kind]
        ray = started(self.workers)
        gpus = int(kind == "model" and torch.device(self.device).type == "cuda")
        name = "GPU" if gpus else "CPU"
        there = int(ray.cluster_resources().get(name, 0))
        wanted = self.workers or max(there, 1)
        if kind != "model":
            wanted = min(wanted, max(there, 1))
        if wanted > there:
            raise RunStopped(
                f"workers: {self.workers or 'auto'} needs as many {name}s, and the cluster has "
                f"{there}; choose fewer workers, or start Ray on further machines"
            )
        self._fleets[kind] = Fleet(ray, wanted, gpus)
        return self._fleets[kind]

    def _carried_out(
        self,
        kind: Any,
        job: Job,
        schedule: Schedule[Any, Any],
        sent: Callable[[Any], Any],
        pieces: int,
    ) -> Iterator[list[Any]]:
        """Results of a schedule, a list of what has come a second at most."""
        if schedule.over:
            return
        fleet = self._fleet(kind)
        ray, number = fleet._ray, fleet.begin(job)
        under_way: dict[ObjectRef, tuple[_Actor, Task]] = {}
        starting, waited = 0, time.monotonic()

        def lost(actor: _Actor, *, hung: bool) -> None:
            nonlocal starting
            starting += not actor.ready
            fleet.drop(actor)
            schedule.lost(actor, hung=hung)
            for ref in [ref for ref, (own, _) in under_way.items() if own is actor]:
                del under_way[ref]
            if starting > STARTS:
                raise Broken(f"{starting} workers in a row were lost before they were ready")
            if schedule.in_a_row > IN_A_ROW:
                raise Broken(
                    f"workers were lost with {schedule.in_a_row} pieces of work in a row, so it is "
                    "the workers and not the clips"
                )

        while not schedule.over:
            fleet.fill(pieces)
            for actor in fleet.actors:
                while actor.ready and (task := schedule.next(actor, len(fleet.actors))):
                    if len(schedule.under_way(actor)) == 1:
                        actor.since = time.monotonic()
                    under_way[actor.handle.work.remote(number, sent(task.piece))] = actor, task
            opening = {actor.begun: actor for actor in fleet.actors if not actor.ready}
            gone: dict[_Actor, bool] = {}
            for ref in _done(ray, [*under_way, *opening]):
                actor, task = under_way.get(ref, (opening.get(ref), None))
                try:
                    came = ray.get(ref)
                except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                    gone[actor] = False
                    continue
                if task is None:
                    if came is not None:
                        came.again()
                    actor.ready, starting = True, 0
                    continue
                del under_way[ref]
                result = came
                if not isinstance(came, Raised):
                    result, seconds = came
                    fleet.seconds.append(seconds)
                actor.since = time.monotonic()
                schedule.done(actor, task, result)
            now = time.monotonic()
            limit = max(self.patience, self.times * max(fleet.seconds, default=0.0))
            for actor in fleet.actors:
                if schedule.under_way(actor) and now - actor.since > limit:
                    gone.setdefault(actor, True)
            for actor, hung in gone.items():
                lost(actor, hung=hung)
            waited = now if any(actor.ready for actor in fleet.actors) else waited
            if now - waited > self.opening:
                raise RunStopped(
                    f"no worker was ready within {self.opening:.0f} s; the cluster has free: "
                    f"{ray.available_resources()}"
                )
            found: list[Any] = []
            for result in schedule.results():
                if isinstance(result, Raised):
                    yield found
                    result.again()
                found.append(result)
            yield found


def _done(ray: ModuleType, refs: list[ObjectRef]) -> list[ObjectRef]:
    """All that is done, after a second at most."""
    ray.wait(refs, num_returns=1, timeout=1.0)
    return ray.wait(refs, num_returns=len(refs), timeout=0)[0]


def _regions(
    store: RegionStore | None, items: Sequence[Item]
) -> dict[Path, PersonRegions | Exception]:
    """Regions of the videos that some clips are asked with, or what is raised in their place."""
    found: dict[Path, PersonRegions | Exception] = {}
    for item in items if store is not None else ():
        try:
            found[item.video] = store.read(item.video)
        except (MediaError, LookupError) as error:
            found[item.video] = type(error)(one_line(str(error)))
    return found


def _lost(stage: str) -> Failure:
    reason = f"{stage}: processes died or hung at it, again and again with this clip alone"
    return Failure(stage, reason, LOST)


def expected_workers(workers: int | None, device: str) -> int | None:
    """How many workers there would be; None where only a running cluster can tell."""
    if workers is not None:
        return workers
    if os.environ.get("RAY_ADDRESS"):
        return None
    cuda = torch.device(device).type == "cuda"
    return torch.cuda.device_count() if cuda else processes_for("cpu")
