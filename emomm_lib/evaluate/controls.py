"""The null control: the same labels on surrogates in which nothing tells whom to trust."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from emomm_lib.evaluate.chase import ChaseStudy
from emomm_lib.evaluate.experiment import null_control
from emomm_lib.metrics.paired import paired_frame

METHODS = ("CHASE, tuned", "+ embedded gate", "+ sharpened gate", "oracle")


def with_and_without_cue(study: ChaseStudy, clips: int) -> pd.DataFrame:
    """Gains of the chosen methods, cross-fitted on ``clips`` of each corpus, with the cue and not.

    Configurations are the study's; routers are trained anew on these few clips in both, and asked
    about whole clips. Columns
    ``cue`` (``informative, null``)``, method, subset, value, low, high, n``.
    """
    without = null_control(study.bench, clips)
    few = set(without.clips["sample_id"])
    own = study.bench.clips
    benches = {
        "informative": replace(study.bench, clips=own[own["sample_id"].isin(few)]),
        "null": without,
    }
    frames = []
    for cue, bench in benches.items():
        small = study.on(bench)
        wanted = [m for m in small.cross_fitted() if m.name.split(" | ")[0] in METHODS]
        scored = small.evaluate(wanted, ("TAV",))
        baseline = small.baseline(small.crossed_clips, ("TAV",))
        for method in wanted:
            part = scored[scored["method"] == method.name]
            gain = paired_frame(baseline, part, metrics=("acc5",))
            frames.append(gain.assign(cue=cue, method=method.name.split(" | ")[0]))
    columns = ["cue", "method", "subset", "value", "low", "high", "n"]
    return pd.concat(frames, ignore_index=True)[columns]
