import math

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from legible import assert_legible
from matplotlib import pyplot as plt
from published import add, edit
from scipy.optimize import minimize
from scipy.spatial.distance import jensenshannon

from emomm_lib.chase import equations as steering
from emomm_lib.metrics.nmas import TraceTable, layer_nmas
from emomm_study import paper
from emomm_study.audit import kappa, preference as audit
from emomm_study.report import style
from emomm_study.report.figures import audit_kappa as figures

COUNTS = {"T": 15, "A": 105, "V": 1024}
tokens = st.lists(st.integers(1, 2000), min_size=2, max_size=3)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def cell(method, layer, source):
    return {"item": "attention", "method": method, "layer": str(layer), "source": source}


def random_nmas(counts, rng, heads=1):
    """Mean weights of attention rows over these tokens and one more, that is no modality's."""
    sharp = 10.0 ** rng.uniform(-3, 1)
    rows = rng.dirichlet(np.full(sum(counts) + 1, sharp), size=heads)
    parts = np.split(rows[:, :-1], np.cumsum(counts)[:-1], axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_softmax_is_the_librarys_literal_preference(nmas):
    present = torch.ones(3, dtype=torch.bool)
    theirs = steering.preference(torch.tensor(nmas, dtype=torch.float64), present, "softmax")
    assert audit.softmax(nmas) == pytest.approx(theirs.numpy(), abs=1e-12)


@settings(max_examples=50)
@given(tokens, seeds)
def test_no_attention_takes_eq_6_farther_from_uniform_or_its_entries_farther_apart(counts, seed):
    nmas = random_nmas(counts, np.random.default_rng(seed), heads=5)
    assert (nmas <= 1 / np.array(counts) + 1e-12).all()
    assert (nmas @ counts <= 1 + 1e-12).all()
    pi = audit.softmax(nmas)
    assert (audit.distance_from_uniform(pi) <= audit.largest_distance(counts) + 1e-12).all()
    for averaged in (*pi, pi.mean(axis=0)):
        assert averaged.max() / averaged.min() <= audit.largest_ratio(counts) + 1e-9
        assert averaged.max() / averaged.min() <= math.e + 1e-9


@settings(max_examples=50)
@given(tokens)
def test_all_attention_on_the_fewest_tokens_reaches_the_largest_distance_and_ratio(counts):
    nmas = np.zeros(len(counts))
    nmas[np.argmin(counts)] = 1 / min(counts)
    pi = audit.softmax(nmas)
    assert audit.distance_from_uniform(pi) == pytest.approx(audit.largest_distance(counts))
    assert pi.max() / pi.min() == pytest.approx(audit.largest_ratio(counts))


@pytest.mark.parametrize("counts", [(1, 2, 3), (4, 4, 4), (15, 105, 1024), (2, 30)])
def test_a_general_optimiser_finds_no_attention_with_a_larger_distance(counts):
    rng, size = np.random.default_rng(0), len(counts)

    def distance(mass):
        return audit.distance_from_uniform(audit.softmax(mass / counts))

    reached = []
    for start in rng.dirichlet(np.ones(size), 12):
        found = minimize(
            lambda mass: -distance(mass),
            start,
            method="SLSQP",
            bounds=[(0, 1)] * size,
            constraints={"type": "ineq", "fun": lambda mass: 1 - mass.sum()},
        )
        mass = np.clip(found.x, 0, 1)
        reached.append(distance(mass / max(mass.sum(), 1)))
    assert max(reached) <= audit.largest_distance(counts) + 1e-12
    assert max(reached) == pytest.approx(audit.largest_distance(counts), rel=1e-4)


def test_the_largest_distance_falls_like_two_ninths_over_the_fewest_tokens():
    assert audit.largest_distance([1, 50, 50]) == pytest.approx((math.e / (math.e + 2)) - 1 / 3)
    fewest = np.array([100, 1000, 10000])
    counts = np.stack([fewest, 10 * fewest, 20 * fewest], axis=1)
    assert audit.largest_distance(counts) * fewest == pytest.approx(2 / 9, rel=0.01)
    # What the other modalities have does not matter.
    assert audit.largest_distance([15, 15, 15]) == audit.largest_distance([15, 200, 9000])


@pytest.mark.parametrize("counts", [(0, 2, 3), (0.5, 2, 2)])
def test_a_present_modality_has_a_token(counts):
    with pytest.raises(ValueError, match="a token or more"):
        audit.largest_distance(counts)


@settings(max_examples=50)
@given(tokens, seeds)
def test_less_attention_on_the_modalities_brings_the_preference_nearer_to_uniform(counts, seed):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(len(counts)))
    for reading in audit.READINGS:
        distances = [
            audit.distance_from_uniform(
                audit.softmax(audit.nmas_of_shares(shares, counts, reading, attended))
            )
            for attended in (0, 0.2, 0.7, 1)
        ]
        assert distances[0] == pytest.approx(0, abs=1e-15)
        assert (np.diff(distances) >= -1e-15).all()
        assert distances[-1] <= audit.largest_distance(counts) + 1e-12


