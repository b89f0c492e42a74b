"""How routers do on an experiment's prompts: by layer, Table 6, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.chase.equations import Preference
from emomm_lib.chase.router import Router
from emomm_lib.chase.training import RouterStates, RouterTargets, area, routed
from emomm_lib.metrics.bootstrap import counted, intervals_of, means
from emomm_lib.metrics.routing import TABLE6, routing_metrics
from emomm_study.evaluate.methods import GateSource, Method
from emomm_study.evaluate.protocol import Study
from emomm_study.evaluate.states import COALITIONS


def gate_by_layer(
    routers: Mapping[str, Sequence[Router]], states: RouterStates, targets: RouterTargets
) -> pd.DataFrame:
    """How often a gate puts a right modality first, by layer: mean over seeds, 95% over clips.

    Columns ``router, coalition, layer, value, low, high, n, chance``; ``layer`` is missing for
    routers that say the same in all. ``chance`` is that of a modality drawn at random.
    """
    rows = []
    right, present = targets.right.numpy(), states.present.numpy()
    for name, group in routers.items():
        hits = np.mean(
            [gate_top1(routed(r, states)[1].numpy(), right, present) for r in group], axis=0
        )
        same = group[0].inputs == "embedded"
        for coalition in COALITIONS:
            own = (states.index["coalition"] == coalition).to_numpy()
            decided = own & ~np.isnan(hits[:, 0])
            if not decided.any():
                continue
            chance = float((right.sum(1) / present.sum(1))[decided].mean())
            found = intervals_of(
                counted(hits[decided]), means, clusters=states.index["sample_id"][decided]
            )
            for offset, interval in enumerate(found):
                layer = pd.NA if same else group[0].first_layer + offset
                rows.append(
                    (name, coalition, layer, interval.value, interval.low, interval.high,
                     interval.n, chance)
                )  # fmt: skip
    columns = ["router", "coalition", "layer", "value", "low", "high", "n", "chance"]
    return pd.DataFrame(rows, columns=columns)


def trust_by_chance(states: RouterStates, targets: RouterTargets) -> float:
    """How often a modality drawn at random is right, where some are right and some are wrong.

    A share of the prompts, NaN where there is none of these.
    """
    right, present = targets.right.numpy(), states.present.numpy()
    mixed = (right.any(1)) & (right.sum(1) < present.sum(1))
    return float((right.sum(1) / present.sum(1))[mixed].mean()) if mixed.any() else float("nan")


def table6_metrics(
    study: Study, source: GateSource, preference: Preference = "softmax"
) -> pd.DataFrame:
    """Table 6 under the published configuration: ``split, metric, value, low, high, n``.

    ``preference`` is how steering has pi (Eq. 6). NaN, of no prompt, for a split without a conflict
    in which a modality is right.
    """
    clips = study.bench.clips[study.bench.clips["split"].isin(["valid", "test"])]
    # The paper's psi-hat and P are unknown; they move attention, and p in later layers a little.
    config = replace(study.base, preference=preference)
    method = Method("CHASE, default psi-hat", source, config, scored=True, protocol="table 6")
    study.bench.steered(clips, ("TAV",), [method])
    index, conflict, gate = study.bench.routes(method)
    states, targets = study.targets(clips)
    place = {key: i for i, key in enumerate(zip(*states.index.to_numpy().T, strict=True))}
    asked = list(zip(index["sample_id"], index["coalition"], strict=True))
    kept = [n for n, key in enumerate(asked) if key in place and key[1] == "TAV"]
    order = [place[asked[n]] for n in kept]
    right, present = targets.right.numpy()[order], states.present.numpy()[order]
    split = clips.set_index("sample_id")["split"].loc[index["sample_id"].iloc[kept]].to_numpy()
    rows = []
    for name in ("valid", "test"):
        own = np.flatnonzero(split == name)
        chosen = np.array(kept)[own]
        found = routing_metrics(
            conflict[chosen], gate[chosen], right[own], present[own], study.base.tau
        )
        rows += [
            (name, metric, found[metric].value, found[metric].low, found[metric].high,
             found[metric].n)
            for metric in TABLE6
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["split", "metric", "value", "low", "high", "n"])


def conflict_reliability(study: Study, kind: str) -> pd.DataFrame:
    """Reliability of a router's p, averaged over layers, on validation and test prompts."""
    router = study.router(kind)[0]
    frames = []
    for name in ("valid", "test"):
        states, targets = study.targets(study.split(name))
        p = routed(router, states)[0].mean(1).numpy()
        frames.append(reliability(p, targets.conflict.numpy()).assign(split=name))
    return pd.concat(frames, ignore_index=True)


def detection_rates(study: Study, kind: str) -> pd.DataFrame:
    """How a router finds conflicts among test prompts, by coalition, on unsteered states.

    ``conflicts`` is their share, ``recall`` and ``false_alarms`` the shares of conflicts and of the
    rest in which p exceeds the published tau in some layer, ``auc`` of p averaged over layers, and
    ``n`` the prompts. NaN is what has no prompt: all of them conflicts, or none.
    """
    states, targets = study.targets(study.split("test"))
    p = routed(study.router(kind)[0], states)[0].numpy()
    true = targets.conflict.numpy() > 0
    rows = []
    for coalition in COALITIONS:
        own = (states.index["coalition"] == coalition).to_numpy()
        steered = (p[own] > study.base.tau).any(1)
        among = true[own]
        rates = (_share(of) for of in (among, steered[among], steered[~among]))
        rows.append((coalition, *rates, area(among, p[own].mean(1)), int(own.sum())))
    columns = ["coalition", "conflicts", "recall", "false_alarms", "auc", "n"]
    return pd.DataFrame(rows, columns=columns)


def _share(of: NDArray[np.bool_]) -> float:
    return float(of.mean()) if len(of) else np.nan


def reliability(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram by bins of equal width: ``low, high, predicted, observed, n``.

    Empty bins are left out. ``probability`` is ``(N,)`` in [0, 1], ``outcome`` ``(N,)`` of 0 and 1;
    a bin holds its upper end. Raises ``ValueError`` for probabilities outside of [0, 1].
    """
    p, y = np.asarray(probability, float), np.asarray(outcome, float)
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("reliability takes probabilities in [0, 1], one for each outcome")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(p, edges, right=True) - 1, 0, bins - 1)
    frame = pd.DataFrame({"bin": place, "predicted": p, "observed": y})
    table = frame.groupby("bin").agg(
        predicted=("predicted", "mean"), observed=("observed", "mean"), n=("observed", "size")
    )
    table.insert(0, "low", edges[table.index])
    table.insert(1, "high", edges[table.index + 1])
    return table.reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean distance of predicted and observed over a :func:`reliability` table, weighted by n."""
    gap = (table["predicted"] - table["observed"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum())


def gate_top1(gate: ArrayLike, right: ArrayLike, present: ArrayLike) -> NDArray[np.float64]:
    """1.0 where a gate ``(N, ..., 3)`` puts a right modality first; NaN if none or all are right.

    ``right`` and ``present`` are ``(N, 3)``. Returns ``(N, ...)``.
    """
    g, r = np.asarray(gate, float), np.asarray(right, bool)
    there = np.asarray(present, bool)
    decided = r.any(1) & (r != there).any(1)
    first = g.argmax(-1)
    hit = np.take_along_axis(r, first.reshape(len(r), -1), axis=1).reshape(first.shape)
    return np.where(decided.reshape(-1, *[1] * (first.ndim - 1)), hit.astype(float), np.nan)
