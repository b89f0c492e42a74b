import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import SOURCES
from emomm_study.corpora import manifest as b
from emomm_study.corpora.clips import CLIP_COLUMNS, CLIP_SCHEMA, CorpusTable
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate.joint import label_table
from emomm_study.paths import resolve_media

FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
ALL_LABELS = pd.DataFrame(
    list(product(range(5), repeat=4)), columns=[f"label_{s}" for s in SOURCES]
)


def make_clips(corpus: Corpus, labels: pd.DataFrame, speakers: int, seed: int = 0) -> pd.DataFrame:
    """A valid Clip table with these labels and unequal numbers of clips a speaker."""
    rng = np.random.default_rng(seed)
    speaker = rng.choice(speakers, len(labels), p=rng.dirichlet(np.full(speakers, 8.0)))
    speaker[:speakers] = np.arange(speakers)[: len(labels)]
    video = [f"v{s:03d}" for s in speaker]
    clip = [f"{i:04d}" for i in range(len(labels))]
    ids = [f"{corpus.value}/{v}/{c}" for v, c in zip(video, clip, strict=True)]
    paths = [f"Raw/{v}/{c}.mp4" for v, c in zip(video, clip, strict=True)]
    columns = {
        "sample_id": ids,
        "corpus": corpus.value,
        "language": "zh" if corpus is Corpus.CH_SIMS else "en",
        "video_id": video,
        "clip_id": clip,
        "speaker_id": video,
        "text": "words",
        "video_path": paths,
        "audio_path": paths,
    }
    for source in SOURCES:
        columns[f"score_{source}"] = [GRIDS[corpus].scores(k)[0] for k in labels[f"label_{source}"]]
    for source in SOURCES:
        columns[f"label_{source}"] = labels[f"label_{source}"].to_numpy()
    return CLIP_SCHEMA.validate(pd.DataFrame(columns))


def random_labels(n: int, seed: int) -> pd.DataFrame:
    return ALL_LABELS.sample(n, replace=True, random_state=seed % 2**31, ignore_index=True)


def sign(x: int) -> int:
    return (x > 2) - (x < 2)


@pytest.fixture(scope="module")
def tables() -> list[CorpusTable]:
    return [CorpusTable(Path("r"), make_clips(c, label_table(c), 30, 1)) for c in Corpus]


@pytest.fixture(scope="module")
def manifest(tables) -> pd.DataFrame:
    return b.build_manifest(tables)


def test_subsets_strata_and_missing_labels_equal_brute_force_on_all_625_cells():
    aligned, strata = b.subset(ALL_LABELS), b.stratum(ALL_LABELS)
    missing = {c: b.missing_subset(ALL_LABELS, c) for c in b.MISSING_COALITIONS}
    for i, (gt, *tav) in enumerate(ALL_LABELS.itertuples(index=False)):
        own = dict(zip("TAV", tav, strict=True))
        same = all(sign(x) == sign(gt) for x in tav)
        assert aligned[i] == ("align" if same else "conflict")
        assert strata[i] == (
            "conflict" if not same else "equal" if set(tav) == {gt} else "same_polarity"
        )
        for coalition, values in missing.items():
            agree = all(sign(own[m]) == sign(gt) for m in coalition)
            assert values[i] == ("missing_align" if agree else "missing_conflict")


def test_missing_subset_refuses_a_coalition_that_is_not_of_two_modalities():
    with pytest.raises(ValueError, match="TAV"):
        b.missing_subset(ALL_LABELS, "TAV")


@pytest.mark.parametrize("bad", [7, -1, 2.5, np.nan, None, "1", True])
@pytest.mark.parametrize("column", ["label_gt", "label_a"])
def test_what_is_no_label_is_in_no_subset_and_is_not_sampled(column, bad):
    labels = make_clips(Corpus.CH_SIMS, random_labels(40, 0), 12).astype({column: object})
    labels.loc[3, column] = bad
    draws = [
        b.subset, b.stratum, lambda f: b.missing_subset(f, "TA"),
        lambda f: b.sample_ch_sims(f, 0, (1, 0, 0)), b.assign_splits,
    ]  # fmt: skip
    if column == "label_gt":
        draws.append(lambda f: b.sample_cmu_mosi(f, 10))
    for function in draws:
        with pytest.raises(ValueError, match=rf"{column} are whole .*got .?{bad}.? \(1 in all\)"):
            function(labels)


