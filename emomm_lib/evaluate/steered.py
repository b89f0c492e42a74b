"""Any number of steering methods over clips and coalitions, on one prefill of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from emomm_lib.evaluate.encodings import EncodingStore
from emomm_lib.evaluate.methods import Batch, Importance, Method
from emomm_lib.evaluate.parallel import processes_for
from emomm_lib.evaluate.plan import make_plan
from emomm_lib.evaluate.runner import (
    MediaSettings,
    Read,
    Reader,
    computed,
    readable,
    run_fingerprint,
)
from emomm_lib.evaluate.states import Key
from emomm_lib.evaluate.store import (
    Prediction,
    PredictionStore,
    StoredRoute,
    StoredTrace,
    Written,
)
from emomm_lib.labels import MODALITIES
from emomm_lib.models.omni import OmniModel, Query

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
        done = Prefill(
            model.model,
            part.hidden,
            part.trace,
            part.cache,
            part.embeds,
            part.position,
            part.mask,
            part.modality_ids,
        ).shortened()
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
) -> tuple[list[Prediction], list[StoredTrace], list[StoredRoute]]:
    logits = model.letter_logits(column.hidden)
    labels = logits.argmax(-1).tolist()
    scores: list[float | None] = [None] * len(labels)
    if method.scored:
        start = asked.prefill.position.amax(0) + 1
        scores = model.best_scores(asked.queries, labels, column.mask, start, column.cache).tolist()
    rows = logits.cpu().tolist()
    predictions = [
        Prediction(*key, label, score, *row)
        for key, label, score, row in zip(asked.keys, labels, scores, rows, strict=True)
    ]
    if not method.scored:
        return predictions, [], []
    mass, counts = column.mass.float().cpu().numpy(), asked.prefill.trace.counts.cpu().numpy()
    traces = list(map(StoredTrace, *zip(*asked.keys, strict=True), mass, counts))
    said = column.decisions.conflict, column.decisions.gate
    conflict, gate = (x[:, 0].float().cpu().numpy() for x in said)
    ids, coalitions, _ = zip(*asked.keys, strict=True)
    routes = list(map(StoredRoute, ids, coalitions, conflict, gate))
    return predictions, traces, routes


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
    methods at once. ``workers`` and ``processes`` as for ``evaluate``.

    Returns rows like :func:`emomm_lib.evaluate.runner.evaluate` and ``method``, its name. Raises
    like it, and ``ValueError`` for two methods of one name.
    """
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several methods are named {repeated}; give each its own name")
    settings = media or MediaSettings()
    reader = Reader(settings, model.device, encodings)
    processes = processes_for(model.device) if processes is None else processes
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
    known = sum(plan.known for _, plan in plans)
    total = known + sum(plan.remaining for _, plan in plans)
    with tqdm(total=total, initial=known, unit="prompt", disable=not progress) as bar:
        for own, plan in plans:
            ask = partial(_ask, model, own, by_id, store, plain, encodings)
            for count, written, found in computed(plan, ask, reader, workers, processes):
                store.write_runs(written)
                if found:
                    store.write_importance(plain, found)
                bar.update(count)
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

    def failing(self, failures: Sequence[Prediction]) -> Written:
        """The failures that no answer of before stands against."""
        new = [f for f in failures if (f.sample_id, f.coalition, f.media) not in self.known]
        return new, (), ()

    def concerns(self, sample_id: str) -> bool:
        return self.method.clips is None or sample_id in self.method.clips


def _ask(
    model: OmniModel,
    runs: Sequence[_Run],
    clips: pd.DataFrame,
    store: PredictionStore,
    plain: str,
    encodings: EncodingStore | None,
    batch: Sequence[Read],
) -> Iterator[tuple[int, dict[str, Written], dict[Key, np.ndarray]]]:
    """Answer a batch by every method that lacks some of it, a group of prompts at a time.

    Gives the number of prompts, what is to be written of them, and importance not known before.
    """
    work, failures = readable(model, batch, encodings)
    if failures:
        yield len(failures), {run.fingerprint: run.failing(failures) for run in runs}, {}
    if not work:
        return
    keys, queries = (list(x) for x in zip(*work, strict=True))
    lacking = [run for run in runs if not run.known.issuperset(keys)]
    methods = [run.method for run in lacking]
    known = store.read_importance(plain, keys)
    for asked in _compute(model, keys, queries, clips, methods, known):
        outcomes = _columns(model, asked, methods)
        written = {
            run.fingerprint: _written(model, asked, run.method, outcome)
            for run, outcome in zip(lacking, outcomes, strict=True)
        }
        yield len(asked.keys), written, asked.found
