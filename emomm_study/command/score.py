"""``emomm score``: what a file of answers scores by Table 1."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from emomm_study.command.imported import score_answers
from emomm_study.command.outcome import Outcome, refusing
from emomm_study.command.tables import (
    interval_cells,
    records,
    tables_of,
    with_rest,
    write_tables,
)
from emomm_study.corpora.imported.benchmark import is_imported
from emomm_study.corpora.manifest import read_manifest
from emomm_study.exchange.sample_log import is_sample_log, read_sample_log
from emomm_study.exchange.submission import (
    SubmissionError,
    read_submission,
    score_submission,
)

SUBSETS = ("overall", "align", "conflict", "missing")


def carry_out(options: argparse.Namespace) -> Outcome:
    """Score the file against the benchmark; ``Refused`` with a sentence a defect.

    An imported benchmark is scored by its own labels (:mod:`emomm_study.command.imported`).
    """
    if is_imported(options.benchmark):
        return score_answers(options)
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


def shown(tables: Mapping[str, pd.DataFrame | None]) -> str:
    """All tables for a terminal: Table 1 with intervals, and the first failures."""
    return with_rest(table1_text(tables["table1"]), tables)


def table1_text(table1: pd.DataFrame) -> str:
    """Rows subsets, columns metrics, each with its 95% interval."""
    if table1.empty:
        return "No answer is one of Table 1's."
    cells = table1.assign(cell=interval_cells(table1))
    wide = cells.pivot(index="subset", columns="metric", values="cell")
    order = [name for name in SUBSETS if name in wide.index]
    columns = [name for name in ("acc5", "acc2", "f1", "mae") if name in wide]
    text = wide.loc[order, columns].rename_axis(index=None, columns=None)
    return f"Table 1, with 95% intervals over clips\n{text.to_string(na_rep='-')}"
