"""CHASE by hand: one prompt, one head, Eq. 5 to 15 written out with their numbers (Figure 4).

Nothing here calls the library's equations: each line is the paper's formula in NumPy, and what comes
out at the end is the attention that the steered model used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import Gate
from emomm_lib.labels import MODALITIES
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.inspection import Inspection

Vector = NDArray[np.float64]
_EPSILON = 1e-8
"""Smoothing in Eq. 19."""
TRIED = 10
"""Prompts that are looked at for one that is steered."""


@dataclass(frozen=True)
class Worked:
    """One head's attention on the way from the unsteered model to the steered one.

    Vectors ``(3,)`` are of T, A, V; NaN where a modality is absent.

    Attributes
    ----------
    layer, head
        Counted from 1: the first steered layer, and of its heads the one farthest from the gate.
    counts
        ``(3,)`` tokens, |K_m|.
    mass, nmas, pi
        Attention on all of them, a token (Eq. 5), and as a preference (Eq. 6).
    conflict, gate
        p (Eq. 7) and g (Eq. 8).
    distances, chosen
        ``(H,)`` divergence of each head's pi from g, and which heads are steered (Eq. 11).
    target, bias
        pi-hat (Eq. 12) and b (Eq. 13).
    important, psi, delta
        How many tokens S_v has, the head's attention on them, and the bias on each (Eq. 14).
    steered
        Attention on T, A, V after Eq. 15, renormalised over all positions.
    model
        The same as the steered model used it.
    config
        With the strengths that were used.
    """

    layer: int
    head: int
    counts: NDArray[np.int64]
    mass: Vector
    nmas: Vector
    pi: Vector
    conflict: float
    gate: Vector
    distances: Vector
    chosen: NDArray[np.bool_]
    target: Vector
    bias: Vector
    important: int
    psi: float
    delta: float
    steered: Vector
    model: Vector
    config: SteeringConfig

    def table(self) -> pd.DataFrame:
        """A row a symbol: ``equation, symbol, what, T, A, V``; single numbers stand under ``value``."""
        c = self.config
        vectors = [
            ("", "|K|", "tokens", np.where(self.counts > 0, self.counts, np.nan)),
            ("", "Σ a", "attention of this head on them", self.mass),
            ("Eq. 5", "nMAS", "attention a token", self.nmas),
            ("Eq. 6", "π", f"the head's preference ({c.preference})", self.pi),
            ("Eq. 8", "g", "whom the router trusts", self.gate),
            ("Eq. 12", "π̂", f"where it should be: η p = {c.eta * self.conflict:.3f} of the way from π to g", self.target),
            ("Eq. 13", "b", "bias between modalities, log π̂/π", self.bias),
            ("Eq. 15", "γ b", f"times γ = {c.gamma:g}, added to every score", c.gamma * self.bias),
            ("Eq. 15", "Σ ã", "attention after the softmax", self.steered),
            ("", "", "the same in the steered model", self.model),
        ]  # fmt: skip
        numbers = [
            (4, "Eq. 7", "p", f"conflict; steered where above τ = {c.tau:g}", self.conflict),
            (6, "Eq. 11", "JSD", f"distance of π from g, the largest of {len(self.chosen)} heads; "
             f"{int(self.chosen.sum())} are steered", self.distances[self.head - 1]),
            (9, "Eq. 14", "|S_v|", f"visual tokens of importance from the {c.percentile:g}th percentile on",
             self.important),
            (10, "Eq. 14", "ψ", f"attention on them; wanted is ψ̂ = {c.psi_hat:g}", self.psi),
            (11, "Eq. 14", "β δ", f"bias on each of them, β = {c.beta:g}", c.beta * self.delta),
        ]  # fmt: skip
        rows = [(e, s, w, *v, np.nan) for e, s, w, v in vectors]
        for place, e, s, w, value in numbers:
            rows.insert(place, (e, s, w, *[np.nan] * 3, value))
        return pd.DataFrame(rows, columns=["equation", "symbol", "what", *MODALITIES, "value"])


def by_hand(seen: Inspection, gate: Gate, config: SteeringConfig) -> Worked:
    """Steer one head of the first steered layer by hand, and beside it the model.

    Parameters
    ----------
    seen
        The prompt, computed once.
    gate
        Says p and g: a router, or one that is given them.
    config
        Rule ``preference`` without sharpening or temperature, scope ``decision``.

    Raises ``ValueError`` for another rule, and where the layer is not steered since p is not above
    tau: then there is nothing to work out.
    """
    if (config.rule, config.scope, config.sharpness, config.temperature) != (
        "preference", "decision", 1.0, 1.0,
    ) or config.heads is not None:  # fmt: skip
        raise ValueError("by hand goes what the paper prints: no other rule, scope, head or power")
    [after] = seen.steered([(gate, config)])
    at, before = config.first_layer - 1, seen.unsteered
    assert after.conflict is not None and after.gate is not None and after.heads is not None
    p, g = float(after.conflict[at]), after.gate[at].astype(np.float64)
    if not p > config.tau:
        raise ValueError(f"layer {at + 1} is not steered: p = {p:.3f} is not above {config.tau:g}")
    there, counts = seen.counts > 0, seen.counts
    blank = np.where(there, 0.0, np.nan)

    mass = before.mass[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        nmas = mass / counts
    pi = (
        np.where(there, np.exp(nmas), 0.0)
        if config.preference == "softmax"
        else np.nan_to_num(nmas)
    )
    pi = pi / pi.sum(-1, keepdims=True)
    g = g / g.sum()
    middle = (pi + g) / 2
    distances = (_divergence(pi, middle) + _divergence(g, middle)) / 2
    order = np.argsort(-distances, kind="stable")
    chosen = np.zeros(len(distances), bool)
    chosen[order[: config.top_k]] = True
    head = int(order[0])

    target = (1 - config.eta * p) * pi[head] + config.eta * p * g
    bias = np.log((target + config.epsilon_a) / (pi[head] + config.epsilon_a))
    row, ids = before.rows[at, head], seen.modality_ids
    important, delta, psi = np.zeros(len(row), bool), 0.0, np.nan
    if config.beta > 0 and there[MODALITIES.index("V")]:
        visual = ids == MODALITIES.index("V")
        importance = seen.importance[0].double().cpu().numpy()
        important = visual & (importance >= np.percentile(importance[visual], config.percentile))
        psi = float(row[important].sum())
        delta = max(
            0.0, float(np.log((config.psi_hat + config.epsilon_b) / (psi + config.epsilon_b)))
        )
    raised = row * np.exp(
        config.gamma * np.where(ids >= 0, bias[ids], 0.0) + config.beta * delta * important
    )
    new = raised / raised.sum()
    steered = np.array([new[ids == m].sum() for m in range(len(MODALITIES))])
    return Worked(
        at + 1, head + 1, counts, mass[head] + blank, nmas[head] + blank, pi[head] + blank, p, g + blank,
        distances, chosen, target + blank, bias + blank, int(important.sum()), psi, delta,
        steered + blank, after.mass[at, head] + blank, config,
    )  # fmt: skip


def first_steered(
    bench: Experiment, clips: pd.DataFrame, gate: Gate, config: SteeringConfig
) -> tuple[Worked, str]:
    """The first conflict, by name, whose whole prompt is steered in the first layer.

    Looked for among the first ``TRIED`` conflicts, or clips where none conflicts. Where the gate takes
    none of them for a conflict, the first is steered all the same, with tau at 0. Returns it with its
    name, and what was done about tau.

    Raises ``ValueError`` where there is no clip.
    """
    if not len(clips):
        raise ValueError("no clip to work an example out with")
    conflicts = clips[clips["subset"] == "conflict"]
    chosen = (conflicts if len(conflicts) else clips).sort_values("sample_id").head(TRIED)
    whatever = replace(config, tau=0.0, beta=0.0)
    for _, clip in chosen.iterrows():
        seen = bench.inspect(clip, "TAV")
        [look] = seen.steered([(gate, whatever)])
        assert look.conflict is not None
        if look.conflict[config.first_layer - 1] > config.tau:
            return by_hand(seen, gate, config), str(clip["sample_id"])
    clip = chosen.iloc[0]
    worked = by_hand(bench.inspect(clip, "TAV"), gate, replace(config, tau=0.0))
    return worked, f"{clip['sample_id']}, p below τ and steered all the same"


def _divergence(p: Vector, q: Vector) -> Vector:
    """D_KL(p || q) of Eq. 19; 0 log 0 is 0."""
    return (p * np.log(np.where(p > 0, p, 1.0) / (q + _EPSILON))).sum(-1)
