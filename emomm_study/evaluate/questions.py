"""Questions to a model about a batch of clips: what can be asked, and what fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from emomm_lib import LabelSet
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.files import REFUSALS, Read, failure_of
from emomm_study.evaluate.plan import Item
from emomm_study.evaluate.states import Key, in_precision
from emomm_study.evaluate.store import Prediction, Written
from emomm_study.failures import Failure, Watch
from emomm_study.systems.interface import Again, Encoded, Media, Query, System
from emomm_study.systems.prompts import TranscriptError, check_transcript

Result = TypeVar("Result")
ANSWERING = "answering"
_MEDIA = {"V": "video", "A": "sound"}


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


def prepared(model: System, reads: Sequence[Read]) -> Sequence[Read]:
    """A batch with what the model needs of it before its encoders run, where it says so.

    May be called in another thread (``System.features``). As it was where that fails: encoding
    fails then too, and finds the clip.
    """
    new = [read for read in reads if read.encoded is None]
    if not new or (make := getattr(model, "features", None)) is None:
        return reads
    try:
        made = make([read.media for read in new])
    except Exception:
        return reads
    place = iter(range(len(new)))
    return [
        read
        if read.encoded
        else replace(read, media=replace(read.media, ready=(made, next(place))))
        for read in reads
    ]


def readable(
    model: System,
    batch: Sequence[Read],
    encodings: EncodingStore | None = None,
    labels: LabelSet | None = None,
) -> Readable:
    """Questions that a batch of clips allows, encoded; they ask for ``labels``, or EmoMM's classes.

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
            failures["T"] = failure_of(error, "reading the transcript", item)
        for coalition in item.coalitions:
            key = (item.sample_id, coalition, item.version)
            if causes := [why for m, why in failures.items() if m in coalition]:
                found.failed.append(Failed.at(key, *causes))
            else:
                asked = Corpus(item.corpus) if labels is None else labels
                query = Query(clip, coalition, asked, item.text)
                found.work.append((key, query))
    return found


def _encoded(model: System, reads: Sequence[Read]) -> list[tuple[Encoded, dict[str, Failure]]]:
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
            failures[modality] = failure_of(error, f"encoding the {name}", read.item)
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
    except GeneratorExit:
        raise
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


class Taken:
    """Stands for a store in a process that writes none: keeps what is to be written, to be sent."""

    def __init__(self) -> None:
        self.written: list[tuple[Sequence[tuple[str, ...]], Sequence[Any]]] = []

    def write(self, keys: Sequence[tuple[str, ...]], parts: Sequence[Any]) -> None:
        """Like that of a store; tensors leave their device."""
        self.written.append((keys, [_on_host(part) for part in parts]))


class TakenStates(Taken):
    """That for a store of states, whose precision they have when they are sent."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def write(self, keys: Sequence[tuple[str, ...]], parts: Sequence[Tensor]) -> None:
        super().write(keys, in_precision(parts, self.dtype))


def _on_host(part: Tensor | Encoded) -> Tensor | Encoded:
    if isinstance(part, Tensor):
        return part.cpu()
    own = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{k: v.cpu() for k, v in own.items() if isinstance(v, Tensor)})


def not_finite(stage: str, what: str) -> Failure:
    """The failure of a question to which the model gave numbers that are none."""
    return Failure(stage, f"{stage}: the model's {what} are not finite", "not finite")


def finite(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """``(B,)`` bool: whether all numbers of a row ``(B, ...)`` are finite."""
    tensor = torch.as_tensor(values)
    return tensor.reshape(len(tensor), -1).isfinite().all(1).cpu().numpy()


@dataclass(frozen=True)
class Group:
    """What came of some prompts: an answer, or a failure, of each in every run that it is asked in.

    Attributes
    ----------
    count
        Prompts.
    written, failed
        By the run's fingerprint.
    importance
        Of visual tokens to the plain model, by prompt, where it was not known before.
    worked
        What went well.
    """

    count: int
    written: dict[str, Written] = field(default_factory=dict)
    failed: dict[str, list[Failed]] = field(default_factory=dict)
    importance: dict[Key, np.ndarray] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)


def all_failed(
    item: Item, runs: Iterable[str], failure: Failure, *, again: Again | None = None
) -> Group:
    """A clip of which nothing could be computed, in every run that it is asked in.

    ``again`` says whether it is asked once more in a later run, as ``Prediction.again``.
    """
    keys = [(item.sample_id, coalition, item.version) for coalition in item.coalitions]
    failed = [Failed.at(key, failure) for key in keys]
    failed = [replace(own, prediction=replace(own.prediction, again=again)) for own in failed]
    return Group(len(keys), failed={run: list(failed) for run in runs})


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
