"""Router and configuration at work in a model: steered passes, and replays on cached prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.hook import instead
from emomm_lib.attention.record import Trace, record
from emomm_lib.attention.replay import Prefill, Replayed, replay_decision
from emomm_lib.attention.rows import Bias, LayerView, exact
from emomm_lib.chase.equations import (
    Rule,
    SteeringConfig,
    checked_route,
    first_bias,
    gate_bias,
    head_distance,
    head_preference,
    inter_bias,
    lift,
    probable,
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

    ahead = None

    def __init__(
        self,
        model: PreTrainedModel,
        columns: Sequence[tuple[Gate, SteeringConfig]],
        modality_ids: Tensor,
        importance: Tensor | None = None,
    ) -> None:
        _check_columns(model, columns)
        configs = [config for _, config in columns]
        text, device = model.get_decoder().config, modality_ids.device
        self._layers = text.num_hidden_layers
        self.scope = configs[0].scope
        self.first_layer = min(config.first_layer for config in configs)
        self._ids, self._configs = modality_ids, configs
        self._kinds = list(dict.fromkeys(config.preference for config in configs))
        self._rules = list(dict.fromkeys(config.rule for config in configs))
        by_gate: dict[int, list[int]] = {}
        for column, (gate, _) in enumerate(columns):
            by_gate.setdefault(id(gate), []).append(column)
        self._gates: list[tuple[Gate, slice]] = []
        order: list[int] = []
        for own in by_gate.values():
            self._gates.append((columns[own[0]][0], slice(len(order), len(order) + len(own))))
            order += own
        # Brought to the device here: in a layer the host would have to wait for it.
        self._config = _side_by_side(configs, order, text, exact(device), device)
        self._differs = {
            n for n in ("sharpness", "temperature") for c in configs if vars(c)[n] != 1
        }
        self.needs_importance = any(config.beta > 0 for config in configs)
        self._significant: Tensor | None = None
        if importance is not None:
            self.look_at(importance)
        self._said: dict[int, tuple[Tensor, Tensor]] = {}
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
        visual, device = self._ids == MODALITIES.index("V"), self._ids.device
        every = [config.percentile for config in self._configs]
        chosen = sorted(set(every))
        found = significant_tokens(importance, visual, torch.tensor(chosen, device=device))
        which = torch.tensor([chosen.index(own) for own in every], device=device)
        self._significant = found[:, which]

    def __call__(self, view: LayerView) -> Bias | None:
        if self.needs_importance and self._significant is None:
            raise ValueError(
                "beta above 0 steers towards important visual tokens: give importance "
                "(emomm_lib.gradient_importance computes it), or set beta=0"
            )
        config = view.once("config", lambda: _moved(self._config, view.mass.device))
        # In double precision: heads differ little, and which of them are chosen hangs on it.
        pi = _chosen({kind: head_preference(view, kind) for kind in self._kinds}, config)
        conflict, said = self._route(view, config)
        if "sharpness" in self._differs:
            gate = sharpened(said.to(pi), config["sharpness"][:, None])
        else:
            # A router's shares sum to 1 in single precision.
            total = said.sum(-1, keepdim=True, dtype=pi.dtype)
            gate = said / total.clamp(min=torch.finfo(pi.dtype).tiny)
        heads = top_heads(head_distance(pi, gate[:, :, None]), config["top_k"])
        if any(own.heads is not None for own in self._configs):
            heads = torch.where(config["is_fixed"], config["heads"][view.layer - 1], heads)
        above = view.once("above", lambda: _above(config, view.some))[view.layer - 1]
        heads = heads & (conflict > above)[..., None]
        self._said[view.layer] = conflict.detach(), said.detach()
        self._decided[view.layer] = conflict.detach(), gate.detach(), heads
        bias = self._bias(config, pi, conflict, gate).to(view.mass)
        scale = None
        if "temperature" in self._differs:
            scale = (1 / config["temperature"]).to(bias)[:, None].expand(*heads.shape)
        boost = view.once("boost", lambda: _boost_by(config, bias.dtype))
        fixed = ({head for at, head in c.heads or () if at == view.layer} for c in self._configs)
        most = max(c.top_k if c.heads is None else len(own)
                   for c, own in zip(self._configs, fixed, strict=True))  # fmt: skip
        return Bias(heads, bias, scale, self._significant, boost, most)

    def _bias(
        self, config: dict[str, Tensor], pi: Tensor, conflict: Tensor, gate: Tensor
    ) -> Tensor:
        """gamma b ``(B, C, H, 3)``, each column by its own rule (Eq. 12, 13)."""
        epsilon = config["epsilon_a"][:, None]
        strength = (config["eta"] * conflict)[..., None, None]
        made: dict[Rule, Callable[[], Tensor]] = {
            "preference": lambda: inter_bias(
                target_preference(pi, gate[:, :, None], strength), pi, epsilon[:, None]
            ),
            "gate": lambda: gate_bias(gate, epsilon)[:, :, None].expand_as(pi),
            "first": lambda: first_bias(gate)[:, :, None].expand_as(pi),
        }
        bias = _chosen({rule: made[rule]() for rule in self._rules}, config)
        return config["gamma"][:, None, None] * bias

    def _route(self, view: LayerView, config: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """p and g as the gates say them, each asked once about all columns that it stands in."""
        if len(self._gates) == 1:
            conflict, gate = self._gates[0][0].route(view)
        else:
            together = view.columns(config["order"])
            found = [gate.route(together.columns(own)) for gate, own in self._gates]
            back = config["back"]
            conflict, gate = (torch.cat(parts, 1)[:, back] for parts in zip(*found, strict=True))
        expected = view.query_state.shape[:2]
        if conflict.shape != expected or gate.shape != (*expected, len(MODALITIES)):
            raise ValueError(
                f"layer {view.layer}: a gate gives p as {(*expected,)} and g as {(*expected, 3)}; "
                f"got {tuple(conflict.shape)} and {tuple(gate.shape)}"
            )
        return conflict.to(view.mass.device), gate.to(view.mass.device)

    def check(self) -> None:
        """Raise ``ValueError``, as :func:`checked_route`, where a gate said what is no probability.

        Of all layers that ran since it was last asked, in one look: each has the host wait.
        """
        said, self._said = self._said, {}
        if not said:
            return
        every = [probable(x.to(self._ids.device)).all() for pair in said.values() for x in pair]
        if not bool(torch.stack(every).all()):
            for layer, (conflict, gate) in said.items():
                checked_route(conflict, gate, layer)

    @property
    def decisions(self) -> Decisions:
        """Of all layers, after the pass. Raises ``RuntimeError`` when a layer was not reached."""
        expected = range(self.first_layer, self._layers + 1)
        if missing := [layer for layer in expected if layer not in self._decided]:
            raise RuntimeError(f"decoder layers {missing} were to be steered and did not run")
        device = self._ids.device
        blank = tuple(torch.zeros_like(x) for x in self._decided[self.first_layer])
        layers = [self._decided.get(layer, blank) for layer in range(1, self._layers + 1)]
        conflict, gate, heads = (
            torch.stack([x.to(device) for x in parts], 2) for parts in zip(*layers, strict=True)
        )
        idle = ~self._config["works"].T
        return Decisions(
            conflict.to(exact(device)).masked_fill(idle, torch.nan),
            gate.masked_fill(idle[..., None], torch.nan),
            heads,
        )


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


def _side_by_side(
    configs: Sequence[SteeringConfig],
    order: Sequence[int],
    text: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """Numbers of C configurations ``(C,)`` by name, which columns have a kind, and what follows.

    That is ``works`` ``(L, C)`` from l_r on, ``heads`` ``(L, C, H)`` that are fixed in the columns
    ``is_fixed`` ``(C, 1)``, and ``order``, columns of a gate side by side, with the way ``back``.
    """
    names = [f.name for f in fields(SteeringConfig) if f.type in ("int", "float")]
    table = torch.tensor([[vars(c)[name] for c in configs] for name in names], dtype=dtype)
    made = dict(zip(names, table.to(device), strict=True))
    for kind in {kind for c in configs for kind in (c.preference, c.rule)}:
        made[kind] = torch.tensor([kind in (c.preference, c.rule) for c in configs])
    shape = text.num_hidden_layers, len(configs), text.num_attention_heads
    made["heads"] = torch.zeros(shape, dtype=torch.bool)
    for column, config in enumerate(configs):
        for layer, head in config.heads or ():
            made["heads"][layer - 1, column, head - 1] = True
    made["is_fixed"] = torch.tensor([[config.heads is not None] for config in configs])
    made["order"] = torch.tensor(order)
    made["back"] = made["order"].argsort()
    layers = torch.arange(1, shape[0] + 1, device=device)
    made["works"] = layers[:, None] >= made["first_layer"]
    return _moved(made, device)


def _moved(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _chosen(made: dict[Kind, Tensor], columns: dict[str, Tensor]) -> Tensor:
    """Of ``(B, C, H, 3)`` by name, each column's own."""
    names = list(made)
    result = made[names[0]]
    for name in names[1:]:
        result = torch.where(columns[name][:, None, None], made[name], result)
    return result


def _above(config: dict[str, Tensor], some: Tensor) -> Tensor:
    """``(L, B, C)`` what p must exceed: tau, or infinity where nothing is to be steered."""
    return torch.where(config["works"][:, None] & some, config["tau"], torch.inf)


def _boost_by(config: dict[str, Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """beta delta for attention ``(B, C or Q, H)`` on S_v (Eq. 14, 15)."""
    names = "beta", "psi_hat", "epsilon_b"
    beta, psi_hat, epsilon = (config[name].to(dtype)[:, None] for name in names)
    wanted = psi_hat + epsilon
    return lambda mass: beta * lift(mass, wanted, epsilon)


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
