"""Where a conflict probability and a gate come from: a router, the labels, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.rows import LayerView


class Gate(Protocol):
    """Anything that says how likely a conflict is, and whom to trust."""

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        """p ``(B, C)`` in 0..1 and g ``(B, C, 3)``, which sums to 1 over present modalities."""

    def take(self, rows: Tensor) -> Gate:
        """The gate of some of the prompts only."""

    def check(self, model: PreTrainedModel) -> None:
        """Raise ``ValueError`` when it cannot work on this model."""


@dataclass(frozen=True)
class ConstantGate:
    """The same p and g in every layer: from the labels, at random, or by decree.

    Attributes
    ----------
    conflict
        ``(B,)`` p in 0..1.
    gate
        ``(B, 3)`` g; what it gives to absent modalities is dealt out to the others.

    Raises ``ValueError`` naming the first row, from 0, in which either is missing, infinite or
    negative.
    """

    conflict: Tensor
    gate: Tensor

    def __post_init__(self) -> None:
        for name, values in (("conflict", self.conflict), ("gate", self.gate)):
            if (bad := ~((values >= 0) & values.isfinite())).any():
                row = int(bad.reshape(len(values), -1).any(1).nonzero()[0])
                raise ValueError(
                    f"{name} is finite and at least 0; row {row} has {values[row].tolist()}"
                )

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        columns = view.query_state.shape[1]
        like = view.mass
        if len(self.conflict) != len(like) or len(self.gate) != len(like):
            raise ValueError(
                f"the batch has {len(like)} prompts, this gate {len(self.conflict)} values of p "
                f"and {len(self.gate)} of g"
            )
        conflict, gate = view.once(id(self), lambda: self._answer(view))
        return conflict[:, None].expand(-1, columns), gate[:, None].expand(-1, columns, -1)

    def _answer(self, view: LayerView) -> tuple[Tensor, Tensor]:
        """p ``(B,)`` and g ``(B, 3)`` over what is present."""
        known = self.gate.to(view.tokens) * view.present
        total = known.sum(-1, keepdim=True)
        even = view.present / view.present.sum(-1, keepdim=True).clamp(min=1)
        gate = torch.where(total > 0, known / total.clamp(min=1e-12), even)
        return self.conflict.to(view.tokens), gate

    def take(self, rows: Tensor) -> ConstantGate:
        return ConstantGate(self.conflict[rows], self.gate[rows])

    def check(self, model: PreTrainedModel) -> None:
        """Any model will do."""
