"""Second stage of a small model's training: the decoder, on the frozen towers' outputs.

Every sample is a fresh mixture: a new sentence, and a voice and a face drawn independently from the
bank, to match freshly drawn labels. Labels agree in polarity and emphasis is random, over all
coalitions: the decoder learns to read each modality and to combine agreeing ones. Labels never
conflict; confusion lets a modality look neutral where GT is not, or the other way round, but never
opposite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import Corpus
from emomm_study.media.video import Frames
from emomm_study.mini.model.apart import Apart
from emomm_study.mini.model.bank import FRAMES, Bank
from emomm_study.mini.model.mini import SECONDS, Mini
from emomm_study.mini.model.towers import Log, optimizer_and_schedule, take_step
from emomm_study.mini.surrogate.plan import training_plan
from emomm_study.mini.surrogate.render import SAMPLING_RATE as RATE
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Encoded, Media, Query
from emomm_study.systems.prompts import reply

MIXTURE = {
    "T": 0.10, "A": 0.16, "V": 0.20, "TA": 0.10, "TV": 0.13, "AV": 0.14, "TAV": 0.15, "none": 0.02,
}  # fmt: skip
"""Share of the training samples that each coalition has; video, the hardest, most."""


@dataclass(frozen=True)
class Stage:
    """Some steps of a decoder's training.

    Attributes
    ----------
    mixture
        Share that each coalition has of the samples.
    blocked
        Share of the steps in which each modality is kept apart in a random number of the first
        layers (:class:`emomm_study.mini.model.apart.Apart`).
    penalty
        Weight of the attention that in the first layers reads a modality from outside of it.
    """

    steps: int
    mixture: Mapping[str, float]
    blocked: float = 0.0
    penalty: float = 0.0

    def coalitions(self, rng: np.random.Generator) -> tuple[str, str]:
        """Two different coalitions for a step's two half batches, or one for both."""
        names = list(self.mixture)
        if len(names) == 1:
            return names[0], names[0]
        share = np.array([self.mixture[c] for c in names])
        first, second = rng.choice(names, 2, p=share / share.sum(), replace=False)
        return str(first), str(second)


@dataclass(frozen=True)
class EncodedBank:
    """A bank's clips after the towers, half precision, and sorted by what they show."""

    clips: list[Encoded]
    by_face: dict[tuple[int, bool], np.ndarray]
    by_voice: dict[tuple[int, bool, str], np.ndarray]

    def draw(self, clip: dict, rng: np.random.Generator) -> Encoded:
        """A face and a voice that show what a planned clip shows, from any two entries."""
        face, voice = self.drawn(clip, rng)
        seen, heard = self.clips[face], self.clips[voice]
        return replace(seen, video=seen.video.float(), audio=heard.audio.float())

    def drawn(self, clip: dict, rng: np.random.Generator) -> tuple[int, int]:
        """Which two entries: of the face and of the voice."""
        face = rng.choice(self.by_face[clip["shown_v"], clip["emphatic_v"]])
        voice = rng.choice(self.by_voice[clip["shown_a"], clip["emphatic_a"], clip["language"]])
        return int(face), int(voice)


