"""Gates made of gates: another one a prompt, or p of one and g of another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from emomm_lib import Gate, LayerView
from emomm_lib.labels import MODALITIES


@dataclass(frozen=True)
class GateByRow:
    """Another gate for each prompt of a batch, as cross-fitting needs it.

    Attributes
    ----------
    gates
        The gates to choose from.
    index
        ``(B,)`` which of them speaks for each prompt.
    """

    gates: tuple[Gate, ...]
    index: Tensor

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        conflict = view.mass.new_empty(view.query_state.shape[:2])
        gate = view.mass.new_empty(*conflict.shape, len(MODALITIES))
        for i in self.index.unique().tolist():
            mine = self.index == i
            p, g = self.gates[i].take(mine).route(view.take(mine))
            conflict[mine], gate[mine] = p.to(conflict), g.to(gate)
        return conflict, gate

    def take(self, rows: Tensor) -> GateByRow:
        return GateByRow(tuple(gate.take(rows) for gate in self.gates), self.index[rows])

    def check(self, model: PreTrainedModel) -> None:
        for gate in self.gates:
            gate.check(model)


@dataclass(frozen=True)
class Combined:
    """p of one gate and g of another."""

    conflict: Gate
    trust: Gate

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        return self.conflict.route(view)[0], self.trust.route(view)[1]

    def take(self, rows: Tensor) -> Combined:
        return Combined(self.conflict.take(rows), self.trust.take(rows))

    def check(self, model: PreTrainedModel) -> None:
        for gate in (self.conflict, self.trust):
            gate.check(model)
