"""``python -m benchmarks.gpu``: what everything costs on one accelerator, on one page.

At a size of choice with random weights: a plain pass, padded and not, recording, steering in both
scopes, a replay, visual importance, and answering whole prompts. Of each its time, its share of the
speed of a matrix product, the operations that a layer launches, and how often the host waits.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import coalitions, measure
from benchmarks.measure import Table, Timing, interleave, number
from benchmarks.operations import Counted, counted
from benchmarks.steering import Case, configurations, steering
from emomm_lib import SteeringConfig, gradient_importance, prefill, record, replay, steer
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.systems.interface import Query
from emomm_study.systems.omni import OmniModel

SIZES = {
    "tiny": MiniConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=48),
    "mini": MiniConfig(),
    "3b": MiniConfig(hidden=2048, layers=36, heads=16, kv_heads=2, ffn=11008),
    "7b": MiniConfig(hidden=3584, layers=28, heads=28, kv_heads=4, ffn=18944),
}
"""Decoders; the two large ones have Qwen2.5-Omni's sizes but a small vocabulary and small encoders."""
CONFIGURATIONS = 100
_PRODUCT = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrix product whose speed is taken for what a device can do."""

_PASSES = """\
The decoder of `--size {size}` ({layers} layers of {hidden}, {dtype}, random weights), {batch} prompts of \
{tokens} random embeddings. *padded*: all but the first are padded on the left, so that a mask is given. \
*record*, *steer*: inside `record()`, and `steer()` with an untrained router, tau = 0, else the published \
configuration. *replay*: {many} configurations on a prefill. *importance*: forward and backward. *answer*: \
the eight coalitions of a clip by `answer`, traces recorded, encoder outputs made up. *speed*: \
floating-point operations of the decoder's products and attention by the time, and their share of what a \
product of square matrices of {product} reaches here ({peak} TFLOP/s). *operations a layer*: launched in the \
last layer, by a count that leaves out views. *waits*: times that the host waits for the device, in that \
layer and in the whole call{how}. *attention*: the kernels that computed it."""


