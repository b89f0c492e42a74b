"""``emomm ask``: what a system answers to one clip, and what it attends to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from emomm_lib.labels import CLASS_NAMES, LETTERS, MODALITIES
from emomm_lib.metrics.nmas import layer_budget
from emomm_lib.metrics.reference import LOGITS
from emomm_study.command.clip import bench_of, given_clip
from emomm_study.command.outcome import Outcome, Refused, refusing
from emomm_study.command.system import is_steerable, media_for, named_system, opened, told_of
from emomm_study.evaluate.experiment import Experiment
from emomm_study.failures import RunStopped
from emomm_study.systems.interface import NotOffered


def carry_out(options: argparse.Namespace) -> Outcome:
    """Ask about the clip under the coalition that was wanted, or with all that there is."""
    named, clip = named_system(options.system), given_clip(options)
    coalition, media = clip.coalition(options.coalition), media_for(named, options.frames)
    notes = told_of(named)
    with opened(named, options) as system, bench_of(clip, system, media) as bench:
        found = {
            "file": str(clip.film),
            "system": named.name,
            "corpus": clip.corpus,
            "coalition": coalition,
            "absent": clip.absent,
            **_asked(bench, coalition),
            "notes": notes,
        }
    return Outcome(found, shown(found))


def _asked(bench: Experiment, coalition: str) -> dict[str, Any]:
    """The answer, and of a system that shows its decoder the attention behind it."""
    looked = is_steerable(bench.model)
    with refusing(RunStopped):
        try:
            decoding = "constrained"
            answer = bench.predictions(bench.clips, [coalition], traces=looked).iloc[0]
        except NotOffered:
            decoding = "free"
            answer = bench.predictions(bench.clips, [coalition], decoding="free").iloc[0]
    if isinstance(answer["failure"], str):
        raise Refused(answer["failure"])
    budget: Sequence[Sequence[float]] | None = None
    tokens = None
    if looked:
        trace = bench.traces()
        budget = layer_budget(trace.mass[0], trace.counts[0]).tolist()
        tokens = dict(zip(MODALITIES, trace.counts[0].tolist(), strict=True))
    return {
        "decoding": decoding,
        **letter_of(None if pd.isna(answer["label"]) else int(answer["label"])),
        "probabilities": probabilities(answer[list(LOGITS)]),
        "score": answer["score"],
        "reply": answer["reply"],
        "tokens": tokens,
        **budgets(budget),
    }


def letter_of(label: int | None) -> dict[str, Any]:
    """A class as a letter and by name."""
    if label is None:
        return {"letter": None, "label": None, "name": None}
    return {"letter": LETTERS[label], "label": label, "name": CLASS_NAMES[label]}


def probabilities(logits: pd.Series) -> dict[str, float] | None:
    """Of A..E among themselves; None of a system that shows none."""
    if logits.isna().any():
        return None
    return dict(zip(LETTERS, softmax(logits.to_numpy(np.float64)).tolist(), strict=True))


def budgets(by_layer: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    """Attention budget of T, A, V, its mean over layers and by layer; NaN where absent."""
    if by_layer is None:
        return {"budget": None, "budget_by_layer": None}
    mean = dict(zip(MODALITIES, np.mean(by_layer, axis=0).tolist(), strict=True))
    return {"budget": mean, "budget_by_layer": by_layer}


def numbers(values: Mapping[str, float], form: str = ".3f") -> str:
    """``T 0.250  A 0.500  V -``."""
    return "  ".join(f"{k} {'-' if pd.isna(v) else format(v, form)}" for k, v in values.items())


def shown(found: Mapping[str, Any]) -> str:
    """The answer for a terminal."""
    lines = [
        f"{found['file']}",
        f"asked of {found['system']} under {found['coalition']}, with the scores of "
        f"{found['corpus']}",
        *(f"absent: {why}" for why in found["absent"].values()),
    ]
    if found["letter"] is None:
        lines.append(f"no answer could be read in the reply {found['reply']!r}")
    else:
        score = "none" if pd.isna(found["score"]) else f"{found['score']:+.1f}"
        lines.append(f"answer  {found['letter']}, {found['name']}; score {score}")
    if found["probabilities"]:
        lines.append(f"letters  {numbers(found['probabilities'])}")
    if found["budget"]:
        layers = len(found["budget_by_layer"])
        lines.append(f"attention budget, mean of {layers} layers  {numbers(found['budget'])}")
        lines.append(f"tokens  {numbers(found['tokens'], 'd')}")
    return "\n".join(lines)
