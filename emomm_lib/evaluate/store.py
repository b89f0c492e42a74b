"""Predictions on disk: crash-safe, resumable, readable while a run is writing (SQLite, WAL)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """One answer, or one failure with its reason; a failure has no label and is never scored.

    ``media`` identifies the versions of the clip's files that were read, so that a file that
    changed since is computed anew.
    """

    sample_id: str
    coalition: str
    media: str
    label: int | None
    score: float | None
    logit_a: float | None
    logit_b: float | None
    logit_c: float | None
    logit_d: float | None
    logit_e: float | None
    failure: str | None = None

    @classmethod
    def failed(cls, sample_id: str, coalition: str, media: str, reason: str) -> Prediction:
        return cls(sample_id, coalition, media, *[None] * 7, failure=reason)


_COLUMNS = tuple(f.name for f in fields(Prediction))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs (fingerprint TEXT PRIMARY KEY, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS predictions (
    fingerprint TEXT NOT NULL REFERENCES runs, {", ".join(_COLUMNS)},
    PRIMARY KEY (fingerprint, sample_id, coalition)
) WITHOUT ROWID;
"""


class PredictionStore:
    """Predictions of any number of runs, keyed by (run fingerprint, sample_id, coalition)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db:
            db.executescript(_SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        db.execute("PRAGMA journal_mode=WAL")
        return db

    def begin(self, fingerprint: str, settings: dict) -> None:
        """Note what a fingerprint stands for."""
        text = json.dumps(settings, sort_keys=True)
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (fingerprint, text))

    def write(self, fingerprint: str, predictions: Iterable[Prediction]) -> None:
        """Write a batch in one transaction: all of it is kept or none."""
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        with closing(self._connect()) as db, db:
            db.executemany(
                f"INSERT OR REPLACE INTO predictions VALUES ({marks})",
                [(fingerprint, *astuple(p)) for p in predictions],
            )

    def read(self, fingerprint: str) -> pd.DataFrame:
        """All predictions of a run, failures included, sorted by sample and coalition."""
        with closing(self._connect()) as db:
            return pd.read_sql_query(
                f"SELECT {', '.join(_COLUMNS)} FROM predictions WHERE fingerprint = ? "
                "ORDER BY sample_id, coalition",
                db,
                params=(fingerprint,),
            )
