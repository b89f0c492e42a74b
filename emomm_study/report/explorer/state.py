"""What the explorer's controls are set to, apart from any widget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate, Gate
from emomm_lib.chase.router import Router
from emomm_lib.labels import MODALITIES, coalition_modalities

BY_HAND = "by hand"
"""In place of a router's name: p and trust are set by the reader."""
SMALLEST = 1e-6
"""Stands for the open end of a range that begins above zero."""


@dataclass(frozen=True)
class Control:
    """A number that can be moved.

    Attributes
    ----------
    name
        Field of ``SteeringConfig``; ``conflict``, ``trust_t``, ``trust_a`` or ``trust_v`` of the
        gate by hand.
    symbol
        As the paper writes it.
    tip
        What it does, with the equation.
    low, high
        All values that it can have; ``high`` may be infinite.
    end
        Where its slider ends at first; a larger value that is typed moves the end.
    step
        Of the slider; what is typed is not rounded.
    """

    name: str
    symbol: str
    tip: str
    low: float
    high: float
    end: float
    step: float

    @property
    def whole(self) -> bool:
        """Whether it is an integer."""
        return self.name in ("top_k", "first_layer")

    @property
    def start(self) -> float:
        """Where its slider begins."""
        return self.step if self.low == SMALLEST else self.low

    def number(self, given: object) -> float:
        """What was given as its number; ``ValueError`` for none, and for a part of a whole one."""
        if given is None:
            raise ValueError(f"{self.symbol} needs a number")
        if self.whole and not float(given).is_integer():
            raise ValueError(f"{self.symbol} is a whole number; got {given}")
        return int(given) if self.whole else float(given)


def controls(layers: int, heads: int) -> tuple[Control, ...]:
    """The steering's controls for a decoder of this size: all values its configuration accepts."""
    far = math.inf
    return (
        Control("tau", "τ", "a layer is steered where p exceeds it", 0, 1, 1, 0.01),
        Control("eta", "η", "share of the way from preference to gate (Eq. 12)", 0, 1, 1, 0.01),
        Control("gamma", "γ", "strength of the inter-modality bias (Eq. 15)", 0, far, 12, 0.1),
        Control("beta", "β", "strength of the intra-modality bias (Eq. 15)", 0, far, 4, 0.05),
        Control("top_k", "K", "heads steered in a layer (Eq. 11)", 0, far, heads, 1),
        Control("psi_hat", "ψ̂", "attention that important visual tokens should get (Eq. 14)",
                SMALLEST, 1, 1, 0.01),
        Control("percentile", "P", "percentile from which a visual token is important",
                0, 100, 100, 1),
        Control("first_layer", "l_r", "first layer that is steered", 1, layers, layers, 1),
        Control("sharpness", "sharpness", "power of the gate, an extension",
                SMALLEST, far, 8, 0.25),
    )  # fmt: skip


HAND_CONTROLS = (
    Control("conflict", "p", "conflict probability in every layer", 0, 1, 1, 0.01),
    *(
        Control(f"trust_{m.lower()}", f"trust {m}", f"g of {m} before normalising", 0, 1, 1, 0.01)
        for m in MODALITIES
    ),
)


@dataclass(frozen=True, kw_only=True)
class ExplorerState:
    """One setting of all controls: a prompt, a configuration and a gate.

    Attributes
    ----------
    sample_id, coalition
        The prompt.
    config
        The steering; its scope is ``decision``, the only one that can be replayed.
    gate
        A router's name, or ``BY_HAND``.
    conflict, trust
        p and the weights of T, A, V of a gate by hand, in [0, 1]; not used by a router. What is
        given to absent modalities goes to the others; weights that are all zero count as equal.

    Raises ``ValueError`` for an unknown coalition, a number out of its range, and another scope.
    """

    sample_id: str
    coalition: str
    config: SteeringConfig
    gate: str
    conflict: float = 1.0
    trust: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        coalition_modalities(self.coalition)
        if self.config.scope != "decision":
            raise ValueError(f"the explorer replays scope 'decision'; got {self.config.scope!r}")
        for control in HAND_CONTROLS:
            if not 0 <= self.value(control.name) <= 1:
                raise ValueError(f"{control.symbol} is in [0, 1]; got {self.value(control.name)}")

    def value(self, name: str) -> float:
        """What a control of this name is set to."""
        if name.startswith("trust_"):
            return self.trust[MODALITIES.index(name[-1].upper())]
        return self.conflict if name == "conflict" else getattr(self.config, name)

    def moved(self, name: str, value: float | str) -> ExplorerState:
        """The same with one control elsewhere; raises ``ValueError`` where it cannot be."""
        if name.startswith("trust_"):
            place = MODALITIES.index(name[-1].upper())
            return replace(self, trust=(*self.trust[:place], value, *self.trust[place + 1 :]))
        if name in {field.name for field in fields(self)}:
            return replace(self, **{name: value})
        return replace(self, config=replace(self.config, **{name: value}))

    def column(self, routers: Mapping[str, Router]) -> tuple[Gate, SteeringConfig]:
        """Gate and configuration for ``Inspection.steered``; ``KeyError`` for an unknown router."""
        if self.gate != BY_HAND:
            return routers[self.gate], self.config
        return ConstantGate(torch.tensor([self.conflict]), torch.tensor([self.trust])), self.config

    def code(self) -> str:
        """Python that gives the same answer, where ``bench`` and ``routers`` are those explored."""
        given = {"first_layer": self.config.first_layer}
        for field in fields(SteeringConfig)[1:]:
            value = getattr(self.config, field.name)
            if field.name in _ALWAYS or value != field.default:
                given[field.name] = value
        settings = [f"{name}={value!r}," for name, value in given.items()]
        lines = ["from emomm_lib.chase.equations import SteeringConfig"]
        if self.gate == BY_HAND:
            lines = ["import torch", "from emomm_lib.chase.gates import ConstantGate", *lines]
            gate = (
                f"ConstantGate(torch.tensor([{self.conflict!r}]), "
                f"torch.tensor([{list(self.trust)!r}]))"
            )
        else:
            gate = f"routers[{self.gate!r}]"
        return "\n".join(
            [
                *lines,
                "",
                "clips = bench.clips.set_index('sample_id', drop=False)",
                f"seen = bench.inspect(clips.loc[{self.sample_id!r}], {self.coalition!r})",
                f"gate = {gate}",
                "config = SteeringConfig(",
                *(f"    {' '.join(settings[i : i + 4])}" for i in range(0, len(settings), 4)),
                ")",
                "[look] = seen.steered([(gate, config)])",
                "print(look.letters)",
            ]
        )


_ALWAYS = {control.name for control in controls(1, 1)} | {"preference", "rule"}
