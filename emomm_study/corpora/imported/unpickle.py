"""Label files that numpy has pickled, read without running what a pickle asks for.

``numpy.load`` with ``allow_pickle=True`` calls whatever the file names. Here a file gets arrays,
numbers and Python's own containers, and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy.lib import format as npy

from emomm_study.corpora.checks import CorpusError

LARGEST = 1 << 28
"""Bytes that an entry may unpack to; the largest label file there is has 2 MB."""

_MADE: dict[tuple[str, str], Callable[..., Any]] = {
    (f"{package}.multiarray", one.__name__): one
    for package in ("numpy.core", "numpy._core")
    for one in (_reconstruct, scalar)
} | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
"""All that may be asked for by name: what arrays and numbers of numpy are made of."""


class _Forbidden(Exception):
    """Something that a pickle asks for and does not get."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _MADE[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Forbidden(f"the outside object {pid!r}")


def read_pickled(path: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Entries of an npz file, each one pickled object, by name, of those that are ``wanted``.

    Raises :class:`CorpusError`, with file and entry, for a pickle that asks for anything but arrays
    and numbers (nothing of it is called), for one that is damaged or unpacks to more than
    :data:`LARGEST`, for an entry that is no pickled object, and for a file that is no npz.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                (name, info)
                for info in archive.infolist()
                if wanted(name := info.filename.removesuffix(".npy"))
            ]
            return {name: _entry(archive, info, path, name) for name, info in entries}
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise CorpusError(
            f"{path}: not a readable npz file ({error}); copy it again from the benchmark"
        ) from None


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, name: str) -> Any:
    where = f"{path}, entry {name}"
    if info.file_size > LARGEST:
        raise CorpusError(
            f"{where}: unpacks to {info.file_size:,} bytes, and a label file has no such entry; "
            "copy it again from the benchmark"
        )
    try:
        with archive.open(info) as file:
            header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = header[npy.read_magic(file)](file)
            if shape or not dtype.hasobject:
                raise CorpusError(
                    f"{where}: an array of shape {shape} and type {dtype}; expected one pickled "
                    "dictionary, as the benchmark's makers save it"
                )
            found = _Restricted(file).load()
            return found.item() if isinstance(found, np.ndarray) else found
    except CorpusError:
        raise
    except _Forbidden as error:
        raise CorpusError(
            f"{where}: its pickle asks for {error}, which no label file needs; it was refused "
            "before anything of it was run. Do not open this file in another way; get it from the "
            "benchmark's makers"
        ) from None
    except Exception as error:
        # A damaged or hostile stream ends an unpickler in any of a dozen ways.
        raise CorpusError(
            f"{where}: a damaged pickle ({type(error).__name__}: {error}); copy the file again from "
            "the benchmark"
        ) from None


def as_records(found: Any, where: str) -> Iterable[tuple[Any, Any]]:
    """Pairs of a dictionary; raises :class:`CorpusError` for anything else."""
    if not isinstance(found, dict):
        raise CorpusError(
            f"{where}: a {type(found).__name__}; expected a dictionary from names to labels"
        )
    return found.items()
