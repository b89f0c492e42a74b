"""Hidden states that a router reads, on disk, and read as they are asked for."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from emomm_lib.attention.rows import wide
from emomm_lib.chase.router import Router
from emomm_lib.chase.training import Batch, RouterStates
from emomm_study.evaluate.shards import Shard, ShardStore

COALITIONS = ("TAV", "TA", "TV", "AV")
"""A conflict needs two modalities, and so does a gate."""
_LAYERED = ("query_state", "modality_states", "mass")
_PARTS = (*_LAYERED, "counts")
_HIDDEN = ("query_state", "modality_states")
_HALVES = (torch.bfloat16, torch.float16)
HELD = 2**29
"""Bytes of states that are rather held in memory: small batches take longer to read than to use."""
AHEAD = 2
"""Batches that are read ahead: a disk gives more to several who ask."""
Key = tuple[str, str, str]
"""(sample_id, coalition, version), as in a plan."""


def kept_as(dtype: torch.dtype) -> torch.dtype:
    """The precision in which states of a model of this precision are kept.

    That of the model where it is half, else float32 as they are recorded. The decision query's
    state is then kept exactly: it is the residual stream, which the model has in no other. Mean
    states of modalities, made in float32, are rounded, which overflows nowhere, as a mean is no
    larger than what it is of. On Omni-mini in bfloat16 (2,800 prompts, routers of both kinds from
    three seeds) that moved AUC by at most 0.001 and top-1 by 0.009, where seeds lie 0.015 and 0.044
    apart; float16 with a scale a row moved them as much. All layers are kept: which of them a
    router reads is its own choice.
    """
    return dtype if dtype in _HALVES else torch.float32


def in_precision(parts: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """States as they are kept in ``dtype``: hidden states in it where it is half, the rest as is."""
    half = dtype in _HALVES
    return [
        x.to(dtype) if half and name in _HIDDEN else x
        for name, x in zip(_PARTS, parts, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor ``(N, L, ...)``, at least float32, of which what is asked for is read from files.

    ``x[rows]`` and ``x[rows, layers]`` are tensors, as of a tensor; layers are a number or a slice
    without a step. Raises ``IndexError`` as a tensor does, ``ValueError`` when a file is no longer
    what it was.

    Attributes
    ----------
    place
        ``(N, 2)`` int64: which of the shards each row is in, and which of its rows it is.
    """

    name: str
    shards: Sequence[Shard]
    place: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self.place), *self.shards[0].tensors[self.name][1][1:]])

    @cached_property
    def dtype(self) -> torch.dtype:
        found = {shard.tensors[self.name][0] for shard in self.shards}
        return wide(reduce(torch.promote_types, found))

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, at: object) -> Tensor:
        rows, layers = at if isinstance(at, tuple) else (at, slice(None))
        place, chosen = self.place[rows], range(self.shape[1])[layers]
        one = isinstance(chosen, int)
        if not one and chosen.step != 1:
            raise IndexError("layers are a number or a slice without a step")
        read = range(chosen, chosen + 1) if one else chosen
        tail = len(read), *self.shape[2:]
        found = torch.empty(*place.shape[:-1], *tail, dtype=self.dtype)
        if found.numel():
            self._read(place.view(-1, 2).numpy(), read, found.view(-1, *tail))
        return found.squeeze(place.dim() - 1) if one else found

    def _read(self, place: np.ndarray, layers: range, found: Tensor) -> None:
        """Fill ``found`` ``(n, layers, ...)``, file after file."""
        order = np.lexsort((place[:, 1], place[:, 0]))
        for number, own in groupby(order, lambda i: place[i, 0]):
            where = list(own)
            rows = self.shards[number].rows(self.name, place[where, 1].tolist(), layers)
            for i, row in zip(where, rows, strict=True):
                found[i] = row

    def view(self, rows: Tensor) -> OnDisk:
        """Some of the rows; nothing is read."""
        return replace(self, place=self.place[rows])


