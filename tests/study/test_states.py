"""States on disk against the same in memory: every number, every order, every router."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

from emomm_lib.chase.router import Router
from emomm_lib.chase.training import (
    AT_ONCE,
    RouterStates,
    RouterTargets,
    TrainingSettings,
    routed,
    train_router,
)
from emomm_study.evaluate.fusion import probe_inputs
from emomm_study.evaluate.shards import Shard
from emomm_study.evaluate.states import (
    COALITIONS,
    OnDisk,
    StateStore,
    StoredStates,
    kept_as,
    states_digest,
)
from emomm_study.evaluate.unsteered import Unsteered

LAYERS, HEADS, SIZE = 4, 2, 6
FIELDS = ("query_state", "modality_states", "mass")
CLIPS = [f"{i:02d}" for i in range(11)]
KEYS = [(name, coalition, "1") for name in CLIPS for coalition in COALITIONS]


def parts(count, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, LAYERS, SIZE, generator=rng).to(dtype),
        torch.randn(count, LAYERS, 3, SIZE, generator=rng).to(dtype),
        torch.rand(count, LAYERS, HEADS, 3, generator=rng),
        torch.randint(0, 9, (count, 3), generator=rng),
    ]


def written(folder, *, dtype=torch.float32, shard=7, keys=KEYS):
    """A store, and what :class:`RouterStates` holds of all that was written."""
    store, whole = StateStore(folder, dtype), parts(len(keys))
    # Not in their order, so that a file holds rows that lie far apart.
    drawn = np.random.default_rng(0).permutation(len(keys))
    for start in range(0, len(keys), shard):
        own = drawn[start : start + shard]
        store.write([keys[i] for i in own], [x[own] for x in whole])
    order = sorted(range(len(keys)), key=lambda i: keys[i][:2])
    index = pd.DataFrame([keys[i][:2] for i in order], columns=["sample_id", "coalition"])
    return store, RouterStates(index, *(x[order] for x in whole))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    store, held = written(tmp_path_factory.mktemp("states"))
    return store.read(CLIPS, hold=0), held


def manifest():
    labels = np.random.default_rng(0).integers(5, size=(len(CLIPS), 4))
    clips = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    return clips.assign(sample_id=CLIPS)


def a_router(**changes):
    given_ = {"state_size": SIZE, "layers": LAYERS, "fingerprint": "", "first_layer": 2}
    torch.manual_seed(0)
    return Router(**(given_ | changes))


ROWS = st.lists(st.integers(-len(KEYS), len(KEYS) - 1), max_size=12)
AT = st.one_of(
    st.integers(-LAYERS, LAYERS - 1),
    st.builds(slice, *[st.one_of(st.none(), st.integers(-5, 5))] * 2),
)


@given(rows=ROWS, at=AT)
@settings(max_examples=60, deadline=None)
def test_whatever_rows_and_layers_are_asked_for_are_those_of_the_tensor(both, rows, at):
    stored, held = both
    chosen = torch.tensor(rows, dtype=torch.int64)
    for name in FIELDS:
        mine, whole = getattr(stored, name), getattr(held, name)
        assert isinstance(mine, OnDisk)
        assert (mine.shape, mine.dtype, len(mine)) == (whole.shape, whole.dtype, len(whole))
        assert torch.equal(mine[chosen], whole[chosen])
        assert torch.equal(mine[chosen, at], whole[chosen, at])
        assert torch.equal(mine[:, at], whole[:, at])


@pytest.mark.parametrize(
    "rows",
    [3, -1, slice(2, 9), slice(None, None, 3), [4, 4, 0], np.array([5, 1]),
     torch.tensor([[0, 3], [3, 7]]), torch.arange(len(KEYS)) % 3 == 0],
    ids=str,
)  # fmt: skip
def test_rows_are_named_in_every_way_in_which_a_tensor_takes_them(both, rows):
    stored, held = both
    for name in FIELDS:
        mine, whole = getattr(stored, name), getattr(held, name)
        assert torch.equal(mine[rows], whole[rows])
        if not isinstance(rows, int):
            assert torch.equal(
                mine[rows, 1:],
                whole[rows, 1:]
                if not (isinstance(rows, torch.Tensor) and rows.dim() > 1)
                else whole[rows][:, :, 1:],
            )
        assert torch.equal(mine[rows, -1], whole[rows, -1])


def test_rows_and_layers_that_are_not_there_are_refused(both):
    states = both[0].mass
    for at in (len(KEYS), (0, LAYERS), (0, -LAYERS - 1), (slice(None), slice(None, None, 2))):
        with pytest.raises(IndexError):
            states[at]


@given(first=ROWS, second=st.lists(st.integers(0, 10**6), max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_view_of_a_view_is_what_a_copy_of_a_copy_would_be(both, first, second):
    stored, held = both
    rows = np.array(first, dtype=int)
    again = np.array([i % len(first) for i in second] if first else [], dtype=int)
    mine, copy = (x.take(rows).take(torch.as_tensor(again)) for x in (stored, held))
    assert isinstance(mine, StoredStates)
    pd.testing.assert_frame_equal(mine.index, copy.index)
    for name in (*FIELDS, "counts"):
        assert torch.equal(getattr(mine, name)[:], getattr(copy, name))
    assert torch.equal(mine.present, copy.present)
    assert states_digest(mine) == states_digest(copy)


def test_what_is_small_is_held_in_memory_and_equals_what_is_not(tmp_path):
    store, held = written(tmp_path)
    stored = store.read(CLIPS, hold=0)
    most = sum(getattr(held, name).nbytes for name in FIELDS)
    assert stored.nbytes == most
    for hold, kind in ((most, RouterStates), (most - 1, StoredStates)):
        found = store.read(CLIPS, hold=hold)
        assert type(found) is kind
        for name in (*FIELDS, "counts"):
            assert torch.equal(getattr(found, name)[:], getattr(held, name))
        assert states_digest(found) == states_digest(held)


def test_taking_prompts_and_reading_the_store_reads_no_state(tmp_path, monkeypatch):
    store, held = written(tmp_path)
    monkeypatch.setattr(Shard, "rows", lambda *_: pytest.fail("states were read"))
    some = store.read(CLIPS, hold=0).take(np.arange(9)).take([4, 2])
    assert torch.equal(some.counts, held.counts[[4, 2]])
    assert RouterTargets.of(some, manifest()).gate.shape == (2, 3)
    with pytest.raises(pytest.fail.Exception, match="states were read"):
        some.mass[0]


@pytest.mark.parametrize(
    ("router", "layers"), [({}, range(1, LAYERS)), ({"inputs": "embedded"}, range(1))], ids=str
)
def test_of_a_batch_the_layers_alone_that_its_router_reads_are_read(
    both, monkeypatch, router, layers
):
    asked, rows_of = set(), Shard.rows

    def rows(shard, name, rows, own):
        asked.add((name, own))
        return rows_of(shard, name, rows, own)

    monkeypatch.setattr(Shard, "rows", rows)
    both[0].inputs(a_router(**router), torch.tensor([3, 0]))
    names = ("modality_states",) if router else FIELDS
    assert asked == {(name, layers) for name in names}


@pytest.mark.parametrize("order", [[[1, 0, 1], [40], []], [[7]], []], ids=str)
def test_batches_come_in_their_order_with_the_inputs_of_their_rows(both, order):
    router = a_router()
    given_ = [torch.tensor(rows, dtype=torch.int64) for rows in order]
    stored, held = (list(x.batches(router, iter(given_))) for x in both)
    assert len(stored) == len(held) == len(order)
    for mine, expected in zip(stored, held, strict=True):
        for one, other in zip(mine, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "changes",
    [{}, {"inputs": "embedded", "standardize": True, "batch_size": 5}, {"standardize": True}],
    ids=str,
)
def test_a_router_trained_from_disk_is_the_one_trained_from_memory_to_the_bit(both, changes):
    given_ = {"first_layer": 2, "batch_size": 7, "epochs": 2, "hidden": 8} | changes
    found = []
    for states in both:
        kept = [
            states.take(rows) for rows in np.split(np.random.default_rng(1).permutation(44), [30])
        ]
        train, valid = ((x, RouterTargets.of(x, manifest())) for x in kept)
        router, history = train_router(
            *train, TrainingSettings(**given_), "", validation=valid, progress=False
        )
        found.append((router.state_dict(), history, routed(router, states, batch_size=9)))
    (one, history, said), (other, other_history, other_said) = found
    assert all(torch.equal(one[name], other[name]) for name in other)
    pd.testing.assert_frame_equal(history, other_history, check_exact=True)
    assert all(torch.equal(*pair) for pair in zip(said, other_said, strict=True))


def test_a_probe_sees_the_same_from_disk(both):
    for kind in ("layer", "embedded"):
        mine, whole = (probe_inputs(x, kind, 2) for x in both)
        np.testing.assert_array_equal(mine, whole)


def test_many_prompts_are_gone_through_in_batches_whose_inputs_stay_small(both, monkeypatch):
    router = a_router(first_layer=1)
    assert [len(rows) for rows, *_ in both[0].in_order(router, 20)] == [20, 20, 4]
    # Five prompts of four layers fill what is read at once.
    monkeypatch.setattr(router, "mean", torch.empty(AT_ONCE // 4 // 4 // 5, device="meta"))
    with monkeypatch.context() as patched:
        patched.setattr(RouterStates, "inputs", lambda *_: (torch.empty(0), torch.empty(0)))
        assert [len(rows) for rows, *_ in both[1].in_order(router)] == [5] * 8 + [4]


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_halves_the_hidden_states_and_nothing_else(tmp_path, dtype):
    store, held = written(tmp_path, dtype=dtype)
    stored = store.read(CLIPS, hold=0)
    for name in FIELDS[:2]:
        mine, whole = getattr(stored, name), getattr(held, name)
        assert mine.dtype == torch.float32
        assert torch.equal(mine[:], whole.to(dtype).float())
        assert not torch.equal(mine[:], whole)
    assert torch.equal(stored.mass[:], held.mass) and torch.equal(stored.counts, held.counts)
    full, _ = written(tmp_path / "full")
    bytes_of = [
        sum(x.stat().st_size for x in s.folder.glob("*.safetensors")) for s in (store, full)
    ]
    assert bytes_of[1] - bytes_of[0] == pytest.approx(len(KEYS) * LAYERS * 4 * SIZE * 2, rel=0.1)


def test_states_that_a_half_precise_model_had_are_kept_exactly(tmp_path):
    keys = KEYS[:5]
    for dtype in (torch.bfloat16, torch.float16):
        # As massive as float16 has none.
        query = (torch.randn(5, LAYERS, SIZE) * (1e5 if dtype == torch.bfloat16 else 1)).to(dtype)
        store = StateStore(tmp_path / str(dtype), kept_as(dtype))
        store.write(keys, [query.float(), *parts(5)[1:]])
        found = store.read(CLIPS, hold=0)
        order = [keys.index((*key, "1")) for key in found.index.itertuples(index=False)]
        assert torch.equal(found.query_state[:], query.float()[order])
        assert found.query_state[:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_states_that_another_process_sends_are_the_same_bytes_on_disk_and_half_on_their_way(
    tmp_path, dtype
):
    here, there = (StateStore(tmp_path / name, dtype) for name in ("here", "there"))
    here.write(KEYS, parts(len(KEYS)))
    asked = Unsteered(None, "run", states=there).sent().here(None, {})
    asked.states.write(KEYS, parts(len(KEYS)))
    for keys, sent in pickle.loads(pickle.dumps(asked.states.written)):
        assert [x.dtype for x in sent[:2]] == [kept_as(dtype)] * 2
        there.write(keys, sent)
    [one], [other] = (list(store.folder.iterdir()) for store in (here, there))
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_states_of_a_model_in_full_precision_are_kept_in_full():
    assert kept_as(torch.float32) == kept_as(torch.float64) == torch.float32


def test_files_in_full_precision_from_before_are_read_beside_those_in_half(tmp_path):
    StateStore(tmp_path).write(KEYS[:4], parts(4))
    store = StateStore(tmp_path, torch.bfloat16)
    assert store.known() == set(KEYS[:4])
    store.write(KEYS[4:8], parts(4, 1))
    found = store.read(CLIPS, hold=0)
    for name, old, new in zip(FIELDS[:2], parts(4), parts(4, 1), strict=False):
        kept = dict(zip(KEYS, [*old, *new.bfloat16().float()], strict=False))
        for i, key in enumerate(found.index.itertuples(index=False)):
            assert torch.equal(getattr(found, name)[i], kept[(*key, "1")])


# Files that are not what they were


@pytest.fixture
def one_file(tmp_path):
    store, held = written(tmp_path, shard=len(KEYS))
    [file] = tmp_path.iterdir()
    return store, held, file


@pytest.mark.parametrize("what", ["cut", "removed", "written anew"])
def test_a_file_that_has_changed_since_is_named_and_never_read_as_it_is_not(one_file, what):
    store, _, file = one_file
    states = store.read(CLIPS, hold=0).take(np.arange(3))
    states.mass[0]
    if what == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif what == "removed":
        file.unlink()
    else:
        store.write(
            [KEYS[i] for i in np.random.default_rng(0).permutation(len(KEYS))], parts(44, 1)
        )
        os.utime(file, ns=(1, 1))
    for read in (lambda: states.mass[1], lambda: list(states.in_order(a_router()))):
        with pytest.raises(ValueError, match=f"{file.name} has changed since it was listed"):
            read()


def test_a_file_that_is_cut_off_while_it_is_read_ends_in_an_error(one_file):
    store, _, file = one_file
    states = store.read(CLIPS, hold=0)
    [shard] = states.mass.shards
    rows = shard.rows("query_state", [0, len(KEYS) - 1], range(LAYERS))
    next(rows)
    os.truncate(file, 2000)
    with pytest.raises(ValueError, match="has changed since it was listed"):
        next(rows)


def test_a_file_with_fewer_rows_than_keys_and_one_of_another_shape_are_refused(tmp_path):
    names = (*FIELDS, "counts")
    text = {"keys": json.dumps(KEYS[:3])}
    tensors = dict(zip(names, parts(2), strict=True))
    save_file(tensors, tmp_path / "a.safetensors", text)
    with pytest.raises(ValueError, match=r"a.safetensors holds rows .* for 3 prompts"):
        StateStore(tmp_path).read(CLIPS, hold=0)
    save_file(dict(zip(names, parts(3), strict=True)), tmp_path / "a.safetensors", text)
    wider = [torch.zeros(1, LAYERS, SIZE + 1), *parts(1)[1:]]
    StateStore(tmp_path).write(KEYS[4:5], wider)
    with pytest.raises(ValueError, match="holds states of shapes"):
        StateStore(tmp_path).read(CLIPS, hold=0)


def test_no_file_stays_open(both):
    folder = both[0].mass.shards[0].file.parent

    def opened():
        held = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
        return [path for path in held if path.startswith(str(folder))]

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are listed on Linux")
    both[0].mass[:], both[0].query_state[[3, 40], 1]
    next(iter(both[0].batches(a_router(), torch.arange(40).split(8))))
    assert opened() == []


def test_what_is_read_counts_as_no_state_of_another_prompt_after_an_error(both):
    # The thread that reads ahead ends with the batches, also where they are left midway.
    stored, _ = both
    broken = replace(stored.mass, place=torch.tensor([[0, 10**6]] * len(KEYS)))
    states = StoredStates(
        stored.index, stored.query_state, stored.modality_states, broken, stored.counts
    )
    with pytest.raises(ValueError, match="has changed"):
        list(states.batches(a_router(), torch.arange(20).split(5)))
