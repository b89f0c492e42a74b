"""What stands beside a model: the ideal observer, products of its own answers, a corpus's own gate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from emomm_lib.labels import COALITIONS
from emomm_lib.metrics.reference import LOGITS
from emomm_study.corpora.manifest import subset
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.methods import Batch, ByCorpus
from emomm_study.evaluate.protocol import Study
from emomm_study.evaluate.results import baselines
from emomm_study.mini.ideal import ideal_outcomes
from emomm_study.mini.surrogate.cue import CUES
from emomm_study.mini.surrogate.observer import IdealObserver
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan


def surrogates(cue: str = "informative", n: int = 40) -> pd.DataFrame:
    settings = SurrogateSettings(cue=CUES[cue])
    plan = pd.concat([corpus_plan(c, settings).sample(n, random_state=1) for c in Corpus])
    return plan.assign(subset=subset(plan)).reset_index(drop=True)


@pytest.mark.parametrize("cue", CUES)
def test_the_observer_is_asked_about_what_the_very_clips_show_once_each(cue):
    plan = surrogates(cue)
    manifest = plan.drop(columns=[c for c in plan if c.startswith(("shown_", "emphatic_"))])
    asked = manifest.merge(pd.DataFrame({"coalition": list(COALITIONS)}), how="cross")
    found = ideal_outcomes(asked.sample(frac=1, random_state=0), cue)
    keys = ["sample_id", "coalition"]
    expected = IdealObserver().outcomes(plan)
    assert len(found) == len(plan) * len(COALITIONS)
    pd.testing.assert_series_equal(
        found.set_index(keys)["right"].sort_index(), expected.set_index(keys)["right"].sort_index()
    )


def test_a_clip_that_nobody_drew_has_no_ideal_observer():
    plan = surrogates()
    plan.loc[3, "sample_id"] = "cmu_mosi/real/1"
    with pytest.raises(ValueError, match="cmu_mosi/real/1 is no surrogate"):
        ideal_outcomes(plan.drop(columns=["shown_t", "shown_a", "shown_v"]
                                 + ["emphatic_t", "emphatic_a", "emphatic_v"]))  # fmt: skip


def test_the_product_of_own_probabilities_is_multiplied_out_by_hand():
    rng = np.random.default_rng(0)
    clips = surrogates(n=4)
    rows = clips.merge(pd.DataFrame({"coalition": list(COALITIONS)}), how="cross")
    logits = rng.normal(0, 2, (len(rows), 5))
    answered = rows.assign(**dict(zip(LOGITS, logits.T, strict=True)))
    answered = answered.assign(label_pred=logits.argmax(1))
    found = baselines(answered)["product of own probabilities"].set_index(
        ["sample_id", "coalition"]
    )
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = {
        key: p[i] for i, key in enumerate(zip(rows["sample_id"], rows["coalition"], strict=True))
    }
    for name, clip in clips.set_index("sample_id").iterrows():
        for coalition in ("T", "TA", "AV", "TAV"):
            product = np.prod([own[name, m] for m in coalition], axis=0)
            assert found.loc[(name, coalition), "right"] == float(
                product.argmax() == clip["label_gt"]
            )


@pytest.fixture(scope="module")
def study() -> Study:
    clips = surrogates(n=60)
    clips["speaker_id"] = clips["corpus"] + clips["video_id"]
    clips["split"] = np.where(np.arange(len(clips)) % 5 == 0, "valid", "train")
    return Study(SimpleNamespace(clips=clips), None)


def test_a_corpus_s_gate_is_the_mean_of_what_clips_of_other_folds_should_have_had(study):
    gate, clips = study.corpus_gate(), study.bench.clips
    assert len(gate.gate_of_tav) == 2 * study.fold.nunique()
    for (corpus, number), said in gate.gate_of_tav.items():
        wanted = []
        for clip in clips[clips["corpus"] == corpus].to_dict("records"):
            if study.fold.get(clip["sample_id"]) == number:
                continue
            right = np.array([clip[f"label_{m}"] == clip["label_gt"] for m in "tav"], float)
            # Eq. 9: epsilon is shared out among what is wrong, and all is even where nothing is right.
            raw = right + 0.01
            wanted.append(raw / raw.sum())
        np.testing.assert_allclose(said, np.mean(wanted, axis=0), atol=1e-6)
        assert sum(said) == pytest.approx(1)


def test_clips_of_one_corpus_and_fold_are_steered_alike_and_always(study):
    gate, clips = study.corpus_gate(), study.crossed_clips.head(30).assign(coalition="TAV")
    there = torch.ones(len(clips), 3, dtype=torch.bool)
    said = gate.gate(Batch(clips, there))
    assert (said.conflict == 1).all()
    for row, clip in zip(said.gate, clips.to_dict("records"), strict=True):
        own = gate.gate_of_tav[clip["corpus"], study.fold[clip["sample_id"]]]
        np.testing.assert_allclose(row, own, atol=1e-6)


def test_another_gate_or_another_fold_is_told_apart_by_its_settings():
    one = ByCorpus({("a", 0): (0.5, 0.25, 0.25)}, {"x": 0})
    assert one.settings() == ByCorpus({("a", 0): (0.5, 0.25, 0.25)}, {"x": 0}).settings()
    for other in (ByCorpus({("a", 0): (0.25, 0.5, 0.25)}, {"x": 0}),
                  ByCorpus({("a", 0): (0.5, 0.25, 0.25)}, {"y": 0})):  # fmt: skip
        assert one.settings() != other.settings()
