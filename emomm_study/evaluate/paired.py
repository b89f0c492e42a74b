"""Several ways of answering against one: shares of a gain, views of a video, changed answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from emomm_lib import Bootstrap, interval_of, marginal_gain
from emomm_lib.labels import class_labels
from emomm_lib.metrics.bootstrap import DEFAULT, counted, ratio, warn_undefined
from emomm_lib.metrics.outcomes import row
from emomm_lib.metrics.paired import GAIN_METRICS, matched


def gain_share(
    baseline: pd.DataFrame,
    steered: pd.DataFrame,
    reference: pd.DataFrame,
    by: str = "subset",
    *,
    cluster: str = "sample_id",
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """What part of a reference's gain in Acc-5 a method reaches: ``by, value, low, high, n``.

    All three are resampled together by cluster; a resample in which the reference gains nothing, or
    loses, is left out. Where it does so on the instances themselves, value and interval are NaN,
    with a ``RuntimeWarning``. Frames and errors as for :func:`paired_frame`.
    """
    both = matched(baseline, steered, "baseline and steered")
    both["label_reference"] = matched(baseline, reference, "baseline and reference")[
        "label_pred_new"
    ].to_numpy()
    rows = []
    for group, part in both.groupby(by):
        truth = class_labels(part["label_gt"], "label_gt")
        before, after, best = (
            (class_labels(part[c], c) == truth).astype(float)
            for c in ("label_pred", "label_pred_new", "label_reference")
        )
        interval = interval_of(
            np.column_stack([after - before, best - before]),
            lambda sums: np.divide(
                sums[..., 0],
                sums[..., 1],
                out=np.full(sums.shape[:-1], np.nan),
                where=sums[..., 1] > 0,
            ),
            clusters=part[cluster],
            bootstrap=bootstrap,
        )
        if np.isnan(interval.value):
            warn_undefined(f"the share of a gain on {group}", "the reference gains nothing there")
        rows.append((group, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=[by, "value", "low", "high", "n"])


def compare_views(
    views: Mapping[str, pd.DataFrame],
    without_video: pd.DataFrame,
    metrics: Sequence[str] = GAIN_METRICS,
    *,
    cluster: str = "sample_id",
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Delta V of several views of the same videos, and what each changes about the first view's.

    ``views`` are answers to TAV by the name of what the model saw, the first the unchanged video;
    clips that any of them or ``without_video`` lacks are left out of all. Returns ``view,
    quantity, metric, value, low, high, n`` with ``quantity`` ``gain`` (Eq. 18) or ``change`` (gain
    less that of the first view, paired), and raises as :func:`marginal_gain`.
    """
    answers = {"without video": without_video, **views}
    common = set.intersection(*(set(frame["sample_id"]) for frame in answers.values()))
    if not common:
        raise ValueError(f"{list(answers)} have no clip in common; ask them about the same clips")
    same = {name: frame[frame["sample_id"].isin(common)] for name, frame in answers.items()}
    names = list(views)
    pairs = [(name, "gain", "without video") for name in names]
    pairs += [(name, "change", names[0]) for name in names[1:]]
    return pd.concat(
        [
            marginal_gain(
                same[name], same[reference], metrics, cluster=cluster, bootstrap=bootstrap
            ).assign(view=name, quantity=quantity)
            for name, quantity, reference in pairs
        ],
        ignore_index=True,
    )[["view", "quantity", "metric", "value", "low", "high", "n"]]


def change_rate(
    one: pd.DataFrame,
    other: pd.DataFrame,
    by: str = "subset",
    *,
    cluster: str = "sample_id",
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Share of answers, in [0, 1], that differ between two ways of asking: ``by, value, low, high, n``.

    Such as with a clip's own video and with another clip's: what never changes an answer cannot
    gain. Right and wrong play no part. Frames and errors as for :func:`paired_frame`.
    """
    both = matched(one, other, "one and other")
    changed = class_labels(both["label_pred"]) != class_labels(both["label_pred_new"])
    rows = []
    for group, part in both.assign(changed=changed.astype(float)).groupby(by):
        interval = interval_of(
            counted(part[["changed"]]), ratio, clusters=part[cluster], bootstrap=bootstrap
        )
        rows.append((group, *row(interval)))
    return pd.DataFrame(rows, columns=[by, "value", "low", "high", "n"])
