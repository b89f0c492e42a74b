"""What was predicted of the family, beside what was found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from emomm_lib.labels import MODALITIES
from emomm_study.mini.ideal import IDEAL
from emomm_study.mini.organism.arms import ARMS
from emomm_study.paths import ROOT

PREDICTIONS = ROOT / "data" / "organism" / "predictions.csv"
OBSERVER = IDEAL
_ARMS = {
    "all": lambda arm: True,
    "early": lambda arm: arm.reading == "early",
    "late": lambda arm: arm.reading == "late",
    "text first": lambda arm: arm.text_first,
}


def predictions(path: Path = PREDICTIONS) -> pd.DataFrame:
    """As they were committed before the first arm was trained."""
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False, na_values=[""])


def verdicts(family: pd.DataFrame, asked: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row a prediction and arm: ``id, prediction, arm, seeds, found, low, high, verdict``.

    ``found`` is the mean over the seeds so far, ``low`` and ``high`` the least and the most of them,
    in the measure's own unit. A ``mean`` rule holds or fails by that mean; an ``each`` rule holds
    where at least the number of seeds that was asked for do. ``open`` where fewer seeds are there
    than could decide it. Arms that differ in redundancy alone are held against no prediction.
    """
    asked = predictions() if asked is None else asked
    rows = []
    for one in asked.to_dict("records"):
        for name, arm in ARMS.items():
            if arm.moments or not _ARMS[one["arms"]](arm):
                continue
            own = family[family["arm"] == name]
            values, holds = _judged(one, own, family)
            verdict = _verdict(one, values, holds)
            found = (values.mean(), values.min(), values.max()) if len(values) else (None,) * 3
            rows.append((one["id"], one["prediction"], name, len(values), *found, verdict))
    columns = ["id", "prediction", "arm", "seeds", "found", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _of(family: pd.DataFrame, one: dict, what: str) -> pd.DataFrame:
    chosen = (family["measure"] == one["measure"]) & (family["subset"] == one["subset"])
    return family[chosen & (family["what"] == what)].set_index("seed")


def _judged(one: dict, own: pd.DataFrame, family: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """A number a seed, and whether it is as predicted."""
    rule = one["rule"]
    if rule == "each keeps":
        levels = own[(own["measure"] == one["measure"]) & (own["subset"] == one["subset"])]
        signs = levels.assign(sign=(levels["low"] > 0).astype(int) - (levels["high"] < 0))
        by_seed = signs.groupby("seed")["sign"]
        return by_seed.max() - by_seed.min(), by_seed.max() - by_seed.min() < 2
    if rule == "each lowest of T A V":
        wide = pd.DataFrame({m: _of(own, one, m)["value"] for m in MODALITIES})
        return wide[one["what"]], wide.idxmin(axis=1) == one["what"]
    found = _of(own, one, one["what"])
    if rule == "each at least observer's low":
        least = _of(family[family["arm"] == OBSERVER], one, one["what"])["low"]
        found = found if len(least) else found.iloc[:0]
        return found["value"], found["value"] >= least.max()
    values = found["value"]
    low = -float("inf") if pd.isna(one["low"]) else one["low"]
    high = float("inf") if pd.isna(one["high"]) else one["high"]
    return values, values.between(low, high)


def _verdict(one: dict, values: pd.Series, holds: pd.Series) -> str:
    if not len(values):
        return "open"
    if one["rule"].startswith("mean"):
        if len(values) < one["seeds"]:
            return "open"
        low = -float("inf") if pd.isna(one["low"]) else one["low"]
        high = float("inf") if pd.isna(one["high"]) else one["high"]
        return "holds" if low <= values.mean() <= high else "fails"
    missing = 3 - len(values)
    if holds.sum() >= one["seeds"]:
        return "holds"
    return "open" if holds.sum() + missing >= one["seeds"] else "fails"
