"""``./run_all.sh --check``: what a run would be, before anything runs and without weights in memory."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from emomm_lib.chase.training import AT_ONCE
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.clips import CorpusTable, corpus_roots
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest, read_manifest
from emomm_study.corpora.part import described, part_of
from emomm_study.corpora.scores import Corpus
from emomm_study.environment import in_gb
from emomm_study.evaluate.cluster import expected_workers
from emomm_study.evaluate.experiment import (
    Experiment,
    ExperimentSettings,
    executor_of,
    media_settings,
    open_model,
)
from emomm_study.evaluate.headers import ClipHeaders, blank_clips, count_tokens, read_headers
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.plan import Plan
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS, HELD, kept_as
from emomm_study.evaluate.steered import GRADIENT_TOKENS
from emomm_study.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_study.paths import RUNS, cache_dir, located
from emomm_study.run import dangers
from emomm_study.systems import size
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Encoded, Query, System
from emomm_study.systems.named import Named
from emomm_study.systems.table import DRIVER, load_system, shown_name

HEADROOM = 1.1
"""Of memory: what is needed over what is counted, for kernels and an allocator's gaps."""
_COPIES_OF_A_BATCH = 6
"""Of a router's inputs: read, put side by side, one waiting, and three in a forward."""
_COPIES_OF_A_LAYER = 3.3
"""With the original, while scikit-learn standardizes and fits: measured."""
WEIGHTS, ENCODERS, DECODER = "weights", "encoders, a batch", "decoder, a batch"
GRADIENT = "gradient importance (beta above 0)"
_ROWS = 512


@dataclass(frozen=True)
class Need:
    """Something that a run needs, what there is of it in bytes, and what to do where it lacks."""

    what: str
    needed: float
    there: float
    advice: str = ""

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.needed <= self.there

    def __str__(self) -> str:
        said = "fits" if self.fits else f"will not fit: {self.advice}"
        return f"{self.what}: {in_gb(self.needed)} of {in_gb(self.there)}, {said}"


@dataclass(frozen=True)
class BackboneCheck:
    """What a backbone would be asked, and what it would take.

    Attributes
    ----------
    coalitions
        Those that notebook 03 asks the first backbone about, or notebook 06 a further one.
    known, questions
        Answers that are stored with all that is recorded of them, and those that are left.
    tokens
        ``min, median, p95, max`` of T, A, V and of the whole prompt, where a modality is present.
    longest, its_coalition, its_tokens
        The longest prompt, by the clip's ``sample_id``.
    its_share
        Of the tokens of all prompts.
    memory
        Bytes by what they are for.
    needs
        What has to fit.
    """

    model: str
    coalitions: tuple[str, ...]
    known: int
    questions: int
    tokens: Mapping[str, Mapping[str, float]]
    longest: str
    its_coalition: str
    its_tokens: int
    its_share: float
    memory: Mapping[str, float]
    needs: Sequence[Need] = ()


@dataclass(frozen=True)
class Measured:
    """Two real batches, asked with the weights loaded."""

    model: str
    rows: Sequence[Mapping[str, float]]
    hours: float | None
    tokens_agree: bool | None = None
    workers: int = 1
    peak: float | None = None


