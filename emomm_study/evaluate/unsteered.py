"""The plain model's answers to a batch of clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from emomm_lib import LabelSet
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.files import REFUSALS, MediaSettings, Read
from emomm_study.evaluate.plan import Item
from emomm_study.evaluate.questions import (
    ANSWERING,
    Failed,
    Group,
    Readable,
    Taken,
    TakenStates,
    Work,
    divided,
    finite,
    not_finite,
    readable,
)
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS, Key, StateStore
from emomm_study.evaluate.store import Prediction, StoredTrace
from emomm_study.failures import Failure, one_line
from emomm_study.systems.interface import Answers, Query, Said, System, Unanswered, Wrote
from emomm_study.systems.prompts import parse_reply, prompt_version
from emomm_study.systems.replies import REPLY_VERSION

Decoding = Literal["constrained", "free"]


def run_fingerprint(
    model: System,
    media: MediaSettings,
    decoding: Decoding = "constrained",
    steering: Mapping | None = None,
    labels: LabelSet | None = None,
) -> tuple[str, dict]:
    """Digest, and its preimage, of all that can change a prediction besides the clip itself.

    ``labels`` are those that are asked for in place of EmoMM's.
    """
    settings = {
        **model.settings(),
        "prompt": prompt_version(labels),
        "media": media.settings(),
        "decoding": decoding,
    }
    if decoding == "free":
        settings["reply"] = REPLY_VERSION
    if labels is not None:
        settings["labels"] = labels.name
    if steering is not None:
        settings["steering"] = dict(steering)
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], settings


@dataclass(frozen=True)
class Unsteered:
    """Asks the plain model.

    Attributes
    ----------
    run
        Fingerprint that answers are kept under.
    traced
        Whether attention is recorded as well.
    states, encodings
        Where hidden states and encoded clips are kept, when they are to be.
    labels
        What is asked for in place of EmoMM's five classes, in free text.
    """

    model: System
    run: str
    decoding: Decoding = "constrained"
    traced: bool = False
    states: StateStore | TakenStates | None = None
    encodings: EncodingStore | Taken | None = None
    labels: LabelSet | None = None

    def __call__(self, batch: Sequence[Read]) -> Iterator[Group]:
        """All answers to a batch of clips: as one group, or one a group as the system gives them."""
        ready = readable(self.model, batch, self.encodings, self.labels)
        if getattr(self.model, "one_by_one", False):
            yield from self._one_by_one(ready)
            return
        predictions: list[Prediction] = []
        traces: list[StoredTrace] = []
        group = Group(
            len(ready.work) + len(ready.failed),
            {self.run: (predictions, traces, [])},
            {self.run: ready.failed},
            worked=ready.worked,
        )
        queries, failed = dict(ready.work), group.failed[self.run]
        ask = self._written if self.decoding == "free" else self._answered
        for keys, found in divided(ready.work, ask, ANSWERING):
            if isinstance(found, Failure):
                failed.extend(Failed.at(key, found) for key in keys)
            elif self.decoding == "constrained":
                self._take(group, keys, found)
            else:
                group.worked.add(ANSWERING)
                for key, text in zip(keys, found, strict=True):
                    predictions.append(_parsed(key, queries[key], Wrote(text)))
        yield group

    @property
    def fingerprints(self) -> list[str]:
        """Runs that answers are kept under."""
        return [self.run]

    def sent(self) -> Unsteered:
        """Without model and stores, to be sent to another process."""
        return self.here(None, {})

    def here(self, model: System | None, lent: Mapping[Key, np.ndarray]) -> Unsteered:
        """In another process: by its model, keeping what is to be written (``questions.Taken``)."""
        states = self.states and TakenStates(self.states.dtype)
        return replace(self, model=model, states=states, encodings=self.encodings and Taken())

    def lent(self, items: Sequence[Item]) -> dict[Key, np.ndarray]:
        """What of the store is needed to ask about some clips."""
        return {}

    def _one_by_one(self, ready: Readable) -> Iterator[Group]:
        """Each answer as it comes, so that it is kept before the next."""
        yield Group(len(ready.failed), {}, {self.run: ready.failed}, worked=ready.worked)
        if not ready.work:
            return
        left = dict(enumerate(ready.work))
        queries = [query for _, query in ready.work]
        for i, said in _asked(self.model, queries, free=self.decoding == "free"):
            key, query = left.pop(i)
            group = Group(1, {self.run: ([], [], [])}, {self.run: []})
            if isinstance(said, Exception):
                group.failed[self.run].append(_unanswered(key, said))
            elif isinstance(said, Wrote):
                group.worked.add(ANSWERING)
                group.written[self.run][0].append(_parsed(key, query, said))
            else:
                self._take(group, [key], said)
            yield group
        if left:
            raise ValueError(
                f"the system has left {len(left)} of {len(queries)} questions unanswered"
            )

    def _written(self, work: Sequence[Work]) -> Iterator[tuple[list[Key], list[str]]]:
        # One coalition at a time: its prompts are nearly equally long, so little is padded.
        for coalition in dict.fromkeys(query.coalition for _, query in work):
            keys, queries = zip(*(w for w in work if w[1].coalition == coalition), strict=True)
            replies = self.model.reply(list(queries))
            for reply, _ in zip(replies, keys, strict=True):
                if not isinstance(reply, str):
                    raise TypeError(f"the model's reply is no text but {type(reply).__name__}")
            yield list(keys), replies

    def _answered(self, work: Sequence[Work]) -> Iterator[tuple[list[Key], Answers]]:
        keys, queries = (list(x) for x in zip(*work, strict=True))
        options = {"trace": self.traced} | ({} if self.states is None else {"states": True})
        answers = self.model.answer(queries, **options)
        parts = (answers.letter_logits, answers.label, answers.score)
        if any(part is not None and len(part) != len(keys) for part in parts):
            raise ValueError(f"the model gave {len(answers.label)} answers, {len(keys)} were asked")
        yield keys, answers

    def _take(self, group: Group, keys: Sequence[Key], answers: Answers) -> None:
        """Sort answers into what can be kept and what is not made of finite numbers."""
        parts = {
            "logits of A..E": answers.letter_logits,
            "scores": answers.score,
            "attention": answers.mass,
            "hidden states": answers.query_state,
            "hidden states of modalities": answers.modality_states,
        }
        odd = {name: ~finite(x) for name, x in parts.items() if x is not None}
        for i, key in enumerate(keys):
            if names := [name for name, rows in odd.items() if rows[i]]:
                failure = not_finite(ANSWERING, names[0])
                group.failed[self.run].append(Failed.at(key, failure))
        good = [i for i in range(len(keys)) if not any(rows[i] for rows in odd.values())]
        if good:
            group.worked.add(ANSWERING)
        kept = [i for i in good if keys[i][1] in STATE_COALITIONS]
        if self.states is not None and kept:
            counted = torch.from_numpy(answers.mass), torch.from_numpy(answers.counts)
            tensors = (answers.query_state, answers.modality_states, *counted)
            self.states.write([keys[i] for i in kept], [x[kept] for x in tensors])
        predictions, traces, _ = group.written[self.run]
        for i in good:
            shown = answers.letter_logits
            logits = [None] * 5 if shown is None else map(float, shown[i])
            score = None if answers.score is None else float(answers.score[i])
            answer = int(answers.label[i]), score, *logits
            more = None if answers.details is None else json.dumps(answers.details[i])
            predictions.append(Prediction(*keys[i], *answer, details=more))
            if self.traced:
                traces.append(StoredTrace(*keys[i], answers.mass[i], answers.counts[i]))


def _asked(model: System, queries: Sequence[Query], *, free: bool) -> Iterator[tuple[int, Said]]:
    """What each question came to, in the order in which the system says it."""
    if (ask := getattr(model, "ask", None)) is not None:
        yield from ask(queries, free=free)
        return
    for i, query in enumerate(queries):
        try:
            said: Said = Wrote(model.reply([query])[0]) if free else model.answer([query])
        except Exception as error:
            said = error
        yield i, said


def _unanswered(key: Key, error: Exception) -> Failed:
    if not isinstance(error, Unanswered):
        return Failed.at(key, Failure.of(error, ANSWERING, key[0], REFUSALS))
    cause = Failure(ANSWERING, one_line(str(error)), error.kind)
    details = None if error.details is None else json.dumps(error.details)
    prediction = Prediction.failed(*key, cause.reason)
    return Failed(replace(prediction, details=details, again=error.again), (cause,))


def _parsed(key: Key, query: Query, wrote: Wrote) -> Prediction:
    parsed = parse_reply(wrote.text, query.corpus)
    more = None if wrote.details is None else json.dumps(wrote.details)
    answer = (parsed.label, parsed.score, *[None] * 5)
    return Prediction(*key, *answer, reply=wrote.text, details=more)
