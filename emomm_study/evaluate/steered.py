"""Steering methods' answers to a batch of clips, all on one prefill of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import Cache

from emomm_lib import Decisions, Prefill, attention_importance, replay, steer
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.labels import MODALITIES
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.files import MediaSettings, Read
from emomm_study.evaluate.methods import Batch, Importance, Method
from emomm_study.evaluate.plan import Item
from emomm_study.evaluate.questions import (
    ANSWERING,
    Failed,
    Group,
    Taken,
    Work,
    divided,
    finite,
    not_finite,
    readable,
)
from emomm_study.evaluate.states import Key
from emomm_study.evaluate.store import (
    Prediction,
    PredictionStore,
    StoredRoute,
    StoredTrace,
    Written,
)
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.failures import Failure
from emomm_study.systems.interface import Prompt, Query, Steerable, after

STEERING_VERSION = 2
"""Raised whenever a change in ``chase`` can change an answer; part of every fingerprint."""
GRADIENT_TOKENS = 4096
"""Tokens of one backward pass, or one prompt: it keeps all activations, 5 MB a token at 7B."""


def steering_fingerprint(
    model: Steerable, media: MediaSettings, method: Method
) -> tuple[str, dict]:
    """Digest of a steered run, and what it is of."""
    settings = {**method.settings(), "version": STEERING_VERSION}
    return run_fingerprint(model, media, steering=settings)


@dataclass(frozen=True)
class SteeredRun:
    """A method, the fingerprint that its answers are kept under, and what it answered before."""

    method: Method
    fingerprint: str
    known: set[Key]

    def concerns(self, sample_id: str) -> bool:
        """Whether the method may be asked about a clip."""
        return self.method.clips is None or sample_id in self.method.clips


def asked_alike(
    clips: pd.DataFrame, runs: Sequence[SteeredRun]
) -> Iterator[tuple[list[SteeredRun], pd.DataFrame]]:
    """Clips that the same methods are asked about, with these; those of no method are left out.

    They go together, so that what only some methods need, such as gradients and scores, is computed
    for those alone.
    """
    concerned = [
        tuple(i for i, run in enumerate(runs) if run.concerns(name)) for name in clips["sample_id"]
    ]
    for chosen, part in clips.groupby(pd.Series(concerned, clips.index), sort=False):
        if chosen:
            yield [runs[i] for i in chosen], part


@dataclass(frozen=True)
class _Asked:
    """Prompts computed unsteered, and what their steering needs."""

    keys: list[Key]
    queries: list[Query]
    prefill: Prefill
    batch: Batch
    importance: dict[Importance, Tensor]
    found: dict[Key, np.ndarray]


@dataclass(frozen=True)
class _Column:
    """One method's outcome on B prompts: hidden ``(B, D)``, and the rest where it is scored."""

    hidden: Tensor
    cache: Cache | None
    mask: Tensor
    mass: Tensor
    decisions: Decisions


@dataclass(frozen=True)
class Lent:
    """Stands for the store in a process that has none, with what is needed of it."""

    importance: Mapping[Key, np.ndarray]

    def read_importance(self, run: str, keys: Sequence[Key]) -> Mapping[Key, np.ndarray]:
        """Like :meth:`PredictionStore.read_importance`."""
        return self.importance


