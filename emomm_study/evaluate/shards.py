"""Tensors by key on disk: a file a batch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emomm_study.paths import whole

Key = tuple[str, ...]


class ShardStore:
    """A folder of safetensors files, each of which lists the keys that it holds.

    The folder is named after all that made its content. Raises ``ValueError`` for a file that
    cannot be read.
    """

    content: ClassVar[str] = "tensors"
    """What a file holds, in messages."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shards: dict[Path, tuple[tuple[int, int], list[Key]]] = {}
        self._place: dict[Key, tuple[Path, int]] = {}
        self.refresh()

    def __reduce__(self) -> tuple[type[ShardStore], tuple[Path]]:
        # Another process looks for itself: what is on its disk may be less, and is more by then.
        return type(self), (self.folder,)

    def refresh(self) -> None:
        """Find what has come and gone since, by other processes too."""
        found = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            status = file.stat()
            stamp = status.st_mtime_ns, status.st_size
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
