"""``emomm score`` of an imported benchmark: by its own labels, coalition by coalition."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_study.command.outcome import Outcome, refusing
from emomm_study.command.tables import interval_cells, records, tables_of, with_rest, write_tables
from emomm_study.corpora.imported.benchmark import Imported, read_imported
from emomm_study.exchange.imported import ImportedScores, score_imported
from emomm_study.exchange.submission import read_submission


def score_answers(options: argparse.Namespace) -> Outcome:
    """Score a file of answers; ``Refused`` with a sentence a defect."""
    with refusing(ValueError, OSError):
        benchmark = read_imported(options.benchmark)
        labels = None if benchmark.with_scores else benchmark.labels
        scores = score_imported(read_submission(options.answers, labels), benchmark, options.split)
    if options.out:
        with refusing(OSError):
            write_tables(tables_of(scores), Path(options.out))
    found = {"answers": options.answers, "split": options.split, **told_scores(benchmark, scores)}
    return Outcome(found, shown_scores(benchmark, scores))


def told_scores(benchmark: Imported, scores: ImportedScores) -> dict[str, Any]:
    """Scores as JSON has them."""
    about = {"benchmark": benchmark.name, "labels": benchmark.labels.name}
    return about | records(tables_of(scores))


def shown_scores(benchmark: Imported, scores: ImportedScores) -> str:
    """Scores for a terminal: a row a coalition and subset."""
    table = scores.scores.assign(cell=interval_cells(scores.scores))
    wide = table.pivot(index=["coalition", "subset"], columns="metric", values="cell")
    wide = wide.reindex(columns=table["metric"].unique())
    wide = wide.reindex(pd.MultiIndex.from_frame(table[["coalition", "subset"]].drop_duplicates()))
    text = wide.rename_axis(columns=None).to_string(na_rep="-")
    head = f"{benchmark.name} by {benchmark.labels.name}, with 95% intervals over clips"
    return with_rest(f"{head}\n{text}", tables_of(scores))
