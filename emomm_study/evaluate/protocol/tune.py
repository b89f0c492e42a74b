"""Choosing configurations on the validation split, with the same budget for every method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import softmax

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.metrics.reference import LOGITS
from emomm_study.evaluate.methods import GateSource, Method
from emomm_study.evaluate.protocol.choices import Choice
from emomm_study.evaluate.protocol.fit import rows_of
from emomm_study.evaluate.protocol.study import Study
from emomm_study.evaluate.results import instances, join
from emomm_study.evaluate.states import COALITIONS

BASELINE = "baseline"
"""The unsteered model, among methods."""

CRITERION = ("conflict", "missing")
"""Subsets that count equally where methods are compared, among what does not lower Align."""
NEGLIGIBLE = 1e-4
"""Differences of probability below this are none: a hundredth of a point."""
HELD = 1.5
"""Standard errors that an earlier choice may lie behind the best and still be held to. Training
makes last bits large: between makes of processor a difference moves by a tenth of one and more."""


def search(
    base: SteeringConfig, space: Mapping[str, Sequence], budget: int, seed: int = 0
) -> list[SteeringConfig]:
    """A base, and ``budget - 1`` other configurations drawn without repetition around it.

    ``space`` maps fields of the configuration to values; they are drawn from the grid of these. The
    whole grid where it is smaller.
    """
    names, grid = list(space), itertools.product(*space.values())
    around = [replace(base, **dict(zip(names, values, strict=True))) for values in grid]
    others = [config for config in around if config != base]
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(others))[: budget - 1])
    return [base, *(others[i] for i in chosen)]


def fractions(total: int, *parts: float) -> list[int]:
    """Distinct counts from 1 to ``total`` at fractions of it: layers or heads of any model."""
    return sorted({min(total, max(1, round(total * part))) for part in parts})


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method whose configuration is still to be chosen.

    Attributes
    ----------
    source
        The gate, or the name of a kind of router.
    configs
        What it may become; the first is its default.
    group
        What it is shown with in tables and figures.
    """

    name: str
    source: GateSource | str
    configs: Sequence[SteeringConfig]
    group: str = ""

    def methods(self) -> list[Method]:
        """One a configuration, numbered by ``variant``."""
        return [
            Method(self.name, self.source, config, protocol="validation", variant=i)
            for i, config in enumerate(self.configs)
        ]

    def simplest_first(self) -> list[int]:
        """Places in ``configs``: the default, then by how little is changed of it.

        That is by how many parameters differ from the default's, then by how many steps they are
        away from it among the values tried, then by place.
        """
        rows = [asdict(config) for config in self.configs]
        changed = np.zeros(len(rows), int)
        steps = np.zeros(len(rows), int)
        for name, default in rows[0].items():
            values = [row[name] for row in rows]
            tried = sorted(set(values), key=str if isinstance(default, str | None) else None)
            away = np.array([abs(tried.index(v) - tried.index(default)) for v in values])
            changed, steps = changed + (away > 0), steps + away
        return sorted(range(len(rows)), key=lambda i: (changed[i], steps[i], i))


