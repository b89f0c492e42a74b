"""``./run_all.sh --check``: what a run would be, before anything runs and without weights in memory."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emomm_lib.labels import COALITIONS
from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.clips import CorpusTable, corpus_roots
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest, read_manifest
from emomm_study.corpora.part import described, part_of
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.cluster import expected_workers
from emomm_study.evaluate.experiment import (
    Experiment,
    ExperimentSettings,
    executor_of,
    media_settings,
    open_model,
)
from emomm_study.evaluate.headers import ClipHeaders, blank_clips, count_tokens, read_headers
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS
from emomm_study.evaluate.store import PredictionStore
from emomm_study.paths import RUNS, cache_dir, located
from emomm_study.run import dangers
from emomm_study.run.checked import BackboneCheck, Checked, Measured, report
from emomm_study.run.needs import memory_of
from emomm_study.systems import size
from emomm_study.systems.interface import Encoded, System
from emomm_study.systems.named import Named
from emomm_study.systems.table import DRIVER, load_system, shown_name


def check_profile(
    parameters: Mapping[str, Any], *, runs: Path = RUNS, measure: bool = False
) -> Checked:
    """What a run with these parameters, references filled in, would be; nothing is computed.

    With ``measure`` two batches are asked, and kept as any answers are.
    """
    profile = str(parameters["profile"])
    roots = corpus_roots(parameters["ch_sims_root"], parameters["cmu_mosi_root"])
    clips, source = _clips(parameters, roots, runs / profile / "manifest.parquet")
    warnings = list(dangers.of_parameters(parameters))
    if clips is None:
        return Checked(profile, source, warnings=warnings, systems=list(_systems(parameters, None)))
    wanted = parameters.get("clips")
    if wanted is not None:
        whole, clips = clips, part_of(clips, wanted)
        source = f"{source}. {described(whole, clips, wanted)}"
    headers = read_headers(clips, roots)
    warnings += [*dangers.of_clips(headers), dangers.NOT_SEEN]
    backbones, refused, measured = [], [], None
    for place, settings in enumerate(ExperimentSettings.of(parameters)):
        try:
            model = open_model(settings, size.load_weightless)
        except (NotImplementedError, ValueError, OSError) as error:
            refused.append(f"{settings.model}: {error}")
            continue
        bench = _bench(model, settings, clips, roots)
        asked = COALITIONS if place == 0 else STATE_COALITIONS
        blank = blank_clips(model, headers, bench.media)
        tokens = count_tokens(model, clips, blank)
        tokens = tokens[tokens["coalition"].isin(asked)]
        warnings += [*dangers.of_model(model, parameters), *dangers.of_prompts(model, tokens)]
        found = _backbone(bench, headers, blank, tokens, settings, asked)
        backbones.append(found)
        if measure and place == 0:
            measured = _measured(bench, settings, tokens, found)
    return Checked(
        profile,
        source,
        (clips["corpus"] + " " + clips["subset"]).value_counts(sort=False).to_dict(),
        _distributions(headers, media_settings(ExperimentSettings.of(parameters)[0])),
        backbones,
        list(_systems(parameters, (clips, roots))),
        list(dict.fromkeys(warnings)),
        refused,
        measured,
    )


# Clips


def _clips(
    parameters: Mapping[str, Any], roots: Mapping[str, Path], path: Path
) -> tuple[pd.DataFrame | None, str]:
    """The clips that would be asked about and where they come from; None where not yet rendered."""
    partial_media = parameters.get("render_clips") is not None
    if path.is_file():
        manifest, source = read_manifest(path), "the manifest that notebook 01 wrote"
    elif parameters.get("render"):
        manifest, source = None, ""
    else:
        tables = _tables(parameters, roots, check_media=not partial_media)
        manifest = build_manifest(tables, BenchmarkSettings(seed=parameters.get("seed", 0)))
        lost = sum(table.excluded for table in tables)
        source = f"the corpora, as notebook 01 would draw them ({lost:,} rows left out)"
    try:
        if manifest is not None:
            return with_media(manifest, roots, partial=partial_media), source
    except FileNotFoundError:
        if not parameters.get("render"):
            raise
    many = parameters.get("render_clips") or 2000
    return None, (
        f"not rendered yet: notebook 01 would render {many:,} clips of each corpus. Nothing is "
        "known of their files; run it alone (--only 01), and check again"
    )


def _tables(
    parameters: Mapping[str, Any], roots: Mapping[str, Path], *, check_media: bool
) -> list[CorpusTable]:
    tables = []
    if Corpus.CH_SIMS in roots:
        tables.append(load_ch_sims(roots[Corpus.CH_SIMS], check_media=check_media))
    if Corpus.CMU_MOSI in roots:
        annotations = located(parameters["annotations"])
        tables.append(load_cmu_mosi(roots[Corpus.CMU_MOSI], annotations, check_media=check_media))
    return tables


def _summary(values: Sequence[float]) -> dict[str, float]:
    """``min, median, p95, max``; nothing of no values."""
    if not len(values):
        return {}
    at = np.quantile(np.asarray(values, float), [0, 0.5, 0.95, 1])
    return dict(zip(("min", "median", "p95", "max"), at.tolist(), strict=True))


def _distributions(headers: Sequence[ClipHeaders], media: Any) -> dict[str, dict[str, float]]:
    films = [clip.film for clip in headers if clip.film]
    sounds = [clip.sound for clip in headers if clip.sound]
    rows = {
        "film, seconds": [film.seconds for film in films],
        "film, pictures": [film.pictures for film in films],
        "film, pictures a second": [f.pictures / f.seconds for f in films if f.seconds],
        "film, pixels": [film.height * film.width for film in films],
        "sound, seconds": [sound.seconds for sound in sounds],
        "sound heard, seconds": [
            sound.heard(media.audio) / media.audio.sampling_rate for sound in sounds
        ],
    }
    return {name: _summary(values) for name, values in rows.items()}


# Models


def _bench(
    model: System,
    settings: ExperimentSettings,
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
) -> Experiment:
    return Experiment(
        model,
        clips,
        roots,
        PredictionStore(cache_dir() / "predictions.sqlite"),
        media_settings(settings),
        settings.batch_size,
        keep_encodings=settings.keep_encodings,
        name=shown_name(Named.of(settings.model)),
    )


def _backbone(
    bench: Experiment,
    headers: Sequence[ClipHeaders],
    blank: Mapping[str, Encoded],
    tokens: pd.DataFrame,
    settings: ExperimentSettings,
    asked: Sequence[str],
) -> BackboneCheck:
    plan = bench.plan(bench.clips, asked, traces=True, states=True)
    whole = tokens.loc[tokens["prompt"].idxmax()]
    shown = {m: tokens.loc[tokens["coalition"].str.contains(m), m] for m in "TAV"}
    shown["prompt"] = tokens["prompt"]
    memory, needs = memory_of(bench, headers, blank, tokens, settings, plan, asked)
    return BackboneCheck(
        bench.name,
        tuple(asked),
        plan.known,
        plan.remaining,
        {name: _summary(values) for name, values in shown.items()},
        whole["sample_id"],
        whole["coalition"],
        int(whole["prompt"]),
        float(whole["prompt"] / tokens["prompt"].sum()),
        memory,
        needs,
    )


# Systems


def _systems(
    parameters: Mapping[str, Any], clips: tuple[pd.DataFrame, Mapping[str, Path]] | None
) -> Iterator[str]:
    """What each further system would run, download, send and cost."""
    from emomm_study.systems.isolated.table import check_driver

    for text in parameters.get("systems") or ():
        if text.startswith(DRIVER):
            given = {"dtype": parameters["dtype"], "device": parameters["device"]}
            yield from check_driver(text, **given)
        elif ":" in text and clips is not None:
            yield _bill(text, parameters, *clips)
        elif ":" in text:
            yield f"{text}: its bill is known when clips are there"
        else:
            yield f"{text}: a checkpoint, opened beside the backbones"


def _bill(
    text: str, parameters: Mapping[str, Any], clips: pd.DataFrame, roots: Mapping[str, Path]
) -> str:
    named = Named.of(text)
    system = load_system(named.path, **named.options)
    test, many = clips[clips["split"] == "test"], parameters.get("system_clips")
    few = test if many is None else test.sample(min(many, len(test)), random_state=0)
    settings = replace(ExperimentSettings.of(parameters)[0], model=text)
    bench = _bench(system, settings, few, roots)
    found = [
        bench.check(few, ("TAV", "TA", "TV", "AV"), decoding=decoding)
        for decoding in ("constrained", "free")
    ]
    said = "; ".join(str(check.bill) for check in found if check.bill) or "nothing is paid"
    refused = "".join(f"; refused: {check.refused}" for check in found if check.refused)
    return f"{shown_name(named)}: {sum(check.questions for check in found):,} questions; {said}{refused}"


# Measured


def _measured(
    bench: Experiment, settings: ExperimentSettings, tokens: pd.DataFrame, found: BackboneCheck
) -> Measured:
    """Ask the batch with the most tokens that is left, and a median one."""
    plan = bench.plan(bench.clips, COALITIONS, traces=True, states=True)
    if not plan.batches:
        return Measured(bench.name, [], 0.0)
    per_clip = tokens.groupby("sample_id")["prompt"].sum()
    sizes = [sum(per_clip.get(item.sample_id, 0) for item in batch) for batch in plan.batches]
    order = np.argsort(sizes)
    chosen = dict.fromkeys([int(order[-1]), int(order[len(order) // 2])])
    model = open_model(settings, load_system)
    real, rows, agree = replace(bench, model=model, progress=False, processes=1), [], True
    cuda = torch.device(settings.device).type == "cuda"
    for place in chosen:
        names = [item.sample_id for item in plan.batches[place]]
        own = bench.clips[bench.clips["sample_id"].isin(names)]
        if cuda:
            torch.cuda.reset_peak_memory_stats(settings.device)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        real.predictions(own, COALITIONS, traces=True, states=True)
        seconds = time.monotonic() - began
        raised = 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        peak = float(torch.cuda.max_memory_allocated(settings.device)) if cuda else raised
        rows.append({"clips": len(own), "tokens": sizes[place], "seconds": seconds, "memory": peak})
        agree &= _same_tokens(real, names, tokens)
    rate = sum(r["seconds"] for r in rows) / sum(r["tokens"] for r in rows)
    left = sum(sizes) - sum(sizes[place] for place in chosen)
    executor, workers = executor_of(settings), 1
    if executor is not None:
        workers = expected_workers(executor.workers, settings.device) or 1
    hours, most = rate * left / 3600 / workers, max(r["memory"] for r in rows)
    return Measured(bench.name, rows, hours, agree, workers, most)


def _same_tokens(bench: Experiment, names: Sequence[str], tokens: pd.DataFrame) -> bool:
    """Whether stored counts of some clips are those that were estimated."""
    table = bench.traces()
    keys = ["sample_id", "coalition"]
    counts = table.index.assign(**dict(zip("TAV", table.counts.T, strict=True)))
    counts = counts[counts["sample_id"].isin(names)]
    both = counts.merge(tokens, on=keys, suffixes=("", "_estimated"))
    return all((both[m] == both[f"{m}_estimated"]).all() for m in "TAV") and len(both) > 0


def run_check(
    parameters: Mapping[str, Any],
    *,
    measure: bool = False,
    say: Callable[[str], None] = partial(print, flush=True),
) -> int:
    """Print what a run would be; 0 where it can go, 1 where it cannot."""
    checked = check_profile(parameters, measure=measure)
    say(report(checked))
    return 0 if checked.go else 1
