"""``emomm import``: a benchmark of others, with its own labels, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from emomm_lib.labels import LABEL_SETS
from emomm_study.command.outcome import Outcome, refusing
from emomm_study.corpora.imported.benchmark import Imported, write_imported
from emomm_study.corpora.imported.listed import label_set, load_listed
from emomm_study.corpora.imported.mer_unibench import folder_of, load_mer_unibench
from emomm_study.corpora.imported.missrag import load_missrag
from emomm_study.paths import whole
from emomm_study.systems.prompts import grammar_of


def mer_unibench(options: argparse.Namespace) -> Outcome:
    """A set of MER-UniBench."""
    with refusing(ValueError, OSError):
        root = folder_of(options.folder, options.dataset)
        media = {"check_media": not options.no_media}
        benchmark = load_mer_unibench(options.folder, options.dataset, **media)
    return _written(benchmark, options, root)


def missrag(options: argparse.Namespace) -> Outcome:
    """CMU-MOSI in MissRAG's layout."""
    with refusing(ValueError, OSError):
        benchmark = load_missrag(
            options.folder,
            mode=options.mode,
            labels=LABEL_SETS[options.labels],
            check_media=not options.no_media,
        )
    return _written(benchmark, options, Path(options.folder))


def listed(options: argparse.Namespace) -> Outcome:
    """Any benchmark from a CSV."""
    with refusing(ValueError, OSError):
        labels = label_set(options.labels, LABEL_SETS)
        grammar_of(labels)
        benchmark = load_listed(
            options.file,
            options.root,
            labels,
            name=options.name,
            check_media=not options.no_media,
        )
    return _written(benchmark, options, Path(options.root))


def _written(benchmark: Imported, options: argparse.Namespace, root: Path) -> Outcome:
    out = Path(options.out)
    with refusing(OSError, ValueError):
        path = write_imported(benchmark, out / "manifest.parquet")
        with whole(out / "excluded.csv") as partial:
            benchmark.report.to_csv(partial, index=False)
    clips = benchmark.clips
    sizes = clips.groupby(["split", "subset"]).size().rename("clips").reset_index()
    classes = clips["label_gt"].value_counts().reindex(range(len(benchmark.labels)), fill_value=0)
    named = dict(zip(benchmark.labels.classes, classes.tolist(), strict=True))
    found = {
        "benchmark": benchmark.name,
        "manifest": str(path),
        "root": str(root),
        "labels": benchmark.labels.name,
        "clips": len(clips),
        "classes": named,
        "sizes": sizes.to_dict("records"),
        "modalities": benchmark.modalities,
        "excluded": benchmark.excluded,
        "dropped": benchmark.dropped,
        "report": str(out / "excluded.csv"),
    }
    counts = ", ".join(f"{name} {count:,}" for name, count in named.items())
    lines = [
        f"{benchmark.name}: {len(clips):,} clips in {path}, labels {benchmark.labels.name}",
        f"{benchmark.excluded:,} rows were left out, which is in {out / 'excluded.csv'}; "
        f"{benchmark.dropped:,} clips are neutral, which its own metric drops",
        f"classes: {counts}",
        sizes.to_string(index=False),
        f"ask about it with --benchmark {path} --root {root}",
    ]
    return Outcome(found, "\n".join(lines))