def test_a_label_that_is_none_hides_no_other_defect_of_a_manifest(manifest):
    bad = manifest.copy()
    bad.loc[1, "label_a"] = 7
    bad.loc[2, "subset"] = "align" if bad.loc[2, "subset"] == "conflict" else "conflict"
    with pytest.raises(b.ManifestError) as caught:
        b.validate_manifest(bad)
    found = caught.value.failures[["sample_id", "column"]].drop_duplicates()
    assert set(found.itertuples(index=False, name=None)) == {
        (bad.loc[1, "sample_id"], "label_a"),
        (bad.loc[2, "sample_id"], "subset"),
    }


@FEW
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.floats(0, 1))
def test_water_filling_uses_all_and_takes_one_by_one_from_the_emptiest(supply, fraction):
    total = round(fraction * sum(supply))
    quotas = b.water_fill(supply, total)
    one_by_one = [0] * len(supply)
    for _ in range(total):
        i = min(
            (i for i in range(len(supply)) if one_by_one[i] < supply[i]),
            key=lambda i: one_by_one[i],
        )
        one_by_one[i] += 1
    assert quotas.tolist() == one_by_one


def test_water_filling_refuses_more_than_the_supply():
    with pytest.raises(ValueError, match="4 of 3"):
        b.water_fill([1, 2], 4)


@FEW
@given(SEEDS, st.tuples(*[st.integers(0, 25)] * 3))
def test_ch_sims_quotas_are_exact_and_each_stratum_is_as_balanced_as_its_supply(seed, quotas):
    clips = make_clips(
        Corpus.CH_SIMS,
        pd.concat(
            [random_labels(300, seed), ALL_LABELS[b.stratum(ALL_LABELS) != "conflict"]],
            ignore_index=True,
        ),
        12,
    )
    supply = b.stratum(clips).value_counts().reindex(b.STRATA, fill_value=0)
    quotas = [min(q, int(s)) for q, s in zip(quotas, supply, strict=True)]
    chosen = b.sample_ch_sims(clips, seed, quotas)
    assert b.stratum(chosen).value_counts().reindex(b.STRATA, fill_value=0).tolist() == quotas
    assert chosen["sample_id"].is_unique and chosen["sample_id"].isin(clips["sample_id"]).all()
    for kind, quota in zip(b.STRATA, quotas, strict=True):
        have = (
            clips.loc[b.stratum(clips) == kind, "label_gt"]
            .value_counts()
            .reindex(range(5), fill_value=0)
        )
        took = (
            chosen.loc[b.stratum(chosen) == kind, "label_gt"]
            .value_counts()
            .reindex(range(5), fill_value=0)
        )
        assert took.tolist() == b.water_fill(have, quota).tolist()


@FEW
@given(SEEDS, st.integers(0, 200))
def test_cmu_mosi_classes_differ_by_one_at_most_unless_a_class_is_used_up(seed, n):
    clips = make_clips(Corpus.CMU_MOSI, random_labels(200, seed), 12)
    have = clips["label_gt"].value_counts().reindex(range(5), fill_value=0)
    took = (
        b.sample_cmu_mosi(clips, n, seed)["label_gt"].value_counts().reindex(range(5), fill_value=0)
    )
    assert took.sum() == n
    assert (took[took < have] >= took.max() - 1).all()


