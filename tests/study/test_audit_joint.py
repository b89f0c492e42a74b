from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import published
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import linprog

from emomm_lib import agreement_matrix
from emomm_lib.labels import SOURCES, polarity
from emomm_study.audit import joint
from emomm_study.audit.joint import CELLS, KINDS, PAIRS, Equations
from emomm_study.corpora.manifest import stratum
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.joint import joint_counts

BOTH = pytest.mark.parametrize("corpus", Corpus)


def targets_of(counts):
    """Targets that a table has, from its labels by plain sums."""
    labels = np.repeat(CELLS, np.ravel(counts), axis=1)
    marginals = {s: tuple(np.bincount(labels[i], minlength=5)) for i, s in enumerate(SOURCES)}
    differences = {
        (i, j): int(np.abs(labels[SOURCES.index(i)] - labels[SOURCES.index(j)]).sum())
        for i, j in PAIRS
    }
    return joint.JointTargets(marginals, differences)


def table_of(counts):
    labels = np.repeat(CELLS, np.ravel(counts), axis=1)
    return pd.DataFrame({f"label_{s}": labels[i] for i, s in enumerate(SOURCES)})


def edit(copy, number, where, column, step):
    """Add ``step`` to one printed number, in both of its cells where Table 4 has it twice."""
    published.edit(copy, number, where, column, published.add(step))
    if number == 4:
        mirrored = {"source_i": where["source_j"], "source_j": where["source_i"]}
        published.edit(copy, number, {**where, **mirrored}, column, published.add(step))


@BOTH
def test_a_witness_has_the_published_numbers_by_the_library_s_other_functions(corpus):
    table = table_of(joint.witness(joint.published_targets(corpus)))
    matrix = agreement_matrix(table).round(4)
    published = joint.paper.table(4).query("corpus == @corpus.value")
    assert all(matrix.loc[r.source_i, r.source_j] == r.agreement for r in published.itertuples())
    counts = joint.paper.table(3).query("corpus == @corpus.value").set_index(["source", "label"])
    for source in SOURCES:
        found = np.bincount(table[f"label_{source}"], minlength=5)
        assert found.tolist() == counts.loc[source].loc[list(joint.CLASSES), "count"].tolist()
    if corpus is Corpus.CH_SIMS:
        sizes = stratum(table).value_counts()
        assert sizes.to_dict() == {"conflict": 1000, "equal": 500, "same_polarity": 500}


def test_kinds_split_the_cells_as_their_words_say():
    for *labels, place in zip(*CELLS, range(CELLS.shape[1]), strict=True):
        gt, *others = (int(polarity(label)) for label in labels)
        kinds = {name for name, cells in KINDS.items() if cells[place]}
        if any(other != gt for other in others):
            opposite = any(other * gt == -1 for other in others)
            assert kinds == {"conflict", "opposite sign" if opposite else "neutral only"}
        else:
            assert kinds == {"align", "equal" if len(set(labels)) == 1 else "same polarity"}


def test_the_ranges_are_those_of_every_table_of_two_clips_with_the_same_numbers():
    rng = np.random.default_rng(0)
    cells = np.array(list(combinations_with_replacement(range(CELLS.shape[1]), 2)))
    rows = Equations.of(targets_of(np.eye(1, CELLS.shape[1], dtype=int))).rows
    sums = rows[:, cells].sum(axis=2)
    for _ in range(4):
        two = rng.choice(CELLS.shape[1], 2)
        counts = np.bincount(two, minlength=CELLS.shape[1])
        same = (sums == (rows @ counts)[:, None]).all(axis=0)
        equations = Equations.of(targets_of(counts))
        for cells_of in KINDS.values():
            possible = cells_of[cells[same]].sum(axis=1)
            high = joint.greatest(equations, cells_of)
            low = joint.greatest(equations, -cells_of.astype(int))
            # A bound that no integer counts reach need not be tight.
            assert -low.value <= possible.min() and possible.max() <= high.value
            for end, sign, known in ((low, -1, possible.min()), (high, 1, possible.max())):
                if end.counts is not None:
                    assert sign * end.value == known


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.sampled_from(list(KINDS)))
def test_no_table_of_labels_lies_outside_the_range_of_its_own_numbers(seed, clips, kind):
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clips, rng.dirichlet(np.full(CELLS.shape[1], 0.02)))
    targets, cells = targets_of(counts), KINDS[kind]
    targets.check_parity()
    equations, number = Equations.of(targets), int(counts @ cells)
    assert (equations.rows @ counts == equations.totals).all()
    assert joint.upper_bound(equations, cells).bound >= number
    assert -joint.upper_bound(equations, -cells.astype(int)).bound <= number


