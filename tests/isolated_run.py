"""A run over little clips by a faulty driver, for tests that kill either."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.systems.isolated import IsolatedSystem

MEDIA = MediaSettings(VideoSettings(num_frames=2), AudioSettings(max_seconds=2.0))
STARTED = "started"
COALITIONS = ("TAV", "TV", "T")
DRIVER = Path(__file__).with_name("faulty_driver.py")


def faulty(log: Path, *flags: str, **options) -> IsolatedSystem:
    """A driver that goes wrong as it is told; ``log`` has what it was asked."""
    command = [sys.executable, str(DRIVER), "--log", str(log), *flags]
    return IsolatedSystem("faulty", command, **options)


def run(folder: Path, cache: Path) -> None:
    """Ask about all clips of ``folder/clips.csv``; touches ``started`` once the driver is there."""
    os.environ["EMOMM_CACHE"] = str(cache)
    clips = pd.read_csv(folder / "clips.csv", dtype=str)
    system = faulty(folder / "asked.log", "--pause", "0.01")
    (folder / "fingerprint").write_text(run_fingerprint(system, MEDIA)[0])
    (folder / STARTED).touch()
    store = PredictionStore(folder / "p.sqlite")
    bench = Experiment(system, clips, {"ch_sims_v2": folder}, store, MEDIA, 8, progress=False)
    bench.predictions(clips, COALITIONS)
    system.close()
