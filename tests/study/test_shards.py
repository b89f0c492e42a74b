"""Tensors that are kept by key, a file a batch."""

from __future__ import annotations

import os

import pytest
import torch

from emomm_study.evaluate.shards import ShardStore


class Numbers(ShardStore):
    """One number a key."""

    content = "numbers"

    def write(self, keys, values):
        self._keep(keys, {"x": torch.tensor(values)}, unit="none")


def test_a_store_knows_what_another_wrote_and_what_was_removed_since(tmp_path):
    one, other = Numbers(tmp_path), Numbers(tmp_path)
    one.write([("a", "1"), ("b", "1")], [1.0, 2.0])
    assert ("a", "1") in one and ("a", "1") not in other
    other.refresh()
    assert ("a", "1") in other and other.known() == {("a", "1"), ("b", "1")}
    other.write([("c", "1")], [3.0])
    assert one.known() == {("a", "1"), ("b", "1"), ("c", "1")}
    for file in tmp_path.iterdir():
        file.unlink()
    assert one.known() == other.known() == set()


def test_a_write_that_is_cut_short_leaves_no_file_and_the_one_before(tmp_path, monkeypatch):
    store = Numbers(tmp_path)
    store.write([("a",)], [1.0])
    [file] = tmp_path.iterdir()
    before = file.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no room")

    monkeypatch.setattr("emomm_study.evaluate.shards.save_file", full)
    for key in ("a", "b"):
        with pytest.raises(OSError, match="no room"):
            store.write([(key,)], [2.0])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
    assert store.known() == {("a",)}


def test_a_file_that_is_none_is_named_by_every_way_in(tmp_path):
    store = Numbers(tmp_path)
    store.write([("a",)], [1.0])
    (tmp_path / "0123.safetensors").write_bytes(b"junk")
    for read in (store.refresh, store.known, lambda: Numbers(tmp_path)):
        with pytest.raises(ValueError, match="0123.safetensors is not a file of numbers.*delete"):
            read()


def test_a_key_is_read_from_the_file_that_was_written_last(tmp_path):
    store = Numbers(tmp_path)
    for number, keys in enumerate(([("a",)], [("b",)], [("a",), ("c",)])):
        there = set(tmp_path.iterdir())
        store.write(keys, [1.0] * len(keys))
        [new] = set(tmp_path.iterdir()) - there
        os.utime(new, (1000 + number, 1000 + number))
    for opened in (store, Numbers(tmp_path)):
        assert list(opened._place) == [("b",), ("a",), ("c",)]
        assert opened._place["a",] == (new, 0)
