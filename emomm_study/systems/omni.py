"""Any Qwen2.5-Omni thinker, small or large: media in, five letter logits and a score out."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    Cache,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from emomm_lib import Prefill, mark_modalities, record
from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.media.regions import token_cover
from emomm_study.media.video import Frames
from emomm_study.systems.passes import Beginning, Tokens, fork, schedule
from emomm_study.systems.plain import PlainText
from emomm_study.systems.prompts import TRANSCRIPT_PREFIX, check_transcript, messages, reply

ADAPTER_VERSION = 3
"""Raised whenever a change here or in ``media`` can change an answer; part of every fingerprint."""
SUPPORTED = ("qwen2_5_omni", "qwen2_5_omni_thinker")


@dataclass(frozen=True)
class Media:
    """A decoded clip.

    Attributes
    ----------
    frames, sound
        Sampled frames, and 16 kHz mono sound ``(samples,)``; None where absent.
    region
        ``(N, H, W)`` bool, the part of the frames whose tokens are kept; None keeps all.
    least_cover
        Share of a video token's area that has to lie in the region.
    """

    frames: Frames | None
    sound: np.ndarray | None
    region: np.ndarray | None = None
    least_cover: float = 0.5


@dataclass(frozen=True)
class Encoded:
    """A clip after the encoders, shared by all its coalitions.

    Attributes
    ----------
    video
        ``(tokens, hidden)``, None without frames; ``grid`` is its (t, h, w) before merging and
        ``seconds_per_grid`` the time that one step of t covers.
    audio
        ``(tokens, hidden)``, None without sound.
    kept
        ``(t h w,)`` bool after merging, where some of the video's tokens were dropped: ``video``
        holds the others. They keep the positions that they have in the whole video.
    """

    video: torch.Tensor | None
    grid: torch.Tensor | None
    seconds_per_grid: float | None
    audio: torch.Tensor | None
    kept: torch.Tensor | None = None


@dataclass(frozen=True)
class Query:
    """One question to the model: a clip seen through a coalition of its modalities."""

    clip: Encoded
    coalition: str
    corpus: Corpus
    transcript: str


@dataclass(frozen=True)
class Answers:
    """Answers to B queries.

    Attributes
    ----------
    letter_logits
        ``(B, 5)`` float32: logits of A..E at the decision token (Eq. 22).
    label
        ``(B,)`` int64: the arg-max class, 0..4; -1 where a logit is not finite.
    score
        ``(B,)`` float64: the most probable allowed score of that class; NaN where there is none.
    mass
        ``(B, L, H, 3)`` float32: attention of the decision query on T, A, V, when it was recorded.
    counts
        ``(B, 3)`` int64: tokens of T, A, V; with ``mass`` they give nMAS (Eq. 5).
    query_state, modality_states
        ``(B, L, D)`` and ``(B, L, 3, D)`` on the CPU, in the trace's precision: what enters each
        layer (Sec. 5.1), when it was recorded.
    """

    letter_logits: np.ndarray
    label: np.ndarray
    score: np.ndarray
    mass: np.ndarray | None = None
    counts: np.ndarray | None = None
    query_state: torch.Tensor | None = None
    modality_states: torch.Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """A batch ready for the decoder, left-padded: embeddings, mask, and 3-axis positions.

    Shapes: ``input_ids`` and ``attention_mask`` ``(B, Q)``, ``inputs_embeds`` ``(B, Q, hidden)``,
    ``position_ids`` ``(3, B, Q)``, ``modality_ids`` ``(B, Q)`` as in :mod:`emomm_lib.attention`.
    The decision query is the last position.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    modality_ids: torch.Tensor


@dataclass(frozen=True)
class Computed(Prefill):
    """Some of the prompts that were asked for, computed to their ends.

    Until :meth:`Prefill.shortened`, ``cache`` holds all S positions, and is the caller's to keep
    or change. In ``attention_mask`` and ``modality_ids`` padding may lie between the pieces of a prompt, too.
    ``trace`` is None where nothing was recorded.

    Attributes
    ----------
    rows
        Which of the queries these B are.
    """

    rows: list[int]


