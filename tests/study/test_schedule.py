"""Which worker is given what, and what becomes of work whose worker is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st

from emomm_study.evaluate.schedule import AHEAD, AT_ONCE, DEATHS, Schedule

Batch = tuple[int, ...]


def of(batches: Sequence[Batch]) -> Schedule:
    return Schedule(batches, lambda batch: [(i,) for i in batch], lambda batch: f"{batch} at fault")


def batches(count: int, size: int = 2) -> list[Batch]:
    return [tuple(range(size * i, size * i + size)) for i in range(count)]


def given_to(schedule: Schedule, worker: object, workers: int = 1) -> list:
    found = []
    while task := schedule.next(worker, workers):
        found.append(task)
    return found


def test_a_worker_has_two_pieces_at_most_and_all_of_them_no_more_than_may_wait():
    schedule = of(batches(20))
    assert [task.place for task in given_to(schedule, "a", 2)] == [0, 1]
    assert [task.place for task in given_to(schedule, "b", 2)] == [2, 3]
    # The first never comes: others go on until what waits for it is enough.
    done = 0
    while task := next(iter(schedule.under_way("b")), None):
        schedule.done("b", task, task.place)
        given_to(schedule, "b", 2)
        assert not list(schedule.results())
        done += 1
    assert done + AT_ONCE == 2 * AHEAD


def test_who_has_lost_a_worker_is_alone_with_the_next_and_others_go_on_before():
    schedule = of(batches(6))
    given_to(schedule, "a", 2)
    other = given_to(schedule, "b", 2)
    schedule.lost("a")
    # Not beside another: that one would be lost with it, or blamed for it.
    assert given_to(schedule, "b", 2) == []
    [again] = given_to(schedule, "c", 2)
    assert (again.place, again.deaths) == (0, 1)
    for task in other:
        schedule.done("b", task, task.place)
    [second] = given_to(schedule, "b", 2)
    # It was only read when the worker was lost, and has not lost one yet.
    assert (second.place, second.deaths) == (1, 0)


def test_a_piece_that_costs_two_workers_is_cut_and_the_clip_that_does_is_at_fault():
    schedule, results, lost = of([(0, 1, 2), (3, 4)]), [], Counter()
    for turn in range(20):
        for task in given_to(schedule, turn):
            if 1 in task.piece:
                lost[task.piece] += 1
                schedule.lost(turn)
                break
            schedule.done(turn, task, task.piece)
        results += schedule.results()
    assert schedule.over
    assert results == [(0,), "(1,) at fault", (2,), (3, 4)]
    assert lost == {(0, 1, 2): DEATHS, (1,): DEATHS}


@settings(max_examples=200)
@given(st.data(), st.integers(1, 12), st.integers(1, 4))
def test_whatever_is_lost_every_piece_comes_once_and_in_order(data, count, workers):
    schedule, came, names, computed = of(batches(count, 3)), [], list(range(workers)), Counter()
    deaths = data.draw(st.integers(0, 8))
    while not schedule.over:
        for name in names:
            for task in given_to(schedule, name, workers):
                assert len(schedule.under_way(name)) <= AT_ONCE
                assert task.place < count
        busy = [name for name in names if schedule.under_way(name)]
        assert busy, "nobody has work, and there is some"
        name = data.draw(st.sampled_from(busy))
        if deaths and data.draw(st.booleans()):
            deaths -= 1
            schedule.lost(name)
            names[names.index(name)] = max(names) + 1
        else:
            task = data.draw(st.sampled_from(list(schedule.under_way(name))))
            computed.update(task.piece)
            schedule.done(name, task, task.piece)
        came += schedule.results()
    fault = [x for x in came if isinstance(x, str)]
    clips = [i for x in came if not isinstance(x, str) for i in x]
    assert clips == sorted(set(clips)) and set(computed.values()) <= {1}
    # Each clip at fault has cost its batch two workers, and two itself.
    assert len(clips) + len(fault) == 3 * count and len(fault) <= 2


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_over_at_once_and_one_piece_when_it_is_done(count):
    schedule = of(batches(count))
    assert schedule.over == (count == 0)
    for task in given_to(schedule, "a"):
        schedule.done("a", task, "done")
    assert list(schedule.results()) == ["done"] * count and schedule.over
