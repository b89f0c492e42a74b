"""What every steerable system here shares: prompts, passes over the decoder, letters, scores."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import transformers
from transformers import (
    Cache,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_utils import PreTrainedModel

from emomm_lib import mark_modalities, record
from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.media.regions import token_cover
from emomm_study.systems.interface import (
    Answers,
    Computed,
    Encoded,
    Media,
    Prompt,
    Query,
    Text,
    after,
)
from emomm_study.systems.passes import Beginning, Tokens, fork, schedule
from emomm_study.systems.plain import PlainText
from emomm_study.systems.prompts import (
    SYSTEM_PROMPT,
    TRANSCRIPT_PREFIX,
    check_transcript,
    reply,
)

PARTS = ".safetensors", ".pt", ".json", ".jinja", ".yaml"
"""Files of a model's folder that can change an answer."""


class Backbone(ABC):
    """A decoder behind the benchmark's questions; kinds differ in encoders, template, positions.

    A kind says how clips are encoded (:meth:`encode`), how a question is put into its template
    (:meth:`_chat`), which tokens stand for media, and where tokens are (:meth:`_positions`).

    Attributes
    ----------
    tokenizer
        A fast one; it must have one token for each of A..E.
    placeholders
        Spelling of the token that stands for one of V and one of A.
    """

    axes: ClassVar[int] = 1
    """Of the decoder's positions."""
    version: ClassVar[int]
    """Raised whenever a change of the kind, or in ``media``, can change an answer."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        fingerprint: str,
        placeholders: Mapping[str, str],
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.placeholders = placeholders
        tokens = [self._ids(letter) for letter in LETTERS]
        if any(len(t) != 1 for t in tokens):
            raise ValueError(
                f"the tokenizer must have one token for each of {LETTERS}; got {tokens}"
            )
        self.letter_ids = torch.tensor([t[0] for t in tokens], device=self.device)
        self._plain = PlainText(tokenizer)

    # What a kind says

    @abstractmethod
    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Run the encoders once over a batch of clips."""

    @abstractmethod
    def video_grid(self, grid: torch.Tensor) -> tuple[int, int, int]:
        """``(t, h, w)`` of a video's tokens, from :attr:`Encoded.grid`."""

    def seen(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Part of a frame that the video's tokens show: all of it, if the kind crops nothing."""
        return 0, 0, height, width

    def blank(self, frames: tuple[int, int, int] | None, samples: int | None) -> Encoded:
        """What :meth:`encode` would make of a clip of that size, in shapes alone (on ``meta``).

        ``frames`` is (number, height, width), ``samples`` of 16 kHz sound; None where absent. Raises
        ``NotImplementedError`` for a kind that does not say it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how many tokens a clip becomes (blank)"
        )

    @abstractmethod
    def _chat(self, query: Query) -> str:
        """The prompt in the kind's template, up to the letter; a placeholder once a modality."""

    def _positions(
        self, ids: torch.Tensor, mask: torch.Tensor, queries: Sequence[Query]
    ) -> torch.Tensor:
        """``(axes, B, Q)`` positions of left-padded prompts: tokens are counted."""
        counted = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
        return counted.expand(self.axes, -1, -1)

    def _details(self, part: Computed) -> list[dict[str, Any]] | None:
        """What is kept beside each answer of a part."""
        return None

    def _said(self, text: str) -> str:
        """A free reply without what the kind writes around it."""
        return text

    # What the model is

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

    def settings(self) -> dict[str, Any]:
        """All on this side that can change an answer, for run fingerprints."""
        return {
            "model": self.fingerprint,
            "adapter": self.version,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": self.device.type,
            "dtype": str(self.model.dtype),
        }

    # Prompts

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _placeholder_ids(self) -> dict[str, int]:
        return {m: self.tokenizer.convert_tokens_to_ids(t) for m, t in self.placeholders.items()}

    def _kept(self, clip: Media, grid: tuple[int, int, int]) -> torch.Tensor:
        """Video tokens that lie in a clip's region; where none does, the one that does most."""
        top, left, height, width = self.seen(*clip.region.shape[1:])
        region = clip.region[:, top : top + height, left : left + width]
        cover = token_cover(region, grid).ravel()
        least = min(clip.least_cover, cover.max())
        return torch.from_numpy(cover >= least).to(self.device)

    def _text(self, query: Query) -> tuple[str, int, int]:
        """The chat prompt, every placeholder repeated as often as its clip has tokens.

        Also where the transcript begins and ends in it; both 0 without T.
        """
        text, start, end = self._chat(query), 0, 0
        if (many := text.count(SYSTEM_PROMPT)) != 1:
            raise ValueError(
                f"the chat template shows the system text of Appendix E {many} times, and has to "
                "once; give the checkpoint the template that its model was published with"
            )
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
        for modality, token in self.placeholders.items():
            if modality in query.coalition:
                embeds = query.clip.video if modality == "V" else query.clip.audio
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

    def counted(self, queries: Sequence[Query]) -> np.ndarray:
        """``(B, 4)`` int64: tokens of T, A and V, and of the whole prompt; nothing is computed.

        The first three are :attr:`Answers.counts`. Raises like :meth:`prepare`.
        """
        # A place for media is one token, however often it is repeated.
        one = Encoded(torch.empty(1, 0), None, None, torch.empty(1, 0))
        short = self._plain([self._text(replace(query, clip=one)) for query in queries])
        rows = []
        for query, plain in zip(queries, short, strict=True):
            media = {"A": query.clip.audio, "V": query.clip.video}
            a, v = (len(media[m]) if m in query.coalition else 0 for m in "AV")
            places = sum(m in query.coalition for m in "AV")
            rows.append((int(plain.inside.sum()), a, v, len(plain.ids) - places + a + v))
        return np.array(rows, np.int64).reshape(-1, 4)

    def _tokens(self, queries: Sequence[Query], text: Text = "transcript") -> Tokens:
        """Tokenize and left-pad; positions by axis, and the modality of every token."""
        # Padded here: the tokenizer's own way to tensors walks through every number in Python.
        encoded = self._plain([self._text(query) for query in queries])
        width = max(len(e.ids) for e in encoded)
        ids = torch.full((len(encoded), width), self.tokenizer.pad_token_id)
        mask, words = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, e in enumerate(encoded):
            own = slice(width - len(e.ids), None)
            ids[row, own], mask[row, own] = torch.tensor(e.ids), 1
            words[row, own] = torch.from_numpy(e.inside)
        ids, mask, words = (x.to(self.device) for x in (ids, mask, words))
        positions = self._positions(ids, mask, queries)
        stand_for = self._placeholder_ids()
        if text == "all":
            words = mask.bool()
        marks = mark_modalities(ids, stand_for, words)
        keep = mask.bool()
        for row, query in enumerate(queries):
            if "V" in query.coalition and query.clip.kept is not None:
                keep[row, ids[row] == stand_for["V"]] = query.clip.kept
        tokens = Tokens(ids, mask, marks, positions)
        return tokens if keep.equal(mask.bool()) else tokens.only(keep)

    def _embed(self, tokens: Tokens, clips: Sequence[Encoded]) -> torch.Tensor:
        """Embeddings ``(B, Q, hidden)`` with the encoders' outputs in their places.

        A row holds all of a clip's video or sound, or none of it.
        """
        embeds = self.model.get_input_embeddings()(tokens.ids)
        stand_for = self._placeholder_ids()
        places = [(tokens.ids == token) & (tokens.mask > 0) for token in stand_for.values()]
        # Of all modalities at once, for each time the host waits for the device.
        holding = torch.stack([where.any(1) for where in places]).tolist()
        for modality, where, held in zip(stand_for, places, holding, strict=True):
            if rows := [row for row, holds in enumerate(held) if holds]:
                parts = [clips[row].video if modality == "V" else clips[row].audio for row in rows]
                embeds = embeds.masked_scatter(where[..., None], torch.cat(parts).to(embeds.dtype))
        return embeds

    def prepare(self, queries: Sequence[Query], text: Text = "transcript") -> Prompt:
        """Tokenize, left-pad, and put the encoders' outputs in their places.

        ``text`` says which tokens are T's: those of the transcript, or all that are neither media
        nor padding, instructions included.
        """
        tokens = self._tokens(queries, text)
        embeds = self._embed(tokens, [q.clip for q in queries])
        positions = _as_taken(tokens.positions)
        return Prompt(tokens.ids, tokens.mask, embeds, positions, tokens.marks)

    def _beginnings(self, queries: Sequence[Query], tokens: Tokens) -> list[list[Beginning]]:
        """Of each prompt, up to the end of its video, and of its sound after that."""
        ids, stand_for = tokens.ids.cpu().numpy(), self._placeholder_ids()
        first = (tokens.ids.shape[1] - tokens.mask.sum(1)).tolist()
        found = []
        for row, query in enumerate(queries):
            media, own = [], []
            for modality in ("V", "A"):
                if modality in query.coalition:
                    media.append(query.clip.video if modality == "V" else query.clip.audio)
                    at = np.flatnonzero(ids[row] == stand_for[modality])
                    end = int(at[-1]) + 1
                    key = (*map(id, media), ids[row, first[row] : end].tobytes())
                    own.append(Beginning(modality, key, end))
            found.append(own)
        return found

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
                own = torch.as_tensor(of_parent, device=self.device)
                mask = torch.cat([before.attention_mask[own], mask], 1)
                marks = torch.cat([before.modality_ids[own], marks], 1)
                earlier = (before.trace, own) if states else None
            embeds = self._embed(piece, [queries[row].clip for row in step.rows])
            positions = _as_taken(piece.positions)
            wanted = states or ((trace or rows) and step.last)
            with (
                record(self.model, marks, states=states, rows=rows and step.last, earlier=earlier)
                if wanted
                else nullcontext() as recorded
            ):
                out = self.decoder(
                    inputs_embeds=embeds,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
            if step.parent is not None and last_child[step.parent[0]] == number:
                del done[step.parent[0]]
            found = Computed(
                rows=step.rows,
                model=self.model,
                hidden=out.last_hidden_state[:, -1],
                before=out.last_hidden_state[:, -2:-1].squeeze(1),
                cache=out.past_key_values,
                attention_mask=mask,
                modality_ids=marks,
                inputs_embeds=embeds[:, -1],
                position_ids=positions[..., -1],
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
        details: dict[int, dict[str, Any]] = {}
        for part in self.compute(queries, trace=trace, states=states):
            logits[part.rows] = self.letter_logits(part.hidden)
            score[part.rows] = self.best_scores(
                [queries[row] for row in part.rows],
                logits[part.rows].nan_to_num().argmax(-1).tolist(),
                part.attention_mask,
                after(part.position_ids),
                part.cache,
            )
            if (found := self._details(part)) is not None:
                details |= zip(part.rows, found, strict=True)
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
        more = [details[i] for i in range(len(queries))] if details else None
        return Answers(logits.cpu().numpy(), label, score, *arrays, *parts[2:], details=more)

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
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([watch]),
        )
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [self._said(text) for text in texts]

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
        positions = (start[:, None] + step).expand(self.axes, -1, -1)
        hidden = self.decoder(
            inputs_embeds=self.model.get_input_embeddings()(ids.view(rows, -1)),
            attention_mask=visible[:, None],
            position_ids=_as_taken(positions),
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


def _as_taken(positions: torch.Tensor) -> torch.Tensor:
    """``(axes, B, Q)`` positions as a decoder takes them: without a single axis."""
    return positions[0] if len(positions) == 1 else positions


Built = TypeVar("Built", bound=PreTrainedModel)


def without_weights(kind: type[Built], config: PretrainedConfig, dtype: str) -> Built:
    """A model in the shapes that its configuration says; its weights are nowhere (on ``meta``)."""
    chosen = config.dtype if dtype == "auto" else dtype
    chosen = getattr(torch, chosen) if isinstance(chosen, str) else chosen
    with torch.device("meta"):
        return kind._from_config(config, dtype=chosen or torch.get_default_dtype())


def weights_fingerprint(path: Path, config: PretrainedConfig) -> str:
    """Digest of a local model's files, or the hub commit of a downloaded one."""
    if not path.is_dir():
        # The outer config has the commit; the thinker's own, nested in it, has not.
        commit = getattr(config, "_commit_hash", None)
        if commit is None:
            raise ValueError(f"{path}: its commit is unknown, so results could not be told apart")
        return f"{path}@{commit}"
    return files_digest(path)


def files_digest(*folders: Path) -> str:
    """Digest of all files that can change an answer, with their names, folder by folder."""
    digest = hashlib.sha256()
    for file in (f for p in folders for f in sorted(p.iterdir()) if f.suffix in PARTS):
        with file.open("rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
