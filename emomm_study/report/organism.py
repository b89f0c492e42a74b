"""What is known of the family of organisms, as its figures and tables want it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from emomm_study.report.numbers import bracketed, number
from emomm_study.report.tables import with_intervals

OPEN = "open"
ESTIMATE = ["value", "low", "high", "n"]


def of_measure(family: pd.DataFrame, measure: str, subset: str = "conflict") -> pd.DataFrame:
    """One measure of all arms and seeds: ``arm, seed, what, value, low, high, n``."""
    own = family[(family["measure"] == measure) & (family["subset"] == subset)]
    return own[["arm", "seed", "what", *ESTIMATE]].reset_index(drop=True)


def parsed(frame: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """Rows whose ``what`` matches a pattern, with its named groups as columns in its place.

    Numbers are integers.
    """
    found = frame["what"].str.extract(f"^{pattern}$")
    found = found[found.notna().all(axis=1)]
    numbers = {c for c in found if found[c].str.isdecimal().all() and len(found)}
    found = found.astype(dict.fromkeys(numbers, int))
    return frame.drop(columns="what").join(found, how="inner").reset_index(drop=True)


def cut_by_layer(family: pd.DataFrame) -> pd.DataFrame:
    """``arm, seed, layer`` and answers changed where the decision query is cut off from it on."""
    own = of_measure(family, "answers changed by a knockout")
    return parsed(own, r"decision, TAV from (?P<layer>\d+)")


def steered_by(family: pd.DataFrame, subset: str = "conflict") -> pd.DataFrame:
    """``arm, seed, setting, gate`` and the gain of steering."""
    own = of_measure(family, "gain of steering", subset)
    return parsed(own, r"(?P<setting>.+), (?P<gate>\w+) gate")


def by_dose(family: pd.DataFrame) -> pd.DataFrame:
    """``arm, seed, dose, moments`` and the gain of video.

    ``moments`` are all that the video has: two of its own where a ``room`` is appended, and that
    with nothing appended stands for no dose of it.
    """
    own = of_measure(family, "gain of video by redundancy")
    repeated = parsed(own, r"(?P<moments>\d+) moments").assign(dose="repeated")
    room = parsed(own, r"2 moments, (?P<more>\d+) of a room").assign(dose="room")
    room = room.assign(moments=room["more"].astype(int) + 2).drop(columns="more")
    none = repeated[repeated["moments"] == 2].assign(dose="room")
    columns = ["arm", "seed", "dose", "moments", *ESTIMATE]
    return pd.concat([repeated, none, room], ignore_index=True)[columns]


def by_pair(family: pd.DataFrame, coalition: str = "TAV") -> pd.DataFrame:
    """``arm, seed, pair`` and how often its first wins, under one coalition."""
    own = of_measure(family, "pair preference")
    return parsed(own, rf"(?P<pair>[TAV] over [TAV]), {coalition}")


def by_arm(
    frame: pd.DataFrame, arms: Sequence[str], columns: str = "what", **options: float
) -> pd.DataFrame:
    """``value [low, high]`` by arm and seed; one row that says ``open`` for an arm without any."""
    own = frame[frame["arm"].isin(arms)].assign(seed=frame["seed"].astype(str))
    seeds = own.groupby("arm")["seed"].unique().map(sorted).to_dict()
    rows = [(arm, seed) for arm in arms for seed in seeds.get(arm, [OPEN])]
    index = pd.MultiIndex.from_tuples(rows, names=["arm", "seed"])
    table = with_intervals(own, index=["arm", "seed"], columns=columns, **options)
    return pd.DataFrame(index=index) if own.empty else table.reindex(index).fillna("")


def verdict_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Prediction, outcome and verdict by arm: outcomes as the mean of the seeds, least and most."""
    spans = [
        "" if one.seeds == 0
        else f"{number(one.found, 3)} {bracketed(one.low, one.high, 3)}"
        for one in verdicts.itertuples()
    ]  # fmt: skip
    table = verdicts.assign(outcome=spans)
    return table[["id", "prediction", "arm", "seeds", "outcome", "verdict"]]
