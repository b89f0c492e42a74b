"""What methods are worth: on the test split once, cross-fitted, and one change at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from emomm_lib.metrics.paired import paired_frame
from emomm_study.evaluate.methods import Method, Routed
from emomm_study.evaluate.protocol.study import Study
from emomm_study.evaluate.protocol.tune import BASELINE
from emomm_study.evaluate.results import by_subset, instances, join
from emomm_study.evaluate.states import COALITIONS

WHOLE = ("TAV",)
SYMBOLS = {"first_layer": "l_r", "top_k": "K", "percentile": "P"}
"""The paper's letters for parameters, in tables."""


def on_test(
    study: Study,
    methods: Sequence[Method],
    coalitions: Sequence[str] = COALITIONS,
    protocol: str = "test",
) -> dict[str, pd.DataFrame]:
    """Scored instances of the test split by method, with routers of the training split.

    All methods together cost one prompt each, so ask for them at once.
    """
    clips = frozenset(study.split("test")["sample_id"])
    asked = [
        replace(method, scored=True, clips=clips, protocol=protocol)
        for method in study.trained(methods)
    ]
    return _scored(study, asked, coalitions)


def cross_fitted(study: Study, methods: Sequence[Method]) -> dict[str, pd.DataFrame]:
    """Scored instances by method of every whole clip on which nothing was chosen.

    Routers never saw the speaker that they are asked about; visual importance is taken from
    attention, which costs nothing.
    """
    clips = frozenset(study.crossed_clips["sample_id"])
    asked = [
        replace(method, importance="attention", clips=clips, protocol="crossed")
        for method in study.trained(methods, crossed=True)
    ]
    return _scored(study, asked, WHOLE)


def _scored(
    study: Study, methods: Sequence[Method], coalitions: Sequence[str]
) -> dict[str, pd.DataFrame]:
    names = set().union(*(method.clips for method in methods))
    clips = study.bench.clips[study.bench.clips["sample_id"].isin(names)]
    rows = instances(clips)
    rows = rows[rows["coalition"].isin(coalitions)]
    answers = study.bench.steered(clips, coalitions, methods)
    found = {}
    for (name, protocol), own in answers.groupby(["method", "protocol"], sort=False):
        scored, _ = join(rows, own)
        found[name] = by_subset(scored.assign(method=name, protocol=protocol))
    return found


def baseline(
    study: Study, clips: pd.DataFrame, coalitions: Sequence[str] = COALITIONS
) -> pd.DataFrame:
    """Scored instances of the unsteered model."""
    rows = instances(clips)
    rows = rows[rows["coalition"].isin(coalitions)]
    scored, _ = join(rows, study.bench.predictions(clips, coalitions))
    return by_subset(scored.assign(method=BASELINE))


def validated(
    study: Study, methods: Sequence[Method], rows: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Paired gains in Acc-5 on whole validation clips, of several configurations of a name too.

    Columns of ``rows``, one a method (``method`` alone by default), then ``subset, value, low,
    high, n``.
    """
    clips = study.split("valid")
    asked = [
        replace(method, protocol="validation", variant=place)
        for place, method in enumerate(study.trained(methods))
    ]

    def measure() -> pd.DataFrame:
        reference, frames = baseline(study, clips, WHOLE), []
        answers = study.bench.steered(clips, WHOLE, asked)
        for variant, own in answers.groupby("variant", sort=False):
            scored = by_subset(join(clips.assign(coalition="TAV"), own)[0])
            gain = paired_frame(reference, scored, metrics=("acc5",))
            frames.append(gain.assign(variant=variant))
        columns = ["variant", "subset", "value", "low", "high", "n"]
        return pd.concat(frames, ignore_index=True)[columns]

    gains = study.remembered("validated", clips, asked, measure)
    rows = pd.DataFrame({"method": [m.name for m in methods]}) if rows is None else rows
    return rows.assign(variant=range(len(rows))).merge(gains, on="variant").drop(columns="variant")


def swept(
    study: Study, methods: Sequence[Method], values: Mapping[str, Sequence[float]]
) -> pd.DataFrame:
    """Gains on whole validation clips with one parameter moved, the others as in a method.

    ``values`` are settings to try by field of the configuration. Columns ``method, parameter,
    setting, base, subset, value, low, high, n``; ``base`` marks the setting of the method itself.
    """
    planned, rows = [], []
    for method in methods:
        for parameter, settings in values.items():
            if parameter == "sharpness" and method.config.sharpness == 1:
                # The paper's method has no such parameter.
                continue
            if parameter in ("psi_hat", "percentile") and method.config.beta == 0:
                # Without an intra-modality bias they change nothing.
                continue
            own = getattr(method.config, parameter)
            for setting in sorted({*settings, own}):
                planned.append(
                    replace(method, config=replace(method.config, **{parameter: setting}))
                )
                symbol = SYMBOLS.get(parameter, parameter)
                rows.append((method.name, symbol, setting, setting == own))
    columns = ["method", "parameter", "setting", "base"]
    return validated(study, planned, pd.DataFrame(rows, columns=columns))


def read_otherwise(
    study: Study, methods: Sequence[Method], readings: Sequence[tuple[str, str, str]]
) -> pd.DataFrame:
    """Gains on whole validation clips of methods under other readings of the paper.

    ``readings`` are (preference, scope, agreement); the last trains another router of the method's
    kind. Columns ``method, preference, scope, agreement, subset, value, low, high, n``.
    """
    planned, rows = [], []
    for method in methods:
        for preference, scope, agreement in readings:
            router, _ = study.router(method.source, agreement=agreement)
            config = replace(method.config, preference=preference, scope=scope)
            planned.append(replace(method, source=Routed(router), config=config))
            rows.append((method.name, preference, scope, agreement))
    columns = ["method", "preference", "scope", "agreement"]
    return validated(study, planned, pd.DataFrame(rows, columns=columns))