@dataclass(frozen=True)
class Steering:
    """Asks steering methods.

    Attributes
    ----------
    runs
        The methods.
    clips
        Manifest rows by ``sample_id``.
    plain
        Fingerprint of the unsteered run, under which ``store`` keeps what visual tokens matter.
    encodings
        Where encoded clips are kept, when they are to be.
    """

    model: Steerable
    runs: Sequence[SteeredRun]
    clips: pd.DataFrame
    store: PredictionStore | Lent | None
    plain: str
    encodings: EncodingStore | Taken | None = None

    def __call__(self, batch: Sequence[Read]) -> Iterator[Group]:
        """Answers of every method that lacks some of a batch, a group of prompts at a time."""
        ready = readable(self.model, batch, self.encodings)
        failed = {run.fingerprint: ready.failed for run in self.runs}
        if ready.failed or ready.worked:
            yield Group(len(ready.failed), failed=failed, worked=ready.worked)
        if not ready.work:
            return
        keys = [key for key, _ in ready.work]
        lacking = [run for run in self.runs if not run.known.issuperset(keys)]
        ask = partial(self._steered, self.store.read_importance(self.plain, keys))
        for own, found in divided(ready.work, partial(ask, lacking), ANSWERING):
            if isinstance(found, Group):
                yield found
                continue
            # A prompt at which some method fails, or all: each method tries it alone.
            group, work = Group(len(own)), [w for w in ready.work if w[0] in own]
            for run in lacking:
                for keys, alone in divided(work, partial(ask, [run]), _stage(run.method)):
                    if isinstance(alone, Failure):
                        failures = [Failed.at(key, alone) for key in keys]
                        group.failed.setdefault(run.fingerprint, []).extend(failures)
                    else:
                        group.written[run.fingerprint] = alone.written[run.fingerprint]
                        group.failed[run.fingerprint] = alone.failed[run.fingerprint]
                        group.importance.update(alone.importance)
                        group.worked.update(alone.worked)
            yield group

    @property
    def fingerprints(self) -> list[str]:
        """Runs that answers are kept under."""
        return [run.fingerprint for run in self.runs]

    def sent(self) -> Steering:
        """Without model and stores, to be sent to another process."""
        return replace(self, model=None, store=None, encodings=self.encodings and Taken())

    def here(self, model: Steerable, lent: Mapping[Key, np.ndarray]) -> Steering:
        """In another process: by its model, keeping what is to be written (``questions.Taken``)."""
        return replace(self, model=model, store=Lent(lent), encodings=self.encodings and Taken())

    def lent(self, items: Sequence[Item]) -> dict[Key, np.ndarray]:
        """What of the store is needed to ask about some clips."""
        keys = [(item.sample_id, c, item.version) for item in items for c in item.coalitions]
        return self.store.read_importance(self.plain, keys)

    def _steered(
        self, known: Mapping[Key, np.ndarray], runs: Sequence[SteeredRun], work: Sequence[Work]
    ) -> Iterator[tuple[list[Key], Group]]:
        keys, queries = (list(x) for x in zip(*work, strict=True))
        methods = [run.method for run in runs]
        for asked in self._computed(keys, queries, methods, known):
            outcomes = self._columns(asked, methods)
            group = Group(len(asked.keys), importance=asked.found, worked={ANSWERING})
            for run, outcome in zip(runs, outcomes, strict=True):
                written, failures = self._written(asked, run.method, outcome)
                group.written[run.fingerprint] = written
                group.failed[run.fingerprint] = failures
                if len(failures) < len(asked.keys):
                    group.worked.add(_stage(run.method))
            yield asked.keys, group

    def _computed(
        self,
        keys: Sequence[Key],
        queries: Sequence[Query],
        methods: Sequence[Method],
        known: Mapping[Key, np.ndarray],
    ) -> Iterator[_Asked]:
        """The prompts of a batch of clips, in the groups in which they are computed."""
        kinds = {m.importance for m in methods if m.config.beta > 0}
        for part in self.model.compute(queries, states=True):
            done = part.shortened()
            own_keys, own = ([given[row] for row in part.rows] for given in (keys, queries))
            importance: dict[Importance, Tensor] = {}
            found: dict[Key, np.ndarray] = {}
            if "attention" in kinds:
                importance["attention"] = attention_importance(
                    done.trace.mean_attention, done.modality_ids
                )
            if "gradient" in kinds:
                importance["gradient"], found = self._gradient(
                    own_keys, own, part.modality_ids, known
                )
            rows = self.clips.loc[[key[0] for key in own_keys]].reset_index(drop=True)
            batch = Batch(rows.assign(coalition=[q.coalition for q in own]), done.trace.counts > 0)
            yield _Asked(own_keys, own, done, batch, importance, found)

    def _gradient(
        self,
        keys: Sequence[Key],
        queries: Sequence[Query],
        modality_ids: Tensor,
        known: Mapping[Key, np.ndarray],
    ) -> tuple[Tensor, dict[Key, np.ndarray]]:
        """Importance of visual tokens in a group of prompts, and what of it was not known before."""
        visual = modality_ids == MODALITIES.index("V")
        importance = torch.zeros(modality_ids.shape, device=self.model.device)
        seeing = [i for i, q in enumerate(queries) if "V" in q.coalition and keys[i] not in known]
        found: dict[Key, np.ndarray] = {}
        at_once = max(1, GRADIENT_TOKENS // modality_ids.shape[1])
        for own in (seeing[i : i + at_once] for i in range(0, len(seeing), at_once)):
            with torch.inference_mode(False):
                prompt = self.model.prepare([queries[i] for i in own])
                scores = gradient_importance(
                    self.model.model,
                    prompt.inputs_embeds,
                    prompt.attention_mask,
                    prompt.position_ids,
                    prompt.modality_ids,
                    self.model.letter_weights,
                )
            importance[own] = _moved(scores, prompt.modality_ids, modality_ids[own])
            found |= {keys[i]: importance[i, visual[i]].cpu().numpy() for i in own}
        for i, key in enumerate(keys):
            if key in known:
                importance[i, visual[i]] = torch.tensor(known[key], device=self.model.device)
        return importance, found

    def _steer_whole(self, asked: _Asked, prompt: Prompt, method: Method) -> _Column:
        """A method that steers every query of the prompt, which is computed again.

        Prompts of a clip that begin alike share nothing here: what is added to a layer's scores
        hangs on the whole prompt, by its last position, and so the keys of every later layer do.
        The replies whose scores are compared are not steered: letters are what is measured.
        """
        gate = method.source.gate(asked.batch)
        importance = None
        if method.config.beta > 0:
            own = asked.importance[method.importance]
            importance = _moved(own, asked.prefill.modality_ids, prompt.modality_ids)
        with steer(
            self.model.model, gate, method.config, prompt.modality_ids, importance=importance
        ) as steered:
            done = self.model.decoder(
                inputs_embeds=prompt.inputs_embeds,
                attention_mask=prompt.attention_mask,
                position_ids=prompt.position_ids,
                use_cache=True,
            )
        hidden = done.last_hidden_state[:, -1]
        mask = prompt.attention_mask
        return _Column(hidden, done.past_key_values, mask, steered.trace.mass, steered.decisions)

    @torch.inference_mode()
    def _columns(self, asked: _Asked, methods: Sequence[Method]) -> list[_Column]:
        """Outcome of each method, those of a kind side by side."""
        results: dict[int, _Column] = {}
        together: dict[Importance | None, list[int]] = {}
        prompt: Prompt | None = None
        for i, method in enumerate(methods):
            if method.config.scope == "all":
                prompt = prompt or self.model.prepare(asked.queries)
                results[i] = self._steer_whole(asked, prompt, method)
            else:
                kind = method.importance if method.config.beta > 0 else None
                together.setdefault(kind, []).append(i)
        gates: dict[int, object] = {}
        for kind, chosen in together.items():
            columns = []
            for i in chosen:
                source = methods[i].source
                # One gate a source: a router that many configurations share is asked once.
                if id(source) not in gates:
                    gates[id(source)] = source.gate(asked.batch)
                columns.append((gates[id(source)], methods[i].config))
            importance = None if kind is None else asked.importance[kind]
            replayed, decisions = replay(asked.prefill, columns, importance=importance)
            for column, i in enumerate(chosen):
                own = slice(column, column + 1)
                results[i] = _Column(
                    replayed.hidden[:, column],
                    replayed.cache(asked.prefill.cache, column) if methods[i].scored else None,
                    asked.prefill.attention_mask,
                    replayed.mass[:, column],
                    Decisions(
                        decisions.conflict[:, own], decisions.gate[:, own], decisions.heads[:, own]
                    ),
                )
        return [results[i] for i in range(len(methods))]

    def _written(
        self, asked: _Asked, method: Method, column: _Column
    ) -> tuple[Written, list[Failed]]:
        """What a method answered, to be stored, and what of it is not made of finite numbers."""
        logits = self.model.letter_logits(column.hidden)
        good = finite(logits)
        # No class is the largest of numbers that are none; any will do to go on with.
        labels = logits.nan_to_num().argmax(-1).tolist()
        scores: list[float | None] = [None] * len(labels)
        if method.scored:
            start = after(asked.prefill.position_ids)
            found = self.model.best_scores(asked.queries, labels, column.mask, start, column.cache)
            scores = found.tolist()
            good &= finite(found) & finite(column.mass)
        rows = logits.cpu().tolist()
        kept = [i for i in range(len(labels)) if good[i]]
        stage = _stage(method)
        failed = [
            Failed.at(key, not_finite(stage, "numbers"))
            for i, key in enumerate(asked.keys)
            if not good[i]
        ]
        predictions = [Prediction(*asked.keys[i], labels[i], scores[i], *rows[i]) for i in kept]
        if not method.scored:
            return (predictions, [], []), failed
        mass, counts = column.mass.float().cpu().numpy(), asked.prefill.trace.counts.cpu().numpy()
        traces = [StoredTrace(*asked.keys[i], mass[i], counts[i]) for i in kept]
        said = column.decisions.conflict, column.decisions.gate
        conflict, gate = (x[:, 0].float().cpu().numpy() for x in said)
        routes = [StoredRoute(*asked.keys[i][:2], conflict[i], gate[i]) for i in kept]
        return (predictions, traces, routes), failed


def _moved(importance: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Scores of visual tokens ``(B, S)`` in another padding of the same prompts."""
    visual = MODALITIES.index("V")
    result = torch.zeros(target.shape, dtype=importance.dtype, device=target.device)
    # Both masks run through the same tokens in the same order, row by row.
    result[target == visual] = importance[source == visual]
    return result


def _stage(method: Method) -> str:
    return f"steering by {method.name!r}"
