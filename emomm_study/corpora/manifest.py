"""EmoMM from Clip tables: sampling, subsets, splits, missingness, manifest (Sec. 3, Appendix A)."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import (
    CLASSES,
    COALITIONS,
    MODALITIES,
    SENTIMENT5,
    SOURCES,
    LabelSet,
    class_labels,
    is_class,
    polarity,
)
from emomm_study.corpora.clips import CLIP_SCHEMA, CorpusTable
from emomm_study.corpora.packing import pack
from emomm_study.corpora.scores import Corpus, score_to_label
from emomm_study.paths import stays_inside, whole

MISSING_COALITIONS = ("TA", "TV", "AV")
SUBSETS = ("align", "conflict", "missing_align", "missing_conflict")
STRATA = ("conflict", "equal", "same_polarity")
SPLITS = ("train", "valid", "test")
CH_SIMS_QUOTAS = (1000, 500, 500)
"""Clips of each stratum, in the order of :data:`STRATA` (Appendix A.1)."""
CMU_MOSI_CLIPS = 2000
RATIOS = (7, 1, 2)
"""Parts of train, valid and test (Sec. 6.1)."""
SPLIT_BOUND = 0.01
"""By how much of a corpus a split may be off its ratio before :func:`assign_splits` packs speakers
by size, and warns where even that does not help."""


def _classes(labels: pd.DataFrame, source: str, of: LabelSet = SENTIMENT5) -> NDArray[np.int64]:
    return class_labels(labels[f"label_{source.lower()}"], f"label_{source.lower()}", of)


def _agreeing(
    labels: pd.DataFrame, modalities: Iterable[str], of: LabelSet = SENTIMENT5
) -> NDArray[np.bool_]:
    truth = polarity(_classes(labels, "gt", of), of)
    return np.logical_and.reduce(
        [polarity(_classes(labels, m, of), of) == truth for m in modalities]
    )


def subset(labels: pd.DataFrame, of: LabelSet = SENTIMENT5) -> pd.Series:
    """``align`` where every modality has GT's polarity, else ``conflict`` (Sec. 3.2).

    Takes columns ``label_gt, label_t, label_a, label_v``, classes of the set ``of``; keeps the index.
    Raises ``ValueError`` naming a column and what in it is no class, and for a set whose classes have
    no polarity.
    """
    of.need_polarity("the split into align and conflict")
    values = np.where(_agreeing(labels, MODALITIES, of), "align", "conflict")
    return pd.Series(values, labels.index, dtype=str, name="subset")


def stratum(labels: pd.DataFrame) -> pd.Series:
    """``conflict``, ``equal`` (all four labels the same) or ``same_polarity`` (Appendix A.1).

    Raises as :func:`subset`.
    """
    truth = _classes(labels, "gt")
    equal = np.logical_and.reduce([_classes(labels, m) == truth for m in MODALITIES])
    aligned = np.where(equal, "equal", "same_polarity")
    values = np.where(_agreeing(labels, MODALITIES), aligned, "conflict")
    return pd.Series(values, labels.index, dtype=str, name="stratum")


def missing_subset(labels: pd.DataFrame, coalition: str) -> pd.Series:
    """``missing_align`` where the coalition's modalities all have GT's polarity, else
    ``missing_conflict`` (Sec. 3.2); the coalition is one of ``TA, TV, AV``, or ``ValueError``.

    Raises as :func:`subset` for labels.
    """
    if coalition not in MISSING_COALITIONS:
        raise ValueError(
            f"EmoMM-Missing has the coalitions {MISSING_COALITIONS}, got {coalition!r}"
        )
    values = np.where(_agreeing(labels, coalition), "missing_align", "missing_conflict")
    return pd.Series(values, labels.index, dtype=str, name="subset")


def water_fill(supply: ArrayLike, total: int) -> NDArray[np.int64]:
    """Quotas summing to ``total``, as equal as the supply of each class allows.

    ``water_fill([9, 1, 9], 10) == [5, 1, 4]``: what one class lacks, the others share, and what
    does not divide goes to the first ones. Raises ``ValueError`` when the supply is too small.
    """
    supply = np.asarray(supply, dtype=np.int64)
    if not 0 <= total <= supply.sum():
        raise ValueError(f"cannot take {total} of {supply.sum()}")
    filled = np.minimum(supply[:, None], np.arange(supply.max(initial=0) + 1)).sum(axis=0)
    level = np.searchsorted(filled, total, side="right") - 1
    quotas = np.minimum(supply, level)
    quotas[np.flatnonzero(supply > level)[: total - quotas.sum()]] += 1
    return quotas


def _draw(clips: pd.DataFrame, total: int, seed: int) -> pd.DataFrame:
    """``total`` clips, balanced over GT's classes; a clip's luck is its id and the seed."""
    truth = pd.Series(_classes(clips, "gt"), clips.index)
    supply = truth.value_counts().reindex(range(len(CLASSES)), fill_value=0)
    quotas = water_fill(supply, total)
    luck = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in clips["sample_id"]]
    ranked = clips.assign(_luck=luck).sort_values("_luck")
    chosen = ranked.groupby("label_gt").cumcount() < quotas[truth[ranked.index]]
    return ranked[chosen].drop(columns="_luck")


def _in_order(clips: pd.DataFrame) -> pd.DataFrame:
    return clips.sort_values("sample_id", ignore_index=True)


def sample_ch_sims(
    clips: pd.DataFrame, seed: int = 0, quotas: Sequence[int] = CH_SIMS_QUOTAS
) -> pd.DataFrame:
    """The CH-SIMS v2.0 part: a quota of each stratum, balanced over its GT classes (Appendix A.1).

    Equal shares within the strata (a neutral clip is never of one polarity yet unequal) would give
    425, 425, 300, 425, 425 clips a class; Table 3 prints 431, 433, 304, 433, 399.

    Parameters
    ----------
    clips
        Clip table. The order of its rows does not matter.
    quotas
        Clips of conflict, equal and same polarity.

    Returns the chosen clips sorted by ``sample_id``. Raises ``ValueError`` naming the shortfall of
    every stratum that has too few clips.
    """
    kinds, wanted = stratum(clips), dict(zip(STRATA, quotas, strict=True))
    supply = {kind: int((kinds == kind).sum()) for kind in STRATA}
    if short := [
        f"{kind} has {supply[kind]} of {n} ({n - supply[kind]} short)"
        for kind, n in wanted.items()
        if supply[kind] < n
    ]:
        raise ValueError(
            f"CH-SIMS v2.0 cannot fill the quotas: {'; '.join(short)}. Look for excluded rows in "
            "the loader's report, or ask for smaller quotas"
        )
    return _in_order(
        pd.concat([_draw(clips[kinds == kind], n, seed) for kind, n in wanted.items()])
    )


def sample_cmu_mosi(clips: pd.DataFrame, n: int = CMU_MOSI_CLIPS, seed: int = 0) -> pd.DataFrame:
    """The CMU-MOSI part: ``n`` clips, balanced over the five classes of GT (Appendix A.1).

    Returns them sorted by ``sample_id``; the order of the rows given does not matter. Raises
    ``ValueError`` with the shortfall when there are too few clips, and for a ``label_gt`` that is
    no class.
    """
    if len(clips) < n:
        raise ValueError(
            f"CMU-MOSI has {len(clips)} of {n} clips ({n - len(clips)} short). Look for excluded "
            "rows in the loader's report, or ask for fewer clips"
        )
    return _in_order(_draw(clips, n, seed))


def assign_splits(clips: pd.DataFrame, ratios: Sequence[int] = RATIOS, seed: int = 0) -> pd.Series:
    """``train``, ``valid`` or ``test`` of each clip, speaker-independent, stratified (Sec. 6.1).

    Each corpus is cut into ``sum(ratios)`` folds of whole speakers, stratified by GT's class and
    the subset; the folds are dealt out in the ratio. Where that leaves a split off by more than
    :data:`SPLIT_BOUND` of the corpus, as with a speaker of many clips, speakers are packed by size
    instead (:func:`emomm_study.corpora.packing.pack`), and where no packing comes as near, a ``UserWarning``
    gives the shares. :func:`split_report` tells how near it came.

    Returns a Series on the index of ``clips``, independent of the order of its rows. Raises
    ``ValueError`` when a corpus has fewer speakers than folds, or hardly any clips, and for labels
    that are no class.
    """
    # Takes a second, which a notebook that reads a manifest need not wait.
    from sklearn.model_selection import StratifiedGroupKFold

    ratios = np.array(ratios, dtype=int) // math.gcd(*ratios)
    if len(ratios) != len(SPLITS) or (ratios < 1).any():
        raise ValueError(f"ratios are three positive integers for {SPLITS}, got {ratios.tolist()}")
    names = np.repeat(SPLITS, ratios)
    split = np.empty(len(clips), dtype=object)
    position = pd.Series(np.arange(len(clips)), index=clips.index)
    for corpus, rows in position.groupby(clips["corpus"].to_numpy()):
        part = clips.iloc[rows.to_numpy()].assign(_row=rows.to_numpy()).sort_values("sample_id")
        if (speakers := part["speaker_id"].nunique()) < len(names):
            raise ValueError(
                f"{corpus}: {speakers} speakers cannot be split {':'.join(map(str, ratios))}, at "
                f"least {len(names)} are needed; take more clips or coarser ratios"
            )
        strata = part["label_gt"].astype(str) + subset(part)
        if (largest := strata.value_counts().max()) < len(names):
            raise ValueError(
                f"{corpus}: {len(part)} clips are too few to stratify; the commonest pair of class "
                f"and subset has {largest}, at least {len(names)} are needed; take more clips"
            )
        folds = StratifiedGroupKFold(len(names), shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # A stratum smaller than the number of folds cannot be in all; split_report shows it.
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            for name, (_, held_out) in zip(
                names, folds.split(part, strata, part["speaker_id"]), strict=True
            ):
                split[part["_row"].to_numpy()[held_out]] = name
        own = part["_row"].to_numpy()
        if _off_ratio(split[own], ratios).max() > SPLIT_BOUND:
            split[own] = _packed(part["speaker_id"], strata, ratios, seed)
            if (off := _off_ratio(split[own], ratios)).max() > SPLIT_BOUND:
                warnings.warn(_far_from_ratio(corpus, split[own], part, ratios, off), stacklevel=2)
    return pd.Series(split, clips.index, dtype=str, name="split")


def _shares(split: NDArray) -> NDArray[np.float64]:
    return (split[:, None] == np.array(SPLITS)).mean(axis=0)


def _off_ratio(split: NDArray, ratios: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.abs(_shares(split) - ratios / ratios.sum())


def _packed(
    speakers: pd.Series, strata: pd.Series, ratios: NDArray[np.int64], seed: int
) -> NDArray:
    counts = pd.crosstab(speakers, strata)
    counts = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    parts = pd.Series(pack(counts.to_numpy(), ratios, SPLIT_BOUND), counts.index)
    return np.array(SPLITS)[speakers.map(parts)]


def _far_from_ratio(
    corpus: str, split: NDArray, part: pd.DataFrame, ratios: NDArray[np.int64], off: NDArray
) -> str:
    largest = part["speaker_id"].value_counts()
    shares = " / ".join(f"{share:.1%}" for share in _shares(split))
    return (
        f"{corpus}: the split is {shares} for {':'.join(map(str, ratios))}, off by up to "
        f"{off.max():.1%} of the clips where {SPLIT_BOUND:.0%} is the bound; whole speakers allow no "
        f"nearer one, the largest, {largest.index[0]}, has {largest.iloc[0] / len(part):.1%}. Take "
        "more speakers, or fewer clips of that one"
    )


def split_report(manifest: pd.DataFrame, ratios: Sequence[int] = RATIOS) -> pd.DataFrame:
    """How near the split came to its ratios, one row per corpus and split.

    Columns ``corpus, split, clips, speakers``, ``share`` and ``expected`` (0..1), ``deviation``
    (their difference, see :data:`SPLIT_BOUND`) and ``strata_distance``: the total variation distance, 0..1, between the
    split's and the corpus's distribution over GT's class and subset.
    """
    rows = []
    for corpus, part in manifest.groupby("corpus"):
        strata = part["label_gt"].astype(str) + subset(part)
        whole = strata.value_counts(normalize=True)
        for name, ratio in zip(SPLITS, ratios, strict=True):
            chosen = (part["split"] == name).to_numpy()
            own = strata[chosen].value_counts(normalize=True).reindex(whole.index, fill_value=0)
            rows.append(
                {
                    "corpus": corpus,
                    "split": name,
                    "clips": int(chosen.sum()),
                    "speakers": part.loc[chosen, "speaker_id"].nunique(),
                    "share": chosen.mean(),
                    "expected": ratio / sum(ratios),
                    "deviation": chosen.mean() - ratio / sum(ratios),
                    "strata_distance": (own - whole).abs().sum() / 2 if chosen.any() else np.nan,
                }
            )
    return pd.DataFrame(rows)


def expand_missing(manifest: pd.DataFrame) -> pd.DataFrame:
    """EmoMM-Missing: each clip three times, with one modality masked (Appendix A.3).

    Columns of the manifest plus ``coalition`` (``TA``, ``TV``, ``AV``: what remains); ``subset`` is
    ``missing_align`` or ``missing_conflict``; ``sample_id`` and ``split`` are the clip's. Sorted by
    ``sample_id``, then coalition. Raises ``ValueError`` when the clips are not split yet.
    """
    if "split" not in manifest:
        raise ValueError(
            "column split is missing: split the clips first, or copies of one clip part ways"
        )
    parts = [
        manifest.assign(subset=missing_subset(manifest, coalition), coalition=coalition)
        for coalition in MISSING_COALITIONS
    ]
    rank = {coalition: i for i, coalition in enumerate(COALITIONS)}
    return pd.concat(parts).sort_values(
        ["sample_id", "coalition"],
        key=lambda column: column.map(rank) if column.name == "coalition" else column,
        ignore_index=True,
    )


@dataclass(frozen=True)
class BenchmarkSettings:
    """How the benchmark is drawn; None for a size takes every clip of that corpus."""

    ch_sims: Sequence[int] | None = CH_SIMS_QUOTAS
    cmu_mosi: int | None = CMU_MOSI_CLIPS
    ratios: Sequence[int] = RATIOS
    seed: int = 0


def build_manifest(
    tables: Iterable[CorpusTable], settings: BenchmarkSettings | None = None
) -> pd.DataFrame:
    """Sample each corpus, mark subsets and strata, and split: the benchmark, one row a clip.

    Columns of the Clip table, then ``subset, stratum, split``; sorted by ``sample_id``; satisfies
    :data:`MANIFEST_SCHEMA`. Raises ``ValueError`` like the sampling and the split, and
    :class:`ManifestError` for bad rows.
    """
    settings = settings or BenchmarkSettings()
    parts = []
    for table in tables:
        if table.clips.empty:
            raise ValueError(
                f"{table.root}: no usable clip ({table.excluded} rows left out, {table.unlabelled} "
                "without labels); look into the loader's report"
            )
        for corpus, clips in table.clips.groupby("corpus"):
            if corpus == Corpus.CH_SIMS and settings.ch_sims is not None:
                clips = sample_ch_sims(clips, settings.seed, settings.ch_sims)
            elif corpus == Corpus.CMU_MOSI and settings.cmu_mosi is not None:
                clips = sample_cmu_mosi(clips, settings.cmu_mosi, settings.seed)
            parts.append(clips)
    if not parts:
        raise ValueError("a benchmark needs at least one corpus; got no table")
    manifest = _in_order(pd.concat(parts))
    manifest = manifest.assign(subset=subset(manifest), stratum=stratum(manifest))
    return validate_manifest(
        manifest.assign(split=assign_splits(manifest, settings.ratios, settings.seed))
    )


def _one_split(frame: pd.DataFrame) -> pd.Series:
    return frame.groupby(["corpus", "speaker_id"])["split"].transform("nunique") == 1


def _tells(rule: Callable[[pd.DataFrame], pd.Series], column: str):
    """A check that a column has what a rule makes of the labels, where these are classes."""

    def check(frame: pd.DataFrame) -> pd.Series:
        # Labels that are none have a check of their own, and must not hide what else is wrong.
        known = np.logical_and.reduce([is_class(frame[f"label_{s}"]) for s in SOURCES])
        fits = pd.Series(True, frame.index)
        fits[known] = frame.loc[known, column] == rule(frame[known])
        return fits

    return check


def _label_fits(source: str) -> Callable[[pd.DataFrame], pd.Series]:
    def check(frame: pd.DataFrame) -> pd.Series:
        score, label = frame[f"score_{source}"], frame[f"label_{source}"]
        # What other columns' checks reject is not judged here, so that one bad row hides no other.
        fits = pd.Series(True, frame.index)
        for corpus in Corpus:
            own = (frame["corpus"] == corpus) & (score.abs() <= 1)
            fits[own] = score_to_label(score[own], corpus) == label[own]
        return fits

    return check


_ROW_CHECKS = (
    ("split", "all clips of a speaker in one split", _one_split),
    ("subset", "the subset of its labels", _tells(subset, "subset")),
    ("stratum", "the stratum of its labels", _tells(stratum, "stratum")),
    (
        "sample_id",
        "corpus/video_id/clip_id",
        lambda f: f["sample_id"] == f["corpus"] + "/" + f["video_id"] + "/" + f["clip_id"],
    ),
    *((f"label_{s}", f"the class of score_{s} in its corpus", _label_fits(s)) for s in SOURCES),
)


def _path_column() -> pa.Column:
    inside = pa.Check(
        lambda paths: paths.map(stays_inside), error="a relative path inside the corpus root"
    )
    return pa.Column(str, inside)


MANIFEST_SCHEMA = pa.DataFrameSchema(
    {
        **CLIP_SCHEMA.columns,
        "video_path": _path_column(),
        "audio_path": _path_column(),
        "subset": pa.Column(str, pa.Check.isin(["align", "conflict"])),
        "stratum": pa.Column(str, pa.Check.isin(STRATA)),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
    },
    checks=[pa.Check(check, error=expected) for _, expected, check in _ROW_CHECKS],
    strict=True,
    ordered=True,
)
"""The Clip table plus ``subset, stratum, split``, with every rule that ties columns or rows."""

MANIFEST_COLUMNS = tuple(MANIFEST_SCHEMA.columns)


class ManifestError(ValueError):
    """A manifest that breaks its schema.

    Attributes
    ----------
    failures
        Columns ``sample_id, column, value, expected``, one row for each offending cell;
        ``sample_id`` is empty where a whole column is wrong.
    """

    def __init__(self, failures: pd.DataFrame, source: str) -> None:
        self.failures = failures
        lines = [
            f"  {f.sample_id or '(whole column)'}: {f.column} is {f.value!r}, expected {f.expected}"
            for f in failures.itertuples()
        ]
        super().__init__(
            "\n".join(
                [f"{source}: {len(lines)} violations; build it again from the corpora", *lines]
            )
        )


_PLAIN = {
    "field_uniqueness": "a value that no other row has",
    "column_in_schema": "no such column",
    "column_in_dataframe": "the column to be there",
    "not_nullable": "a value",
}


def _failures(frame: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    column_of = {expected: column for column, expected, _ in _ROW_CHECKS}
    found = {}
    for case in cases.itertuples():
        expected = _PLAIN.get(case.check, case.check)
        if pd.isna(case.index):
            # A rule about rows cannot run when a column is missing or mistyped: a case of its own.
            if case.check not in column_of:
                whole_table = case.schema_context == "DataFrameSchema"
                column = case.failure_case if whole_table else case.column
                value = "absent or unexpected" if whole_table else case.failure_case
                found[-1, column, expected] = ("", column, value, expected)
        else:
            row = frame.loc[int(case.index)]
            column = column_of.get(case.check, case.column)
            sample = str(row.get("sample_id", f"row {case.index}"))
            value = row[column].item() if isinstance(row[column], np.generic) else row[column]
            # pandera repeats a case about a whole row once for each of its columns.
            found[case.index, column, expected] = (sample, column, value, expected)
    failures = pd.DataFrame(found.values(), columns=["sample_id", "column", "value", "expected"])
    return failures.sort_values(["sample_id", "column"], kind="stable", ignore_index=True)


def validate_manifest(manifest: pd.DataFrame, source: str = "manifest") -> pd.DataFrame:
    """The manifest sorted by ``sample_id``, if it satisfies :data:`MANIFEST_SCHEMA`.

    Raises :class:`ManifestError` listing every offending row by ``sample_id`` and column; its text
    begins with ``source``.
    """
    manifest = manifest.reset_index(drop=True)
    try:
        return _in_order(MANIFEST_SCHEMA.validate(manifest, lazy=True))
    except pa.errors.SchemaErrors as error:
        raise ManifestError(_failures(manifest, error.failure_cases), source) from None


def write_manifest(manifest: pd.DataFrame, path: Path | str) -> Path:
    """Validate and write as Parquet, all or nothing; equal manifests give equal bytes."""
    table = pyarrow.Table.from_pandas(validate_manifest(manifest, str(path)), preserve_index=False)
    with whole(path) as partial:
        # Without pandas's metadata the bytes do not depend on its version.
        pyarrow.parquet.write_table(
            table.replace_schema_metadata(None), partial, compression="zstd"
        )
    return Path(path)


def read_manifest(path: Path | str) -> pd.DataFrame:
    """Read and validate a manifest.

    Raises ``FileNotFoundError``, ``ValueError`` when the file is no Parquet file, and
    :class:`ManifestError` when its rows break the schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no manifest there; notebook 01_benchmark_construction writes it"
        )
    try:
        manifest = pd.read_parquet(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a Parquet file ({error}); run notebook 01_benchmark_construction"
        ) from None
    return validate_manifest(manifest, str(path))


