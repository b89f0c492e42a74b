"""Little clips for workers that die, hang and are told to by files, and a driver to be killed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from crash import MEDIA, small_model
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.evaluate.cluster import Cluster
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore

COALITIONS = ("TAV", "AV", "V")
BATCH = 2
CLIPS = 16
POISON, HANGING, FULL = "poison", "hanging", "full"
"""Files of a folder: whose clip kills its worker, hangs once, or finds the disk full once; ..."""
ANY = "any"
"""... where every clip does, ..."""
PAUSE, MEET = "pause", "meet"
"""... and for how many seconds, or until how many processes have begun, a batch is waited with."""
ASKED = "asked.log"


def write_clips(folder: Path, count: int = CLIPS) -> pd.DataFrame:
    """Clips of growing length in ``folder``, one of which is damaged; their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        sound = tone(0.5 + 0.03 * i, hertz=200 + 20 * i)
        write_mp4(folder / f"{i}.mp4", frames=grey_frames(4, 56), sound=sound)
        rows.append({
            "sample_id": f"c{i:02d}", "corpus": "ch_sims_v2", "text": f"word {i}",
            "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4", "speaker_id": "s",
            "label_gt": i % 5, "label_t": 1, "label_a": i % 5, "label_v": 3,
        })  # fmt: skip
    (folder / "5.mp4").write_bytes(b"damaged")
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Told:
    """Opens the small model, and does with clips what files of ``folder`` say."""

    folder: Path

    def __call__(self):
        torch.set_num_threads(1)
        return _Telling(small_model(), self)

    def asked(self) -> list[tuple[int, list[str]]]:
        """The process and the transcripts of every batch that was begun."""
        log = self.folder / ASKED
        lines = log.read_text().splitlines() if log.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    def say(self, what: str, text: str = "") -> None:
        (self.folder / what).write_text(text)


class _Telling:
    def __init__(self, model, told: Told) -> None:
        self._model, self._told = model, told

    def __getattr__(self, name):
        return getattr(self._model, name)

    def answer(self, queries, **options):
        self._note(queries)
        return self._model.answer(queries, **options)

    def compute(self, queries, **options):
        self._note(queries)
        return self._model.compute(queries, **options)

    def _note(self, queries) -> None:
        texts = sorted({query.transcript for query in queries})
        with (self._told.folder / ASKED).open("a") as log:
            log.write(json.dumps([os.getpid(), texts]) + "\n")
        pause = self._told.folder / PAUSE
        time.sleep(float(pause.read_text()) if pause.exists() else 0)
        meet = self._told.folder / MEET
        while meet.exists() and len({pid for pid, _ in self._told.asked()}) < int(meet.read_text()):
            time.sleep(0.02)
        for name in (POISON, HANGING, FULL):
            file = self._told.folder / name
            if not file.exists() or file.read_text() not in (*texts, ANY):
                continue
            if name == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            file.unlink()
            if name == FULL:
                raise OSError(28, "No space left on device")
            time.sleep(3600)


def bench(told: Told, clips: pd.DataFrame, folder: Path, store: Path, executor=None) -> Experiment:
    return Experiment(told(), clips, {"ch_sims_v2": folder}, PredictionStore(store), MEDIA, BATCH,
                      processes=1, progress=False, executor=executor)  # fmt: skip


def drive(folder: Path, told: Told, store: Path, workers: int) -> None:
    """Ask all clips of ``folder/clips.csv`` by so many workers, in a process that may be killed."""
    clips = pd.read_csv(folder / "clips.csv", dtype={"text": str})
    own = bench(told, clips, folder, store, Cluster(told, workers=workers))
    own.predictions(clips, COALITIONS, traces=True, states=True)
