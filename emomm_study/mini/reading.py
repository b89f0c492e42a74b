"""How well a model reads each coalition of held-out aligned clips, where nothing conflicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from emomm_lib import score_frame
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.mini.model.heldout import CARD_SEED, FRESH_SEED, heldout_clips
from emomm_study.mini.surrogate.observer import IdealObserver
from emomm_study.mini.surrogate.plan import training_plan
from emomm_study.mini.surrogate.speaker import Film

CARD_SCORES = "reading.csv"
"""File beside a model's weights that holds the accuracies of its card."""


def reading_accuracy(
    bench: Experiment, clips: int, film: Film = Film(), *, seed: int = FRESH_SEED
) -> pd.DataFrame:
    """Accuracy on ``clips`` freshly rendered aligned clips, read from their mp4 and wav files.

    Returns one row a coalition and metric: ``coalition, metric, value, low, high, n`` as by
    ``emomm_lib.score_frame`` (``acc5``, ``acc2``, ``mae``), coalitions in the usual order. A failed
    answer is not scored: ``n`` shows it. Raises ``ValueError`` where all failed.
    """
    root, plan = heldout_clips(clips, seed, film, progress=bench.progress)
    there = {corpus.value: root for corpus in Corpus}
    fresh = replace(bench, clips=plan, roots=there, keep_encodings=False)
    predictions = fresh.predictions(plan, COALITIONS)
    known = predictions[predictions["failure"].isna()]
    if known.empty:
        raise ValueError(f"none of {clips} clips was answered: {predictions['failure'].iloc[0]}")
    joined = plan[["sample_id", "label_gt", "score_gt"]].merge(known, on="sample_id")
    joined = joined.rename(columns={"label": "label_pred", "score": "score_pred"})
    joined["label_pred"] = joined["label_pred"].astype("int64")
    scores = score_frame(joined, ["coalition"], ("acc5", "acc2", "mae"))
    order = {name: i for i, name in enumerate(COALITIONS)}
    return scores.sort_values(
        ["metric", "coalition"], key=lambda c: c.map(order) if c.name == "coalition" else c
    ).reset_index(drop=True)


def ideal_accuracy(clips: int, seed: int = CARD_SEED) -> pd.Series:
    """Five-class accuracy of the ideal observer on as many held-out clips, by coalition."""
    plan = training_plan(clips, seed)
    plan["sample_id"], plan["subset"] = [f"{i}" for i in range(clips)], "held out"
    return IdealObserver().outcomes(plan).groupby("coalition")["right"].mean()


def beside_card(scores: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Five-class accuracies in percent by coalition, beside those of the model card in ``folder``.

    Columns ``accuracy, 95% interval, clips``, and the same for the card where the folder holds its
    scores.
    """
    measured = {"": scores}
    if (folder / CARD_SCORES).is_file():
        measured["card "] = pd.read_csv(folder / CARD_SCORES, keep_default_na=False)
    columns = {}
    for prefix, frame in measured.items():
        acc5 = frame[frame["metric"] == "acc5"].set_index("coalition")
        columns[prefix.strip() or "accuracy"] = (100 * acc5["value"]).round(1)
        columns[f"{prefix}95% interval"] = [
            f"[{100 * low:.1f}, {100 * high:.1f}]"
            for low, high in zip(acc5["low"], acc5["high"], strict=True)
        ]
        columns[f"{prefix}clips"] = acc5["n"]
    return pd.DataFrame(columns)
