"""What the ideal observer makes of the surrogate clips that a model was asked about."""

from __future__ import annotations

import pandas as pd

from emomm_lib.labels import MODALITIES
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.cue import CUES
from emomm_study.mini.surrogate.observer import IdealObserver
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan

IDEAL = "ideal observer"


def ideal_outcomes(clips: pd.DataFrame, cue: str = "informative") -> pd.DataFrame:
    """Expected outcomes of an observer that reads the very clips without error.

    It knows how training clips are drawn and nothing of conflicts, as the small models do
    (:class:`IdealObserver`). ``clips`` are surrogates, rendered with ``cue``: ``sample_id, corpus,
    subset`` and the four labels; rows of one clip count once. Columns as by
    :func:`emomm_lib.reader_outcomes`. Raises ``ValueError`` for a clip that is no surrogate.
    """
    seen = [f"{part}_{m.lower()}" for part in ("shown", "emphatic") for m in MODALITIES]
    settings = SurrogateSettings(cue=CUES[cue])
    plans = [corpus_plan(corpus, settings)[["sample_id", *seen]] for corpus in Corpus]
    own = clips.drop_duplicates("sample_id").merge(pd.concat(plans), on="sample_id", how="left")
    if len(absent := own.loc[own[seen].isna().any(axis=1), "sample_id"]):
        raise ValueError(f"{absent.iloc[0]} is no surrogate clip; nobody knows what it shows")
    return IdealObserver().outcomes(own.astype(dict.fromkeys(seen[:3], int)))