@FEW
@given(SEEDS, SEEDS)
def test_permutation_of_the_input_rows_changes_nothing(shuffle, seed):
    tables = [CorpusTable(Path("r"), make_clips(c, random_labels(150, 7), 15)) for c in Corpus]
    shuffled = [
        CorpusTable(t.root, t.clips.sample(frac=1, random_state=shuffle)) for t in reversed(tables)
    ]
    options = b.BenchmarkSettings(ch_sims=(40, 0, 1), cmu_mosi=90, ratios=(2, 1, 1), seed=seed)
    pd.testing.assert_frame_equal(
        b.build_manifest(tables, options), b.build_manifest(shuffled, options)
    )


def test_the_seed_changes_which_clips_are_drawn_but_not_the_quotas():
    clips = make_clips(Corpus.CMU_MOSI, random_labels(300, 3), 12)
    one, two = b.sample_cmu_mosi(clips, 100, 1), b.sample_cmu_mosi(clips, 100, 2)
    assert set(one["sample_id"]) != set(two["sample_id"])
    assert one["label_gt"].value_counts().to_dict() == two["label_gt"].value_counts().to_dict()


def test_a_corpus_that_holds_exactly_the_quota_is_taken_whole(tables):
    sims, mosi = (t.clips.sort_values("sample_id", ignore_index=True) for t in tables)
    pd.testing.assert_frame_equal(b.sample_ch_sims(sims), sims)
    pd.testing.assert_frame_equal(b.sample_cmu_mosi(mosi), mosi)


def test_the_shortfall_of_every_stratum_is_named(tables):
    sims, mosi = (t.clips for t in tables)
    kinds = b.stratum(sims)
    short = sims[
        ~sims["sample_id"].isin(
            [*sims[kinds == "equal"]["sample_id"][:3], *sims[kinds == "conflict"]["sample_id"][:1]]
        )
    ]
    with pytest.raises(
        ValueError, match=r"conflict has 999 of 1000 \(1 short\); equal has 497 of 500 \(3 short\)"
    ):
        b.sample_ch_sims(short)
    with pytest.raises(ValueError, match=r"1990 of 2000 clips \(10 short\)"):
        b.sample_cmu_mosi(mosi[10:])


@FEW
@given(SEEDS, st.integers(10, 40), st.sampled_from([(7, 1, 2), (70, 10, 20), (2, 1, 1)]))
def test_no_speaker_crosses_a_split_and_no_clip_is_left_out(seed, speakers, ratios):
    clips = pd.concat([make_clips(c, random_labels(160, seed), speakers, seed) for c in Corpus])
    split = b.assign_splits(clips, ratios, seed)
    assert split.index.equals(clips.index) and split.isin(b.SPLITS).all()
    assert (split.groupby(clips["corpus"]).nunique() == len(b.SPLITS)).all()
    where = {}
    for corpus, speaker, name in zip(clips["corpus"], clips["speaker_id"], split, strict=True):
        assert where.setdefault((corpus, speaker), name) == name


def test_the_split_of_a_corpus_does_not_depend_on_the_other_one(tables):
    sims = tables[0].clips
    both = pd.concat([t.clips for t in tables], ignore_index=True)
    together = b.assign_splits(both)[: len(sims)]
    assert together.tolist() == b.assign_splits(sims).tolist()


def with_speakers(sizes, seed=0, corpus=Corpus.CMU_MOSI) -> pd.DataFrame:
    """Clips with as many of each speaker as said."""
    clips = make_clips(corpus, random_labels(sum(sizes), seed), 1)
    speakers = np.repeat([f"s{i:03d}" for i in range(len(sizes))], sizes)
    return clips.assign(speaker_id=speakers)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("at", [0, 17, 40])
@pytest.mark.parametrize("large", [[500], [600], [300, 300], [690], [350, 150, 100]])
def test_a_dominant_speaker_does_not_spoil_the_ratios_where_others_can_make_up_for_it(large, at):
    rest = np.random.default_rng(3).multinomial(1000 - sum(large), np.full(40, 1 / 40)).tolist()
    clips = with_speakers([*rest[:at], *large, *rest[at:]])
    report = b.split_report(clips.assign(split=b.assign_splits(clips)))
    assert report["deviation"].abs().max() <= b.SPLIT_BOUND
    assert report["strata_distance"].max() < 0.2


