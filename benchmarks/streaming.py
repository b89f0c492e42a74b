"""``python -m benchmarks.streaming``: memory and speed of training a router on states on disk.

Made-up states of a 7B decoder's shape, written by ``StateStore`` in bfloat16, a block of random
numbers again and again. Each line is measured in a process of its own, with files that are not in
the system's cache at its start: all files read from end to end; the same batches as in training,
with nothing computed of them; ``train_router``, an epoch and its validation; and training on the
states held in memory in float32, where ``--in-memory`` asks for it. The peak is of the whole
process, PyTorch included. A router of another width than the published 128 (``--router``) leaves
a CPU time to keep up with the disk, as a GPU would. Linux alone.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from benchmarks.measure import Table, machine, number, page, size
from benchmarks.recording import _status
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.router import Router
from emomm_lib.chase.training import RouterStates, RouterTargets, TrainingSettings, train_router
from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.evaluate.states import COALITIONS, StateStore
from emomm_study.paths import cache_dir

SHARD = 64
VALIDATION = 0.1
"""Share of the prompts that are validated on."""
READ, BATCHES, TRAIN, HELD = (
    "files, end to end",
    "batches, nothing computed",
    "training",
    "in memory",
)
_TEXT = """\
States of {layers} layers of size {hidden}, {heads} heads, in bfloat16, of which a router of width \
{router} reads those from {first} on: an epoch in batches of {batch}, and a tenth of the prompts \
for validation. *read*: bytes of states that the line had from the disk. *peak*: the most that its \
process had in memory. *in float32*: what the states would take there."""


@dataclass(frozen=True)
class Shape:
    """Of a decoder and of the router that reads it."""

    layers: int = 28
    hidden: int = 3584
    heads: int = 28
    router: int = 128

    @property
    def settings(self) -> TrainingSettings:
        first = SteeringConfig.at_published_depth(self.layers).first_layer
        return TrainingSettings(first_layer=first, epochs=1, hidden=self.router)

    def read_of(self, kind: str) -> int:
        """Bytes a prompt that one of the lines reads of hidden states and attention."""
        layers = self.layers - (0 if kind in (READ, HELD) else self.settings.first_layer - 1)
        return layers * (2 * 4 * self.hidden + 4 * self.heads * len(MODALITIES))


def write(folder: Path, prompts: int, shape: Shape) -> StateStore:
    """A store of made-up states, four coalitions a clip; its files leave the system's cache."""
    store = StateStore(folder, torch.bfloat16)
    rng = torch.Generator().manual_seed(0)
    block = [
        torch.randn(SHARD, shape.layers, shape.hidden, generator=rng).bfloat16(),
        torch.randn(SHARD, shape.layers, 3, shape.hidden, generator=rng).bfloat16(),
        torch.rand(SHARD, shape.layers, shape.heads, 3, generator=rng) / 3,
        torch.tensor([20, 75, 128]).expand(SHARD, 3).contiguous(),
    ]
    names = [(f"{i // 4:06d}", COALITIONS[i % 4], "1") for i in range(prompts)]
    for start in range(0, prompts, SHARD):
        keys = names[start : start + SHARD]
        store.write(keys, [x[: len(keys)] for x in block])
        forget(folder)
    return store


def forget(folder: Path) -> None:
    """Have the system's cache give up what it holds of the files in a folder."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def parts(states: RouterStates) -> Iterator[tuple[RouterStates, RouterTargets]]:
    """Training and validation, with targets by random labels."""
    samples = states.index["sample_id"].unique()
    labels = np.random.default_rng(0).integers(len(CLASSES), size=(len(samples), 4))
    clips = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    clips = clips.assign(sample_id=samples)
    count = len(states.index)
    for rows in np.split(np.arange(count), [count - max(1, int(VALIDATION * count))]):
        part = states.take(rows)
        yield part, RouterTargets.of(part, clips)


def measured(kind: str, folder: Path, prompts: int, shape: Shape) -> tuple[float, float]:
    """Seconds that a line takes, and MiB that the process had at most; in a fresh process."""
    store = StateStore(folder)
    states = store.read([f"{i:06d}" for i in range(-(-prompts // 4))], hold=0)
    forget(folder)
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    if kind == READ:
        buffer = bytearray(2**23)
        for file in folder.iterdir():
            with open(file, "rb", buffering=0) as shard:
                while shard.readinto(buffer):
                    pass
    elif kind == BATCHES:
        router = Router(
            state_size=shape.hidden, layers=shape.layers, fingerprint="",
            first_layer=shape.settings.first_layer, hidden=1,
        )  # fmt: skip
        drawn = torch.randperm(prompts, generator=torch.Generator().manual_seed(0))
        for _ in states.batches(router, drawn.split(shape.settings.batch_size)):
            pass
    else:
        held = states.held() if kind == HELD else states
        train, validation = parts(held)
        train_router(*train, shape.settings, "", validation=validation, progress=False)
    return time.perf_counter() - start, _status("VmHWM") / 1024


def row(kind: str, folder: Path, prompts: int, shape: Shape) -> dict[str, str]:
    """A line of the table, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, peak = pool.submit(measured, kind, folder, prompts, shape).result()
    # Training passes once over all prompts, and twice over those it validates on.
    times = 1 + VALIDATION if kind == TRAIN else 1
    read = times * prompts * shape.read_of(kind)
    states = 2 * 4 * shape.hidden + 4 * shape.heads * len(MODALITIES)
    return {
        "prompts": f"{prompts:,}",
        "what": kind,
        "seconds": number(seconds),
        "prompts a second": f"{prompts / seconds:,.0f}",
        "read": size(read),
        "MiB a second": number(read / 2**20 / seconds),
        "peak, MiB": number(peak),
        "on disk": size(prompts * shape.layers * states),
        "in float32": size(prompts * shape.layers * (states + 2 * 4 * shape.hidden)),
    }


def table(prompts: Sequence[int], shape: Shape, kinds: Sequence[str], folder: Path) -> Table:
    """All lines for each number of prompts, whose files are written and taken away in turn."""
    rows = []
    for count in prompts:
        with TemporaryDirectory(dir=folder) as own:
            write(Path(own), count, shape)
            rows += [row(kind, Path(own), count, shape) for kind in kinds]
    settings = shape.settings
    text = _TEXT.format(
        layers=shape.layers, hidden=shape.hidden, heads=shape.heads, router=shape.router,
        first=settings.first_layer, batch=settings.batch_size,
    )  # fmt: skip
    return Table("Router: states on disk, while it trains", text, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 4000, 16_000])
    for name in ("layers", "hidden", "heads", "router"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Shape, name))
    parser.add_argument("--folder", type=Path, help="on the disk to measure; the cache's, if none")
    parser.add_argument("--in-memory", action="store_true", help="also train from memory")
    given = parser.parse_args(argv)
    shape = Shape(given.layers, given.hidden, given.heads, given.router)
    kinds = (READ, BATCHES, TRAIN, *((HELD,) if given.in_memory else ()))
    found = table(given.prompts, shape, kinds, given.folder or cache_dir("benchmarks"))
    print(page(machine("cpu"), [found], quick=shape.hidden < Shape.hidden))


if __name__ == "__main__":
    main()
