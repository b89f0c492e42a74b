"""Exchange of a decoder's attention function, by transformers' public interfaces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import PreTrainedModel

_PREFIX = "emomm_"
_KNOWN = ("sdpa", "eager")
_UNKNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments of an attention function that change its scores in ways not repeated here."""


@dataclass(frozen=True)
class Call:
    """One call of a layer's attention function.

    Attributes
    ----------
    kernel
        The function that the model would call, given all the rest.
    query, key, value
        ``(B, H, Q, d)``, ``(B, H_kv, K, d)``, ``(B, H_kv, K, d)``, rotated.
    mask
        ``(B or 1, H or 1, Q, K or more)``, bool or additive, or None.
    given
        Everything else: scaling, window, causality.
    """

    module: nn.Module
    kernel: partial[tuple]
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    given: dict[str, Any]

    @property
    def scaling(self) -> float | None:
        """Of the scores; None for that by the root of d."""
        return self.given.get("scaling")

    def output(self) -> tuple[Tensor, Tensor | None]:
        """What the model's own function returns: ``(B, Q, H, d)``, and weights or None."""
        return self.kernel(self.query, self.key, self.value, self.mask, **self.given)

    def one_key_a_head(self) -> Callable[..., tuple]:
        """The kernel for keys and values that no two heads share."""
        return partial(self.kernel.func, _OneKeyAHead(self.module))

    def check_known(self) -> None:
        """Raise ``NotImplementedError`` for scores that this package would compute otherwise."""
        if unknown := [name for name in _UNKNOWN if self.given.get(name) is not None]:
            raise NotImplementedError(
                f"{type(self.module).__name__} gives its attention {unknown}, which cannot be "
                "recorded"
            )


class _OneKeyAHead:
    """An attention module in all but how many heads share a key: none do."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Watcher(Protocol):
    """What is told of every decoder layer while a model runs, and may answer in its place."""

    def enter(self, layer: int, hidden: Tensor, past: int) -> None:
        """A layer is about to compute ``hidden`` (B, positions, D) after ``past`` cached ones."""

    def attend(self, layer: int, call: Call) -> tuple[Tensor, Tensor | None]:
        """What the attention function returns, as :meth:`Call.output` does."""

    def leave(self) -> None:
        """The decoder has computed all of its layers."""


Watching = TypeVar("Watching", bound=Watcher)
_ACTIVE: WeakKeyDictionary[nn.Module, tuple[int, list[Watcher]]] = WeakKeyDictionary()
"""Of each attention module its layer, from 0, and who watches it: the last of them is told."""


def _watched(
    base: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **given: Any,
) -> tuple:
    """The attention function of a watched layer."""
    call = Call(module, partial(_kernel(base, module), module), query, key, value, mask, given)
    if (active := _ACTIVE.get(module)) is None:
        return call.output()
    layer, watchers = active
    return watchers[-1].attend(layer, call)


def _kernel(base: str, module: nn.Module) -> Callable:
    if base == "eager":
        # Each modeling file has its own, which is not registered anywhere.
        return sys.modules[type(module).__module__].eager_attention_forward
    return AttentionInterface()[base]


@cache
def _register() -> None:
    """Enter the watched attention functions into transformers' tables, once a process."""
    for base, mask in (("sdpa", sdpa_mask), ("eager", eager_mask)):
        AttentionInterface.register(_PREFIX + base, partial(_watched, base))
        # Without a mask function of the same name, transformers passes no mask at all.
        AttentionMaskInterface.register(_PREFIX + base, mask)


def decoder_attention(model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module]]:
    """The decoder's layers in order, each as (layer, its attention module).

    Found by what they are, the innermost modules that know a layer index and causality and hold
    the text configuration, since their paths differ between architectures and releases. Raises
    ``NotImplementedError`` when that does not give one attention module a layer.
    """
    decoder = model.get_decoder()
    text = decoder.config
    # Plain attributes: looking one up that a module lacks would cost more than all the rest.
    named = {
        name: module
        for name, module in decoder.named_modules()
        if vars(module).get("config") is text
        and isinstance(vars(module).get("layer_idx"), int)
        and "is_causal" in vars(module)
    }
    inner = [n for n in named if not any(m.startswith(n + ".") for m in named)]
    found = sorted((named[n].layer_idx, n) for n in inner)
    wanted = text.num_hidden_layers
    if [index for index, _ in found] != list(range(wanted)):
        raise NotImplementedError(
            f"{type(model).__name__}: expected one attention module in each of {wanted} decoder "
            f"layers, found {[n for _, n in found]}; this architecture cannot be recorded"
        )
    return [(decoder.get_submodule(n.rpartition(".")[0]), named[n]) for _, n in found]


@contextmanager
def watched(model: PreTrainedModel, make: Callable[[int], Watching]) -> Iterator[Watching]:
    """Have a watcher told of every decoder layer; ``make`` is given the number of layers.

    The model is left as it was, also after an exception; meanwhile nothing runs as ``torch.compile``
    has it. Raises ``RuntimeError`` when it is watched already, ``NotImplementedError`` for an
    architecture or attention implementation that cannot be.
    """
    decoder = model.get_decoder()
    base = decoder.config._attn_implementation
    if base.startswith(_PREFIX):
        raise RuntimeError(
            "this model is being recorded already; records, steering and replays do not nest"
        )
    if base not in _KNOWN:
        raise NotImplementedError(
            f"attention implementation {base!r} cannot be recorded; call "
            'model.set_attn_implementation("sdpa") first'
        )
    layers = decoder_attention(model)
    watcher = make(len(layers))
    watchers: list[Watcher] = [watcher]
    _register()
    with ExitStack() as undo:
        if "torch._dynamo" in sys.modules:
            # A compiled model would go on as it was compiled, and miss what is exchanged here.
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        # The empty key: this configuration alone, and none below it.
        undo.callback(decoder.set_attn_implementation, {"": base})
        decoder.set_attn_implementation({"": _PREFIX + base})
        for index, (layer, attention) in enumerate(layers):
            undo.callback(_ACTIVE.pop, attention, None)
            _ACTIVE[attention] = index, watchers
            hook = partial(_before_layer, index, watchers)
            undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        undo.callback(decoder.register_forward_hook(lambda *_: watchers[-1].leave()).remove)
        yield watcher


@contextmanager
def instead(model: PreTrainedModel, watcher: Watcher) -> Iterator[None]:
    """Have another watcher told of a model that is :func:`watched`, for a pass of one's own."""
    _, attention = decoder_attention(model)[0]
    _, watchers = _ACTIVE[attention]
    watchers.append(watcher)
    try:
        yield
    finally:
        watchers.pop()


def _before_layer(
    index: int, watchers: list[Watcher], layer: nn.Module, args: tuple, kwargs: dict
) -> None:
    hidden = args[0] if args else kwargs["hidden_states"]
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length(index))
    watchers[-1].enter(index, hidden, past)
