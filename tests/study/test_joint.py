from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from emomm_lib import agreement_matrix
from emomm_lib.labels import CLASSES, SOURCES
from emomm_study import paper
from emomm_study.audit import joint as audit
from emomm_study.corpora.manifest import stratum
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate import joint

BOTH = pytest.mark.parametrize("corpus", Corpus)


@BOTH
def test_label_table_has_every_count_of_table_3(corpus):
    published = (
        paper.table(3).query("corpus == @corpus.value").set_index(["source", "label"])["count"]
    )
    table = joint.label_table(corpus)
    assert len(table) == 2000
    for source in SOURCES:
        counts = np.bincount(table[f"label_{source}"], minlength=5)
        assert counts.tolist() == [published[source, label] for label in CLASSES]


@BOTH
def test_label_table_prints_every_agreement_of_table_4(corpus):
    published = paper.table(4).query("corpus == @corpus.value")
    matrix = agreement_matrix(joint.label_table(corpus)).round(4)
    for row in published.itertuples():
        assert matrix.loc[row.source_i, row.source_j] == row.agreement


@pytest.mark.parametrize(
    ("corpus", "sizes"),
    [(Corpus.CH_SIMS, (1000, 500, 500)), (Corpus.CMU_MOSI, (joint.MOSI_CONFLICTS, None, None))],
)
def test_label_table_has_the_quotas_by_the_benchmarks_own_rule(corpus, sizes):
    found = stratum(joint.label_table(corpus)).value_counts()
    for kind, size in zip(("conflict", "equal", "same_polarity"), sizes, strict=True):
        assert size is None or found[kind] == size


@BOTH
def test_label_table_is_sorted_integers_in_range(corpus):
    table = joint.label_table(corpus)
    assert table.columns.tolist() == [f"label_{s}" for s in SOURCES]
    assert (table.dtypes == "int64").all() and table.isin(range(5)).all(axis=None)
    pd.testing.assert_frame_equal(table, table.sort_values(list(table.columns), ignore_index=True))


def test_the_solver_reproduces_the_committed_counts_byte_for_byte(tmp_path):
    joint.write_counts(tmp_path / "counts.csv")
    assert (tmp_path / "counts.csv").read_bytes() == joint.COUNTS_FILE.read_bytes()


@BOTH
def test_no_other_distribution_with_the_targets_has_more_entropy(corpus):
    targets = joint.surrogate_targets(corpus)
    rows, totals = targets.system()
    best = joint.max_entropy(targets).ravel()
    assert np.abs(rows @ best - totals).max() < 1e-5 and best.min() > 0
    # Entropy is concave: at its maximum no feasible direction climbs, so every feasible
    # table scores the same on the gradient, which a linear program would otherwise improve.
    gradient = np.log(best)
    found = linprog(-gradient, A_eq=rows, b_eq=totals)
    assert gradient @ found.x == pytest.approx(gradient @ best, rel=1e-6)
    direction = found.x - best
    entropy = [-(p * np.log(p)).sum() for p in (best + t * direction for t in (0.0, 1e-3, 1e-2))]
    assert entropy[0] > entropy[1] > entropy[2]


@BOTH
def test_exact_counts_are_hardly_farther_from_the_expectation_than_any_integers_must_be(corpus):
    targets = joint.surrogate_targets(corpus)
    expected, counts = joint.max_entropy(targets), joint.joint_counts(corpus)
    moved = np.abs(counts - expected)
    assert moved.max() < 2
    # Rounding each cell alone is the least any integer table can be off.
    assert moved.sum() < 1.1 * np.abs(np.rint(expected) - expected).sum()


def test_the_surrogates_take_the_estimated_conflicts_where_no_quota_is_published():
    assert joint.surrogate_targets(Corpus.CMU_MOSI).conflict == joint.MOSI_CONFLICTS
    assert joint.surrogate_targets(Corpus.CH_SIMS) == audit.published_targets(Corpus.CH_SIMS)


def test_contradicting_targets_are_refused_with_a_reason():
    targets = joint.surrogate_targets(Corpus.CH_SIMS)
    perfect = replace(targets, differences=dict.fromkeys(combinations(SOURCES, 2), 0))
    with pytest.raises(ValueError, match="maximum-entropy"):
        joint.max_entropy(perfect)
    with pytest.raises(ValueError, match="no integer counts"):
        joint.round_to_counts(joint.max_entropy(targets), perfect)


def test_a_missing_or_spoiled_counts_file_is_named(tmp_path):
    path = tmp_path / "counts.csv"
    with pytest.raises(FileNotFoundError, match=r"counts\.csv is missing"):
        joint.joint_counts(Corpus.CH_SIMS, path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"counts\.csv: expected the columns"):
        joint.joint_counts(Corpus.CH_SIMS, path)
    path.write_text("corpus,gt,t,a,v,count\nch_sims_v2,0,0,0,5,1\n")
    with pytest.raises(ValueError, match=r"labels must be 0\.\.4"):
        joint.joint_counts(Corpus.CH_SIMS, path)
