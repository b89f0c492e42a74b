"""Agreement of votes against statsmodels, scikit-learn and worked cases; export and back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa
from test_corpora import mosi_mmsa, mosi_zip

from emomm_lib import Bootstrap
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.fleiss import fleiss_parts
from emomm_study.annotation import agreement
from emomm_study.annotation.export import export_annotations, export_votes, open_items
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.corpora.scores import Corpus, score_to_label
from emomm_study.report.figures import annotation as figures

TEAM = tuple(f"A{i}" for i in range(1, 6))


def votes_of(ballots: dict[str, dict[str, list[int]]], team=TEAM) -> pd.DataFrame:
    """Votes by clip and modality, a clip's seq its place; None stands for no vote."""
    rows = [
        (name, modality, seq, sample, label)
        for seq, (sample, by_modality) in enumerate(ballots.items(), 1)
        for modality, ballot in by_modality.items()
        for name, label in zip(team, ballot, strict=True)
        if label is not None
    ]
    return pd.DataFrame(rows, columns=list(agreement.COLUMNS))


def random_votes(clips: int, seed: int, videos: int = 7) -> pd.DataFrame:
    """Votes that agree better than chance: a mood of the item, and noise."""
    rng = np.random.default_rng(seed)
    mood = rng.normal(0, 1, (clips, 3, 1))
    labels = np.clip(np.rint(mood + rng.normal(0, 0.6, (clips, 3, 5))), -1, 1).astype(int)
    return votes_of(
        {
            f"cmu_mosi/v{n % videos}/{n}": dict(zip(MODALITIES, by_modality.tolist(), strict=True))
            for n, by_modality in enumerate(labels)
        }
    )


def table(votes: pd.DataFrame) -> np.ndarray:
    """Votes by category of each item, made without the module under test."""
    counts = pd.crosstab([votes["modality"], votes["sample_id"]], votes["label"])
    return counts.reindex(columns=[-1, 0, 1], fill_value=0).to_numpy()


ALIKE = {
    "cmu_mosi/v/1": {m: [1, 1, 1, 1, 1] for m in MODALITIES},
    "cmu_mosi/v/2": {m: [-1, -1, -1, -1, -1] for m in MODALITIES},
}


@pytest.mark.parametrize("seed", range(3))
def test_kappas_are_those_of_statsmodels(seed):
    votes = random_votes(80, seed)
    found = agreement.fleiss(votes, bootstrap=Bootstrap(10)).set_index("modality")
    for modality in MODALITIES:
        own = votes[votes["modality"] == modality]
        assert found.at[modality, "kappa"] == pytest.approx(fleiss_kappa(table(own)), abs=1e-12)
    assert found.at["all", "kappa"] == pytest.approx(fleiss_kappa(table(votes)), abs=1e-12)
    three = found.loc[list(MODALITIES), "kappa"]
    assert found.at["mean", "kappa"] == pytest.approx(three.mean())
    assert found["items"].tolist() == [80, 80, 80, 240, 240]


def test_kappa_of_a_case_worked_by_hand():
    # Items 5:0:0, 0:4:1, 0:0:5: shares of agreeing pairs 1, 0.6, 1; votes 5, 4, 6 of 15.
    ballots = ([-1] * 5, [0, 0, 0, 0, 1], [1] * 5)
    votes = votes_of({f"cmu_mosi/v/{n}": {"T": ballot} for n, ballot in enumerate(ballots)})
    found = agreement.fleiss(votes, bootstrap=Bootstrap(10)).set_index("modality").loc["T"]
    observed, expected = 2.6 / 3, (25 + 16 + 36) / 225
    assert found["observed"] == pytest.approx(observed)
    assert found["expected"] == pytest.approx(expected)
    assert found["kappa"] == pytest.approx((observed - expected) / (1 - expected))


