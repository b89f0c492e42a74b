"""Any number of steering methods over clips and coalitions, on one prefill of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Cache

from emomm_lib.chase.replay import Prefill, replay
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.chase.steer import Decisions, steer
from emomm_lib.labels import MODALITIES
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.methods import Batch, Importance, Method
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.plan import make_plan
from emomm_study.evaluate.runner import (
    ANSWERING,
    Failed,
    Held,
    MediaSettings,
    Read,
    Reader,
    Work,
    computed,
    divided,
    finite,
    not_finite,
    readable,
    run_fingerprint,
)
from emomm_study.evaluate.states import Key
from emomm_study.evaluate.store import (
    Prediction,
    PredictionStore,
    StoredRoute,
    StoredTrace,
    Written,
)
from emomm_study.failures import Failure, in_one_sentence
from emomm_study.systems.omni import OmniModel, Query

STEERING_VERSION = 1
"""Raised whenever a change in ``chase`` can change an answer; part of every fingerprint."""
GRADIENT_TOKENS = 4096
"""Tokens of one backward pass, or one prompt: it keeps all activations, 5 MB a token at 7B."""


def steering_fingerprint(
    model: OmniModel, media: MediaSettings, method: Method
) -> tuple[str, dict]:
    """Digest of a steered run, and what it is of."""
    settings = {**method.settings(), "version": STEERING_VERSION}
    return run_fingerprint(model, media, steering=settings)


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


def _compute(
    model: OmniModel,
    keys: Sequence[Key],
    queries: Sequence[Query],
    clips: pd.DataFrame,
    wanted: Sequence[Method],
    known: Mapping[Key, np.ndarray],
) -> Iterator[_Asked]:
    """The prompts of a batch of clips, in the groups in which they are computed."""
    kinds = {m.importance for m in wanted if m.config.beta > 0}
    for part in model.compute(queries, states=True, rows="attention" in kinds):
        done = part.shortened()
        own_keys, own = ([given[row] for row in part.rows] for given in (keys, queries))
        importance: dict[Importance, Tensor] = {}
        found: dict[Key, np.ndarray] = {}
        if "attention" in kinds:
            importance["attention"] = done.attention_importance
        if "gradient" in kinds:
            importance["gradient"], found = _gradient(
                model, own_keys, own, part.modality_ids, known
            )
        rows = clips.loc[[key[0] for key in own_keys]].reset_index(drop=True)
        batch = Batch(rows.assign(coalition=[q.coalition for q in own]), done.trace.counts > 0)
        yield _Asked(own_keys, own, done, batch, importance, found)


def _gradient(
    model: OmniModel,
    keys: Sequence[Key],
    queries: Sequence[Query],
    modality_ids: Tensor,
    known: Mapping[Key, np.ndarray],
) -> tuple[Tensor, dict[Key, np.ndarray]]:
    """Importance of visual tokens in a group of prompts, and what of it was not known before."""
    visual = modality_ids == MODALITIES.index("V")
    importance = torch.zeros(modality_ids.shape, device=model.device)
    seeing = [i for i, q in enumerate(queries) if "V" in q.coalition and keys[i] not in known]
    found: dict[Key, np.ndarray] = {}
    at_once = max(1, GRADIENT_TOKENS // modality_ids.shape[1])
    for own in (seeing[i : i + at_once] for i in range(0, len(seeing), at_once)):
        with torch.inference_mode(False):
            prompt = model.prepare([queries[i] for i in own])
            scores = gradient_importance(
                model.model,
                prompt.inputs_embeds,
                prompt.attention_mask,
                prompt.position_ids,
                prompt.modality_ids,
                model.letter_weights,
            )
        importance[own] = _moved(scores, prompt.modality_ids, modality_ids[own])
        found |= {keys[i]: importance[i, visual[i]].cpu().numpy() for i in own}
    for i, key in enumerate(keys):
        if key in known:
            importance[i, visual[i]] = torch.tensor(known[key], device=model.device)
    return importance, found


def _moved(importance: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Scores of visual tokens ``(B, S)`` in another padding of the same prompts."""
    visual = MODALITIES.index("V")
    result = torch.zeros(target.shape, device=target.device)
    # Both masks run through the same tokens in the same order, row by row.
    result[target == visual] = importance[source == visual]
    return result


