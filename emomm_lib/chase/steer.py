"""Router and configuration at work in a model: steered passes, and replays on cached prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.hook import instead
from emomm_lib.attention.record import Trace, record
from emomm_lib.attention.replay import Prefill, Replayed, replay_decision
from emomm_lib.attention.rows import Bias, LayerView
from emomm_lib.chase.equations import (
    Rule,
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
from emomm_lib.chase.gates import Gate
from emomm_lib.chase.saliency import attention_importance
from emomm_lib.labels import MODALITIES

Kind = TypeVar("Kind", bound=str)


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
        ``(B, S)`` I_k on visual tokens, for configurations with ``beta`` above 0; it can also be
        given later, by :meth:`look_at`, before the model runs.

    Raises ``ValueError`` when scopes are mixed, or a gate or configuration does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        columns: Sequence[tuple[Gate, SteeringConfig]],
        modality_ids: Tensor,
        importance: Tensor | None = None,
    ) -> None:
        _check_columns(model, columns)
        configs = [config for _, config in columns]
        self._layers = model.get_decoder().config.num_hidden_layers
        self.scope = configs[0].scope
        self.first_layer = min(config.first_layer for config in configs)
        device = modality_ids.device
        self._ids = modality_ids
        self._config = {
            f.name: torch.tensor(
                [getattr(c, f.name) for c in configs], dtype=torch.float64, device=device
            )
            for f in fields(SteeringConfig)
            if f.type in ("int", "float")
        }
        self._kinds = _by_value([c.preference for c in configs], device)
        self._rules = _by_value([c.rule for c in configs], device)
        by_gate: dict[int, list[int]] = {}
        for column, (gate, _) in enumerate(columns):
            by_gate.setdefault(id(gate), []).append(column)
        self._gates = [
            (columns[own[0]][0], torch.tensor(own, device=device)) for own in by_gate.values()
        ]
        self._fixed = [config.heads for config in configs]
        self._tempered = any(config.temperature != 1 for config in configs)
        self.needs_importance = any(config.beta > 0 for config in configs)
        self._significant: Tensor | None = None
        self._boost = partial(_boost, self._config)
        if importance is not None:
            self.look_at(importance)
        self._decided: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def look_at(self, importance: Tensor) -> None:
        """Take S_v from importance ``(B, S)``; nothing to do where no ``beta`` is above 0.

        Raises ``ValueError`` for another shape.
        """
        if not self.needs_importance:
            return
        if importance.shape != self._ids.shape:
            raise ValueError(
                f"importance {tuple(importance.shape)} is not of the prompts' shape "
                f"{tuple(self._ids.shape)}"
            )
        visual = self._ids == MODALITIES.index("V")
        chosen, which = self._config["percentile"].unique(return_inverse=True)
        self._significant = significant_tokens(importance, visual, chosen)[:, which]

    def __call__(self, view: LayerView) -> Bias | None:
        if self.needs_importance and self._significant is None:
            raise ValueError(
                "beta above 0 steers towards important visual tokens: give importance "
                "(emomm_lib.gradient_importance computes it), or set beta=0"
            )
        # In double precision: heads differ little, and which of them are chosen hangs on it.
        exact = replace(view, mass=view.mass.double())
        config = {name: value.to(exact.mass) for name, value in self._config.items()}
        conflict, gate = self._route(exact)
        gate = sharpened(gate, config["sharpness"][:, None])
        present = view.present[:, None, None]
        pi = _chosen(
            {kind: preference(exact.nmas, present, kind) for kind in self._kinds}, self._kinds
        )
        bias = self._bias(config, pi, conflict, gate)
        bias = torch.where(present, bias, 0.0).to(view.mass)
        heads = top_heads(js_divergence(pi, gate[:, :, None]), config["top_k"])
        heads = self._with_fixed(heads, view.layer)
        works = view.layer >= config["first_layer"]
        steered = (conflict > config["tau"]) & works & view.present.any(1, keepdim=True)
        heads = heads & steered[..., None]
        self._decided[view.layer] = (
            torch.where(works, conflict, torch.nan).detach(),
            torch.where(works[:, None], gate, torch.nan).detach(),
            heads,
        )
        scale = None
        if self._tempered:
            scale = (1 / config["temperature"]).to(bias)[:, None].expand(*heads.shape)
        return Bias(heads, bias, scale, self._significant, self._boost)

    def _bias(
        self, config: dict[str, Tensor], pi: Tensor, conflict: Tensor, gate: Tensor
    ) -> Tensor:
        """gamma b ``(B, C, H, 3)``, each column by its own rule (Eq. 12, 13)."""
        epsilon = config["epsilon_a"][:, None]
        strength = (config["eta"] * conflict)[..., None, None]
        by_head = gate[:, :, None]
        made: dict[Rule, Callable[[], Tensor]] = {
            "preference": lambda: inter_bias(
                target_preference(pi, by_head, strength), pi, epsilon[:, None]
            ),
            "gate": lambda: gate_bias(gate, epsilon)[:, :, None].expand_as(pi),
            "first": lambda: first_bias(gate)[:, :, None].expand_as(pi),
        }
        bias = _chosen({rule: made[rule]() for rule in self._rules}, self._rules)
        return config["gamma"][:, None, None] * bias

    def _route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        found = [gate.route(view.columns(own)) for gate, own in self._gates]
        order = torch.cat([own for _, own in self._gates]).argsort()
        conflict, gate = (torch.cat(parts, 1)[:, order] for parts in zip(*found, strict=True))
        return checked_route(conflict.to(view.mass), gate.to(view.mass), view.layer)

    def _with_fixed(self, heads: Tensor, layer: int) -> Tensor:
        for column, pairs in enumerate(self._fixed):
            if pairs is not None:
                own = [head - 1 for at, head in pairs if at == layer]
                heads = heads.clone()
                heads[:, column] = False
                heads[:, column, own] = True
        return heads

    @property
    def decisions(self) -> Decisions:
        """Of all layers, after the pass. Raises ``RuntimeError`` when a layer was not reached."""
        expected = range(self.first_layer, self._layers + 1)
        if missing := [layer for layer in expected if layer not in self._decided]:
            raise RuntimeError(f"decoder layers {missing} were to be steered and did not run")
        conflict, gate, heads = self._decided[self.first_layer]
        blank = (
            torch.full_like(conflict, torch.nan),
            torch.full_like(gate, torch.nan),
            torch.zeros_like(heads),
        )
        layers = [self._decided.get(layer, blank) for layer in range(1, self._layers + 1)]
        return Decisions(*(torch.stack(parts, 2) for parts in zip(*layers, strict=True)))


def _check_columns(model: PreTrainedModel, columns: Sequence[tuple[Gate, SteeringConfig]]) -> None:
    if not columns:
        raise ValueError("no column to steer; give at least one gate and configuration")
    text = model.get_decoder().config
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    for gate, config in columns:
        gate.check(model)
        if config.first_layer > layers:
            raise ValueError(
                f"first_layer is {config.first_layer} and the decoder has {layers} layers"
            )
        for at, head in config.heads or ():
            if not (config.first_layer <= at <= layers and 1 <= head <= heads):
                raise ValueError(
                    f"heads holds (layer, head) = {at, head}; from first_layer on, layers are "
                    f"{config.first_layer}..{layers}, and heads 1..{heads}"
                )
    if len({config.scope for _, config in columns}) > 1:
        raise ValueError("columns of one pass share a scope; run 'decision' and 'all' apart")


def _by_value(values: Sequence[Kind], device: torch.device) -> dict[Kind, Tensor]:
    """Which columns ``(C,)`` have each value."""
    return {
        value: torch.tensor([own == value for own in values], device=device)
        for value in dict.fromkeys(values)
    }


def _chosen(made: dict[Kind, Tensor], columns: dict[Kind, Tensor]) -> Tensor:
    """Of ``(B, C, H, 3)`` by name, each column's own."""
    names = list(made)
    result = made[names[0]]
    for name in names[1:]:
        result = torch.where(columns[name][:, None, None], made[name], result)
    return result


