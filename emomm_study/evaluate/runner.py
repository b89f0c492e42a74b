"""Run a model over clips and coalitions: each clip decoded and encoded once, nothing lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.parallel import in_order, processes_for
from emomm_study.evaluate.plan import Item, Plan, make_plan
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS, Key, StateStore
from emomm_study.evaluate.store import Prediction, PredictionStore, StoredTrace
from emomm_study.failures import Failure, Watch, in_one_sentence
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import suppress
from emomm_study.media.video import MediaError, VideoSettings, read_video
from emomm_study.systems.omni import Answers, Encoded, Media, OmniModel, Query
from emomm_study.systems.prompts import (
    REPLY_VERSION,
    TranscriptError,
    check_transcript,
    parse_reply,
    prompt_version,
)

Decoding = Literal["constrained", "free"]
Result = TypeVar("Result")
AHEAD = 2
"""Batches that are read while the model computes."""
REFUSALS = (MediaError, TranscriptError)
"""What is said of a clip in words of our own; any other exception is named with its type."""
ANSWERING = "answering"
_MEDIA = {"V": "video", "A": "sound"}


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
    if decoding == "free":
        settings["reply"] = REPLY_VERSION
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
    failures: dict[str, Failure]
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
        needed = "".join(item.coalitions)
        seen, sound, failures = Media(None, None), None, {}
        if "V" in needed:
            try:
                seen = self._video(item)
            except BaseException as error:
                failures["V"] = _failure(error, "reading the video", item)
        if "A" in needed:
            try:
                sound = read_audio(item.audio, self.settings.audio)
            except BaseException as error:
                failures["A"] = _failure(error, "reading the sound", item)
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


def _failure(error: BaseException, stage: str, item: Item) -> Failure:
    """A clip's failure; an exception that is the program's is raised again."""
    return Failure.of(error, stage, item.sample_id, REFUSALS)


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


@dataclass(frozen=True)
class Failed:
    """A failure in place of an answer, and what it came from."""

    prediction: Prediction
    causes: tuple[Failure, ...]

    @classmethod
    def at(cls, key: Key, *causes: Failure) -> Failed:
        reasons = dict.fromkeys(cause.reason for cause in causes)
        return cls(Prediction.failed(*key, "; ".join(reasons)), causes)


Work = tuple[Key, Query]


@dataclass(frozen=True)
class Readable:
    """What of a batch of clips can be asked, failures in place of the rest, and what went well."""

    work: list[Work]
    failed: list[Failed]
    worked: set[str]


def readable(
    model: OmniModel, batch: Sequence[Read], encodings: EncodingStore | None = None
) -> Readable:
    """Questions that a batch of clips allows, encoded.

    A clip at which the encoders fail, or one of its modalities, is found by encoding it alone.
    Clips that were encoded here, with video and sound, go to ``encodings``.
    """
    new = [read for read in batch if read.encoded is None]
    made = iter(_encoded(model, new))
    clips = [next(made) if read.encoded is None else (read.encoded, {}) for read in batch]
    if encodings is not None:
        whole = [
            (read, clip)
            for read, (clip, _) in zip(batch, clips, strict=True)
            if read.encoded is None and clip.video is not None and clip.audio is not None
        ]
        if whole:
            keys = [(read.item.sample_id, read.item.version) for read, _ in whole]
            encodings.write(keys, [clip for _, clip in whole])
    found = Readable([], [], set())
    for read, (clip, failures) in zip(batch, clips, strict=True):
        item, failures = read.item, read.failures | failures
        for modality, own in (("V", read.media.frames), ("A", read.media.sound)):
            if own is not None:
                found.worked.add(f"reading the {_MEDIA[modality]}")
                if modality not in failures:
                    found.worked.add(f"encoding the {_MEDIA[modality]}")
        try:
            check_transcript(item.text)
        except TranscriptError as error:
            failures["T"] = _failure(error, "reading the transcript", item)
        for coalition in item.coalitions:
            key = (item.sample_id, coalition, item.version)
            if causes := [why for m, why in failures.items() if m in coalition]:
                found.failed.append(Failed.at(key, *causes))
            else:
                query = Query(clip, coalition, Corpus(item.corpus), item.text)
                found.work.append((key, query))
    return found


def _encoded(model: OmniModel, reads: Sequence[Read]) -> list[tuple[Encoded, dict[str, Failure]]]:
    """Each clip encoded, and why some of its modalities are not."""
    if not reads:
        return []
    try:
        made = model.encode([read.media for read in reads])
        return [(clip, {}) for _, clip in zip(reads, made, strict=True)]
    except BaseException as error:
        Failure.of(error, "encoding", _names([read.item.sample_id for read in reads]))
    if len(reads) > 1:
        return [_encoded(model, [read])[0] for read in reads]
    [read] = reads
    clip, failures = Encoded(None, None, None, None), {}
    apart = {"V": replace(read.media, sound=None), "A": Media(None, read.media.sound)}
    for modality, name in _MEDIA.items():
        media = apart[modality]
        if media.frames is None and media.sound is None:
            continue
        try:
            [own] = model.encode([media])
        except BaseException as error:
            failures[modality] = _failure(error, f"encoding the {name}", read.item)
            continue
        clip = replace(own, audio=clip.audio) if modality == "V" else replace(clip, audio=own.audio)
    return [(clip, failures)]


def divided(
    work: Sequence[Work],
    ask: Callable[[list[Work]], Iterable[tuple[Sequence[Key], Result]]],
    stage: str,
) -> Iterator[tuple[Sequence[Key], Result | Failure]]:
    """All that ``ask`` gives for some questions; a failure in place of what it cannot give.

    Where it raises, what is left is asked clip by clip, and of a clip where it still does question
    by question: so an exception costs the questions that raise it alone. The others are computed in
    other batches than without it, and equal what they would have been up to rounding.
    """
    left = dict(work)
    if not left:
        return
    try:
        for keys, result in ask(list(work)):
            for key in keys:
                del left[key]
            yield keys, result
        if left:
            raise ValueError(f"the model has left {len(left)} of {len(work)} questions open")
        return
    except BaseException as error:
        clips = {key[0]: None for key in left}
        failure = Failure.of(error, stage, _names(list(clips)), REFUSALS)
    if len(left) <= 1:
        yield list(left), failure
        return
    parts = [[(k, q) for k, q in left.items() if k[0] == clip] for clip in clips]
    if len(parts) == 1:
        parts = [[question] for question in left.items()]
    for part in parts:
        yield from divided(part, ask, stage)


def _names(clips: Sequence[str]) -> str:
    return clips[0] if len(clips) == 1 else f"{clips[0]} and {len(clips) - 1} more"


def not_finite(stage: str, what: str) -> Failure:
    """The failure of a question to which the model gave numbers that are none."""
    return Failure(stage, f"{stage}: the model's {what} are not finite", "not finite")


@dataclass(frozen=True)
class _Batch:
    """What came of a batch: to be stored, and what went well."""

    predictions: list[Prediction]
    traces: list[StoredTrace]
    failed: list[Failed]
    worked: set[str]


def _ask(
    model: OmniModel,
    batch: Sequence[Read],
    decoding: Decoding,
    traced: bool,
    states: StateStore | None,
    encodings: EncodingStore | None,
) -> _Batch:
    ready = readable(model, batch, encodings)
    done = _Batch([], [], ready.failed, ready.worked)

    def written(work: list[Work]) -> Iterator[tuple[list[Key], list[str]]]:
        # One coalition at a time: its prompts are nearly equally long, so little is padded.
        for coalition in dict.fromkeys(query.coalition for _, query in work):
            keys, queries = zip(*(w for w in work if w[1].coalition == coalition), strict=True)
            replies = model.reply(list(queries))
            for reply, _ in zip(replies, keys, strict=True):
                if not isinstance(reply, str):
                    raise TypeError(f"the model's reply is no text but {type(reply).__name__}")
            yield list(keys), replies

    def answered(work: list[Work]) -> Iterator[tuple[list[Key], Answers]]:
        keys, queries = (list(x) for x in zip(*work, strict=True))
        options = {"trace": traced} if states is None else {"trace": traced, "states": True}
        answers = model.answer(queries, **options)
        if any(len(x) != len(keys) for x in (answers.letter_logits, answers.label, answers.score)):
            raise ValueError(f"the model gave {len(answers.label)} answers, {len(keys)} were asked")
        yield keys, answers

    queries = dict(ready.work)
    for keys, found in divided(ready.work, written if decoding == "free" else answered, ANSWERING):
        if isinstance(found, Failure):
            done.failed.extend(Failed.at(key, found) for key in keys)
        elif decoding == "constrained":
            _take(done, keys, found, traced, states)
        else:
            done.worked.add(ANSWERING)
            for key, text in zip(keys, found, strict=True):
                parsed = parse_reply(text, queries[key].corpus)
                answer = (parsed.label, parsed.score, *[None] * 5)
                done.predictions.append(Prediction(*key, *answer, reply=text))
    return done


def _take(
    done: _Batch,
    keys: Sequence[Key],
    answers: Answers,
    traced: bool,
    states: StateStore | None,
) -> None:
    """Sort answers into what can be kept and what is not made of finite numbers."""
    parts = {
        "logits of A..E": answers.letter_logits,
        "scores": answers.score,
        "attention": answers.mass,
        "hidden states": answers.query_state,
        "hidden states of modalities": answers.modality_states,
    }
    odd = {name: ~finite(x) for name, x in parts.items() if x is not None}
    for i, key in enumerate(keys):
        if names := [name for name, rows in odd.items() if rows[i]]:
            done.failed.append(Failed.at(key, not_finite(ANSWERING, names[0])))
    good = [i for i in range(len(keys)) if not any(rows[i] for rows in odd.values())]
    if good:
        done.worked.add(ANSWERING)
    if states is not None:
        kept = [i for i in good if keys[i][1] in STATE_COALITIONS]
        counted = torch.from_numpy(answers.mass), torch.from_numpy(answers.counts)
        if kept:
            tensors = (answers.query_state, answers.modality_states, *counted)
            states.write([keys[i] for i in kept], [x[kept] for x in tensors])
    for i in good:
        logits = map(float, answers.letter_logits[i])
        answer = int(answers.label[i]), float(answers.score[i]), *logits
        done.predictions.append(Prediction(*keys[i], *answer))
        if traced:
            done.traces.append(StoredTrace(*keys[i], answers.mass[i], answers.counts[i]))


def finite(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """``(B,)`` bool: whether all numbers of a row ``(B, ...)`` are finite."""
    tensor = torch.as_tensor(values)
    return tensor.reshape(len(tensor), -1).isfinite().all(1).cpu().numpy()


class Held:
    """Failures that are not stored yet, since they may be the program's; see :class:`Watch`."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._held: list[tuple[str, Failed]] = []

    def sort(
        self, worked: Iterable[str], failed: Mapping[str, Sequence[Failed]]
    ) -> dict[str, list[Prediction]]:
        """What can be stored now of the failures of some runs, and of those held before.

        Raises :class:`emomm_study.failures.Broken` where they are the program's.
        """
        self._watch.worked(worked)
        for run, items in failed.items():
            for item in items:
                for cause in item.causes:
                    self._watch.failed(item.prediction.sample_id, cause)
                self._held.append((run, item))
        sure = [not any(map(self._watch.doubts, item.causes)) for _, item in self._held]
        ready = [pair for pair, is_sure in zip(self._held, sure, strict=True) if is_sure]
        self._held = [pair for pair, is_sure in zip(self._held, sure, strict=True) if not is_sure]
        return _by_run(ready)

    def rest(self) -> dict[str, list[Prediction]]:
        """What is left when a run has come to its end: the clips' after all."""
        held, self._held = self._held, []
        return _by_run(held)


