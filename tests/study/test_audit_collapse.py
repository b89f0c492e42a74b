from itertools import product

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from legible import assert_legible
from matplotlib import pyplot as plt
from scipy.optimize import linprog
from test_audit_joint import edit

from emomm_lib import Bootstrap, psmv_frame, reader_outcomes
from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_lib.metrics.psmv import psmv, psmv_shares
from emomm_lib.metrics.reference import READERS
from emomm_study.audit import collapse
from emomm_study.audit.joint import CELLS, CONFLICT, KINDS
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.joint import joint_counts, label_table
from emomm_study.report.figures import audit_labels as figures
from emomm_study.report.shares import shares_table

PARTS = {(p.name, p.constraints): p for p in collapse.allowed(mosi_conflicts=1630)}
CH_SIMS, MIX = PARTS["ch_sims_v2", "quotas"], PARTS["both", "mix"]
IN = {"align": ~CONFLICT, "conflict": CONFLICT}
EACH_READER = pytest.mark.parametrize("reader", READERS)


def clips(labels, corpus="x"):
    columns = [f"label_{s}" for s in ("gt", "t", "a", "v")]
    frame = pd.DataFrame(dict(zip(columns, labels, strict=True)))
    subset = np.where((np.sign(labels[1:] - 2) != np.sign(labels[0] - 2)).any(axis=0), *SUBSETS)
    return frame.assign(sample_id=frame.index.astype(str), corpus=corpus, subset=subset)


SUBSETS = ("conflict", "align")


def shares_by_hand(part, counts, reader, subset, reliability=1.0):
    """Shares from the accuracies of each coalition, weighted by the counts."""
    weight = np.reshape(counts, (len(part.corpora), -1)).sum(axis=0) * IN[subset]
    accuracy = weight @ collapse.reader_values(reader, reliability) / weight.sum()
    return psmv_shares(accuracy), accuracy[-1] - accuracy[0]


def range_of(frame, part, reader, subset, modality, quantity="share"):
    keys = (part.name, part.constraints, reader, subset, modality, quantity)
    rows = frame.set_index(list(frame.columns[:6])).loc[keys]
    return rows["low"], rows["high"]


@EACH_READER
def test_values_of_cells_are_those_of_the_metrics_readers(reader):
    outcomes = reader_outcomes(clips(CELLS), reader)
    wide = outcomes.pivot(index="sample_id", columns="coalition", values="right")
    wide.index = wide.index.astype(int)
    expected = wide.sort_index()[list(COALITIONS)].to_numpy()
    assert np.allclose(collapse.reader_values(reader), expected, atol=1e-12)


@pytest.mark.parametrize("reliability", [0.6, 0.8])
def test_an_unreliable_reader_is_the_mean_over_all_it_may_see(reliability):
    values = collapse.reader_values("average", reliability)
    for place in np.random.default_rng(0).choice(CELLS.shape[1], 8, replace=False):
        gt, *labels = CELLS[:, place]
        for k, name in enumerate(COALITIONS):
            total = 0.0
            for seen in product(range(5), repeat=3):
                hit = [
                    reliability * (s == y) + (1 - reliability) / 5
                    for s, y in zip(seen, labels, strict=True)
                ]
                present = [
                    s for s, m in zip(seen, MODALITIES, strict=True) if m in name and name != "none"
                ]
                answer = (
                    READERS["average"](np.array([present])) if present else np.full((1, 5), 0.2)
                )
                total += np.prod(hit) * answer[0, gt]
            assert values[place, k] == pytest.approx(total)


def test_reliability_cancels_in_the_shares_of_a_reader_that_follows_one_modality():
    for reliability in (0.8, 0.3):
        gain = collapse.reader_values("random", reliability) - 0.2
        assert np.allclose(gain, reliability * (collapse.reader_values("random") - 0.2))


@EACH_READER
@pytest.mark.parametrize("corpus", Corpus)
def test_shares_of_the_committed_labels_are_those_of_the_metrics(corpus, reader):
    labels = label_table(corpus)[[f"label_{s}" for s in ("gt", "t", "a", "v")]].to_numpy().T
    frame = psmv_frame(reader_outcomes(clips(labels), reader), bootstrap=Bootstrap(2))
    expected = frame.set_index(["subset", "modality", "quantity"])["value"]
    found = collapse.shares_of({corpus: joint_counts(corpus)}).query("reader == @reader")
    found = found[found["quantity"] != "gain"].set_index(["subset", "modality", "quantity"])
    assert len(found) == len(expected)
    for key, value in expected.items():
        assert found.at[key, "value"] == pytest.approx(value)


@pytest.fixture(scope="module")
def ranges():
    return collapse.share_ranges((CH_SIMS, MIX))


