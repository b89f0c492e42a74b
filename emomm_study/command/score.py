"""``emomm score``: what a file of answers scores by Table 1."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_study.command.outcome import Outcome, refusing
from emomm_study.corpora.manifest import read_manifest
from emomm_study.exchange.sample_log import is_sample_log, read_sample_log
from emomm_study.exchange.submission import (
    Scores,
    SubmissionError,
    read_submission,
    score_submission,
)
from emomm_study.paths import whole

SUBSETS = ("overall", "align", "conflict", "missing")
LISTED = 10
"""Of the failures, so many are printed; ``--json`` and ``--out`` have all."""


def carry_out(options: argparse.Namespace) -> Outcome:
    """Score the file against the benchmark; ``Refused`` with a sentence a defect."""
    with refusing(ValueError, OSError):
        manifest = read_manifest(options.benchmark)
    with refusing(SubmissionError):
        reader = read_sample_log if is_sample_log(options.answers) else read_submission
        frame = reader(options.answers)
        scores = score_submission(frame, manifest, options.split)
    tables = tables_of(scores)
    if options.out:
        with refusing(OSError):
            write_tables(tables, Path(options.out))
    found = {"answers": options.answers, "split": options.split, **records(tables)}
    return Outcome(found, shown(tables))


def tables_of(scores: Scores) -> dict[str, pd.DataFrame | None]:
    """The tables of a score by name; None for one that the coalitions do not give."""
    names = ("table1", "counts", "lost", "psmv", "gtar")
    return {name: getattr(scores, name) for name in names}


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


def shown(tables: Mapping[str, pd.DataFrame | None]) -> str:
    """All tables for a terminal: Table 1 with intervals, and the first failures."""
    parts = [table1_text(tables["table1"]), tables["counts"].to_string(index=False)]
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


def table1_text(table1: pd.DataFrame) -> str:
    """Rows subsets, columns metrics, each with its 95% interval."""
    if table1.empty:
        return "No answer is one of Table 1's."
    cells = table1.assign(
        cell=[f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table1.itertuples()]
    )
    wide = cells.pivot(index="subset", columns="metric", values="cell")
    order = [name for name in SUBSETS if name in wide.index]
    columns = [name for name in ("acc5", "acc2", "f1", "mae") if name in wide]
    text = wide.loc[order, columns].rename_axis(index=None, columns=None)
    return f"Table 1, with 95% intervals over clips\n{text.to_string(na_rep='-')}"
