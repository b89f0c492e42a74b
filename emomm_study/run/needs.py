"""What a run needs of memory and disk, and what there is: counted without weights, before it begins."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from emomm_lib.chase.training import AT_ONCE
from emomm_study.corpora.scores import Corpus
from emomm_study.environment import in_gb
from emomm_study.evaluate.cluster import expected_workers
from emomm_study.evaluate.experiment import Experiment, ExperimentSettings, executor_of
from emomm_study.evaluate.headers import ClipHeaders
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.plan import Plan
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS, HELD, kept_as
from emomm_study.evaluate.steered import GRADIENT_TOKENS
from emomm_study.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_study.paths import cache_dir
from emomm_study.systems import size
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Encoded, Query

HEADROOM = 1.1
"""Of memory: what is needed over what is counted, for kernels and an allocator's gaps."""
_COPIES_OF_A_BATCH = 11
"""Of a router's inputs, those read ahead and a forward's own among them: measured."""
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


def memory_of(
    bench: Experiment,
    headers: Sequence[ClipHeaders],
    blank: Mapping[str, Encoded],
    tokens: pd.DataFrame,
    settings: ExperimentSettings,
    plan: Plan,
    asked: Sequence[str],
) -> tuple[dict[str, float], list[Need]]:
    """Bytes by what they are for, and what has to fit, while a model is asked as a plan says."""
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