def test_a_share_is_unbounded_exactly_where_the_reader_may_gain_nothing(ranges):
    gains = ranges[ranges["quantity"] == "gain"].set_index(["corpus", "reader", "subset"])
    shares = ranges[ranges["quantity"] == "share"]
    assert len(shares) == 24
    for row in shares.itertuples():
        may_vanish = gains.at[(row.corpus, row.reader, row.subset), "low"] <= 0
        assert np.isinf([row.low, row.high]).all() == may_vanish
        assert np.isfinite([row.low, row.high]).all() != may_vanish


@EACH_READER
@pytest.mark.parametrize("part", [CH_SIMS, MIX], ids=lambda p: p.name)
def test_dinkelbach_s_method_finds_the_same_ends_of_the_share_on_align(ranges, part, reader):
    cells = psmv(collapse.reader_values(reader)) * ~CONFLICT[:, None]
    above, below = part.tile(cells[:, 2]), part.tile(cells.sum(axis=1))
    ends = []
    for sign in (1, -1):
        share, x = 0.0, None
        for _ in range(30):
            x = linprog(sign * (above - share * below), A_eq=part.rows, b_eq=part.totals).x
            if abs(above @ x / (below @ x) - share) < 1e-10:
                break
            share = above @ x / (below @ x)
        ends.append(share)
    assert range_of(ranges, part, reader, "align", "V") == pytest.approx(tuple(ends), abs=1e-6)


@EACH_READER
def test_the_counts_at_an_end_are_allowed_and_have_the_share(reader):
    values, gain, _ = collapse._parts(reader, "align")
    found = collapse.ratio_range(MIX, values[:, 2], gain)
    for counts, end in ((found.lowest, found.low), (found.highest, found.high)):
        assert counts.min() > -1e-6
        assert np.allclose(MIX.rows @ counts, MIX.totals, atol=1e-4)
        assert shares_by_hand(MIX, counts, reader, "align")[0][2] == pytest.approx(end)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(READERS)))
def test_no_allowed_table_has_a_share_or_a_gain_out_of_range(ranges, seed, reader):
    cost = np.random.default_rng(seed).normal(size=MIX.rows.shape[1])
    counts = linprog(cost, A_eq=MIX.rows, b_eq=MIX.totals).x
    for subset in IN:
        shares, gain = shares_by_hand(MIX, counts, reader, subset)
        low, high = range_of(ranges, MIX, reader, subset, "TAV", "gain")
        assert low - 1e-6 <= gain <= high + 1e-6
        if gain > 0:
            for modality, share in zip(MODALITIES, shares, strict=True):
                low, high = range_of(ranges, MIX, reader, subset, modality)
                assert low - 1e-6 <= share <= high + 1e-6


def test_labels_alone_allow_the_published_fall_and_no_fall_and_a_rise():
    falls = collapse.falls((CH_SIMS, MIX))
    assert falls["holds"].all() and len(falls) == 12
    published = falls[falls["fall"] == "published"]
    assert np.allclose(published["share_align"], 0.333)
    assert np.allclose(published["share_conflict"], 0.208)
    random = falls.query("corpus == 'both' and reader == 'random'")
    assert random["gain_conflict"].round(3).tolist() == [0.374, 0.336, 0.288]


def test_a_share_out_of_range_is_no_fall_that_labels_allow(copy, ranges):
    path = copy / "claims.csv"
    text = path.read_text()
    path.write_text(text.replace("vcc_share_v_align,33.3", "vcc_share_v_align,95.0"))
    assert path.read_text() != text
    falls = collapse.falls((CH_SIMS,), copy).set_index(["reader", "fall"])
    assert range_of(ranges, CH_SIMS, "random", "align", "V")[1] < 0.95
    assert range_of(ranges, CH_SIMS, "average", "align", "V")[1] > 0.95
    assert not falls.loc["random", "holds"].any()
    assert falls.loc[[("average", "published"), ("average", "none")], "holds"].all()
    assert falls.loc["random", "detail"].eq("by no allowed label table").all()


def test_a_higher_gain_narrows_the_share(ranges):
    before = range_of(ranges, MIX, "random", "conflict", "V")
    values, gain, size = collapse._parts("random", "conflict")
    for least in (0.05, 0.1, 0.3):
        found = collapse.ratio_range(MIX, values[:, 2], gain, [gain - least * size])
        assert before[0] < found.low <= found.high < before[1]
        before = found.low, found.high
        narrowest = shares_by_hand(MIX, found.highest, "random", "conflict")
        assert narrowest[0][2] == pytest.approx(found.high) and narrowest[1] > least - 1e-6
    none = collapse.share_ranges((CH_SIMS,), least=0.5)
    assert np.isnan(range_of(none, CH_SIMS, "random", "conflict", "V")).all()


