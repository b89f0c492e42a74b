"""What ``record`` adds to a forward pass of the decoder, in time and in memory."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import gc
import multiprocessing
import os
import re
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import Table, interleave, number, size
from emomm_lib import record
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.paths import ROOT
from emomm_study.systems.omni import OmniModel

KINDS = ("plain", "record", "record, no states", "eager")
CASES = ((1, 256), (1, 512), (1, 1024), (1, 2048), (1, 4096), (8, 1024))
"""(batch, tokens)."""
WIDE, WIDE_CASES = 512, ((1, 1024), (1, 2048))
"""Hidden size of a second decoder, of random weights, and its cases: cost by width."""
_WARM_UP = 64
_LEAST_NOISE = 1.0
"""MiB; a difference below it is not told apart from the allocator's rounding."""

_TIME = """\
The decoder of Omni-mini (hidden size 128) on random embeddings, prefill with a cache, and one of \
hidden size {wide} with random weights. *plain*: SDPA, nothing \
recorded. *record*: inside `record()`, entering and leaving it included; with hidden states, its \
default, or without. *eager*: what one does without this library, `output_attentions=True` under \
eager attention, all layers; picking the decision query's row from it is not counted. \
Milliseconds a forward, median (min..max); ratios to plain are medians over rounds in which all \
three took their turn."""
_MEMORY = """\
Each forward in a process of its own, after a warm-up on 64 tokens. *peak*: {peak}, less what was \
in use when the forward began. *attention memory*: that peak less the plain forward's, of which \
the median of {repeats} processes is given; their max - min, at least {least:g} MiB, is the noise. \
*kept*: what remains of it by arithmetic: eager B L H Q K floats; record B L H 3, and 4 B L D more \
with states."""
_PEAK = {
    "cpu": "the most resident memory during it (VmHWM, set back just before; glibc is told to "
    "return freed blocks at once)",
    "cuda": "the most memory that PyTorch had allocated during it",
}


def load(kind: str, device: str, width: int | None = None) -> OmniModel:
    """Omni-mini, its decoder under the attention that a kind of forward needs.

    With ``width`` one of that hidden size instead, its weights random.
    """
    disable_progress_bar()
    if width is None:
        omni = OmniModel.load(ROOT / "data" / "omni-mini", dtype="float32", device=device)
    else:
        config = MiniConfig(hidden=width, ffn=2 * width)
        processor = build_processor(config)
        omni = OmniModel(build_model(processor, config).to(device), processor, "random")
    attention = "eager" if kind == "eager" else "sdpa"
    omni.model.set_attn_implementation({"text_config": attention})
    return omni


