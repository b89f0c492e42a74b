"""Tables of scores: as rows for programs, as files, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_study.paths import whole

LISTED = 10
"""Of the failures, so many are printed; ``--json`` and ``--out`` have all."""
NAMES = ("table1", "scores", "counts", "lost", "psmv", "gtar")


def tables_of(scores: Any) -> dict[str, pd.DataFrame | None]:
    """The tables of a score by name; None for one that the coalitions do not give."""
    return {name: getattr(scores, name) for name in NAMES if hasattr(scores, name)}


def records(tables: Mapping[str, pd.DataFrame | None]) -> dict[str, Any]:
    """Tables as lists of rows."""
    return {
        name: None if table is None else table.to_dict("records") for name, table in tables.items()
    }


def write_tables(tables: Mapping[str, pd.DataFrame | None], folder: Path) -> None:
    """Each table as a CSV file of its name."""
    for name, table in tables.items():
        if table is not None:
            with whole(folder / f"{name}.csv") as partial:
                table.to_csv(partial, index=False, lineterminator="\n")


def with_rest(first: str, tables: Mapping[str, pd.DataFrame | None]) -> str:
    """A table's text, then counts, the first failures, PSMV and GTAR."""
    parts = [first, tables["counts"].to_string(index=False)]
    lost = tables["lost"]
    if len(lost):
        lines = [f"{len(lost)} instances were not scored:"]
        for row in lost.head(LISTED).itertuples():
            why = row.failure if isinstance(row.failure, str) else f"reply {row.reply!r}"
            lines.append(f"  {row.sample_id} {row.coalition}: {row.outcome}, {why}")
        parts.append("\n".join([*lines, *(["  …"] * (len(lost) > LISTED))]))
    for name in ("psmv", "gtar"):
        if tables.get(name) is not None:
            table = tables[name].to_string(index=False, float_format="{:.3f}".format, na_rep="-")
            parts.append(f"{name.upper()}\n{table}")
    return "\n\n".join(parts)


def interval_cells(table: pd.DataFrame) -> list[str]:
    """``value [low, high]`` of every row."""
    return [f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.itertuples()]
