"""What can be had without steering: late fusion of single modalities, and a probe of the states."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emomm_lib.chase.router import Router
from emomm_lib.chase.training import RouterStates, routed
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.reference import LOGITS
from emomm_study.evaluate.methods import CrossFitted
from emomm_study.evaluate.protocol.fit import rows_of
from emomm_study.evaluate.protocol.study import EMBEDDED, Study
from emomm_study.evaluate.protocol.tune import simplest_tied, subset_hits
from emomm_study.evaluate.results import by_subset, instances, join
from emomm_study.evaluate.states import states_digest

POOLINGS = tuple((pooling, power) for power in (1.0, 2.0, 4.0) for pooling in ("linear", "log"))
PROBES = tuple((kind, s) for s in (100.0, 10.0, 1000.0) for kind in ("layer", "embedded"))
"""Ways to fuse and to probe, the simplest first: the gate as it is, the router's own inputs."""


def _answers(keys: pd.DataFrame, log_p: NDArray) -> pd.DataFrame:
    frame = pd.DataFrame(log_p, columns=list(LOGITS), index=keys.index)
    frame = pd.concat([keys[["sample_id", "coalition"]], frame], axis=1)
    return frame.assign(label=log_p.argmax(1), score=np.nan, failure=None, reply=None)


def late_fusion(
    single: pd.DataFrame,
    keys: pd.DataFrame,
    gate: NDArray,
    *,
    pooling: str = "linear",
    sharpness: float = 1.0,
) -> pd.DataFrame:
    """Answers by weighting what the model says to each modality alone with a gate.

    Parameters
    ----------
    single
        Predictions under ``T``, ``A`` and ``V`` with letter logits.
    keys
        The prompts to answer: ``sample_id, coalition``; the gate is zero for what they lack.
    gate
        ``(N, 3)``, a row a prompt.
    pooling
        ``linear`` mixes probabilities, ``log`` their logarithms.

    Returns predictions without scores. Raises ``ValueError`` for a modality without an answer.
    """
    if pooling not in ("linear", "log"):
        raise ValueError(f"pooling is 'linear' or 'log'; got {pooling!r}")
    if not sharpness > 0:
        raise ValueError(f"sharpness is positive; got {sharpness}")
    weights = np.asarray(gate, float) ** sharpness
    weights = weights / weights.sum(1, keepdims=True)
    table = single.set_index(["sample_id", "coalition"])[list(LOGITS)].astype(float)
    parts = []
    for modality in MODALITIES:
        wanted = pd.MultiIndex.from_product([keys["sample_id"].unique(), [modality]])
        found = table.reindex(wanted).droplevel(1).loc[keys["sample_id"]]
        parts.append(log_softmax(found.to_numpy(), axis=1))
    log_p = np.stack(parts, 1)
    used = weights > 0
    if np.isnan(log_p[used]).any():
        raise ValueError("a clip has no answer for a modality that the gate weighs; ask it first")
    log_p = np.where(used[..., None], log_p, 0.0)
    if pooling == "log":
        mixed = log_softmax((weights[..., None] * log_p).sum(1), axis=1)
    else:
        with np.errstate(divide="ignore"):
            mixed = logsumexp(np.log(weights)[..., None] + log_p, axis=1)
    return _answers(keys.reset_index(drop=True), mixed)


def probe_inputs(states: RouterStates, kind: str, first_layer: int = 1) -> NDArray:
    """What a probe sees: a router's states in layer l_r, or the embedded means.

    ``(N, F)`` float32; modalities that are absent are zero.
    """
    if kind == "embedded":
        return states.modality_states[:, 0].flatten(1).numpy()
    at = first_layer - 1
    parts = states.query_state[:, at], states.modality_states[:, at].flatten(1)
    return np.hstack([x.numpy() for x in parts])


def fit_probe(inputs: NDArray, label_gt: Sequence[int], strength: float, seed: int = 0):
    """Logistic regression of GT's class, L2 of the given ``strength`` (scikit-learn's 1 / C)."""
    model = LogisticRegression(C=1 / strength, max_iter=3000, random_state=seed)
    if len(np.unique(label_gt)) == 1:
        model = DummyClassifier(strategy="prior")
    return make_pipeline(StandardScaler(), model).fit(inputs, label_gt)


