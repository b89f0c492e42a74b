"""The conflict detection router: from a layer's states to p and g (Sec. 5.1, Eq. 6-8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.rows import LayerView
from emomm_lib.chase.equations import Preference, head_preference
from emomm_lib.chase.saved import (
    FIELDS,
    Inputs,
    find_files,
    read_config,
    read_weights,
    write_folder,
)
from emomm_lib.labels import MODALITIES


def layer_input(query_state: Tensor, modality_states: Tensor, pi: Tensor) -> Tensor:
    """x = [h_q; h_T; h_A; h_V; pi] of Sec. 5.1, ``(..., 4 D + 3)``.

    ``query_state`` is ``(..., D)``, ``modality_states`` ``(..., 3, D)``, ``pi`` ``(..., 3)`` the
    mean preference of the layer's heads.
    """
    return torch.cat([query_state, modality_states.flatten(-2), pi], -1)


class Router(nn.Module):
    """Two MLPs of one hidden layer, shared by all layers from l_r on.

    Eq. 7 and 8 write them as linear maps; Sec. 6.1 gives the hidden size used here.

    Parameters
    ----------
    state_size, layers
        D and L of the decoder that it reads.
    fingerprint
        Of that model's weights.
    first_layer
        l_r, counted from 1: the first layer it was trained on.
    hidden
        Width of each MLP; 0 for linear maps.
    preference_kind
        How it sees pi (Eq. 6).
    inputs
        ``layer`` as published: each layer's own x. ``embedded``, an extension: the modalities'
        mean states as they enter the first layer, before they have mixed; p and g are then the
        same in every layer.
    """

    def __init__(
        self,
        *,
        state_size: int,
        layers: int,
        fingerprint: str,
        first_layer: int,
        hidden: int = 128,
        preference_kind: Preference = "softmax",
        inputs: Inputs = "layer",
    ) -> None:
        super().__init__()
        if inputs not in get_args(Inputs):
            raise ValueError(f"inputs is one of {get_args(Inputs)}; got {inputs!r}")
        if hidden < 0:
            raise ValueError(f"hidden is a width, or 0 for linear maps; got {hidden}")
        if not 1 <= first_layer <= layers:
            raise ValueError(f"first_layer is in 1..{layers}, the decoder's layers; {first_layer=}")
        self.state_size, self.layers, self.fingerprint = state_size, layers, fingerprint
        self.hidden = hidden
        self.first_layer, self.preference_kind, self.inputs = first_layer, preference_kind, inputs
        modalities = len(MODALITIES)
        layered = (1 + modalities) * state_size + modalities
        width = layered if inputs == "layer" else modalities * state_size
        self.mean: Tensor
        self.scale: Tensor
        # Of the training prompts, where training standardizes; else no change.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.conflict_head = _mlp(width, hidden, 1)
        self.gate_head = _mlp(width, hidden, len(MODALITIES))

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of p ``(...)`` (Eq. 7) and of g ``(..., 3)``, -inf where absent (Eq. 8).

        ``x`` ``(..., F)`` is :func:`layer_input`, or the three embedded means in a row;
        ``present`` is bool and broadcastable to g.
        """
        x = (x - self.mean) / self.scale
        gate = self.gate_head(x)
        return self.conflict_head(x)[..., 0], gate.masked_fill(~present.expand_as(gate), -torch.inf)

    def route(self, view: LayerView) -> tuple[Tensor, Tensor]:
        """p and g in one layer of a running model (:class:`emomm_lib.chase.gates.Gate`)."""
        columns = view.query_state.shape[1]
        if self.inputs == "embedded":
            x = view.embedded.flatten(1)[:, None].expand(-1, columns, -1)
            return view.once((id(self), columns), lambda: self._answer(x, view))
        pi = head_preference(view, self.preference_kind).mean(2)
        states = view.modality_states[:, None].expand(-1, columns, -1, -1)
        query = view.query_state
        return self._answer(layer_input(query, states.to(query), pi.to(query)), view)

    def _answer(self, x: Tensor, view: LayerView) -> tuple[Tensor, Tensor]:
        """p and g as :meth:`forward` has them, in fewer operations."""
        columns = x.shape[1]
        x = (x.to(self.mean).flatten(0, 1) - self.mean) / self.scale
        conflict = gate = x
        if len(self.gate_head) > 1:
            weight, bias = view.once(id(self), self._first_layers)
            conflict, gate = nn.functional.linear(x, weight, bias).relu().tensor_split(2, -1)
        shut = view.once((id(self), "shut", columns), lambda: self._shut(view, columns))
        logits = torch.addmm(shut, gate, self.gate_head[-1].get_parameter("weight").T)
        said = self.conflict_head[-1](conflict).sigmoid(), logits.softmax(-1)
        conflict, shares = (x.unflatten(0, (-1, columns)) for x in said)
        return conflict[..., 0], view.without_none(shares)

    def _first_layers(self) -> tuple[Tensor, Tensor]:
        """Weights and biases of both first layers, one below the other."""
        heads, names = (self.conflict_head, self.gate_head), ("0.weight", "0.bias")
        weight, bias = (torch.cat([x.get_parameter(name) for x in heads]) for name in names)
        return weight, bias

    def _shut(self, view: LayerView, columns: int) -> Tensor:
        """``(B C, 3)`` the gate's last bias, minus infinity where a modality is absent."""
        bias = view.shut[:, 0].to(self.mean) + self.gate_head[-1].get_parameter("bias")
        return bias.expand(-1, columns, -1).flatten(0, 1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and a card, a folder that the hub takes, too."""
        config: dict[str, Any] = {name: getattr(self, name) for name in FIELDS}
        write_folder(Path(folder), config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, device: str | None = None
    ) -> Router:
        """The router of a folder by :meth:`save_pretrained`, or of a hub id, bit for bit.

        ``revision`` is the hub's branch, tag or commit. The router is in evaluation mode, on the CPU
        unless ``device`` says otherwise. Raises ``FileNotFoundError`` where there is none, and
        ``ValueError`` that names file and key for what is not a router's. Whether it belongs to a
        model is for :func:`load_router` and :meth:`check` to say.
        """
        config, weights = find_files(source, revision)
        # On meta, so that nothing is allocated before the file's shapes are known to fit.
        with torch.device("meta"):
            router = cls(**read_config(config))
        router.load_state_dict(read_weights(weights, router.state_dict()), assign=True)
        return router.to(device or "cpu").eval()

    def take(self, rows: Tensor) -> Router:
        """Itself: it knows no prompt by its place."""
        return self

    def check(self, model: PreTrainedModel) -> None:
        """Raise ``ValueError`` for a decoder of another depth or width."""
        text = model.get_decoder().config
        shape = text.num_hidden_layers, text.hidden_size
        if shape != (self.layers, self.state_size):
            raise ValueError(
                f"this router reads a decoder of {self.layers} layers of size {self.state_size}; "
                f"{type(model).__name__} has {shape[0]} of size {shape[1]}. Train one for it"
            )
        if self.mean.device != model.device:
            raise ValueError(
                f"the router is on {self.mean.device} and the model on "
                f"{model.device}; call router.to(model.device)"
            )


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def load_router(
    source: str | Path, model: PreTrainedModel, fingerprint: str, *, device: str | None = None
) -> Router:
    """A router by :meth:`Router.from_pretrained`, for the model that it was trained on.

    ``source`` is a folder or a hub id, ``fingerprint`` that of the model's weights
    (``OmniModel.fingerprint``). Raises as there, and ``ValueError`` when it was trained on a model of
    another shape or fingerprint.
    """
    router = Router.from_pretrained(source, device=device or str(model.device))
    if router.fingerprint != fingerprint:
        raise ValueError(
            f"{source}: the router was trained on the model of fingerprint {router.fingerprint}, "
            f"this one is {fingerprint}; its states mean something else. Train one for it"
        )
    router.check(model)
    return router
