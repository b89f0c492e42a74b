"""Tensors by key on disk: a file a batch, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emomm_study.paths import whole

Key = tuple[str, ...]
Stamp = tuple[int, int]
"""Of a file: when it was changed last, in ns, and its bytes."""
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size


@dataclass(frozen=True)
class Shard:
    """Where the tensors of one file lie in it.

    Attributes
    ----------
    file, stamp
        The file, and what it was when its keys were listed.
    tensors
        Of each tensor of floating-point numbers its precision, shape and first byte.
    """

    file: Path
    stamp: Stamp
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...], int]]

    @classmethod
    def of(cls, file: Path, stamp: Stamp) -> Shard:
        """The layout of a safetensors file; raises ``ValueError`` where it is not what it was."""
        with _opened(file, stamp) as shard:
            length = int.from_bytes(shard.read(8), "little")
            header = json.loads(shard.read(length))
        tensors = {
            name: (_DTYPES[x["dtype"]], tuple(x["shape"]), 8 + length + x["data_offsets"][0])
            for name, x in header.items()
            if x.get("dtype") in _DTYPES
        }
        return cls(file, stamp, tensors)

    def rows(self, name: str, rows: Sequence[int], layers: range) -> Iterator[Tensor]:
        """Of each row in turn some layers, ``(layers, ...)``; the next overwrites what it gave.

        Read and not memory-mapped: mapped pages count as the process's memory, and a file that is
        cut off meanwhile would end the process. The file is open only until the last row is read.
        Raises ``ValueError`` where it is no longer what it was.
        """
        dtype, (_, depth, *rest), first = self.tensors[name]
        buffer = torch.empty(len(layers), *rest, dtype=dtype)
        place = memoryview(buffer.view(torch.uint8).numpy()).cast("B")
        width = prod(rest) * dtype.itemsize
        with _opened(self.file, self.stamp) as shard:
            for row in rows:
                shard.seek(first + (row * depth + layers.start) * width)
                if shard.readinto(place) != len(place):
                    raise _changed(self.file)
                yield buffer


def _opened(file: Path, stamp: Stamp) -> io.FileIO:
    try:
        shard = open(file, "rb", buffering=0)
    except FileNotFoundError:
        raise _changed(file) from None
    if _stamp(os.fstat(shard.fileno())) != stamp:
        shard.close()
        raise _changed(file)
    return shard


def _changed(file: Path) -> ValueError:
    return ValueError(f"{file} has changed since it was listed; read what it held again")


class ShardStore:
    """A folder of safetensors files, each of which lists the keys that it holds.

    The folder is named after all that made its content. Raises ``ValueError`` for a file that
    cannot be read.
    """

    content: ClassVar[str] = "tensors"
    """What a file holds, in messages."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shards: dict[Path, tuple[Stamp, list[Key]]] = {}
        self._place: dict[Key, tuple[Path, int]] = {}
        self.refresh()

    def __reduce__(self) -> tuple[type[ShardStore], tuple[Path]]:
        # Another process looks for itself: what is on its disk may be less, and is more by then.
        return type(self), (self.folder,)

    def refresh(self) -> None:
        """Find what has come and gone since, by other processes too."""
        found = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            stamp = _stamp(file.stat())
            before = self._shards.get(file)
            same = before is not None and before[0] == stamp
            found[file] = before if same else (stamp, self._keys_of(file))
        # Of a key that is in several files the latest counts.
        self._shards = dict(sorted(found.items(), key=lambda shard: shard[1][0]))
        self._place = {}
        for file, (_, keys) in self._shards.items():
            self._note(file, keys)

    def known(self) -> set[Key]:
        """Keys of all that is kept."""
        self.refresh()
        return set(self._place)

    def __contains__(self, key: Key) -> bool:
        return key in self._place

    def _note(self, file: Path, keys: Sequence[Key]) -> None:
        for row, key in enumerate(keys):
            # Last in order is what was written last.
            self._place.pop(key, None)
            self._place[key] = file, row

    def _keys_of(self, file: Path) -> list[Key]:
        try:
            with safe_open(file, "pt") as shard:
                return [tuple(key) for key in json.loads(shard.metadata()["keys"])]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not a file of {self.content} ({error}); delete it, and what it held "
                "is computed again"
            ) from error

    def _keep(self, keys: Sequence[Key], tensors: Mapping[str, Tensor], **metadata: str) -> None:
        """Write a file of its own for these keys; the same keys again replace it."""
        text = json.dumps([list(key) for key in keys])
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        with whole(file) as partial:
            save_file(dict(tensors), partial, {"keys": text, **metadata})
        self._note(file, keys)