@settings(max_examples=50)
@given(tokens, seeds, st.floats(0.01, 1))
def test_shares_come_back_from_the_nmas_behind_them(counts, seed, attended):
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(counts)))
    as_mass = audit.nmas_of_shares(shares, counts, "mass", attended)
    assert as_mass * counts / attended == pytest.approx(shares)
    as_nmas = audit.nmas_of_shares(shares, counts, "nmas", attended)
    assert as_nmas / as_nmas.sum() == pytest.approx(shares)
    assert as_nmas @ counts == pytest.approx(attended)


def test_the_nmas_behind_shares_is_the_metrics_nmas_of_that_attention():
    row = paper.table(7).query("item == 'attention' and method == 'baseline' and layer == 28")
    shares = row.set_index("source")["value"].loc[["t", "a", "v"]].to_numpy()
    counts = np.array([[*COUNTS.values()]])
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TAV"]})
    mass = (shares / shares.sum())[None, None, None].astype(np.float32)
    theirs = layer_nmas(TraceTable(index, mass, counts))[0, 0]
    assert audit.nmas_of_shares(shares, counts[0], "mass") == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("reading", "attended", "message"), [("sum", 1, "one of"), ("mass", 1.2, "in .0, 1.")]
)
def test_unknown_readings_and_impossible_attention_are_refused(reading, attended, message):
    with pytest.raises(ValueError, match=message):
        audit.nmas_of_shares([0.5, 0.5], [3, 4], reading, attended)


def test_budgets_are_the_printed_cells():
    frame = audit.budgets().melt(["table", "method", "layer"], [*"TAV"], "source").dropna()
    ours = {(r.table, r.method, r.layer, r.source.lower()): r.value for r in frame.itertuples()}
    theirs = {
        (number, r.method, int(r.layer), r.source): r.value
        for number in (7, 8)
        for r in paper.table(number).query("item == 'attention'").itertuples()
        if not (number == 8 and r.source == "a")
    }
    assert ours == theirs and len(ours) == 50


def test_a_share_of_a_missing_modality_is_refused(copy):
    edit(copy, 8, cell("CHASE", 21, "a"), "value", add(0.0001))
    with pytest.raises(ValueError, match="table8.csv: CHASE, layer 21 .* A"):
        audit.budgets(copy)


def test_no_printed_budget_can_be_eq_6s_preference():
    frame = audit.printed_ratios()
    assert len(frame) == 20 and not frame["possible"].any()
    least = frame.loc[frame["ratio"].idxmin()]
    assert (least["table"], least["method"], least["layer"]) == (8, "CHASE", 26)
    assert least["ratio"] == pytest.approx(0.9216 / 0.0784)
    assert (frame["at_least"] < frame["ratio"]).all()


@pytest.mark.parametrize("shares", [(0.55, 0.22, 0.23), (0.40, 0.30, 0.30)])
def test_a_budget_that_eq_6_could_have_is_recognised(copy, shares):
    for source, share in zip("tav", shares, strict=True):
        edit(copy, 7, cell("baseline", 13, source), "value", lambda _, s=share: f"{s:.4f}")
    frame = audit.printed_ratios(copy)
    assert frame.loc[frame["possible"], ["table", "method", "layer"]].to_numpy().tolist() == [
        [7, "baseline", 13]
    ]
    assert not audit.preference_statements(copy)["holds"].iloc[0]


