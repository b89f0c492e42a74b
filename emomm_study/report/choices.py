"""Tables of steering results: what was chosen, and paired gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import pandas as pd

from emomm_lib.chase.equations import SteeringConfig
from emomm_study.evaluate.protocol import Choice
from emomm_study.evaluate.protocol.score import SYMBOLS
from emomm_study.evaluate.results import table1_scores
from emomm_study.report.numbers import fixed
from emomm_study.report.tables import estimate, published_units

_AS_IN_PAPER = SYMBOLS | {"psi_hat": "psi-hat"}


def choices_table(choices: Mapping[str, Choice], published: SteeringConfig) -> pd.DataFrame:
    """Each candidate's chosen configuration: the parameters in which any differs from the paper's.

    First the published configuration; ``tried`` is how many each could choose from, ``tied`` how
    many of these could not be told from the best, ``edge`` says ``yes`` where slightly other
    standard errors would have changed the choice and ``held`` where an earlier one was held to
    against this run's own, and the last columns are the gains in Acc-5 on
    validation by subset, in points.
    """
    configs = {"as published": published}
    configs |= {name: choice.config for name, choice in choices.items()}
    differing = [
        field.name
        for field in fields(SteeringConfig)
        if len({getattr(config, field.name) for config in configs.values()}) > 1
    ]
    rows = {}
    for name, config in configs.items():
        entry = {_AS_IN_PAPER.get(k, k): _shown(getattr(config, k)) for k in differing}
        rows[name] = entry
    subsets = next(iter(choices.values())).gain
    rows["as published"] |= dict.fromkeys(["tried", "tied", "edge", *subsets], "")
    for name, choice in choices.items():
        edge = "held" if choice.kept else "yes" if choice.edge else ""
        rows[name] |= {"tried": choice.tried, "tied": choice.tied, "edge": edge}
        rows[name] |= {subset: fixed(100 * gain, 1) for subset, gain in choice.gain.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def chosen_settings(choices: pd.DataFrame) -> pd.DataFrame:
    """The configurations of :func:`choices_table` alone, without what was measured."""
    return choices.loc[:, : choices.columns[list(choices).index("tried") - 1]]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} fixed"
    if value is None:
        return "by JSD"
    return f"{value:g}" if isinstance(value, float) else str(value)


def paired_table(gains: pd.DataFrame) -> pd.DataFrame:
    """Gains by ``method`` and subset as text: Acc, F1 (points) and MAE with intervals, McNemar.

    ``gains`` is by :func:`emomm_lib.metrics.paired.paired_frame` with ``method``.
    """
    rows = {}
    for (method, subset, metric), part in gains.groupby(["method", "subset", "metric"], sort=False):
        [row] = part.itertuples()
        factor, digits = (1, 3) if metric == "mae" else (100, 1)
        entry = rows.setdefault((method, subset), {})
        entry[{"acc5": "Acc", "f1": "F1", "mae": "MAE"}[metric]] = estimate(row, factor, digits)
        if metric == "acc5":
            entry["became right / wrong"] = f"{int(row.gained)} / {int(row.lost)}"
            entry["McNemar p"] = f"{row.p:.2g}"
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["method", "subset"])
    order = ["Acc", "became right / wrong", "McNemar p", "F1", "MAE"]
    return table[[name for name in order if name in table]]


def table2_results(
    baseline: pd.DataFrame, variants: Mapping[str, pd.DataFrame], model: str
) -> pd.DataFrame:
    """Table 2's numbers: ``model, variant, metric, value, low, high`` on Conflict, published units.

    Frames are scored instances with ``subset``.
    """
    frames = []
    for name, scored in {**variants, "baseline": baseline}.items():
        scores = published_units(table1_scores(scored[scored["subset"] == "conflict"]))
        frames.append(scores[scores["subset"] == "conflict"].assign(model=model, variant=name))
    columns = ["model", "variant", "metric", "value", "low", "high", "n"]
    return pd.concat(frames, ignore_index=True)[columns]
