"""What the study asks of a system: answers of any, and of those that can be steered their insides.

Whatever answers is a :class:`System`; what also shows its decoder is :class:`Steerable`. Nothing in
the study asks for more, and what a system does not offer is refused by name (:func:`offered`).
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from transformers import Cache
from transformers.modeling_utils import PreTrainedModel

from emomm_lib import LabelSet, Prefill
from emomm_study.corpora.scores import Corpus
from emomm_study.media.video import Frames

Text = Literal["transcript", "all"]
"""Which tokens are T's: the transcript's, or all that are neither media nor padding."""


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
    ready
        What a system's :meth:`System.features` made of the batch that the clip is of, and the
        clip's place in it.
    """

    frames: Frames | None
    sound: np.ndarray | None
    region: np.ndarray | None = None
    least_cover: float = 0.5
    ready: tuple[Any, int] | None = None


@dataclass(frozen=True)
class Encoded:
    """A clip after the encoders, shared by all its coalitions.

    Attributes
    ----------
    video
        ``(tokens, hidden)``, None without frames; ``grid`` is how they lie, as the system counts
        (:meth:`Steerable.video_grid`), and ``seconds_per_grid`` the time that a step of it covers.
        Columns beyond ``hidden`` are a system's own: what else its decoder is given of a token.
    audio
        ``(tokens, hidden)``, None without sound. A system that encodes nothing here has both in a
        form of its own.
    kept
        ``(t h w,)`` bool, where some of the video's tokens were dropped: ``video`` holds the others.
        They keep the positions that they have in the whole video.
    """

    video: torch.Tensor | None
    grid: torch.Tensor | None
    seconds_per_grid: float | None
    audio: torch.Tensor | None
    kept: torch.Tensor | None = None


@dataclass(frozen=True)
class Query:
    """One question to a system: a clip seen through a coalition of its modalities.

    ``corpus`` says what is asked for: five classes and the corpus's scores, or the classes of another
    set of labels. What another set is asked by is free text (:meth:`System.reply`).
    """

    clip: Encoded
    coalition: str
    corpus: Corpus | LabelSet
    transcript: str


@dataclass(frozen=True)
class Answers:
    """Answers to B queries.

    Attributes
    ----------
    letter_logits
        ``(B, 5)`` float32: logits of A..E at the decision token (Eq. 22); None of a system that
        shows none.
    label
        ``(B,)`` int64: the arg-max class, 0..4; -1 where a logit is not finite.
    score
        ``(B,)`` float64: the most probable allowed score of that class; NaN where there is none,
        None of a system that was asked for the letter alone.
    mass
        ``(B, L, H, 3)`` float32: attention of the decision query on T, A, V, when it was recorded.
    counts
        ``(B, 3)`` int64: tokens of T, A, V; with ``mass`` they give nMAS (Eq. 5).
    query_state, modality_states
        ``(B, L, D)`` and ``(B, L, 3, D)`` on the CPU, in the trace's precision: what enters each
        layer (Sec. 5.1), when it was recorded.
    details
        B mappings, None for a system that has nothing more to say: what is kept beside an answer,
        as JSON knows it.
    """

    letter_logits: np.ndarray | None
    label: np.ndarray
    score: np.ndarray | None
    mass: np.ndarray | None = None
    counts: np.ndarray | None = None
    query_state: torch.Tensor | None = None
    modality_states: torch.Tensor | None = None
    details: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Wrote:
    """A reply in free text, and what is kept beside it as JSON knows it."""

    text: str
    details: Mapping[str, Any] | None = None


