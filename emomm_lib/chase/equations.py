"""CHASE's steering as tensor functions: Eq. 6, 11-15, 19, 21, 25 and Algorithm 1, stage 2.

No model is in sight. Modalities are the last dimension, heads the one before: preferences are
``(B, C, H, 3)``, gates ``(B, C, 3)``, where C steering configurations stand side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from emomm_lib.attention.rows import LayerView, Scope, exact

Preference = Literal["softmax", "share"]
Rule = Literal["preference", "gate", "first"]

PUBLISHED_LAYERS, PUBLISHED_FIRST_LAYER = 28, 13
"""Depth of Qwen2.5-Omni-7B, and l_r in it (Sec. 6.1)."""


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """How attention is steered; defaults are the published values (Sec. 6.1).

    Attributes
    ----------
    first_layer
        l_r, counted from 1 as the paper does; :meth:`at_published_depth` scales 13 of 28.
    tau
        A layer is steered where its conflict probability exceeds it.
    eta
        Share of the way from the head's preference to the gate, in [0, 1], where p = 1 (Eq. 12).
    gamma, beta
        Strength of the inter- and of the intra-modality bias (Eq. 15).
    top_k
        Heads steered in a layer (Eq. 11).
    psi_hat, percentile
        Attention that S_v should get, in (0, 1], and P, the percentile of importance from which a
        visual token is in S_v (Eq. 14). Not published.
    preference
        ``softmax`` over nMAS as printed in Eq. 6, or nMAS's ``share``.
    scope
        Steer the ``decision`` query's row, or ``all`` queries.
    epsilon_a, epsilon_b
        Smoothing in Eq. 13 and 14. Not published.
    rule
        Not in the paper: ``preference`` is Eq. 12-13; ``gate`` biases by log g_m, the gate's first
        modality at 0, whatever the head prefers; ``first`` by -1 on all but the gate's first.
    heads
        Not in the paper: these (layer, head) pairs, counted from 1, instead of Eq. 11's.
    sharpness
        Not in the paper: the gate is raised to this power and normalised, so that above 1 it
        decides more clearly.
    temperature
        Not in the paper: divides the scores of steered heads, whatever the modality.
    """

    first_layer: int
    tau: float = 0.7
    eta: float = 0.6
    gamma: float = 1.4
    beta: float = 0.5
    top_k: int = 4
    psi_hat: float = 0.3
    percentile: float = 80.0
    preference: Preference = "softmax"
    scope: Scope = "decision"
    epsilon_a: float = 1e-6
    epsilon_b: float = 1e-6
    rule: Rule = "preference"
    heads: tuple[tuple[int, int], ...] | None = None
    sharpness: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        ranges = {
            "first_layer": (1, None), "top_k": (0, None), "tau": (0, 1), "eta": (0, 1),
            "gamma": (0, None), "beta": (0, None), "psi_hat": (0, 1), "percentile": (0, 100),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (low <= value and (math.isfinite(value) if high is None else value <= high)):
                text = f"at least {low}" if high is None else f"in [{low}, {high}]"
                raise ValueError(f"{name} is {text}; got {value}")
        for name in ("psi_hat", "epsilon_a", "epsilon_b", "sharpness", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is positive and finite; got {getattr(self, name)}")
        for name, kind in (("preference", Preference), ("scope", Scope), ("rule", Rule)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is one of {get_args(kind)}; got {getattr(self, name)!r}")

    @classmethod
    def at_published_depth(cls, layers: int, **changes: Any) -> SteeringConfig:
        """The published configuration, l_r at the same fraction of a decoder's depth."""
        first = max(1, round(layers * PUBLISHED_FIRST_LAYER / PUBLISHED_LAYERS))
        return cls(**({"first_layer": first} | changes))


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(bad.nonzero()[0].tolist())


