"""A benchmark of others on disk: one table of clips, and in the same file what its classes are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet

from emomm_lib.labels import SENTIMENT5, LabelSet
from emomm_study.corpora import checks
from emomm_study.corpora.clips import REPORT_COLUMNS, is_blank
from emomm_study.corpora.manifest import SPLITS
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import stays_inside, whole

UNIMODAL = ("label_t", "label_a", "label_v")
COLUMNS = (
    "sample_id", "corpus", "subset", "split", "text", "video_path", "audio_path", "label_gt",
    *UNIMODAL, "score_gt",
)  # fmt: skip
_KEY = b"emomm_imported"
SHOWN = 10
"""Of the rows that break the schema, so many are named."""


@dataclass(frozen=True)
class Imported:
    """A benchmark with its own labels.

    Attributes
    ----------
    name
        What it is called.
    labels
        Its classes.
    clips
        One row a clip: ``sample_id, corpus, subset`` (its makers' own), ``split, text`` (empty where
        there are no transcripts), ``video_path, audio_path`` (relative to its folder), ``label_gt``,
        ``label_t, label_a, label_v`` (NA where it has none), ``score_gt`` (NaN where it has none).
    report
        What was left out, as of :class:`emomm_study.corpora.clips.CorpusTable`.
    excluded, dropped
        Rows with a defect, and clips that its own metric leaves out.
    """

    name: str
    labels: LabelSet
    clips: pd.DataFrame
    report: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=REPORT_COLUMNS))
    excluded: int = 0
    dropped: int = 0

    @property
    def modalities(self) -> str:
        """What every clip has, of T, A, V."""
        return "AV" if self.clips["text"].map(is_blank).any() else "TAV"

    @property
    def with_scores(self) -> bool:
        """Whether it is asked as EmoMM's corpora are, for a letter and a score."""
        return self.labels == SENTIMENT5 and set(self.clips["corpus"]) <= {c.value for c in Corpus}

    @property
    def unimodal(self) -> bool:
        """Whether every clip has a label of each modality, which GTAR needs."""
        return bool(self.clips[list(UNIMODAL)].notna().all(axis=None))


def _schema(labels: LabelSet) -> pa.DataFrameSchema:
    k = len(labels)
    inside = pa.Check(
        lambda paths: paths.map(stays_inside), error="a relative path inside the benchmark's folder"
    )
    one = pa.Check.in_range(0, k - 1, error=f"a class 0 to {k - 1} of {labels.name}")
    return pa.DataFrameSchema(
        {
            "sample_id": pa.Column(str, pa.Check.str_matches(r"^\S+$"), unique=True),
            "corpus": pa.Column(str),
            "subset": pa.Column(str, pa.Check.str_length(min_value=1)),
            "split": pa.Column(str, pa.Check.isin(SPLITS)),
            "text": pa.Column(str),
            "video_path": pa.Column(str, inside),
            "audio_path": pa.Column(str, inside),
            "label_gt": pa.Column("int64", one),
            **{name: pa.Column("Int64", one, nullable=True) for name in UNIMODAL},
            "score_gt": pa.Column(float, pa.Check.in_range(-1, 1), nullable=True),
        },
        strict=True,
        ordered=True,
    )


def imported_of(
    name: str, labels: LabelSet, sheet: checks.Sheet, dropped: pd.Series | None = None
) -> Imported:
    """The usable rows of a checked sheet, with the report of the others.

    ``sheet`` has :data:`COLUMNS`, of which the last four may be missing; ``dropped`` flags clips that
    the benchmark's own metric leaves out. Raises :class:`checks.CorpusError` where no clip is left.
    """
    out = pd.Series(False, index=sheet.rows.index) if dropped is None else dropped & sheet.ok
    kept = sheet.rows[sheet.ok & ~out].assign(corpus=str(sheet.corpus))
    if kept.empty:
        raise checks.nothing_usable(sheet, f"{name}: no usable clip", int(out.sum()))
    kept = kept.reindex(columns=list(COLUMNS))
    kept["label_gt"] = kept["label_gt"].astype("int64")
    kept = kept.astype(dict.fromkeys(UNIMODAL, "Int64") | {"score_gt": float})
    clips = validated(kept, labels, name)
    excluded = int((~sheet.ok).sum()) + sheet.broken
    return Imported(name, labels, clips, checks.report_of(sheet), excluded, int(out.sum()))


def validated(clips: pd.DataFrame, labels: LabelSet, source: str) -> pd.DataFrame:
    """The table sorted by ``sample_id``; ``ValueError`` with every row that breaks the schema."""
    clips = clips.sort_values("sample_id", ignore_index=True)
    try:
        return _schema(labels).validate(clips, lazy=True)
    except pa.errors.SchemaErrors as error:
        found = error.failure_cases
        raise ValueError(
            "\n".join(
                [
                    f"{source}: {len(found)} violations; import the benchmark again",
                    *(_told(clips, case) for case in found.head(SHOWN).to_dict("records")),
                ]
            )
        ) from None


def _told(clips: pd.DataFrame, case: Mapping[str, Any]) -> str:
    whole_column = pd.isna(case["index"])
    name = "(whole column)" if whole_column else clips["sample_id"].loc[int(case["index"])]
    return f"  {name}: {case['column']} is {case['failure_case']!r}, expected {case['check']}"


def write_imported(benchmark: Imported, path: Path | str) -> Path:
    """Write as Parquet, all or nothing, with the labels in the file."""
    clips = validated(benchmark.clips, benchmark.labels, str(path))
    told = {"name": benchmark.name, "labels": asdict(benchmark.labels)}
    text = json.dumps(told, ensure_ascii=False, sort_keys=True).encode()
    table = pyarrow.Table.from_pandas(clips, preserve_index=False)
    with whole(path) as partial:
        pyarrow.parquet.write_table(
            table.replace_schema_metadata({_KEY: text}), partial, compression="zstd"
        )
    return Path(path)


def is_imported(path: Path | str) -> bool:
    """Whether a file is one of :func:`write_imported`; not of one that is no Parquet at all."""
    try:
        return _KEY in (pyarrow.parquet.read_schema(path).metadata or {})
    except (pyarrow.ArrowException, OSError):
        return False


def read_imported(path: Path | str) -> Imported:
    """Read and validate a file of :func:`write_imported`; ``ValueError`` where it is none."""
    if not is_imported(path):
        raise ValueError(f"{path}: no imported benchmark; emomm import writes one")
    told = json.loads(pyarrow.parquet.read_schema(path).metadata[_KEY])
    own = told["labels"]
    labels = LabelSet(
        own["name"],
        tuple(own["classes"]),
        own["ordered"],
        tuple(own["polarity"]),
        tuple(map(tuple, own["aliases"])),
    )
    clips = pd.read_parquet(path).astype(dict.fromkeys(UNIMODAL, "Int64"))
    return Imported(told["name"], labels, validated(clips, labels, str(path)))


def media_by_name(folder: Path, kinds: Sequence[str]) -> dict[str, list[str]]:
    """File names in a folder by what stands before their ending, of those with one of ``kinds``."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in kinds:
            found.setdefault(path.stem, []).append(path.name)
    return found


def by_sign(values: pd.Series, labels: LabelSet) -> pd.Series:
    """The class of numbers by their sign, in a set with one class of each polarity; NA where none.

    ``by_sign([-0.4, 0, 1], SENTIMENT2)`` is 0, NA and 1.
    """
    number = {sign: k for k, sign in enumerate(labels.polarity)}
    return np.sign(values).map(number).astype("Int64")