RANGES = {
    ("ch_sims_v2", "tables"): "388-1645 355-1612 0-1363 0-1308 0-1118 0-1536",
    ("ch_sims_v2", "tables and quotas"): "1000-1000 1000-1000 500-500 500-500 0-915 85-1000",
    ("cmu_mosi", "tables"): "1115-2000 0-885 0-885 0-653 304-1685 0-1696",
}


@pytest.fixture(scope="module")
def ranges():
    return joint.kind_ranges()


def test_the_published_numbers_leave_these_ranges_and_reach_their_ends(ranges):
    assert ranges["exact"].all()
    ends = ranges["low"].astype(str) + "-" + ranges["high"].astype(str)
    found = ends.groupby([ranges["corpus"], ranges["constraints"]]).agg(" ".join)
    assert found.to_dict() == RANGES


@BOTH
def test_the_committed_labels_lie_inside_the_ranges(ranges, corpus):
    counts = joint_counts(corpus).ravel()
    for row in ranges[ranges["corpus"] == corpus.value].itertuples():
        assert row.low <= counts @ KINDS[row.kind] <= row.high


@BOTH
@pytest.mark.parametrize("kind", ["conflict", "opposite sign"])
def test_another_solver_finds_the_same_bounds(corpus, kind):
    rows, totals = joint.table_targets(corpus).system()
    equations, cost = Equations.of(joint.table_targets(corpus)), KINDS[kind].astype(float)
    for sign in (1, -1):
        found = linprog(-sign * cost, A_eq=rows, b_eq=totals, method="highs-ipm")
        bound = joint.upper_bound(equations, (sign * cost).astype(int)).bound
        assert -found.fun == pytest.approx(float(bound), abs=1e-5)


def test_a_certificate_adds_up_to_its_bound_in_every_cell_and_in_all():
    certificate, equations = joint.opposite_certificate()
    frame = certificate.frame(equations)
    scale = frame.attrs["scale"]
    assert frame["product"].sum() == scale * certificate.bound == 2 * 915
    rows = dict(zip(equations.names, equations.rows.tolist(), strict=True))
    for place in range(CELLS.shape[1]):
        gt, *others = (int(polarity(label)) for label in CELLS[:, place])
        opposite = any(other * gt < 0 for other in others)
        weighted = sum(r.weight * rows[r.number][place] for r in frame.itertuples())
        assert weighted >= scale * opposite
    assert certificate.bound < joint.published_quotas().conflict


def test_these_readings_of_conflict_can_meet_the_quotas_and_no_others():
    checks = joint.reading_checks()
    assert checks["holds"].tolist() == [True, False, False, False] + [True] * 3 + [
        False,
        True,
        False,
    ]
    assert checks["most"].tolist() == [1500, 915, 915, 915, 1500, 1219, 1334, 936, 1017, 1500]
    inside = checks["least"].le(checks["wanted"]) & checks["wanted"].le(checks["most"])
    assert (checks["holds"] <= inside).all()
    rows, totals = joint.table_targets(Corpus.CH_SIMS).system()
    for reading, holds in zip(joint.READINGS, checks["holds"], strict=True):
        asked = np.vstack([rows, reading.conflict, KINDS["equal"], KINDS["same polarity"]])
        found = linprog(np.zeros(625), A_eq=asked, b_eq=[*totals, 1000, 500, 500])
        assert found.status in (0, 2) and (found.status == 0) == holds


