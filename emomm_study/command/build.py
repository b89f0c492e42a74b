"""``emomm build``: the benchmark from the user's corpus folders, as notebook 01 draws it."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from emomm_study.command.outcome import Outcome, Refused, refusing, warn
from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.checks import write_report
from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.corpora.manifest import (
    BenchmarkSettings,
    build_manifest,
    datasheet,
    subset_sizes,
    write_manifest,
)
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import whole


def carry_out(options: argparse.Namespace) -> Outcome:
    """Write ``manifest.parquet``, ``datasheet.md`` and what was left out of each corpus."""
    out, settings = Path(options.out), BenchmarkSettings(seed=options.seed)
    if options.all_clips:
        settings = BenchmarkSettings(None, None, seed=options.seed)
    tables = _tables(options)
    with refusing(OSError):
        for corpus, table in tables.items():
            out.mkdir(parents=True, exist_ok=True)
            write_report(table, out / f"excluded_{corpus}.csv")
    with refusing(ValueError), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        manifest = build_manifest(tables.values(), settings)
    notes = [str(own.message) for own in caught if own.category is UserWarning]
    for note in notes:
        warn(note)
    with refusing(OSError):
        write_manifest(manifest, out / "manifest.parquet")
        with whole(out / "datasheet.md") as partial:
            partial.write_text(datasheet(manifest), encoding="utf-8")
    sizes = subset_sizes(manifest)
    found = {
        "manifest": str(out / "manifest.parquet"),
        "clips": len(manifest),
        "corpora": {
            corpus: {
                "usable": len(table.clips),
                "excluded": table.excluded,
                "unlabelled": table.unlabelled,
                "report": str(out / f"excluded_{corpus}.csv"),
            }
            for corpus, table in tables.items()
        },
        "subsets": sizes.to_dict("records"),
        "splits": manifest["split"].value_counts().to_dict(),
        "notes": notes,
    }
    lines = [f"{len(manifest):,} clips in {found['manifest']}"]
    for corpus, table in tables.items():
        lines.append(
            f"{corpus}: {len(table.clips):,} usable clips, {table.excluded:,} left out and "
            f"{table.unlabelled:,} without labels; why is in {out / f'excluded_{corpus}.csv'}"
        )
    splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items())
    return Outcome(found, "\n".join([*lines, f"splits: {splits}", sizes.to_string(index=False)]))


def _tables(options: argparse.Namespace) -> dict[Corpus, CorpusTable]:
    """The corpora that were named; ``Refused`` where none was, or none of it can be used."""
    if not (options.ch_sims or options.cmu_mosi):
        raise Refused(
            "a benchmark needs a corpus: give --ch-sims FOLDER, --cmu-mosi FOLDER or both"
        )
    media, found = {"check_media": not options.no_media}, {}
    with refusing(ValueError, OSError):
        if options.ch_sims:
            found[Corpus.CH_SIMS] = load_ch_sims(options.ch_sims, **media)
        if options.cmu_mosi:
            found[Corpus.CMU_MOSI] = load_cmu_mosi(options.cmu_mosi, options.annotations, **media)
    return found