def test_annotators_who_always_agree_have_kappa_one_and_a_single_class_has_none():
    found = agreement.fleiss(votes_of(ALIKE), bootstrap=Bootstrap(50)).set_index("modality")
    assert (found["kappa"] == 1).all()
    same = {sample: {"T": [0] * 5} for sample in ALIKE}
    alone = agreement.fleiss(votes_of(same), bootstrap=Bootstrap(10)).set_index("modality")
    assert np.isnan(alone.at["T", "kappa"]) and alone.at["T", "observed"] == 1


@pytest.mark.parametrize("by_video", [False, True])
def test_intervals_are_those_of_recomputing_kappa_on_every_resample(by_video):
    votes = random_votes(60, 5)
    clips = votes["sample_id"].drop_duplicates().reset_index(drop=True)
    unit = clips.str.rsplit("/", n=1).str[0] if by_video else clips
    groups = [votes[votes["sample_id"].isin(clips[unit == u])] for u in unit.unique()]
    tables = [table(group) for group in groups]
    rng = np.random.default_rng(0)
    naive = [
        fleiss_kappa(
            np.concatenate([tables[i] for i in rng.integers(len(tables), size=len(tables))])
        )
        for _ in range(1500)
    ]
    found = agreement.fleiss(votes, by_video=by_video, bootstrap=Bootstrap(6000)).set_index(
        "modality"
    )
    ends = found.loc["all", ["low", "high"]].to_numpy(dtype=float)
    # Each end is known to about a tenth of the interval's half-width with 1,500 resamples.
    np.testing.assert_allclose(ends, np.quantile(naive, [0.025, 0.975]), atol=0.012)
    assert ends[0] < found.at["all", "kappa"] < ends[1]


def test_items_with_fewer_votes_are_left_out_and_counted():
    votes = random_votes(30, 1)
    short = votes.drop(votes[(votes["seq"] == 4) & (votes["modality"] == "A")].index[:2])
    found = agreement.fleiss(short, bootstrap=Bootstrap(10)).set_index("modality")
    rest = votes[(votes["seq"] != 4) & (votes["modality"] == "A")]
    assert found["incomplete"].to_dict() == {"T": 0, "A": 1, "V": 0, "all": 1, "mean": 1}
    assert found.at["A", "kappa"] == pytest.approx(fleiss_kappa(table(rest)))
    assert found.at["V", "items"] == 30 and found.at["A", "items"] == 29


def spoilt(change) -> pd.DataFrame:
    return change(votes_of(ALIKE).reset_index(drop=True))


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        (spoilt(lambda v: pd.concat([v, v.iloc[[7]]])), r"twice: A3 A 1 cmu_mosi/v/1; A3 A 1"),
        (spoilt(lambda v: v.assign(label=v["label"].replace(1, 2))), r"label is one of .*A1 T 1"),
        (spoilt(lambda v: v.replace("V", "X")), "modality is one of"),
        (spoilt(lambda v: v.drop(columns=["seq", "label"])), "missing columns seq, label"),
        (spoilt(lambda v: v.head(0)), "no votes yet"),
        (spoilt(lambda v: v.assign(seq=1)), "seq belongs to one clip.*cmu_mosi/v/2"),
        (
            spoilt(lambda v: pd.concat([v, v.iloc[[0]].assign(annotator="A6")])),
            "an item has 5 votes; more on A1 T 1",
        ),
    ],
)
def test_malformed_votes_are_named(votes, words):
    for function in (agreement.fleiss, agreement.disagreements, agreement.mean_scores):
        with pytest.raises(ValueError, match=words):
            function(votes)