def _steer_whole(model: OmniModel, asked: _Asked, method: Method) -> _Column:
    """A method that steers every query of the prompt, which is computed again.

    The replies whose scores are compared are not steered: letters are what is measured.
    """
    prompt = model.prepare(asked.queries)
    gate = method.source.gate(asked.batch)
    importance = None
    if method.config.beta > 0:
        own = asked.importance[method.importance]
        importance = _moved(own, asked.prefill.modality_ids, prompt.modality_ids)
    with steer(
        model.model, gate, method.config, prompt.modality_ids, importance=importance
    ) as steered:
        done = model.model.get_decoder()(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            use_cache=True,
        )
    hidden = done.last_hidden_state[:, -1]
    mask = prompt.attention_mask
    return _Column(hidden, done.past_key_values, mask, steered.trace.mass, steered.decisions)


@torch.inference_mode()
def _columns(model: OmniModel, asked: _Asked, methods: Sequence[Method]) -> list[_Column]:
    """Outcome of each method, those of a kind side by side."""
    results: dict[int, _Column] = {}
    together: dict[Importance | None, list[int]] = {}
    for i, method in enumerate(methods):
        if method.config.scope == "all":
            results[i] = _steer_whole(model, asked, method)
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
                asked.prefill.mask,
                replayed.mass[:, column],
                Decisions(
                    decisions.conflict[:, own], decisions.gate[:, own], decisions.heads[:, own]
                ),
            )
    return [results[i] for i in range(len(methods))]


def _written(
    model: OmniModel, asked: _Asked, method: Method, column: _Column
) -> tuple[Written, list[Failed]]:
    """What a method answered, to be stored, and what of it is not made of finite numbers."""
    logits = model.letter_logits(column.hidden)
    good = finite(logits)
    # No class is the largest of numbers that are none; any will do to go on with.
    labels = logits.nan_to_num().argmax(-1).tolist()
    scores: list[float | None] = [None] * len(labels)
    if method.scored:
        start = asked.prefill.position.amax(0) + 1
        found = model.best_scores(asked.queries, labels, column.mask, start, column.cache)
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


def _stage(method: Method) -> str:
    return f"steering by {method.name!r}"


