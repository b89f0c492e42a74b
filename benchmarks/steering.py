"""What CHASE costs: a steered pass, replays of one prefill, saliency, and the router."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import gc
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.measure import Table, Timing, interleave, number, size
from benchmarks.recording import (
    WIDE,
    WIDE_CASES,
    _eager_to_give_back,
    _status,
    forward,
    inputs,
    load,
)
from emomm_lib import OTHER, LayerView, Prefill, prefill, record, replay, steer
from emomm_lib.chase.equations import Preference, SteeringConfig
from emomm_lib.chase.router import Router
from emomm_lib.chase.saliency import attention_importance, gradient_importance
from emomm_lib.chase.training import RouterStates, RouterTargets, TrainingSettings, train_router
from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.evaluate.states import COALITIONS, StateStore
from emomm_study.paths import cache_dir
from emomm_study.systems.omni import OmniModel

PASSES = ("plain", "record", "decision, beta = 0", "decision", "all")
STEERED = {
    "decision, beta = 0": {"scope": "decision", "beta": 0.0},
    "decision": {"scope": "decision"},
    "all": {"scope": "all"},
}
"""What each steered pass changes in the published configuration."""
CASES = ((1, 256), (1, 1024), (1, 2048), (1, 4096), (8, 1024))
"""(batch, tokens)."""
SWEEPS = ((1024, 1), (1024, 10), (1024, 100), (1024, 1000), (256, 100), (4096, 100))
"""(tokens, configurations)."""
TARGET = 2.0
"""Times one prefill of 1,024 tokens that a sweep of 100 configurations may take."""
_MOST_FORWARDS = 100
"""Configurations beyond which no forward for each is timed."""
SALIENCY = ("plain", "gradient", "gradient, checkpointed", "attention")
SALIENCY_CASES = ((1, 1024), (8, 256))
PROMPTS = (1000, 4000)
"""Prompts that a router is trained on."""
EPOCHS = 2
SHARD = 128
ROUTES = ((1, 1), (1, 32), (8, 1), (32, 1))
"""(prompts, columns) that a router decides on at once."""
_WARM_UP = 64

_PASSES = """\
The decoder of Omni-mini (hidden size 128), and one of hidden size {wide} with random weights: \
a prefill of random embeddings with a cache. *plain*: SDPA, nothing recorded. *record*: \
inside `record()`, with hidden states. The others are inside `steer()` with an untrained router, \
tau = 0, random importance, else the published configuration, so that in every layer from \
l_r = {first} of {layers} on {heads} heads are steered: the decision query alone (*decision*), \
also without the bias on visual tokens (*beta = 0*), or *all* queries. Milliseconds a forward, \
median (min..max); ratios to plain are medians over the rounds."""
_REPLAYS = """\
Omni-mini's decoder, one prompt, C configurations with gamma, eta, tau, K, l_r and preference \
drawn at random, one router. *replay*: all of them by `replay()` on a `prefill()` made before. \
*prefill and replay*: making it included. *C forwards*: a pass inside `steer()` for each, up to \
{most} of them, timed once for {most}. The target for a sweep of {most} configurations at 1,024 \
tokens is at most {target:g} times a plain prefill. Milliseconds."""
_SALIENCY = """\
Importance of the visual tokens in Omni-mini's decoder. *plain*: a forward, no gradient. \
*gradient*: forward and backward, weights frozen; or with each layer *checkpointed*. *attention*: \
a forward inside `record()`. Milliseconds for the batch.{memory}"""
_MEMORY = """ *peak*: the most memory during one, in a process of its own after a warm-up, less \
what was in use before, measured as recording's memory is; median of {repeats}."""
_TRAINING = """\
`train_router` with the published settings on made-up states of Omni-mini's shape, {layers} layers \
of size {width}, of which a router reads those from {first} on. They are held in memory; batches \
of {batch}, {epochs} epochs, no validation."""
_STATES = """\
`StateStore`: states of {prompts} prompts of that shape, a file for each {shard}; read back, \
sorted by prompt, into one set. Neither waits for the disk: files stay in the system's cache."""
_ROUTES = """\
`Router.route` in one layer of Omni-mini's decoder, which a steered pass asks in each layer from \
l_r on. Milliseconds a call."""