@pytest.mark.parametrize(
    ("sizes", "shares", "words"),
    [
        ([750] + [10] * 25, (0.75, None, None), "largest, s000, has 75.0%"),
        ([5] * 10 + [950], (0.95, 0.015, 0.035), "largest, s010, has 95.0%"),
        ([100] * 12, (0.75, 1 / 12, 2 / 12), "75.0% / 8.3% / 16.7% for 7:1:2, off by up to 5.0%"),
    ],
)
def test_a_split_that_whole_speakers_cannot_make_near_is_the_nearest_and_warned_of(
    sizes, shares, words
):
    clips = with_speakers(sizes)
    with pytest.warns(UserWarning, match=f"cmu_mosi: the split is .*{words}.*"):
        split = b.assign_splits(clips)
    found = split.value_counts(normalize=True)[list(b.SPLITS)]
    for share, expected in zip(found, shares, strict=True):
        assert expected is None or share == pytest.approx(expected)
    assert found["valid"] < found["test"]


def packed_and_folds(seed, speakers, skewed) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reports of the same clips' split by packing whole speakers, and by stratified folds."""
    rng = np.random.default_rng(seed)
    sizes = rng.pareto(1.5, speakers) * 8 + 10 if skewed else rng.integers(10, 40, speakers)
    clips = with_speakers(sizes.astype(int).tolist(), seed)
    strata = clips["label_gt"].astype(str) + b.subset(clips)
    packed = b._packed(clips["speaker_id"], strata, np.array(b.RATIOS), seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(b, "SPLIT_BOUND", 1.0)
        folds = b.assign_splits(clips, seed=seed)
    return tuple(b.split_report(clips.assign(split=split)) for split in (packed, folds))


@FEW
@given(SEEDS, st.integers(12, 40), st.booleans())
def test_packed_speakers_come_as_near_the_ratios_as_folds_of_them(seed, speakers, skewed):
    packed, folds = packed_and_folds(seed, speakers, skewed)
    bound = max(b.SPLIT_BOUND, folds["deviation"].abs().max())
    assert packed["deviation"].abs().max() <= bound + 1e-12


@pytest.mark.parametrize("skewed", [False, True])
def test_packed_speakers_are_on_the_whole_better_mixed_than_folds_of_them(skewed):
    # Of one corpus of a dozen speakers nothing follows: 14 clips mix well or badly by chance.
    reports = [packed_and_folds(seed, 12 + seed, skewed) for seed in range(25)]
    packed, folds = (
        np.mean([r["strata_distance"].mean() for r in kind]) for kind in zip(*reports, strict=True)
    )
    assert packed < 0.8 * folds


def test_folds_that_are_near_enough_stay_as_they_are(manifest):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(b, "_packed", None)
        assert b.assign_splits(manifest).tolist() == manifest["split"].tolist()
    assert b.split_report(manifest)["deviation"].abs().max() < b.SPLIT_BOUND


def test_fewer_speakers_than_folds_is_a_clear_error():
    clips = make_clips(Corpus.CMU_MOSI, random_labels(100, 0), 9)
    with pytest.raises(ValueError, match="cmu_mosi: 9 speakers cannot be split 7:1:2, at least 10"):
        b.assign_splits(clips)
    with pytest.raises(ValueError, match="three positive"):
        b.assign_splits(clips, (7, 0, 3))
    with pytest.raises(ValueError, match="30 clips are too few to stratify"):
        b.assign_splits(make_clips(Corpus.CMU_MOSI, random_labels(30, 0), 12))


def test_the_split_comes_within_three_points_of_7_1_2_and_keeps_the_strata(manifest):
    report = b.split_report(manifest)
    assert len(report) == 6 and report["deviation"].abs().max() < 0.03
    assert report["strata_distance"].max() < 0.1
    assert report.groupby("corpus")["clips"].sum().eq(2000).all()
    one = report.query("corpus == 'cmu_mosi' and split == 'test'").iloc[0]
    test = manifest.query("corpus == 'cmu_mosi' and split == 'test'")
    assert (one["clips"], one["speakers"]) == (len(test), test["speaker_id"].nunique())
    assert one["deviation"] == pytest.approx(len(test) / 2000 - 0.2)


def test_the_benchmark_of_the_surrogate_labels_has_the_papers_quotas(manifest):
    sizes = manifest.groupby("corpus")["stratum"].value_counts().unstack(fill_value=0)
    assert sizes.loc["ch_sims_v2", list(b.STRATA)].tolist() == [1000, 500, 500]
    assert (
        tuple(manifest.columns)
        == b.MANIFEST_COLUMNS
        == (*CLIP_COLUMNS, "subset", "stratum", "split")
    )


def test_expansion_gives_three_coalitions_of_each_clip_inside_its_split(manifest):
    missing = b.expand_missing(manifest)
    assert len(missing) == 3 * len(manifest)
    assert not missing.duplicated(["sample_id", "coalition"]).any()
    assert (missing.groupby("sample_id")["coalition"].agg(" ".join) == "TA TV AV").all()
    home = manifest.set_index("sample_id")["split"]
    assert (missing["sample_id"].map(home) == missing["split"]).all()
    agree = {
        s: np.sign(missing[f"label_{s}"] - 2) == np.sign(missing["label_gt"] - 2)
        for s in ("t", "a", "v")
    }
    aligned = pd.Series(True, missing.index)
    for modality in "TAV":
        aligned &= agree[modality.lower()] | ~missing["coalition"].str.contains(modality)
    assert (missing["subset"] == np.where(aligned, "missing_align", "missing_conflict")).all()


def test_expansion_before_the_split_is_refused(manifest):
    with pytest.raises(ValueError, match="split the clips first"):
        b.expand_missing(manifest.drop(columns="split"))


def test_subset_sizes_count_every_clip_once_and_every_masked_instance_once(manifest):
    sizes = b.subset_sizes(manifest).set_index(["corpus", "subset"])["instances"]
    for corpus in Corpus:
        own = sizes[corpus.value]
        assert own["align"] + own["conflict"] == 2000
        assert own["missing_align"] + own["missing_conflict"] == 6000
    assert sizes["ch_sims_v2", "conflict"] == 1000 and sizes["cmu_mosi", "conflict"] == 1630


def test_the_manifest_error_lists_every_offending_row_and_column_and_no_other(manifest):
    bad = manifest.copy()
    ids = bad["sample_id"]
    bad.loc[1, "label_a"] = (bad.loc[1, "label_a"] + 1) % 5
    bad.loc[2, "score_v"] = 1.5
    bad.loc[3, "video_path"] = "../outside.mp4"
    bad.loc[4, "audio_path"] = "/etc/sound.wav"
    bad.loc[5, "text"] = ""
    bad.loc[6, "stratum"] = "other"
    bad.loc[9, "sample_id"] = ids[8]
    speaker = bad["speaker_id"] == bad.loc[0, "speaker_id"]
    with pytest.raises(b.ManifestError) as caught:
        b.validate_manifest(bad, "somewhere.parquet")
    failures = caught.value.failures
    found = set(zip(failures["sample_id"], failures["column"], strict=True))
    relabelled = {
        (ids[1], c)
        for c, f in (("subset", b.subset), ("stratum", b.stratum))
        if f(bad)[1] != bad.loc[1, c]
    }
    assert found == relabelled | {
        (ids[1], "label_a"),
        (ids[2], "score_v"),
        (ids[3], "video_path"),
        (ids[4], "audio_path"),
        (ids[5], "text"),
        (ids[6], "stratum"),
        (ids[8], "sample_id"),
    }
    assert (failures["sample_id"] == ids[8]).sum() == 3, (
        "both rows of one id, and the one whose parts differ"
    )
    assert str(caught.value).startswith("somewhere.parquet: ")
    assert all(sample in str(caught.value) for sample, _ in found)

    moved = manifest.copy()
    first = moved.index[speaker & (moved["corpus"] == moved.loc[0, "corpus"])]
    moved.loc[first[0], "split"] = "test" if moved.loc[first[0], "split"] != "test" else "train"
    with pytest.raises(b.ManifestError) as caught:
        b.validate_manifest(moved)
    assert sorted(caught.value.failures["sample_id"]) == sorted(ids[first])
    assert set(caught.value.failures["column"]) == {"split"}


@pytest.mark.parametrize(
    ("spoil", "column"),
    [
        (lambda m: m.drop(columns="stratum"), "stratum"),
        (lambda m: m.drop(columns="label_t"), "label_t"),
        (lambda m: m.assign(extra=1), "extra"),
        (lambda m: m.assign(label_t=m["label_t"].astype(float)), "label_t"),
    ],
)
def test_a_wrong_column_is_named(manifest, spoil, column):
    with pytest.raises(b.ManifestError) as caught:
        b.validate_manifest(spoil(manifest))
    assert caught.value.failures["column"].tolist() == [column]


def test_equal_manifests_give_equal_bytes_whatever_the_order_of_rows(manifest, tmp_path):
    one = b.write_manifest(manifest, tmp_path / "deep" / "one.parquet")
    two = b.write_manifest(manifest.sample(frac=1, random_state=0), tmp_path / "two.parquet")
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()
    pd.testing.assert_frame_equal(b.read_manifest(one), manifest)
    assert [p.name for p in one.parent.iterdir()] == ["one.parquet"]


def test_a_bad_manifest_is_neither_written_nor_read(manifest, tmp_path):
    bad = manifest.assign(split="nowhere")
    with pytest.raises(b.ManifestError):
        b.write_manifest(bad, tmp_path / "bad.parquet")
    assert not list(tmp_path.iterdir())
    bad.to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(b.ManifestError, match=r"bad\.parquet"):
        b.read_manifest(tmp_path / "bad.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ValueError, match="not a Parquet file"):
        b.read_manifest(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError, match="01_benchmark_construction"):
        b.read_manifest(tmp_path / "none.parquet")


def test_media_paths_inside_the_root_resolve_and_others_raise(tmp_path):
    assert resolve_media(tmp_path, "Raw/a..b/0001.mp4") == tmp_path / "Raw/a..b/0001.mp4"
    for escape in ("", "/etc/x", "../x", "Raw/../../x", "C:/x", "C:x", "..\\x", "a\\b", "//host/x"):
        with pytest.raises(ValueError, match="media path"):
            resolve_media(tmp_path, escape)


def test_no_usable_clip_is_a_clear_error(tables):
    with pytest.raises(ValueError, match="at least one corpus"):
        b.build_manifest([])
    # Nor is a corpus without a clip passed over because another has some.
    empty = CorpusTable(Path("r/mosi"), tables[1].clips[:0], unlabelled=5, excluded=7)
    with pytest.raises(ValueError, match=r"r.mosi: no usable clip \(7 rows left out, 5 without"):
        b.build_manifest([tables[0], empty])
    with pytest.raises(ValueError, match="conflict has 0 of 1000"):
        b.sample_ch_sims(tables[0].clips[:0])
    with pytest.raises(ValueError, match="CMU-MOSI has 0 of 2000 clips"):
        b.sample_cmu_mosi(tables[1].clips[:0])


def test_the_datasheet_states_its_note_and_the_counts(manifest):
    sheet = b.datasheet(manifest, note="**Surrogate clips.**")
    assert "**Surrogate clips.**" in sheet
    assert "| ch_sims_v2 | 431 | 433 | 304 | 433 | 399 |" in sheet
    assert "| cmu_mosi | 408 | 491 | 232 | 462 | 407 |" in sheet
    assert "| cmu_mosi | 370 | 1630 |" in sheet
