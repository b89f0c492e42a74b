"""Ray's workers: two against one, what the driver costs, and how many workers it can keep busy.

The third is a simulation: the scheduler that runs (``evaluate.schedule``), under a clock of its own,
with batch times and costs of the driver that were measured in the same call.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
import heapq
import itertools
import pickle
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import measure
from benchmarks.measure import Table, number
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.cluster import Cluster, Computed
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.parallel import once_done
from emomm_study.evaluate.questions import Group
from emomm_study.evaluate.schedule import Schedule
from emomm_study.evaluate.states import (
    COALITIONS as STATE_COALITIONS,
    StateStore,
    in_precision,
)
from emomm_study.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.model.heldout import heldout_clips
from emomm_study.paths import ROOT, cache_dir
from emomm_study.systems.table import load_system

WORKERS = (1, 2, 4, 8, 16, 32, 64)
BATCHES = 500
"""Of the paper profile's notebook 03: 4,000 clips, eight at a time."""
SECONDS = (None, 1.0, 10.0)
"""Means of a batch that are simulated: as measured, and its spread around others."""
LAYERS, HEADS, HIDDEN, CLIPS = 28, 28, 3584, 8
"""A batch of the paper profile, by the 7B's decoder."""
KEPT = (torch.bfloat16, torch.float32)
"""Precisions of its states: the profile's, and the most."""
IN_A_RUN = 10
"""Batches that are received and written one after another."""

_TWO = """\
{clips} held-out clips under eight coalitions, attention and states recorded, {batch} a batch; \
Omni-mini, workers of one thread each on this machine, opened before the clock starts; median \
(min..max) of {repeats} runs, one and two workers by turns. *efficiency*: clips a second over those \
of one worker and over the number of workers. *driver*: CPU time of the process that gives out \
batches and writes stores, a batch; it shares the cores with the workers."""
_DRIVER = """\
What the driver does with a batch of the paper profile, of made-up numbers: {clips} clips under eight \
coalitions, traces of {layers} x {heads} x 3, states of {layers} x 4 x {hidden} for four of them, in \
the precision in which they are kept. *sent*: what a worker sends of it. *a batch*: with states \
written by a second thread while the next batch is received, as in a run of {batches} batches. Medians \
of {repeats}, by turns."""
_SIMULATED = """\
Efficiency of {batches} batches, by workers, in a simulation by the scheduler that runs. Rows are the \
mean time of a batch: *measured* is Omni-mini's here, the others have its spread (the slowest takes \
{spread} times the mean). The driver takes {mini} ms a batch in the first row, and {paper} ms, *a \
batch* for the 7B in {kept} above, in the others. *saturates*: how many workers bring it as much as it \
can take; beyond them none helps. Not in it: networks, and disks that workers share to read clips."""


@dataclass(frozen=True)
class Run:
    """One run: seconds in all, the driver's CPU seconds a batch, and seconds of each batch."""

    seconds: float
    driver: float
    batches: tuple[float, ...]


def simulate(seconds: Sequence[float], driver: float, workers: int) -> float:
    """Seconds that batches of ``seconds`` take so many workers, ``driver`` seconds each besides."""
    schedule: Schedule[float, None] = Schedule(seconds, lambda x: [x], lambda x: None)
    free, now, order = [0.0] * workers, 0.0, itertools.count()
    coming: list[tuple] = []
    while not schedule.over:
        for worker in range(workers):
            while task := schedule.next(worker, workers):
                free[worker] = max(free[worker], now) + task.piece
                heapq.heappush(coming, (free[worker], next(order), worker, task))
        end, _, worker, task = heapq.heappop(coming)
        now = max(now, end) + driver
        schedule.done(worker, task, None)
        for _ in schedule.results():
            pass
    return now


def efficiency(seconds: Sequence[float], driver: float, workers: int) -> float:
    """Of the workers' time in a simulated run, the share in which they compute."""
    return sum(seconds) / (workers * simulate(seconds, driver, workers))


