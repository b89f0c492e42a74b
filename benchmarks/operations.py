"""What a pass launches in each decoder layer, and what makes the host wait for the device there."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_utils import PreTrainedModel

FREE = frozenset(
    "alias as_strided detach empty empty_like empty_strided expand lift_fresh new_empty permute "
    "promote_types select slice split split_with_sizes squeeze t transpose unbind unsqueeze view "
    "_unsafe_view".split()
)
"""Operations that only look at memory differently, or reserve it: a device is given nothing to do."""
WAITING = frozenset(
    "_local_scalar_dense equal is_nonzero item lift_fresh masked_select nonzero _unique2 "
    "unique_dim unique_consecutive".split()
)
"""Operations whose result the host must have before it goes on, or (``lift_fresh``) that bring numbers
which it made itself."""


@dataclass(frozen=True)
class Operation:
    """One operation: its name, whether it is in double precision, and whether the host waits."""

    name: str
    double: bool
    waits: bool

    @property
    def launched(self) -> bool:
        return self.name not in FREE


class Counted(TorchDispatchMode):
    """Notes every operation under the decoder layer in which it runs, from 0; None outside of all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: int | None = None
        self.of: dict[int | None, list[Operation]] = defaultdict(list)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
            for tree in ((args, kwargs), result)
        )
        name = func.overloadpacket.__name__
        double = any(x.dtype == torch.float64 for x in made)
        self.of[self.layer].append(Operation(name, double, _waits(name, args, given, made)))
        return result

    def launched(self, layer: int | None) -> int:
        """Operations that a device has to run in a layer."""
        return sum(operation.launched for operation in self.of[layer])

    def waiting(self, layer: int | None) -> list[str]:
        """Names of those in a layer for which the host waits."""
        return [operation.name for operation in self.of[layer] if operation.waits]


def _waits(name: str, args: tuple, given: list[Tensor], made: list[Tensor]) -> bool:
    if name in WAITING:
        return True
    if name.startswith("index"):
        # How many a mask chooses is known only when it has been counted.
        return any(x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, Tensor))
    if name in ("_to_copy", "copy_"):
        return len({x.device for x in (*given, *made)}) > 1
    return False


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[Counted]:
    """Count what runs inside, by decoder layer, whatever else is told of these layers.

    To be entered inside ``record`` or ``steer``, or around a replay.
    """
    counts = Counted()

    def now(layer: int | None) -> Callable[..., None]:
        def note(*_: Any) -> None:
            counts.layer = layer

        return note

    layers = model.get_decoder().layers
    hooks = [x.register_forward_pre_hook(now(i), prepend=True) for i, x in enumerate(layers)]
    try:
        with counts:
            # Hooks that a replay registers inside come before these, and run in the layer.
            hooks += [x.register_forward_hook(now(None)) for x in layers]
            yield counts
    finally:
        for hook in hooks:
            hook.remove()
