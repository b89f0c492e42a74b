"""Which runs of the store a profile has asked for, and what became of their questions."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Use:
    """A run of the store that a profile asked for.

    Attributes
    ----------
    fingerprint, settings
        Of the run: all that can change an answer.
    answered, failed, unparseable
        Its questions in the store, also those of other profiles: with an answer; with a failure in
        place of one; with a reply that nothing could be read from.
    reasons
        Of the failures, and how many have each; ids of clips and numbers are left out.
    """

    fingerprint: str
    settings: Mapping[str, Any]
    answered: int
    failed: int
    unparseable: int
    reasons: Mapping[str, int]


def used_since(store: Path, profile: str, began: float) -> list[Use]:
    """Runs that a profile's notebooks asked for since then, the first asked first.

    ``began`` is in seconds since the epoch. Empty where there is no store.
    """
    if not store.is_file():
        return []
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=60)) as db:
        try:
            runs = db.execute(
                "SELECT fingerprint, settings FROM uses JOIN runs USING (fingerprint) "
                "WHERE profile = ? AND at >= ? ORDER BY at, fingerprint",
                (profile, began),
            ).fetchall()
        except sqlite3.OperationalError:
            # A store of an earlier version, which nothing has opened since.
            return []
        return [_use(db, fingerprint, json.loads(settings)) for fingerprint, settings in runs]


def _use(db: sqlite3.Connection, fingerprint: str, settings: Mapping[str, Any]) -> Use:
    counts = db.execute(
        "SELECT COUNT(label), COUNT(failure), COUNT(*) FROM predictions WHERE fingerprint = ?",
        (fingerprint,),
    ).fetchone()
    answered, failed, everything = counts
    reasons: Counter[str] = Counter()
    for name, why in db.execute(
        "SELECT sample_id, failure FROM predictions WHERE fingerprint = ? AND failure IS NOT NULL",
        (fingerprint,),
    ):
        reasons[re.sub(r"\d+", "N", str(why).replace(str(name), "CLIP"))] += 1
    return Use(fingerprint, settings, answered, failed, everything - answered - failed, reasons)