def test_unequal_raters_have_no_kappa():
    with pytest.raises(ValueError, match=r"equally many votes.*\[4, 5\]"):
        fleiss_parts([[5, 0, 0], [3, 1, 0]])
    with pytest.raises(ValueError, match="none of 2 items has 5 votes yet"):
        agreement.fleiss(votes_of({s: {"T": [1, 0, None, 1, 1]} for s in ALIKE}))


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=5, max_size=5), min_size=1))
@settings(max_examples=60, deadline=None)
def test_the_mean_of_five_votes_is_on_the_grid_and_has_its_class(ballots):
    votes = votes_of({f"cmu_mosi/v/{n}": {"T": b} for n, b in enumerate(ballots)})
    scores = agreement.mean_scores(votes)["score_t"]
    for n, ballot in enumerate(ballots):
        score = scores[f"cmu_mosi/v/{n}"]
        assert score == float(f"{sum(ballot) / 5:.1f}")
        assert score or not np.signbit(score)
    for corpus in Corpus:
        found = agreement.patterns(votes, corpus)
        assert found["items"].sum() == len(ballots)
        np.testing.assert_array_equal(found["label"], score_to_label(found["score"], corpus))


def test_means_become_classes_by_the_corpus_s_own_mapping():
    votes = votes_of({"cmu_mosi/v/1": {m: [1, 1, 1, 0, 0] for m in MODALITIES}})
    assert agreement.mean_labels(votes, "cmu_mosi").to_numpy().tolist() == [[4, 4, 4]]
    assert agreement.mean_labels(votes, "ch_sims_v2").to_numpy().tolist() == [[3, 3, 3]]
    assert agreement.mean_labels(votes[votes["modality"] != "V"]).empty


def test_the_most_disputed_items_come_first_and_split_ones_are_marked():
    ballots = [[0] * 5, [-1, -1, 0, 1, 1], [-1, 0, 0, 0, 1], [0, 0, 0, 1, 1], [-1, -1, 1, 1, 1]]
    votes = votes_of({f"cmu_mosi/v/{n}": {"V": b} for n, b in enumerate(ballots)})
    found = agreement.disagreements(votes)
    assert found["sample_id"].str[-1].tolist() == ["1", "2", "4", "3", "0"]
    assert found["split"].tolist() == [True, True, True, False, False]
    assert found["entropy"].iloc[0] == pytest.approx(-2 * 0.4 * np.log2(0.4) - 0.2 * np.log2(0.2))
    assert found["spread"].iloc[0] == pytest.approx(np.std([-1, -1, 0, 1, 1]))
    assert found["entropy"].iloc[-1] == 0 and found["modality"].eq("V").all()


def test_pairs_have_the_kappa_of_scikit_learn():
    votes = random_votes(50, 3)
    wide = votes.pivot(index=["modality", "sample_id"], columns="annotator", values="label")
    found = agreement.pairwise(votes)
    assert len(found) == 4 * 10
    for row in found.itertuples():
        own = wide if row.modality == "all" else wide.loc[row.modality]
        expected = cohen_kappa_score(own[row.first], own[row.second])
        assert row.kappa == pytest.approx(expected, abs=1e-12)
        assert row.agreement == pytest.approx((own[row.first] == own[row.second]).mean())


def test_annotators_without_a_common_item_are_no_pair():
    first = votes_of({"cmu_mosi/v/1": {"T": [1, 0, 1, 0, 1]}})
    other = votes_of({"cmu_mosi/v/2": {"T": [1, 0, 0, 0, 1]}}, [f"A{i}" for i in range(6, 11)])
    found = agreement.pairwise(pd.concat([first, other.assign(seq=2)]))
    assert len(found) == 2 * 2 * 10
    assert not ((found["first"] == "A1") & (found["second"] == "A6")).any()


def test_one_who_does_not_look_stands_out_and_one_who_leans_is_seen():
    votes = random_votes(400, 2)
    lazy = votes["annotator"] == "A5"
    votes.loc[lazy, "label"] = 1
    sterner = (votes["annotator"] == "A2") & (votes["label"] > -1) & (votes["seq"] % 3 == 0)
    votes.loc[sterner, "label"] -= 1
    found = agreement.annotator_report(votes).set_index(["modality", "annotator"]).loc["all"]
    assert found.at["A5", "positive"] == 1 and found["off_majority"].idxmax() == "A5"
    assert found["leaning"].idxmax() == "A5" and found["leaning"].idxmin() == "A2"
    assert found["leaning"].sum() == pytest.approx(0, abs=1e-12)