def test_printed_shares_are_recovered_exactly_by_the_librarys_share_of_the_nmas_behind_them():
    frame = audit.literal_budgets(COUNTS)
    for _, rows in frame[frame["reading"] == "nmas"].groupby(["table", "method", "layer"]):
        nmas = torch.tensor(rows["nmas"].to_numpy())
        present = torch.ones(len(rows), dtype=torch.bool)
        share = steering.preference(nmas, present, "share").numpy()
        assert share == pytest.approx(rows["printed"].to_numpy(), abs=5e-4)
        literal = steering.preference(nmas, present, "softmax").numpy()
        assert literal == pytest.approx(rows["preference"].to_numpy(), abs=1e-12)


def test_with_a_short_clips_tokens_every_printed_budget_becomes_nearly_uniform():
    frame = audit.literal_budgets(COUNTS)
    sizes = frame.groupby(["table", "method", "layer", "reading"])["preference"].transform("size")
    assert (frame["preference"] - 1 / sizes).abs().max() < 0.02
    assert len(frame) == 2 * 50


def test_counts_need_every_modality():
    with pytest.raises(ValueError, match=r"\['V'\] are missing"):
        audit.literal_budgets({"T": 15, "A": 105})


def test_distances_by_length_are_the_literal_budgets_farthest_layer():
    rates = audit.TokenRates(text=15, audio=105, video=1024)
    length = sum(COUNTS.values())
    by_length = audit.distance_by_length([length], rates).set_index(["table", "reading"])
    literal = audit.literal_budgets(COUNTS).query("table == 7 and method == 'baseline'")
    for reading, rows in literal.groupby("reading"):
        wide = rows.pivot(index="layer", columns="modality", values="preference").to_numpy()
        farthest = audit.distance_from_uniform(wide).max()
        assert by_length.at[(7, reading), "distance"] == pytest.approx(farthest)
    assert by_length.at[(7, "bound"), "fewest"] == 15


def test_distances_shrink_with_length_and_stay_under_the_bound():
    frame = audit.distance_by_length()
    wide = frame.pivot(index="length", columns=["table", "reading"], values="distance")
    long = wide.loc[200:]
    assert (long.diff().dropna() < 0).all(axis=None)
    for number, reading in wide.columns:
        assert (wide[number, reading] <= wide[number, "bound"] + 1e-12).all()
    slope = np.diff(np.log(long.to_numpy()), axis=0) / np.diff(np.log(long.index))[:, None]
    assert (np.abs(slope[-5:] + 1) < 0.01).all()


@pytest.mark.parametrize(("nmas", "most"), [(0.2, 5), (0.05, 20), (1, 1), (0.3, 3), (1 / 7, 7)])
def test_a_mean_weight_allows_so_many_tokens(nmas, most):
    assert audit.most_tokens(nmas) == most
    assert nmas <= 1 / most + 1e-9 and nmas > 1 / (most + 1)


@pytest.mark.parametrize("nmas", [0, -0.1, 1.1])
def test_a_mean_weight_is_above_zero_and_at_most_one(nmas):
    with pytest.raises(ValueError, match="is in"):
        audit.most_tokens(nmas)


@given(seeds)
def test_the_librarys_divergence_is_scipys(seed):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(3), 2)
    theirs = steering.js_divergence(torch.tensor(p), torch.tensor(q), 1e-15).item()
    assert theirs == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)


@settings(max_examples=60)
@given(tokens, seeds)
def test_scores_of_heads_differ_by_no_more_than_the_spread(counts, seed):
    rng = np.random.default_rng(seed)
    heads = audit.softmax(random_nmas(counts, rng, heads=6))
    corners = audit.softmax(np.diag(1 / np.array(counts)))
    gate = rng.dirichlet(np.full(len(counts), 10.0 ** rng.uniform(-2, 1)))
    every = np.concatenate([heads, corners])
    scores = jensenshannon(every, np.broadcast_to(gate, every.shape), axis=-1) ** 2
    assert np.ptp(scores) <= audit.largest_spread(counts) + 1e-12


