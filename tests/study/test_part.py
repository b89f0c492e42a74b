"""A part of the benchmark: nested, with the shares of the whole, and on the same sides."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from test_benchmark import make_clips, random_labels

from emomm_study.corpora.clips import CorpusTable, corpus_roots
from emomm_study.corpora.manifest import (
    build_manifest,
    stratum,
)
from emomm_study.corpora.part import STRATA, described, deviation, part_of
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.joint import label_table

FEW = settings(max_examples=25, deadline=None)
SIZES = (40, 80, 200, 400)


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    return build_manifest(
        CorpusTable(Path("r"), make_clips(c, label_table(c), 100)) for c in Corpus
    )


@st.composite
def manifests(draw) -> pd.DataFrame:
    """Clips of one corpus or two with any labels, whose groups stand on one side of any split."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    parts = []
    for corpus in draw(st.sampled_from([[Corpus.CH_SIMS], [Corpus.CMU_MOSI], [*Corpus]])):
        clips = make_clips(corpus, random_labels(draw(st.integers(1, 120)), seed), 12, seed)
        side = dict(
            zip(
                clips["speaker_id"].unique(),
                rng.choice(["train", "valid", "test"], 12),
                strict=False,
            )
        )
        parts.append(clips.assign(split=clips["speaker_id"].map(side), stratum=stratum(clips)))
    return pd.concat(parts, ignore_index=True)


@given(manifests(), st.integers(1, 250), st.integers(1, 250))
@FEW
def test_a_smaller_part_lies_in_a_larger_one_and_has_the_size_asked_for(manifest, one, other):
    small, large = (part_of(manifest, n) for n in sorted([one, other]))
    assert {*small["sample_id"]} <= {*large["sample_id"]}
    assert len(large) == min(max(one, other), len(manifest))
    # Rows are the manifest's, in its order.
    kept = manifest[manifest["sample_id"].isin(small["sample_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(small, kept)


@given(manifests(), st.integers(1, 250))
@FEW
def test_every_split_of_every_corpus_has_a_clip_before_any_has_a_second(manifest, n):
    sides = manifest.groupby(["corpus", "split"]).ngroups
    found = part_of(manifest, n).groupby(["corpus", "split"]).size()
    assert len(found) == min(n, sides) and (n > sides or found.eq(1).all())


@given(manifests(), st.integers(1, 250), st.integers(0, 99))
@FEW
def test_a_part_does_not_depend_on_how_rows_are_sorted(manifest, n, seed):
    other = part_of(manifest.sample(frac=1, random_state=seed), n)
    assert {*other["sample_id"]} == {*part_of(manifest, n)["sample_id"]}


@pytest.mark.parametrize("n", [1, 7, 30])
def test_a_part_is_what_the_greedy_order_gives_one_clip_at_a_time(manifest, n):
    """Against the definition, with loops over single clips and counts made anew for each."""
    few = manifest.groupby(["corpus", "split", "stratum"]).head(4)
    ways = [["corpus", "split"], ["stratum"], ["label_gt"], ["corpus", "split", "stratum"],
            ["corpus", "split", "label_gt"], STRATA]  # fmt: skip
    rows = sorted(
        few.to_dict("records"),
        key=lambda r: (
            *(r[c] for c in STRATA),
            hashlib.sha256(r["sample_id"].encode()).hexdigest(),
        ),
    )

    def like(row, way, among):
        return sum(all(row[c] == other[c] for c in way) for other in among)

    taken = []
    for k in range(1, n + 1):
        left = [r for r in rows if r not in taken]
        new = [r for r in left if not like(r, ways[0], taken)]
        gaps = [
            sum(k * like(r, way, rows) - len(rows) * like(r, way, taken) for way in ways)
            for r in new or left
        ]
        taken.append((new or left)[gaps.index(max(gaps))])
    assert {r["sample_id"] for r in taken} == {*part_of(few, n)["sample_id"]}


@pytest.mark.parametrize("corpora", [[*Corpus], [Corpus.CH_SIMS], [Corpus.CMU_MOSI]])
@pytest.mark.parametrize("n", SIZES)
def test_the_benchmarks_parts_have_all_splits_and_its_shares_within_three_points(
    manifest, corpora, n
):
    whole = manifest[manifest["corpus"].isin(corpora)]
    part = part_of(whole, n)
    apart = deviation(whole, part).assign(off=lambda f: f["difference"].abs())
    largest = apart.groupby("by")["off"].max()
    assert set(part["split"]) == {"train", "valid", "test"}
    # No share can be nearer than half a clip everywhere.
    assert (largest <= 1.5 / n).all(), largest


def test_a_part_takes_no_group_to_another_side_and_comes_from_many(manifest):
    part = part_of(manifest, 40)
    joined = part.merge(manifest, on="sample_id", suffixes=("", "_whole"), validate="one_to_one")
    assert joined["split"].equals(joined["split_whole"])
    assert (part.groupby(["corpus", "speaker_id"])["split"].nunique() == 1).all()
    assert part.groupby("corpus")["speaker_id"].nunique().min() >= 15


def test_deviation_is_the_difference_of_shares_and_is_said_in_points(manifest):
    part = pd.concat([manifest[manifest["split"] == "test"], manifest.head(10)]).drop_duplicates()
    table = deviation(manifest, part).set_index(["by", "value"])
    share = (part["split"] == "test").mean() - (manifest["split"] == "test").mean()
    assert table.loc[("split", "test"), "difference"] == pytest.approx(share)
    assert table.groupby("by")[["whole", "part"]].sum().to_numpy() == pytest.approx(1.0)
    said = described(manifest, part, len(part))
    assert said.startswith(f"A part of {len(part):,} of 4,000 clips, from ")
    largest = table.loc["split", "difference"].abs().max()
    assert f"split {100 * largest:.1f}" in said


def test_a_part_of_more_clips_than_there_are_is_all_of_them_and_says_so(manifest):
    assert part_of(manifest, 4001).equals(manifest) and part_of(manifest, 4000).equals(manifest)
    said = described(manifest, manifest, 5000)
    assert said == "All 4,000 clips, of the 5,000 that clips asks for: no part."


@pytest.mark.parametrize("n", [0, -3, 2.5, True, "40"])
def test_a_part_of_no_clip_is_refused(manifest, n):
    with pytest.raises(ValueError, match=r"clips = .*expected.*from 1 on, or null for all"):
        part_of(manifest, n)


def test_roots_are_of_the_corpora_that_are_given(tmp_path):
    both = corpus_roots(str(tmp_path / "a"), str(tmp_path / "b"))
    assert both == {Corpus.CH_SIMS: tmp_path / "a", Corpus.CMU_MOSI: tmp_path / "b"}
    assert corpus_roots(None, str(tmp_path)) == {Corpus.CMU_MOSI: tmp_path}
    with pytest.raises(ValueError, match="both null.*one corpus at least"):
        corpus_roots(None, None)
