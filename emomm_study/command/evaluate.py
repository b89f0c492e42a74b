"""``emomm evaluate``: a system's answers about the benchmark, as a file, and what they score."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_lib.labels import coalition_name
from emomm_study.command.asking import evaluate_imported
from emomm_study.command.outcome import Outcome, Refused, refusing
from emomm_study.command.profile import parameters_of
from emomm_study.command.score import shown
from emomm_study.command.system import (
    media_for,
    named_system,
    opened,
    settings_for,
    told_of,
)
from emomm_study.command.tables import records, tables_of
from emomm_study.corpora.clips import corpus_roots
from emomm_study.corpora.imported.benchmark import is_imported
from emomm_study.corpora.manifest import read_manifest
from emomm_study.corpora.part import part_of
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.asked import lost_by_subset
from emomm_study.evaluate.experiment import Experiment, ExperimentSettings, media_settings
from emomm_study.evaluate.results import instances, join, table1_scores, with_media
from emomm_study.evaluate.store import PredictionStore
from emomm_study.exchange.submission import (
    READERS,
    TABLE1,
    SubmissionError,
    read_submission,
    score_submission,
    write_submission,
)
from emomm_study.failures import RunStopped
from emomm_study.paths import RUNS, cache_dir
from emomm_study.run.profiles import PipelineError
from emomm_study.systems.interface import NotOffered
from emomm_study.systems.named import Named
from emomm_study.systems.table import shown_name


def carry_out(options: argparse.Namespace) -> Outcome:
    """Ask what is not known yet, write all answers, and score those of Table 1.

    An imported benchmark is scored by its own labels (:mod:`emomm_study.command.imported`).
    """
    coalitions, out = coalitions_of(options.coalitions), Path(options.out)
    if out.suffix not in READERS:
        raise Refused(f"{out}: the answers are written as {' or '.join(READERS)}; name such a file")
    if options.benchmark and is_imported(options.benchmark):
        return evaluate_imported(options, coalitions, out)
    if options.root:
        raise Refused("--root is of an imported benchmark; EmoMM's has --ch-sims and --cmu-mosi")
    with _bench(options) as bench:
        clips = _chosen(bench.clips, options)
        decoding = "free" if options.free else "constrained"
        with refusing(RunStopped, NotOffered):
            answers = bench.predictions(clips, coalitions, decoding=decoding)
        name = bench.name
    with refusing(OSError):
        write_submission(out, answers)
    tables = _scored(clips, answers, coalitions, out)
    found = {
        "system": name,
        "decoding": decoding,
        "split": options.split,
        "clips": len(clips),
        "coalitions": coalitions,
        "answers": str(out),
        **records(tables),
    }
    head = f"{name}: {len(clips):,} clips under {', '.join(coalitions)}; answers are in {out}"
    return Outcome(found, f"{head}\n\n{shown(tables)}")


def coalitions_of(text: str) -> list[str]:
    """Coalitions that a command line names; ``Refused`` for what is none."""
    with refusing(ValueError):
        names = ["none" if n == "none" else coalition_name(n.upper()) for n in text.split(",") if n]
    if not names:
        raise Refused(f"--coalitions {text!r} names none; expected some, as TAV,TA,TV,AV")
    return list(dict.fromkeys(names))


def _chosen(clips: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    if options.split != "all":
        clips = clips[clips["split"] == options.split]
    if clips.empty:
        raise Refused(f"the benchmark has no clip of the split {options.split}")
    with refusing(ValueError):
        return clips if options.clips is None else part_of(clips, options.clips)


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Experiment]:
    """The benchmark's clips with the system that is asked about them."""
    made, named = _of_profile(options) if options.profile else _of_folders(options)
    with opened(named, options) as system:
        store = PredictionStore(cache_dir() / "predictions.sqlite")
        yield Experiment(system, store=store, name=shown_name(named), **made)


def _of_profile(options: argparse.Namespace) -> tuple[dict[str, Any], Named]:
    """Fields of the experiment, and its system; what the profile says of these is filled in."""
    with refusing(PipelineError):
        own = ExperimentSettings.of(parameters_of(options.profile))[0]
    options.device, options.dtype = options.device or own.device, options.dtype or own.dtype
    roots = corpus_roots(own.ch_sims_root, own.cmu_mosi_root)
    with refusing(ValueError, OSError):
        manifest = read_manifest(RUNS / own.profile / "manifest.parquet")
        clips = with_media(manifest, roots, partial=own.render_clips is not None)
    made = {"clips": clips, "roots": roots, "media": media_settings(own)}
    return made | {"batch_size": own.batch_size}, named_system(options.system or own.model)


def _of_folders(options: argparse.Namespace) -> tuple[dict[str, Any], Named]:
    """The same of a manifest and the corpora's folders."""
    if options.system is None:
        raise Refused("--benchmark needs a --system to ask, as --system Qwen/Qwen2.5-Omni-7B")
    named = named_system(options.system)
    told_of(named)
    folders = {Corpus.CH_SIMS: options.ch_sims, Corpus.CMU_MOSI: options.cmu_mosi}
    roots = {corpus: Path(folder).resolve() for corpus, folder in folders.items() if folder}
    with refusing(ValueError, OSError):
        clips = with_media(read_manifest(options.benchmark), roots)
    made = {"clips": clips, "roots": roots, "media": media_for(named)}
    return made | {"batch_size": settings_for(named)["batch_size"]}, named


def _scored(
    clips: pd.DataFrame, answers: pd.DataFrame, coalitions: Sequence[str], out: Path
) -> dict[str, pd.DataFrame | None]:
    """Scores of the answers as whoever reads the file would find them.

    Where not all coalitions of Table 1 were asked, of the subsets that are whole.
    """
    if set(TABLE1) <= set(coalitions):
        with refusing(SubmissionError):
            return tables_of(score_submission(read_submission(out), clips, "all"))
    rows = instances(clips)
    rows = rows[rows["coalition"].isin(coalitions)]
    scored, lost = join(rows, answers)
    table1 = table1_scores(scored) if len(scored) else pd.DataFrame(columns=["subset"])
    subsets = ["align", "conflict"] if "TAV" in coalitions else []
    subsets += ["missing"] if {*TABLE1} - {"TAV"} <= {*coalitions} else []
    counts = lost_by_subset(clips, lost)
    counts = counts[counts["subset"].isin(subsets)]
    table1 = table1[table1["subset"].isin(subsets)]
    lost = lost[["sample_id", "coalition", "subset", "outcome", "failure", "reply"]]
    return {"table1": table1, "counts": counts, "lost": lost, "psmv": None, "gtar": None}