def inputs(omni: OmniModel, batch: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings ``(B, S, hidden)`` and modality ids ``(B, S)``: a third each of T, A, V."""
    generator = torch.Generator().manual_seed(0)
    width = omni.model.config.get_text_config().hidden_size
    embeds = torch.randn(batch, tokens, width, generator=generator).to(omni.device)
    ids = torch.arange(tokens, device=omni.device) * 3 // tokens
    return embeds, ids.expand(batch, -1)


@torch.inference_mode()
def forward(kind: str, omni: OmniModel, embeds: torch.Tensor, ids: torch.Tensor) -> tuple:
    """One forward of a kind; returns the decoder's output and the trace, if there is one."""
    decoder = omni.model.model.language_model
    if kind == "eager":
        return decoder(inputs_embeds=embeds, use_cache=True, output_attentions=True), None
    if kind == "plain":
        return decoder(inputs_embeds=embeds, use_cache=True), None
    with record(omni.model, ids, states=kind == "record") as trace:
        return decoder(inputs_embeds=embeds, use_cache=True), trace


def kept_bytes(kind: str, omni: OmniModel, batch: int, tokens: int) -> int:
    """Size of what a kind of forward keeps of attention, in bytes."""
    config = omni.model.config.get_text_config()
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    floats = {
        "plain": 0,
        "record": layers * (heads * 3 + 4 * config.hidden_size),
        "record, no states": layers * heads * 3,
        "eager": layers * heads * tokens * tokens,
    }
    return batch * floats[kind] * torch.float32.itemsize


def peak_mib(kind: str, batch: int, tokens: int, device: str) -> float:
    """MiB by which one forward raises memory above what is in use before it, at its highest.

    To be called in a fresh process.
    """
    omni = load(kind, device)
    forward(kind, omni, *inputs(omni, batch, _WARM_UP))
    given = inputs(omni, batch, tokens)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward(kind, omni, *given)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Not ru_maxrss: a process inherits its parent's across exec, and start-up counts in it.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    forward(kind, omni, *given)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A field of this process's memory in KiB (Linux)."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1])


@contextmanager
def _eager_to_give_back() -> Iterator[None]:
    """Have glibc in child processes return freed blocks at once, so that peaks are of live ones."""
    chosen = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_fresh_process(kind: str, batch: int, tokens: int, device: str) -> float:
    # Its server imports this module once and computes nothing, so each case starts alike and soon.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _eager_to_give_back(), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_mib, kind, batch, tokens, device).result()


def time_row(models: dict[str, OmniModel], batch: int, tokens: int, repeats: int) -> dict[str, str]:
    given = inputs(models["sdpa"], batch, tokens)
    device = models["sdpa"].device.type

    def variant(kind: str):
        omni = models["eager" if kind == "eager" else "sdpa"]
        return lambda: forward(kind, omni, *given)

    *recording, eager = KINDS
    times = interleave({kind: variant(kind) for kind in recording}, repeats, device=device)
    # Slower by an order of magnitude, so that a few rounds tell.
    times |= interleave({eager: variant(eager)}, max(2, repeats // 5), device=device)
    return {
        "hidden": str(models["sdpa"].model.config.get_text_config().hidden_size),
        "batch": str(batch),
        "tokens": str(tokens),
        **{kind: times[kind].text() for kind in KINDS},
        **{f"{kind} / plain": times[kind].over(times["plain"]) for kind in KINDS[1:]},
        "eager / record": times["eager"].over(times["record"]),
    }


def memory_rows(
    omni: OmniModel, batch: int, tokens: int, device: str, repeats: int
) -> list[dict[str, str]]:
    case = (batch, tokens, device)
    plain = [_in_fresh_process("plain", *case) for _ in range(repeats)]
    noise = max(_LEAST_NOISE, max(plain) - min(plain))
    base = statistics.median(plain)
    rows = []
    for kind in KINDS:
        peak = base if kind == "plain" else _in_fresh_process(kind, *case)
        extra = number(peak - base) if peak - base >= noise else f"< noise ({number(noise)})"
        rows.append(
            {
                "batch": str(batch),
                "tokens": str(tokens),
                "forward": kind,
                "peak, MiB": number(peak),
                "attention memory, MiB": "" if kind == "plain" else extra,
                "kept": "" if kind == "plain" else size(kept_bytes(kind, omni, batch, tokens)),
            }
        )
    return rows


def tables(*, device: str, quick: bool) -> list[Table]:
    """Time and memory of recording."""
    cases = ((1, 256), (2, 256)) if quick else CASES
    models = {kind: load(kind, device) for kind in ("sdpa", "eager")}
    times = []
    for batch, tokens in cases:
        repeats = 2 if quick else 61 if batch * tokens <= 1024 else 21 if tokens <= 2048 else 15
        times.append(time_row(models, batch, tokens, repeats))
    if not quick:
        wide = {kind: load(kind, device, WIDE) for kind in models}
        times += [time_row(wide, *case, 21) for case in WIDE_CASES]
    made = [Table("Recording attention: time", _TIME.format(wide=WIDE), times)]
    if device == "cpu" and not sys.platform.startswith("linux"):
        # Nowhere else can a process set its peak back.
        return made
    repeats = 2 if quick else 3
    rows = []
    for case in cases[:1] if quick else cases:
        rows += memory_rows(models["sdpa"], *case, device, repeats)
    text = _MEMORY.format(peak=_PEAK[device], repeats=repeats, least=_LEAST_NOISE)
    return [*made, Table("Recording attention: memory", text, rows)]
