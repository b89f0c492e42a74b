"""Hidden states that a router reads, on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from emomm_lib.chase.training import RouterStates
from emomm_study.evaluate.shards import ShardStore

COALITIONS = ("TAV", "TA", "TV", "AV")
"""A conflict needs two modalities, and so does a gate."""
_PARTS = ("query_state", "modality_states", "mass", "counts")
Key = tuple[str, str, str]
"""(sample_id, coalition, version), as in a plan."""


class StateStore(ShardStore):
    """States of one run, by :data:`Key`.

    They are kept in the trace's precision: float32 for models of half precision, too.
    """

    content = "recorded states"

    def write(self, keys: Sequence[Key], parts: Sequence[Tensor]) -> None:
        """Keep the states of some prompts: the fields of ``RouterStates`` after its index.

        Raises ``ValueError`` when they are not one for each key.
        """
        tensors = dict(zip(_PARTS, (x.contiguous() for x in parts), strict=True))
        if odd := {n: len(x) for n, x in tensors.items() if len(x) != len(keys)}:
            raise ValueError(f"states of {len(keys)} prompts have rows {odd}")
        self._keep(keys, tensors)

    def read(
        self, sample_ids: Collection[str], coalitions: Collection[str] = COALITIONS
    ) -> RouterStates:
        """States of some clips, by sample and coalition; the latest version of each.

        Raises ``ValueError`` when there are none.
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
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for place, (file, row) in enumerate(rows[key] for key in order):
            by_file.setdefault(file, []).append((row, place))
        parts: list[Tensor | None] = [None] * len(_PARTS)
        for file, pairs in by_file.items():
            source, target = (torch.tensor(x) for x in zip(*pairs, strict=True))
            with safe_open(file, "pt") as shard:
                for i, name in enumerate(_PARTS):
                    found = shard.get_tensor(name)
                    if parts[i] is None:
                        parts[i] = found.new_empty(len(order), *found.shape[1:])
                    parts[i][target] = found[source]
        return RouterStates(pd.DataFrame(order, columns=["sample_id", "coalition"]), *parts)


def states_digest(states: RouterStates) -> str:
    """Of the prompts, and of what was recorded of them in the last layer."""
    found = hashlib.sha256(states.index.to_csv(index=False).encode())
    last = states.mass, states.query_state, states.modality_states
    for part in (*(values[:, -1] for values in last), states.counts):
        found.update(part.float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
