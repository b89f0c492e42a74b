"""What video adds to text and audio on the same clips: Eq. 18, Appendix C.2, Figure 11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from emomm_lib.metrics.bootstrap import paired_bootstrap
from emomm_lib.metrics.scores import METRICS

GAIN_METRICS = ("acc5", "acc2", "f1")
"""Perf(.) of Eq. 18."""


def _by_clip(frame: pd.DataFrame, name: str, columns: Sequence[str]) -> pd.DataFrame:
    needed = ["sample_id", "label_gt", "label_pred", *columns]
    if absent := [column for column in needed if column not in frame]:
        raise ValueError(f"{name} lacks the columns {absent}; it has {list(frame.columns)}")
    if frame["sample_id"].duplicated().any():
        twice = frame.loc[frame["sample_id"].duplicated(), "sample_id"].iloc[0]
        raise ValueError(f"{name} has clip {twice} twice; pass one coalition's answers")
    return frame.set_index("sample_id").sort_index()


def marginal_gain(
    with_video: pd.DataFrame,
    without_video: pd.DataFrame,
    metrics: Sequence[str] = GAIN_METRICS,
    *,
    cluster: str = "sample_id",
    **bootstrap: int,
) -> pd.DataFrame:
    """Marginal gain of video, Delta V = Perf(TAV) - Perf(TA), with 95% intervals (Eq. 18).

    Both frames have one row a clip, the same clips: ``sample_id, label_gt, label_pred``. Both are
    resampled together by ``cluster``: clips, or speakers with ``speaker_id``. Returns ``metric,
    value, low, high, n``, the gain as a difference of fractions in [-1, 1].

    The effect of another view of the video on Delta V is the gain of one view *over the other*,
    because Perf(TA) cancels. Raises ``ValueError`` for a clip twice, other clips or other truth in
    the two frames, missing columns, and an unknown metric.
    """
    extra = [] if cluster == "sample_id" else [cluster]
    after = _by_clip(with_video, "with_video", extra)
    before = _by_clip(without_video, "without_video", [])
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}; there are {list(METRICS)}")
    if not after.index.equals(before.index):
        apart = sorted(after.index.symmetric_difference(before.index))
        raise ValueError(
            f"with_video and without_video are not about the same clips: {len(apart)} are in one "
            f"only, among them {apart[:3]}; leave out those that either could not score"
        )
    if other := after.index[after["label_gt"] != before["label_gt"]].tolist():
        raise ValueError(f"label_gt of {other[:3]} differs between with_video and without_video")
    clusters = after.index if cluster == "sample_id" else after[cluster]
    rows = []
    for name in metrics:
        interval = paired_bootstrap(
            METRICS[name],
            after["label_gt"],
            before["label_pred"],
            after["label_pred"],
            clusters=clusters,
            **bootstrap,
        )
        rows.append((name, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])


def compare_views(
    views: Mapping[str, pd.DataFrame],
    without_video: pd.DataFrame,
    metrics: Sequence[str] = GAIN_METRICS,
    *,
    cluster: str = "sample_id",
    **bootstrap: int,
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
                same[name], same[reference], metrics, cluster=cluster, **bootstrap
            ).assign(view=name, quantity=quantity)
            for name, quantity, reference in pairs
        ],
        ignore_index=True,
    )[["view", "quantity", "metric", "value", "low", "high", "n"]]