def subset_hits(clips: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """How near each method came to the ground truth, by clip and subset.

    Columns ``method, variant, sample_id, subset, asked, right, truth``: instances scored, how many of them
    have the ground truth's class, and the sum of the probabilities of that class among A..E.
    ``subset`` is ``align``, ``conflict`` or ``missing`` (both kinds). ``predictions`` have
    ``method``, and ``variant`` where there are several of a name; raises ``ValueError`` for an answer without letter logits.
    """
    frames, rows, keys = [], instances(clips), ["method", "variant"]
    predictions = predictions if "variant" in predictions else predictions.assign(variant=0)
    for (name, variant), own in predictions.groupby(keys, sort=False):
        scored, _ = join(rows, own)
        logits = scored[[*LOGITS]].to_numpy(float)
        if np.isnan(logits).any():
            raise ValueError(
                f"{name}: answers without letter logits have no probability to choose by"
            )
        label = scored["label_gt"].to_numpy()
        each = pd.DataFrame(
            {
                "method": name,
                "variant": variant,
                "sample_id": scored["sample_id"],
                "subset": scored["subset"].str.split("_").str[0],
                "asked": 1,
                "right": (scored["label_pred"].to_numpy() == label).astype(int),
                "truth": softmax(logits, axis=1)[np.arange(len(scored)), label],
            }
        )
        frames.append(each.groupby([*keys, "sample_id", "subset"], as_index=False).sum())
    return pd.concat(frames, ignore_index=True)


def subset_means(hits: pd.DataFrame, column: str = "right") -> pd.DataFrame:
    """Acc-5, or mean ``truth``, by method (rows) and subset (columns), of :func:`subset_hits`."""
    total = hits.groupby(["method", "subset"], sort=False)[[column, "asked"]].sum()
    return (total[column] / total["asked"]).unstack("subset")


def tuned(
    study: Study,
    candidates: Sequence[Candidate],
    earlier: Mapping[str, SteeringConfig] | None = None,
) -> dict[str, Choice]:
    """Each candidate's configuration, chosen on the validation split (:func:`choose`)."""
    clips = study.split("valid")
    methods = study.trained([m for candidate in candidates for m in candidate.methods()])

    def measure() -> pd.DataFrame:
        answers = study.bench.steered(clips, COALITIONS, methods)
        plain = study.bench.predictions(clips, COALITIONS)
        plain = plain.assign(method=BASELINE, protocol="validation", variant=0)
        return subset_hits(clips, pd.concat([answers, plain]))

    hits = study.remembered("validation", clips, methods, measure)
    return choose(candidates, hits, earlier)


def choose(
    candidates: Iterable[Candidate],
    hits: pd.DataFrame,
    earlier: Mapping[str, SteeringConfig] | None = None,
) -> dict[str, Choice]:
    """Each candidate's configuration by :func:`simplest_tied`, Align not lowered.

    ``hits`` is by :func:`subset_hits` of the candidates' methods and of :data:`BASELINE`, the
    unsteered model, all on the same validation clips. What was chosen ``earlier``, by name, is held
    to where it is among a candidate's configurations and lies within :data:`HELD` standard errors
    of the best: so a run on another machine answers for the same configurations.
    """
    plain = hits[hits["method"] == BASELINE]
    before = subset_means(plain).loc[BASELINE]
    chosen = {}
    for candidate in candidates:
        own = hits[hits["method"] == candidate.name]
        own = own.assign(method=own["variant"].astype(str))
        names = [str(i) for i in range(len(candidate.configs))]
        known = earlier.get(candidate.name) if earlier else None
        place, tied, edge, kept = simplest_tied(
            pd.concat([own, plain]),
            names,
            candidate.simplest_first(),
            BASELINE,
            candidate.configs.index(known) if known in candidate.configs else None,
        )
        chosen[candidate.name] = Choice(
            config=candidate.configs[place],
            router=candidate.source if isinstance(candidate.source, str) else None,
            group=candidate.group,
            gain=(subset_means(own).loc[names[place]] - before).to_dict(),
            tried=len(names),
            tied=tied,
            edge=edge,
            kept=kept,
        )
    return chosen


def profiled_heads(study: Study, *parts: float) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Sets of heads that attend to the modalities most, on training clips.

    These parts of all heads, by mean attention on T, A and V together; (layer, head), both from 1.
    PASTA ranks heads by what steering each one gains, which costs a run for each.
    """
    rows = rows_of(study.states, study.split("train"))
    mass = study.states.mass[rows].double().sum(-1).mean(0)
    order = mass.flatten().argsort(descending=True, stable=True).tolist()
    pairs = [(i // study.heads + 1, i % study.heads + 1) for i in order]
    return tuple(tuple(sorted(pairs[:n])) for n in fractions(len(pairs), *parts))


def simplest_tied(
    hits: pd.DataFrame,
    names: Sequence[str],
    order: Sequence[int],
    baseline: str | None = None,
    earlier: int | None = None,
) -> tuple[int, int, bool, bool]:
    """Which of some methods to take: the simplest that cannot be told from the best.

    Judged by the mean probability of the ground truth's class: what accuracy would be if answers
    were drawn from it. Few clips tell more by it than by accuracy, which jumps where an answer at a
    tie flips. The best has the highest mean over Conflict and Missing, among those that do not
    lower the ``baseline``'s on Align by more than a standard error of that difference (all where
    none does, or without a baseline). Tied with it is what lies within one standard error of the
    difference behind it; of these the first in ``order`` is taken. So neither the order of a grid
    nor the last bits of a processor decide. Differences are paired, their errors over clips; less
    than a hundredth of a point is none.

    ``earlier`` is the place of what was chosen before. It is taken while it would be among the tied
    by :data:`HELD` standard errors, on Align and behind the best.

    Returns the place in ``names``, how many are tied, whether the choice is on the edge (standard
    errors a tenth larger or smaller would have changed it), and whether the earlier one was kept in
    the place of another.
    """
    measured = _Measured.of(hits[hits["method"].isin({*names, baseline})])
    if not set(CRITERION) & set(measured.subsets):
        raise ValueError(
            f"there is nothing to choose by: validation clips are of {measured.subsets}, none of "
            f"{CRITERION}"
        )
    tied, *others = (measured.tied(names, baseline, times) for times in (1.0, 0.9, 1.1))
    place, *moved = (next(i for i in order if own[i]) for own in (tied, *others))
    edge = any(other != place for other in moved)
    if earlier in (None, place) or not measured.tied(names, baseline, HELD)[earlier]:
        return place, int(tied.sum()), edge, False
    return earlier, int(tied.sum()), edge, True


@dataclass(frozen=True, eq=False)
class _Measured:
    """Means of methods, and how each clip moves them (the influence of its answers).

    ``mean`` is (methods, subsets), ``influence`` (methods, clips, subsets) and sums to 0 over
    clips; ``asked`` counts the instances of each.
    """

    methods: Mapping[str, int]
    subsets: Sequence[str]
    mean: np.ndarray
    influence: np.ndarray
    asked: np.ndarray

    @classmethod
    def of(cls, hits: pd.DataFrame) -> _Measured:
        means = subset_means(hits, "truth")
        parts = ["truth", "asked"]
        wide = hits.pivot(index=["method", "sample_id"], columns="subset", values=parts)
        clips, subsets = wide.index.unique("sample_id"), list(means.columns)
        wide = wide.reindex(pd.MultiIndex.from_product([means.index, clips])).fillna(0.0)
        shape = (len(means), len(clips), len(subsets))
        truth, asked = (wide[part][subsets].to_numpy().reshape(shape) for part in parts)
        own = means.to_numpy()
        influence = (truth - own[:, None] * asked) / asked.sum(1, keepdims=True)
        return cls({name: i for i, name in enumerate(means.index)}, subsets, own, influence, asked)

    def _over(self, values: np.ndarray, subsets: Sequence[str]) -> np.ndarray:
        return values[..., [i for i, s in enumerate(self.subsets) if s in subsets]].mean(-1)

    def _behind(
        self, rows: np.ndarray, leader: int, subsets: Sequence[str], times: float
    ) -> np.ndarray:
        """Which methods lie no more than ``times`` a standard error behind another."""
        mean, moved = self._over(self.mean, subsets), self._over(self.influence, subsets)
        apart = moved[leader] - moved[rows]
        count = int(self._over(self.asked, subsets).any(0).sum())
        # Of one clip nothing is known; none is told apart by it.
        error = np.sqrt((apart**2).sum(1) * count / (count - 1)) if count > 1 else np.inf
        return mean[leader] - mean[rows] <= np.maximum(times * error, NEGLIGIBLE)

    def tied(self, names: Sequence[str], baseline: str | None, times: float) -> np.ndarray:
        """``(names,)`` bool: what cannot be told from the best, by ``times`` a standard error."""
        rows = np.array([self.methods[name] for name in names])
        allowed = np.ones(len(rows), bool)
        if baseline is not None and "align" in self.subsets:
            safe = self._behind(rows, self.methods[baseline], ["align"], times)
            allowed = safe if safe.any() else allowed
        mean = np.where(allowed, self._over(self.mean, CRITERION)[rows], -np.inf)
        # Of leaders that are equal but for last bits, what is tied with any is tied.
        leaders = rows[mean >= mean.max() - times * NEGLIGIBLE]
        tied = [self._behind(rows, leader, CRITERION, times) for leader in leaders]
        return allowed & np.any(tied, axis=0)