class StoredStates(RouterStates):
    """States that stay on disk: its fields but ``index`` and ``counts`` are :class:`OnDisk`.

    Of each batch just the layers that a router reads are read, and the next :data:`AHEAD` batches
    by as many threads while one is computed with.
    """

    def take(self, rows: np.ndarray | Tensor) -> StoredStates:
        """Some of the prompts; nothing is read."""
        chosen = torch.as_tensor(rows)
        parts = (getattr(self, name).view(chosen) for name in _LAYERED)
        index = self.index.iloc[chosen.numpy()].reset_index(drop=True)
        return StoredStates(index, *parts, self.counts[chosen])

    @property
    def nbytes(self) -> int:
        """Bytes of all states in memory."""
        parts = (getattr(self, name) for name in _LAYERED)
        return sum(x.shape.numel() * x.dtype.itemsize for x in parts)

    def held(self) -> RouterStates:
        """All of them in memory."""
        parts = (getattr(self, name)[:] for name in _LAYERED)
        return RouterStates(self.index, *parts, self.counts)

    def batches(self, router: Router, order: Iterable[Tensor]) -> Iterator[Batch]:
        """What ``RouterStates.batches`` gives."""
        coming: deque[tuple[Tensor, Future]] = deque()
        with ThreadPoolExecutor(AHEAD) as threads:
            for rows in order:
                coming.append((rows, threads.submit(self.inputs, router, rows)))
                if len(coming) > AHEAD:
                    rows, found = coming.popleft()
                    yield rows, *found.result()
            for rows, found in coming:
                yield rows, *found.result()

    @cached_property
    def digest(self) -> str:
        """:func:`states_digest`, for which the last layer of all prompts is read once."""
        return _digest(self)


class StateStore(ShardStore):
    """States of one run, by :data:`Key`.

    Hidden states are written in ``dtype`` (:func:`kept_as`), attention as it comes. Files in any
    precision are read.
    """

    content = "recorded states"

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(folder)
        self.dtype = dtype

    def write(self, keys: Sequence[Key], parts: Sequence[Tensor]) -> None:
        """Keep the states of some prompts: the fields of ``RouterStates`` after its index.

        Raises ``ValueError`` when they are not one for each key.
        """
        kept = (x.contiguous() for x in in_precision(parts, self.dtype))
        tensors = dict(zip(_PARTS, kept, strict=True))
        if odd := {n: len(x) for n, x in tensors.items() if len(x) != len(keys)}:
            raise ValueError(f"states of {len(keys)} prompts have rows {odd}")
        self._keep(keys, tensors)

    def read(
        self,
        sample_ids: Collection[str],
        coalitions: Collection[str] = COALITIONS,
        *,
        hold: int = HELD,
    ) -> RouterStates:
        """States of some clips, by sample and coalition; the latest version of each.

        In memory where they take no more than ``hold`` bytes there, else :class:`StoredStates`, of
        which only counts are read now; every number is the same. Raises ``ValueError`` when there
        are none, or where files hold states of several shapes.
        """
        self.refresh()
        wanted = set(sample_ids)
        rows = {
            (sample, coalition): place
            for (sample, coalition, _), place in self._place.items()
            if sample in wanted and coalition in coalitions
        }
        if not rows:
            raise ValueError(f"{self.folder} holds no states of these {len(wanted)} clips")
        order = sorted(rows)
        files = sorted({file for file, _ in rows.values()})
        number = {file: i for i, file in enumerate(files)}
        place = torch.tensor([(number[rows[key][0]], rows[key][1]) for key in order])
        shards = [self._layout(file) for file in files]
        for shard in shards:
            if (own := _shapes(shard)) != (first := _shapes(shards[0])):
                raise ValueError(f"{shard.file} holds states of shapes {own}, others of {first}")
        counts = []
        for file in files:
            with safe_open(file, "pt") as shard:
                counts.append(shard.get_tensor("counts"))
        ends = torch.tensor([0, *(len(x) for x in counts)]).cumsum(0)
        found = torch.cat(counts)[ends[place[:, 0]] + place[:, 1]]
        index = pd.DataFrame(order, columns=["sample_id", "coalition"])
        states = StoredStates(index, *(OnDisk(name, shards, place) for name in _LAYERED), found)
        return states.held() if states.nbytes <= hold else states

    def _layout(self, file: Path) -> Shard:
        stamp, keys = self._shards[file]
        shard = Shard.of(file, stamp)
        held = {name: x[1][0] for name, x in shard.tensors.items()}
        if held != dict.fromkeys(_LAYERED, len(keys)):
            raise ValueError(
                f"{file} holds rows {held} for {len(keys)} prompts; delete it, and what it held is "
                "computed again"
            )
        return shard


def _shapes(shard: Shard) -> dict[str, tuple[int, ...]]:
    return {name: shape[1:] for name, (_, shape, _) in sorted(shard.tensors.items())}


def states_digest(states: RouterStates) -> str:
    """Of the prompts, and of what was recorded of them in the last layer."""
    return states.digest if isinstance(states, StoredStates) else _digest(states)


def _digest(states: RouterStates) -> str:
    found = hashlib.sha256(states.index.to_csv(index=False).encode())
    parts = [(x, (-1,)) for x in (states.mass, states.query_state, states.modality_states)]
    for part, at in (*parts, (states.counts, ())):
        for rows in torch.arange(len(states.index)).split(1024):
            found.update(part[rows, *at].float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
