"""What the notebooks found beside what the paper says: one CSV a notebook, one table a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emomm_study.paper import COMPARISON
from emomm_study.paths import RUNS


def comparison_path(profile: str, notebook: str, runs: Path = RUNS) -> Path:
    """Where notebook ``NN`` writes its comparison (columns of :func:`emomm_study.paper.compare`)."""
    return runs / profile / "comparison" / f"{notebook}.csv"


def save_comparison(table: pd.DataFrame, profile: str, notebook: str, runs: Path = RUNS) -> None:
    """Hand the result of :func:`emomm_study.paper.compare` to the pipeline's closing table.

    ``notebook`` is the two-digit number. Raises ``ValueError`` for other columns than compare's.
    """
    if set(table.columns) != set(COMPARISON):
        raise ValueError(
            f"notebook {notebook}: expected the columns {COMPARISON}; got {list(table)}"
        )
    path = comparison_path(profile, notebook, runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def read_comparisons(paths: Sequence[Path]) -> pd.DataFrame:
    """The comparisons of several notebooks as one table; ``within`` is boolean or missing."""
    frames = [
        pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"note": str})
        for path in paths
    ]
    if not frames:
        return pd.DataFrame(columns=list(COMPARISON))
    table = pd.concat(frames, ignore_index=True)[list(COMPARISON)]
    return table.assign(within=table["within"].astype("boolean"), note=table["note"].fillna(""))