def test_leaning_majority_and_confusion_of_a_case_worked_by_hand():
    votes = votes_of(
        {"cmu_mosi/v/1": {"T": [1, 1, 0, 0, -1]}, "cmu_mosi/v/2": {"T": [1, 1, 1, 1, 0]}}
    )
    report = agreement.annotator_report(votes).set_index(["annotator", "modality"])
    # A1 sees 1, 0, 0, -1 (mean 0, majority 0) and 1, 1, 1, 0 (mean 0.75, majority 1).
    first = report.loc[("A1", "T")]
    assert first["leaning"] == pytest.approx((1 - 0 + 1 - 0.75) / 2)
    assert (first["off_majority"], first["judged"]) == (0.5, 2)
    # A5 sees 1, 1, 0, 0, which has no sole majority, and 1, 1, 1, 1.
    assert tuple(report.loc[("A5", "T"), ["off_majority", "judged"]]) == (1.0, 1)
    rows = agreement.confusion(votes).query("annotator == 'A1'")
    assert rows[["majority", "label", "items"]].to_numpy().tolist() == [[0, 1, 1], [1, 1, 1]]


# Figures


def test_the_figure_of_patterns_has_a_bar_as_long_as_each_pattern_s_items():
    found = agreement.patterns(random_votes(40, 8))
    fig = figures.vote_patterns(found, "nobody")
    for ax, modality in zip(fig.axes, MODALITIES, strict=True):
        own = found[found["modality"] == modality]
        [bars] = ax.containers
        widths = [bar.get_width() for bar in bars]
        assert len(widths) == 21 and "n = 40 items" in ax.get_title()
        # Of five votes six patterns have both a -1 and a +1 with a neutral vote or more, four none.
        assert len(ax.patches) - len(bars) == 10
        assert sorted(w for w in widths if w) == sorted(own["items"]) and sum(widths) == 40


def test_the_figure_of_kappas_draws_points_and_ranges_where_they_are():
    kappas = agreement.fleiss(random_votes(40, 8), bootstrap=Bootstrap(50))
    ranges = pd.DataFrame({"modality": ["T", "all"], "low": [-0.1, 0.0], "high": [0.7, 0.6]})
    [ax] = figures.agreement_figure(kappas, ranges, 0.54, "nobody").axes
    drawn = sorted(line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(drawn, sorted(kappas["kappa"]))
    assert [(b.get_x(), b.get_x() + b.get_width()) for b in ax.patches] == [(-0.1, 0.7), (0, 0.6)]
    with pytest.raises(ValueError, match="choose one mapping"):
        figures.agreement_figure(kappas, pd.concat([ranges] * 2), 0.54, "nobody")


def test_figures_say_what_they_miss():
    votes = random_votes(10, 8)
    pairs, report = agreement.pairwise(votes), agreement.annotator_report(votes)
    assert figures.annotators_figure(pairs, report, "nobody").axes
    with pytest.raises(ValueError, match=r"report: columns \['leaning'\] are missing"):
        figures.annotators_figure(pairs, report.drop(columns="leaning"), "nobody")
    with pytest.raises(ValueError, match="patterns: no rows"):
        figures.vote_patterns(agreement.patterns(votes).head(0), "nobody")


# Export

CLIPS = ("cmu_mosi/-a_B/1", "cmu_mosi/-a_B/2", "cmu_mosi/0c-D_e/10")


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
def test_what_is_exported_is_what_the_loader_reads(layout, tmp_path, put):
    layout(tmp_path, put)
    rng = np.random.default_rng(4)
    votes = votes_of({c: {m: rng.integers(-1, 2, 5).tolist() for m in MODALITIES} for c in CLIPS})
    written = export_annotations(votes, tmp_path / "annotations.csv", CLIPS)
    assert written.clips == 3 and written.left_out.empty
    loaded = load_cmu_mosi(tmp_path)
    assert loaded.report.empty
    clips = loaded.clips.set_index("sample_id")
    means = votes.groupby(["sample_id", "modality"])["label"].mean()
    for modality in MODALITIES:
        found = clips[f"score_{modality.lower()}"]
        for sample in CLIPS:
            assert found[sample] == pytest.approx(means[sample, modality], abs=1e-12)
    labels = agreement.mean_labels(votes)
    pd.testing.assert_frame_equal(labels, clips[list(labels)], check_names=False)


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=5, max_size=5), min_size=1))
@settings(max_examples=30, deadline=None)
def test_labels_are_written_as_plain_multiples_of_a_fifth(tmp_path_factory, ballots):
    path = tmp_path_factory.mktemp("export") / "annotations.csv"
    votes = votes_of(
        {f"cmu_mosi/v/{n}": dict.fromkeys(MODALITIES, b) for n, b in enumerate(ballots)}
    )
    export_annotations(votes, path)
    lines = path.read_text().splitlines()
    assert lines[0] == "video_id,clip_id,label_T,label_A,label_V"
    allowed = {f"{k / 5:.1f}" for k in range(-5, 6)}
    assert {value for line in lines[1:] for value in line.split(",")[2:]} <= allowed
    assert "-0.0" not in allowed