@dataclass(frozen=True)
class Case:
    """A batch of random prompts, about a third each of T, A, V, and what steering them needs."""

    omni: OmniModel
    router: Router
    embeds: Tensor
    ids: Tensor
    importance: Tensor

    @classmethod
    def of(cls, omni: OmniModel, batch: int, tokens: int) -> Case:
        embeds, ids = inputs(omni, batch, tokens)
        ids = ids.clone()
        # As in a prompt: were it a modality's, steering it would change that modality's mean.
        ids[:, -1] = OTHER
        visual = ids == MODALITIES.index("V")
        generator = torch.Generator().manual_seed(1)
        importance = torch.rand(batch, tokens, generator=generator).to(omni.device) * visual
        return cls(omni, new_router(omni), embeds, ids, importance)

    @property
    def padded(self) -> tuple[Tensor, Tensor]:
        """The attention mask ``(B, S)``, nothing padded, and position ids ``(3, B, S)``."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return torch.ones_like(self.ids), positions.expand(3, *self.ids.shape)

    @torch.inference_mode()
    def steered(self, config: SteeringConfig) -> tuple:
        """One steered forward; returns the decoder's output and what was done."""
        model = self.omni.model
        with steer(model, self.router, config, self.ids, importance=self.importance) as done:
            return model.get_decoder()(inputs_embeds=self.embeds, use_cache=True), done

    @torch.inference_mode()
    def prefill(self) -> Prefill:
        mask, positions = self.padded
        inputs = {"inputs_embeds": self.embeds, "attention_mask": mask, "position_ids": positions}
        return prefill(self.omni.model, inputs, self.ids)

    @torch.inference_mode()
    def replay(self, prompts: Prefill, configs: Sequence[SteeringConfig]) -> tuple:
        """All configurations on a prefill; returns decision tokens and what was decided."""
        columns = [(self.router, config) for config in configs]
        return replay(prompts, columns, importance=self.importance)


def shape(omni: OmniModel) -> tuple[int, int, int]:
    """Layers, hidden size and heads of the decoder."""
    text = omni.model.config.get_text_config()
    return text.num_hidden_layers, text.hidden_size, text.num_attention_heads


def new_router(omni: OmniModel) -> Router:
    """An untrained router that sees a conflict, p = 0.98, in all that it is shown."""
    layers, width, _ = shape(omni)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        router = Router(
            state_size=width,
            layers=layers,
            fingerprint=omni.fingerprint,
            first_layer=steering(omni).first_layer,
        )
    torch.nn.init.zeros_(router.conflict_head[-1].weight)
    torch.nn.init.constant_(router.conflict_head[-1].bias, 4.0)
    return router.to(omni.device).eval()


def steering(omni: OmniModel, **changes) -> SteeringConfig:
    """The published configuration, but for tau, under which every layer is steered."""
    return SteeringConfig.at_published_depth(shape(omni)[0], **({"tau": 0.0} | changes))


def configurations(omni: OmniModel, count: int) -> list[SteeringConfig]:
    """Configurations as a sweep would try them, no two alike."""
    draw = random.Random(0)
    layers, _, heads = shape(omni)
    return [
        SteeringConfig(
            first_layer=draw.randint(1, layers),
            tau=draw.uniform(0, 0.6),
            eta=draw.random(),
            gamma=draw.uniform(0, 3),
            top_k=draw.randint(1, heads),
            preference=draw.choice(Preference.__args__),
        )
        for _ in range(count)
    ]


def one_pass(kind: str, case: Case) -> object:
    """A forward of one of the kinds in ``PASSES``."""
    if kind in STEERED:
        return case.steered(steering(case.omni, **STEERED[kind]))
    return forward(kind, case.omni, case.embeds, case.ids)


def _repeats(batch: int, tokens: int, quick: bool) -> int:
    return 2 if quick else 61 if batch * tokens <= 1024 else 21 if tokens <= 2048 else 15


def pass_row(omni: OmniModel, batch: int, tokens: int, repeats: int) -> dict[str, str]:
    case = Case.of(omni, batch, tokens)
    variants = {kind: lambda kind=kind: one_pass(kind, case) for kind in PASSES}
    times = interleave(variants, repeats, device=omni.device.type)
    return {
        "hidden": str(shape(omni)[1]),
        "batch": str(batch),
        "tokens": str(tokens),
        **{kind: took.text() for kind, took in times.items()},
        **{f"{kind} / plain": times[kind].over(times["plain"]) for kind in PASSES[1:]},
    }


def pass_table(omni: OmniModel, quick: bool) -> Table:
    cases = CASES[:1] if quick else CASES
    rows = [pass_row(omni, *case, _repeats(*case, quick)) for case in cases]
    if not quick:
        wide = load("plain", omni.device.type, WIDE)
        rows += [pass_row(wide, *case, 21) for case in WIDE_CASES]
    config = steering(omni)
    text = _PASSES.format(
        wide=WIDE,
        first=config.first_layer,
        layers=shape(omni)[0],
        heads=config.top_k,
    )
    return Table("Steering: one pass", text, rows)