def test_the_least_repairs_are_those_of_a_program_with_slack_written_out():
    repairs = joint.least_repairs().set_index("changed")
    assert repairs["least"].to_dict() == {"quotas": 53, "Table 4": 348, "Table 3": 287}
    rows, totals = joint.table_targets(Corpus.CH_SIMS).system()
    kinds = np.array([joint.OPPOSITE.conflict, KINDS["equal"], KINDS["same polarity"]], float)
    filled = linprog(
        np.r_[np.zeros(625), -np.ones(3)],
        A_eq=np.pad(rows, ((0, 0), (0, 3))),
        b_eq=totals,
        A_ub=np.hstack([-kinds, np.eye(3)]),
        b_ub=np.zeros(3),
        bounds=[(0, None)] * 625 + [(0, 1000), (0, 500), (0, 500)],
    )
    assert repairs.at["quotas", "least"] == np.ceil(2000 + filled.fun - 1e-6)
    slack = np.zeros((len(totals) + 3, 12))
    slack[-9:-3] = np.hstack([np.eye(6), -np.eye(6)])
    moved = linprog(
        np.r_[np.zeros(625), np.ones(12)],
        A_eq=np.hstack([np.vstack([rows, kinds]), slack]),
        b_eq=[*totals, 1000, 500, 500],
    )
    assert repairs.at["Table 4", "least"] == np.ceil(moved.fun - 1e-6)


CELLS_3 = [("gt", "Neu"), ("t", "WN"), ("a", "P"), ("v", "N")]


@pytest.mark.parametrize(("source", "label"), CELLS_3)
@BOTH
def test_a_count_that_is_off_by_one_is_noticed(copy, corpus, source, label):
    edit(copy, 3, {"corpus": corpus.value, "source": source, "label": label}, "count", 1)
    # The number of clips is GT's, so there the agreements are the first that do not fit.
    with pytest.raises(ValueError, match="exactly one" if source == "gt" else "one total"):
        joint.table_targets(corpus, copy)


@pytest.mark.parametrize("step", [1e-4, -1e-4])
@pytest.mark.parametrize("pair", PAIRS)
def test_an_agreement_that_is_off_by_one_digit_breaks_or_moves_the_bound(copy, pair, step):
    where = {"corpus": Corpus.CH_SIMS.value, "source_i": pair[0], "source_j": pair[1]}
    edit(copy, 4, where, "agreement", step)
    try:
        targets = joint.table_targets(Corpus.CH_SIMS, copy)
    except ValueError as error:
        # Some agreements are no integer's.
        assert "exactly one" in str(error)
        return
    changed = targets.differences[pair] - joint.table_targets(Corpus.CH_SIMS).differences[pair]
    if not changed:
        # The printed sum lies at a border of rounding; the table of agreements notices, this not.
        assert (pair, step) == (("t", "v"), 1e-4)
        return
    assert abs(changed) == 1
    with pytest.raises(ValueError, match="-".join(pair)):
        joint.witness(targets)
    certificate, equations = joint.opposite_certificate(copy)
    used = any(name == f"|{pair[0].upper()} - {pair[1].upper()}|" for name in certificate.weights)
    assert (certificate.bound != 915) == used


def test_difference_sum_inverts_the_printed_agreement_including_ties():
    assert joint.difference_sum(0.7998, 2000) == 1602
    assert joint.difference_sum(0.7602, 2000) == 1918
    for total in range(0, 8001, 7):
        assert joint.difference_sum(1 - total / 8000, 2000) == total
    with pytest.raises(ValueError, match="exactly one"):
        joint.difference_sum(0.79985, 100)
    with pytest.raises(ValueError, match="exactly one"):
        joint.difference_sum(0.5, 5000, decimals=3)


def test_a_conflict_count_out_of_reach_becomes_the_border_of_the_feasible_range(ranges):
    targets = joint.published_targets(Corpus.CMU_MOSI)
    assert targets == joint.table_targets(Corpus.CMU_MOSI)
    known = ranges[(ranges["corpus"] == "cmu_mosi") & (ranges["kind"] == "conflict")].squeeze()
    wanted = (0, 1630, 2000)
    found = [joint.nearest_conflict(targets, number) for number in wanted]
    assert found == [known["low"], 1630, known["high"]]


def test_contradicting_targets_are_refused_with_a_reason():
    targets = joint.published_targets(Corpus.CH_SIMS)
    perfect = replace(targets, differences=dict.fromkeys(PAIRS, 0))
    with pytest.raises(ValueError, match="no label table"):
        joint.nearest_conflict(perfect, 1000)
    with pytest.raises(ValueError, match="contradict"):
        joint.upper_bound(Equations.of(perfect), KINDS["equal"])
    with pytest.raises(ValueError, match="one total"):
        replace(targets, marginals={**targets.marginals, "a": (1, 1, 1, 1, 1)})
