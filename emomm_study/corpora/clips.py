"""The Clip table: what every corpus loader returns, and the report of what it left out."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from emomm_lib.labels import SOURCES
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import located

# Letters and symbols by name, but nothing is seen of them.
_INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"


def is_blank(transcript: str) -> bool:
    """Whether a transcript shows nothing: it is empty, or white space, control and zero-width
    characters, or others without a shape."""
    return all(unicodedata.category(sign)[0] in "CZ" or sign in _INVISIBLE for sign in transcript)


REPORT_COLUMNS = ("corpus", "file", "row", "sample_id", "problem", "expected")


def _score() -> pa.Column:
    return pa.Column(float, pa.Check.in_range(-1, 1), nullable=False)


def _label() -> pa.Column:
    return pa.Column("int64", pa.Check.in_range(0, 4), nullable=False)


_SHOWN = pa.Check(
    lambda text: not is_blank(text), element_wise=True, error="a transcript that shows something"
)
CLIP_SCHEMA = pa.DataFrameSchema(
    {
        "sample_id": pa.Column(str, pa.Check.str_matches(r"^\S+$"), unique=True),
        "corpus": pa.Column(str, pa.Check.isin([c.value for c in Corpus])),
        "language": pa.Column(str, pa.Check.isin(["zh", "en"])),
        "video_id": pa.Column(str),
        "clip_id": pa.Column(str),
        "speaker_id": pa.Column(str),
        "text": pa.Column(str, _SHOWN),
        "video_path": pa.Column(str),
        "audio_path": pa.Column(str),
        **{f"score_{s}": _score() for s in SOURCES},
        **{f"label_{s}": _label() for s in SOURCES},
    },
    strict=True,
    ordered=True,
)
"""One row a clip. Paths are relative to the corpus root, with forward slashes; for a corpus
without separate sound files ``audio_path`` equals ``video_path``. ``sample_id`` is
``<corpus>/<video_id>/<clip_id>``. ``speaker_id`` is the group of the speaker-independent split."""

CLIP_COLUMNS = tuple(CLIP_SCHEMA.columns)


def corpus_roots(ch_sims: str | None, cmu_mosi: str | None) -> dict[Corpus, Path]:
    """Folders of the corpora that a profile has, by corpus; its parameters name them (``located``).

    None is a corpus that the benchmark does without. Raises ``ValueError`` where both are None.
    """
    given = {Corpus.CH_SIMS: ch_sims, Corpus.CMU_MOSI: cmu_mosi}
    if not (roots := {corpus: located(root) for corpus, root in given.items() if root}):
        raise ValueError(
            "ch_sims_root and cmu_mosi_root are both null; a benchmark needs one corpus at least"
        )
    return roots


@dataclass(frozen=True)
class CorpusTable:
    """A loaded corpus: its usable clips, and every row that was left out with the reason.

    Attributes
    ----------
    root
        Folder that the paths of ``clips`` are relative to.
    clips
        Table that satisfies :data:`CLIP_SCHEMA`, sorted by ``sample_id``.
    report
        Columns ``corpus, file, row, sample_id, problem, expected``; ``row`` is the line number in
        ``file`` as an editor shows it (the header is line 1), or 0 when it is about a whole file.
    unlabelled
        Number of rows without labels (CH-SIMS's U part): not an error, not usable.
    excluded
        Number of labelled rows that were left out; the report says why, once or more a row.
    """

    root: Path
    clips: pd.DataFrame
    report: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=REPORT_COLUMNS))
    unlabelled: int = 0
    excluded: int = 0
