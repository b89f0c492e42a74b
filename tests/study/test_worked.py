"""CHASE by hand: formulas in NumPy end where the steered model does."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from crash import small_model

from emomm_lib import ConstantGate, SteeringConfig
from emomm_study.evaluate.inspection import Inspection
from emomm_study.evaluate.worked import by_hand, first_steered
from emomm_study.media.video import Frames
from emomm_study.report.figures.by_hand import figure4
from emomm_study.report.figures.construction import figure5
from emomm_study.systems.interface import Media, Query
from tests.backbones import make_vita

CONFIG = SteeringConfig(first_layer=1, beta=0.5, top_k=2, psi_hat=0.9, percentile=60.0)


def says(p: float, *g: float) -> ConstantGate:
    return ConstantGate(torch.tensor([p]), torch.tensor([g]))


@pytest.fixture(scope="module", params=["omni", "vita"])
def model(request):
    return small_model() if request.param == "omni" else make_vita()


def seen(model, coalition: str = "TAV") -> Inspection:
    rng = np.random.default_rng(3)
    side = 56
    frames = Frames(rng.integers(0, 255, (4, side, side, 3), dtype=np.uint8), 2.0)
    [clip] = model.encode([Media(frames, rng.normal(0, 0.1, 16000).astype("f4"))])
    return Inspection(model, Query(clip, coalition, "cmu_mosi", "what a day it was"))


@pytest.mark.parametrize("preference", ["softmax", "share"])
@pytest.mark.parametrize("coalition", ["TAV", "TV", "TA"])
def test_by_hand_one_head_gets_the_attention_that_the_steered_model_gives_it(
    model, coalition, preference
):
    gate = [trust * (m in coalition) for m, trust in (("T", 0.1), ("A", 0.4), ("V", 0.5))]
    gate = [value / sum(gate) for value in gate]
    config = replace(CONFIG, preference=preference, gamma=6.0)
    found = by_hand(seen(model, coalition), says(0.9, *gate), config)
    absent = [m not in coalition for m in "TAV"]
    assert np.isnan(found.model).tolist() == absent == np.isnan(found.steered).tolist()
    np.testing.assert_allclose(found.steered, found.model, atol=2e-6)
    present = ~np.array(absent)
    assert np.abs(found.steered - found.mass)[present].max() > 1e-3
    assert (found.important > 0 and found.delta > 0) == ("V" in coalition)


def test_by_hand_the_same_heads_are_chosen_as_by_the_model(model):
    prompt = seen(model)
    found = by_hand(prompt, says(1.0, 0.1, 0.1, 0.8), CONFIG)
    [after] = prompt.steered([(says(1.0, 0.1, 0.1, 0.8), CONFIG)])
    assert found.chosen.tolist() == after.heads[0].tolist() and found.chosen.sum() == 2
    assert found.distances[found.head - 1] == found.distances.max()


def test_by_hand_moves_nothing_where_all_strengths_are_zero(model):
    config = replace(CONFIG, gamma=0.0, beta=0.0)
    found = by_hand(seen(model), says(1.0, 0.0, 0.0, 1.0), config)
    np.testing.assert_allclose(found.steered, found.mass, atol=1e-9)


def test_a_layer_that_is_not_steered_is_refused_with_its_p(model):
    with pytest.raises(ValueError, match=r"layer 1 is not steered: p = 0\.600 is not above 0\.7"):
        by_hand(seen(model), says(0.6, 0.3, 0.3, 0.4), CONFIG)


@pytest.mark.parametrize(
    "other", [{"rule": "gate"}, {"scope": "all"}, {"sharpness": 2.0}, {"heads": ((1, 1),)}]
)
def test_what_the_paper_does_not_print_is_refused(model, other):
    with pytest.raises(ValueError, match="what the paper prints"):
        by_hand(seen(model), says(0.9, 0.3, 0.3, 0.4), replace(CONFIG, **other))


def test_the_table_has_every_equation_from_5_to_15_and_the_figure_draws_it(model):
    found = by_hand(seen(model, "TV"), says(0.9, 0.3, 0.0, 0.7), CONFIG)
    table = found.table()
    wanted = {f"Eq. {n}" for n in (5, 6, 7, 8, 11, 12, 13, 14, 15)}
    assert wanted == set(table["equation"]) - {""}
    assert table["A"].isna().all()
    row = table.set_index("what").loc["the same in the steered model"]
    assert row["T"] == pytest.approx(found.model[0])
    fig = figure4(found, "a clip")
    words = " ".join(text.get_text() for text in fig.findobj(matplotlib.text.Text))
    assert "absent" in words and "head" in words
    # The three distributions have one scale, and so has attention before and after.
    limits = [ax.get_ylim() for ax in fig.axes]
    assert limits[2] == limits[3] == limits[4] and limits[0] == limits[6]


class Bench:
    """Stands in for an experiment: every clip is one prompt, which is counted."""

    def __init__(self, prompt: Inspection) -> None:
        self.prompt, self.asked = prompt, []

    def inspect(self, clip, coalition):
        self.asked.append((clip["sample_id"], coalition))
        return self.prompt


CLIPS = pd.DataFrame({"sample_id": ["b", "a", "c"], "subset": ["conflict", "align", "conflict"]})


def test_the_first_conflict_by_name_that_is_steered_is_worked_out(model):
    bench = Bench(seen(model))
    found, which = first_steered(bench, CLIPS, says(0.9, 0.2, 0.2, 0.6), CONFIG)
    assert which == "b" and bench.asked == [("b", "TAV")] and found.config.tau == CONFIG.tau


def test_where_nothing_is_taken_for_a_conflict_that_is_said_and_tau_is_zero(model):
    bench = Bench(seen(model))
    found, which = first_steered(bench, CLIPS, says(0.4, 0.2, 0.2, 0.6), CONFIG)
    assert which == "b, p below τ and steered all the same" and found.config.tau == 0
    assert [name for name, _ in bench.asked] == ["b", "c", "b"]


def test_without_a_conflict_any_clip_does_and_without_a_clip_none(model):
    align = CLIPS[CLIPS["subset"] == "align"]
    assert first_steered(Bench(seen(model)), align, says(0.9, 0.2, 0.2, 0.6), CONFIG)[1] == "a"
    with pytest.raises(ValueError, match="no clip to work"):
        first_steered(Bench(seen(model)), align.iloc[:0], says(0.9, 0.2, 0.2, 0.6), CONFIG)


def test_the_pipelines_boxes_hold_the_counts_of_the_run():
    loaded = pd.DataFrame(
        {"corpus": ["ch_sims_v2", "cmu_mosi"], "usable clips": [31, 25], "excluded": [2, 0]}
    )
    rows = [("ch_sims_v2", "equal", "train", "align")] * 3 + [
        ("cmu_mosi", "conflict", "test", "conflict")
    ] * 4
    manifest = pd.DataFrame(rows, columns=["corpus", "stratum", "split", "subset"])
    fig = figure5(loaded, manifest, 60)
    words = "\n".join(text.get_text() for text in fig.findobj(matplotlib.text.Text))
    for said in ("31 usable", "2 left out", "3 equal labels", "4 conflict", "labels: 60 votes",
                 "EmoMM: 7 clips", "3 train", "4 test", "Align: 3", "Conflict: 4", "Missing: 21"):  # fmt: skip
        assert said in words