@dataclass(frozen=True)
class Bench:
    """Prompts, and all that is timed on them."""

    case: Case
    mask: Tensor
    queries: Sequence[Query]

    @classmethod
    def of(cls, omni: OmniModel, batch: int, tokens: int, dtype: torch.dtype) -> Bench:
        case = Case.of(omni, batch, tokens)
        case = replace(case, embeds=case.embeds.to(dtype))
        mask = torch.ones_like(case.ids)
        for row in range(1, batch):
            mask[row, : row * tokens // (4 * batch) + 1] = 0
        [clip, *_] = coalitions.encoded_clips(omni, min(coalitions.GRIDS))
        queries = [Query(clip, c, Corpus.CMU_MOSI, "It was absolutely awful") for c in COALITIONS]
        return cls(case, mask, queries)

    def decoder(self, mask: Tensor | None = None) -> Tensor:
        run = self.case.omni.model.get_decoder()
        given = {} if mask is None else {"attention_mask": mask}
        return run(inputs_embeds=self.case.embeds, use_cache=True, **given).last_hidden_state

    def steered(self, **changes: object) -> Tensor:
        case = self.case
        asked = steering(case.omni, **changes)
        with steer(case.omni.model, case.router, asked, case.ids, importance=case.importance):
            return self.decoder()

    def recorded(self) -> Tensor:
        with record(self.case.omni.model, self.case.ids):
            return self.decoder()

    def importance(self) -> Tensor:
        case = self.case
        given = case.embeds, *case.padded, case.ids, case.omni.letter_weights
        return gradient_importance(case.omni.model, *given)

    def variants(self) -> dict[str, Callable[[], object]]:
        """What is timed, by name."""
        case = self.case
        mask, positions = case.padded
        inputs = {"inputs_embeds": case.embeds, "attention_mask": mask, "position_ids": positions}
        prompts = prefill(case.omni.model, inputs, case.ids)
        columns: list[tuple[object, SteeringConfig]] = [
            (case.router, config) for config in configurations(case.omni, CONFIGURATIONS)
        ]
        return {
            "plain": self.decoder,
            "plain, padded": lambda: self.decoder(self.mask),
            "record": self.recorded,
            "steer, decision": self.steered,
            "steer, all": lambda: self.steered(scope="all"),
            f"replay, {CONFIGURATIONS}": lambda: replay(
                prompts, columns, importance=case.importance
            ),
            "importance": self.importance,
            "answer, 8 prompts": lambda: case.omni.answer(self.queries, trace=True),
        }

    def operations(self) -> float:
        """Floating-point operations of one plain pass: its products, and attention to what precedes."""
        decoder = self.case.omni.model.get_decoder()
        batch, tokens, _ = self.case.embeds.shape
        products = (m for m in decoder.layers.modules() if isinstance(m, torch.nn.Linear))
        weights, text = sum(m.weight.numel() for m in products), decoder.config
        size = text.num_attention_heads * decoder.layers[0].self_attn.head_dim
        attention = 2 * text.num_hidden_layers * tokens * size
        return batch * tokens * (2 * weights + attention)


def load(size: str, device: str, dtype: torch.dtype) -> OmniModel:
    """A model of one of the sizes, its weights random."""
    processor = build_processor(SIZES[size])
    before = torch.get_default_dtype()
    # Or the largest would be made in single precision, and on the host, first.
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = build_model(processor, SIZES[size])
    finally:
        torch.set_default_dtype(before)
    return OmniModel(model.to(device), processor, "random")


def product_speed(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of large square matrices."""
    size = _PRODUCT[device]
    one, two = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    took = interleave({"": lambda: one @ two}, 5, device=device)[""]
    return 2 * size**3 / min(took.seconds)


def waits(run: Callable[[], object], device: str) -> int | None:
    """How often the host waits for the device in a call, as the device's own library reports it."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(x.message) for x in said)


def kernels(run: Callable[[], object], device: str) -> int | None:
    """Kernels that the device ran in a call, by its profiler."""
    if device != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in found.key_averages())


def layer_counts(run: Callable[[], object], omni: OmniModel) -> Counted:
    with counted(omni.model) as found:
        run()
    return found


def row(name: str, took: Timing, run: Callable[[], object], bench: Bench, base: Base) -> dict:
    """A line of the page."""
    device, omni = bench.case.omni.device.type, bench.case.omni
    last = omni.layers - 1
    found = layer_counts(run, omni)
    passes = sum(x.name == "silu" for x in found.of[last]) or 1
    whole = waits(run, device)
    if whole is None:
        whole = sum(len(found.waiting(layer)) for layer in found.of)
    speed, launched = "", number(found.launched(last) / passes)
    if not name.startswith(("plain", "record", "steer", "replay")):
        # A backward pass has no layers to count by, and inference mode hides what things are made of.
        launched = ""
    elif not name.startswith("replay"):
        rate = bench.operations() / took.median
        speed = f"{number(rate / 1e12)} ({100 * rate / base.peak:.0f}%)"
    ran = kernels(run, device)
    used = {
        x.name.removeprefix("_scaled_dot_product_")
        for x in found.of[last]
        if "scaled_dot" in x.name
    }
    return {
        "what": name,
        "ms": took.text(),
        "/ plain": took.over(base.plain),
        "TFLOP/s": speed,
        "operations a layer": launched,
        "waits, layer": number(len(found.waiting(last)) / passes),
        "waits, call": str(whole),
        "kernels": "" if ran is None else f"{ran:,}",
        "attention": ", ".join(sorted(used)),
    }


@dataclass(frozen=True)
class Base:
    """What a line is compared with."""

    plain: Timing
    peak: float


def table(
    size: str, device: str, dtype: torch.dtype, batch: int, tokens: int, repeats: int
) -> Table:
    """All lines at one size."""
    omni = load(size, device, dtype)
    with torch.no_grad():
        bench = Bench.of(omni, batch, tokens, dtype)
        variants = bench.variants()
        times = interleave(variants, repeats, device=device)
        base = Base(times["plain"], product_speed(device, dtype))
        rows = [row(name, times[name], run, bench, base) for name, run in variants.items()]
    text = _PASSES.format(
        size=size, layers=omni.layers, hidden=SIZES[size].hidden, dtype=str(dtype).partition(".")[2],
        batch=batch, tokens=f"{tokens:,}", many=CONFIGURATIONS, product=f"{_PRODUCT[device]:,}",
        peak=number(base.peak / 1e12),
        how=", by torch.cuda's own report" if device == "cuda" else ", by the operations' names",
    )  # fmt: skip
    return Table(f"One accelerator: {size}", text, rows)


def main(argv: Sequence[str] | None = None) -> str:
    """Measure what the arguments ask for; returns the page, printed and perhaps written."""
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="7b" if there == "cuda" else "tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=there)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes as well")
    given = parser.parse_args(argv)
    on_gpu = given.device == "cuda"
    dtype = getattr(torch, given.dtype or ("bfloat16" if on_gpu else "float32"))
    tokens = given.tokens or (2048 if on_gpu else 64)
    try:
        machine = measure.machine(given.device)
    except ValueError as error:
        parser.error(str(error))
    started = time.perf_counter()
    made = table(given.size, given.device, dtype, given.batch, tokens, given.repeats)
    page = measure.page(
        machine, [made], quick=given.size == "tiny", command="python -m benchmarks.gpu"
    )
    page += f"\nMeasured in {time.perf_counter() - started:.0f} seconds.\n"
    print(page)
    if given.out:
        given.out.write_text(page, encoding="utf-8")
    return page


if __name__ == "__main__":
    main()
