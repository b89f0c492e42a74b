"""Gates made of gates, another one a prompt or p of one and g of another; and recorded ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
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

    _sorted: Tensor = field(init=False, repr=False, compare=False)
    _back: Tensor = field(init=False, repr=False, compare=False)
    _own: tuple[tuple[Gate, slice], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Here and not in every layer: to see who speaks for whom, the host waits for the device.
        index, device = self.index.cpu(), self.index.device
        order = index.argsort(stable=True)
        asked, counts = (x.tolist() for x in index.unique(return_counts=True))
        ends = itertools.pairwise(itertools.accumulate(counts, initial=0))
        own = []
        for i, (start, end) in zip(asked, ends, strict=True):
            rows = order[start:end].to(device)
            own.append((self.gates[int(i)].take(rows), slice(start, end)))
        object.__setattr__(self, "_sorted", order.to(device))
        object.__setattr__(self, "_back", order.argsort().to(device))
        object.__setattr__(self, "_own", tuple(own))

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        if len(self.index) != len(view.mass):
            raise ValueError(
                f"the batch has {len(view.mass)} prompts, this gate an index of {len(self.index)}"
            )
        together = view.take(self._sorted, view.once((id(self), "known"), dict))
        said = [
            gate.route(together.take(own, together.once((id(self), own.start), dict)))
            for gate, own in self._own
        ]
        conflict, gate = (torch.cat(parts)[self._back] for parts in zip(*said, strict=True))
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


@dataclass(frozen=True)
class GateByLayer:
    """What was said of each prompt before, said again layer by layer, whatever the layer sees now.

    Attributes
    ----------
    conflict
        ``(B, L)`` p in 0..1, in every layer of the decoder.
    gate
        ``(B, L, 3)`` g, which sums to 1 over the modalities that the prompt holds.

    Raises ``ValueError`` where the two have not one number of prompts and layers.
    """

    conflict: Tensor
    gate: Tensor

    def __post_init__(self) -> None:
        if self.gate.shape != (*self.conflict.shape, len(MODALITIES)):
            raise ValueError(
                f"p is (B, L) and g (B, L, 3); got {tuple(self.conflict.shape)} and "
                f"{tuple(self.gate.shape)}"
            )

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        if len(self.conflict) != len(view.mass):
            raise ValueError(
                f"the batch has {len(view.mass)} prompts, this gate was recorded of "
                f"{len(self.conflict)}"
            )
        columns = view.query_state.shape[1]
        conflict, gate = self.conflict[:, view.layer - 1], self.gate[:, view.layer - 1]
        return conflict[:, None].expand(-1, columns), gate[:, None].expand(-1, columns, -1)

    def take(self, rows: Tensor) -> GateByLayer:
        return GateByLayer(self.conflict[rows], self.gate[rows])

    def check(self, model: PreTrainedModel) -> None:
        """Raise ``ValueError`` for a decoder of another depth."""
        layers = model.get_decoder().config.num_hidden_layers
        if layers != self.conflict.shape[1]:
            raise ValueError(
                f"this gate was recorded in {self.conflict.shape[1]} layers, the decoder has "
                f"{layers}; record it of this model"
            )