def two_table(clips: int, batch: int, repeats: int) -> tuple[Table, list[Run]]:
    """One worker and two; the runs of two."""
    root, plan = heldout_clips(clips, 7, progress=False)
    opened = partial(load_system, ROOT / "data" / "omni-mini", dtype="float32", device="cpu")
    roots = {corpus.value: root for corpus in Corpus}
    media = MediaSettings(VideoSettings(4), AudioSettings(max_seconds=3.0))
    model, runs = opened(), {1: [], 2: []}
    with TemporaryDirectory(dir=cache_dir("benchmarks")) as folder:
        for turn, workers in itertools.product(range(repeats), runs):
            executor = Cluster(opened, workers=workers)

            def bench(name: str, executor: Cluster = executor) -> Experiment:
                store = PredictionStore(Path(folder) / f"{name}.sqlite")
                return Experiment(model, plan, roots, store, media, batch, progress=False,
                                  executor=executor)  # fmt: skip

            first = plan.head(workers * batch)
            bench(f"{turn}-{workers}-first").predictions(first, ["TAV"])
            before = len(executor.seconds)
            began, cpu = time.perf_counter(), time.process_time()
            bench(f"{turn}-{workers}").predictions(plan, COALITIONS, traces=True, states=True)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            own = tuple(executor.seconds[before:])
            runs[workers].append(Run(took, cpu / len(own), own))
            executor.end()
    one = statistics.median(run.seconds for run in runs[1])
    rows = []
    for workers, own in runs.items():
        took = measure.Timing(tuple(run.seconds for run in own))
        rows.append({
            "workers": str(workers),
            "ms": took.text(),
            "clips a second": number(clips / took.median),
            "efficiency": f"{one / took.median / workers:.2f}",
            "ms a batch, of a worker": number(
                1000 * statistics.mean(s for run in own for s in run.batches)
            ),
            "driver, ms a batch": number(1000 * statistics.median(run.driver for run in own)),
        })  # fmt: skip
    text = _TWO.format(clips=clips, batch=batch, repeats=repeats)
    return Table("Two workers against one", text, rows), runs[2]


def made_up(layers: int, hidden: int, kept: torch.dtype) -> Computed:
    """What a worker sends of a batch, with random numbers."""
    rng = np.random.default_rng(0)
    keys = [(f"cmu_mosi/{i:011d}/{i}", c, "x" * 64) for i in range(CLIPS) for c in COALITIONS]
    traces = [
        StoredTrace(*key, rng.random((layers, HEADS, 3), dtype=np.float32), np.arange(3))
        for key in keys
    ]
    rows = [Prediction(*key, 0, 0.1, *[0.1] * 5) for key in keys]
    stated = [key for key in keys if key[1] in STATE_COALITIONS]
    n = len(stated)
    parts = [
        torch.rand(n, layers, hidden), torch.rand(n, layers, 3, hidden),
        torch.rand(n, layers, HEADS, 3), torch.ones(n, 3, dtype=torch.int32),
    ]  # fmt: skip
    sent = [(stated, in_precision(parts, kept))]
    return Computed([Group(len(keys), {"run": (rows, traces, [])})], sent)


class Driver:
    """What a driver does with batches that all are ``sent``, in a folder of its own."""

    def __init__(self, folder: Path, sent: bytes, kept: torch.dtype) -> None:
        self.sent, self.kept, self._folders = sent, kept, itertools.count()
        self._folder, self._store = folder, PredictionStore(folder / "p.sqlite")
        self._store.begin("run", {})

    def received(self, *_: object) -> Computed:
        return pickle.loads(self.sent)

    def states_written(self, done: Computed) -> Computed:
        states = StateStore(self._folder / f"states-{next(self._folders)}", self.kept)
        for keys, parts in done.states:
            states.write(keys, parts)
        return done

    def answers_written(self, done: Computed) -> None:
        for group in done.groups:
            self._store.write_runs(group.written)

    def steps(self) -> dict[str, float]:
        """Seconds of each step, one after another."""
        found, done = {}, None
        for step in (self.received, self.states_written, self.answers_written):
            began = time.perf_counter()
            done = step(done)
            found[step.__name__.replace("_", " ")] = time.perf_counter() - began
        return found

    def run(self) -> float:
        """Seconds a batch, of :data:`IN_A_RUN` as in a run."""
        began = time.perf_counter()
        turns = ([self.received()] for _ in range(IN_A_RUN))
        for done in once_done(self.states_written, turns):
            self.answers_written(done)
        return (time.perf_counter() - began) / IN_A_RUN


