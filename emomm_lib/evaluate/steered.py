"""Any number of steering methods over clips and coalitions, on one prefill of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from emomm_lib.chase.replay import Prefill, prefill, replay
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.chase.steer import Decisions, steer
from emomm_lib.evaluate.methods import Batch, Importance, Method
from emomm_lib.evaluate.plan import make_plan
from emomm_lib.evaluate.runner import MediaSettings, read_ahead, readable, run_fingerprint
from emomm_lib.evaluate.states import Key
from emomm_lib.evaluate.store import Prediction, PredictionStore, StoredRoute, StoredTrace
from emomm_lib.models.omni import OmniModel, Prompt, Query

STEERING_VERSION = 1
"""Raised whenever a change in ``chase`` can change an answer; part of every fingerprint."""


def steering_fingerprint(
    model: OmniModel, media: MediaSettings, method: Method
) -> tuple[str, dict]:
    """Digest of a steered run, and what it is of."""
    settings = {**method.settings(), "version": STEERING_VERSION}
    return run_fingerprint(model, media, steering=settings)


@dataclass(frozen=True)
class _Asked:
    """Prompts of one coalition, computed unsteered, and what their steering needs."""

    keys: list[Key]
    queries: list[Query]
    prompt: Prompt
    prefill: Prefill
    batch: Batch
    importance: dict[Importance, Tensor]


@dataclass(frozen=True)
class _Column:
    """One method's outcome on B prompts: hidden ``(B, D)``, and the rest where it is scored."""

    hidden: Tensor
    cache: object = None
    mass: Tensor | None = None
    decisions: Decisions | None = None


def _prepare(
    model: OmniModel, keys: list[Key], queries: list[Query], clips: pd.DataFrame, kinds: set
) -> _Asked:
    prompt = model.prepare(queries)
    given = (
        prompt.inputs_embeds,
        prompt.attention_mask,
        prompt.position_ids,
        prompt.modality_ids,
    )
    done = prefill(model.model, *given, rows="attention" in kinds)
    importance: dict[Importance, Tensor] = {}
    if "attention" in kinds:
        importance["attention"] = done.attention_importance
    if "gradient" in kinds:
        if "V" in queries[0].coalition:
            importance["gradient"] = gradient_importance(model.model, *given, model.letter_weights)
        else:
            importance["gradient"] = torch.zeros(prompt.input_ids.shape, device=model.device)
    rows = clips.loc[[key[0] for key in keys]].reset_index()
    batch = Batch(rows, queries[0].coalition, done.trace.counts > 0)
    return _Asked(keys, queries, prompt, done, batch, importance)


def _steer_whole(model: OmniModel, asked: _Asked, method: Method) -> _Column:
    """A method that steers every query: the whole prompt again."""
    prompt = asked.prompt
    gate = method.source.gate(asked.batch)
    importance = asked.importance.get(method.importance)
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
    return _Column(hidden, done.past_key_values, steered.trace.mass, steered.decisions)


@torch.no_grad()
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
            gate = gates.setdefault(id(source), source.gate(asked.batch))
            columns.append((gate, methods[i].config))
        importance = None if kind is None else asked.importance[kind]
        replayed, decisions = replay(asked.prefill, columns, importance=importance)
        for column, i in enumerate(chosen):
            own = slice(column, column + 1)
            results[i] = _Column(
                replayed.hidden[:, column],
                replayed.cache(asked.prefill.cache, column) if methods[i].scored else None,
                replayed.mass[:, column],
                Decisions(
                    decisions.conflict[:, own], decisions.gate[:, own], decisions.heads[:, own]
                ),
            )
    return [results[i] for i in range(len(methods))]