class Unanswered(Exception):
    """A question that was asked and has no answer; the message says why, in words of our own.

    Attributes
    ----------
    again
        Whether a later run asks it again: ``once``, ``always`` where what failed was on the way, or
        None for never.
    details
        What is kept beside the failure, as JSON knows it.
    kind
        What failed, where nobody foresaw it (:attr:`emomm_study.failures.Failure.error`).
    """

    def __init__(
        self,
        reason: str,
        again: Again | None = None,
        details: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.again, self.details, self.kind = again, details, kind


Again = Literal["once", "always"]
Said = Answers | Wrote | Exception
"""What one question came to: an answer (of one row), a reply, or why there is neither."""


@dataclass(frozen=True)
class Prompt:
    """A batch ready for the decoder, left-padded: embeddings, mask and positions.

    Shapes: ``input_ids`` and ``attention_mask`` ``(B, Q)``, ``inputs_embeds`` ``(B, Q, hidden)``
    or as wide as what was encoded, ``modality_ids`` ``(B, Q)`` as in :mod:`emomm_lib.attention`,
    ``position_ids`` as the decoder takes them: ``(B, Q)``, or with axes before these. The decision
    query is the last position.
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
    before
        ``(B, D)`` last hidden state of the position before the decision token's.
    """

    rows: list[int]
    before: torch.Tensor


class System(Protocol):
    """Whatever answers the benchmark's questions.

    A clip is encoded once and asked under several coalitions. Exceptions are the clip's, unless
    they are of memory: the caller asks clip by clip then, and stores a failure under the clip that
    raises alone.

    One whose answers cost money or minutes says ``one_by_one = True``: each is kept as it comes, in
    one process. It may have a method ``ask(queries, *, free=False)`` that gives ``(index, Said)`` in
    any order, so that several are under way at once; others are asked by ``answer`` and ``reply``,
    one question a call. One that may have its clips made ready by another thread, while it computes,
    has ``features(clips)``: what ``encode`` needs of a batch before its encoders run, on the CPU,
    which it then finds in ``Media.ready`` (:func:`made_ready`). One that is paid has ``allow(asked)`` and ``estimate(asked)`` beside it
    (:mod:`emomm_study.systems.paid`).
    """

    fingerprint: str
    """Digest of the weights, or a name with a revision."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def settings(self) -> dict[str, Any]:
        """All on this side that can change an answer, as JSON knows it, for run fingerprints."""

    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Each clip after the encoders, on ``device``."""

    def answer(
        self, queries: Sequence[Query], *, trace: bool = False, states: bool = False
    ) -> Answers:
        """Letter by arg-max over A..E at the decision token, then the best allowed score of it.

        ``trace`` and ``states`` record attention and hidden states, which only what is steerable
        can; neither changes an answer.
        """

    def reply(self, queries: Sequence[Query]) -> list[str]:
        """What it writes when nothing constrains it, greedily, as plain text.

        Raises ``FloatingPointError`` where a token would be chosen by logits that are not finite.
        """


class Steerable(System, Protocol):
    """A system whose decoder the hook watches: it can be recorded, replayed and steered."""

    model: PreTrainedModel
    """What :func:`emomm_lib.record` and :func:`emomm_lib.steer` are given."""

    @property
    def decoder(self) -> torch.nn.Module:
        """The text decoder, which attends: ``model.get_decoder()``."""

    @property
    def layers(self) -> int:
        """L, the decoder's layers."""

    @property
    def heads(self) -> int:
        """H, the heads of a layer."""

    @property
    def letter_weights(self) -> torch.Tensor:
        """``(5, hidden)`` float32 rows of the output layer for A..E."""

    def letter_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of A..E ``(..., 5)`` float32 from last hidden states ``(..., hidden)``."""

    def prepare(self, queries: Sequence[Query], text: Text = "transcript") -> Prompt:
        """Whole prompts as embeddings, with the modality of every token."""

    def compute(
        self,
        queries: Sequence[Query],
        *,
        trace: bool = False,
        states: bool = False,
        rows: bool = False,
    ) -> Iterator[Computed]:
        """Run the decoder over all prompts; each ends in one of the parts.

        ``trace`` records the attention of the decision query, ``rows`` keeps it by token, ``states``
        records that and the hidden states that a router reads; none of it changes what is computed.
        """

    def best_scores(
        self,
        queries: Sequence[Query],
        label: Sequence[int],
        mask: torch.Tensor,
        start: torch.Tensor,
        cache: Cache,
    ) -> np.ndarray:
        """Most probable allowed score of each row's letter, continuing a prefilled cache.

        ``label`` (B,) classes, ``mask`` ``(B, S)`` of the cached prompts, ``start`` ``(B,)`` the
        position after each. NaN for a row whose candidates' probabilities are not finite.
        """

    def video_grid(self, grid: torch.Tensor) -> tuple[int, int, int]:
        """``(t, h, w)`` of a whole video's tokens, from :attr:`Encoded.grid`."""

    def seen(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Part of a frame that the video's tokens show: top, left, height and width in pixels."""


STEERED_BY = (
    "model", "decoder", "layers", "heads", "letter_weights", "letter_logits", "prepare", "compute",
    "best_scores", "video_grid", "seen",
)  # fmt: skip
"""Members of :class:`Steerable` beyond those of :class:`System`."""


class NotOffered(TypeError):
    """Something is asked of a system that it does not offer; the message says what it does."""


def offered(system: System, what: str) -> Steerable:
    """The system, if it is steerable; ``what`` says in words what is asked of it.

    Raises :class:`NotOffered` that names what is missing.
    """
    if missing := [name for name in STEERED_BY if not hasattr(system, name)]:
        raise NotOffered(
            f"{type(system).__name__} only answers, and {what} needs its decoder "
            f"(it has no {', '.join(missing)}); choose a system of a kind that can be steered"
        )
    return system  # type: ignore[return-value]


def made_ready(clips: Sequence[Media]) -> Any | None:
    """What ``features`` made of these very clips as one batch; None where it made none of them.

    As one batch, since the last bits of features may hang on what is computed together.
    """
    found = clips[0].ready if clips else None
    if found is None:
        return None
    places = [clip.ready[1] for clip in clips if clip.ready and clip.ready[0] is found[0]]
    return found[0] if places == list(range(found[0].count)) == list(range(len(clips))) else None


def after(position_ids: torch.Tensor) -> torch.Tensor:
    """``(B,)`` the position that follows ``(B,)`` or ``(axes, B)``, the largest of its axes."""
    return (position_ids if position_ids.dim() == 1 else position_ids.amax(0)) + 1
