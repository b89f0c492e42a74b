"""Which worker is given what, and what becomes of work whose worker is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings, strategies as st

from emomm_study.evaluate.schedule import AHEAD, AT_ONCE, LOSSES, Schedule
from emomm_study.failures import IN_A_ROW

Batch = tuple[int, ...]
Dies = Callable[[Batch, bool], bool]
MOST = 1000
"""Steps after which a schedule is held not to end."""


def of(batches: Sequence[Batch]) -> Schedule:
    return Schedule(batches, lambda batch: [(i,) for i in batch], lambda batch: f"{batch} at fault")


def batches(count: int, size: int = 2) -> list[Batch]:
    return [tuple(range(size * i, size * i + size)) for i in range(count)]


def given_to(schedule: Schedule, worker: object, workers: int = 1) -> list:
    found = []
    while task := schedule.next(worker, workers):
        found.append(task)
    return found


class Simulated:
    """Workers that are lost where ``dies`` says so of a piece, and of whether it is asked alone.

    Attributes
    ----------
    came
        Results in their order.
    lost
        How many workers were lost with a piece, and ``asked`` how often it was begun.
    aside
        What was with a worker, among others, when that was lost.
    """

    def __init__(self, pieces: Sequence[Batch], dies: Dies, workers: int = 2) -> None:
        self.schedule, self.dies = of(pieces), dies
        self.names = list(range(workers))
        self.came: list[Batch | str] = []
        self.lost: Counter[Batch] = Counter()
        self.asked: Counter[Batch] = Counter()
        self.aside: set[Batch] = set()
        self.in_a_row = 0

    def run(self, choose: Callable[[list[int]], int] = min, *, until: int = 10**6) -> Simulated:
        for _ in range(MOST):
            if self.schedule.over or self.in_a_row > until:
                return self
            self._step(choose)
        raise AssertionError(f"not over after {MOST} steps")

    def _step(self, choose: Callable[[list[int]], int]) -> None:
        schedule = self.schedule
        for name in self.names:
            given_to(schedule, name, len(self.names))
            assert len(schedule.under_way(name)) <= AT_ONCE
        busy = [name for name in self.names if schedule.under_way(name)]
        assert busy, "nobody has work, and there is some"
        name = choose(busy)
        task, alone = schedule.under_way(name)[0], schedule.under_way(name)[0].place is None
        assert not alone or (busy == [name] and len(schedule.under_way(name)) == 1)
        self.asked[task.piece] += 1
        if self.dies(task.piece, alone):
            self.lost[task.piece] += 1
            if not alone:
                self.aside.update(own.piece for own in schedule.under_way(name))
            schedule.lost(name)
            self.names[self.names.index(name)] = max(self.names) + 1
        else:
            schedule.done(name, task, task.piece)
        self.came += schedule.results()
        self.in_a_row = schedule.in_a_row

    @property
    def at_fault(self) -> list[str]:
        return [x for x in self.came if isinstance(x, str)]

    @property
    def clips(self) -> list[int]:
        return [i for x in self.came if not isinstance(x, str) for i in x]


def of_clips(poison: Sequence[int]) -> Dies:
    return lambda piece, _: not set(poison).isdisjoint(piece)


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


def test_what_a_worker_is_lost_with_is_asked_when_all_else_is_done_and_alone():
    schedule = of(batches(3))
    given_to(schedule, "a", 2)
    schedule.lost("a")
    [other] = given_to(schedule, "b", 2)
    assert other.piece == (4, 5) and given_to(schedule, "c", 2) == []
    schedule.done("b", other, other.piece)
    # Its result does not wait for those before it.
    assert list(schedule.results()) == [(4, 5)]
    for piece, worker, idle in (((0, 1), "c", "b"), ((2, 3), "b", "c")):
        [alone] = given_to(schedule, worker, 2)
        # The second was only read when the worker was lost, and is asked alone as well.
        assert (alone.piece, alone.losses) == (piece, 0) and given_to(schedule, idle, 2) == []
        schedule.done(worker, alone, alone.piece)
    assert list(schedule.results()) == batches(2) and schedule.over


def test_a_clip_that_costs_all_its_workers_is_cut_out_and_at_fault_at_the_stated_price():
    run = Simulated(batches(6, 3), of_clips([4])).run()
    assert run.at_fault == ["(4,) at fault"] and sorted(run.clips) == sorted({*range(18)} - {4})
    assert run.lost == {(3, 4, 5): 1 + LOSSES, (4,): LOSSES}
    # What was with a worker when that was lost comes after all others, whose order is as it was.
    others = [piece for piece in batches(6, 3) if piece not in run.aside]
    assert run.came == [*others, (12, 13, 14), (3,), (5,), "(4,) at fault"]
    # Each loss was held against a clip of the first batch, which was done each time.
    assert run.asked[(0,)] == 2 * LOSSES and run.lost[(0,)] == 0


def test_a_clip_that_is_all_there_is_costs_no_more():
    run = Simulated([(0,)], of_clips([0])).run()
    assert run.came == ["(0,) at fault"] and run.lost == {(0,): 1 + LOSSES}


def test_losses_count_from_none_where_the_witness_is_lost_too():
    nearly = [True, False] * (LOSSES - 1)
    turns = iter([False, True, *nearly, True, True, *nearly, False])
    run = Simulated(batches(2), lambda *_: next(turns), 1).run()
    assert run.came == batches(2) and run.lost == {(2, 3): 2 * LOSSES, (0,): 1}


def test_one_that_hangs_by_itself_is_not_asked_again_and_again():
    schedule = of([(0,), (1,)])
    first, _ = given_to(schedule, "a")
    schedule.done("a", first, "done")
    schedule.lost("a", hung=True)
    [alone] = given_to(schedule, "b")
    assert alone.piece == (1,)
    schedule.lost("b", hung=True)
    [witness] = given_to(schedule, "c")
    schedule.done("c", witness, "done")
    assert list(schedule.results()) == ["done", "(1,) at fault"] and schedule.over


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 10), st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False),
    st.integers(0, 20), st.floats(0, 1), st.sets(st.integers(0, 9), max_size=3),
)  # fmt: skip
def test_whatever_is_lost_each_clip_comes_once_and_only_what_was_lost_alone_is_blamed(
    count, size, workers, rng, accidents, often, poison
):
    left = accidents

    def dies(piece, alone):
        nonlocal left
        if not poison.isdisjoint(piece):
            return True
        hit = left > 0 and rng.random() < often
        left -= hit
        return hit

    run = Simulated(batches(count, size), dies, workers).run(rng.choice)
    blamed = {int(text.strip("(").split(",")[0]) for text in run.at_fault}
    assert sorted([*run.clips, *blamed]) == list(range(count * size))
    assert len(blamed) == len(run.at_fault)
    assert poison & {*range(count * size)} <= blamed
    first = [piece for piece in batches(count, size) if piece not in run.aside]
    assert run.came[: len(first)] == first
    # An innocent one is blamed, or cut, only after that many losses of its own.
    whole = {i for piece in batches(count, size) if piece in run.came for i in piece}
    for piece in batches(count, size):
        if whole.isdisjoint(piece):
            assert run.lost[piece] >= LOSSES
    for clip in blamed - poison:
        assert run.lost[clip,] >= LOSSES
    # What a poisonous one costs is bounded, by accidents alone.
    for clip in poison & blamed:
        own = next(b for b in batches(count, size) if clip in b)
        assert max(run.lost[own], run.lost[clip,]) <= 1 + LOSSES * (1 + accidents)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 10), st.randoms(use_true_random=False), st.lists(st.integers(0, 2)))
def test_fewer_losses_than_those_that_count_blame_nobody(count, rng, alone):
    """Whatever is lost among others, and then each piece alone fewer times than :data:`LOSSES`."""
    pieces = batches(count)
    left = dict(zip(pieces, [*alone, *[LOSSES - 1] * count], strict=False))

    def dies(piece, alone):
        if not alone:
            return rng.random() < 0.7
        left[piece] = left.get(piece, 0) - 1
        return left[piece] >= 0

    run = Simulated(pieces, dies).run(rng.choice)
    assert sorted(run.came) == pieces


class Storm:
    """Kills so many workers, nearly each that is alone, and each second one among others."""

    def __init__(self, kills: int, alone: float, seed: int) -> None:
        self.left, self.alone, self.random = kills, alone, random.Random(seed)

    def __call__(self, piece: Batch, alone: bool) -> bool:
        hit = self.left > 0 and self.random.random() < (self.alone if alone else 0.5)
        self.left -= hit
        return hit


@pytest.mark.parametrize("alone", [0.8, 0.9, 1.0])
def test_twenty_accidents_of_nearly_all_that_is_asked_blame_nobody(alone):
    unlike = 0
    for seed in range(500):
        storm = Storm(20, alone, seed)
        while storm.left:
            came = Simulated(batches(8), storm).run(storm.random.choice).came
            unlike += set(came) != set(batches(8))
    assert unlike <= 0.01 * 500


@pytest.mark.parametrize("done", [0, 1, 30])
def test_workers_that_are_lost_whatever_they_do_are_told_from_pieces_in_a_bounded_time(done):
    """After so many pieces, with 20 more and their parts to come."""
    count = 0

    def dies(piece, alone):
        nonlocal count
        count += 1
        return count > done

    for left in (3, 12, 40):
        count = 0
        run = Simulated(batches(done + left, 8), dies).run(until=IN_A_ROW)
        assert run.in_a_row > IN_A_ROW and not run.at_fault
        assert sum(run.lost.values()) <= IN_A_ROW * (LOSSES if not done else 2) + LOSSES


def test_pieces_that_are_lost_one_by_one_are_no_row_where_others_are_done_between():
    """However many clips are poisonous: the workers are sound."""
    poison = range(0, 240, 8)
    run = Simulated(batches(60, 8), of_clips(poison)).run(until=IN_A_ROW)
    assert len(run.at_fault) == len(poison) and run.schedule.over


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_over_at_once_and_one_piece_when_it_is_done(count):
    schedule = of(batches(count))
    assert schedule.over == (count == 0)
    for task in given_to(schedule, "a"):
        schedule.done("a", task, "done")
    assert list(schedule.results()) == ["done"] * count and schedule.over
