"""Work done by several processes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from crash import MEDIA, small_model
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.chase.equations import SteeringConfig
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import Chance, Method, Oracle
from emomm_study.evaluate.parallel import BEHIND, in_order, once_done, processes_for
from emomm_study.evaluate.store import PredictionStore

COALITIONS = ("TAV", "TA", "AV", "V")


def slow_first(piece: int) -> tuple[int, int]:
    if piece == 0:
        torch.ones(600, 600).matrix_power(40)
    return piece, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_pieces(processes):
    results = list(in_order(slow_first, range(9), processes))
    assert [piece for piece, _ in results] == list(range(9))
    pids = {pid for _, pid in results}
    assert pids == {os.getpid()} if processes == 1 else os.getpid() not in pids
    assert len(pids) == processes


def test_one_piece_or_none_is_not_worth_a_process():
    assert list(in_order(slow_first, [3], 4)) == [(3, os.getpid())]
    assert list(in_order(slow_first, [], 4)) == []


def test_a_process_computes_with_one_thread_so_that_results_do_not_hang_on_the_cores():
    assert set(in_order(lambda _: torch.get_num_threads(), range(4), 2)) == {1}


def fails_at_two(piece: int) -> int:
    if piece == 2:
        raise FileNotFoundError("piece 2 is gone")
    return piece


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_in_its_turn_with_its_own_type_and_words(processes):
    results = in_order(fails_at_two, range(5), processes)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(FileNotFoundError, match="piece 2 is gone"):
        next(results)


class Odd(Exception):
    """Cannot be made again from its message, as pickling would."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Odd("one", "two"), (Odd, RuntimeError), "one and two"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "no text"), UnicodeDecodeError, "no text"),
        # In a generator Python puts a RuntimeError in its place, and never ends the work by it.
        (StopIteration("too soon"), (StopIteration, RuntimeError), ""),
        (OSError(28, "No space left on device"), OSError, "No space left"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_no_exception_is_lost_or_taken_for_the_end(error, kind, words, processes):
    def work(piece):
        if piece == 2:
            raise error
        return piece

    results, found = in_order(work, range(5), processes), []
    with pytest.raises(kind, match=words) as raised:
        found.extend(results)
    # Where it came from is its cause's to say; its own message is one line.
    assert "\n" not in str(raised.value)
    if type(error) is OSError:
        assert raised.value.errno == 28


def test_a_process_that_is_killed_ends_the_work_with_an_error_instead_of_hanging():
    def suicidal(piece: int) -> int:
        if piece == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return piece

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(in_order(suicidal, range(6), 2))


def test_a_gpu_is_not_shared_by_forked_processes():
    assert processes_for("cuda") == 1
    assert processes_for("cpu") == len(os.sched_getaffinity(0))


# The same answers


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for i in range(7):
        sound = tone(0.5 + 0.05 * i, hertz=200 + 20 * i)
        write_mp4(folder / f"{i}.mp4", frames=grey_frames(4, 56), sound=sound)
        rows.append({
            "sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"word {i}",
            "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4", "speaker_id": "s",
            "label_gt": i % 5, "label_t": 1, "label_a": i % 5, "label_v": 3,
        })  # fmt: skip
    (folder / "5.mp4").write_bytes(b"damaged")
    return pd.DataFrame(rows), folder


def test_two_processes_give_the_answers_traces_states_and_failures_of_one(model, clips, tmp_path):
    table, folder = clips
    found = []
    for processes in (1, 2):
        home = tmp_path / str(processes)
        store = PredictionStore(home / "p.sqlite")
        bench = Experiment(model, table, {"ch_sims_v2": folder}, store, MEDIA, 2,
                           processes=processes, progress=False, keep_encodings=True)  # fmt: skip
        answers = bench.predictions(table, COALITIONS, traces=True, states=True)
        assert bench.fingerprint == _only_run(store)
        found.append((answers, bench.traces(), bench.state_store.read(table["sample_id"])))
        # The caller's store knows what its processes wrote.
        assert len(bench.encodings._place) == 6
    (first, traces, states), (second, other_traces, other_states) = found
    assert len(first) == 28 and first["failure"].notna().sum() == 4
    pd.testing.assert_frame_equal(first, second, rtol=1e-4)
    np.testing.assert_allclose(traces.mass, other_traces.mass, atol=1e-6)
    assert states.index.equals(other_states.index)
    queries = states.query_state[:], other_states.query_state[:]
    torch.testing.assert_close(*queries, atol=1e-5, rtol=1e-4)


def _only_run(store: PredictionStore) -> str:
    with store._connect() as db:
        [(fingerprint,)] = db.execute("SELECT fingerprint FROM runs").fetchall()
    return fingerprint


def test_two_processes_steer_as_one_does(model, clips, tmp_path):
    table, folder = clips
    config = SteeringConfig(first_layer=1, tau=0.0, gamma=3.0, beta=0.5, top_k=2)
    methods = [
        Method("oracle", Oracle(), config, scored=True),
        Method("chance", Chance(), config, "attention"),
        Method("all queries", Oracle(), SteeringConfig(first_layer=1, beta=0, scope="all")),
    ]
    tables = [
        Experiment(model, table, {"ch_sims_v2": folder}, PredictionStore(tmp_path / f"{n}.sqlite"),
                   MEDIA, 2, processes=n, progress=False).steered(table, ("TAV", "AV"), methods)
        for n in (1, 2)
    ]  # fmt: skip
    assert tables[0]["failure"].notna().sum() == 6
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


class Threaded:
    """Garbage whose end waits for a thread, which a forked process does not have."""

    def __init__(self) -> None:
        self.itself, self.stop = self, threading.Event()
        self.thread = threading.Thread(target=self.stop.wait, daemon=True)
        self.thread.start()

    def __del__(self) -> None:
        self.stop.set()
        # In a child the thread never ends; without a limit this would wait for ever.
        self.thread.join(5)
        if os.getpid() != PARENT and threading.current_thread() is threading.main_thread():
            os._exit(3)


PARENT = os.getpid()


def test_a_process_does_not_free_what_its_parent_had_thrown_away():
    gc.disable()
    try:
        Threaded()
        found = list(in_order(lambda piece: (gc.collect(), piece)[1], range(4), 2))
    finally:
        gc.enable()
    assert found == [0, 1, 2, 3]


# Work by a second thread


def test_each_result_is_given_once_one_other_thread_is_done_with_it_in_its_order():
    worked, at_most = [], []

    def work(number):
        time.sleep(0.01 * (number % 3))
        worked.append((number, threading.current_thread()))

    def turns():
        for number in range(12):
            at_most.append(number - len(given))
            yield [number] if number % 4 else [number, -number]

    given = []
    for number in once_done(work, turns()):
        assert number in [done for done, _ in worked]
        given.append(number)
    assert (
        [done for done, _ in worked] == given == [0, 0, 1, 2, 3, 4, -4, 5, 6, 7, 8, -8, 9, 10, 11]
    )
    [thread] = {thread for _, thread in worked}
    assert thread is not threading.main_thread() and not thread.is_alive()
    # What comes does not wait for the thread, until as much waits as may.
    assert max(at_most) <= BEHIND


def test_what_comes_is_received_while_the_thread_works_and_given_in_a_turn_without_any():
    received, begun = threading.Event(), threading.Event()

    def work(number):
        begun.set()
        assert received.wait(10)

    def turns():
        yield [0]
        assert begun.wait(10)
        received.set()
        while not given:
            time.sleep(0.01)
            yield []
        yield [1]

    given = []
    for number in once_done(work, turns()):
        given.append(number)
    assert given == [0, 1]


def test_an_error_of_the_thread_is_raised_in_its_results_turn_and_nothing_more_is_begun():
    begun, given = [], []

    def work(number):
        begun.append(number)
        if number == 2:
            raise OSError(28, "No space left on device")
        time.sleep(0.05)

    with pytest.raises(OSError, match="No space left"):
        for number in once_done(work, ([number] for number in range(9))):
            given.append(number)
    assert given == [0, 1] and len(begun) <= 3 + BEHIND


def test_an_error_of_what_comes_is_raised_when_all_before_it_is_given():
    def turns():
        yield [0, 1]
        raise KeyError("gone")

    given = []
    with pytest.raises(KeyError, match="gone"):
        for number in once_done(lambda _: time.sleep(0.05), turns()):
            given.append(number)
    assert given == [0, 1]


def test_whoever_leaves_waits_for_the_work_that_is_begun_and_for_no_other():
    begun, ended = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.05)
        ended.append(number)

    results = once_done(work, iter([[0, 1, 2]]))
    assert next(results) == 0
    results.close()
    assert begun == ended and len(begun) < 3
