"""How fast predictions and traces are written durably and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import Table, Timing, interleave, number, size
from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_study.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_study.paths import cache_dir

BATCH = 256
ROWS = 32_000
SHAPE = (28, 28, 3)
"""Layers, heads and modalities of a trace of Qwen2.5-Omni-7B."""
_RUN = "benchmark"

_WRITING = """\
Each batch of {batch} predictions is one transaction, on the disk when `write` returns (SQLite, \
write-ahead log, synchronous=FULL); {rows} rows into a new store. A trace is float32 of \
{layers} x {heads} x {modalities}, stored as it is. *bytes a row*: the file by its rows, when all \
is written and closed."""
_READING = """\
A store of {rows} predictions and as many traces, its file in the system's cache."""


def rows(count: int, *, traced: bool) -> list[tuple[list[Prediction], list[StoredTrace]]]:
    """Batches of predictions, with traces or none, as a run would write them."""
    rng = np.random.default_rng(0)
    present = np.array([[m in c for m in MODALITIES] for c in COALITIONS])
    mass = rng.random((len(COALITIONS), *SHAPE), dtype=np.float32) / 3 * present[:, None, None]
    tokens = np.array([20, 75, 128]) * present
    batches = []
    for start in range(0, count, BATCH):
        keys = [
            (f"cmu_mosi/{i // 8:011d}/{i % 40}", COALITIONS[i % 8], f"{i}-1750000000000000000")
            for i in range(start, min(start + BATCH, count))
        ]
        logits = rng.normal(size=(len(keys), 5))
        predictions = [
            Prediction(*key, int(row.argmax()), 0.4, *map(float, row))
            for key, row in zip(keys, logits, strict=True)
        ]
        traces = [
            StoredTrace(*key, mass[i % 8], tokens[i % 8]) for i, key in enumerate(keys) if traced
        ]
        batches.append((predictions, traces))
    return batches


def new_store(path: Path) -> PredictionStore:
    store = PredictionStore(path)
    store.begin(_RUN, {})
    return store


def write(store: PredictionStore, batches: Sequence[tuple]) -> None:
    for predictions, traces in batches:
        store.write(_RUN, predictions, traces)


def file_size(path: Path) -> int:
    """Bytes of a store and of whatever SQLite has beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def writing_table(folder: Path, count: int, repeats: int) -> Table:
    batches = {"predictions": False, "predictions and traces": True}
    batches = {name: rows(count, traced=traced) for name, traced in batches.items()}
    made: dict[str, list[PredictionStore]] = {}
    for i, name in enumerate(batches):
        made[name] = [new_store(folder / f"{i}-{turn}.sqlite") for turn in range(repeats + 1)]
    left = {name: iter(stores) for name, stores in made.items()}

    def variant(name: str):
        return lambda: write(next(left[name]), batches[name])

    times = interleave({name: variant(name) for name in batches}, repeats, device="cpu")
    text = _WRITING.format(
        batch=BATCH, rows=f"{count:,}", layers=SHAPE[0], heads=SHAPE[1], modalities=SHAPE[2]
    )
    base = times["predictions"]
    return Table(
        "The store: writing",
        text,
        [
            {
                "written": name,
                "rows a second": f"{count / took.median:,.0f}",
                f"ms a batch of {BATCH}": took.text(len(batches[name])),
                "time / predictions": took.over(base),
                "bytes a row": size(file_size(made[name][-1].path) / count),
            }
            for name, took in times.items()
        ],
    )


def reading_table(folder: Path, count: int, repeats: int) -> Table:
    store = new_store(folder / "read.sqlite")
    write(store, rows(count, traced=True))
    calls = {
        "read()": lambda: store.read(_RUN),
        "known()": lambda: store.known(_RUN),
        "known(traced=True)": lambda: store.known(_RUN, traced=True),
        "read_traces()": lambda: store.read_traces(_RUN),
    }
    found = {name: _count(call()) for name, call in calls.items()}
    if set(found.values()) != {count}:
        raise RuntimeError(f"{count} rows were written, found {found}")
    times: dict[str, Timing] = interleave(calls, repeats, device="cpu")
    return Table(
        "The store: reading",
        _READING.format(rows=f"{count:,}"),
        [
            {
                "call": name,
                "ms": took.text(),
                "rows a second": f"{count / took.median:,.0f}",
                "microseconds a row": number(1e6 * took.median / count),
            }
            for name, took in times.items()
        ],
    )


def _count(result) -> int:
    return len(getattr(result, "index", result))


def tables(*, device: str, quick: bool) -> list[Table]:
    """Writing and reading, in a folder beside the cache's own store; the device plays no part."""
    with TemporaryDirectory(dir=cache_dir("benchmarks")) as folder:
        return [
            writing_table(Path(folder), 2 * BATCH if quick else 16 * BATCH, 2 if quick else 7),
            reading_table(Path(folder), 2 * BATCH if quick else ROWS, 2 if quick else 7),
        ]
