"""What few clips or one corpus cannot show is said in its place, and nothing stops for it."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.training import area
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.cases import RULES, NoCase, opening_clip
from emomm_study.evaluate.controls import trust_from_labels
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.fusion import fit_probe, probe_answers
from emomm_study.evaluate.protocol import Choice, Study, read_choices, write_choices
from emomm_study.evaluate.protocol.cross_fit import speaker_folds
from emomm_study.mini.null import null_control
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.report.cards import budget_frame, case_values, first_with_video, make_card
from emomm_study.report.figures.cases import attention_figure, importance_figure
from emomm_study.report.figures.chase import gate_by_layer
from emomm_study.report.figures.statistics import figure6, figure7
from emomm_study.report.tables import with_intervals

MAKERS = {"attention": attention_figure, "importance": lambda card: importance_figure(card, 80.0)}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def clips_of(labels, **columns) -> pd.DataFrame:
    """Clips with these (GT, T, A, V)."""
    frame = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    frame.insert(0, "sample_id", [f"c{i}" for i in range(len(frame))])
    agree = frame["label_gt"].eq(frame["label_t"]) & frame["label_gt"].eq(frame["label_a"])
    frame["subset"] = np.where(agree & frame["label_gt"].eq(frame["label_v"]), "align", "conflict")
    return frame.assign(corpus="cmu_mosi", speaker_id=frame["sample_id"], **columns)


@pytest.mark.parametrize("name", [*MAKERS])
def test_where_no_case_shows_video_figures_12_and_13_say_so(name):
    cards = [make_card(NoCase(rule, "CHASE", 3), None, {}, "mini") for rule in RULES]
    fig = MAKERS[name](first_with_video(cards))
    assert any("No case shows video" in text.get_text() for text in fig.texts)


def test_cases_of_which_there_is_none_have_no_numbers():
    budgets = budget_frame([NoCase(rule, "CHASE", 0) for rule in RULES])
    assert budgets.select_dtypes(float).isna().all(axis=None) and len(budgets) == len(RULES)
    assert case_values(budgets).empty


@pytest.mark.parametrize(
    ("labels", "answers", "first", "kind"),
    [
        ([(4, 0, 4, 0), (4, 0, 0, 4), (1, 1, 1, 1)], [0, 0, 1], "c1", "video alone"),
        ([(1, 1, 1, 1), (4, 4, 4, 0), (4, 0, 0, 4)], [0, 3, 4], "c1", "answers wrong"),
        ([(1, 1, 1, 1), (4, 0, 0, 4)], [0, 4], "c1", "a conflict"),
        ([(1, 1, 1, 1)], [1], "c0", "without a conflict"),
    ],
)
def test_the_explorer_opens_on_the_nearest_to_its_rule_that_there_is(labels, answers, first, kind):
    clips = clips_of(labels)
    given = pd.DataFrame({"sample_id": clips["sample_id"], "label": answers})
    found, words = opening_clip(clips, given)
    assert found == first and kind in words


def test_the_area_under_the_curve_of_one_outcome_is_not_a_number():
    assert np.isnan(area(np.ones(3), np.array([0.1, 0.5, 0.9])))
    assert area(np.array([0, 1]), np.array([0.1, 0.9])) == 1


def test_a_probe_of_one_class_answers_it():
    keys = pd.DataFrame({"sample_id": ["a", "b"], "coalition": "TAV"})
    probe = fit_probe(np.eye(3), [2, 2, 2], strength=1.0)
    assert probe_answers(probe, np.zeros((2, 3)), keys)["label"].tolist() == [2, 2]


def test_whom_labels_tell_to_trust_where_a_modality_is_always_right():
    """And where all clips agree there is no choice to make, so nothing is measured."""
    clips = clips_of([(k % 5, k % 5, (k + 1) % 5, (k + 2) % 5) for k in range(12)])
    fold = pd.Series(np.arange(12) % 3, clips["sample_id"])
    found = trust_from_labels(clips, fold).set_index("knows")
    assert found.loc[["corpus", "labels"], "value"].tolist() == [1, 1]
    assert found.loc["any", "value"] == pytest.approx(1 / 3)
    alike = trust_from_labels(clips_of([(k % 5,) * 4 for k in range(12)]), fold)
    assert alike[["value", "low", "high"]].isna().all(axis=None) and (alike["n"] == 0).all()


@pytest.mark.parametrize("speakers", [2, 3, 4, 6, 9])
def test_few_speakers_are_cut_into_as_many_folds_as_there_are_and_none_is_empty(speakers):
    clips = clips_of([(k % 5, k % 5, k % 5, (k + k % 2) % 5) for k in range(speakers)])
    bench = SimpleNamespace(clips=clips.assign(split="train"))
    fold = Study(bench, None).fold
    assert set(fold) == set(range(min(speakers, 5))) and len(fold) == speakers


def test_folds_are_numbered_without_a_gap_where_one_would_be_empty():
    clips = clips_of([(0, 0, 0, 0)] * 8).assign(speaker_id=["a"] * 6 + ["b", "c"])
    fold = speaker_folds(clips, 3)
    assert sorted(set(fold)) == [*range(fold.max() + 1)]


def test_a_gate_with_nothing_to_decide_is_a_sentence_and_its_table_is_empty():
    columns = ["router", "coalition", "layer", "value", "low", "high", "n", "chance"]
    nothing = pd.DataFrame(columns=columns)
    fig = gate_by_layer(nothing)
    assert any("nobody to trust" in text.get_text() for text in fig.texts)
    assert with_intervals(nothing, index=["router", "layer"], columns="coalition").empty


def test_what_is_no_number_is_a_dash_and_not_an_interval_of_nothing():
    frame = pd.DataFrame({"a": ["x", "y"], "b": "v", "value": [np.nan, 0.5], "low": [np.nan, 0.25]})
    table = with_intervals(frame.assign(high=frame["low"]), index="a", columns="b")
    assert table["v"].tolist() == ["-", "50.0 [25.0, 25.0]"]


def test_statistics_of_a_corpus_that_is_not_there_say_so():
    clips = clips_of([(k % 5, k % 5, k % 5, k % 5) for k in range(10)])
    assert any("no clips of CH-SIMS v2.0" in t.get_text() for t in figure6(clips).texts)
    assert len(figure7(clips).axes) > 1


def test_choices_of_a_part_are_not_taken_for_the_wholes(tmp_path, monkeypatch):
    monkeypatch.setattr("emomm_study.evaluate.protocol.choices.run_dir", lambda profile: tmp_path)
    clips = clips_of([(k % 5, k % 5, k % 5, k % 5) for k in range(10)], split="train")
    whole, part = (
        Study(SimpleNamespace(clips=some, fingerprint="f"), None) for some in (clips, clips.head(5))
    )
    choice = Choice(SteeringConfig.at_published_depth(8), {}, 1)
    write_choices({"CHASE": choice}, "mini", part.fingerprint)
    assert [*read_choices("mini", part.fingerprint)] == ["CHASE"]
    with pytest.raises(ValueError, match="made with another model.*clips.*run notebook 07"):
        read_choices("mini", whole.fingerprint)


def test_the_null_control_of_a_part_is_of_the_parts_own_clips(tmp_path):
    """The first that a whole rendering would make may hold none of them."""
    settings = SurrogateSettings()
    order = corpus_plan(Corpus.CH_SIMS, settings).sample(frac=1, random_state=settings.seed)
    own = order.iloc[[500, 501, 502]].sort_values("sample_id")
    store = SimpleNamespace(path=tmp_path / "p.sqlite")
    roots = {Corpus.CH_SIMS: tmp_path / "surrogate" / "ch-sims"}
    bench = Experiment(None, own, roots, store, progress=False)
    control = null_control(bench, 2)
    assert set(control.clips["sample_id"]) == set(order.iloc[[500, 501]]["sample_id"])
    [root] = control.roots.values()
    assert tmp_path / "surrogate-null" in root.parents and len([*root.rglob("*.mp4")]) == 2
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    null_control(bench, 2)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == times
