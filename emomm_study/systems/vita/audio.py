"""VITA's audio encoder, called Whale, and the adapter that makes tokens of its frames.

Modules carry the names that the published weights have, "adpter" included.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from emomm_study.systems.vita.configuration import ALL, WhaleConfig


def subsampled(frames: torch.Tensor | int) -> torch.Tensor | int:
    """Frames after two convolutions of width 3 and stride 2, without padding."""
    return ((frames - 1) // 2 - 1) // 2


def audio_tokens(frames: torch.Tensor | int) -> torch.Tensor | int:
    """Tokens that so many frames of features become: a quarter, and half of those, rounded up."""
    return (subsampled(frames) + 1) // 2


LEAST_FRAMES = 7
"""Frames of features below which no token comes out."""


def chunk_mask(frames: int, size: int, left: int, device: torch.device | None = None):
    """Which frame (row) may attend to which (column), ``(frames, frames)`` bool.

    A frame sees all of its own chunk of ``size`` frames, later ones included, and ``left`` chunks
    before it; :data:`ALL` for either sets no limit.
    """
    if size == ALL:
        return torch.ones(frames, frames, dtype=torch.bool, device=device)
    chunk = torch.arange(frames, device=device) // size
    behind = chunk[:, None] - chunk
    return (behind >= 0) & ((behind <= left) if left != ALL else True)


def sinusoids(positions: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sines (even) and cosines (odd columns) of absolute positions, ``(positions, width)``."""
    columns = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    rates = torch.exp(columns * (-math.log(10_000.0) / width))
    angles = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Normalization(nn.Module):
    """The features' mean and inverse deviation over the training data, part of the weights."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.num_mel_bins))
        self.register_buffer("istd", torch.ones(config.num_mel_bins))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # In single precision: log energies near 15 keep no half of a deviation in bfloat16.
        return (features.float() - self.mean.float()) * self.istd.float()


class Convolutions(nn.Module):
    """A quarter of the frames: two convolutions over time and frequency, then one row a frame."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels
        self.conv = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2),
            nn.ReLU(),
        )
        self.out = nn.Sequential(nn.Linear(channels * subsampled(config.num_mel_bins), channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps = self.conv(features[:, None])
        return self.out(maps.transpose(1, 2).flatten(2))


class Subsampling(nn.Module):
    """:class:`Convolutions` under the name that the weights have."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.core = Convolutions(config)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.core(features)


class Attention(nn.Module):
    """Attention with terms for content and position, as in Transformer-XL but without its shift.

    Without the shift the term of position depends on where the key is, not on how far.
    """

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.heads, width // self.heads))
        self.pos_bias_v = nn.Parameter(torch.empty(self.heads, width // self.heads))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, width)`` to ``(B, heads, T, width / heads)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def by_position(self, query: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The scores' term of position, ``(B, heads, T, T)``."""
        return (query + self.pos_bias_v[:, None]) @ position.mT

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key = self._split(self.linear_q(x)), self._split(self.linear_k(x))
        scores = (query + self.pos_bias_u[:, None]) @ key.mT
        scores = scores + self.by_position(query, self._split(self.linear_pos(positions)[None]))
        scores = scores / math.sqrt(query.shape[-1])
        # A padded frame may have no key at all: it gets numbers, which nobody reads, and not NaN.
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        heard = weights @ self._split(self.linear_v(x))
        return self.linear_out(heard.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w_2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w_2(functional.relu(self.w_1(x)))


class Layer(nn.Module):
    """Attention, then two linear maps, each on normalized input and added to it."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.norm1(x), positions, mask)
        return x + self.feed_forward(self.norm2(x))


class Layers(nn.Module):
    """All layers, between a linear map at the entrance and a norm at the end."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed = nn.Sequential(
            nn.Linear(config.subsampling_channels, width),
            nn.LayerNorm(width, eps=config.layer_norm_eps),
            nn.ReLU(),
        )
        self.encoders = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.after_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        frames = x.shape[1]
        x = self.embed(x) * math.sqrt(self.config.hidden_size)
        positions = sinusoids(frames, self.config.hidden_size, x.device).to(x.dtype)
        sizes = self.config.chunk_size, self.config.left_chunks
        mask = real[:, None] & chunk_mask(frames, *sizes, device=x.device)
        for layer in self.encoders:
            x = layer(x, positions, mask)
        return self.after_norm(x)


class WhaleEncoder(nn.Module):
    """Features ``(B, frames, mels)`` to a vector for every fourth frame, ``(B, T, hidden)``."""

    def __init__(self, config: WhaleConfig) -> None:
        super().__init__()
        self.global_cmvn = Normalization(config)
        self.enc = nn.ModuleList([Subsampling(config), Layers(config)])

    def forward(self, features: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        convolutions, layers = self.enc
        normalized = self.global_cmvn(features).to(layers.after_norm.weight.dtype)
        return layers(convolutions(normalized), real)


class Adapter(nn.Module):
    """Two frames a token, and the decoder's width."""

    def __init__(self, config: WhaleConfig, output_size: int) -> None:
        super().__init__()
        kernel = config.adapter_kernel_size
        self.padding = kernel - 1
        self.conv1d2 = nn.Conv1d(config.hidden_size, config.adapter_size, kernel, stride=2)
        self.bn2 = nn.LayerNorm(config.adapter_size, eps=config.adapter_norm_eps)
        self.project = nn.Linear(config.adapter_size, output_size)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        x = x.masked_fill(~real[..., None], 0).mT
        x = self.conv1d2(functional.pad(x, (0, self.padding))).mT
        return self.project(functional.gelu(self.bn2(x)))


class Whale(nn.Module):
    """The encoder and its adapter."""

    def __init__(self, config: WhaleConfig, output_size: int) -> None:
        super().__init__()
        self.encoder = WhaleEncoder(config)
        self.adpter = Adapter(config, output_size)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Tokens of each of B sounds, ``(tokens, output_size)``.

        ``features`` is ``(B, frames, mels)``, padded at the right with anything finite; ``lengths``
        ``(B,)`` says how many frames are real, and are integers: halves of floats cannot count
        beyond 2048. Raises ``TypeError`` or ``ValueError`` for lengths that cannot be.
        """
        if lengths.is_floating_point():
            raise TypeError(f"lengths count frames and are integers; got {lengths.dtype}")
        if features.ndim != 3 or lengths.shape != features.shape[:1]:
            raise ValueError(
                "features are (B, frames, mels) and lengths (B,); got "
                f"{tuple(features.shape)} and {tuple(lengths.shape)}"
            )
        for row, length in enumerate(lengths.tolist()):
            if not LEAST_FRAMES <= length <= features.shape[1]:
                raise ValueError(
                    f"sound {row} has {length} frames of {features.shape[1]}; expected "
                    f"{LEAST_FRAMES} or more, which become a token, and no more than there are"
                )
        frames = subsampled(features.shape[1])
        real = torch.arange(frames, device=features.device) < subsampled(lengths)[:, None]
        tokens = self.adpter(self.encoder(features, real), real)
        return [own[:n] for own, n in zip(tokens, audio_tokens(lengths).tolist(), strict=True)]
