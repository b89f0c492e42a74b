"""Answers and traces on disk: crash-safe, resumable, readable while a run writes (SQLite, WAL)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib import TraceTable
from emomm_study.paths import whole


@dataclass(frozen=True)
class Prediction:
    """One answer, or one failure with its reason.

    ``media`` identifies the versions of the clip's files that were read, so that a file that
    changed since is computed anew. An answer read from free text keeps the ``reply``; one that
    could not be read has a reply and no label. Neither that nor a failure is ever scored.
    ``details`` is a JSON object of what the system says beside its answer. A failure with ``again``
    is asked again in the next run: ``always``, or ``once``, after which it stays.
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
    reply: str | None = None
    details: str | None = None
    again: str | None = None

    @classmethod
    def failed(cls, sample_id: str, coalition: str, media: str, reason: str) -> Prediction:
        return cls(sample_id, coalition, media, *[None] * 7, failure=reason)


@dataclass(frozen=True)
class StoredTrace:
    """Attention of one answer's decision query: ``mass`` (L, H, 3), ``counts`` (3,)."""

    sample_id: str
    coalition: str
    media: str
    mass: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class StoredRoute:
    """What a gate said in each layer: ``conflict`` (L,), ``gate`` (L, 3); NaN before l_r."""

    sample_id: str
    coalition: str
    conflict: np.ndarray
    gate: np.ndarray


