"""Router and configuration at work in a model: ``with steer(model, router, config, ids)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention import Bias, DecisionRow, Trace, record
from emomm_lib.chase.equations import (
    SteeringConfig,
    checked_route,
    first_bias,
    gate_bias,
    inter_bias,
    intra_bias,
    js_divergence,
    preference,
    sharpened,
    significant_tokens,
    target_preference,
    top_heads,
)
from emomm_lib.chase.gates import Gate, RouterInput
from emomm_lib.labels import MODALITIES


@dataclass(frozen=True)
class Decisions:
    """What was decided in each layer; NaN and False where a layer had nothing to decide.

    Attributes
    ----------
    conflict
        ``(B, C, L)`` p.
    gate
        ``(B, C, L, 3)`` g.
    heads
        ``(B, C, L, H)`` bool: the heads that Eq. 11 chose in layers with p > tau.
    """

    conflict: Tensor
    gate: Tensor
    heads: Tensor


class Steerer:
    """An intervention of C columns, each a gate and a configuration (Algorithm 1, stage 2).

    Columns share one scope. For a forward pass C is 1; in a replay all are computed at once.

    Parameters
    ----------
    columns
        Gate and configuration of each; a gate that stands in several is asked once a layer.
    modality_ids
        ``(B, S)`` of the prompts.
    importance
        ``(B, S)`` I_k on visual tokens, for configurations with ``beta`` above 0.

    Raises ``ValueError`` when importance is missing, scopes are mixed, or a gate or configuration
    does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        columns: Sequence[tuple[Gate, SteeringConfig]],
        modality_ids: Tensor,
        importance: Tensor | None = None,
    ) -> None:
        if not columns:
            raise ValueError("no column to steer; give at least one gate and configuration")
        configs = [config for _, config in columns]
        text = model.get_decoder().config
        self._layers = text.num_hidden_layers
        for gate, config in columns:
            gate.check(model)
            if config.first_layer > self._layers:
                raise ValueError(
                    f"first_layer is {config.first_layer} and the decoder has {self._layers} layers"
                )
            heads = text.num_attention_heads
            for at, head in config.heads or ():
                if not (config.first_layer <= at <= self._layers and 1 <= head <= heads):
                    raise ValueError(
                        f"heads holds (layer, head) = {at, head}; from first_layer on, layers are "
                        f"{config.first_layer}..{self._layers}, and heads 1..{heads}"
                    )
        if len({config.scope for config in configs}) > 1:
            raise ValueError("columns of one pass share a scope; run 'decision' and 'all' apart")
        self.scope = configs[0].scope
        self.first_layer = min(config.first_layer for config in configs) - 1
        device = modality_ids.device
        one_hot = modality_ids[..., None] == torch.arange(len(MODALITIES), device=device)
        self._counts = one_hot.sum(1)
        self._present = self._counts > 0
        self._config = {
            f.name: torch.tensor(
                [getattr(c, f.name) for c in configs], dtype=torch.float64, device=device
            )
            for f in fields(SteeringConfig)
            if f.type in ("int", "float")
        }
        self._kinds = {
            kind: torch.tensor([c.preference == kind for c in configs], device=device)
            for kind in dict.fromkeys(c.preference for c in configs)
        }
        self._rules = {
            rule: torch.tensor([c.rule == rule for c in configs], device=device)
            for rule in dict.fromkeys(c.rule for c in configs)
        }
        by_gate: dict[int, list[int]] = {}
        for column, (gate, _) in enumerate(columns):
            by_gate.setdefault(id(gate), []).append(column)
        self._gates = [
            (columns[own[0]][0], torch.tensor(own, device=device)) for own in by_gate.values()
        ]
        self._fixed = [config.heads for config in configs]
        self._tempered = any(config.temperature != 1 for config in configs)
        self._significant = self._boost = None
        if any(config.beta > 0 for config in configs):
            if importance is None:
                raise ValueError(
                    "beta above 0 steers towards important visual tokens: give importance "
                    "(chase.saliency computes it), or set beta=0"
                )
            if importance.shape != modality_ids.shape:
                raise ValueError(
                    f"importance {tuple(importance.shape)} is not of the prompts' shape "
                    f"{tuple(modality_ids.shape)}"
                )
            visual = one_hot[..., MODALITIES.index("V")]
            wanted = self._config["percentile"]
            chosen, which = wanted.unique(return_inverse=True)
            self._significant = significant_tokens(importance, visual, chosen)[:, which]
            self._boost = partial(_boost, self._config)
        self._decided: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, row: DecisionRow) -> Bias | None:
        layer = row.layer + 1
        # In double precision: heads differ little, and which of them are chosen hangs on it.
        mass = row.mass.double()
        config = {name: value.to(mass) for name, value in self._config.items()}
        counts = self._counts.to(mass)[:, None, None]
        present = self._present[:, None, None]
        nmas = torch.where(present, mass / counts.clamp(min=1), torch.nan)
        conflict, gate = self._route(row, layer, nmas)
        gate = sharpened(gate, config["sharpness"][:, None])
        pi = self._chosen(
            {kind: preference(nmas, present, kind) for kind in self._kinds}, self._kinds
        )
        strength = (config["eta"] * conflict)[:, None, :, None]
        made = {
            "preference": lambda: inter_bias(
                target_preference(pi, gate[:, None], strength), pi, config["epsilon_a"][:, None]
            ),
            "gate": lambda: gate_bias(gate, config["epsilon_a"][:, None])[:, None].expand_as(pi),
            "first": lambda: first_bias(gate)[:, None].expand_as(pi),
        }
        bias = self._chosen({rule: made[rule]() for rule in self._rules}, self._rules)
        bias = torch.where(present, config["gamma"][:, None] * bias, 0.0)
        heads = top_heads(js_divergence(pi, gate[:, None]), config["top_k"])
        heads = self._with_fixed(heads, layer)
        steered = (conflict > config["tau"]) & (layer >= config["first_layer"])
        heads = heads & (steered & self._present.any(1, keepdim=True))[:, None]
        works = layer >= config["first_layer"]
        self._decided[row.layer] = (
            torch.where(works, conflict, torch.nan).detach(),
            torch.where(works[:, None], gate, torch.nan).detach(),
            heads.transpose(1, 2),
        )
        bias = bias.to(row.mass)
        scale = None
        if self._tempered:
            scale = (1 / config["temperature"]).to(bias).expand(*heads.shape)
        return Bias(heads, bias, scale, self._significant, self._boost)

    def _route(self, row: DecisionRow, layer: int, nmas: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for gate, own in self._gates:
            seen = RouterInput(
                layer,
                row.query_state[:, own],
                row.modality_states,
                row.embedded,
                nmas[:, :, own],
                self._present,
            )
            found.append(gate.route(seen))
        order = torch.cat([own for _, own in self._gates]).argsort()
        conflict, gate = (torch.cat(parts, 1)[:, order] for parts in zip(*found, strict=True))
        return checked_route(conflict.to(nmas), gate.to(nmas), layer)

    @staticmethod
    def _chosen(made: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """Of ``(B, H, C, 3)`` by name, each column's own."""
        names = list(made)
        result = made[names[0]]
        for name in names[1:]:
            result = torch.where(masks[name][:, None], made[name], result)
        return result

    def _with_fixed(self, heads: Tensor, layer: int) -> Tensor:
        for column, pairs in enumerate(self._fixed):
            if pairs is not None:
                own = [head - 1 for at, head in pairs if at == layer]
                heads = heads.clone()
                heads[:, :, column] = False
                heads[:, own, column] = True
        return heads

    @property
    def decisions(self) -> Decisions:
        """Of all layers, after the pass. Raises ``RuntimeError`` when a layer was not reached."""
        expected = range(self.first_layer, self._layers)
        if missing := [i + 1 for i in expected if i not in self._decided]:
            raise RuntimeError(f"decoder layers {missing} were to be steered and did not run")
        conflict, gate, heads = self._decided[self.first_layer]
        blank = (
            torch.full_like(conflict, torch.nan),
            torch.full_like(gate, torch.nan),
            torch.zeros_like(heads),
        )
        layers = [self._decided.get(i, blank) for i in range(self._layers)]
        return Decisions(*(torch.stack(parts, 2) for parts in zip(*layers, strict=True)))


def _boost(config: dict[str, Tensor], mass: Tensor) -> Tensor:
    """beta delta for attention ``(B, H, C or Q)`` on S_v (Eq. 14, 15)."""
    own = {name: config[name].to(mass) for name in ("beta", "psi_hat", "epsilon_b")}
    return own["beta"] * intra_bias(mass, own["psi_hat"], own["epsilon_b"])


@dataclass(frozen=True)
class Steered:
    """A steered pass: its trace, whose attention is the steered one, and what was decided."""

    trace: Trace
    steerer: Steerer

    @property
    def decisions(self) -> Decisions:
        """p, g and the heads by layer; C is 1."""
        return self.steerer.decisions


@contextmanager
def steer(
    model: PreTrainedModel,
    gate: Gate,
    config: SteeringConfig,
    modality_ids: Tensor,
    *,
    importance: Tensor | None = None,
    rows: bool = False,
) -> Iterator[Steered]:
    """Steer a model's attention while it runs one batch, also inside ``generate`` (Sec. 5.2).

    >>> with steer(model, router, config, ids) as steered:      # doctest: +SKIP
    ...     model(**inputs)
    >>> steered.decisions.conflict                              # (B, 1, L)

    Parameters
    ----------
    gate
        A trained :class:`emomm_lib.chase.router.Router`, or another gate.
    modality_ids, rows
        As for :func:`emomm_lib.attention.record`.
    importance
        ``(B, S)`` I_k on visual tokens, by :mod:`emomm_lib.chase.saliency`, when ``beta`` is above
        0.

    Raises like ``record``, and ``ValueError`` like :class:`Steerer`; ``RuntimeError`` when a layer
    that should be steered did not run.
    """
    steerer = Steerer(model, [(gate, config)], modality_ids, importance)
    with record(model, modality_ids, states=False, rows=rows, intervention=steerer) as trace:
        yield Steered(trace, steerer)
    steerer.decisions  # noqa: B018
