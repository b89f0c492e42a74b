"""A run over little clips in a process of its own, for tests that kill it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import torch

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.systems.omni import OmniModel

SMALL = MiniConfig(hidden=32, layers=1, heads=2, kv_heads=1, ffn=32, vision_hidden=32,
                   vision_layers=1, vision_heads=2, vision_ffn=32, audio_hidden=32,
                   audio_layers=1, audio_heads=2, audio_ffn=32, side=56)  # fmt: skip
MEDIA = MediaSettings(VideoSettings(num_frames=2), AudioSettings(max_seconds=2.0))
COALITIONS = ("TAV", "TA", "V", "none")
BATCH = 2
STARTED, COMPUTED = "started", "computed.log"


def small_model() -> OmniModel:
    torch.manual_seed(1)
    processor = build_processor(SMALL)
    return OmniModel(build_model(processor, SMALL), processor, "random")


class Logging:
    """Appends every clip it encodes to a file, which outlives the process."""

    def __init__(self, model: OmniModel, log: Path, pause: float) -> None:
        self._model, self._log, self._pause = model, log, pause

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, media):
        with self._log.open("a") as handle:
            handle.write(f"{os.getpid()} {len(media)}\n")
        time.sleep(self._pause)
        return self._model.encode(media)


def run(folder: Path, store: Path, log: Path, pause: float = 0.02) -> None:
    """Evaluate all clips of ``folder/clips.csv``; touches ``started`` once the model is there."""
    torch.set_num_threads(1)
    model = Logging(small_model(), log, pause)
    clips = pd.read_csv(folder / "clips.csv", dtype=str)
    log.with_name(STARTED).touch()
    bench = Experiment(model, clips, {"ch_sims_v2": folder}, PredictionStore(store), MEDIA, BATCH,
                       processes=2, progress=False)  # fmt: skip
    bench.predictions(clips, COALITIONS, traces=True)
