"""Workers of Ray: the tables of one calm process, whatever dies, hangs or is full meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ray_run
import torch
from ray_run import ANY, BATCH, CLIPS, COALITIONS, FULL, HANGING, MEET, PAUSE, POISON, Told, bench

from emomm_lib.chase.equations import SteeringConfig
from emomm_study.evaluate import cluster
from emomm_study.evaluate.cluster import Cluster, Fleet, expected_workers, started
from emomm_study.evaluate.experiment import ExperimentSettings, executor_of
from emomm_study.evaluate.methods import Chance, Method, Oracle
from emomm_study.evaluate.schedule import AHEAD, LOSSES
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS
from emomm_study.evaluate.store import PredictionStore
from emomm_study.failures import RunStopped
from emomm_study.paths import ROOT
from emomm_study.run import profiles

MOMENTS = 20 if os.environ.get("EMOMM_LONG_TESTS") == "1" else 2
"""Random moments at which a worker is killed, and the driver."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    table = ray_run.write_clips(folder)
    table.to_csv(folder / "clips.csv", index=False)
    return table, folder


@pytest.fixture(scope="module")
def ray():
    """A cluster of two on this machine, whose workers find the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(map(str, [ROOT, ROOT / "tests"]))
        patch.setenv("PYTHONPATH", path + os.pathsep + os.environ.get("PYTHONPATH", ""))
        patch.delenv("RAY_ADDRESS", raising=False)
        found = started(2)
        yield found
        Fleet.now_ends()
        found.shutdown()


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Told:
    return Told(tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="module")
def two(ray, told) -> Cluster:
    return Cluster(told, workers=2, patience=600)


@pytest.fixture(autouse=True)
def forgotten(told):
    yield
    for file in told.folder.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def calm(clips, tmp_path_factory):
    """What one process answers, records and keeps."""
    home = tmp_path_factory.mktemp("calm")
    own = bench(Told(home), *clips, home / "p.sqlite")
    return found(own, clips[0])


def found(own, table):
    answers = own.predictions(table, COALITIONS, traces=True, states=True)
    return answers, own.traces(), own.state_store.read(table["sample_id"])


def assert_same(one, other) -> None:
    """Bit for bit: each batch is computed by one thread, wherever that is."""
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    assert one[1].index.equals(other[1].index)
    np.testing.assert_array_equal(one[1].mass, other[1].mass)
    assert one[2].index.equals(other[2].index)
    for name in ("query_state", "modality_states", "mass", "counts"):
        assert torch.equal(getattr(one[2], name), getattr(other[2], name))


def begun(told: Told) -> Counter:
    """How often each clip was begun to be asked about."""
    return Counter(text for _, texts in told.asked() for text in texts)


def test_two_workers_give_the_tables_of_one_process_and_ask_no_clip_twice(
    clips, told, two, calm, tmp_path
):
    table, folder = clips
    own = replace(bench(told, table, folder, tmp_path / "p.sqlite", two), keep_encodings=True)
    told.say(MEET, "2")
    assert_same(found(own, table), calm)
    assert calm[0]["failure"].notna().sum() == len(COALITIONS)
    assert len(begun(told)) == CLIPS - 1 and set(begun(told).values()) == {1}
    pids = {pid for pid, _ in told.asked()}
    assert len(pids) == 2 and os.getpid() not in pids
    # Nobody but this process writes: what is encoded there is kept here.
    assert len(own.encodings._place) == CLIPS - 1
    again = replace(own, store=PredictionStore(tmp_path / "2.sqlite"))
    again.encodings.folder.parent.mkdir(parents=True)
    own.encodings.folder.rename(again.encodings.folder)
    again.encodings.refresh()
    files = {file: file.stat().st_mtime_ns for file in again.encodings.folder.iterdir()}
    assert_same(found(again, table), calm)
    # Workers read them, and had nothing new to be kept.
    assert {file: file.stat().st_mtime_ns for file in again.encodings.folder.iterdir()} == files


def test_two_workers_steer_as_one_process_does_and_keep_importance_for_the_next(
    clips, told, two, tmp_path
):
    table, folder = clips
    config = SteeringConfig(first_layer=1, tau=0.0, gamma=3.0, beta=0.5, top_k=2)
    methods = [
        Method("oracle", Oracle(), config, scored=True),
        Method("chance", Chance(), config, "attention"),
        Method("all", Oracle(), SteeringConfig(first_layer=1, beta=0, scope="all"), variant=1),
    ]
    tables, kept = [], []
    for name, executor in (("one", None), ("two", two)):
        own = bench(told, table, folder, tmp_path / f"{name}.sqlite", executor)
        own.steered(table, ("TAV",), methods[1:2])
        tables.append(own.steered(table, COALITIONS, methods))
        with own.store._connect() as db:
            kept.append(db.execute("SELECT * FROM importance ORDER BY 2, 3").fetchall())
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert kept[0] == kept[1] and len(kept[0]) == len(COALITIONS) * (CLIPS - 1)


class Killer(threading.Thread):
    """Kills a worker now and then."""

    def __init__(self, told: Told, moments: int) -> None:
        super().__init__(daemon=True)
        self.told, self.left, self.stopped = told, moments, threading.Event()
        self.random = random.Random(0)

    def run(self) -> None:
        while self.left and not self.stopped.is_set():
            before = len(self.told.asked())
            while len(self.told.asked()) == before and not self.stopped.wait(0.02):
                pass
            time.sleep(self.random.uniform(0, 0.3))
            if pids := [pid for pid, _ in self.told.asked()[-2:] if alive(pid)]:
                os.kill(self.random.choice(pids), signal.SIGKILL)
                self.left -= 1


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_killed_at_random_moments_change_nothing_and_cost_a_batch_each(
    clips, told, two, calm, tmp_path
):
    table, folder = clips
    told.say(PAUSE, "0.2")
    killer = Killer(told, MOMENTS)
    killer.start()
    runs = 0
    while killer.left:
        own = bench(told, table, folder, tmp_path / f"{runs}.sqlite", two)
        assert_same(found(own, table), calm)
        runs += 1
    killer.stopped.set()
    killer.join()
    # A batch that was computed when its worker died, and none that was only read.
    twice = sum(begun(told).values()) - runs * (CLIPS - 1)
    assert 0 <= twice <= MOMENTS * BATCH


def test_a_clip_that_kills_its_workers_is_a_failure_and_costs_no_other(
    clips, told, two, calm, tmp_path
):
    table, folder = clips
    told.say(POISON, "word 7")
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    answers = own.predictions(table, COALITIONS)
    lost = answers["sample_id"] == "c07"
    assert answers.loc[lost, "failure"].str.contains("died or hung at it, again and again").all()
    assert lost.sum() == len(COALITIONS)
    # It counts as no answer, right or wrong.
    assert answers.loc[lost, ["label", "score", "reply"]].isna().all(axis=None)
    # With its batch among others and alone, and by itself.
    assert begun(told)["word 7"] == 1 + 2 * LOSSES
    rows, expected = (
        whole[~lost].drop(columns="again").reset_index(drop=True) for whole in (answers, calm[0])
    )
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-4)
    # Only clips of its own batch were asked again, of one whose answers went with the worker, and
    # the clip that shows each time that workers are sound.
    assert sum(count > 1 for count in begun(told).values()) <= 2 * BATCH + 1
    # The next run asks once more, and no other clip; then it is known.
    before = begun(told)
    for again in (True, False):
        assert answers.loc[lost, "again"].eq("once").all() == again
        answers = own.predictions(table, COALITIONS)
    assert begun(told) - before == Counter({"word 7": 1 + LOSSES})


def test_workers_that_are_lost_at_once_whatever_they_are_asked_stop_the_run(
    clips, told, two, tmp_path, monkeypatch
):
    table, folder = clips
    monkeypatch.setattr(cluster, "IN_A_ROW", 3)
    told.say(POISON, ANY)
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    with pytest.raises(RunStopped, match=r"lost with 4 pieces of work in a row, so it is the work"):
        own.predictions(table, COALITIONS)
    assert not own.store.known(own.fingerprint) | own.store.failed(own.fingerprint)


def test_a_worker_that_hangs_is_ended_and_its_batch_computed_by_another(
    clips, told, two, calm, tmp_path, monkeypatch
):
    table, folder = clips
    # Workers are there before little patience is had with them.
    bench(told, table, folder, tmp_path / "first.sqlite", two).predictions(table.head(4), ("V",))
    begun_before = begun(told)
    monkeypatch.setattr(two, "patience", 20)
    told.say(HANGING, "word 9")
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    assert_same(found(own, table), calm)
    assert not (told.folder / HANGING).exists()
    assert (begun(told) - begun_before)["word 9"] >= 2


def test_a_full_disk_here_or_in_a_worker_stops_the_run_and_the_next_goes_on(
    clips, told, two, calm, tmp_path, monkeypatch
):
    table, folder = clips
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    plain, left = own.store.write_runs, [2]

    def write(*args):
        left[0] -= 1
        if left[0] < 0:
            raise sqlite3.OperationalError("database or disk is full")
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(own.store, "write_runs", write)
        with pytest.raises(RunStopped, match="the disk is full"):
            found(own, table)
    assert len(own.store.known(own.fingerprint)) == 2 * BATCH * len(COALITIONS)
    told.say(FULL, "word 3")
    with pytest.raises(RunStopped, match="the disk is full"):
        found(own, table)
    assert_same(found(own, table), calm)
    # What was under way when it stopped, twice, is asked again, and nothing else.
    assert sum(begun(told).values()) <= CLIPS - 1 + 2 * (2 * AHEAD * BATCH)


def test_answers_are_kept_when_their_states_are_on_disk_and_not_where_they_cannot_be(
    clips, told, two, calm, tmp_path, monkeypatch
):
    table, folder = clips
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    keep, write, left = own.store.write_runs, own.state_store.write, [3]

    def late(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        time.sleep(0.3)
        write(*args)

    def kept(runs):
        there = bench(told, table, folder, tmp_path / "p.sqlite").state_store.known()
        answered = [p for p in runs[own.fingerprint][0] if p.failure is None]
        keys = {(p.sample_id, p.coalition, p.media) for p in answered}
        assert {key for key in keys if key[1] in STATE_COALITIONS} <= there
        keep(runs)

    monkeypatch.setattr(own.store, "write_runs", kept)
    monkeypatch.setattr(own.state_store, "write", late)
    with pytest.raises(RunStopped, match=r"the disk is full \(OSError: \[Errno 28\] No space left"):
        found(own, table)
    # All that came before it, and nothing after.
    assert len(own.store.known(own.fingerprint)) == 3 * BATCH * len(COALITIONS)
    left[0] = CLIPS
    assert_same(found(own, table), calm)


def test_one_worker_does_as_two(clips, told, ray, calm, tmp_path):
    table, folder = clips
    own = bench(told, table, folder, tmp_path / "p.sqlite", Cluster(told, workers=1))
    assert_same(found(own, table), calm)
    assert len({pid for pid, _ in told.asked()}) == 1


def test_drivers_killed_at_random_moments_lose_no_more_than_what_was_under_way(
    clips, told, two, ray, calm, tmp_path, monkeypatch
):
    """Against a running cluster, by its address, as a driver on another machine would be."""
    table, folder = clips
    Fleet.now_ends()
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    told.say(PAUSE, "0.2")
    context, rng = multiprocessing.get_context("spawn"), random.Random(1)
    kills = runs = 0
    while kills < MOMENTS:
        store = tmp_path / f"{runs}.sqlite"
        exitcode = None
        while exitcode != 0:
            before = len(told.asked())
            process = context.Process(target=ray_run.drive, args=(folder, told, store, 2))
            process.start()
            while kills < MOMENTS and process.is_alive() and len(told.asked()) == before:
                time.sleep(0.02)
            process.join(rng.uniform(0.1, 0.6) if kills < MOMENTS else None)
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
            exitcode = process.exitcode
            assert exitcode in (0, -signal.SIGKILL)
        own, before = bench(told, table, folder, store), len(told.asked())
        assert_same(found(own, table), calm)
        assert len(told.asked()) == before
        runs += 1
    assert sum(begun(told).values()) <= runs * (CLIPS - 1) + kills * 2 * AHEAD * BATCH


def test_people_are_found_by_workers_as_by_this_process(clips, told, two, tmp_path):
    table, folder = clips
    few = table.iloc[4:8]
    one, other = (
        bench(told, few, folder, tmp_path / name / "p.sqlite", executor)
        for name, executor in (("one", None), ("two", two))
    )
    found = one.regions(few)
    assert found["failure"].notna().sum() == 1
    pd.testing.assert_frame_equal(other.regions(few), found)
    masked = [own.person_only(few, tokens=0.5) for own in (one, other)]
    answers = [own.predictions(few, ("V",)) for own in masked]
    pd.testing.assert_frame_equal(*answers, check_exact=True)


def test_another_model_than_the_drivers_is_refused_before_it_is_asked(clips, told, two, tmp_path):
    table, folder = clips
    own = bench(told, table, folder, tmp_path / "p.sqlite", two)
    own.model._model.fingerprint = "another"
    with pytest.raises(RunStopped, match="not the one that asks .*model: 'random', not 'another'"):
        own.predictions(table, ("V",))
    assert not told.asked()


def test_more_workers_than_the_cluster_has_room_for_are_refused(clips, told, ray, tmp_path):
    own = bench(told, *clips, tmp_path / "p.sqlite", Cluster(told, workers=3))
    with pytest.raises(RunStopped, match="workers: 3 needs as many CPUs, and the cluster has 2"):
        own.predictions(clips[0], ("V",))
    own = bench(told, *clips, tmp_path / "p.sqlite", Cluster(told, device="cuda"))
    with pytest.raises(RunStopped, match="workers: auto needs as many GPUs, and the cluster has 0"):
        own.predictions(clips[0], ("V",))


# Without Ray


def settings(**changed) -> ExperimentSettings:
    given = {
        "profile": "mini", "ch_sims_root": None, "cmu_mosi_root": None, "model": "m",
        "dtype": "float32", "device": "cpu", "batch_size": 2, "num_frames": 2,
        "frame_pixels": None, "max_audio_seconds": 1.0, "render_clips": None,
    }  # fmt: skip
    return ExperimentSettings(**given | changed)


def test_a_profile_names_the_executor_and_how_many_workers():
    assert executor_of(settings()) is None
    assert executor_of(settings(executor="ray")).workers is None
    assert executor_of(settings(executor="ray", workers=3)).workers == 3
    with pytest.raises(ValueError, match="executor is local or ray; got 'slurm'"):
        executor_of(settings(executor="slurm"))


def test_a_machine_of_one_core_expects_one_worker(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert expected_workers(None, "cpu") == 1 and expected_workers(4, "cpu") == 4
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert expected_workers(None, "cpu") is None


def test_without_the_package_the_error_says_how_to_add_it(clips, told, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    own = bench(told, *clips, tmp_path / "p.sqlite", Cluster(told))
    with pytest.raises(RunStopped, match=r"pip install -e '\.\[cluster\]'"):
        own.predictions(clips[0], ("V",))


def test_ray_is_imported_only_where_it_is_asked_for():
    program = "import sys, emomm_study.evaluate.experiment; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"executor": "slurm"}, r"\* executor: slurm: no such executor"),
        ({"workers": 0}, r"\* workers: 0: no number of workers"),
        ({"executor": "ray", "device": "cuda:1"}, r"\* device: cuda:1 is one GPU, and each"),
    ],
)
def test_a_profile_that_cannot_be_spread_stops_before_it_begins(given, said, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(profiles, "_device_problem", lambda value: None)
    needs = {k: v for k, v in profiles.NEEDS.items() if k != "device"}
    monkeypatch.setattr(profiles, "NEEDS", needs)
    with pytest.raises(profiles.PipelineError, match=said):
        profiles.preflight({"profile": "mini"} | given)
