"""Regions of people on disk: found once a clip, by several processes, and kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from emomm_study.failures import Failure, Watch, in_one_sentence
from emomm_study.media.models import MODELS, model_path
from emomm_study.media.regions import KINDS, PersonRegions, PersonSettings
from emomm_study.media.video import MediaError, VideoSettings, read_frames, require_file

if TYPE_CHECKING:
    from emomm_study.media.person import PersonLocator

VERSION = 2
"""Raised whenever a change in ``media`` can change a region; part of every kept region's key."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS regions (
    key TEXT PRIMARY KEY, video TEXT NOT NULL, frames INTEGER, height INTEGER, width INTEGER,
    found TEXT, mask BLOB, coverage REAL, failure TEXT
) WITHOUT ROWID;
"""
LOOKING = "looking for people"
_COLUMNS = ("video", "frames", *KINDS, "coverage", "failure")
Found = tuple[Path, "PersonRegions | str | Failure"]
"""A clip and its regions, or why it has none."""
Search = Callable[[Sequence[Path]], Iterable[Found]]


class RegionStore:
    """Regions of clips on disk: found once, resumable, safe to read while a run writes.

    One SQLite file in ``folder``, a few hundred bytes a clip. A region belongs to a file as it was
    (path, size, time of change), to the video and person settings and to the two models; others lie
    beside it, and nothing outdated is ever returned.
    """

    def __init__(
        self,
        folder: str | Path,
        video: VideoSettings,
        settings: PersonSettings = PersonSettings(),
    ) -> None:
        self.path = Path(folder) / "regions.sqlite"
        self.video, self.settings = video, settings
        made_by = {
            "version": VERSION,
            "mediapipe": importlib.metadata.version("mediapipe"),
            "models": [model.sha256 for model in MODELS],
            "person": settings.settings(),
            # Threads do not change the frames.
            "video": {k: v for k, v in asdict(video).items() if k != "threads"},
        }
        self.fingerprint = _digest(made_by)
        """Of all that can change a region besides the clip itself."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db:
            db.executescript(_SCHEMA)

    def find(
        self,
        videos: Sequence[Path],
        *,
        processes: int = 2,
        progress: bool = True,
        search: Search | None = None,
    ) -> pd.DataFrame:
        """Find the regions of some clips, unless they are known; one row a clip, in their order.

        Every clip is kept as it is finished: a killed run loses no more than those it was at. One
        that cannot be read, or at which anything else fails, is a row with its reason.
        ``processes`` beyond one are started afresh ("spawn"), so that a script that calls this
        needs its ``if __name__ == "__main__"``. ``search`` looks in their place, on other machines.

        Returns ``video, frames``, the number of frames of each kind (``person+face, person, face,
        kept, none``), ``coverage`` (mean share of a frame, 0..1) and ``failure`` (None, or why
        there is no region; the numbers are then missing). Raises ``ModelFileError`` when
        MediaPipe's models are not in the cache.
        """
        for model in MODELS:
            model_path(model)
        videos = [Path(video) for video in videos]
        keys, absent = {}, {}
        for video in dict.fromkeys(videos):
            try:
                keys[video] = self._key(video)
            except BaseException as error:
                absent[video] = Failure.of(error, LOOKING, str(video), (MediaError,)).reason
        with in_one_sentence(self.path, "clips") as kept, closing(self._connect()) as db:
            known = self._known()
            todo = [video for video, key in keys.items() if key not in known]
            kept.done, kept.total = len(keys) - len(todo), len(keys)
            watch, held = Watch(), []
            with tqdm(
                total=kept.total, initial=kept.done, unit="clip", disable=not progress
            ) as bar:
                searched = search(todo) if search else self._search(todo, processes)
                for video, found in searched:
                    if isinstance(found, Failure):
                        watch.failed(str(video), found)
                        held.append((video, found.reason))
                    else:
                        self._keep(db, keys[video], video, found)
                    if isinstance(found, PersonRegions):
                        watch.worked([LOOKING])
                    kept.done += not isinstance(found, Failure)
                    bar.update()
            # Only now is it known that they are the clips' own.
            for video, reason in held:
                self._keep(db, keys[video], video, reason)
        known = self._known()
        rows = [known[keys[v]] if v in keys else (None, "", None, absent[v]) for v in videos]
        return pd.DataFrame(
            [_summary(video, *row) for video, row in zip(videos, rows, strict=True)],
            columns=_COLUMNS,
        )

    def _keep(
        self, db: sqlite3.Connection, key: str, video: Path, found: PersonRegions | str
    ) -> None:
        row = _packed(found) if isinstance(found, PersonRegions) else (None,) * 6
        failure = found if isinstance(found, str) else None
        name = os.fsencode(video).decode("utf-8", "backslashreplace")
        with db:
            db.execute(
                "INSERT OR REPLACE INTO regions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, name, *row, failure),
            )

    def read(self, video: Path) -> PersonRegions:
        """Regions of a clip.

        Raises ``LookupError`` that names the file where they were not found yet with these
        settings, and ``MediaError`` with its reason where the clip could not be read.
        """
        video = Path(video)
        with closing(self._connect()) as db:
            row = db.execute(
                "SELECT frames, height, width, found, mask, failure FROM regions WHERE key = ?",
                (self._key(video),),
            ).fetchone()
        if row is None:
            raise LookupError(
                f"{video}: no person region with these settings in {self.path}; call "
                "RegionStore.find with this clip first (again, if the file has changed since)"
            )
        *shape, found, packed, failure = row
        if failure is not None:
            raise MediaError(failure)
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        mask = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)
        return PersonRegions(mask, np.array(found.split(","), dtype="<U11"))

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        db.execute("PRAGMA journal_mode=WAL")
        return db

    def _key(self, video: Path) -> str:
        require_file(video)
        state = video.stat()
        return _digest([str(video.resolve()), state.st_size, state.st_mtime_ns, self.fingerprint])

    def _known(self) -> dict[str, tuple]:
        """``frames, found, coverage, failure`` by key."""
        with closing(self._connect()) as db:
            rows = db.execute("SELECT key, frames, found, coverage, failure FROM regions")
            return {key: row for key, *row in rows}

    def _search(self, videos: Sequence[Path], processes: int) -> Iterator[Found]:
        """Each clip with its regions, or why it has none, in the order they are finished."""
        if not videos:
            return
        if processes <= 1:
            with open_locator(self.settings) as locator:
                yield from ((video, look(locator, video, self.video)) for video in videos)
            return
        pool = ProcessPoolExecutor(
            min(processes, len(videos)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.settings,),
        )
        try:
            futures = {pool.submit(_work, video, self.video): video for video in videos}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # Also when the caller stops or is interrupted: what has not begun is not begun.
            pool.shutdown(cancel_futures=True)