def driver_table(layers: int, hidden: int, repeats: int) -> tuple[Table, float]:
    """What a batch costs the driver; seconds a batch in the paper profile's precision."""
    rows, found = [], {kept: [] for kept in KEPT}
    sent = {kept: pickle.dumps(made_up(layers, hidden, kept), protocol=5) for kept in KEPT}
    for turn, kept in itertools.product(range(repeats + 1), KEPT):
        with TemporaryDirectory(dir=cache_dir("benchmarks")) as folder:
            driver = Driver(Path(folder), sent[kept], kept)
            took = driver.steps() | {"a batch": driver.run()}
        # The first is a warm-up.
        found[kept].extend([took] if turn else [])
    for kept, own in found.items():
        medians = {name: statistics.median(took[name] for took in own) for name in own[0]}
        row = {"kept in": str(kept).removeprefix("torch."), "sent": measure.size(len(sent[kept]))}
        rows.append(row | {f"{name}, ms": number(1000 * took) for name, took in medians.items()})
    text = _DRIVER.format(
        clips=CLIPS, layers=layers, heads=HEADS, hidden=hidden, batches=IN_A_RUN, repeats=repeats
    )
    paper = statistics.median(took["a batch"] for took in found[KEPT[0]])
    return Table("The driver, by batches of the paper profile", text, rows), paper


def simulated_table(runs: Sequence[Run], paper: float) -> Table:
    """How many workers a driver can keep busy."""
    measured = [s for run in runs for s in run.batches]
    mean = statistics.mean(measured)
    drawn = random.Random(0).choices(measured, k=BATCHES)
    mini = statistics.median(run.driver for run in runs)
    rows = []
    for wanted in SECONDS:
        driver = mini if wanted is None else paper
        scale = 1.0 if wanted is None else wanted / statistics.mean(drawn)
        times = [scale * s for s in drawn]
        shown = f"{number(1000 * mean)} ms, measured" if wanted is None else f"{wanted:g} s"
        row = {"a batch": shown}
        row |= {f"{n}": f"{efficiency(times, driver, n):.2f}" for n in WORKERS}
        row["saturates"] = f"{statistics.mean(times) / driver:,.0f}"
        rows.append(row)
    text = _SIMULATED.format(
        batches=BATCHES, spread=number(max(measured) / mean), mini=number(1000 * mini),
        paper=number(1000 * paper), kept=str(KEPT[0]).removeprefix("torch."),
    )  # fmt: skip
    return Table("Up to 64 workers, simulated", text, rows)


def tables(*, quick: bool) -> list[Table]:
    """All three; ``quick`` at the smallest sizes."""
    clips, batch, repeats = (8, 2, 1) if quick else (64, 4, 3)
    two, runs = two_table(clips, batch, repeats)
    layers, hidden = (2, 64) if quick else (LAYERS, HIDDEN)
    driver, seconds = driver_table(layers, hidden, 1 if quick else 5)
    return [two, driver, simulated_table(runs, seconds)]


def main(argv: Sequence[str] | None = None) -> str:
    """Measure; returns the page, printed and perhaps written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it still run?")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes as well")
    given = parser.parse_args(argv)
    # As workers compute; the driver's own model only says what it is.
    torch.set_num_threads(1)
    machine = measure.machine("cpu")
    page = measure.page(
        machine,
        tables(quick=given.quick),
        quick=given.quick,
        command="python -m benchmarks.cluster",
    )
    print(page)
    if given.out:
        given.out.write_text(page, encoding="utf-8")
    return page


if __name__ == "__main__":
    main()