@dataclass(frozen=True)
class Checked:
    """What a run under a profile would be; :func:`dataclasses.asdict` makes JSON of it.

    Attributes
    ----------
    clips
        How many, by corpus and subset; empty where they are not rendered.
    headers
        ``min, median, p95, max`` of seconds, pictures, pixels and sound of the clips.
    refused
        Why there can be no run.
    """

    profile: str
    source: str
    clips: Mapping[str, int] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    backbones: Sequence[BackboneCheck] = ()
    systems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    refused: Sequence[str] = ()
    measured: Measured | None = None

    @property
    def go(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.refused and all(need.fits for b in self.backbones for need in b.needs)


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
    memory, needs = _memory(bench, headers, blank, tokens, settings, plan, asked)
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


def _memory(
    bench: Experiment,
    headers: Sequence[ClipHeaders],
    blank: Mapping[str, Encoded],
    tokens: pd.DataFrame,
    settings: ExperimentSettings,
    plan: Plan,
    asked: Sequence[str],
) -> tuple[dict[str, float], list[Need]]:
    """Bytes by what they are for, and what has to fit."""
    model = bench.model
    by_clip = tokens[tokens["coalition"] == "TAV"].set_index("sample_id")["prompt"]
    order = by_clip.sort_values(ascending=False).index
    rows = {clip["sample_id"]: clip for clip in bench.clips.to_dict("records")}
    passing = partial(_passing, model, [rows[name] for name in order], blank, asked)
    batch = min(settings.batch_size, len(order))
    largest = next(clip for clip in headers if clip.sample_id == order[0])
    clip = largest.frames(bench.media.video), largest.sound.heard(bench.media.audio)
    encoding = size.bytes_of_encoding(model, clip)
    top = Query(blank[order[0]], "TAV", Corpus(rows[order[0]]["corpus"]), rows[order[0]]["text"])
    together = max(1, GRADIENT_TOKENS // int(by_clip.max()))
    processes, copies = _side_by_side(settings)
    found: dict[str, float] = {
        WEIGHTS: size.bytes_of_weights(model.model),
        "keys and values, a token": _bytes_of_cache(model),
        ENCODERS: encoding * batch,
        DECODER: passing(batch),
        GRADIENT: size.bytes_of_gradient(model, top) * together,
    }
    device, there = _device_memory(settings.device)
    held = _bytes_of_cache(model) * int(by_clip.max()) * 2 * batch
    batches = Batches(batch, processes, held, bench.media.video.num_frames, copies)
    needs = [device_need(device, there, found, batches, lambda: max(encoding, passing(1)))]
    found |= _on_disk(bench, plan, tokens, blank, settings)
    needs += _others(found, len(bench.clips), settings)
    return found, needs


def _side_by_side(settings: ExperimentSettings) -> tuple[int, int]:
    """Processes that compute in one memory, and how many times the weights lie there."""
    executor = executor_of(settings)
    if executor is None:
        return processes_for(settings.device), 1
    if torch.device(settings.device).type != "cpu":
        # A worker's, and those of the process that asks.
        return 1, 2
    workers = expected_workers(executor.workers, settings.device) or processes_for("cpu")
    return workers, workers + 1


def _passing(
    model: Backbone,
    clips: Sequence[Mapping[str, Any]],
    blank: Mapping[str, Encoded],
    asked: Sequence[str],
    batch: int,
) -> int:
    """Bytes of a pass over the longest clips."""
    queries = [
        Query(blank[clip["sample_id"]], coalition, Corpus(clip["corpus"]), clip["text"])
        for clip in clips[:batch]
        for coalition in asked
    ]
    return size.bytes_of_pass(model, queries)


@dataclass(frozen=True)
class Batches:
    """How clips go through a model: how many at once, in how many processes.

    ``held`` are bytes of keys and values that a batch keeps while gradients are computed;
    ``copies`` is how many times the weights lie in one memory.
    """

    clips: int
    processes: int
    held: float
    frames: int | None
    copies: int = 1


def device_need(
    device: str,
    there: float,
    found: Mapping[str, float],
    batches: Batches,
    alone: Callable[[], float],
) -> Need:
    """Memory that a device needs, and where it lacks, the largest batch that fits.

    ``alone`` gives the bytes of a batch of one clip; it is called where they are needed.
    """
    gradient = found[GRADIENT] + batches.held
    peak = max(found[ENCODERS], found[DECODER], gradient)
    weights = found[WEIGHTS] * batches.copies
    needed = HEADROOM * (weights + peak * batches.processes)
    if needed <= there:
        return Need(device, needed, there)
    room = (there / HEADROOM - weights) / batches.processes
    each, held = alone(), batches.held / batches.clips
    more = (max(found[ENCODERS], found[DECODER]) - each) / max(1, batches.clips - 1)
    fits = 0
    if each <= room and found[GRADIENT] + held <= room:
        fits = min(1 + int((room - each) / max(more, 1)), int((room - found[GRADIENT]) / held))
    if fits >= 1:
        return Need(device, needed, there, f"set batch_size to {min(fits, batches.clips)}")
    frames = int((batches.frames or 1) * max(room, 0) / max(each, found[GRADIENT] + held))
    advice = f"set batch_size to 1 and num_frames to {frames}, or bound frame_pixels"
    if frames < 1:
        advice = "the weights leave no room: take a larger device or a smaller model"
    return Need(device, needed, there, advice)


def _bytes_of_cache(model: Backbone) -> int:
    """Of keys and values, a token."""
    config = model.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * model.layers * config.num_key_value_heads * width * model.model.dtype.itemsize


def _on_disk(
    bench: Experiment,
    plan: Plan,
    tokens: pd.DataFrame,
    blank: Mapping[str, Encoded],
    settings: ExperimentSettings,
) -> dict[str, float]:
    """Bytes that the answers which are left will take."""
    model, left = bench.model, plan.remaining
    width = model.decoder.config.hidden_size
    stated = sum(
        coalition in STATE_COALITIONS
        for items in plan.batches
        for item in items
        for coalition in item.coalitions
    )
    number = kept_as(model.model.dtype).itemsize
    a_state = model.layers * (4 * width * number + 3 * model.heads * 4) + 3 * 8
    prompts = len(bench.clips) * len(STATE_COALITIONS)
    shape = model.layers, width, model.heads
    read = bytes_of_states(prompts, *shape, processes_for(settings.device))
    found = {
        "answers and attention, on disk": left * bytes_of_a_row(model.layers, model.heads),
        "states of routers, on disk": stated * a_state,
        "states of routers, in memory": read,
    }
    if settings.keep_encodings:
        here = {item.sample_id for items in plan.batches for item in items}
        found["encoded clips, on disk"] = sum(
            blank[name].video.nbytes + blank[name].audio.nbytes for name in here & set(blank)
        )
    return found


def bytes_of_states(prompts: int, layers: int, width: int, heads: int, processes: int) -> float:
    """The most that states take in memory while routers train.

    Few are held there, and their split as well. Many are read in batches, of which several copies
    are there at once, in each of the processes that train side by side; and a probe reads one layer
    of all prompts, of which scikit-learn makes copies.
    """
    whole = prompts * layers * 4 * (4 * width + 3 * heads)
    if whole <= HELD:
        return 2 * whole
    batches = _COPIES_OF_A_BATCH * AT_ONCE * processes
    return max(batches, _COPIES_OF_A_LAYER * prompts * 4 * 4 * width)


def bytes_of_a_row(layers: int, heads: int) -> float:
    """Bytes that an answer with its attention takes in a store, measured in one of its own."""
    with TemporaryDirectory(dir=cache_dir()) as folder:
        store = PredictionStore(Path(folder) / "rows.sqlite")
        mass, counts = np.zeros((layers, heads, 3), np.float32), np.zeros(3, np.int32)
        keys = [(f"cmu_mosi/{i:011d}/{i}", "TAV", "x" * 64) for i in range(_ROWS)]
        rows = [Prediction(*key, 0, 0.1, *[0.1] * 5) for key in keys]
        store.begin("check", {})
        store.write("check", rows, [StoredTrace(*key, mass, counts) for key in keys])
        return sum(file.stat().st_size for file in Path(folder).iterdir()) / _ROWS


def _others(found: Mapping[str, float], clips: int, settings: ExperimentSettings) -> Iterator[Need]:
    """Main memory and the disk of the cache."""
    states = found["states of routers, in memory"]
    there = _main_memory()
    fewer = int(clips * there / states) if states else clips
    advice = f"take a part of the clips, {fewer:,} or fewer"
    yield Need("main memory, while routers train", states, there, advice)
    disk = sum(size for name, size in found.items() if name.endswith("on disk"))
    free = shutil.disk_usage(cache_dir()).free
    yield Need("disk of the cache", disk, free, "make room, or set EMOMM_CACHE to another disk")


def _device_memory(device: str) -> tuple[str, float]:
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return f"memory of {torch.cuda.get_device_name(device)}", free
    return f"memory ({device}, {processes_for(device)} processes)", _main_memory()


def _main_memory() -> float:
    """Bytes that are free, or that the system would free."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


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


# Report


def report(checked: Checked) -> str:
    """What was found, as text for a terminal."""
    parts = [f"The {checked.profile} profile. Clips: {checked.source.rstrip('.')}."]
    if checked.clips:
        total = sum(checked.clips.values())
        listed = ", ".join(f"{name} {count:,}" for name, count in checked.clips.items())
        parts += [f"{total:,} clips: {listed}", _grid(checked.headers)]
    parts += [_of_backbone(own) for own in checked.backbones]
    if checked.systems:
        parts.append("\n".join(["Other systems", *(f"  {row}" for row in checked.systems)]))
    if checked.measured is not None:
        parts.append(_of_measured(checked.measured))
    if checked.warnings:
        parts.append("\n".join(["Look at", *(f"  * {text}" for text in checked.warnings)]))
    verdicts = [f"  {text}" for text in checked.refused]
    verdicts += [f"  {own.model}, {need}" for own in checked.backbones for need in own.needs]
    parts.append("\n".join(["Verdict", *verdicts, f"  {'go' if checked.go else 'no'}"]))
    return "\n\n".join(parts)


def _of_backbone(own: BackboneCheck) -> str:
    notebook = "03" if len(own.coalitions) == len(COALITIONS) else "06"
    lines = [
        f"{own.model}: {own.questions:,} questions of notebook {notebook} are left, {own.known:,} "
        "answers are known",
        _grid({f"tokens of {name}": row for name, row in own.tokens.items()}),
        f"  longest prompt: {own.its_tokens:,} tokens, {own.longest} under {own.its_coalition} "
        f"({own.its_share:.2%} of all tokens)",
    ]
    width = max(map(len, own.memory))
    lines += [f"  {name:<{width}}  {_bytes(value):>9}" for name, value in own.memory.items()]
    return "\n".join(lines)


def _of_measured(own: Measured) -> str:
    if not own.rows:
        return f"Measured, {own.model}: all answers are known, so nothing is left to measure"
    lines = [f"Measured, {own.model}: reading, encoding and answering, in one process"]
    lines += [
        f"  {row['clips']:.0f} clips, {row['tokens']:,.0f} tokens: {row['seconds']:.1f} s, memory "
        f"{_bytes(row['memory'])}"
        for row in own.rows
    ]
    by = "" if own.workers == 1 else f" by {own.workers} workers"
    same = "equal" if own.tokens_agree else "DIFFER FROM"
    lines.append(f"  tokens of these clips {same} the estimated ones")
    lines.append(
        f"  what is left of notebook 03: {own.hours:.2f} h at this rate{by}. Not in it: other "
        "backbones, routers, steering (07, 08), figures"
    )
    return "\n".join(lines)


def _grid(rows: Mapping[str, Mapping[str, float]]) -> str:
    table = pd.DataFrame(rows).T
    shown = table.map(lambda value: f"{value:,.1f}" if value % 1 else f"{value:,.0f}")
    return "\n".join(f"  {line}" for line in shown.to_string().splitlines())


def _bytes(value: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:,.1f} {unit}"
    return f"{value:,.0f} B"


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