def _by_run(items: Sequence[tuple[str, Failed]]) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {}
    for run, item in items:
        found.setdefault(run, []).append(item.prediction)
    return found


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

    Each batch is durable before the next begins. Whatever a clip does, in a decoder, the processor
    or the model, is stored as the failure of the questions that it concerns, with its reason, and
    the run goes on; numbers that are not finite are a failure too. The clip is found by asking each
    clip of its batch alone, so that the others of this batch equal what they would have been up to
    rounding, and all other batches bit for bit.

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
    logit_a..logit_e, failure, reply``. Raises like :func:`emomm_study.evaluate.plan.make_plan`, and
    :class:`emomm_study.failures.RunStopped` for what is the program's: no memory, no room on the
    disk, a process that was killed, an error anywhere else, or ``failures.IN_A_ROW`` clips in a row
    that all fail alike where nothing has worked yet; such failures are not stored.
    """
    if (traces or states is not None) and decoding == "free":
        raise ValueError("attention and states are recorded with constrained decoding only")
    settings = media or MediaSettings()
    reader = Reader(settings, model.device, encodings, regions)
    fingerprint, preimage = run_fingerprint(model, settings, decoding)
    failed = 0
    processes = processes_for(model.device) if processes is None else processes

    def ask(batch: list[Read]) -> Iterator[_Batch]:
        yield _ask(model, batch, decoding, traces, states, encodings)

    with in_one_sentence(store.path, "answers", batch_size) as kept:
        store.begin(fingerprint, preimage)
        known = store.known(fingerprint, traced=traces)
        if states is not None:
            recorded = states.known() | store.failed(fingerprint)
            known = {k for k in known if k[1] not in STATE_COALITIONS or k in recorded}
        plan = make_plan(clips, roots, coalitions, known, batch_size)
        kept.done, kept.total = plan.known, plan.known + plan.remaining
        held = Held()
        with tqdm(total=kept.total, initial=kept.done, unit="item", disable=not progress) as bar:
            for done in computed(plan, ask, reader, workers, processes):
                sure = held.sort(done.worked, {fingerprint: done.failed}).get(fingerprint, [])
                store.write(fingerprint, [*done.predictions, *sure], done.traces)
                kept.done += len(done.predictions) + len(sure)
                failed += len(done.failed)
                bar.update(len(done.predictions) + len(done.failed))
                if failed:
                    bar.set_postfix(failed=failed)
            store.write(fingerprint, held.rest().get(fingerprint, []))
        table = store.read(fingerprint)
    wanted = table["sample_id"].isin(clips["sample_id"]) & table["coalition"].isin(coalitions)
    return table[wanted].drop(columns="media").reset_index(drop=True)
