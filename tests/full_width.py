"""One clip through all that the study asks of a checkpoint in the published format."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tiny_media import tone, write_mp4

from emomm_lib import Router, SteeringConfig
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.methods import Always, Method, Routed
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.systems.interface import Steerable
from emomm_study.systems.table import load_system
from tests import published_omni

PIXELS = (100_352, 602_112)
MEDIA = MediaSettings(VideoSettings(num_frames=8), AudioSettings(max_seconds=30.0))
"""As the paper profile has them."""
COALITIONS = ("TAV", "TA")
LETTERS = [f"logit_{letter}" for letter in "abcde"]


@dataclass(frozen=True)
class Went:
    """What came of it: letters' logits by method, ``unsteered`` among them, and what was recorded."""

    letters: dict[str, np.ndarray]
    mass: np.ndarray
    states: np.ndarray
    model: Steerable


def _clip(folder: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    write_mp4(folder / "0.mp4", frames=frames, sound=tone(1.0))
    labels = {"label_gt": 3, "label_t": 3, "label_a": 1, "label_v": 0, "score_gt": 0.4}
    return pd.DataFrame([{
        "sample_id": "c0", "corpus": "cmu_mosi", "speaker_id": "s", "text": "What a day",
        "video_path": "0.mp4", "audio_path": "0.mp4", "split": "test", "subset": "conflict", **labels,
    }])  # fmt: skip


def _methods(model: Steerable) -> list[Method]:
    torch.manual_seed(0)
    width = model.model.config.text_config.hidden_size
    router = Router(
        state_size=width, layers=model.layers, fingerprint=model.fingerprint, first_layer=1
    )
    chase = SteeringConfig(first_layer=1, tau=0.0, gamma=3.0, top_k=4, beta=0.5)
    nothing = SteeringConfig(first_layer=1, tau=0.0, gamma=0.0, top_k=4, beta=0.0)
    video = Always(1.0, (0.0, 0.0, 1.0))
    return [
        Method("CHASE", Routed(router.eval()), chase),
        Method("without importance", Routed(router), replace(chase, beta=0.0)),
        Method("nothing", video, nothing),
        Method(
            "video", video, SteeringConfig(first_layer=1, tau=0.0, gamma=9.0, top_k=4, beta=0.0)
        ),
    ]


def go_through(
    sizes: published_omni.Sizes,
    folder: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Went:
    """Write a checkpoint, load it, encode a clip as the paper profile does, answer, record attention
    and states, compute importance by gradients, steer and replay; ``say`` is told what each took.

    Weights are bfloat16 on disk. Computing with them takes minutes on a core without instructions
    for that type, where ``float32`` takes seconds.
    """

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        say(f"{name:<40} {time.monotonic() - began:6.1f} s, at most {most:.1f} GB so far")

    with step("write"):
        # As wide as this, weights of a spread of 0.2 would drown one another.
        published_omni.write(folder / "model", sizes, std=0.02, shard="250MB")
    with step("load"):
        model = load_system(folder / "model", dtype=dtype, device=device, pixels=PIXELS)
    clips, store = _clip(folder), PredictionStore(folder / "p.sqlite")
    bench = Experiment(model, clips, {Corpus.CMU_MOSI: folder}, store, MEDIA, 1, processes=1,
                       progress=False)  # fmt: skip
    with step("encode, answer, record attention, states"):
        plain = bench.predictions(clips, COALITIONS, traces=True, states=True)
    with step("importance by gradients, steer, replay"):
        steered = bench.steered(clips, COALITIONS, _methods(model))
    rows = pd.concat([plain.assign(method="unsteered"), steered])
    assert rows["failure"].isna().all(), rows["failure"].dropna().tolist()
    letters = {
        name: own.set_index("coalition").loc[list(COALITIONS), LETTERS].to_numpy(float)
        for name, own in rows.groupby("method")
    }
    states = bench.states(clips).query_state[:].numpy()
    return Went(letters, bench.traces().mass, states, model)


def check(went: Went, sizes: published_omni.Sizes) -> None:
    """What holds of the answers, whatever the weights: raises ``AssertionError``."""
    model = went.model
    assert (model.layers, model.heads) == (sizes.layers, sizes.heads)
    assert model.decoder.config.hidden_size == sizes.hidden
    assert model.model.get_input_embeddings().weight.shape == (
        published_omni.VOCABULARY,
        sizes.hidden,
    )
    assert went.mass.shape == (4, sizes.layers, sizes.heads, 3)
    assert (went.mass >= 0).all() and (went.mass.sum(-1) <= 1 + 1e-3).all()
    assert went.states.shape[1:] == (sizes.layers, sizes.hidden)
    tav, ta = range(2)
    plain = went.letters["unsteered"]
    assert np.isfinite(plain).all() and np.ptp(plain) > 0
    spread = np.ptp(plain)
    precise = 1e-4 if model.model.dtype == torch.float32 else 0.05
    # A replay that moves nothing is the plain forward; without video hardly anything can be moved.
    moved = {name: abs(own - plain).max(1) / spread for name, own in went.letters.items()}
    assert moved["nothing"].max() < precise, moved
    assert precise < moved["video"][tav] > 20 * moved["video"][ta], moved
    apart = abs(went.letters["CHASE"] - went.letters["without importance"]).max(1) / spread
    assert apart[ta] < precise and moved["CHASE"][tav] > 0 < apart[tav], (moved, apart)
