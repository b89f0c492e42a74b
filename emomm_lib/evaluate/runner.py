"""Run a model over clips and coalitions: each clip decoded and encoded once, nothing lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import pandas as pd
import torch
from tqdm.auto import tqdm

from emomm_lib.evaluate.encodings import EncodingStore
from emomm_lib.evaluate.parallel import in_order, processes_for
from emomm_lib.evaluate.plan import Item, Plan, make_plan
from emomm_lib.evaluate.states import COALITIONS as STATE_COALITIONS
from emomm_lib.evaluate.states import Key, StateStore
from emomm_lib.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_lib.labels import Corpus
from emomm_lib.media.audio import AudioSettings, read_audio
from emomm_lib.media.region_store import RegionStore
from emomm_lib.media.regions import suppress
from emomm_lib.media.video import MediaError, VideoSettings, read_video
from emomm_lib.models.omni import Encoded, Media, OmniModel, Query
from emomm_lib.prompts import parse_reply, prompt_version

Decoding = Literal["constrained", "free"]
Result = TypeVar("Result")
AHEAD = 2
"""Batches that are read while the model computes."""


@dataclass(frozen=True)
class PersonOnly:
    """Video of which only the person is seen (C.2).

    Attributes
    ----------
    found_by
        Fingerprint of how regions are found (:class:`RegionStore`).
    pixels
        Whether pixels outside the region are blotted out.
    tokens
        Least share of a video token's area inside the region for it to be kept; None keeps all.
    inverted
        A control: all but the person, whose pixels are blotted out or whose tokens are dropped.
    """

    found_by: str
    pixels: bool = True
    tokens: float | None = None
    inverted: bool = False


@dataclass(frozen=True)
class MediaSettings:
    """How a clip's files are read; ``person`` needs a store of regions beside it."""

    video: VideoSettings = field(default_factory=VideoSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    person: PersonOnly | None = None

    def settings(self) -> dict:
        """All that can change what is read, for fingerprints."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def run_fingerprint(
    model: OmniModel,
    media: MediaSettings,
    decoding: Decoding = "constrained",
    steering: Mapping | None = None,
) -> tuple[str, dict]:
    """Digest, and its preimage, of all that can change a prediction besides the clip itself."""
    settings = {
        **model.settings(),
        "prompt": prompt_version(),
        "media": media.settings(),
        "decoding": decoding,
    }
    if steering is not None:
        settings["steering"] = dict(steering)
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], settings


@dataclass(frozen=True)
class Read:
    """What could be read of the modalities that are needed, and why the others could not.

    ``encoded`` stands in for media where a store had the clip.
    """

    item: Item
    media: Media
    failures: dict[str, str]
    encoded: Encoded | None = None


@dataclass(frozen=True)
class Reader:
    """Reads clips for a model.

    Attributes
    ----------
    encodings
        Encoded clips, which are not read again.
    regions
        Where people are in the videos, for settings with ``person``.
    """

    settings: MediaSettings
    device: torch.device
    encodings: EncodingStore | None = None
    regions: RegionStore | None = None

    def __post_init__(self) -> None:
        wanted = self.settings.person
        if wanted and (self.regions is None or self.regions.fingerprint != wanted.found_by):
            raise ValueError("media settings with a person need the store of regions they name")

    def __call__(self, item: Item) -> Read:
        key = (item.sample_id, item.version)
        if self.encodings is not None and key in self.encodings:
            return Read(item, Media(None, None), {}, self.encodings.read(key, self.device))
        needed, failures = "".join(item.coalitions), {}
        seen, sound = Media(None, None), None
        try:
            seen = self._video(item) if "V" in needed else seen
        except MediaError as error:
            failures["V"] = str(error)
        try:
            sound = read_audio(item.audio, self.settings.audio) if "A" in needed else None
        except MediaError as error:
            failures["A"] = str(error)
        return Read(item, replace(seen, sound=sound), failures)

    def _video(self, item: Item) -> Media:
        video, person = read_video(item.video, self.settings.video), self.settings.person
        if person is None:
            return Media(video, None)
        region = self.regions.read(item.video).mask
        if person.inverted:
            region = ~region
        if person.pixels:
            video = replace(video, frames=suppress(video.frames, region))
        if person.tokens is None:
            return Media(video, None)
        return Media(video, None, region, person.tokens)


def read_ahead(plan: Plan, reader: Reader, workers: int) -> Iterator[list[Read]]:
    """The plan's batches, their files read ahead of the model."""
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        ahead: list[list[Future]] = []
        for batch in plan.batches:
            ahead.append([pool.submit(reader, item) for item in batch])
            if len(ahead) > AHEAD:
                yield [future.result() for future in ahead.pop(0)]
        for futures in ahead:
            yield [future.result() for future in futures]


def computed(
    plan: Plan,
    ask: Callable[[list[Read]], Iterable[Result]],
    reader: Reader,
    workers: int,
    processes: int,
) -> Iterator[Result]:
    """What ``ask`` gives for every batch of a plan, in the plan's order.

    In one process, files are read ahead while the model computes; in several, each reads and
    computes whole batches.
    """
    if min(processes, len(plan.batches)) <= 1:
        for batch in read_ahead(plan, reader, workers):
            yield from ask(batch)
        return

    def whole(batch: Sequence[Item]) -> list[Result]:
        return list(ask([reader(item) for item in batch]))

    for results in in_order(whole, plan.batches, processes):
        yield from results
    if reader.encodings is not None:
        reader.encodings.refresh()


def readable(
    model: OmniModel, batch: Sequence[Read], encodings: EncodingStore | None = None
) -> tuple[list[tuple[Key, Query]], list[Prediction]]:
    """Questions that a batch of clips allows, encoded, and failures in place of the others.

    Clips that were encoded here, with video and sound, go to ``encodings``.
    """
    new = [read for read in batch if read.encoded is None]
    made = iter(model.encode([read.media for read in new]))
    encoded = [next(made) if read.encoded is None else read.encoded for read in batch]
    if encodings is not None:
        whole = [
            (read, clip)
            for read, clip in zip(batch, encoded, strict=True)
            if read.encoded is None and clip.video is not None and clip.audio is not None
        ]
        if whole:
            keys = [(read.item.sample_id, read.item.version) for read, _ in whole]
            encodings.write(keys, [clip for _, clip in whole])
    predictions, work = [], []
    for read, clip in zip(batch, encoded, strict=True):
        item = read.item
        for coalition in item.coalitions:
            key = (item.sample_id, coalition, item.version)
            reasons = [why for m, why in read.failures.items() if m in coalition]
            if reasons:
                predictions.append(Prediction.failed(*key, "; ".join(reasons)))
            else:
                work.append((key, Query(clip, coalition, Corpus(item.corpus), item.text)))
    return work, predictions


def _ask(
    model: OmniModel,
    batch: Sequence[Read],
    decoding: Decoding,
    traced: bool,
    states: StateStore | None,
    encodings: EncodingStore | None,
) -> tuple[list[Prediction], list[StoredTrace]]:
    work, predictions = readable(model, batch, encodings)
    traces: list[StoredTrace] = []
    if not work:
        return predictions, traces
    keys = [key for key, _ in work]
    queries = [query for _, query in work]
    if decoding == "free":
        # One coalition at a time: its prompts are nearly equally long, so little is padded.
        for coalition in dict.fromkeys(query.coalition for query in queries):
            group = [i for i, query in enumerate(queries) if query.coalition == coalition]
            for i, text in zip(group, model.reply([queries[i] for i in group]), strict=True):
                parsed = parse_reply(text, queries[i].corpus)
                answer = (parsed.label, parsed.score, *[None] * 5)
                predictions.append(Prediction(*keys[i], *answer, reply=text))
        return predictions, traces
    if states is None:
        answers = model.answer(queries, trace=traced)
    else:
        answers = model.answer(queries, trace=traced, states=True)
        kept = [i for i, query in enumerate(queries) if query.coalition in STATE_COALITIONS]
        counted = torch.from_numpy(answers.mass), torch.from_numpy(answers.counts)
        parts = (answers.query_state, answers.modality_states, *counted)
        if kept:
            states.write([keys[i] for i in kept], [x[kept] for x in parts])
    columns = answers.label, answers.score, answers.letter_logits
    for key, label, score, logits in zip(keys, *columns, strict=True):
        predictions.append(Prediction(*key, int(label), float(score), *map(float, logits)))
    if traced:
        traces += map(StoredTrace, *zip(*keys, strict=True), answers.mass, answers.counts)
    return predictions, traces


def evaluate(
    model: OmniModel,
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    coalitions: Sequence[str],
    store: PredictionStore,
    *,
    media: MediaSettings | None = None,
    decoding: Decoding = "constrained",
    traces: bool = False,
    states: StateStore | None = None,
    encodings: EncodingStore | None = None,
    regions: RegionStore | None = None,
    batch_size: int = 32,
    workers: int = 2,
    processes: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Predictions of every clip under every coalition, from the store where they are known.

    A clip that cannot be read is stored as failed with the reason, and the run goes on. Each batch
    is durable before the next begins.

    Parameters
    ----------
    model
        Something with the methods of :class:`OmniModel`; ``answer`` is needed for constrained
        decoding only, ``reply`` for free decoding only.
    clips, roots
        The manifest's columns, and the folder of each corpus.
    decoding
        ``constrained``: letter by arg-max over A..E, then the best score that it allows.
        ``free``: what the model writes, parsed; an unparseable reply has no label.
    traces
        Record attention as well, for :meth:`PredictionStore.read_traces`.
    states
        Where to keep hidden states of prompts with two modalities or more, for routers.
    encodings
        Where encoded clips are kept and found, when they are to be.
    regions
        Where people are in the videos, for media settings with ``person``.
    batch_size
        Clips decoded, encoded and asked together; a pass of the decoder has up to twice as many
        prompts.
    workers
        Threads that read files ahead of the model, in one process.
    processes
        Processes that compute batches side by side; None is :func:`processes_for` the device.

    Returns one row a (sample, coalition), failures included: ``sample_id, coalition, label, score,
    logit_a..logit_e, failure, reply``. Raises like :func:`emomm_lib.evaluate.plan.make_plan`.
    """
    if (traces or states is not None) and decoding == "free":
        raise ValueError("attention and states are recorded with constrained decoding only")
    settings = media or MediaSettings()
    reader = Reader(settings, model.device, encodings, regions)
    fingerprint, preimage = run_fingerprint(model, settings, decoding)
    store.begin(fingerprint, preimage)
    known = store.known(fingerprint, traced=traces)
    if states is not None:
        kept = states.known() | store.failed(fingerprint)
        known = {key for key in known if key[1] not in STATE_COALITIONS or key in kept}
    plan = make_plan(clips, roots, coalitions, known, batch_size)
    total = plan.known + plan.remaining
    failed = 0
    processes = processes_for(model.device) if processes is None else processes

    def ask(batch: list[Read]) -> Iterator[tuple[list[Prediction], list[StoredTrace]]]:
        try:
            yield _ask(model, batch, decoding, traces, states, encodings)
        except torch.OutOfMemoryError as error:
            error.add_note(f"out of memory with batch_size={batch_size}: choose a smaller one")
            raise

    with tqdm(total=total, initial=plan.known, unit="item", disable=not progress) as bar:
        for predictions, seen in computed(plan, ask, reader, workers, processes):
            store.write(fingerprint, predictions, seen)
            failed += sum(p.failure is not None for p in predictions)
            bar.update(len(predictions))
            if failed:
                bar.set_postfix(failed=failed)
    table = store.read(fingerprint)
    wanted = table["sample_id"].isin(clips["sample_id"]) & table["coalition"].isin(coalitions)
    return table[wanted].drop(columns="media").reset_index(drop=True)