class OmniModel:
    """A thinker and its processor behind the benchmark's questions."""

    def __init__(
        self,
        model: Qwen2_5OmniThinkerForConditionalGeneration,
        processor: Qwen2_5OmniProcessor,
        fingerprint: str,
        pixels: tuple[int, int] | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.fingerprint = fingerprint
        size = processor.video_processor.size
        self.frame_size = (
            {"shortest_edge": pixels[0], "longest_edge": pixels[1]} if pixels else dict(size)
        )
        tokens = [self._ids(letter) for letter in LETTERS]
        if any(len(t) != 1 for t in tokens):
            raise ValueError(
                f"the tokenizer must have one token for each of {LETTERS}; got {tokens}"
            )
        self.letter_ids = torch.tensor([t[0] for t in tokens], device=self.device)
        self._plain = PlainText(processor.tokenizer)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        pixels: tuple[int, int] | None = None,
    ) -> OmniModel:
        """Load a thinker from a folder or a hub id.

        ``dtype`` is a torch dtype's name or ``auto``; ``pixels`` is the least and the most pixels
        of a frame, to which it is resized (the video processor's own setting when None). Raises
        ``ValueError`` for a folder without ``config.json`` or an architecture that this adapter
        does not know.
        """
        path = Path(name_or_path)
        if path.is_dir() and not (path / "config.json").exists():
            raise ValueError(f"{path} has no config.json; expected a folder by save_pretrained")
        config = AutoConfig.from_pretrained(str(name_or_path))
        if config.model_type not in SUPPORTED:
            raise ValueError(
                f"{name_or_path} is a {config.model_type!r} model; this adapter reads {SUPPORTED}"
            )
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            str(name_or_path), dtype=dtype, use_safetensors=True
        ).to(device)
        processor = Qwen2_5OmniProcessor.from_pretrained(str(name_or_path))
        return cls(model, processor, _weights_fingerprint(path, config), pixels)

    @property
    def decoder(self) -> torch.nn.Module:
        """The text decoder, which attends."""
        return self.model.get_decoder()

    @property
    def layers(self) -> int:
        """L, the decoder's layers."""
        return self.decoder.config.num_hidden_layers

    @property
    def heads(self) -> int:
        """H, the heads of a layer."""
        return self.decoder.config.num_attention_heads

    @property
    def device(self) -> torch.device:
        return self.model.device

    def settings(self) -> dict:
        """All on this side that can change an answer, for run fingerprints."""
        return {
            "model": self.fingerprint,
            "adapter": ADAPTER_VERSION,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": self.device.type,
            "dtype": str(self.model.dtype),
            "frame_size": self.frame_size,
        }

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Run both encoders once over a batch of clips."""
        seen = [i for i, c in enumerate(clips) if c.frames is not None]
        heard = [i for i, c in enumerate(clips) if c.sound is not None]
        video: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        kept: dict[int, torch.Tensor] = {}
        audio: dict[int, torch.Tensor] = {}
        if seen:
            done = self.processor.video_processor(
                [clips[i].frames.frames for i in seen],
                size=self.frame_size,
                do_sample_frames=False,
                return_tensors="pt",
            )
            grid = done["video_grid_thw"].to(self.device)
            pixels = done["pixel_values_videos"].to(self.device)
            embeds = self.model.get_video_features(pixels, grid).pooler_output
            video = dict(zip(seen, zip(embeds, grid, strict=True), strict=True))
        kept = {i: self._kept(clips[i], video[i][1]) for i in seen if clips[i].region is not None}
        extractor = self.processor.feature_extractor
        long = [i for i in heard if len(clips[i].sound) > extractor.n_samples]
        # Beyond its window the extractor cuts a sound off, or it takes no others beside it.
        for some in [[i for i in heard if i not in long], *([i] for i in long)]:
            if not some:
                continue
            done = extractor(
                [clips[i].sound for i in some],
                sampling_rate=extractor.sampling_rate,
                padding="max_length",
                truncation=some[0] not in long,
                return_attention_mask=True,
                return_tensors="pt",
            )
            mask = done["attention_mask"].to(self.device)
            features = done["input_features"].to(self.device, self.model.dtype)
            embeds = self.model.get_audio_features(features, feature_attention_mask=mask)
            lengths = self.model.model.audio_tower._get_feat_extract_output_lengths(mask.sum(-1))[1]
            parts = torch.split(embeds.last_hidden_state, lengths.tolist())
            audio |= zip(some, parts, strict=True)
        patch = self.processor.video_processor.temporal_patch_size
        video |= {i: (video[i][0][kept[i]], video[i][1]) for i in kept}
        return [
            Encoded(
                video=video[i][0] if i in video else None,
                grid=video[i][1] if i in video else None,
                seconds_per_grid=patch / clips[i].frames.fps if i in video else None,
                audio=audio.get(i),
                kept=kept.get(i),
            )
            for i in range(len(clips))
        ]

    def video_grid(self, grid: torch.Tensor) -> tuple[int, int, int]:
        """``(t, h, w)`` of a video's tokens, from the grid of its patches."""
        merge = self.model.config.vision_config.spatial_merge_size
        t, h, w = grid.tolist()
        return t, h // merge, w // merge

    def _kept(self, clip: Media, grid: torch.Tensor) -> torch.Tensor:
        """Video tokens that lie in a clip's region; where none does, the one that does most."""
        cover = token_cover(clip.region, self.video_grid(grid)).ravel()
        least = min(clip.least_cover, cover.max())
        return torch.from_numpy(cover >= least).to(self.device)

    def _chat(self, query: Query) -> str:
        return self.processor.apply_chat_template(
            messages(query.coalition, query.corpus, query.transcript),
            tokenize=False,
            add_generation_prompt=True,
        )

    def _text(self, query: Query) -> tuple[str, int, int]:
        """The chat prompt, every placeholder repeated as often as its clip has tokens.

        Also where the transcript begins and ends in it; both 0 without T.
        """
        text, start, end = self._chat(query), 0, 0
        if "T" in query.coalition:
            check_transcript(query.transcript)
            start = text.index(TRANSCRIPT_PREFIX) + len(TRANSCRIPT_PREFIX)
            end = start + len(query.transcript)
            if text[start:end] != query.transcript:
                raise ValueError(
                    "the chat template changes the transcript; T has no tokens to mark"
                )
        # What a transcript holds is never a placeholder.
        before, after = text[:start], text[end:]
        placeholders = self.processor.video_token, self.processor.audio_token
        for modality, token, embeds in zip(
            "VA", placeholders, (query.clip.video, query.clip.audio), strict=True
        ):
            if modality in query.coalition:
                if embeds is None:
                    raise ValueError(
                        f"coalition {query.coalition} needs {modality}; the clip has none"
                    )
                whole = query.clip.kept if modality == "V" else None
                many = token * len(embeds if whole is None else whole)
                before, after = before.replace(token, many), after.replace(token, many)
        text = before + text[start:end] + after
        if not end:
            return text, 0, 0
        return text, len(before), len(before) + len(query.transcript)

    def _tokens(
        self, queries: Sequence[Query], text: Literal["transcript", "all"] = "transcript"
    ) -> Tokens:
        """Tokenize and left-pad; positions on three axes, and the modality of every token."""
        # Padded here: the tokenizer's own way to tensors walks through every number in Python.
        encoded = self._plain([self._text(query) for query in queries])
        width = max(len(e.ids) for e in encoded)
        ids = torch.full((len(encoded), width), self.processor.tokenizer.pad_token_id)
        mask, words = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, e in enumerate(encoded):
            own = slice(width - len(e.ids), None)
            ids[row, own], mask[row, own] = torch.tensor(e.ids), 1
            words[row, own] = torch.from_numpy(e.inside)
        ids, mask, words = (x.to(self.device) for x in (ids, mask, words))
        seen = [q.clip for q in queries if "V" in q.coalition]
        heard = [q.clip for q in queries if "A" in q.coalition]
        if seen:
            positions, _ = self.model.model.get_rope_index(
                ids,
                video_grid_thw=torch.stack([c.grid for c in seen]),
                attention_mask=mask,
                audio_seqlens=self._mel_lengths(heard),
                second_per_grids=torch.tensor([c.seconds_per_grid for c in seen]),
            )
        else:
            flat = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
            positions = flat.expand(3, -1, -1)
        if text == "all":
            words = mask.bool()
        marks = mark_modalities(ids, self._placeholders, words)
        keep = mask.bool()
        for row, query in enumerate(queries):
            if "V" in query.coalition and query.clip.kept is not None:
                keep[row, ids[row] == self._placeholders["V"]] = query.clip.kept
        tokens = Tokens(ids, mask, marks, positions)
        return tokens if keep.equal(mask.bool()) else tokens.only(keep)

    @property
    def _placeholders(self) -> dict[str, int]:
        config = self.model.config
        return {"A": config.audio_token_id, "V": config.video_token_id}

    def _embed(self, tokens: Tokens, clips: Sequence[Encoded]) -> torch.Tensor:
        """Embeddings ``(B, Q, hidden)`` with the encoders' outputs in their places.

        A row holds all of a clip's video or sound, or none of it.
        """
        embeds = self.model.get_input_embeddings()(tokens.ids)
        for modality, token in self._placeholders.items():
            where = (tokens.ids == token) & (tokens.mask > 0)
            rows = where.any(1).nonzero()[:, 0].tolist()
            if rows:
                parts = [clips[row].video if modality == "V" else clips[row].audio for row in rows]
                embeds = embeds.masked_scatter(where[..., None], torch.cat(parts).to(embeds.dtype))
        return embeds

    def prepare(
        self, queries: Sequence[Query], text: Literal["transcript", "all"] = "transcript"
    ) -> Prompt:
        """Tokenize, left-pad, and put the encoders' outputs in their places.

        ``text`` says which tokens are T's: those of the transcript, or all that are neither media
        nor padding, instructions included.
        """
        tokens = self._tokens(queries, text)
        embeds = self._embed(tokens, [q.clip for q in queries])
        return Prompt(tokens.ids, tokens.mask, embeds, tokens.positions, tokens.marks)

    def _beginnings(self, queries: Sequence[Query], tokens: Tokens) -> list[list[Beginning]]:
        """Of each prompt, up to the end of its video, and of its sound after that."""
        ids = tokens.ids.cpu().numpy()
        first = (tokens.ids.shape[1] - tokens.mask.sum(1)).tolist()
        found = []
        for row, query in enumerate(queries):
            media, own = [], []
            for modality in ("V", "A"):
                if modality in query.coalition:
                    media.append(query.clip.video if modality == "V" else query.clip.audio)
                    at = np.flatnonzero(ids[row] == self._placeholders[modality])
                    end = int(at[-1]) + 1
                    key = (*map(id, media), ids[row, first[row] : end].tobytes())
                    own.append(Beginning(modality, key, end))
            found.append(own)
        return found

    def _mel_lengths(self, clips: Sequence[Encoded]) -> torch.Tensor | None:
        """Mel frames for each clip's number of audio tokens: what the rope index asks for."""
        if not clips:
            return None
        return torch.tensor([4 * len(c.audio) for c in clips], device=self.device)

    @property
    def letter_weights(self) -> torch.Tensor:
        """``(5, hidden)`` float32 rows of the output layer for A..E."""
        # In single precision: at a logit of 20, bfloat16 knows steps of an eighth, and a tie would
        # go to the first letter.
        return self.model.lm_head.weight[self.letter_ids].detach().float()

    def letter_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of A..E ``(..., 5)`` from the decoder's last hidden states ``(..., hidden)``."""
        return hidden.float() @ self.letter_weights.T

    @torch.inference_mode()
    def compute(
        self,
        queries: Sequence[Query],
        *,
        trace: bool = False,
        states: bool = False,
        rows: bool = False,
    ) -> Iterator[Computed]:
        """Run the decoder over all prompts, in passes; each prompt ends in one of them.

        Queries of one clip share the computation of its video and sound. ``trace`` records the
        attention of the decision query, ``rows`` keeps it by token, ``states`` records that and
        the hidden states that a router reads; none of it changes what is computed.
        """
        tokens = self._tokens(queries)
        starts = (tokens.ids.shape[1] - tokens.mask.sum(1)).tolist()
        passes = schedule(starts, tokens.ids.shape[1], self._beginnings(queries, tokens))
        done: dict[int, Computed] = {}
        last_child = {step.parent[0]: n for n, step in enumerate(passes) if step.parent is not None}
        for number, step in enumerate(passes):
            piece = tokens.cut(step.rows, step.start, step.end)
            cache, mask, marks, earlier = None, piece.mask, piece.marks, None
            if step.parent is not None:
                parent, of_parent = step.parent
                before = done[parent]
                cache = fork(before.cache, of_parent)
                mask = torch.cat([before.attention_mask[of_parent], mask], 1)
                marks = torch.cat([before.modality_ids[of_parent], marks], 1)
                earlier = (before.trace, of_parent) if states else None
            embeds = self._embed(piece, [queries[row].clip for row in step.rows])
            wanted = states or ((trace or rows) and step.last)
            with (
                record(self.model, marks, states=states, rows=rows and step.last, earlier=earlier)
                if wanted
                else nullcontext() as recorded
            ):
                out = self.model.model.language_model(
                    inputs_embeds=embeds,
                    attention_mask=mask,
                    position_ids=piece.positions,
                    past_key_values=cache,
                    use_cache=True,
                )
            if step.parent is not None and last_child[step.parent[0]] == number:
                del done[step.parent[0]]
            found = Computed(
                rows=step.rows,
                model=self.model,
                hidden=out.last_hidden_state[:, -1],
                cache=out.past_key_values,
                attention_mask=mask,
                modality_ids=marks,
                inputs_embeds=embeds[:, -1],
                position_ids=piece.positions[..., -1],
                trace=recorded,
            )
            if step.last:
                yield found
            else:
                done[number] = found

    @torch.inference_mode()
    def answer(
        self, queries: Sequence[Query], *, trace: bool = False, states: bool = False
    ) -> Answers:
        """Letter by arg-max over A..E at the first token, then the best allowed score of it.

        ``trace`` and ``states`` as for :meth:`compute`; neither changes an answer.
        """
        logits = torch.empty(len(queries), len(LETTERS), device=self.device)
        score = np.empty(len(queries))
        seen: dict[int, tuple[torch.Tensor, ...]] = {}
        for part in self.compute(queries, trace=trace, states=states):
            logits[part.rows] = self.letter_logits(part.hidden)
            score[part.rows] = self.best_scores(
                [queries[row] for row in part.rows],
                logits[part.rows].nan_to_num().argmax(-1).tolist(),
                part.attention_mask,
                part.position_ids.amax(0) + 1,
                part.cache,
            )
            if part.trace is not None:
                kept = [part.trace.mass, part.trace.counts]
                kept += [part.trace.query_state, part.trace.modality_states] if states else []
                each = zip(*(x.cpu() for x in kept), strict=True)
                seen |= dict(zip(part.rows, each, strict=True))
        parts = [torch.stack(x) for x in zip(*(seen[i] for i in range(len(seen))), strict=True)]
        arrays = [parts[0].float().numpy(), parts[1].numpy()] if parts else []
        finite = logits.isfinite().all(-1)
        label = logits.nan_to_num().argmax(-1).where(finite, -1).cpu().numpy()
        score[~finite.cpu().numpy()] = np.nan
        return Answers(logits.cpu().numpy(), label, score, *arrays, *parts[2:])

    @torch.inference_mode()
    def reply(self, queries: Sequence[Query], max_new_tokens: int = 16) -> list[str]:
        """What the model writes when nothing constrains it: greedy decoding, as plain text.

        Raises ``FloatingPointError`` where a token would be chosen by logits that are not finite.
        """
        prompt, watch = self.prepare(queries), _Finite()
        written = self.model.generate(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            eos_token_id=self.processor.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([watch]),
        )
        return self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)

    @torch.no_grad()
    def best_scores(
        self,
        queries: Sequence[Query],
        label: Sequence[int],
        mask: torch.Tensor,
        start: torch.Tensor,
        cache: Cache,
    ) -> np.ndarray:
        """Most probable allowed score of each row's letter, all candidates in one pass.

        Whole replies continue the prefilled cache, from position ``start``: what the replies of a
        letter share cancels, so no tokenizer's way of cutting them matters. A row with fewer
        candidates than the widest repeats its last one, which changes no maximum. NaN for a row
        whose candidates have probabilities that are not finite.
        """
        allowed = [
            GRIDS[Corpus(q.corpus)].scores(int(k)) for q, k in zip(queries, label, strict=True)
        ]
        width = max(map(len, allowed))
        padded = [[*a, *[a[-1]] * (width - len(a))] for a in allowed]
        replies = [
            self._ids(reply(int(k), score))
            for k, row in zip(label, padded, strict=True)
            for score in row
        ]
        first = self.letter_ids[torch.as_tensor(label)].repeat_interleave(width).tolist()
        if [r[0] for r in replies] != first:
            raise ValueError("the tokenizer merges the letter of a reply with what follows it")
        longest = max(map(len, replies))
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in replies], device=self.device)
        lengths = torch.tensor([len(r) for r in replies], device=self.device)
        scored = torch.arange(longest, device=self.device) < lengths[:, None]
        # Side by side in one sequence: each candidate sees the prompt and itself, and no cache is
        # copied.
        rows, steps = len(queries), torch.arange(width * longest, device=self.device)
        step = steps % longest
        same = (steps[:, None] // longest == steps // longest) & (step[:, None] >= step)
        visible = torch.cat(
            [
                mask.bool()[:, None].expand(-1, len(steps), -1),
                same.expand(rows, -1, -1),
            ],
            2,
        )
        positions = start[:, None] + step
        hidden = self.model.model.language_model(
            inputs_embeds=self.model.get_input_embeddings()(ids.view(rows, -1)),
            attention_mask=visible[:, None],
            position_ids=positions.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state.view(rows * width, longest, -1)
        heads = self.model.lm_head.weight[ids[:, 1:]].float()
        token = (hidden[:, :-1].float() * heads).sum(-1)
        token = token - self.model.lm_head(hidden[:, :-1]).float().logsumexp(-1)
        total = (token * scored[:, 1:]).sum(1).view(len(queries), width)
        best, finite = total.argmax(1).tolist(), total.isfinite().all(1).tolist()
        chosen = zip(padded, best, finite, strict=True)
        return np.array([row[b] if sound else np.nan for row, b, sound in chosen])


class _Finite(LogitsProcessor):
    """Refuses to choose a token where the model gives no numbers to choose by."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Suppressed tokens are at minus infinity.
        if scores.isnan().any() or not scores.amax(-1).isfinite().all():
            raise FloatingPointError("the model's logits are not finite")
        return scores


def _weights_fingerprint(path: Path, config: PretrainedConfig) -> str:
    """Digest of a local model's files, or the hub commit of a downloaded one."""
    if not path.is_dir():
        # The outer config has the commit; the thinker's own, nested in it, has not.
        commit = getattr(config, "_commit_hash", None)
        if commit is None:
            raise ValueError(f"{path}: its commit is unknown, so results could not be told apart")
        return f"{path}@{commit}"
    digest = hashlib.sha256()
    for file in sorted(
        p for p in path.iterdir() if p.suffix in {".safetensors", ".json", ".jinja"}
    ):
        with file.open("rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
