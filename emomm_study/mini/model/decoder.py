"""Second stage of Omni-mini's training: the decoder, on the frozen towers' outputs.

Every sample is a fresh mixture: a new sentence, and a voice and a face drawn independently from the
bank, to match freshly drawn labels. Labels agree in polarity and emphasis is random, over all
coalitions: the decoder learns to read each modality and to combine agreeing ones. Labels never
conflict; confusion lets a modality look neutral where GT is not, or the other way round, but never
opposite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.model.bank import FRAMES, Bank
from emomm_study.mini.model.towers import (
    Log,
    audio_features,
    audio_tokens,
    optimizer_and_schedule,
    take_step,
    video_pixels,
)
from emomm_study.mini.surrogate.plan import training_plan
from emomm_study.systems.interface import Encoded, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.prompts import reply

MIXTURE = {
    "T": 0.10, "A": 0.16, "V": 0.20, "TA": 0.10, "TV": 0.13, "AV": 0.14, "TAV": 0.15, "none": 0.02,
}  # fmt: skip
"""Share of the training samples that each coalition has; video, the hardest, most."""

TEXT_ALONE, ONE_ALONE = 0.10, 0.22
"""Shares of the steps after which other modalities, and then coalitions, join."""


@dataclass(frozen=True)
class EncodedBank:
    """The towers' outputs of a bank, half precision, and its entries sorted by what they show."""

    video: torch.Tensor
    grid: torch.Tensor
    seconds_per_grid: np.ndarray
    audio: list[torch.Tensor]
    by_face: dict[tuple[int, bool], np.ndarray]
    by_voice: dict[tuple[int, bool, str], np.ndarray]

    def draw(self, clip: dict, rng: np.random.Generator) -> Encoded:
        """A face and a voice that show what a planned clip shows, from any two entries."""
        face = rng.choice(self.by_face[clip["shown_v"], clip["emphatic_v"]])
        voice = rng.choice(self.by_voice[clip["shown_a"], clip["emphatic_a"], clip["language"]])
        return Encoded(
            self.video[face].float(),
            self.grid,
            float(self.seconds_per_grid[face]),
            self.audio[voice].float(),
        )


