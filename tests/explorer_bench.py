"""A little experiment for the explorer: Omni-mini, six surrogate clips, and an untrained router."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch

from emomm_lib.chase.router import Router
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.render import clip_paths, write_clip
from emomm_study.paths import ROOT
from emomm_study.report.explorer import Explored, ExplorerState, Shown
from emomm_study.systems.omni import OmniModel

CLIPS = {
    Corpus.CH_SIMS: (("video_0094", "0010"), ("aqgy1_0080", "0010"), ("video_0023", "0002")),
    Corpus.CMU_MOSI: (("7UbhAjqFlTV", "21"), ("YlkVtUCbWoG", "15"), ("q0GAH5Pv6pn", "6")),
}
"""In which modalities disagree; of the surrogate corpora's clips."""


def small_bench(folder: Path) -> Experiment:
    """Clips of both corpora, rendered into a folder where they are not there yet."""
    chosen = []
    for corpus, names in CLIPS.items():
        plan = corpus_plan(corpus, SurrogateSettings()).set_index(["video_id", "clip_id"])
        chosen.append(plan.loc[list(names)].reset_index())
    clips = pd.concat(chosen, ignore_index=True)
    records = clips.to_dict("records")
    for clip in records:
        write_clip(folder, clip)
    paths = [clip_paths(clip) for clip in records]
    clips["video_path"], clips["audio_path"] = zip(*paths, strict=True)
    clips["sample_id"] = clips["corpus"] + "/" + clips["video_id"] + "/" + clips["clip_id"]
    clips["subset"], clips["split"] = "conflict", ["test", "valid"] * (len(clips) // 2)
    model = ROOT / "data" / "omni-mini"
    return Experiment(
        name="omni-mini",
        model=OmniModel.load(model, dtype="float32"),
        model_folder=model,
        clips=clips,
        roots=dict.fromkeys(Corpus, folder),
        media=MediaSettings(VideoSettings(4), AudioSettings(max_seconds=3.0)),
        store=PredictionStore(folder / "predictions.sqlite"),
        batch_size=4,
    )


def slow_down(explored: Explored, seconds: Path) -> None:
    """Make the model take longer for every picture, by as much as stands in a file at the time."""
    show = explored.show

    def late(state: ExplorerState) -> Shown:
        time.sleep(float(seconds.read_text()))
        return show(state)

    explored.show = late


def small_router(bench: Experiment, seed: int = 0) -> Router:
    """Weights at random, and a p that exceeds the published tau in all layers from the fourth."""
    text = bench.model.model.get_decoder().config
    torch.manual_seed(seed)
    router = Router(
        state_size=text.hidden_size,
        layers=text.num_hidden_layers,
        fingerprint=bench.model.fingerprint,
        first_layer=4,
    )
    torch.nn.init.zeros_(router.conflict_head[-1].weight)
    torch.nn.init.constant_(router.conflict_head[-1].bias, 4.0)
    torch.nn.init.normal_(router.gate_head[-1].weight, std=1.0)
    return router.eval()
