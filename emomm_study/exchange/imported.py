"""What answers about an imported benchmark score: by its own classes, coalition by coalition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from emomm_lib import gtar_frame, metrics_of, psmv_frame, score_frame
from emomm_lib.labels import COALITIONS
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap
from emomm_study.corpora.imported.benchmark import Imported
from emomm_study.evaluate.results import join, outcomes
from emomm_study.exchange.submission import (
    KEYS,
    SubmissionError,
    asked_of,
    defects,
    predictions_of,
)

LOST = [*KEYS, "subset", "outcome", "failure", "reply"]


@dataclass(frozen=True)
class ImportedScores:
    """What answers score.

    Attributes
    ----------
    scores
        ``coalition, subset, metric, value, low, high, n``: every metric that the labels allow, of each
        subset and, where there are several, of ``overall``; intervals are over clips.
    lost
        Instances that are neither right nor wrong: ``sample_id, coalition, outcome``, and why.
    counts
        By coalition, how many were ``asked``, ``failed`` and ``unparseable``.
    psmv
        PSMV by subset, where all eight coalitions were asked, else None.
    gtar
        GTAR, where every clip has labels of its modalities, too, else None.
    """

    scores: pd.DataFrame
    lost: pd.DataFrame
    counts: pd.DataFrame
    psmv: pd.DataFrame | None
    gtar: pd.DataFrame | None


def score_imported(
    frame: pd.DataFrame, benchmark: Imported, split: str = "test", bootstrap: Bootstrap = DEFAULT
) -> ImportedScores:
    """Scores of a submission (:func:`read_submission`) about one split, or ``all`` of them.

    Each coalition that is handed in has to be there for every clip. Raises
    :class:`SubmissionError` with a sentence a defect.
    """
    if found := defects(frame, benchmark.clips, split, needed=()):
        raise SubmissionError("The submission", found)
    asked = asked_of(benchmark.clips, split)
    labels = None if benchmark.with_scores else benchmark.labels
    predictions = predictions_of(frame, benchmark.clips, labels)
    return scored(benchmark, asked, predictions, bootstrap)


def scored(
    benchmark: Imported,
    clips: pd.DataFrame,
    predictions: pd.DataFrame,
    bootstrap: Bootstrap = DEFAULT,
) -> ImportedScores:
    """The same of predictions about some clips, under all coalitions that they have.

    Raises :class:`SubmissionError` where nothing can be scored.
    """
    given = [name for name in COALITIONS if name in set(predictions["coalition"])]
    rows = clips.merge(pd.DataFrame({"coalition": given}), how="cross")
    known, lost = join(rows, predictions)
    if not len(known):
        raise SubmissionError("The submission", ["No instance has an answer that can be scored."])
    psmv = gtar = None
    if len(given) == len(COALITIONS):
        every, _ = outcomes(clips, predictions, labels=benchmark.labels)
        psmv = psmv_frame(every, bootstrap=bootstrap)
        if benchmark.unimodal:
            gtar = gtar_frame(every, bootstrap=bootstrap, labels=benchmark.labels)
    table = _scores(known, given, benchmark, bootstrap)
    return ImportedScores(table, lost[LOST], _counts(rows, lost, given), psmv, gtar)


def _scores(
    known: pd.DataFrame, given: Sequence[str], benchmark: Imported, bootstrap: Bootstrap
) -> pd.DataFrame:
    several = known["subset"].nunique() > 1
    both = pd.concat([known.assign(subset="overall"), known]) if several else known
    metrics = [name for name in metrics_of(benchmark.labels) if name not in ("acc5", "mae")]
    options = {"bootstrap": bootstrap, "labels": benchmark.labels}
    frames = [score_frame(both, ["coalition", "subset"], metrics, **options)]
    numbers = both[["score_gt", "score_pred"]].notna().all(axis=1)
    if benchmark.with_scores and numbers.any():
        by = ["coalition", "subset"]
        frames.append(score_frame(both[numbers], by, ["mae"], **options))
    table = pd.concat(frames, ignore_index=True)
    order = {name: place for place, name in enumerate([*given, "overall"])}
    return table.sort_values(
        ["coalition", "subset"],
        key=lambda column: column.map(lambda name: (order.get(name, 99), str(name))),
        kind="stable",
        ignore_index=True,
    )


def _counts(rows: pd.DataFrame, lost: pd.DataFrame, given: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame({"asked": rows.groupby("coalition").size()})
    for outcome in ("failed", "unparseable"):
        many = lost[lost["outcome"] == outcome].groupby("coalition").size()
        table[outcome] = many.reindex(table.index, fill_value=0)
    return table.loc[list(given)].rename_axis("coalition").reset_index()