def _boost(config: dict[str, Tensor], mass: Tensor) -> Tensor:
    """beta delta for attention ``(B, C or Q, H)`` on S_v (Eq. 14, 15)."""
    own = {name: config[name].to(mass)[:, None] for name in ("beta", "psi_hat", "epsilon_b")}
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
        A trained :class:`emomm_lib.Router`, or another gate.
    modality_ids, rows
        As for :func:`emomm_lib.record`.
    importance
        ``(B, S)`` I_k on visual tokens, when ``beta`` is above 0: the paper's by
        :func:`emomm_lib.gradient_importance`. Without it, attention on them stands in, for which
        the decoder computes the prompt once more, unsteered, when it is first run.

    Raises like ``record``, and ``ValueError`` like :class:`Steerer`; ``RuntimeError`` when a layer
    that should be steered did not run.
    """
    steerer = Steerer(model, [(gate, config)], modality_ids, importance)
    with record(model, modality_ids, states=False, rows=rows, intervention=steerer) as trace:
        if steerer.needs_importance and importance is None:
            with _looking_first(model, steerer, modality_ids):
                yield Steered(trace, steerer)
        else:
            yield Steered(trace, steerer)
    steerer.decisions  # noqa: B018


@contextmanager
def _looking_first(
    model: PreTrainedModel, steerer: Steerer, modality_ids: Tensor
) -> Iterator[None]:
    """Run the decoder's first pass twice: first as it is, for the importance of visual tokens."""

    layers = model.get_decoder().config.num_hidden_layers

    def look(decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        handle.remove()
        plain = Trace(modality_ids, layers, states=False, rows=False)
        with torch.no_grad(), instead(model, plain):
            decoder(*args, **{**kwargs, "past_key_values": None, "use_cache": False})
        steerer.look_at(attention_importance(plain.mean_attention, modality_ids))

    handle = model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def replay(
    prompts: Prefill,
    columns: Sequence[tuple[Gate, SteeringConfig]],
    *,
    importance: Tensor | None = None,
    rows: bool = False,
    at_once: int = 128,
) -> tuple[Replayed, Decisions]:
    """The decision tokens under C gates and configurations; equal to C steered forward passes.

    Costs C decision tokens, not C prompts. Parameters as for :func:`steer`, whose stand-in for
    importance is in the prefill already; all scopes must be ``decision``. ``at_once`` columns are
    computed together, which takes memory of B H C S numbers several times over.
    """
    if at_once < 1:
        raise ValueError(f"at_once is at least 1; got {at_once}")
    if importance is None and any(config.beta > 0 for _, config in columns):
        importance = attention_importance(prompts.trace.mean_attention, prompts.modality_ids)
    parts, decided = [], []
    for start in range(0, max(len(columns), 1), at_once):
        own = columns[start : start + at_once]
        steerer = Steerer(prompts.model, own, prompts.modality_ids, importance)
        parts.append(replay_decision(prompts, columns=len(own), intervention=steerer, rows=rows))
        decided.append(steerer.decisions)
    if len(parts) == 1:
        return parts[0], decided[0]
    return _joined(parts), _joined(decided)


Part = TypeVar("Part", Replayed, Decisions)


def _joined(parts: Sequence[Part]) -> Part:
    """Columns of several replays side by side."""
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            joined[field.name] = None
        elif isinstance(values[0], list):
            joined[field.name] = [torch.cat(layer, 2) for layer in zip(*values, strict=True)]
        else:
            joined[field.name] = torch.cat(values, 1)
    return type(parts[0])(**joined)
