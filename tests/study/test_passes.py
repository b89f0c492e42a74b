"""Sharing the beginnings of prompts: everything is computed, nothing shared is computed twice."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import COALITIONS
from emomm_study.systems.passes import Beginning, Tokens, fork, schedule

# Imported here: beside a CPU build of torch it needs emomm_study.systems to be imported first.
from transformers import DynamicCache  # isort: skip

LENGTH = 40


def prompts(which: list[tuple[int, str]]):
    """Beginnings of (clip, coalition) pairs: V ends at 10 + clip, sound 5 after what precedes."""
    beginnings = []
    for clip, coalition in which:
        own, end, key = [], 3 + clip, (clip,)
        for modality, width in (("V", 7), ("A", 5)):
            if modality in coalition:
                end, key = end + width, (*key, modality)
                own.append(Beginning(modality, key, end))
        beginnings.append(own)
    return [clip for clip, _ in which], beginnings


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(COALITIONS)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_every_prompt_is_computed_whole_and_each_shared_beginning_once(which):
    starts, beginnings = prompts(which)
    passes = schedule(starts, LENGTH, beginnings)
    covered: dict[tuple[int, int], list[tuple[int, int]]] = {}
    answered = []
    for number, step in enumerate(passes):
        for i, row in enumerate(step.rows):
            before = []
            if step.parent is not None:
                parent, of = step.parent
                assert parent < number
                before = covered[parent, of[i]]
                leader = passes[parent].rows[of[i]]
                depth = len(before) - 1
                assert beginnings[row][depth].key == beginnings[leader][depth].key
            covered[number, i] = [*before, (step.start[i], step.end[i])]
            if step.last:
                answered.append(row)
                pieces = covered[number, i]
                assert pieces[0][0] == starts[row] and pieces[-1][1] == LENGTH
                assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    assert sorted(answered) == list(range(len(which)))
    keys = [b.key for own in beginnings for b in own]
    shared = [
        beginnings[row][len(covered[number, i]) - 1].key
        for number, step in enumerate(passes)
        if not step.last
        for i, row in enumerate(step.rows)
    ]
    assert len(shared) == len(set(shared))
    assert set(shared) == {key for key in keys if keys.count(key) > 1}


def test_eight_coalitions_of_a_clip_compute_its_video_once_and_its_sound_twice():
    starts, beginnings = prompts([(0, coalition) for coalition in COALITIONS])
    passes = schedule(starts, LENGTH, beginnings)
    pieces = [(s, e) for step in passes for s, e in zip(step.start, step.end, strict=True)]
    assert pieces.count((0, 10)) == 1  # video
    assert pieces.count((10, 15)) == 1 and pieces.count((0, 8)) == 1  # sound after it, and alone
    assert len(pieces) == 3 + 8


def test_without_anything_to_share_each_prompt_is_one_piece():
    starts, beginnings = prompts([(clip, "TAV") for clip in range(4)])
    [only] = schedule(starts, LENGTH, beginnings)
    assert only.last and only.parent is None and only.start == starts


@given(st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_cut_holds_the_asked_positions_at_the_right_end(rows, seed):
    rng = np.random.default_rng(seed)
    ids = torch.tensor(rng.integers(1, 99, (rows, 9)))
    tokens = Tokens(ids, torch.ones_like(ids), ids % 3, torch.stack([ids, ids + 1, ids + 2]))
    start = rng.integers(0, 8, rows)
    end = np.array([rng.integers(s + 1, 10) for s in start])
    piece = tokens.cut(range(rows), start.tolist(), end.tolist())
    for row in range(rows):
        width = end[row] - start[row]
        assert piece.ids[row, -width:].tolist() == ids[row, start[row] : end[row]].tolist()
        assert piece.positions[2, row, -1] == ids[row, end[row] - 1] + 2
        assert piece.mask[row].sum() == width and (piece.marks[row, :-width] == -1).all()


def test_a_fork_is_independent_of_the_cache_it_comes_from():
    cache = DynamicCache()
    keys = torch.randn(3, 2, 4, 5)
    for layer in range(2):
        cache.update(keys + layer, -keys, layer)
    copy = fork(cache, [2, 0, 2])
    copy.update(keys, keys, 0)
    assert copy.layers[0].keys.shape[2] == 8 and cache.layers[0].keys.shape[2] == 4
    assert torch.equal(copy.layers[1].keys, keys[[2, 0, 2]] + 1)
    copy.layers[1].values.zero_()
    assert torch.equal(cache.layers[1].values, -keys)