def evaluate_methods(
    model: OmniModel,
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    coalitions: Sequence[str],
    methods: Sequence[Method],
    store: PredictionStore,
    *,
    media: MediaSettings | None = None,
    encodings: EncodingStore | None = None,
    batch_size: int = 32,
    workers: int = 2,
    processes: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Answers of every method, from the store where they are known.

    Each prompt is computed once unsteered, and every method of scope ``decision`` replays its
    decision token; scope ``all`` costs a prompt each. Each group of prompts is durable for all
    methods at once. ``workers`` and ``processes`` as for ``evaluate``, and so are failures: what
    fails under one method alone is that method's failure.

    Returns rows like :func:`emomm_study.evaluate.runner.evaluate` and ``method``, its name. Raises
    like it, and ``ValueError`` for two methods of one name.
    """
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several methods are named {repeated}; give each its own name")
    settings = media or MediaSettings()
    reader = Reader(settings, model.device, encodings)
    processes = processes_for(model.device) if processes is None else processes
    with in_one_sentence(store.path, "prompts", batch_size) as kept:
        # What visual tokens matter to the unsteered model is kept under its own run.
        plain, preimage = run_fingerprint(model, settings)
        store.begin(plain, preimage)
        runs = []
        for method in methods:
            fingerprint, preimage = steering_fingerprint(model, settings, method)
            store.begin(fingerprint, preimage)
            runs.append(_Run(method, fingerprint, store.known(fingerprint)))
        # Clips that the same methods are asked about go together: what only some need, such as
        # gradients and scores, is computed for those alone.
        asked_about = pd.Series(
            [
                tuple(i for i, run in enumerate(runs) if run.concerns(name))
                for name in clips["sample_id"]
            ],
            clips.index,
        )
        plans = []
        for chosen, part in clips.groupby(asked_about, sort=False):
            own = [runs[i] for i in chosen]
            if own:
                done = set.intersection(*(run.known for run in own))
                plans.append((own, make_plan(part, roots, coalitions, done, batch_size)))
        by_id = clips.set_index("sample_id", drop=False).rename_axis("index")
        kept.done = sum(plan.known for _, plan in plans)
        kept.total = kept.done + sum(plan.remaining for _, plan in plans)
        held = Held()
        with tqdm(total=kept.total, initial=kept.done, unit="prompt", disable=not progress) as bar:
            for own, plan in plans:
                ask = partial(_ask, model, own, by_id, store, plain, encodings)
                for group in computed(plan, ask, reader, workers, processes):
                    sure = held.sort(group.worked, group.failed)
                    if written := _with(group.written, runs, sure):
                        store.write_runs(written)
                    if group.importance:
                        store.write_importance(plain, group.importance)
                    kept.done += group.count
                    bar.update(group.count)
        store.write_runs(_with({}, runs, held.rest()))
        frames = []
        for run in runs:
            table = store.read(run.fingerprint)
            own = table["sample_id"].isin(clips["sample_id"]) & table["coalition"].isin(coalitions)
            if run.method.clips is not None:
                own &= table["sample_id"].isin(set(run.method.clips))
            frames.append(table[own].drop(columns="media").assign(method=run.method.name))
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class _Run:
    """A method, its fingerprint, and what it has answered before."""

    method: Method
    fingerprint: str
    known: set[Key]

    def concerns(self, sample_id: str) -> bool:
        return self.method.clips is None or sample_id in self.method.clips


@dataclass(frozen=True)
class _Group:
    """What came of a group of prompts.

    ``written`` and ``failed`` are by run, ``importance`` what was not known before, and ``worked``
    what went well.
    """

    count: int
    written: dict[str, Written] = field(default_factory=dict)
    failed: dict[str, list[Failed]] = field(default_factory=dict)
    importance: dict[Key, np.ndarray] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)


def _with(
    written: Mapping[str, Written],
    runs: Sequence[_Run],
    failures: Mapping[str, Sequence[Prediction]],
) -> dict[str, Written]:
    """What is to be written with the failures that no answer of before stands against."""
    joined = dict(written)
    known = {run.fingerprint: run.known for run in runs}
    for run, own in failures.items():
        new = [f for f in own if (f.sample_id, f.coalition, f.media) not in known[run]]
        predictions, traces, routes = joined.get(run, ((), (), ()))
        joined[run] = [*predictions, *new], traces, routes
    return joined


def _ask(
    model: OmniModel,
    runs: Sequence[_Run],
    clips: pd.DataFrame,
    store: PredictionStore,
    plain: str,
    encodings: EncodingStore | None,
    batch: Sequence[Read],
) -> Iterator[_Group]:
    """Answer a batch by every method that lacks some of it, a group of prompts at a time."""
    ready = readable(model, batch, encodings)
    failed = {run.fingerprint: ready.failed for run in runs}
    if ready.failed or ready.worked:
        yield _Group(len(ready.failed), failed=failed, worked=ready.worked)
    if not ready.work:
        return
    keys = [key for key, _ in ready.work]
    lacking = [run for run in runs if not run.known.issuperset(keys)]
    known = store.read_importance(plain, keys)

    def steered(chosen: Sequence[_Run], work: list[Work]) -> Iterator[tuple[list[Key], _Group]]:
        keys, queries = (list(x) for x in zip(*work, strict=True))
        methods = [run.method for run in chosen]
        for asked in _compute(model, keys, queries, clips, methods, known):
            outcomes = _columns(model, asked, methods)
            group = _Group(len(asked.keys), importance=asked.found, worked={ANSWERING})
            for run, outcome in zip(chosen, outcomes, strict=True):
                written, failures = _written(model, asked, run.method, outcome)
                group.written[run.fingerprint] = written
                group.failed[run.fingerprint] = failures
                if len(failures) < len(asked.keys):
                    group.worked.add(_stage(run.method))
            yield asked.keys, group

    for own, found in divided(ready.work, partial(steered, lacking), ANSWERING):
        if isinstance(found, _Group):
            yield found
            continue
        # A prompt at which some method fails, or all: each method tries it alone.
        group, work = _Group(len(own)), [w for w in ready.work if w[0] in own]
        for run in lacking:
            for keys, alone in divided(work, partial(steered, [run]), _stage(run.method)):
                if isinstance(alone, Failure):
                    failures = [Failed.at(key, alone) for key in keys]
                    group.failed.setdefault(run.fingerprint, []).extend(failures)
                else:
                    group.written[run.fingerprint] = alone.written[run.fingerprint]
                    group.failed[run.fingerprint] = alone.failed[run.fingerprint]
                    group.importance.update(alone.importance)
                    group.worked.update(alone.worked)
        yield group
