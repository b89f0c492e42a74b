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


def format_comparison(table: pd.DataFrame) -> str:
    """Aligned plain text: item, published, reproduced with its interval, within tolerance."""

    def number(value: float) -> str:
        return "-" if pd.isna(value) else f"{value:.6g}"

    rows = [("item", "published", "reproduced", "within tolerance")]
    for row in table.itertuples():
        interval = "" if pd.isna(row.low) else f" [{number(row.low)}, {number(row.high)}]"
        verdict = "-" if pd.isna(row.within) else "yes" if row.within else "NO"
        verdict += f" ({row.note})" if row.note else ""
        rows.append((row.item, number(row.published), number(row.reproduced) + interval, verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows
    ]
    inside, known = int(table["within"].sum()), int(table["within"].notna().sum())
    closing = f"{len(table)} compared: {inside} within tolerance, {known - inside} not"
    return "\n".join([*lines, "", f"{closing}, {len(table) - known} not comparable"])