def probe_answers(probe, inputs: NDArray, keys: pd.DataFrame) -> pd.DataFrame:
    """Predictions of a fitted probe, without scores."""
    full = np.full((len(keys), len(LOGITS)), -np.inf)
    full[:, probe.classes_] = probe.predict_log_proba(inputs)
    return _answers(keys.reset_index(drop=True), full)


def unsteered(study: Study, clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Late fusion by the embedded gate and by an even one, and a probe of the router's states.

    Cross-fitted; how to pool and which probe is chosen on validation.
    """
    gates = study.crossed(EMBEDDED)
    asked = json.dumps(clips["sample_id"].tolist())
    made_of = json.dumps(gates.settings()), states_digest(study.states), asked, str(study.seed)
    everything = study.bench.clips
    answers = study.remembered(
        "unsteered", everything, [], lambda: _unsteered(study, clips, gates), *made_of
    )
    found = {}
    for name, own in answers.groupby("method", sort=False):
        scored, _ = join(instances(clips), own)
        found[name] = by_subset(scored.assign(method=name))
    return found


def _unsteered(study: Study, clips: pd.DataFrame, gates: CrossFitted) -> pd.DataFrame:
    single = study.bench.predictions(study.bench.clips, ("T", "A", "V"))
    valid = study.states.take(rows_of(study.states, study.split("valid")))
    known = _trusted(valid, study.router(EMBEDDED)[0])
    pooling, power = _best_pooling(study, single, valid, known)
    evenly, _ = _best_pooling(study, single, valid, valid.present.numpy())
    kind, strength = _best_probe(study)
    parts = []
    fold = clips["sample_id"].map(study.fold)
    for number, router in enumerate(gates.routers):
        part = clips[(fold == number).to_numpy()]
        held_out = set(study.fold.index[study.fold == number])
        train = study.bench.clips[~study.bench.clips["sample_id"].isin(held_out)]
        states = study.states.take(rows_of(study.states, part))
        gate, there = _trusted(states, router), states.present.numpy()
        fused = late_fusion(single, states.index, gate, pooling=pooling, sharpness=power)
        even = late_fusion(single, states.index, there, pooling=evenly)
        probed = _probe(study, train, part, kind, strength)
        parts += [fused.assign(method="late fusion"), even.assign(method="late fusion, even gate")]
        parts.append(probed.assign(method="probe"))
    return pd.concat(parts, ignore_index=True).sort_values("method", kind="stable")


def _trusted(states: RouterStates, router: Router) -> NDArray:
    """Its gate ``(N, 3)``, mean over the layers."""
    return routed(router, states)[1].mean(1).numpy()


def _best_pooling(
    study: Study, single: pd.DataFrame, states: RouterStates, gate: NDArray
) -> tuple[str, float]:
    """How to pool by a gate of the validation split's states."""
    answers = [
        late_fusion(single, states.index, gate, pooling=p, sharpness=s).assign(method=f"{i}")
        for i, (p, s) in enumerate(POOLINGS)
    ]
    return POOLINGS[_best(study.split("valid"), answers)]


def _best_probe(study: Study) -> tuple[str, float]:
    clips, train = study.split("valid"), study.split("train")
    answers = [
        _probe(study, train, clips, kind, strength).assign(method=f"{i}")
        for i, (kind, strength) in enumerate(PROBES)
    ]
    return PROBES[_best(clips, answers)]


def _probe(
    study: Study, train: pd.DataFrame, clips: pd.DataFrame, kind: str, strength: float
) -> pd.DataFrame:
    first = study.base.first_layer
    seen, asked = (study.states.take(rows_of(study.states, part)) for part in (train, clips))
    truth = train.set_index("sample_id")["label_gt"].loc[seen.index["sample_id"]]
    probe = fit_probe(probe_inputs(seen, kind, first), truth.to_numpy(), strength, study.seed)
    return probe_answers(probe, probe_inputs(asked, kind, first), asked.index)


def _best(clips: pd.DataFrame, answers: Sequence[pd.DataFrame]) -> int:
    """The first of some ways to answer that cannot be told from the best."""
    ways = [str(i) for i in range(len(answers))]
    return simplest_tied(subset_hits(clips, pd.concat(answers)), ways, range(len(ways)))[0]
