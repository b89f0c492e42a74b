"""Choosing configurations on the validation split, with the same budget for every method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from emomm_lib.chase.steering import SteeringConfig
from emomm_lib.evaluate.methods import GateSource, Method
from emomm_lib.evaluate.results import instances, join

CRITERION = ("conflict", "missing")
"""Subsets whose mean accuracy is maximised, among what does not lower Align."""


def search(
    base: SteeringConfig, space: Mapping[str, Sequence], budget: int, seed: int = 0
) -> list[SteeringConfig]:
    """``budget`` configurations drawn without repetition from a grid around a base.

    ``space`` maps fields of the configuration to values. The whole grid where it is smaller.
    """
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(grid))[:budget])
    return [replace(base, **grid[i]) for i in chosen]


def fractions(total: int, *parts: float) -> list[int]:
    """Distinct counts from 1 to ``total`` at fractions of it: layers or heads of any model."""
    return sorted({min(total, max(1, round(total * part))) for part in parts})


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method whose configuration is still to be chosen.

    Attributes
    ----------
    source
        The gate, of routers that have not seen the validation clips.
    configs
        What it may become.
    """

    name: str
    source: GateSource
    configs: Sequence[SteeringConfig]

    def methods(self) -> list[Method]:
        """One a configuration, named ``<name>/<number>``."""
        return [
            Method(f"{self.name}/{i}", self.source, config) for i, config in enumerate(self.configs)
        ]


def subset_accuracy(clips: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Acc-5 by method and subset (``align, conflict, missing``), from ``method`` predictions."""
    frames, rows = [], instances(clips)
    for name, own in predictions.groupby("method", sort=False):
        scored, _ = join(rows, own)
        subset = scored["subset"].str.split("_").str[0]
        right = scored["label_pred"] == scored["label_gt"]
        frames.append(right.groupby(subset).mean().rename(name))
    return pd.DataFrame(frames).rename_axis("method")


@dataclass(frozen=True)
class Choice:
    """A configuration chosen on validation, and the table that it was chosen from."""

    config: SteeringConfig
    table: pd.DataFrame = field(repr=False)


def choose(
    candidates: Iterable[Candidate], accuracy: pd.DataFrame, baseline: pd.Series
) -> dict[str, Choice]:
    """Each candidate's best configuration by mean accuracy on Conflict and Missing.

    Among those whose Align accuracy is not below the baseline's, or all where none is. Ties go to
    the first. ``accuracy`` is by :func:`subset_accuracy` of the candidates' methods, ``baseline``
    the unsteered model's, both on validation clips.
    """
    chosen = {}
    for candidate in candidates:
        names = [method.name for method in candidate.methods()]
        table = accuracy.loc[names]
        safe = table["align"] >= baseline["align"] - 1e-12
        allowed = table[safe] if safe.any() else table
        best = allowed[list(CRITERION)].mean(axis=1).idxmax()
        chosen[candidate.name] = Choice(candidate.configs[names.index(best)], table)
    return chosen