def test_incomplete_clips_are_refused_by_name_or_left_out_and_listed(tmp_path):
    ballots = {c: {m: [0, 1, 1, 1, 1] for m in MODALITIES} for c in CLIPS}
    del ballots[CLIPS[1]]["V"]
    votes = votes_of(ballots)
    votes = votes.drop(
        votes[(votes["sample_id"] == CLIPS[1]) & (votes["modality"] == "A")].index[0]
    )
    every, path = [*CLIPS, "cmu_mosi/zz/1"], tmp_path / "a.csv"
    with pytest.raises(ValueError, match=r"2 clips are incomplete(?s:.*)-a_B/2: A has 4 of 5"):
        export_annotations(votes, path, every)
    assert not path.exists()
    written = export_annotations(votes, path, every, incomplete="leave_out")
    assert (written.clips, written.left_out["sample_id"].tolist()) == (2, [CLIPS[1], every[3]])
    assert written.left_out["problem"].tolist() == [
        "A has 4 of 5 votes, V has 0 of 5 votes",
        "T has 0 of 5 votes, A has 0 of 5 votes, V has 0 of 5 votes",
    ]
    assert pd.read_csv(path, dtype=str)["clip_id"].tolist() == ["1", "10"]
    pd.testing.assert_frame_equal(open_items(votes, every), written.left_out)
    only = votes[votes["modality"] == "T"]
    with pytest.raises(ValueError, match="no clip has 5 votes in every modality"):
        export_annotations(only, path, incomplete="leave_out")


def test_a_failed_export_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    votes = votes_of({c: {m: [1] * 5 for m in MODALITIES} for c in CLIPS})
    path = export_annotations(votes, tmp_path / "a.csv").path
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        export_annotations(votes.assign(label=0), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_released_votes_are_ids_and_labels_and_give_back_the_same_agreement(tmp_path):
    votes = random_votes(20, 6)
    path = export_votes(votes.sample(frac=1, random_state=1), tmp_path / "votes.csv")
    back = pd.read_csv(path)
    assert list(back) == ["seq", "sample_id", "modality", "annotator", "label"]
    assert back["modality"].head(15).tolist() == [m for m in MODALITIES for _ in range(5)]
    pd.testing.assert_frame_equal(
        agreement.fleiss(back, bootstrap=Bootstrap(20)),
        agreement.fleiss(votes, bootstrap=Bootstrap(20)),
    )
    with pytest.raises(ValueError, match=r"anonymous ids like A1, got \['Kim'\]"):
        export_votes(votes.replace("A3", "Kim"), tmp_path / "votes.csv")
