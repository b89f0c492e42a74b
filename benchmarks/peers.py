"""Recording and steering beside what others offer for them, all in one run.

    python -m benchmarks.peers [--widths 128 3584] [--tokens 256 1024] [--repeats 7] [--out FILE]

What a library of its own offers is measured where it is installed: ``pip install nnsight``, into a
copy of the environment, since it is no dependency of this project.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
import importlib.util
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import Table, interleave, machine, page
from benchmarks.recording import load
from benchmarks.steering import Case, configurations, one_pass, shape, steering
from emomm_lib.labels import MODALITIES
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.systems.omni import OmniModel

SEVEN_B = {"hidden": 3584, "ffn": 18_944, "heads": 28, "kv_heads": 4}
"""The widths of Qwen2.5-Omni-7B's decoder."""
LAYERS = 2
"""Of a decoder of these widths: all that a pass costs is by layer."""
OURS = ("record", "decision", "all", "replay of 10")
PEERS = ("eager", "mask", "nnsight")
_TEXT = """\
The decoder of Omni-mini (hidden size 128), and {layers} layers of the widths of Qwen2.5-Omni-7B \
(3,584) with random weights, float32: a prefill of random embeddings with a cache, alone \
(*plain*: SDPA) and with one thing more. Ours: *record* keeps the attention of the decision query \
on each modality and the states that a router reads; *decision* and *all* steer as published \
(tau = 0, so every layer from l_r on), with a router and random importance; *replay of 10* answers \
for ten configurations on a prefill made within. Others: *eager* is transformers' \
`output_attentions=True`, which gives all attention; *mask* adds log 0.01 to the scores of all \
but visual tokens in every head and layer by a mask that SDPA takes, as PASTA steers by one \
strength; *nnsight*{nnsight} keeps the decision query's state that enters each layer, and no \
attention, which it cannot see under SDPA. Milliseconds of plain, median (min..max); of the \
others the ratio to plain, a median over {repeats} rounds in which all took their turn."""


def decoder_of(width: int, device: str = "cpu") -> OmniModel:
    """Omni-mini for its own width; a decoder of the 7B's shape and random weights for another."""
    if width == MiniConfig().hidden:
        return load("plain", device)
    disable_progress_bar()
    heads = max(2, SEVEN_B["heads"] * width // SEVEN_B["hidden"])
    config = MiniConfig(
        hidden=width,
        ffn=SEVEN_B["ffn"] * width // SEVEN_B["hidden"],
        heads=heads,
        kv_heads=math.gcd(heads, SEVEN_B["kv_heads"]),
        layers=LAYERS,
    )
    processor = build_processor(config)
    return OmniModel(build_model(processor, config).to(device), processor, "random")


@contextmanager
def attention(omni: OmniModel, kind: str):
    """The decoder under another implementation of attention."""
    omni.model.set_attn_implementation({"text_config": kind})
    try:
        yield
    finally:
        omni.model.set_attn_implementation({"text_config": "sdpa"})


@torch.inference_mode()
def eager(case: Case) -> tuple[Tensor, ...]:
    """Attention of all queries, by layer ``(B, H, S, S)``."""
    with attention(case.omni, "eager"):
        return case.omni.decoder(
            inputs_embeds=case.embeds, use_cache=True, output_attentions=True
        ).attentions


def masked_scores(case: Case, strength: float = 0.01) -> Tensor:
    """A mask ``(B, H, S, S)`` that is added to scores: causal, and log ``strength`` off V."""
    batch, tokens = case.ids.shape
    heads, device = shape(case.omni)[2], case.embeds.device
    causal = torch.full((tokens, tokens), -torch.inf, device=device).triu(1)
    off = torch.where(case.ids == MODALITIES.index("V"), 0.0, math.log(strength))
    return (causal + off[:, None, None]).expand(batch, heads, tokens, tokens)


@torch.inference_mode()
def mask(case: Case) -> Tensor:
    """Last hidden states of a pass that is steered by a mask alone."""
    return case.omni.decoder(
        inputs_embeds=case.embeds, attention_mask=masked_scores(case), use_cache=True
    ).last_hidden_state


def nnsight_of(case: Case) -> Callable[[], list[Tensor]]:
    """A pass that keeps the decision query's state entering each layer, by nnsight."""
    from nnsight import NNsight

    watched = NNsight(case.omni.decoder)

    @torch.inference_mode()
    def run() -> list[Tensor]:
        kept = []
        with watched.trace(inputs_embeds=case.embeds, use_cache=True):
            for layer in watched.layers:
                kept.append(layer.input[:, -1].save())
        return kept

    return run


def variants(case: Case) -> dict[str, Callable[[], object]]:
    """What is timed, by name; nnsight only where it is installed."""
    few = configurations(case.omni, 10)
    found: dict[str, Callable[[], object]] = {
        "plain": lambda: one_pass("plain", case),
        "record": lambda: one_pass("record", case),
        "decision": lambda: case.steered(steering(case.omni)),
        "all": lambda: case.steered(steering(case.omni, scope="all")),
        "replay of 10": lambda: case.replay(case.prefill(), few),
        "eager": lambda: eager(case),
        "mask": lambda: mask(case),
    }
    if importlib.util.find_spec("nnsight"):
        found["nnsight"] = nnsight_of(case)
    return found


def row(omni: OmniModel, batch: int, tokens: int, repeats: int) -> dict[str, str]:
    """One line of the table."""
    times = interleave(variants(Case.of(omni, batch, tokens)), repeats, device=omni.device.type)
    ratios = {
        name: times[name].over(times["plain"]) if name in times else "not installed"
        for name in (*OURS, *PEERS)
    }
    layers, width, _ = shape(omni)
    return {
        "hidden, layers": f"{width}, {layers}",
        "batch": str(batch),
        "tokens": str(tokens),
        "plain": times["plain"].text(),
        **ratios,
    }


def table(widths: Sequence[int], tokens: Sequence[int], repeats: int) -> Table:
    """All lines, the widest decoder last."""
    rows = []
    for width in sorted(widths):
        omni = decoder_of(width)
        rows += [row(omni, 1, count, repeats) for count in sorted(tokens)]
    named = f" {metadata.version('nnsight')}" if importlib.util.find_spec("nnsight") else ""
    text = _TEXT.format(layers=LAYERS, nnsight=named, repeats=repeats)
    return Table("Beside others", text, rows)


def main(argv: Sequence[str] | None = None) -> str:
    """Measure, print, and write the page where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, SEVEN_B["hidden"]])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes as well")
    options = parser.parse_args(argv)
    found = table(options.widths, options.tokens, options.repeats)
    text = page(machine("cpu"), [found], quick=False, command="python -m benchmarks.peers")
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
