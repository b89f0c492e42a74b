"""The published tables with a cell altered, for tests that a change of one unit is noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_study.paths import PAPER_DATA


def edit(
    folder: Path,
    table: int | str,
    where: Mapping[str, str],
    column: str,
    change: Callable[[str], str],
) -> None:
    """Change the cell of a table, or of a named file, that matches ``where``, and nothing else."""
    path = folder / f"{table if isinstance(table, str) else f'table{table}'}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = np.logical_and.reduce([frame[key] == value for key, value in where.items()])
    assert rows.sum() == 1
    frame.loc[rows, column] = change(frame.loc[rows, column].item())
    frame.to_csv(path, index=False, lineterminator="\n")


def add(step: float) -> Callable[[str], str]:
    """Adds to a printed number, which keeps its digits."""
    return lambda text: f"{float(text) + step:.{len(text.partition('.')[2])}f}"


def cells(number: int) -> list[dict[str, str]]:
    """Keys of each cell of Table 3 or 4."""
    frame = pd.read_csv(PAPER_DATA / f"table{number}.csv", dtype=str, keep_default_na=False)
    keys = {3: ["corpus", "source", "label"], 4: ["corpus", "source_i", "source_j"]}[number]
    return frame[keys].to_dict("records")
