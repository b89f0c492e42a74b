"""First stage of a small model's training: its eyes and ears, each on its own.

With only a sentiment loss at the end of the decoder the vision tower stays at chance for a long
time, so both towers first learn from dense targets that a renderer knows: which part of the face a
token shows, what class it expresses and how emphatically. The heads for these targets are thrown
away afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from emomm_lib.labels import CLASSES
from emomm_study.mini.model.bank import FRAMES, PARTS, Bank
from emomm_study.mini.model.mini import Mini

Log = Callable[[str], None]


def optimizer_and_schedule(
    parameters: Iterator[nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up over 5% of the steps and a cosine to a fiftieth of the rate."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def take_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One update with gradients clipped to norm 1, which are then dropped."""
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)


def _batches(n: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = np.concatenate([rng.permutation(n) for _ in range(-(-steps * size // n))])
    for step in range(steps):
        yield order[step * size : (step + 1) * size]


class _Heads(nn.Module):
    """Throw-away heads: part of the picture, class, emphasis."""

    def __init__(self, hidden: int, parts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.part = nn.Linear(hidden, parts) if parts else None
        self.shown = nn.Linear(hidden, len(CLASSES))
        self.emphatic = nn.Linear(hidden, 1)


def _expression_loss(
    heads: _Heads,
    tokens: torch.Tensor,
    owner: torch.Tensor,
    shown: torch.Tensor,
    emph: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and emphasis read off every token; ``owner`` says which clip a token is of.

    Returns the loss, and the accuracy of the class by the tokens' mean logits.
    """
    hidden = heads.norm(tokens)
    logits = heads.shown(hidden)
    loss = functional.cross_entropy(logits, shown[owner], label_smoothing=0.02)
    loss = loss + 0.3 * functional.binary_cross_entropy_with_logits(
        heads.emphatic(hidden)[:, 0], emph[owner].float()
    )
    pooled = torch.zeros(len(shown), logits.shape[1]).index_add_(0, owner, logits.detach())
    return loss, (pooled.argmax(1) == shown).float().mean()


def _resampled(parts: np.ndarray, height: int, width: int) -> np.ndarray:
    """A grid of parts ``(h, w)`` on another: what the middle of each of its cells shows."""
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(int)
        for n, old in zip((height, width), parts.shape, strict=True)
    )
    return parts[np.ix_(rows, columns)]


def train_vision(
    mini: Mini,
    bank: Bank,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
    evidence: Collection[str] = PARTS[1:],
) -> float:
    """Train the vision tower on pairs of frames; returns its last running class accuracy.

    Class and emphasis are asked of the tokens that show a part in ``evidence``, of all others only
    what part they show.
    """
    tower = mini.eyes
    heads = _Heads(mini.hidden, len(PARTS))
    optimizer, schedule = optimizer_and_schedule(
        iter([*tower.parameters(), *heads.parameters()]), rate, steps
    )
    rng = np.random.default_rng([seed, 1])
    weight = torch.tensor([0.3, 1.0, 1.5, 1.5])
    telling = torch.tensor([part in evidence for part in PARTS])
    began, running = time.time(), 0.2
    for step, index in enumerate(_batches(len(bank), batch, steps, rng)):
        pair = rng.integers(0, FRAMES // 2, len(index))
        mirror = rng.random(len(index)) < 0.5
        videos, parts = [], []
        for i, p, flip in zip(index, pair, mirror, strict=True):
            step_x = -1 if flip else 1
            video = bank.frames(i)[2 * p : 2 * p + 2, :, ::step_x]
            videos.append(np.ascontiguousarray(video))
            parts.append(bank.parts[i, p][:, ::step_x])
        seen = mini.see(videos)
        moments, height, width = seen.shape[1:4]
        # One grid holds for both frames of a pair, whether they make one step of time or two.
        grids = np.stack([_resampled(grid, height, width) for grid in parts])
        part = torch.from_numpy(grids.repeat(moments, 0).reshape(-1).astype(np.int64))
        tokens = seen.flatten(0, 3)
        loss = 0.5 * functional.cross_entropy(heads.part(heads.norm(tokens)), part, weight=weight)
        asked = telling[part]
        owner = torch.arange(len(index)).repeat_interleave(grids[0].size * moments)[asked]
        expression, accuracy = _expression_loss(
            heads,
            tokens[asked],
            owner,
            torch.from_numpy(bank.shown[index, 1]),
            torch.from_numpy(bank.emphatic[index, 1]),
        )
        (loss + expression).backward()
        take_step(tower, optimizer, schedule)
        running = 0.98 * running + 0.02 * accuracy.item()
        if step % 50 == 49 or step == steps - 1:
            log(
                f"vision {step + 1}/{steps} parts {loss.item():.3f} expression "
                f"{expression.item():.3f} accuracy {running:.3f} {time.time() - began:.0f} s"
            )
    return running


def train_audio(
    mini: Mini,
    features: torch.Tensor,
    extents: torch.Tensor,
    bank: Bank,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
) -> float:
    """Train the audio tower on :meth:`Mini.sounds`; returns its last running class accuracy."""
    mini.fit_to(features, extents)
    tower = mini.ears
    heads = _Heads(mini.hidden, 0)
    optimizer, schedule = optimizer_and_schedule(
        iter([*tower.parameters(), *heads.parameters()]), rate, steps
    )
    began, running = time.time(), 0.2
    for step, index in enumerate(
        _batches(len(bank), batch, steps, np.random.default_rng([seed, 2]))
    ):
        tokens, lengths = mini.hear(features[index].float(), extents[index])
        owner = torch.arange(len(index)).repeat_interleave(lengths)
        loss, accuracy = _expression_loss(
            heads,
            tokens,
            owner,
            torch.from_numpy(bank.shown[index, 0]),
            torch.from_numpy(bank.emphatic[index, 0]),
        )
        loss.backward()
        take_step(tower, optimizer, schedule)
        running = 0.98 * running + 0.02 * accuracy.item()
        if step % 50 == 49 or step == steps - 1:
            log(
                f"audio {step + 1}/{steps} loss {loss.item():.3f} accuracy {running:.3f} "
                f"{time.time() - began:.0f} s"
            )
    return running
