"""A campaign on disk: who labels which clip in which order, and every answer (Appendix A.2).

SQLite in WAL mode with full syncs: an answer is on disk before ``record`` returns, and several
people may write at once. Nothing of a clip is kept but its seq and its ``sample_id``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib.labels import MODALITIES

ANNOTATORS_A_CLIP = 5
VOTE_NAMES = {-1: "negative", 0: "neutral", 1: "positive"}
VOTES = tuple(VOTE_NAMES)
CALIBRATION, ANNOTATION = PHASES = ("calibration", "annotation")
PASSES = tuple((phase, modality) for phase in PHASES for modality in MODALITIES)
"""In their order: one modality a pass, and the calibration round before the clips that count."""
REFERENCES = tuple(f"label_{modality}" for modality in MODALITIES)
TEAM = tuple(f"A{number}" for number in range(1, ANNOTATORS_A_CLIP + 1))
ANONYMOUS = re.compile(r"A[1-9]\d?")
"""Ids of annotators: who they are is kept elsewhere."""
Teams = Mapping[Sequence[str], tuple[int, int]]

_APPLICATION, _VERSION = 0x456D6F4D, 1
_SAMPLE = re.compile(r"[^\s/]+/[^\s/]+/[^\s/]+")
_SCHEMA = (
    "CREATE TABLE about (fingerprint TEXT NOT NULL, seed INTEGER NOT NULL, settings TEXT NOT NULL)",
    "CREATE TABLE items (phase TEXT, seq INTEGER, sample_id TEXT NOT NULL, "
    "label_T INTEGER, label_A INTEGER, label_V INTEGER, PRIMARY KEY (phase, seq)) WITHOUT ROWID",
    "CREATE TABLE ranges (annotator TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL)",
    "CREATE TABLE answers (id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, "
    "annotator TEXT NOT NULL, modality TEXT NOT NULL, seq INTEGER NOT NULL, "
    "label INTEGER NOT NULL CHECK (label IN (-1, 0, 1)), phase TEXT NOT NULL)",
    "CREATE INDEX by_annotator ON answers (annotator, phase, modality, seq)",
    "CREATE TABLE unreadable (time TEXT NOT NULL, annotator TEXT, phase TEXT, modality TEXT, "
    "seq INTEGER, PRIMARY KEY (annotator, phase, modality, seq)) WITHOUT ROWID",
)


class CampaignError(ValueError):
    """A campaign that cannot be made or opened, or an answer that the protocol does not allow."""


@dataclass(frozen=True)
class Answer:
    """One judgement: -1 negative, 0 neutral, 1 positive, of one modality of one clip."""

    annotator: str
    modality: str
    seq: int
    label: int
    phase: str = ANNOTATION


@dataclass(frozen=True)
class Task:
    """What an annotator is to judge.

    Attributes
    ----------
    done, total
        Answered and assigned items of this pass.
    label
        The annotator's answer so far; None where there is none.
    """

    annotator: str
    phase: str
    modality: str
    seq: int
    sample_id: str
    done: int
    total: int
    label: int | None = None


_COLUMNS = tuple(f.name for f in fields(Answer))


class Campaign:
    """A campaign's file; ``Campaign.create`` makes one, ``Campaign(path)`` opens it.

    Attributes
    ----------
    fingerprint
        Of items, teams, calibration, seed and settings; equal files are one campaign.
    settings
        What the caller noted at creation, to tell a stale campaign by.
    items
        ``seq, sample_id``; seq counts from 1.
    calibration
        ``seq, sample_id, label_T, label_A, label_V``, the reference labels; may be empty.
    annotators
        In the order of their numbers.

    Raises :class:`CampaignError` for a file that is absent, no campaign, or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CampaignError(f"{path}: no such campaign; Campaign.create(path, ...) makes one")
        with self._connect() as db:
            # Asked before anything is set: the file may be somebody's other database.
            if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
                raise CampaignError(
                    f"{path}: not an annotation campaign; give the file that Campaign.create made"
                )
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise CampaignError(
                    f"{path}: a campaign of version {version}, and this code reads version "
                    f"{_VERSION}; open it with the version of emomm_lib that made it"
                )
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise CampaignError(
                    f"{path}: SQLite cannot keep its log beside this file (journal mode {mode}); "
                    "put it on a disk of this machine"
                )
            [(self.fingerprint, self._seed, settings)] = db.execute("SELECT * FROM about")
            self.settings = json.loads(settings)
            items = pd.read_sql_query("SELECT * FROM items ORDER BY seq", db)
            self._ranges = db.execute("SELECT * FROM ranges ORDER BY first").fetchall()
        own = {p: items[items["phase"] == p].reset_index(drop=True) for p in PHASES}
        self.items = own[ANNOTATION][["seq", "sample_id"]]
        self.calibration = own[CALIBRATION][["seq", "sample_id", *REFERENCES]].astype(
            dict.fromkeys(REFERENCES, "int64")
        )
        names = {name for name, *_ in self._ranges}
        self.annotators = tuple(sorted(names, key=lambda name: int(name[1:])))
        self._names = {p: frame["sample_id"].to_numpy() for p, frame in own.items()}

    @classmethod
    def create(
        cls,
        path: str | Path,
        sample_ids: Iterable[str],
        teams: Teams | None = None,
        calibration: pd.DataFrame | None = None,
        seed: int = 0,
        settings: dict | None = None,
    ) -> Campaign:
        """Make a campaign over clips, whose seq is their place in ``sample_ids``, from 1.

        Parameters
        ----------
        teams
            Annotators and the first and last seq that they label; by default ``A1`` to ``A5``
            label all. Every clip needs five different annotators.
        calibration
            ``sample_id, label_T, label_A, label_V`` of a few other clips with reference labels of
            -1, 0 or 1, which every annotator judges first and is told the reference of.
        seed
            Of the order in which each annotator sees the clips of a pass.
        settings
            Anything that JSON holds, kept as ``settings``.

        Raises :class:`CampaignError` for a file that is there, for ids that are not those of a
        manifest or repeat, for annotators that are not anonymous, and for clips with other than
        five annotators.
        """
        path, ids = Path(path), [*sample_ids]
        rows = _calibration_rows(calibration)
        _check_ids(ids, [row[1] for row in rows])
        ranges = _ranges({TEAM: (1, len(ids))} if teams is None else teams, len(ids))
        noted = json.dumps(settings or {}, sort_keys=True)
        identity = json.dumps([ids, rows, ranges, seed, json.loads(noted)], sort_keys=True)
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path) as db, _transaction(db):
            if db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                raise CampaignError(
                    f"{path}: is there already; Campaign(path) opens it, a new one needs a new name"
                )
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO about VALUES (?, ?, ?)", (fingerprint, seed, noted))
            db.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)",
                [(ANNOTATION, seq, name, None, None, None) for seq, name in enumerate(ids, 1)]
                + [(CALIBRATION, *row) for row in rows],
            )
            db.executemany("INSERT INTO ranges VALUES (?, ?, ?)", ranges)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
        return cls(path)

    # Answers

    def record(self, answers: Iterable[Answer]) -> None:
        """Write answers in one transaction; they are on disk when this returns.

        An answer to an item that has one replaces it while its pass is the annotator's latest;
        the earlier one stays in the history. Raises :class:`CampaignError`, and writes nothing,
        for an unknown annotator, an item that is not the annotator's, a label other than -1, 0, 1,
        and an answer out of the order of passes, after the answers before it in ``answers``.
        """
        answers = [*answers]
        for answer in answers:
            self._check_answer(answer)
        rows = pd.DataFrame(map(astuple, answers), columns=_COLUMNS)
        with self._connect() as db, _transaction(db):
            for annotator, own in rows.groupby("annotator", sort=False):
                self._check_order(self._standing(db, annotator), own)
            self._write(db, [(_now(), *row) for row in rows.itertuples(index=False, name=None)])

    def votes(self, phase: str = ANNOTATION) -> pd.DataFrame:
        """The newest answer to every item: ``annotator, modality, seq, sample_id, label``.

        Sorted by annotator, modality in the order T, A, V, and seq.
        """
        return self.history(phase).groupby(["annotator", "modality", "seq"], as_index=False).last()[
            ["annotator", "modality", "seq", "sample_id", "label"]
        ].pipe(self._sorted)  # fmt: skip

    def history(self, phase: str = ANNOTATION) -> pd.DataFrame:
        """All answers in the order they came, replaced ones too, with their time (UTC).

        Columns ``time, annotator, modality, seq, sample_id, label``.
        """
        query = (
            "SELECT time, annotator, modality, seq, sample_id, label FROM answers "
            "JOIN items USING (phase, seq) WHERE phase = ? ORDER BY id"
        )
        with self._connect() as db:
            found = pd.read_sql_query(query, db, params=(phase,))
        return found.assign(time=pd.to_datetime(found["time"], utc=True))

    # What is next

    def task(self, annotator: str) -> Task | None:
        """The item that an annotator is to judge next, or None when all is done.

        Within a pass items come in an order of the annotator's own: neighbours in seq are often
        cut from one video, and would tell about each other.
        """
        with self._connect() as db:
            return self._next(self._standing(db, annotator))

    def previous(self, annotator: str, before: Task | None = None) -> Task | None:
        """The item that an annotator answered last, or the one answered before a given item.

        None where there is none in that pass, or in the calibration round, whose reference labels
        have been shown.
        """
        query = (
            "SELECT seq FROM answers WHERE annotator = ? AND phase = ? AND modality = ? "
            "GROUP BY seq ORDER BY MIN(id)"
        )
        with self._connect() as db:
            standing = self._standing(db, annotator)
            begun = [k for k in range(len(PASSES)) if standing.answered(k).any()]
            if not begun or PASSES[begun[-1]][0] == CALIBRATION:
                return None
            place = begun[-1]
            seqs = [seq for (seq,) in db.execute(query, (annotator, *PASSES[place]))]
        if before is not None and before.seq in seqs and PASSES[place][1] == before.modality:
            seqs = seqs[: seqs.index(before.seq)]
        return self._task(standing, place, seqs[-1]) if seqs else None

    def set_aside(self, task: Task) -> None:
        """Note that a clip of a task could not be opened: it stays open, and others come first.

        No label is recorded. The clip's later modalities wait for it. Raises
        :class:`CampaignError` unless it is the annotator's next task.
        """
        with self._connect() as db, _transaction(db):
            there = self._next(self._standing(db, task.annotator))
            if there != task:
                raise CampaignError(
                    f"{task.annotator}, {task.phase}, {task.modality} of seq {task.seq}: not what "
                    "comes next, so it cannot be set aside; ask for the task again"
                )
            key = (task.annotator, task.phase, task.modality, task.seq)
            db.execute("INSERT INTO unreadable VALUES (?, ?, ?, ?, ?)", (_now(), *key))

    def take_up(self, annotator: str) -> None:
        """Ask an annotator again for what was set aside, once its files have been mended."""
        self._known(annotator)
        with self._connect() as db, _transaction(db):
            db.execute("DELETE FROM unreadable WHERE annotator = ?", (annotator,))

    def unreadable(self) -> pd.DataFrame:
        """What is set aside: ``annotator, phase, modality, seq, sample_id``."""
        query = (
            "SELECT annotator, phase, modality, seq, sample_id FROM unreadable "
            "JOIN items USING (phase, seq)"
        )
        with self._connect() as db:
            return self._sorted(pd.read_sql_query(query, db))

    def progress(self) -> pd.DataFrame:
        """How far everybody is: ``annotator, phase, modality, done, total, unreadable``."""
        with self._connect() as db:
            standings = [self._standing(db, annotator) for annotator in self.annotators]
        rows = [
            (s.annotator, *PASSES[k], int(s.answered(k).sum()), int(s.assigned[k].sum()),
             int(s.aside[k].sum()))
            for s in standings for k in range(len(PASSES)) if s.assigned[k].any()
        ]  # fmt: skip
        names = ["annotator", "phase", "modality", "done", "total", "unreadable"]
        return pd.DataFrame(rows, columns=names)

    # Several files

    def absorb(self, other: Campaign | str | Path) -> int:
        """Take over answers from a copy of this campaign's file; returns how many were new.

        For annotators who work on machines of their own, each with a copy. Raises
        :class:`CampaignError` for another campaign, and where one annotator has answered in both
        files since they were alike.
        """
        other = other if isinstance(other, Campaign) else Campaign(other)
        if other.fingerprint != self.fingerprint:
            raise CampaignError(f"{other.path}: another campaign than {self.path}")
        query = f"SELECT time, {', '.join(_COLUMNS)} FROM answers WHERE annotator = ? ORDER BY id"
        added = 0
        for annotator in self.annotators:
            with other._connect() as db:
                theirs = db.execute(query, (annotator,)).fetchall()
            with self._connect() as db, _transaction(db):
                ours = db.execute(query, (annotator,)).fetchall()
                shared = min(len(ours), len(theirs))
                if ours[:shared] != theirs[:shared]:
                    raise CampaignError(
                        f"{other.path}: {annotator} has answered there and in {self.path}; which "
                        "of the two counts is for a person to say"
                    )
                self._write(db, theirs[shared:])
            added += len(theirs) - shared
        return added

    # How

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return _opened(self.path)

    @staticmethod
    def _write(db: sqlite3.Connection, rows: list[tuple]) -> None:
        db.executemany(
            f"INSERT INTO answers (time, {', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        key = "annotator, phase, modality, seq"
        db.execute(f"DELETE FROM unreadable WHERE ({key}) IN (SELECT {key} FROM answers)")

    def _sorted(self, frame: pd.DataFrame) -> pd.DataFrame:
        order = {"annotator": self.annotators, "phase": PHASES, "modality": MODALITIES}
        keys = [name for name in (*order, "seq") if name in frame]
        return frame.sort_values(
            keys, key=lambda c: c.map(order[c.name].index) if c.name in order else c
        ).reset_index(drop=True)

    def _known(self, annotator: str) -> None:
        if annotator not in self.annotators:
            raise CampaignError(
                f"{annotator!r} is not an annotator of {self.path}; they are "
                f"{', '.join(self.annotators)}"
            )

    def _check_answer(self, answer: Answer) -> None:
        self._known(answer.annotator)
        where = f"{answer.annotator}, seq {answer.seq}"
        if (answer.phase, answer.modality) not in PASSES:
            raise CampaignError(
                f"{where}: expected a phase of {PHASES} and a modality of {MODALITIES}; got "
                f"{answer.phase!r} and {answer.modality!r}"
            )
        if isinstance(answer.label, bool | float) or answer.label not in VOTES:
            raise CampaignError(
                f"{where}: expected the label -1, 0 or 1 for {answer.modality}; "
                f"got {answer.label!r}"
            )
        if isinstance(answer.seq, bool | float) or not self._assigned(answer):
            mine = ", ".join(f"{a} to {b}" for n, a, b in self._ranges if n == answer.annotator)
            if answer.phase == CALIBRATION:
                mine = f"1 to {len(self.calibration)}" if len(self.calibration) else "none"
            raise CampaignError(f"{where}: expected a seq of the {answer.phase}'s, {mine}")

    def _assigned(self, answer: Answer) -> bool:
        if answer.phase == CALIBRATION:
            return 1 <= answer.seq <= len(self.calibration)
        return any(n == answer.annotator and a <= answer.seq <= b for n, a, b in self._ranges)

    def _standing(self, db: sqlite3.Connection, annotator: str) -> _Standing:
        self._known(annotator)
        length = 1 + max(len(self.items), len(self.calibration))
        assigned = np.zeros((len(PASSES), length), bool)
        assigned[: len(MODALITIES), 1 : len(self.calibration) + 1] = True
        for name, first, last in self._ranges:
            if name == annotator:
                assigned[len(MODALITIES) :, first : last + 1] = True
        labels, aside = np.full(assigned.shape, np.nan), np.zeros(assigned.shape, bool)
        answers = db.execute(
            "SELECT phase, modality, seq, label FROM answers WHERE annotator = ? ORDER BY id",
            (annotator,),
        )
        for phase, modality, seq, label in answers:
            labels[PASSES.index((phase, modality)), seq] = label
        unreadable = db.execute(
            "SELECT phase, modality, seq FROM unreadable WHERE annotator = ?", (annotator,)
        )
        for phase, modality, seq in unreadable:
            aside[PASSES.index((phase, modality)), seq] = True
        return _Standing(annotator, assigned, labels, aside)

    def _check_order(self, standing: _Standing, rows: pd.DataFrame) -> None:
        """Whether an annotator's new answers, one after another, keep the order of passes."""
        place = rows[["phase", "modality"]].apply(tuple, axis=1).map(PASSES.index).to_numpy()
        seq, turn = rows["seq"].to_numpy(), np.arange(len(rows))
        # When each item got its first answer: a row's place in ``rows``, -1 where it had one
        # before, infinity where it never does.
        first = np.where(standing.answered(slice(None)), -1, np.inf)
        np.minimum.at(first, (place, seq), turn)
        settled = np.where(standing.waiting(np.isfinite(first)), np.minimum(first, -1), first)
        open_until = np.where(standing.assigned, settled, -np.inf).max(axis=1)
        before = np.concatenate([[-np.inf], np.maximum.accumulate(open_until)[:-1]])
        begun = np.where(standing.assigned, first, np.inf).min(axis=1)
        after = np.append(np.minimum.accumulate(begun[::-1])[::-1][1:], np.inf)
        same_clip = np.where(place % len(MODALITIES) > 0, first[place - 1, seq], -np.inf)
        again = first[place, seq] < turn
        calibrating = place < len(MODALITIES)
        early = (before[place] >= turn) & ~again
        bad = early | (same_clip >= turn) | (again & ((after[place] < turn) | calibrating))
        if not bad.any():
            return
        i = int(np.flatnonzero(bad)[0])
        phase, modality = PASSES[place[i]]
        where = f"{standing.annotator}, {phase}, {modality} of seq {seq[i]}"
        if early[i]:
            k = int(np.flatnonzero(open_until >= i)[0])
            left = standing.assigned[k] & (settled[k] >= i)
            raise CampaignError(
                f"{where}: expected after every {PASSES[k][1]} of the {PASSES[k][0]}; "
                f"{left.sum()} still open, seq {np.flatnonzero(left)[0]} among them"
            )
        if same_clip[i] >= i:
            earlier = PASSES[place[i] - 1][1]
            raise CampaignError(
                f"{where}: expected after its {earlier}, which was set aside as unreadable"
            )
        if calibrating[i]:
            raise CampaignError(f"{where}: answered before, and its reference has been shown")
        raise CampaignError(
            f"{where}: expected no change, since a later pass has begun and would colour it"
        )

    def _next(self, standing: _Standing) -> Task | None:
        for place in range(len(PASSES)):
            due = standing.assigned[place] & ~standing.answered(place) & ~standing.aside[place]
            if place % len(MODALITIES):
                due &= standing.answered(place - 1)
            if due.any():
                seqs = np.flatnonzero(due).tolist()
                return self._task(standing, place, min(seqs, key=self._order(standing, place)))
        return None

    def _order(self, standing: _Standing, place: int) -> Callable[[int], bytes]:
        """An order of items by hashes, so that no library's version can change it midway."""
        name = f"{self._seed}/{standing.annotator}/{'/'.join(PASSES[place])}"
        return lambda seq: hashlib.sha256(f"{name}/{seq}".encode()).digest()

    def _task(self, standing: _Standing, place: int, seq: int) -> Task:
        phase, modality = PASSES[place]
        label = standing.labels[place, seq]
        return Task(
            standing.annotator, phase, modality, seq, self._names[phase][seq - 1],
            int(standing.answered(place).sum()), int(standing.assigned[place].sum()),
            None if np.isnan(label) else int(label),
        )  # fmt: skip


@dataclass(frozen=True)
class _Standing:
    """Where an annotator is: per pass and seq, ``(6, 1 + seqs)``."""

    annotator: str
    assigned: np.ndarray
    labels: np.ndarray
    aside: np.ndarray

    def answered(self, place: int | slice) -> np.ndarray:
        return ~np.isnan(self.labels[place])

    def waiting(self, judged: np.ndarray) -> np.ndarray:
        """What is set aside and not judged, and the later modalities of its clips."""
        rounds = (self.aside & ~judged).reshape(len(PHASES), len(MODALITIES), -1)
        return np.logical_or.accumulate(rounds, axis=1).reshape(judged.shape)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            yield db
    except sqlite3.Error as error:
        raise CampaignError(f"{path}: nothing was read or written ({error})") from error


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing; what was read inside still holds when it is written."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _check_ids(ids: list[str], calibration: list[str]) -> None:
    if not ids:
        raise CampaignError("no clips: expected the sample_ids to be labelled")
    for name in (*ids, *calibration):
        if not isinstance(name, str) or not _SAMPLE.fullmatch(name):
            raise CampaignError(
                f"{name!r}: expected a manifest's sample_id, <corpus>/<video_id>/<clip_id>"
            )
    counted = pd.Series([*ids, *calibration]).value_counts()
    if counted.max() > 1:
        raise CampaignError(
            f"{counted.index[0]}: given {counted.iloc[0]} times; a clip is labelled once, and no "
            "clip of the calibration is among those that count"
        )


def _calibration_rows(calibration: pd.DataFrame | None) -> list[tuple]:
    """``(seq, sample_id, label_T, label_A, label_V)``."""
    if calibration is None:
        return []
    names = ["sample_id", *REFERENCES]
    if absent := [name for name in names if name not in calibration]:
        raise CampaignError(f"calibration: expected the columns {names}; {absent} are absent")
    for row in calibration[names].itertuples(index=False):
        for name, label in zip(REFERENCES, row[1:], strict=True):
            if label not in VOTES:
                raise CampaignError(
                    f"calibration, {row.sample_id}: expected {name} -1, 0 or 1; got {label!r}"
                )
    rows = calibration[names].itertuples(index=False)
    return [(seq, row[0], *map(int, row[1:])) for seq, row in enumerate(rows, 1)]


def _ranges(teams: Teams, count: int) -> list[tuple[str, int, int]]:
    """``(annotator, first, last)``, after a check that every clip has five annotators."""
    voters: list[list[str]] = [[] for _ in range(count + 1)]
    ranges = []
    for team, (first, last) in teams.items():
        for annotator in team:
            if not isinstance(annotator, str) or not ANONYMOUS.fullmatch(annotator):
                raise CampaignError(
                    f"annotator {annotator!r}: expected A1 to A99. The file holds anonymous ids "
                    "alone (Appendix A.2); who they are is kept elsewhere"
                )
        if not 1 <= first <= last <= count:
            raise CampaignError(
                f"{', '.join(team)}: the range {first} to {last} is not within seq 1 to {count}"
            )
        for annotator in team:
            ranges.append((annotator, int(first), int(last)))
            for seq in range(first, last + 1):
                voters[seq].append(annotator)
    for seq, names in enumerate(voters[1:], 1):
        if len(names) != ANNOTATORS_A_CLIP or len(set(names)) != len(names):
            run = [s for s in range(seq, count + 1) if voters[s] == names]
            raise CampaignError(
                f"seq {seq} to {_end(run)}: expected {ANNOTATORS_A_CLIP} different annotators; "
                f"got {', '.join(names) or 'none'}"
            )
    return ranges


def _end(run: list[int]) -> int:
    """Where the first unbroken stretch of numbers ends."""
    return next((a for a, b in zip(run, run[1:], strict=False) if b != a + 1), run[-1])
