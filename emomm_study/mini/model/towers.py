"""First stage of Omni-mini's training: its eyes and ears, each on its own.

With only a sentiment loss at the end of the decoder the vision tower stays at chance for a long
time, so both towers first learn from dense targets that a renderer knows: which part of the face a
token shows, what class it expresses and how emphatically. The heads for these targets are thrown
away afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from emomm_lib.labels import CLASSES
from emomm_study.mini.model.bank import FRAMES, PARTS, Bank

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


def video_pixels(
    processor: Qwen2_5OmniProcessor, videos: list[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches and grid of videos ``(F, H, W, 3)`` by the processor that inference uses, too."""
    done = processor.video_processor(videos, return_tensors="pt", do_sample_frames=False)
    return done["pixel_values_videos"], done["video_grid_thw"]


def train_vision(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    processor: Qwen2_5OmniProcessor,
    bank: Bank,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
) -> float:
    """Train the vision tower on pairs of frames; returns its last running class accuracy."""
    tower = model.model.visual
    heads = _Heads(model.config.text_config.hidden_size, len(PARTS))
    optimizer, schedule = optimizer_and_schedule(
        iter([*tower.parameters(), *heads.parameters()]), rate, steps
    )
    rng = np.random.default_rng([seed, 1])
    weight = torch.tensor([0.3, 1.0, 1.5, 1.5])
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
        pixels, grid = video_pixels(processor, videos)
        tokens = tower(pixels, grid_thw=grid).pooler_output
        part = torch.from_numpy(np.stack(parts).reshape(-1).astype(np.int64))
        loss = 0.5 * functional.cross_entropy(heads.part(heads.norm(tokens)), part, weight=weight)
        face = part > 0
        owner = torch.arange(len(index)).repeat_interleave(parts[0].size)[face]
        expression, accuracy = _expression_loss(
            heads,
            tokens[face],
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


def audio_features(
    processor: Qwen2_5OmniProcessor, waves: list[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel features and their mask, as the processor makes them for inference."""
    done = processor.feature_extractor(
        [w.astype(np.float32) for w in waves],
        sampling_rate=16_000,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return done["input_features"], done["attention_mask"]


def audio_tokens(
    model: Qwen2_5OmniThinkerForConditionalGeneration, features: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Audio embeddings of a batch, concatenated, and how many each clip has."""
    done = model.get_audio_features(features, feature_attention_mask=mask)
    lengths = model.model.audio_tower._get_feat_extract_output_lengths(mask.sum(-1))[1]
    return done.last_hidden_state, lengths


def train_audio(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    features: torch.Tensor,
    masks: torch.Tensor,
    bank: Bank,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
) -> float:
    """Train the audio tower; returns its last running class accuracy."""
    tower = model.model.audio_tower
    heads = _Heads(model.config.text_config.hidden_size, 0)
    optimizer, schedule = optimizer_and_schedule(
        iter([*tower.parameters(), *heads.parameters()]), rate, steps
    )
    began, running = time.time(), 0.2
    for step, index in enumerate(
        _batches(len(bank), batch, steps, np.random.default_rng([seed, 2]))
    ):
        tokens, lengths = audio_tokens(model, features[index].float(), masks[index])
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