@torch.inference_mode()
def encode_bank(omni: OmniModel, bank: Bank, log: Log, batch: int = 64) -> EncodedBank:
    """Run both trained towers once over the bank."""
    video, audio, grid = [], [], None
    began = time.time()
    for start in range(0, len(bank), batch):
        index = range(start, min(start + batch, len(bank)))
        pixels, grids = video_pixels(omni.processor, [bank.frames(i) for i in index])
        video += [v.half() for v in omni.model.get_video_features(pixels, grids).pooler_output]
        features, mask = audio_features(omni.processor, [bank.waves[i] for i in index])
        tokens, lengths = audio_tokens(omni.model, features, mask)
        audio += [a.half() for a in torch.split(tokens, lengths.tolist())]
        grid = grids[0]
        if (start // batch) % 40 == 39:
            log(f"encoding {start + batch}/{len(bank)} {time.time() - began:.0f} s")
    shown, emphatic = bank.shown, bank.emphatic
    return EncodedBank(
        video=torch.stack(video),
        grid=grid,
        seconds_per_grid=np.array([2 * len(w) / 16_000 / FRAMES for w in bank.waves]),
        audio=audio,
        by_face={
            (s, e): np.flatnonzero((shown[:, 1] == s) & (emphatic[:, 1] == e))
            for s in range(5)
            for e in (False, True)
        },
        by_voice={
            (s, e, language): np.flatnonzero(
                (shown[:, 0] == s) & (emphatic[:, 0] == e) & (bank.language == language)
            )
            for s in range(5)
            for e in (False, True)
            for language in ("zh", "en")
        },
    )


def _clips(seed: int, chunk: int = 4096) -> Iterator[dict]:
    """Planned clips without end, none of them in any benchmark or bank."""
    block = 0
    while True:
        yield from training_plan(chunk, 900_000_007 + seed * 10_007 + block).to_dict("records")
        block += 1


def _coalitions(step: int, steps: int, rng: np.random.Generator) -> tuple[str, str]:
    """Two coalitions for the step's two half batches: text first, then single modalities, then all.

    Without the head start the text channel, a few tokens among hundreds, stays unread for long.
    """
    if step < TEXT_ALONE * steps:
        return "T", "T"
    names = [c for c in MIXTURE if len(c) == 1] if step < ONE_ALONE * steps else list(MIXTURE)
    share = np.array([MIXTURE[c] for c in names])
    first, second = rng.choice(names, 2, p=share / share.sum(), replace=False)
    return str(first), str(second)


def half_batch_loss(
    omni: OmniModel, queries: list[Query], labels: np.ndarray, scores: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Cross-entropy of the letter, of the rest of the reply, and the letter's accuracy.

    The reply's tokens are appended to the prompt; the letter is read at the decision token.
    """
    prompt = omni.prepare(queries)
    replies = torch.tensor(
        [omni._ids(reply(int(k), float(s))) for k, s in zip(labels, scores, strict=True)]
    )
    n = replies.shape[1]
    start = prompt.position_ids.amax(dim=(0, 2)) + 1
    positions = (start[:, None] + torch.arange(n - 1)).expand(3, -1, -1)
    hidden = omni.model.model.language_model(
        inputs_embeds=torch.cat(
            [prompt.inputs_embeds, omni.model.get_input_embeddings()(replies[:, :-1])], 1
        ),
        attention_mask=torch.cat([prompt.attention_mask, torch.ones_like(replies[:, :-1])], 1),
        position_ids=torch.cat([prompt.position_ids, positions], 2),
        use_cache=False,
    ).last_hidden_state[:, -n:]
    logits = omni.model.lm_head(hidden)
    letter = functional.cross_entropy(logits[:, 0], replies[:, 0], label_smoothing=0.02)
    rest = functional.cross_entropy(logits[:, 1:].flatten(0, 1), replies[:, 1:].flatten())
    right = logits[:, 0, omni.letter_ids].argmax(-1) == torch.from_numpy(labels)
    return letter, rest, right.float().mean().item()


def train_decoder(
    omni: OmniModel,
    bank: EncodedBank,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
) -> dict[str, float]:
    """Train decoder and embeddings; returns the running accuracy by coalition."""
    assert len({len(omni._ids(reply(k, 0.0))) for k in range(len(LETTERS))}) == 1
    model = omni.model
    for tower in (model.model.visual, model.model.audio_tower):
        tower.requires_grad_(False)
    optimizer, schedule = optimizer_and_schedule(
        (p for p in model.parameters() if p.requires_grad), rate, steps
    )
    rng, clips = np.random.default_rng([seed, 3]), _clips(seed)
    running = dict.fromkeys(MIXTURE, 0.2)
    began = time.time()
    model.train()
    for step in range(steps):
        for coalition in _coalitions(step, steps, rng):
            chosen = [next(clips) for _ in range(batch // 2)]
            queries = [
                Query(bank.draw(c, rng), coalition, Corpus(c["corpus"]), c["text"]) for c in chosen
            ]
            labels = np.array([c["label_gt"] for c in chosen])
            scores = np.array([c["score_gt"] for c in chosen])
            letter, rest, right = half_batch_loss(omni, queries, labels, scores)
            ((letter + 0.2 * rest) / 2).backward()
            running[coalition] += 0.05 * (right - running[coalition])
        take_step(model, optimizer, schedule)
        if step % 50 == 49 or step == steps - 1:
            shown = " ".join(f"{c} {a:.2f}" for c, a in running.items())
            log(
                f"decoder {step + 1}/{steps} letter {letter.item():.3f} rest {rest.item():.3f} "
                f"{shown} {time.time() - began:.0f} s"
            )
    model.eval()
    model.requires_grad_(True)
    return running