Written = tuple[Iterable[Prediction], Iterable[StoredTrace], Iterable[StoredRoute]]
_COLUMNS = tuple(f.name for f in fields(Prediction))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs (fingerprint TEXT PRIMARY KEY, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uses (
    profile TEXT NOT NULL, fingerprint TEXT NOT NULL REFERENCES runs, at REAL NOT NULL,
    PRIMARY KEY (profile, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS predictions (
    fingerprint TEXT NOT NULL REFERENCES runs, {", ".join(_COLUMNS)},
    PRIMARY KEY (fingerprint, sample_id, coalition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS traces (
    fingerprint TEXT NOT NULL REFERENCES runs, sample_id, coalition, media,
    layers INTEGER, heads INTEGER, mass BLOB, counts BLOB,
    PRIMARY KEY (fingerprint, sample_id, coalition)
);
CREATE TABLE IF NOT EXISTS routes (
    fingerprint TEXT NOT NULL REFERENCES runs, sample_id, coalition, conflict BLOB, gate BLOB,
    PRIMARY KEY (fingerprint, sample_id, coalition)
);
CREATE TABLE IF NOT EXISTS importance (
    fingerprint TEXT NOT NULL REFERENCES runs, sample_id, coalition, media, scores BLOB,
    PRIMARY KEY (fingerprint, sample_id, coalition)
);
"""


class PredictionStore:
    """Answers of any number of runs, keyed by (run fingerprint, sample_id, coalition).

    ``profile`` is whose notebooks ask, where it is theirs: which runs they asked for is noted.
    """

    def __init__(self, path: str | Path, profile: str | None = None) -> None:
        self.path, self.profile = Path(path), profile
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db:
            db.executescript(_SCHEMA)
            there = {row[1] for row in db.execute("PRAGMA table_info(predictions)")}
            for column in set(_COLUMNS) - there:
                # A store of an earlier version: its rows stay.
                db.execute(f"ALTER TABLE predictions ADD COLUMN {column}")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        db.execute("PRAGMA journal_mode=WAL")
        return db

    def begin(self, fingerprint: str, settings: dict) -> None:
        """Note what a fingerprint stands for, and that the profile asks for it now."""
        text = json.dumps(settings, sort_keys=True)
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (fingerprint, text))
            if self.profile is not None:
                own = (self.profile, fingerprint, time.time())
                db.execute("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", own)

    def write(
        self,
        fingerprint: str,
        predictions: Iterable[Prediction],
        traces: Iterable[StoredTrace] = (),
    ) -> None:
        """Write a batch in one transaction: all of it is kept or none."""
        self.write_runs({fingerprint: (predictions, traces, ())})

    def write_runs(self, runs: Mapping[str, Written]) -> None:
        """Write a batch of several runs in one transaction: all of it is kept or none."""
        names = ", ".join(_COLUMNS)
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        with closing(self._connect()) as db, db:
            for fingerprint, (predictions, traces, routes) in runs.items():
                final = [_final(db, fingerprint, p) for p in predictions]
                db.executemany(
                    f"INSERT OR REPLACE INTO predictions (fingerprint, {names}) VALUES ({marks})",
                    [(fingerprint, *map(_storable, astuple(p))) for p in final],
                )
                db.executemany(
                    "INSERT OR REPLACE INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (fingerprint, t.sample_id, t.coalition, t.media, *t.mass.shape[:2],
                         t.mass.astype("<f4").tobytes(), t.counts.astype("<i4").tobytes())
                        for t in traces
                    ],
                )  # fmt: skip
                db.executemany(
                    "INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?, ?)",
                    [
                        (fingerprint, r.sample_id, r.coalition,
                         r.conflict.astype("<f4").tobytes(), r.gate.astype("<f4").tobytes())
                        for r in routes
                    ],
                )  # fmt: skip

    def known(self, fingerprint: str, *, traced: bool = False) -> set[tuple[str, str, str]]:
        """(sample_id, coalition, media) of what is stored; ``traced`` asks for a trace as well.

        A failure counts as known, since the same files would fail again, unless it is to be asked
        ``again``.
        """
        query = (
            "SELECT sample_id, coalition, media FROM predictions "
            "WHERE fingerprint = :run AND again IS NULL"
        )
        if traced:
            query += (
                " AND failure IS NOT NULL UNION"
                " SELECT sample_id, coalition, media FROM traces WHERE fingerprint = :run"
            )
        with closing(self._connect()) as db:
            return set(db.execute(query, {"run": fingerprint}))

    def failed(self, fingerprint: str) -> set[tuple[str, str, str]]:
        """(sample_id, coalition, media) of what failed."""
        query = (
            "SELECT sample_id, coalition, media FROM predictions "
            "WHERE fingerprint = ? AND failure IS NOT NULL"
        )
        with closing(self._connect()) as db:
            return set(db.execute(query, (fingerprint,)))

    def read(self, fingerprint: str) -> pd.DataFrame:
        """All answers of a run, failures included, sorted by sample and coalition."""
        with closing(self._connect()) as db:
            return pd.read_sql_query(
                f"SELECT {', '.join(_COLUMNS)} FROM predictions WHERE fingerprint = ? "
                "ORDER BY sample_id, coalition",
                db,
                params=(fingerprint,),
            )

    def read_traces(self, fingerprint: str) -> TraceTable:
        """All traces of a run, sorted by sample and coalition.

        Raises ``ValueError`` when there are none.
        """
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT sample_id, coalition, layers, heads, mass, counts FROM traces "
                "WHERE fingerprint = ? ORDER BY sample_id, coalition",
                (fingerprint,),
            ).fetchall()
        if not rows:
            raise ValueError(
                f"{self.path} holds no traces of run {fingerprint}; ask with traces=True"
            )
        index = pd.DataFrame([row[:2] for row in rows], columns=["sample_id", "coalition"])
        mass = np.frombuffer(b"".join(row[4] for row in rows), "<f4")
        counts = np.frombuffer(b"".join(row[5] for row in rows), "<i4")
        return TraceTable(index, mass.reshape(len(rows), *rows[0][2:4], 3), counts.reshape(-1, 3))

    def read_routes(self, fingerprint: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """What a gate said in a steered run: index ``sample_id, coalition``, p (N, L), g (N, L, 3).

        Raises ``ValueError`` when there is nothing.
        """
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT sample_id, coalition, conflict, gate FROM routes "
                "WHERE fingerprint = ? ORDER BY sample_id, coalition",
                (fingerprint,),
            ).fetchall()
        if not rows:
            raise ValueError(
                f"{self.path} holds no routes of run {fingerprint}; evaluate its method with "
                "scored=True"
            )
        index = pd.DataFrame([row[:2] for row in rows], columns=["sample_id", "coalition"])
        conflict = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), -1)
        gate = np.frombuffer(b"".join(row[3] for row in rows), "<f4")
        return index, conflict, gate.reshape(*conflict.shape, 3)

    def write_importance(
        self, fingerprint: str, scores: Mapping[tuple[str, str, str], np.ndarray]
    ) -> None:
        """Keep the importance of visual tokens by (sample_id, coalition, media)."""
        rows = [(fingerprint, *key, own.astype("<f4").tobytes()) for key, own in scores.items()]
        with closing(self._connect()) as db, db:
            db.executemany("INSERT OR REPLACE INTO importance VALUES (?, ?, ?, ?, ?)", rows)

    def read_importance(
        self, fingerprint: str, keys: Sequence[tuple[str, str, str]]
    ) -> dict[tuple[str, str, str], np.ndarray]:
        """Of some prompts, where it is known: scores of their visual tokens in order."""
        query = (
            "SELECT scores FROM importance "
            "WHERE fingerprint = ? AND sample_id = ? AND coalition = ? AND media = ?"
        )
        found = {}
        with closing(self._connect()) as db:
            for key in keys:
                if (row := db.execute(query, (fingerprint, *key)).fetchone()) is not None:
                    found[tuple(key)] = np.frombuffer(row[0], "<f4")
        return found

    def export(self, fingerprint: str, path: str | Path) -> Path:
        """All answers of a run as a Parquet file, written whole or not at all."""
        with whole(path) as partial:
            self.read(fingerprint).to_parquet(partial, index=False)
        return Path(path)


def _final(db: sqlite3.Connection, fingerprint: str, prediction: Prediction) -> Prediction:
    """The failure that stays, where it was to be asked once again and has been."""
    if prediction.again != "once":
        return prediction
    key = (fingerprint, prediction.sample_id, prediction.coalition, prediction.media)
    before = db.execute(
        "SELECT again FROM predictions "
        "WHERE fingerprint = ? AND sample_id = ? AND coalition = ? AND media = ?",
        tuple(map(_storable, key)),
    ).fetchone()
    return replace(prediction, again=None) if before == ("once",) else prediction


def _storable(value: object) -> object:
    """SQLite keeps no lone surrogates, which a reply or a path in a reason may hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
