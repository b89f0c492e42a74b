"""How anything here is timed, and how results are written down."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import gc
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat of one variant."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def text(self, per: float = 1) -> str:
        """Milliseconds, ``median (min..max)``, divided by ``per``."""
        low, mid, high = (
            number(1000 * s / per) for s in (min(self.seconds), self.median, max(self.seconds))
        )
        return f"{mid} ({low}..{high})"

    def over(self, other: Timing) -> str:
        """Median of the ratios of each round, or ratio of the medians if not of the same rounds."""
        if len(self.seconds) != len(other.seconds):
            return f"{self.median / other.median:.2f}"
        pairs = zip(self.seconds, other.seconds, strict=True)
        return f"{statistics.median(one / two for one, two in pairs):.2f}"


def interleave(
    variants: Mapping[str, Callable[[], object]], repeats: int, *, device: str, warm_ups: int = 1
) -> dict[str, Timing]:
    """Time each variant ``repeats`` times, all of them once a round in an order drawn anew.

    So whatever the machine does meanwhile meets all variants alike. What a variant returns is
    released after the clock has stopped.
    """
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    # What is there already need not be searched for garbage before every repeat.
    gc.freeze()
    try:
        for turn in range(warm_ups + repeats):
            for name in order.sample(list(variants), len(variants)):
                took = _once(variants[name], device)
                if turn >= warm_ups:
                    seconds[name].append(took)
    finally:
        gc.unfreeze()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _once(run: Callable[[], object], device: str) -> float:
    gc.collect()
    gc.disable()
    try:
        _wait(device)
        start = time.perf_counter()
        kept = run()
        _wait(device)
        took = time.perf_counter() - start
        del kept
    finally:
        gc.enable()
    return took


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def number(value: float) -> str:
    """Three digits or so: ``0.123``, ``1.23``, ``12.3``, ``1,234``."""
    places = next((p for limit, p in ((1, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:,.{places}f}"


def size(count: float) -> str:
    """A number of bytes with its unit, ``768 B`` or ``128 MiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    power = next((p for p in (1, 2) if count < 1024 ** (p + 1)), 3)
    return f"{number(count / 1024**power)} {'KMG'[power - 1]}iB"


@dataclass(frozen=True)
class Table:
    """A table of results: a title, what its columns mean, and rows of text by column."""

    title: str
    text: str
    rows: Sequence[Mapping[str, str]]

    def markdown(self) -> str:
        return f"## {self.title}\n\n{self.text}\n\n{_grid(self.rows)}\n"


def _grid(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(device: str) -> dict[str, str]:
    """What results depend on, and nothing that says whose machine it was.

    Raises ``ValueError`` for ``cuda`` where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no GPU is visible to PyTorch; run with --device cpu")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "CPU": _cpu(),
        "cores": str(cores),
        "RAM": size(memory),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "measured on": device,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "torch threads": str(torch.get_num_threads()),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def page(
    machine: Mapping[str, str],
    tables: Sequence[Table],
    *,
    quick: bool,
    command: str = "python -m benchmarks",
) -> str:
    """The page of results, Markdown."""
    warning = "**A smoke run of the smallest sizes: these numbers mean nothing.**\n\n"
    return (
        "# Benchmarks\n\n"
        f"Written by `{command}`; [README.md](README.md) says what the ratios mean. "
        "Times are `median (min..max)` of repeats whose variants took turns, ratios are "
        f"medians over the rounds.\n\n{warning if quick else ''}"
        f"{_grid([{'': key, 'value': value} for key, value in machine.items()])}\n\n"
        + "\n".join(table.markdown() for table in tables)
    )