def checked_importance(importance: Tensor, visual: Tensor) -> Tensor:
    """Importance ``(B, S)`` as it is, if it is finite and not negative on visual tokens.

    Otherwise S_v would be empty or arbitrary without a word: raises ``ValueError`` that names the
    first row and position, from 0, and its value.
    """
    bad = visual & ~((importance >= 0) & importance.isfinite())
    if bad.any():
        row, at = _first(bad)
        raise ValueError(
            f"importance of visual tokens is finite and at least 0; row {row} of the batch has "
            f"{importance[row, at].item()} at position {at} ({int(bad[row].sum())} such tokens, in "
            f"{int(bad.any(1).sum())} rows); leave that prompt out, or set beta=0"
        )
    return importance


def probable(values: Tensor) -> Tensor:
    """Which values may be probabilities; one that is missing may not."""
    return (values >= 0) & (values <= 1 + 1e-3)


def checked_route(conflict: Tensor, gate: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """p ``(B, C)`` and g ``(B, C, 3)`` as they are, if they are probabilities.

    A comparison with NaN is False, so that it would steer nothing without a word: raises
    ``ValueError`` that names the layer, from 1, the first row and column, from 0, and the value.
    """
    for name, values in (("the conflict probability", conflict), ("the gate", gate)):
        bad = ~probable(values)
        if bad.any():
            row, column, *_ = _first(bad)
            raise ValueError(
                f"{name} is in [0, 1]; in layer {layer}, row {row} of the batch and column "
                f"{column} it is {values[row, column].tolist()}; look at the gate's inputs"
            )
    return conflict, gate


def kl_divergence(p: Tensor, q: Tensor, epsilon: float = 1e-8) -> Tensor:
    """D_KL(p || q) over the last dimension, 0 log 0 = 0 (Eq. 19), natural logarithm."""
    return torch.special.xlogy(p, p).sum(-1) - torch.xlogy(p, q + epsilon).sum(-1)


def js_divergence(p: Tensor, q: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Jensen-Shannon divergence over the last dimension, in [0, log 2] up to epsilon (Eq. 21)."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle, epsilon) + kl_divergence(q, middle, epsilon)) / 2


def head_distance(pi: Tensor, gate: Tensor, epsilon: float = 1e-8) -> Tensor:
    """What orders heads by Eq. 11: twice :func:`js_divergence`, less a number that they share.

    ``pi`` is ``(..., H, 3)``, ``gate`` ``(..., 1, 3)``; that number is the gate's negative entropy.
    """
    middle = torch.lerp(pi, gate, 0.5)
    return torch.sub(pi.xlogy(pi), middle.xlogy(middle + epsilon), alpha=2).sum(-1)


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over the modalities that are present, 0 for the others (E of Eq. 6 and 8).

    All zero where none is present.
    """
    absent = ~present.expand_as(logits)
    return logits.masked_fill(absent, -torch.inf).softmax(-1).masked_fill(absent, 0.0)


def preference(nmas: Tensor, present: Tensor, kind: Preference) -> Tensor:
    """Modality preference of each head, pi (Eq. 6): sums to 1 over present modalities.

    ``nmas`` is ``(..., 3)``, ``present`` bool and broadcastable to it; values of absent modalities
    are ignored. ``softmax`` is Eq. 6 as printed; nMAS is at most one over a modality's tokens, so
    that it stays near uniform. ``share`` divides nMAS by its sum.
    """
    if kind == "softmax":
        return masked_softmax(nmas, present)
    known = nmas.masked_fill(~present, 0.0)
    return known / known.sum(-1, keepdim=True).clamp(min=torch.finfo(nmas.dtype).tiny)


def head_preference(view: LayerView, kind: Preference) -> Tensor:
    """:func:`preference` of a layer's heads, ``(B, C, H, 3)``, in the precision that they need."""

    def make() -> Tensor:
        if kind == "share":
            # Nothing attends to what is absent.
            return preference(view.mass / view.tokens, view.present[:, None, None], kind)
        return view.without_none(torch.addcdiv(view.shut, view.mass, view.tokens).softmax(-1))

    return view.here(kind, make)


def sharpened(gate: Tensor, power: float | Tensor) -> Tensor:
    """The gate to a power, normalised: still a distribution, 0 where it was. An extension."""
    # Relative to the largest, or a high power leaves nothing of any.
    raised = (gate / gate.amax(-1, keepdim=True).clamp(min=torch.finfo(gate.dtype).tiny)).pow(power)
    return raised / raised.sum(-1, keepdim=True).clamp(min=torch.finfo(gate.dtype).tiny)


def top_heads(score: Tensor, k: Tensor) -> Tensor:
    """The k heads of highest score, True in ``(..., C, H)`` (Eq. 11); ties go to the first head.

    ``k`` is ``(C,)`` or one number.
    """
    # Where each head stands in the order is the order of the order.
    rank = score.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return rank < k[..., None]


def target_preference(pi: Tensor, gate: Tensor, strength: Tensor) -> Tensor:
    """pi-hat, the way from pi to the gate by ``strength`` = eta p (Eq. 12)."""
    return torch.lerp(pi, gate, strength)


def inter_bias(target: Tensor, pi: Tensor, epsilon: float | Tensor) -> Tensor:
    """b_m, the log ratio of target and present preference (Eq. 13)."""
    return ((target + epsilon) / (pi + epsilon)).log()


def gate_bias(gate: Tensor, epsilon: float | Tensor) -> Tensor:
    """log g_m, shifted so that the gate's first modality gets 0. An extension."""
    return ((gate + epsilon) / (gate.amax(-1, keepdim=True) + epsilon)).log()


def first_bias(gate: Tensor) -> Tensor:
    """-1 on all modalities but the gate's first: PASTA's scaling of the tokens not attended to."""
    first = gate.argmax(-1, keepdim=True)
    return torch.full_like(gate, -1.0).scatter_(-1, first, 0.0)


def intra_bias(mass: Tensor, psi_hat: float | Tensor, epsilon: float | Tensor) -> Tensor:
    """delta, what lifts attention ``mass`` on S_v towards psi-hat; 0 from there on (Eq. 14).

    Raises ``ValueError`` unless psi-hat is in (0, 1] and epsilon positive.
    """
    for name, value, high in (("psi_hat", psi_hat, 1.0), ("epsilon", epsilon, torch.inf)):
        given = torch.as_tensor(value)
        if not ((given > 0) & (given <= high) & given.isfinite()).all():
            raise ValueError(f"{name} is positive and at most {high}; got {given.tolist()}")
    return lift(mass, psi_hat + epsilon, epsilon)


def lift(mass: Tensor, wanted: float | Tensor, epsilon: float | Tensor) -> Tensor:
    """:func:`intra_bias` for ``wanted`` = psi-hat + epsilon, of which nothing is checked."""
    return (wanted / (mass + epsilon)).log().clamp(min=0)


def significant_tokens(importance: Tensor, visual: Tensor, percentile: Tensor) -> Tensor:
    """S_v: the visual tokens from the P-th percentile of importance on, ``(B, C, S)`` bool.

    ``importance`` and ``visual`` (bool) are ``(B, S)``, ``percentile`` ``(C,)`` in 0..100, with
    linear interpolation. Normalising the scores first, Eq. 25, changes none of it. Prompts without
    visual tokens have an empty set. Raises ``ValueError`` like :func:`checked_importance`, and for
    a percentile out of range.
    """
    if not ((percentile >= 0) & (percentile <= 100)).all():
        raise ValueError(f"a percentile is in [0, 100]; got {percentile.tolist()}")
    # In double precision: at single, a threshold that is a token's own score can pass over it.
    importance = checked_importance(importance, visual).to(exact(visual.device))
    among = importance.masked_fill(~visual, torch.nan)
    threshold = among.nanquantile(percentile.to(among) / 100, dim=1)
    # A comparison with nan, where a prompt has no visual token, is False.
    return (among[:, None] >= threshold.T[..., None]) & visual[:, None]
