"""How much memory a model needs, counted by running its own code without weights.

A model on PyTorch's ``meta`` device has shapes and no numbers. Everything that asks it runs as
always, and every tensor that would be there is counted while it would be: keys and values, masks,
activations, logits, what a gradient keeps. So there is no second description of the model to go out
of date. Not counted are what kernels take for themselves, and rounding and gaps of an allocator.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, ValuesView
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from emomm_lib.chase.saliency import gradient_importance
from emomm_study.media.video import Frames
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.table import class_of

_ATEN = torch.ops.aten
_NUMBERS = (_ATEN._local_scalar_dense, _ATEN.item)
_META = torch.device("meta")


class _Weightless:
    """A kind of backbone whose tokens are numbers and whose weights are none."""

    placed = "cpu"

    @property
    def device(self) -> torch.device:
        """Where its tokens are; its settings name the device where it would compute."""
        return torch.device("cpu")

    def settings(self) -> dict[str, Any]:
        """Those of the model with its weights on the device that it would compute on."""
        return super().settings() | {"device": torch.device(self.placed).type}  # type: ignore[misc]


def load_weightless(
    name_or_path: str | Path, *, dtype: str = "auto", device: str = "cpu", **options: Any
) -> Backbone:
    """A checkpoint as ``table.load_system`` opens it, without its weights.

    Its settings and fingerprint are those that it has with them: what it was asked is found in a
    store. Raises as ``load_system`` does, and ``NotImplementedError`` for a kind that has no
    ``blank``.
    """
    found = class_of(name_or_path)
    if not issubclass(found, Backbone) or found.blank is Backbone.blank:
        raise NotImplementedError(f"{found.__name__} does not say how many tokens a clip becomes")
    kind = type(f"Weightless{found.__name__}", (_Weightless, found), {"placed": device})
    return kind.load(name_or_path, dtype=dtype, device=device, weights=False, **options)


def bytes_of_weights(model: torch.nn.Module) -> int:
    """Bytes of a model's weights and buffers, those that are tied once."""
    own = {id(x): x.nbytes for x in (*model.parameters(), *model.buffers())}
    return sum(own.values())


class _Attention(TorchFunctionMode):
    """Keeps attention in one kernel, as devices do it: in pieces it would hold all weights."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        heads = query.shape[1]
        key, value = (
            x if x.shape[1] == heads else x[:, :1].expand(-1, heads, -1, -1) for x in (key, value)
        )
        return _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]


@cache
def _in_pieces(func: Any) -> bool:
    """Whether an operator is made of others, which the dispatcher has not taken apart."""
    kind = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), kind)


class Counting(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it and not yet gone.

    Attributes
    ----------
    now, peak
        Bytes of those that are there, and their most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs.values())))
        shapes_alone = any(x.is_meta for x in given)
        if shapes_alone and func.overloadpacket in _NUMBERS:
            return torch.zeros((), dtype=given[0].dtype).item()
        if _in_pieces(func):
            with self:
                return func.decompose(*args, **kwargs)
        if shapes_alone:
            wanted = kwargs.get("device")
            if func.overloadpacket is _ATEN._to_copy and wanted is not None:
                # Numbers that are asked for are zeros.
                dtype = kwargs.get("dtype") or given[0].dtype
                made = torch.zeros(given[0].shape, dtype=dtype, device=wanted)
                return self._noted(made)
            if not all(x.is_meta for x in given):
                args, kwargs = tree_map_only(Tensor, _shape_of, (args, kwargs))
            if wanted is not None:
                kwargs = kwargs | {"device": _META}
        return self._noted(func(*args, **kwargs), given)

    def _noted(self, made: Any, given: Sequence[Tensor] = ()) -> Any:
        for tensor in _tensors((made,)):
            storage = tensor.untyped_storage()
            # A view of what was there before, as of a weight, takes nothing.
            own = storage._cdata
            if own in self._live or any(x.untyped_storage()._cdata == own for x in given):
                continue
            self._live[own] = storage.nbytes()
            self.now += self._live[own]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, own)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self._live.pop(key)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among an operator's arguments or results, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple, ValuesView)):
            yield from _tensors(value)


def _shape_of(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)


@contextmanager
def counting() -> Iterator[Counting]:
    """Count what is made of tensors inside the block, by models with weights or without."""
    with _Attention(), Counting() as count:
        yield count


Clip = tuple[tuple[int, int, int], int]
"""Frames as (number, height, width), and samples of sound."""


def bytes_of_encoding(model: Backbone, clip: Clip) -> int:
    """The most that encoding takes beside the weights, for a batch of one clip."""
    frames, samples = clip
    media = Media(Frames(np.zeros((*frames, 3), np.uint8), fps=1.0), np.zeros(samples, np.float32))
    with counting() as count:
        model.encode([media])
    return count.peak


def bytes_of_pass(
    model: Backbone, queries: Sequence[Query], *, trace: bool = True, states: bool = True
) -> int:
    """The most that answers to some questions take beside the weights; clips are :meth:`blank`."""
    held = {id(x): x for q in queries for x in (q.clip.video, q.clip.audio) if x is not None}
    with counting() as count:
        model.answer(queries, trace=trace, states=states)
    return count.peak + sum(x.nbytes for x in held.values())


def bytes_of_gradient(model: Backbone, query: Query) -> int:
    """The most that the gradient of one prompt takes beside the weights."""
    with counting() as count:
        prompt = model.prepare([query])
        gradient_importance(
            model.model,
            _shape_of(prompt.inputs_embeds),
            prompt.attention_mask,
            prompt.position_ids,
            prompt.modality_ids,
            model.letter_weights,
        )
    return count.peak
