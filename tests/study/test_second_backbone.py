"""The study's whole way with a tiny VITA: what is asked, kept, trained, steered and looked into."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_media import tone, write_mp4

from emomm_lib import SteeringConfig
from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.cases import RULES, Case, NoCase, find_cases
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.methods import Method
from emomm_study.evaluate.protocol import PUBLISHED, Study, baseline, on_test
from emomm_study.evaluate.routing import table6_metrics
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.report.explorer import Explored, ExplorerState
from tests.backbones import HEADS, LAYERS, make_vita

MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=2.0))
SPLITS = ("train",) * 6 + ("valid",) * 2 + ("test",) * 4
STEERING = SteeringConfig(first_layer=2, tau=0.0, gamma=6.0, top_k=4, beta=0.5)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Experiment:
    """Twelve wide clips, of speakers of their own, most of them conflicts."""
    root = tmp_path_factory.mktemp("vita")
    rng = np.random.default_rng(0)
    rows = []
    for i, split in enumerate(SPLITS):
        frames = rng.integers(0, 256, (4, 56, 72, 3), dtype=np.uint8)
        write_mp4(root / f"{i}.mp4", frames=frames, sound=tone(0.5 + 0.05 * i, hertz=200 + 40 * i))
        labels = rng.permutation(5)[:4] if i % 3 else np.full(4, i % 5)
        labels[1 + i % 2] = labels[
            0
        ]  # a modality that is right, and in conflicts others that are not
        rows.append({
            "sample_id": f"c{i:02d}", "corpus": "ch_sims_v2", "speaker_id": f"s{i}",
            "text": f"word {i} " * (1 + i % 3), "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4",
            **dict(zip(("label_gt", "label_t", "label_a", "label_v"), labels.tolist(), strict=True)),
            "score_gt": 0.0, "split": split, "subset": "conflict" if i % 3 else "align",
        })  # fmt: skip
    torch.manual_seed(3)
    store = PredictionStore(root / "store" / "p.sqlite")
    return Experiment(make_vita(), pd.DataFrame(rows), {"ch_sims_v2": root}, store, MEDIA, 4,
                      processes=1, progress=False, keep_encodings=True, name="tiny-vita")  # fmt: skip


@pytest.fixture(scope="module")
def study(bench, tmp_path_factory) -> Study:
    patch = pytest.MonkeyPatch()
    patch.setenv("EMOMM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield Study(bench, bench.states(bench.clips))
    patch.undo()


def test_answers_attention_and_states_are_kept_with_what_it_would_rather_say(bench, study):
    answers = bench.predictions(bench.clips, COALITIONS, traces=True, states=True)
    assert answers["failure"].isna().all() and len(answers) == len(SPLITS) * len(COALITIONS)
    said = answers["details"].map(json.loads)
    assert said.map(lambda own: set(own["state_logits"]) == {"text", "speech", "noise"}).all()
    traces = bench.traces()
    assert traces.mass.shape == (len(answers), LAYERS, HEADS, 3)
    assert len(study.states.index) == len(SPLITS) * 4
    # Once encoded, clips are not read again, and answered alike.
    again = bench.encodings.read(next(iter(bench.encodings.known())), torch.device("cpu"))
    assert bench.model.video_grid(again.grid) == (4, 2, 2)


def test_its_own_router_steers_it_and_says_what_table_6_asks(bench, study):
    router = study.router(PUBLISHED)[0]
    assert router.fingerprint == bench.model.fingerprint
    plain = baseline(study, study.split("test"))
    steered = on_test(study, [Method("CHASE", PUBLISHED, STEERING)])["CHASE"]
    keys = ["sample_id", "coalition"]
    both = plain.merge(steered, on=keys, suffixes=("", "_after"))
    assert len(both) == len(plain) == 4 * SPLITS.count("test")
    moved = (both["logit_a"] - both["logit_a_after"]).abs()
    assert moved.max() > 1e-3
    metrics = table6_metrics(study, study.trained([Method("x", PUBLISHED, STEERING)])[0].source)
    assert set(metrics["split"]) == {"valid", "test"} and metrics["metric"].nunique() == 3


def test_the_explorer_and_the_cases_show_it_like_any_other(bench, study):
    explored = Explored(bench, study.split("test"), {"router": study.router(PUBLISHED)[0]})
    clip = study.split("test")["sample_id"].iloc[0]
    shown = explored.show(
        ExplorerState(sample_id=clip, coalition="TAV", config=STEERING, gate="router")
    )
    assert bench.frames(bench.clips.iloc[0]).shape == (4, 56, 56, 3)
    assert shown.opened.tiles.shape == (4, 160, 160, 3) and len(shown.heat()) == 2
    assert shown.heat()[0].shape == (4, 2, 2)
    cases = find_cases(study, {"CHASE": STEERING}, "CHASE")
    assert len(cases) == len(RULES) and all(isinstance(c, Case | NoCase) for c in cases)
