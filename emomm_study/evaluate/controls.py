"""The null control: the same labels on surrogates without the cue, and what labels alone tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from emomm_lib import N_CLASSES
from emomm_lib.metrics.bootstrap import counted, interval_of, ratio
from emomm_lib.metrics.paired import paired_frame
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import Method
from emomm_study.evaluate.protocol import Study, baseline, cross_fitted
from emomm_study.evaluate.remembered import remembered


def with_and_without_cue(
    study: Study, without: Experiment, methods: Sequence[Method]
) -> pd.DataFrame:
    """Gains of methods, cross-fitted on the clips of ``without``, with the cue and not.

    ``without`` has the study's labels rendered without the cue
    (:func:`emomm_study.mini.null.null_control`). Routers are trained anew on these few clips in
    both, and asked about whole clips. Columns ``cue`` (``informative, null``)``, method, subset,
    value, low, high, n``.
    """
    few = set(without.clips["sample_id"])
    own = study.bench.clips
    benches = {
        "informative": replace(study.bench, clips=own[own["sample_id"].isin(few)]),
        "null": without,
    }
    made_of = [json.dumps([_asked(m) for m in methods]), str(study.seed)]
    for bench in benches.values():
        made_of += [bench.versions(bench.clips), bench.clips.to_csv(index=False)]
    return remembered("null-control", made_of, lambda: _gains(study, benches, methods))


def _asked(method: Method) -> dict:
    """All that can change what a method answers, but for the router that it has trained."""
    if isinstance(method.source, str):
        return asdict(method)
    return {"key": method.key, **method.settings()}


def _gains(
    study: Study, benches: Mapping[str, Experiment], methods: Sequence[Method]
) -> pd.DataFrame:
    frames = []
    for cue, bench in benches.items():
        small = study.on(bench)
        found = cross_fitted(small, methods)
        reference = baseline(small, small.crossed_clips, ("TAV",))
        for name, scored in found.items():
            gain = paired_frame(reference, scored, metrics=("acc5",))
            frames.append(gain.assign(cue=cue, method=name))
    columns = ["cue", "method", "subset", "value", "low", "high", "n"]
    return pd.concat(frames, ignore_index=True)[columns]


def trust_from_labels(clips: pd.DataFrame, fold: pd.Series, seed: int = 0) -> pd.DataFrame:
    """How often whom to trust can be told from the labels of T, A and V alone, without a clip.

    On clips in which some modality has GT's class and some has not. ``any``: a present modality
    at random. ``corpus``: the one that is right most often in the corpus. ``labels``: a random
    forest on the three classes, which of them agree, and the corpus. All cross-fitted by ``fold``
    (by sample_id); a router that reads classes and language perfectly could do as well as the
    last. Columns ``knows, value, low, high, n``, values NaN where there is no such clip.
    """
    clips = clips[clips["sample_id"].isin(fold.index)].reset_index(drop=True)
    made_of = [
        clips.to_csv(index=False),
        fold.sort_index().to_csv(),
        str(seed),
        sklearn.__version__,
    ]
    return remembered("trust-from-labels", made_of, lambda: _trust(clips, fold, seed))


def _trust(clips: pd.DataFrame, fold: pd.Series, seed: int) -> pd.DataFrame:
    labels = clips[["label_t", "label_a", "label_v"]].to_numpy()
    right = labels == clips["label_gt"].to_numpy()[:, None]
    corpus = pd.get_dummies(clips["corpus"]).to_numpy(float)
    pairs = ((0, 1), (0, 2), (1, 2))
    seen = np.hstack(
        [
            *(np.eye(N_CLASSES)[labels[:, k]] for k in range(3)),
            np.column_stack([np.abs(labels[:, i] - labels[:, j]) for i, j in pairs]),
            corpus,
        ]
    )
    hits = {name: np.full(len(clips), np.nan) for name in ("corpus", "labels")}
    own = clips["sample_id"].map(fold).to_numpy()
    for k in np.unique(own):
        train, test = own != k, own == k
        for name, inputs in (("corpus", corpus), ("labels", seen)):
            forest = RandomForestClassifier(200, min_samples_leaf=5, random_state=seed)
            forest.fit(inputs[train], right[train])
            chance = _of_right(forest, inputs[test])
            hits[name][test] = right[test][np.arange(test.sum()), chance.argmax(1)]
    mixed = right.any(1) & ~right.all(1)
    rows = []
    for name, value in {"any": right.mean(1), **hits}.items():
        interval = interval_of(counted(np.where(mixed, value, np.nan)[:, None]), ratio)
        rows.append((name, interval.value, interval.low, interval.high, int(mixed.sum())))
    return pd.DataFrame(rows, columns=["knows", "value", "low", "high", "n"])


def _of_right(forest: RandomForestClassifier, inputs: NDArray) -> NDArray[np.float64]:
    """Probabilities ``(N, 3)`` that T, A, V are right, also of one that always was, or never."""
    chances = zip(forest.classes_, forest.predict_proba(inputs), strict=True)
    return np.column_stack([p @ np.asarray(outcomes, float) for outcomes, p in chances])