def replay_row(omni: OmniModel, tokens: int, count: int, repeats: int) -> dict[str, str]:
    case = Case.of(omni, 1, tokens)
    configs = configurations(omni, count)
    prompts = case.prefill()

    def forwards() -> None:
        for config in configs:
            case.steered(config)

    device = omni.device.type
    times = interleave(
        {
            "plain": lambda: one_pass("plain", case),
            "replay": lambda: case.replay(prompts, configs),
            "both": lambda: case.replay(case.prefill(), configs),
        },
        repeats,
        device=device,
    )
    apart: Timing | None = None
    if count <= _MOST_FORWARDS:
        few = 1 if count == _MOST_FORWARDS else max(2, repeats // 5)
        apart = interleave({"": forwards}, few, device=device, warm_ups=0)[""]
    return {
        "tokens": str(tokens),
        "C": str(count),
        "plain prefill": times["plain"].text(),
        "replay": times["replay"].text(),
        "prefill and replay": times["both"].text(),
        "C forwards": apart.text() if apart else "",
        "replay / plain": times["replay"].over(times["plain"]),
        "prefill and replay / plain": times["both"].over(times["plain"]),
        "C forwards / replay": apart.over(times["replay"]) if apart else "",
    }


def replay_table(omni: OmniModel, quick: bool) -> Table:
    sweeps = ((256, 1), (256, 10)) if quick else SWEEPS
    rows = [replay_row(omni, *sweep, 2 if quick else 15) for sweep in sweeps]
    text = _REPLAYS.format(most=_MOST_FORWARDS, target=TARGET)
    return Table("Replay: many configurations", text, rows)


def saliency(kind: str, case: Case) -> object:
    """Importance ``(B, S)`` by one of the kinds in ``SALIENCY``; a plain forward has none."""
    model = case.omni.model
    if kind == "plain":
        return one_pass(kind, case)
    if kind == "attention":
        with torch.inference_mode(), record(model, case.ids, states=False) as trace:
            model.get_decoder()(inputs_embeds=case.embeds, use_cache=True)
        return attention_importance(trace.mean_attention, case.ids)
    return gradient_importance(
        model,
        case.embeds,
        *case.padded,
        case.ids,
        case.omni.letter_weights,
        checkpointing=kind == "gradient, checkpointed",
    )


def peak_mib(kind: str, batch: int, tokens: int, device: str) -> float:
    """MiB by which one of ``SALIENCY`` raises memory above what is in use before, at its highest.

    To be called in a fresh process.
    """
    omni = load("plain", device)
    saliency(kind, Case.of(omni, batch, _WARM_UP))
    case = Case.of(omni, batch, tokens)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        saliency(kind, case)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    saliency(kind, case)
    return (_status("VmHWM") - before) / 1024


def _in_fresh_process(*case) -> float:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _eager_to_give_back(), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_mib, *case).result()


def saliency_rows(
    omni: OmniModel, batch: int, tokens: int, repeats: int, processes: int
) -> list[dict[str, str]]:
    """A row a kind; without its memory where no process is to measure it."""
    case = Case.of(omni, batch, tokens)
    device = omni.device.type
    variants = {kind: lambda kind=kind: saliency(kind, case) for kind in SALIENCY}
    times = interleave(variants, repeats, device=device)
    rows = []
    for kind, took in times.items():
        row = {
            "batch": str(batch),
            "tokens": str(tokens),
            "importance": kind,
            "ms": took.text(),
            "/ plain": took.over(times["plain"]),
        }
        if processes:
            peaks = [_in_fresh_process(kind, batch, tokens, device) for _ in range(processes)]
            row["peak, MiB"] = number(statistics.median(peaks))
        rows.append(row)
    return rows


def saliency_table(omni: OmniModel, quick: bool) -> Table:
    # Elsewhere no process can set its peak back.
    measurable = omni.device.type == "cuda" or sys.platform.startswith("linux")
    processes = (1 if quick else 3) if measurable else 0
    rows = []
    for case in ((1, 256),) if quick else SALIENCY_CASES:
        rows += saliency_rows(omni, *case, 2 if quick else 21, processes)
    memory = _MEMORY.format(repeats=processes) if processes else ""
    return Table("Saliency", _SALIENCY.format(memory=memory), rows)


def states(omni: OmniModel, prompts: int) -> tuple[RouterStates, RouterTargets]:
    """Made-up states of the decoder's shape, four coalitions a clip; targets by random labels."""
    layers, width, heads = shape(omni)
    generator = torch.Generator().manual_seed(0)
    index = pd.DataFrame(
        [(f"{i // 4:06d}", COALITIONS[i % 4]) for i in range(prompts)],
        columns=["sample_id", "coalition"],
    )
    there = torch.tensor([[m in c for m in MODALITIES] for c in index["coalition"]])
    means = torch.randn(prompts, layers, 3, width, generator=generator)
    mass = torch.rand(prompts, layers, heads, 3, generator=generator) / 3
    made = RouterStates(
        index,
        torch.randn(prompts, layers, width, generator=generator),
        means * there[:, None, :, None],
        mass * there[:, None, None],
        torch.tensor([20, 75, 128]) * there,
    )
    samples = index["sample_id"].unique()
    labels = np.random.default_rng(0).integers(len(CLASSES), size=(len(samples), 4))
    clips = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    return made, RouterTargets.of(made, clips.assign(sample_id=samples))


