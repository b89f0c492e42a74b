"""``emomm evaluate`` of an imported benchmark: a system is asked for its labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emomm_study.command.imported import shown_scores, told_scores
from emomm_study.command.outcome import Outcome, Refused, refusing
from emomm_study.command.system import media_for, named_system, opened, settings_for, told_of
from emomm_study.corpora.imported.benchmark import Imported, read_imported
from emomm_study.corpora.part import part_of
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.store import PredictionStore
from emomm_study.exchange.imported import scored
from emomm_study.exchange.submission import SubmissionError, asked_of, write_submission
from emomm_study.failures import RunStopped
from emomm_study.paths import cache_dir
from emomm_study.systems.interface import NotOffered
from emomm_study.systems.table import shown_name


def evaluate_imported(options: argparse.Namespace, coalitions: Sequence[str], out: Path) -> Outcome:
    """Ask a system about an imported benchmark, write its answers, and score them."""
    with refusing(ValueError, OSError):
        benchmark = read_imported(options.benchmark)
    if options.system is None or options.root is None:
        raise Refused(
            "an imported benchmark needs the folder of its films and a system to ask, as "
            "--root FOLDER --system Qwen/Qwen2.5-Omni-7B"
        )
    _check_coalitions(benchmark, coalitions)
    named = named_system(options.system)
    told_of(named)
    clips = _chosen(benchmark, options)
    roots = dict.fromkeys(benchmark.clips["corpus"], Path(options.root).resolve())
    with refusing(ValueError, OSError):
        clips = with_media(clips, roots)
    decoding = "free" if options.free or not benchmark.with_scores else "constrained"
    labels = None if benchmark.with_scores else benchmark.labels
    with opened(named, options) as system:
        bench = Experiment(
            system,
            clips,
            roots,
            PredictionStore(cache_dir() / "predictions.sqlite"),
            media_for(named),
            batch_size=settings_for(named)["batch_size"],
            name=shown_name(named),
        )
        with refusing(RunStopped, NotOffered):
            answers = bench.predictions(clips, coalitions, decoding=decoding, labels=labels)
    with refusing(OSError):
        write_submission(out, answers)
    with refusing(SubmissionError):
        scores = scored(benchmark, clips, answers)
    found = {
        "system": bench.name,
        "decoding": decoding,
        "split": options.split,
        "clips": len(clips),
        "coalitions": list(coalitions),
        "answers": str(out),
        **told_scores(benchmark, scores),
    }
    head = f"{bench.name}: {len(clips):,} clips under {', '.join(coalitions)}; answers are in {out}"
    return Outcome(found, f"{head}\n\n{shown_scores(benchmark, scores)}")


def _check_coalitions(benchmark: Imported, coalitions: Sequence[str]) -> None:
    there = benchmark.modalities
    if lacking := [c for c in coalitions if c != "none" and not set(c) <= set(there)]:
        raise Refused(
            f"{benchmark.name} has no transcripts, so {', '.join(lacking)} cannot be asked; what can "
            "be is --coalitions AV,A,V"
        )


def _chosen(benchmark: Imported, options: argparse.Namespace) -> pd.DataFrame:
    clips = asked_of(benchmark.clips, options.split)
    if clips.empty:
        there = ", ".join(sorted(set(benchmark.clips["split"])))
        raise Refused(f"{benchmark.name} has no clip of the split {options.split}; it has {there}")
    if options.clips is None:
        return clips
    with refusing(ValueError):
        part = part_of(clips.assign(stratum=clips["subset"]), options.clips)
    return part.drop(columns="stratum")
