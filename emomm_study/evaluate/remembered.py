"""Tables that take long to compute, kept on disk for as long as nothing they are made of changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cache

import pandas as pd

from emomm_study.paths import ROOT, cache_dir


@cache
def library_digest() -> str:
    """Digest of both packages' source: any change to it makes all tables anew."""
    digest = hashlib.sha256()
    for package in ("emomm_lib", "emomm_study"):
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def remembered(name: str, made_of: Sequence[str], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table by ``make``, or as it was made before.

    Parameters
    ----------
    name
        What the file is called; letters, digits, "-" and "_".
    made_of
        Digests of all that the table depends on, besides the library's source.

    The file appears whole or not at all. Index and ``attrs`` are not kept.
    """
    text = json.dumps([library_digest(), pd.__version__, *made_of])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_dir("tables") / f"{name}-{digest}.parquet"
    if not path.is_file():
        partial = path.with_suffix(f".{os.getpid()}.part")
        make().to_parquet(partial, index=False)
        os.replace(partial, path)
    # Read back also when it was just made: both times the same types.
    return pd.read_parquet(path)
