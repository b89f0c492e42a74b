"""Hidden states that a router reads, on disk: a file a batch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emomm_lib.chase.training import RouterStates

COALITIONS = ("TAV", "TA", "TV", "AV")
"""A conflict needs two modalities, and so does a gate."""
_PARTS = ("query_state", "modality_states", "mass", "counts")
Key = tuple[str, str, str]
"""(sample_id, coalition, version), as in a plan."""


class StateStore:
    """States of one run, which its folder is named after.

    They are kept in the trace's precision: float32 for models of half precision, too.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _read_keys(self) -> dict[Path, list[Key]]:
        found = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(file, "pt") as shard:
                    found[file] = [tuple(key) for key in json.loads(shard.metadata()["keys"])]
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{file} is not a file of recorded states ({error}); delete it, and what it "
                    "held is computed again"
                ) from error
        return found

    def known(self) -> set[Key]:
        """What is stored."""
        return {key for keys in self._read_keys().values() for key in keys}

    def write(self, keys: Sequence[Key], parts: Sequence[Tensor]) -> None:
        """Keep the states of some prompts: the fields of ``RouterStates`` after its index.

        Raises ``ValueError`` when they are not one for each key.
        """
        tensors = dict(zip(_PARTS, (x.contiguous() for x in parts), strict=True))
        if odd := {n: len(x) for n, x in tensors.items() if len(x) != len(keys)}:
            raise ValueError(f"states of {len(keys)} prompts have rows {odd}")
        text = json.dumps([list(key) for key in keys])
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        partial = file.with_suffix(".part")
        save_file(tensors, partial, {"keys": text})
        os.replace(partial, file)

    def read(
        self, sample_ids: Collection[str], coalitions: Collection[str] = COALITIONS
    ) -> RouterStates:
        """States of some clips, by sample and coalition; the latest version of each.

        Raises ``ValueError`` when there are none.
        """
        wanted = set(sample_ids)
        rows: dict[tuple[str, str], tuple[Path, int]] = {}
        files = self._read_keys()
        for file in sorted(files, key=lambda f: f.stat().st_mtime_ns):
            for row, (sample, coalition, _) in enumerate(files[file]):
                if sample in wanted and coalition in coalitions:
                    rows[sample, coalition] = file, row
        if not rows:
            raise ValueError(f"{self.folder} holds no states of these {len(wanted)} clips")
        order = sorted(rows)
        place = {key: i for i, key in enumerate(order)}
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for key, (file, row) in rows.items():
            by_file.setdefault(file, []).append((row, place[key]))
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