def test_the_spread_falls_by_a_decimal_a_tenfold_length():
    frame = audit.spread_by_length([1000, 10000, 100000]).set_index("length")
    assert frame["decimal"].diff().dropna().tolist() == [1, 1]
    assert (frame["spread"] < 10.0 ** (1 - frame["decimal"])).all()
    assert (frame["spread"] >= 10.0 ** -frame["decimal"]).all()


@given(seeds, st.floats(0, 1))
def test_no_gate_biases_a_modality_more_than_the_largest_bias(seed, strength):
    rng = np.random.default_rng(seed)
    pi, gate = (torch.tensor(v) for v in rng.dirichlet(np.ones(3), 2))
    bias = steering.inter_bias(steering.target_preference(pi, gate, strength), pi, 0.0).numpy()
    assert (bias <= audit.largest_bias(pi.numpy(), strength) + 1e-12).all()
    alone = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    reached = steering.inter_bias(steering.target_preference(pi, alone, strength), pi, 0.0)
    assert reached[2].item() == pytest.approx(audit.largest_bias(pi[2].item(), strength))


def test_eq_13_can_weigh_video_about_threefold_as_printed_and_far_more_with_shares():
    frame = audit.bias_bounds(COUNTS).query("table == 7")
    factors = frame.groupby("preference")["factor"].agg(["min", "max"])
    # Uniform: (0.4 + 0.6 * 3) ** 1.4.
    assert factors.loc["softmax"].to_numpy() == pytest.approx([2.2**1.4] * 2, rel=0.02)
    assert factors.at["share", "min"] == pytest.approx((0.4 + 0.6 / 0.0245) ** 1.4)


@given(st.floats(1, 1e4))
def test_no_share_rises_more_than_the_largest_move_and_one_rises_by_it(odds):
    shares = np.linspace(0, 1, 20_001)
    rise = odds * shares / (odds * shares + 1 - shares) - shares
    assert rise.max() <= audit.largest_move(odds) + 1e-12
    assert rise.max() == pytest.approx(audit.largest_move(odds), abs=1e-4)


@given(seeds)
def test_no_heads_move_a_budget_more_by_the_inter_bias_than_the_move_bounds(seed):
    """A layer of 28 heads under the library's own Eq. 12, 13 and 15, four of them steered, on
    nMAS that its tokens allow."""
    rng = np.random.default_rng(seed)
    bounds = audit.move_bounds(COUNTS, 28).set_index("table")
    tokens = np.array([COUNTS[m] for m in "TAV"])
    mass = rng.dirichlet([0.3, 0.3, 0.3, 0.1], 28)[:, :3]
    nmas = mass / tokens
    gate = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for kind, pi in (
        ("softmax", audit.softmax(nmas)),
        ("share", nmas / nmas.sum(1, keepdims=True)),
    ):
        own = torch.from_numpy(pi)
        bias = steering.inter_bias(steering.target_preference(own, gate, 0.6), own, 1e-12)
        raised = nmas * np.exp(1.4 * bias.numpy())
        before, after = (x[:, 2] / x.sum(1) for x in (nmas, raised))
        rise = np.sort(after - before)[-4:].sum() / 28
        assert rise <= bounds.at[7, kind] + 1e-9


def test_the_printed_moves_need_no_shares_but_heads_that_are_not_alike():
    bounds = audit.move_bounds(COUNTS, 28)
    assert (bounds["printed"] < bounds["softmax"]).all()
    assert (bounds["printed"] > bounds["alike"]).all()


@pytest.mark.parametrize(
    ("number", "method", "layer", "source"),
    [(7, "CHASE", 28, "v"), (7, "baseline", 13, "a"), (8, "CHASE", 17, "t")],
)
def test_one_unit_in_a_printed_share_changes_the_budget_changes(
    copy, number, method, layer, source
):
    edit(copy, number, cell(method, layer, source), "value", add(0.0001))
    before, after = audit.budget_changes(), audit.budget_changes(copy)
    keys = ["table", "layer", "modality"]
    different = before.loc[before["change"] != after["change"], keys].to_numpy().tolist()
    assert different == [[number, layer, source.upper()]]