def test_an_outline_holds_every_allowed_pair_of_gain_and_psmv(ranges):
    outline = collapse.outline(MIX, "random", "conflict", directions=12)
    low, high = range_of(ranges, MIX, "random", "conflict", "TAV", "gain")
    assert outline["gain"].agg(["min", "max"]).tolist() == pytest.approx([low, high])
    low, high = range_of(ranges, MIX, "random", "conflict", "V", "psmv")
    assert outline["psmv"].agg(["min", "max"]).tolist() == pytest.approx([low, high])
    corners = outline.to_numpy()
    edges = np.roll(corners, -1, axis=0) - corners
    turns = edges[:, 0] * np.roll(edges, -1, axis=0)[:, 1]
    turns -= edges[:, 1] * np.roll(edges, -1, axis=0)[:, 0]
    assert (turns > -1e-9).all()


@pytest.mark.parametrize("pair", [("gt", "t"), ("gt", "v"), ("t", "a"), ("a", "v")])
def test_an_agreement_that_is_off_by_one_digit_moves_the_ranges(copy, ranges, pair):
    where = {"corpus": Corpus.CH_SIMS.value, "source_i": pair[0], "source_j": pair[1]}
    edit(copy, 4, where, "agreement", -1e-4)
    try:
        parts = collapse.allowed(copy)
    except ValueError as error:
        assert "exactly one" in str(error)
        return
    [part] = [p for p in parts if (p.name, p.constraints) == ("ch_sims_v2", "quotas")]
    before = ranges[ranges["corpus"] == part.name][["low", "high"]].to_numpy()
    moved = collapse.share_ranges((part,))[["low", "high"]].to_numpy()
    assert not np.allclose(before, moved, atol=1e-6, rtol=0)


def test_an_unknown_reader_or_reliability_is_refused():
    with pytest.raises(ValueError, match="reader must be"):
        collapse.reader_values("oracle")
    with pytest.raises(ValueError, match="reliability in 0..1"):
        collapse.reader_values("random", 1.5)


def test_the_table_of_shares_has_the_ends_of_the_narrowest_ranges_in_percent(ranges):
    counts = {corpus: joint_counts(corpus) for corpus in Corpus}
    shares = collapse.shares_of(counts)
    table = shares_table(ranges, shares)
    assert table.shape == (4, 7)
    narrow = ranges[(ranges["corpus"] == "both") & (ranges["quantity"] == "share")]
    narrow = narrow[narrow["constraints"] == narrow["constraints"].iloc[-1]]
    own = shares[(shares["corpus"] == "both") & (shares["quantity"] == "share")]
    names = {"random": "follows one at random", "average": "follows the average"}
    for row in narrow.itertuples():
        place = names[row.reader], row.subset.capitalize()
        low, high = table.loc[place, (row.modality, "allowed")].split(" to ")
        ends = [float(end.replace("\N{MINUS SIGN}", "-").replace(",", "").replace("\N{INFINITY}", "inf"))
                for end in (low, high)]  # fmt: skip
        assert ends == pytest.approx([100 * row.low, 100 * row.high], abs=0.5)
    for row in own.itertuples():
        place = names[row.reader], row.subset.capitalize()
        said = table.loc[place, (row.modality, "surrogates")].replace("\N{MINUS SIGN}", "-")
        assert float(said) == pytest.approx(100 * row.value, abs=0.05)
    assert table["V", "published"].tolist() == ["33.3", "20.8"] * 2


def test_figures_of_labels_are_legible(ranges):
    counts = {corpus: joint_counts(corpus) for corpus in Corpus}
    shares = collapse.shares_of(counts)
    rows = [
        (corpus.value, constraints, kind, low, high)
        for corpus in Corpus
        for kind in KINDS
        for constraints, low, high in (("tables", 0, 2000), ("tables and quotas", 85, 1000))
        if corpus is Corpus.CH_SIMS or constraints == "tables"
    ]
    kinds = pd.DataFrame(rows, columns=["corpus", "constraints", "kind", "low", "high"])
    kinds["exact"] = True
    drawn = [figures.kinds_figure(kinds, counts)]
    corners = pd.DataFrame({"gain": [-0.1, 0.7, 0.7], "psmv": [0.0, -0.3, 0.4]})
    outlines = [corners.assign(reader=r, subset=s) for r, s in product(READERS, IN)]
    drawn.append(figures.outlines_figure(pd.concat(outlines), shares))
    for fig in drawn:
        assert_legible(fig)
        plt.close(fig)


def test_figures_refuse_frames_they_cannot_draw(ranges):
    counts = {corpus: joint_counts(corpus) for corpus in Corpus}
    shares = collapse.shares_of(counts)
    with pytest.raises(ValueError, match="no shares of both corpora"):
        shares_table(ranges[ranges["corpus"] != "both"], shares)
    with pytest.raises(ValueError, match=r"ranges: columns \['exact', 'kind'\]"):
        figures.kinds_figure(ranges, counts)
    with pytest.raises(ValueError, match=r"outlines: columns \['gain', 'psmv'\]"):
        figures.outlines_figure(ranges, shares)
