"""Metrics of predictions and of what decides them: Eq. 1-5, Sec. 4.1 and 6.1, Appendix B.

Each module has one subject: ``scores`` (agreement, accuracies, F1, MAE), ``bootstrap``
(intervals), ``psmv``, ``gtar``, ``nmas`` (the three metrics of Sec. 4.1), ``readers`` (their
baselines without a preference) and ``fleiss`` (kappa of annotators). PSMV, GTAR and readers work on
*outcomes*: one row a scored clip and coalition, with ``sample_id, corpus, subset`` (of the whole
clip), ``coalition, label_gt, label_t, label_a, label_v``, ``right`` and ``right_polarity`` in
[0, 1].
"""

from emomm_lib.metrics.bootstrap import (
    Interval,
    bootstrap_interval,
    interval_of,
    intervals_of,
    paired_bootstrap,
)
from emomm_lib.metrics.gtar import SETTINGS, conflict_parts, gtar_frame, target_conflict
from emomm_lib.metrics.nmas import (
    TraceTable,
    attention_by_modality,
    layer_budget,
    layer_nmas,
    layer_shares,
    nmas_by_layer,
    nmas_gtar_correlation,
    preference_points,
)
from emomm_lib.metrics.psmv import (
    accuracy_drops,
    coalition_accuracy,
    psmv,
    psmv_frame,
    psmv_shares,
    vcc,
)
from emomm_lib.metrics.reference import READERS, pooled_outcomes, reader_outcomes
from emomm_lib.metrics.scores import (
    METRICS,
    N_CLASSES,
    Metric,
    Neutral,
    accuracy2,
    accuracy5,
    agreement,
    agreement_matrix,
    macro_f1,
    mae,
    score_frame,
)

__all__ = [
    "METRICS",
    "N_CLASSES",
    "READERS",
    "SETTINGS",
    "Interval",
    "Metric",
    "Neutral",
    "TraceTable",
    "accuracy2",
    "accuracy5",
    "accuracy_drops",
    "agreement",
    "agreement_matrix",
    "attention_by_modality",
    "bootstrap_interval",
    "coalition_accuracy",
    "conflict_parts",
    "gtar_frame",
    "interval_of",
    "intervals_of",
    "layer_budget",
    "layer_nmas",
    "layer_shares",
    "macro_f1",
    "mae",
    "nmas_by_layer",
    "nmas_gtar_correlation",
    "paired_bootstrap",
    "preference_points",
    "psmv",
    "psmv_frame",
    "psmv_shares",
    "pooled_outcomes",
    "reader_outcomes",
    "score_frame",
    "target_conflict",
    "vcc",
]