def test_budget_changes_are_sums_of_nothing_but_rounding():
    frame = audit.budget_changes()
    assert frame["change"].tolist() == (frame["chase"] - frame["baseline"]).round(4).tolist()
    totals = frame.groupby(["table", "layer"])["change"].sum().abs()
    # All layers but the one whose printed shares sum to 1.0004.
    assert totals.drop((7, 28)).max() < 2e-4 and totals[7, 28] == pytest.approx(3e-4)


def test_the_printed_shares_support_two_of_five_statements_on_table_7():
    frame = audit.preference_statements().set_index("statement")
    cases = frame.loc["audio has the largest share of the baseline in some layer":, "holds"]
    assert cases.tolist() == [False, True, False, False, True]
    sums = frame[frame.index.str.startswith("shares of")]
    assert sums.loc[~sums["holds"], "reference"].tolist() == ["Table 7"]
    assert "1.0004" in sums.loc[~sums["holds"], "detail"].item()


@pytest.mark.parametrize(
    ("where", "step", "statement"),
    [
        (cell("CHASE", 13, "a"), -0.0152, "CHASE lowers audio's share in some layer"),
        (cell("baseline", 26, "a"), 0.5, "audio has the largest share of the baseline"),
        (cell("CHASE", 28, "t"), -0.0003, "shares of CHASE sum to 1 in every layer"),
    ],
)
def test_a_changed_share_turns_the_statement_about_it(copy, where, step, statement):
    edit(copy, 7, where, "value", add(step))
    frame = audit.preference_statements(copy)
    about = frame["statement"].str.startswith(statement)
    row = frame[about & (frame["reference"] == "Table 7")]
    assert row["holds"].item()


@pytest.mark.parametrize(("present", "rate"), [("TX", 1.0), ("", 1.0), ("TA", 0.0)])
def test_rates_are_positive_and_modalities_known(present, rate):
    with pytest.raises(ValueError, match="present is some of"):
        audit.TokenRates(text=rate).counts(100, present)


def test_tokens_keep_their_proportions_once_each_modality_has_one():
    counts = audit.TokenRates(2, 3, 5).counts([1, 1000])
    assert counts.tolist() == [[1, 1, 1], [200, 300, 500]]


def test_the_kappa_figure_draws_each_range_where_it_is_and_the_published_line():
    ranges = kappa.kappa_ranges()
    fig = figures.attainable_kappa(ranges, 0.54)
    assert_legible(fig)
    (ax,) = fig.axes
    bars = {(round(b.get_x(), 9), round(b.get_x() + b.get_width(), 9)) for b in ax.patches}
    assert {(round(r.low, 9), round(r.high, 9)) for r in ranges.itertuples()} <= bars
    assert [0.54, 0.54] in [[*line.get_xdata()] for line in ax.lines]
    audio = next(b for b in ax.patches if round(b.get_x() + b.get_width(), 6) == 0.490276)
    assert mpl.colors.to_hex(audio.get_facecolor()).upper() == style.COLOURS["a"]


def test_the_literal_figure_draws_the_bound_and_stacks_that_reach_one():
    distances, budgets = audit.distance_by_length(), audit.literal_budgets(COUNTS)
    fig = figures.literal_preference(distances, budgets)
    assert_legible(fig)
    bound = distances.query("table == 7 and reading == 'bound'")["distance"].tolist()
    assert bound in [[*line.get_ydata()] for line in fig.axes[0].lines]
    for ax in fig.axes[1:]:
        tops = [bar.get_y() + bar.get_height() for bar in ax.patches[2::3] if bar.get_height()]
        assert len(ax.patches) == 30 and max(tops) == pytest.approx(1, abs=5e-4)
    drawn = {round(bar.get_height(), 4) for bar in fig.axes[1].patches}
    assert {0.7436, 0.2319, 0.0245, 0.0495} <= drawn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="low"), "'low'"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "one row for each"),
        (lambda f: f.replace("cmu_mosi", "mosei"), "mapping is one of"),
        (lambda f: f.iloc[:0], "no rows"),
    ],
)
def test_the_kappa_figure_refuses_other_tables(change, message):
    with pytest.raises(ValueError, match=message):
        figures.attainable_kappa(change(kappa.kappa_ranges()), 0.54)
