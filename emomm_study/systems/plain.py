"""Transcripts as plain text to a tokenizer, whatever control tokens they spell out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from emomm_study.systems.prompts import TranscriptError


@dataclass(frozen=True)
class Plain:
    """One text's tokens ``ids``, and which lie in its transcript: ``inside``, ``(Q,)`` bool."""

    ids: list[int]
    inside: NDArray[np.bool_]


class PlainText:
    """Tokenizes prompts such that no control token comes from their transcripts.

    Control tokens are those that the tokenizer calls special, and those that it has added in angle
    brackets, as Qwen's ``<tool_call>``. Where a transcript spells one out, or does so together with
    what follows it, the text is cut behind the first character of it and tokenized in pieces. All
    other texts are tokenized whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_tokens)
        added = tokenizer.added_tokens_decoder
        self._control = {
            number: token.content
            for number, token in added.items()
            if token.special
            or any(word in token.content for word in special)
            or re.fullmatch(r"\s*<.+>\s*", token.content, re.DOTALL)
        }
        spelled = sorted(set(self._control.values()), key=len)
        self._longest = max(map(len, spelled), default=0)
        # A look-ahead finds those that overlap as well.
        either = "|".join(map(re.escape, spelled))
        self._spelled = re.compile(f"(?=(?:{either}))") if spelled else None

    def __call__(self, texts: Sequence[tuple[str, int, int]]) -> list[Plain]:
        """Of texts, each with where its transcript begins and ends (0 and 0 without one).

        Raises :class:`TranscriptError` for a transcript that a tokenizer cannot take as plain text.
        """
        cuts = [self._cuts(*text) for text in texts]
        pieces = [
            text[a:b]
            for (text, _, _), own in zip(texts, cuts, strict=True)
            for a, b in zip([0, *own], [*own, len(text)], strict=True)
        ]
        encoded = iter(self._tokenizer(pieces, add_special_tokens=False).encodings)
        return [
            self._joined(*text, [0, *own], [next(encoded) for _ in range(len(own) + 1)])
            for text, own in zip(texts, cuts, strict=True)
        ]

    def _cuts(self, text: str, start: int, end: int) -> list[int]:
        if self._spelled is None or end <= start:
            return []
        low = max(0, start - self._longest + 1)
        window = text[low : end + self._longest - 1]
        found = []
        for match in self._spelled.finditer(window):
            at = low + match.start()
            if at < end and any(
                text.startswith(token, at) and at + len(token) > start
                for token in self._control.values()
            ):
                found.append(at + 1)
        return found

    def _joined(self, text: str, start: int, end: int, offsets: list[int], parts: list) -> Plain:
        ids = [number for part in parts for number in part.ids]
        low, high = (
            np.array([pair[i] + at for at, part in zip(offsets, parts, strict=True)
                      for pair in part.offsets])
            for i in (0, 1)
        )  # fmt: skip
        inside = (high > start) & (low < end) & (high > low)
        if end > start and (taken := {ids[i] for i in np.flatnonzero(inside)} & set(self._control)):
            names = sorted(self._control[number] for number in taken)
            raise TranscriptError(
                f"the tokenizer takes {names} in the transcript {text[start:end]!r} for control "
                "tokens and cannot be kept from it; correct the transcript, or leave the clip out"
            )
        return Plain(ids, inside)