_worker: PersonLocator | None = None


def open_locator(settings: PersonSettings) -> PersonLocator:
    """What finds people, with MediaPipe's models loaded."""
    # MediaPipe takes a second to import, and who only reads regions does not need it.
    from emomm_study.media.person import PersonLocator

    return PersonLocator(settings)


def _start_worker(settings: PersonSettings) -> None:
    global _worker
    _worker = open_locator(settings)
    # Python's own atexit comes too late: MediaPipe closes with the help of a thread.
    Finalize(None, _worker.close, exitpriority=0)


def _work(video: Path, settings: VideoSettings) -> PersonRegions | str | Failure:
    return look(_worker, video, settings)


def look(
    locator: PersonLocator, video: Path, settings: VideoSettings
) -> PersonRegions | str | Failure:
    """What was found in a clip; words of our own, or any other failure, where nothing was."""
    try:
        return locator.locate(read_frames(video, settings))
    except MediaError as error:
        return str(error)
    except BaseException as error:
        return Failure.of(error, LOOKING, str(video))


def _packed(regions: PersonRegions) -> tuple[int, int, int, str, bytes, float]:
    bits = zlib.compress(np.packbits(regions.mask).tobytes(), level=9)
    return *regions.mask.shape, ",".join(regions.found), bits, regions.coverage


def _summary(
    video: Path, frames: int | None, found: str | None, coverage: float | None, failure: str | None
) -> tuple:
    kinds = (found or "").split(",")
    counts = [pd.NA if failure else kinds.count(kind) for kind in KINDS]
    return video, pd.NA if failure else frames, *counts, coverage, failure


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