def _written(
    model: OmniModel, asked: _Asked, method: Method, column: _Column
) -> tuple[list[Prediction], list[StoredTrace], list[StoredRoute]]:
    keep = [i for i, key in enumerate(asked.keys) if _allowed(method, key[0])]
    if not keep:
        return [], [], []
    logits = model.letter_logits(column.hidden)
    labels = logits.argmax(-1).tolist()
    scores: list[float | None] = [None] * len(labels)
    if method.scored:
        start = asked.prompt.position_ids.amax(dim=(0, 2)) + 1
        mask = asked.prompt.attention_mask
        scores = model.best_scores(asked.queries, labels, mask, start, column.cache).tolist()
    rows = logits.cpu().tolist()
    predictions = [Prediction(*asked.keys[i], labels[i], scores[i], *rows[i]) for i in keep]
    if not method.scored:
        return predictions, [], []
    mass, counts = column.mass.float().cpu().numpy(), asked.prefill.trace.counts.cpu().numpy()
    traces = [StoredTrace(*asked.keys[i], mass[i], counts[i]) for i in keep]
    said = column.decisions.conflict, column.decisions.gate
    conflict, gate = (x[:, 0].float().cpu().numpy() for x in said)
    routes = [StoredRoute(*asked.keys[i][:2], conflict[i], gate[i]) for i in keep]
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
    batch_size: int = 32,
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Answers of every method, from the store where they are known.

    Each prompt is computed once unsteered, and every method of scope ``decision`` replays its
    decision token; scope ``all`` costs a prompt each. A batch is durable for all methods before
    the next begins.

    Returns rows like :func:`emomm_lib.evaluate.runner.evaluate` and ``method``, its name. Raises
    like it, and ``ValueError`` for two methods of one name.
    """
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several methods are named {repeated}; give each its own name")
    settings = media or MediaSettings()
    prints = []
    for method in methods:
        fingerprint, preimage = steering_fingerprint(model, settings, method)
        store.begin(fingerprint, preimage)
        prints.append(fingerprint)
    known = [store.known(fingerprint) for fingerprint in prints]
    concerned = [any(_allowed(m, name) for m in methods) for name in clips["sample_id"]]
    done = _known_to_all(known, methods)
    plan = make_plan(clips[concerned], roots, coalitions, done, batch_size)
    by_id = clips.set_index("sample_id", drop=False).rename_axis("index")
    with tqdm(
        total=plan.known + plan.remaining, initial=plan.known, unit="prompt", disable=not progress
    ) as bar:
        for batch in read_ahead(plan, settings, workers):
            work, failures = readable(model, batch)
            for failure in failures:
                store.write_runs({p: ([failure], (), ()) for p in prints})
            work.sort(key=lambda pair: coalitions.index(pair[1].coalition))
            for _, group in groupby(work, key=lambda pair: pair[1].coalition):
                keys, queries = (list(x) for x in zip(*group, strict=True))
                chosen = [
                    i
                    for i, method in enumerate(methods)
                    if any(k not in known[i] and _allowed(method, k[0]) for k in keys)
                ]
                wanted = [methods[i] for i in chosen]
                kinds = {m.importance for m in wanted if m.config.beta > 0}
                asked = _prepare(model, keys, queries, by_id, kinds)
                outcomes = _columns(model, asked, wanted)
                store.write_runs(
                    {
                        prints[i]: _written(model, asked, methods[i], outcome)
                        for i, outcome in zip(chosen, outcomes, strict=True)
                    }
                )
                bar.update(len(keys))
            bar.update(len(failures))
    frames = []
    for method, fingerprint in zip(methods, prints, strict=True):
        table = store.read(fingerprint)
        own = table["sample_id"].isin(clips["sample_id"]) & table["coalition"].isin(coalitions)
        if method.clips is not None:
            own &= table["sample_id"].isin(set(method.clips))
        frames.append(table[own].drop(columns="media").assign(method=method.name))
    return pd.concat(frames, ignore_index=True)


def _allowed(method: Method, sample_id: str) -> bool:
    return method.clips is None or sample_id in method.clips


def _known_to_all(known: Sequence[set[Key]], methods: Sequence[Method]) -> set[Key]:
    """Keys that every method that may be asked about their clip has answered."""
    everything = set().union(*known)
    return {
        key
        for key in everything
        if all(key in own or not _allowed(m, key[0]) for own, m in zip(known, methods, strict=True))
    }