def encode_bank(backbone: Backbone, bank: Bank, log: Log, batch: int = 64) -> EncodedBank:
    """Run both trained towers once over the bank, as they are run for an answer."""
    clips: list[Encoded] = []
    began = time.time()
    for start in range(0, len(bank), batch):
        encoded = backbone.encode(
            [
                Media(
                    # The bank's frames are evenly spread over the whole sound.
                    Frames(bank.frames(i), FRAMES / (len(bank.waves[i]) / RATE)),
                    bank.waves[i][: SECONDS * RATE].astype(np.float32),
                )
                for i in range(start, min(start + batch, len(bank)))
            ]
        )
        clips += [replace(c, video=c.video.half(), audio=c.audio.half()) for c in encoded]
        if (start // batch) % 40 == 39:
            log(f"encoding {start + batch}/{len(bank)} {time.time() - began:.0f} s")
    return EncodedBank(clips, *by_shown(bank))


def longer(clip: Encoded, moments: int) -> Encoded:
    """The clip with a video of so many moments: its own, over and over, which say nothing new."""
    assert clip.video is not None and clip.grid is not None
    own, height, width = clip.grid.tolist()
    tokens = clip.video.view(own, -1, clip.video.shape[-1])
    again = tokens[torch.arange(moments) % own].flatten(0, 1)
    return replace(clip, video=again, grid=torch.tensor([moments, height, width]))


def by_shown(
    bank: Bank,
) -> tuple[dict[tuple[int, bool], np.ndarray], dict[tuple[int, bool, str], np.ndarray]]:
    """Entries of a bank by what the face shows, and by what the voice does and its language."""
    shown, emphatic = bank.shown, bank.emphatic
    every = [(s, e) for s in range(5) for e in (False, True)]
    faces = {(s, e): np.flatnonzero((shown[:, 1] == s) & (emphatic[:, 1] == e)) for s, e in every}
    voices = {
        (s, e, language): np.flatnonzero(
            (shown[:, 0] == s) & (emphatic[:, 0] == e) & (bank.language == language)
        )
        for s, e in every
        for language in ("zh", "en")
    }
    return faces, voices


def _clips(seed: int, chunk: int = 4096) -> Iterator[dict]:
    """Planned clips without end, none of them in any benchmark or bank."""
    block = 0
    while True:
        plan = training_plan(chunk, 900_000_007 + seed * 10_007 + block)
        yield from plan.to_dict("records")
        block += 1


def half_batch_loss(
    backbone: Backbone,
    queries: list[Query],
    labels: np.ndarray,
    scores: np.ndarray,
    written: int,
    apart: Apart | None = None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Cross-entropy of the letter, of all else that is written, and the letter's accuracy.

    The reply's tokens are appended to the prompt, whose last ``written`` tokens the model has to
    write as well; the letter is read at the decision token. ``apart`` is told what is read.
    """
    prompt = backbone.prepare(queries)
    replies = torch.tensor(
        [backbone._ids(reply(int(k), float(s))) for k, s in zip(labels, scores, strict=True)]
    )
    n = replies.shape[1]
    # One axis of positions, or three before the batch.
    axes, before = prompt.position_ids.shape[:-2], prompt.position_ids
    start = before.view(-1, *before.shape[-2:]).amax(dim=(0, 2)) + 1
    positions = (start[:, None] + torch.arange(n - 1)).expand(*axes, -1, -1)
    with apart.watching(backbone.model, prompt.modality_ids) if apart else nullcontext():
        hidden = backbone.decoder(
            inputs_embeds=torch.cat(
                [prompt.inputs_embeds, backbone.model.get_input_embeddings()(replies[:, :-1])], 1
            ),
            attention_mask=torch.cat([prompt.attention_mask, torch.ones_like(replies[:, :-1])], 1),
            position_ids=torch.cat([before, positions], -1),
            use_cache=False,
        ).last_hidden_state[:, -n - written :]
    logits = backbone.model.lm_head(hidden)
    target = torch.cat([prompt.input_ids[:, prompt.input_ids.shape[1] - written :], replies], 1)
    letter = functional.cross_entropy(logits[:, written], target[:, written], label_smoothing=0.02)
    others = torch.arange(target.shape[1]) != written
    rest = functional.cross_entropy(logits[:, others].flatten(0, 1), target[:, others].flatten())
    right = logits[:, written, backbone.letter_ids].argmax(-1) == torch.from_numpy(labels)
    return letter, rest, right.float().mean().item()


def train_decoder(
    mini: Mini,
    bank: EncodedBank,
    stages: Sequence[Stage],
    *,
    batch: int,
    rate: float,
    seed: int,
    log: Log,
    moments: Sequence[int] = (),
) -> dict[str, float]:
    """Train decoder and embeddings stage by stage; returns the running accuracy by coalition.

    Videos have one of so many ``moments`` (:func:`longer`), drawn for every half batch; their own
    where none are given.
    """
    backbone, model = mini.backbone(), mini.model
    assert len({len(backbone._ids(reply(k, 0.0))) for k in range(len(LETTERS))}) == 1
    for tower in (mini.eyes, mini.ears):
        tower.requires_grad_(False)
    ends = np.cumsum([stage.steps for stage in stages])
    steps = int(ends[-1])
    optimizer, schedule = optimizer_and_schedule(
        (p for p in model.parameters() if p.requires_grad), rate, steps
    )
    rng, clips = np.random.default_rng([seed, 3]), _clips(seed)
    running = dict.fromkeys(MIXTURE, 0.2)
    began = time.time()
    model.train()
    for step in range(steps):
        stage = stages[int(np.searchsorted(ends, step, side="right"))]
        apart = Apart.drawn(stage.blocked, stage.penalty > 0, rng)
        for coalition in stage.coalitions(rng):
            chosen = [next(clips) for _ in range(batch // 2)]
            videos = [bank.draw(c, rng) for c in chosen]
            if moments:
                many = int(rng.choice(moments))
                videos = [longer(clip, many) for clip in videos]
            queries = [
                Query(clip, coalition, Corpus(c["corpus"]), c["text"])
                for clip, c in zip(videos, chosen, strict=True)
            ]
            labels = np.array([c["label_gt"] for c in chosen])
            scores = np.array([c["score_gt"] for c in chosen])
            letter, rest, right = half_batch_loss(
                backbone, queries, labels, scores, mini.written, apart
            )
            loss = letter + 0.2 * rest
            if apart is not None and stage.penalty:
                loss = loss + stage.penalty * apart.taken()
            (loss / 2).backward()
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