def subset_sizes(manifest: pd.DataFrame) -> pd.DataFrame:
    """Instances by corpus and subset (Figure 2, left): ``corpus, subset, instances``, zeros too."""
    whole = pd.concat(
        [manifest[["corpus", "subset"]], expand_missing(manifest)[["corpus", "subset"]]]
    )
    index = pd.MultiIndex.from_product(
        [sorted(manifest["corpus"].unique()), SUBSETS], names=["corpus", "subset"]
    )
    return whole.value_counts().reindex(index, fill_value=0).rename("instances").reset_index()


def _markdown(frame: pd.DataFrame) -> str:
    rows = [frame.columns, ["---"] * frame.shape[1], *frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _wide(sizes: pd.DataFrame, columns: str, values: str, order: Sequence[str]) -> pd.DataFrame:
    wide = sizes.pivot(index="corpus", columns=columns, values=values)[list(order)]
    return wide.reset_index().rename_axis(columns=None)


_DATASHEET = """# Datasheet

{note}## Composition

{clips} clips of {speakers} speakers or videos (languages: {languages}), each with a transcript, a
video, its sound, and a score and a class for the ground truth (GT), the text, the audio and the
video. Clips by GT's class:

{classes}

## Subsets

A clip is in *align* if all three modalities have GT's polarity (negative, neutral or positive),
else in *conflict*. Masking one modality at a time makes three further instances of each clip, in
*missing_align* or *missing_conflict* by the two modalities that remain.

{subsets}

## Splits

Train, valid and test are meant as {ratios} within each corpus, stratified by GT's class and the
subset. No group is in two splits, and the masked instances stay in their clip's split; a share is
off by more than {bound} only where whole groups allow no nearer split. A group is what the corpus tells of its speakers: both real corpora name only videos, and a person may occur
in several.
`strata_distance` is the total variation distance to the corpus's own mix of class and subset.

{splits}

## Provenance and licences

The benchmark is made for CH-SIMS v2.0 (Chinese) and CMU-MOSI (English). CH-SIMS brings its unimodal
labels; those of CMU-MOSI are made by five annotators (Appendix A.2 of the EmoMM paper). Neither
corpus is distributed here: users obtain each from its makers, under its licence, and must not pass
clips on or try to identify speakers.

## Intended use

Research on how multimodal models weigh text, audio and video under conflict and missingness. Not
for judging the emotions of real people, and not for decisions about them.
"""


def datasheet(manifest: pd.DataFrame, note: str = "", ratios: Sequence[int] = RATIOS) -> str:
    """A short datasheet in Markdown: composition, splits, provenance, licences, intended use.

    ``note`` stands at the top; where the clips are surrogates it must say so.
    """
    report = split_report(manifest, ratios)
    classes = manifest.groupby(["corpus", "label_gt"]).size().rename("clips").reset_index()
    classes["class"] = classes["label_gt"].map(dict(enumerate(CLASSES)))
    classes = classes.drop(columns="label_gt").set_index(["corpus", "class"]).unstack(fill_value=0)
    classes = classes["clips"].reindex(columns=CLASSES, fill_value=0).reset_index()
    shown = report.assign(
        **{
            c: report[c].map("{:.3f}".format)
            for c in ("share", "expected", "deviation", "strata_distance")
        }
    )
    return _DATASHEET.format(
        note=f"{note}\n\n" if note else "",
        clips=len(manifest),
        speakers=report["speakers"].sum(),
        languages=" and ".join(sorted(manifest["language"].unique())),
        classes=_markdown(classes),
        subsets=_markdown(_wide(subset_sizes(manifest), "subset", "instances", SUBSETS)),
        ratios=":".join(map(str, ratios)),
        bound=f"{SPLIT_BOUND:.0%} of the clips",
        splits=_markdown(shown),
    )