def training_table(omni: OmniModel, quick: bool) -> Table:
    settings = TrainingSettings(first_layer=steering(omni).first_layer, epochs=EPOCHS)
    device = omni.device.type

    def variant(given: tuple[RouterStates, RouterTargets]) -> Callable[[], object]:
        return lambda: train_router(*given, settings, "", device=device, progress=False)

    counts = (256,) if quick else PROMPTS
    variants = {str(n): variant(states(omni, n)) for n in counts}
    times = interleave(variants, 2 if quick else 7, device=device)
    rows = []
    for n in counts:
        took = times[str(n)]
        rows.append(
            {
                "prompts": f"{n:,}",
                "ms a step": took.text(EPOCHS * ceil(n / settings.batch_size)),
                "seconds an epoch": number(took.median / EPOCHS),
                "prompts a second": f"{EPOCHS * n / took.median:,.0f}",
            }
        )
    layers, width, _ = shape(omni)
    text = _TRAINING.format(
        layers=layers,
        first=settings.first_layer,
        width=width,
        batch=settings.batch_size,
        epochs=EPOCHS,
    )
    return Table("Router: training", text, rows)


def write_states(store: StateStore, made: RouterStates) -> StateStore:
    """Write states a shard at a time, as a run does."""
    keys = [(*key, "1") for key in made.index.itertuples(index=False)]
    for start in range(0, len(keys), SHARD):
        rows = slice(start, start + SHARD)
        parts = (made.query_state, made.modality_states, made.mass, made.counts)
        store.write(keys[rows], [part[rows] for part in parts])
    return store


def states_table(omni: OmniModel, folder: Path, prompts: int, repeats: int) -> Table:
    made, _ = states(omni, prompts)
    full = write_states(StateStore(folder / "read"), made)
    samples = set(made.index["sample_id"])
    if (found := len(full.read(samples).index)) != prompts:
        raise RuntimeError(f"{prompts} prompts were written, {found} read")
    new = iter(StateStore(folder / str(turn)) for turn in range(repeats + 1))
    times = interleave(
        {
            "write()": lambda: write_states(next(new), made),
            "read()": lambda: full.read(samples),
        },
        repeats,
        device="cpu",
    )
    count = sum(file.stat().st_size for file in full.folder.iterdir())
    rows = [
        {
            "call": name,
            "ms": took.text(),
            "prompts a second": f"{prompts / took.median:,.0f}",
            "MiB a second": number(count / 2**20 / took.median),
            "size": size(count),
            "bytes a prompt": size(count / prompts),
        }
        for name, took in times.items()
    ]
    text = _STATES.format(prompts=f"{prompts:,}", shard=SHARD)
    return Table("Router: states on disk", text, rows)


def router_row(omni: OmniModel, prompts: int, columns: int) -> LayerView:
    """Random states and attention, all modalities present."""
    layers, width, heads = shape(omni)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(omni.device)

    return LayerView(
        layers,
        draw(prompts, columns, heads, 3).double() / 100,
        torch.ones(prompts, 3, dtype=torch.int64, device=omni.device),
        draw(prompts, columns, width),
        draw(prompts, 3, width),
        draw(prompts, 3, width),
    )


def route_table(omni: OmniModel, quick: bool) -> Table:
    router = new_router(omni)
    calls = 10 if quick else 200

    def variant(prompts: int, columns: int) -> Callable[[], None]:
        row = router_row(omni, prompts, columns)

        @torch.inference_mode()
        def run() -> None:
            for _ in range(calls):
                router.route(row)

        return run

    routes = ROUTES[:2] if quick else ROUTES
    variants = {f"{b}, {c}": variant(b, c) for b, c in routes}
    times = interleave(variants, 2 if quick else 15, device=omni.device.type)
    rows = [
        {"prompts": str(b), "columns": str(c), "ms a call": times[f"{b}, {c}"].text(calls)}
        for b, c in routes
    ]
    return Table("Router: one layer", _ROUTES, rows)


def tables(*, device: str, quick: bool) -> list[Table]:
    """Steered passes, replays, saliency, and the router's training, states and decisions."""
    omni = load("plain", device)
    made = [f(omni, quick) for f in (pass_table, replay_table, saliency_table, training_table)]
    with TemporaryDirectory(dir=cache_dir("benchmarks")) as folder:
        prompts = 2 * SHARD if quick else PROMPTS[-1]
        made.append(states_table(omni, Path(folder), prompts, 2 if quick else 7))
    return [*made, route_table(omni, quick)]
