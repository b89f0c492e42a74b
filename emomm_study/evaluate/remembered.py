"""Tables that take long to compute, kept on disk for as long as nothing they are made of changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache

import pandas as pd

from emomm_study.paths import ROOT, cache_dir, whole

SOURCES = ("emomm_lib", *(f"emomm_study/{p}" for p in ("evaluate", "systems", "media", "corpora")))
"""Folders whose source can change an answer or what is made of it."""


@cache
def source_digest(folders: Sequence[str] = SOURCES) -> str:
    """Digest of the source in some folders: any change to those of :data:`SOURCES` makes all tables
    anew.

    Not of what writes reports, runs notebooks, audits the paper or collects annotations: tables
    outlive an edited caption.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def remembered(name: str, made_of: Sequence[str], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table by ``make``, or as it was made before.

    Parameters
    ----------
    name
        What the file is called; letters, digits, "-" and "_".
    made_of
        Digests of all that the table depends on, besides the source.

    The file appears whole or not at all. Index and ``attrs`` are not kept.
    """
    text = json.dumps([source_digest(), pd.__version__, *made_of])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_dir("tables") / f"{name}-{digest}.parquet"
    if not path.is_file():
        table = make()
        with whole(path) as partial:
            table.to_parquet(partial, index=False)
    # Read back also when it was just made: both times the same types.
    return pd.read_parquet(path)
