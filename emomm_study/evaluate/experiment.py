"""A model, the benchmark's clips and the store of what was asked: what asks, and what remembers."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from emomm_lib import LabelSet, TraceTable
from emomm_lib.chase.training import RouterStates
from emomm_study.corpora.clips import corpus_roots
from emomm_study.corpora.manifest import read_manifest
from emomm_study.corpora.part import described, part_of
from emomm_study.evaluate.cluster import Ask, Cluster
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.files import REFUSALS, MediaSettings, OtherVideo, PersonOnly, Read, Reader
from emomm_study.evaluate.headers import Check, questions
from emomm_study.evaluate.inspection import Inspection
from emomm_study.evaluate.methods import Method
from emomm_study.evaluate.parallel import in_order, processes_for
from emomm_study.evaluate.partners import partners
from emomm_study.evaluate.plan import Item, Plan, make_plan
from emomm_study.evaluate.questions import ANSWERING, Group, Held, prepared, readable
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.states import (
    COALITIONS as STATE_COALITIONS,
    Key,
    StateStore,
    kept_as,
)
from emomm_study.evaluate.steered import SteeredRun, Steering, asked_alike, steering_fingerprint
from emomm_study.evaluate.store import Prediction, PredictionStore, Written
from emomm_study.evaluate.unsteered import Decoding, Unsteered, run_fingerprint
from emomm_study.failures import Failure, Kept, RunStopped, in_one_sentence
from emomm_study.media.audio import AudioSettings
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import PersonSettings
from emomm_study.media.video import MediaError, VideoSettings, read_frames
from emomm_study.paths import cache_dir, located, resolve_media, run_dir
from emomm_study.systems.interface import Steerable, System, offered
from emomm_study.systems.named import Named
from emomm_study.systems.table import load_system, shown_name

Loaded = TypeVar("Loaded", bound=System)
AHEAD = 2
"""Batches that are read while the model computes, ..."""
READERS = 2
"""... and by how many threads."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A model, clips, and the store of what was asked. What is known is never asked again.

    Attributes
    ----------
    clips
        Rows of the manifest whose files are there.
    roots
        The folder of each corpus.
    batch_size
        Clips decoded, encoded and asked together; a pass of the decoder has up to twice as many
        prompts.
    processes
        Processes that compute batches side by side; None is :func:`processes_for` the device.
    executor
        Workers on other GPUs or machines that compute in their place. A system that answers one by
        one is always asked from this process.
    keep_encodings
        Whether clips stay on disk as the encoders left them.
    region_store
        Where people are in the videos, for media settings with ``person``.
    name, model_folder
        The model's, without owner or folder, and where its weights are; for a hub id a path that
        does not exist.
    part
        A sentence on the part of the benchmark that the clips are, where one was asked for.

    ``model`` is any system; what needs a decoder raises ``systems.interface.NotOffered`` for one
    that only answers.
    """

    model: System
    clips: pd.DataFrame
    roots: Mapping[str, Path]
    store: PredictionStore
    media: MediaSettings = MediaSettings()
    batch_size: int = 32
    processes: int | None = None
    progress: bool = True
    keep_encodings: bool = False
    region_store: RegionStore | None = None
    executor: Cluster | None = None
    name: str = ""
    model_folder: Path | None = None
    part: str = ""

    def steerable(self, what: str) -> Steerable:
        """The model, if it can be steered; ``NotOffered`` that says ``what`` needs it otherwise."""
        return offered(self.model, what)

    @cached_property
    def encodings(self) -> EncodingStore | None:
        """Encoded clips on disk, where they are kept; what answers one by one encodes nothing."""
        if not self.keep_encodings or getattr(self.model, "one_by_one", False):
            return None
        made_by = {"model": self.model.settings(), "media": self.media.settings()}
        text = json.dumps(made_by, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return EncodingStore(self.store.path.parent / "encodings" / self.store.path.stem / name)

    @property
    def fingerprint(self) -> str:
        """Of the unsteered run: all that can change an answer besides the clip."""
        return run_fingerprint(self.model, self.media)[0]

    @cached_property
    def state_store(self) -> StateStore:
        """Where hidden states of this run are kept, beside the store of its answers."""
        folder = self.store.path.parent / "states" / self.store.path.stem
        dtype = kept_as(self.steerable("keeping states").model.dtype)
        return StateStore(folder / self.fingerprint, dtype)

    @cached_property
    def reader(self) -> Reader:
        """Reads clips; raises ``ValueError`` for a person without the store of regions."""
        return Reader(self.media, self.model.device, self.encodings, self.region_store)

    def predictions(
        self,
        clips: pd.DataFrame,
        coalitions: Sequence[str],
        *,
        traces: bool = False,
        states: bool = False,
        decoding: Decoding = "constrained",
        labels: LabelSet | None = None,
    ) -> pd.DataFrame:
        """The plain model's answers about every clip under every coalition.

        Each batch is durable before the next begins. Whatever a clip does, in a decoder, the
        processor or the model, is stored as the failure of the questions that it concerns, with its
        reason, and the run goes on; numbers that are not finite are a failure too. The clip is
        found by asking each clip of its batch alone, so that the others of this batch equal what
        they would have been up to rounding, and all other batches bit for bit.

        Parameters
        ----------
        traces
            Record attention as well, for :meth:`traces`.
        states
            Record hidden states of prompts with two modalities or more, for :meth:`states`.
        decoding
            ``constrained``: letter by arg-max over A..E, then the best score that it allows.
            ``free``: what the model writes, parsed; an unparseable reply has no label.
        labels
            What is asked for in place of EmoMM's five classes and scores; in free text alone, since
            systems know the letters of five classes.

        Returns one row a (sample, coalition), failures included: ``sample_id, coalition, label,
        score, logit_a..logit_e, failure, reply``. Raises like
        :func:`emomm_study.evaluate.plan.make_plan`, and :class:`emomm_study.failures.RunStopped`
        for what is the program's: no memory, no room on the disk, a process that was killed, an
        error anywhere else, or ``failures.IN_A_ROW`` clips in a row that all fail alike where
        nothing has worked yet; such failures are not stored.
        """
        if (traces or states) and decoding == "free":
            raise ValueError("attention and states are recorded with constrained decoding only")
        if labels is not None and decoding != "free":
            raise ValueError(f"{labels.name} is asked for in free text alone; take decoding='free'")
        if traces or states:
            offered(self.model, "recording attention and states")
        run, preimage = run_fingerprint(self.model, self.media, decoding, labels=labels)
        with in_one_sentence(self.store.path, "answers", self.batch_size) as kept:
            self.store.begin(run, preimage)
            recorded = self.state_store if states else None
            known = self._known(run, traces, recorded)
            plan = self._planned(clips, coalitions, known)
            if (allow := getattr(self.model, "allow", None)) is not None:
                allow(questions(plan, self.media, labels))
            kept_in = recorded, self.encodings
            ask = Unsteered(self.model, run, decoding, traces, *kept_in, labels)
            self._carry_out([(plan, ask)], {run: known}, kept)
            return self._answers(run, clips["sample_id"], coalitions)

    def _known(self, run: str, traces: bool, recorded: StateStore | None) -> set[Key]:
        """What is not asked again; an answer whose attention or states lack is."""
        known = self.store.known(run, traced=traces)
        if recorded is None:
            return known
        there = recorded.known() | self.store.failed(run)
        return {k for k in known if k[1] not in STATE_COALITIONS or k in there}

    def plan(
        self,
        clips: pd.DataFrame,
        coalitions: Sequence[str],
        *,
        traces: bool = False,
        states: bool = False,
        decoding: Decoding = "constrained",
    ) -> Plan:
        """What :meth:`predictions` would ask, batch by batch."""
        run = run_fingerprint(self.model, self.media, decoding)[0]
        known = self._known(run, traces, self.state_store if states else None)
        return self._planned(clips, coalitions, known)

    def _planned(self, clips: pd.DataFrame, coalitions: Sequence[str], known: set[Key]) -> Plan:
        return make_plan(self.shown(clips), self.roots, coalitions, known, self.batch_size)

    def shown(self, clips: pd.DataFrame) -> pd.DataFrame:
        """Some clips with the videos that they are asked with, their own or another clip's.

        Raises ``ValueError`` for a clip without another of its corpus among the experiment's.
        """
        if self.media.other is None:
            return clips
        own = self.clips.set_index("sample_id")
        other = clips["sample_id"].map(partners(own["corpus"].to_dict(), self.media.other.seed))
        if (alone := other.isna() | (other == clips["sample_id"])).any():
            raise ValueError(
                f"{clips.loc[alone, 'sample_id'].iloc[0]} cannot be shown another clip's video: the "
                "experiment has no other clip of its corpus, or not this one; give it more clips"
            )
        return clips.assign(video_path=other.map(own["video_path"]), video_of=other)

    def check(
        self, clips: pd.DataFrame, coalitions: Sequence[str], *, decoding: Decoding = "constrained"
    ) -> Check:
        """What :meth:`predictions` would ask and cost; nothing is asked, decoded or sent."""
        plan = self.plan(clips, coalitions, decoding=decoding)
        if (estimate := getattr(self.model, "estimate", None)) is None:
            return Check(plan.known, plan.remaining)
        asked, refused = list(questions(plan, self.media)), None
        try:
            self.model.allow(asked)
        except RunStopped as error:
            refused = str(error)
        return Check(plan.known, plan.remaining, estimate(asked), refused)

    def steered(
        self, clips: pd.DataFrame, coalitions: Sequence[str], methods: Sequence[Method]
    ) -> pd.DataFrame:
        """Answers of every method.

        Each prompt is computed once unsteered, and every method of scope ``decision`` replays its
        decision token; scope ``all`` costs a prompt each. Each group of prompts is durable for all
        methods at once. Failures are as for :meth:`predictions`; what fails under one method alone
        is that method's failure.

        Returns rows like :meth:`predictions` and ``method, protocol, variant``. Raises like it, and
        ``ValueError`` for two methods that agree in these.
        """
        names = [method.key for method in methods]
        if repeated := sorted({key[0] for key in names if names.count(key) > 1}):
            raise ValueError(
                f"several methods are named {repeated}; give each its own name, protocol or variant"
            )
        model = self.steerable("steering")
        with in_one_sentence(self.store.path, "prompts", self.batch_size) as kept:
            # What visual tokens matter to the unsteered model is kept under its own run.
            plain, preimage = run_fingerprint(self.model, self.media)
            self.store.begin(plain, preimage)
            runs = [self._begun(method) for method in methods]
            by_id = clips.set_index("sample_id", drop=False).rename_axis("index")
            plans = []
            for own, part in asked_alike(clips, runs):
                known = set.intersection(*(run.known for run in own))
                plan = self._planned(part, coalitions, known)
                ask = Steering(model, own, by_id, self.store, plain, self.encodings)
                plans.append((plan, ask))
            self._carry_out(plans, {run.fingerprint: run.known for run in runs}, kept)
            frames = []
            for run in runs:
                asked = clips["sample_id"][[run.concerns(name) for name in clips["sample_id"]]]
                own = self._answers(run.fingerprint, asked, coalitions)
                name, protocol, variant = run.method.key
                frames.append(own.assign(method=name, protocol=protocol, variant=variant))
        return pd.concat(frames, ignore_index=True)

    def _begun(self, method: Method) -> SteeredRun:
        run, preimage = steering_fingerprint(self.model, self.media, method)
        self.store.begin(run, preimage)
        return SteeredRun(method, run, self.store.known(run))

    def _answers(
        self, run: str, sample_ids: Collection[str], coalitions: Sequence[str]
    ) -> pd.DataFrame:
        table = self.store.read(run)
        wanted = table["sample_id"].isin(sample_ids) & table["coalition"].isin(coalitions)
        return table[wanted].drop(columns="media").reset_index(drop=True)

    def _carry_out(
        self, plans: Sequence[tuple[Plan, Ask]], known: Mapping[str, set[Key]], kept: Kept
    ) -> None:
        """Compute what plans lack, and keep it group by group; ``known`` is by run."""
        # Made first: media settings may ask for what is not there.
        reader = self.reader
        kept.done = sum(plan.known for plan, _ in plans)
        kept.total = kept.done + sum(plan.remaining for plan, _ in plans)
        held, failed = Held(), 0
        options = {"total": kept.total, "initial": kept.done, "disable": not self.progress}
        with tqdm(unit="prompt", **options) as bar:
            for plan, ask in plans:
                for group in self._computed(plan, ask, reader):
                    sure = held.sort(group.worked, group.failed)
                    kept.done += self._write(group.written, sure, known)
                    if group.importance:
                        self.store.write_importance(self.fingerprint, group.importance)
                    failed += sum(map(len, group.failed.values()))
                    bar.update(group.count)
                    if failed:
                        bar.set_postfix(failed=failed)
        self._write({}, held.rest(), known)

    def _write(
        self,
        written: Mapping[str, Written],
        failures: Mapping[str, Sequence[Prediction]],
        known: Mapping[str, set[Key]],
    ) -> int:
        """Write answers, and failures that no answer of before stands against; how many prompts."""
        joined = dict(written)
        for run, own in failures.items():
            new = [f for f in own if (f.sample_id, f.coalition, f.media) not in known[run]]
            predictions, traces, routes = joined.get(run, ((), (), ()))
            joined[run] = [*predictions, *new], traces, routes
        if joined:
            self.store.write_runs(joined)
        return max((len(predictions) for predictions, *_ in joined.values()), default=0)

    def _computed(self, plan: Plan, ask: Ask, reader: Reader) -> Iterator[Group]:
        """What ``ask`` gives for every batch of a plan, in the plan's order.

        In one process, files are read, and made ready for the encoders, while the model computes; in
        several, here or elsewhere,
        each reads and computes whole batches. What answers one by one is asked from this process alone.
        """
        wanted = processes_for(self.model.device) if self.processes is None else self.processes
        if getattr(self.model, "one_by_one", False):
            wanted = 1
        elif self.executor is not None:
            yield from self.executor.groups(self.model, plan.batches, ask, reader)
            return
        if min(wanted, len(plan.batches)) <= 1:
            for batch in _read_ahead(self.model, plan, reader):
                yield from ask(batch)
            return

        def whole(batch: Sequence[Item]) -> list[Group]:
            return list(ask([reader(item) for item in batch]))

        for groups in in_order(whole, plan.batches, wanted):
            yield from groups
        if self.encodings is not None:
            self.encodings.refresh()

    # What was recorded

    def states(self, clips: pd.DataFrame) -> RouterStates:
        """What a router reads of some clips, recorded where it was not yet."""
        self.predictions(clips, STATE_COALITIONS, traces=True, states=True)
        return self.state_store.read(clips["sample_id"])

    def traces(self) -> TraceTable:
        """Attention of all answers about the experiment's clips that were asked with ``traces``."""
        table = self.store.read_traces(self.fingerprint)
        return table.select(table.index["sample_id"].isin(self.clips["sample_id"]))

    def routes(self, method: Method) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """What a scored method's gate said in each layer (``PredictionStore.read_routes``)."""
        return self.store.read_routes(self.run_of(method))

    def run_of(self, method: Method) -> str:
        """Fingerprint of a steered run."""
        return steering_fingerprint(self.model, self.media, method)[0]

    def versions(self, clips: pd.DataFrame) -> str:
        """Digest of the run and of some clips' files and transcripts, as they are now."""
        plan = self._planned(clips, ["TAV"], set())
        items = sorted((i.sample_id, i.version) for batch in plan.batches for i in batch)
        return hashlib.sha256(json.dumps([self.fingerprint, items]).encode()).hexdigest()[:16]

    # One clip, and the person alone

    def frames(self, clip: pd.Series) -> np.ndarray:
        """The sampled frames ``(N, H, W, 3)`` of a clip of the manifest, as far as the model sees.

        A system that crops frames sees their middle. Raises ``MediaError`` for what is no film.
        """
        model = self.steerable("placing its tokens on a picture")
        clip = self.shown(clip.to_frame().T).iloc[0]
        video = resolve_media(self.roots[clip["corpus"]], clip["video_path"])
        frames = read_frames(video, self.media.video)
        top, left, height, width = model.seen(*frames.shape[1:3])
        return frames[:, top : top + height, left : left + width]

    def inspect(self, clip: pd.Series, coalition: str) -> Inspection:
        """One clip of the manifest under one coalition, to be looked at under many steerings.

        Raises ``MediaError`` when its files cannot be read, or anything else fails at this clip.
        """
        plan = self._planned(clip.to_frame().T, [coalition], set())
        [item] = plan.batches[0]
        model = self.steerable("looking into a prompt")
        ready = readable(model, [self.reader(item)])
        if ready.failed:
            raise MediaError(f"{item.sample_id}: {ready.failed[0].prediction.failure}")
        try:
            return Inspection(model, ready.work[0][1])
        except BaseException as error:
            failure = Failure.of(error, ANSWERING, item.sample_id, REFUSALS)
            raise MediaError(f"{item.sample_id}: {failure.reason}") from error

    def regions(
        self, clips: pd.DataFrame, settings: PersonSettings = PersonSettings()
    ) -> pd.DataFrame:
        """Where the person is in some clips' sampled frames, found where it was not yet.

        Rows of :meth:`RegionStore.find` with ``sample_id`` and ``corpus``.
        """
        rows = self.shown(clips)[["corpus", "video_path"]].itertuples(index=False)
        videos = [resolve_media(self.roots[corpus], path) for corpus, path in rows]
        store, search = self._regions(settings), None
        if self.executor is not None:
            search = partial(self.executor.located, person=settings, video=self.media.video)
        found = store.find(videos, processes=processes_for("cpu"), search=search)
        return pd.concat([clips[["sample_id", "corpus"]].reset_index(drop=True), found], axis=1)

    def _regions(self, settings: PersonSettings) -> RegionStore:
        return RegionStore(self.store.path.parent / "regions", self.media.video, settings)

    def person_only(
        self,
        clips: pd.DataFrame,
        *,
        pixels: bool = True,
        tokens: float | None = None,
        inverted: bool = False,
        settings: PersonSettings = PersonSettings(),
    ) -> Experiment:
        """The same clips with video of which only the person is left (C.2).

        ``pixels`` blots out what lies outside the person's region; ``tokens`` drops video tokens of
        which less than that share of the area lies in it; ``inverted`` leaves all but the person,
        as a control. A clip whose video cannot be read is a failed item there, as it is here.
        """
        store = self._regions(settings)
        media = replace(self.media, person=PersonOnly(store.fingerprint, pixels, tokens, inverted))
        made = replace(self, clips=clips, media=media, region_store=store, keep_encodings=False)
        # By the view itself: of another clip's video where that is what is shown.
        made.regions(clips, settings)
        return made

    def other_videos(self, seed: int = 0) -> Experiment:
        """The same clips, each shown the video of another clip of its corpus, drawn by ``seed``.

        Text, sound and labels are the clip's own, each video is shown once, and who is shown whose
        does not hang on which of the clips are asked about. So what its own video gains over this
        is what the video says of *this* clip, and not that there is one. A clip that is shown a
        video which cannot be read is a failed item whose reason names both. Raises ``ValueError``
        when a clip is asked about that is the only one of its corpus.
        """
        media = replace(self.media, other=OtherVideo(seed))
        return replace(self, media=media, keep_encodings=False)


def _read_ahead(model: System, plan: Plan, reader: Reader) -> Iterator[Sequence[Read]]:
    """Batches of clips: the next made ready while one is computed, those after it being read."""
    reading, batches = deque[list[Future]](), iter(plan.batches)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="prepare") as one,
        ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool,
    ):
        coming = None
        while True:
            for batch in islice(batches, AHEAD - len(reading)):
                reading.append([pool.submit(reader, item) for item in batch])
            following = one.submit(_prepared, model, reading.popleft()) if reading else None
            if coming is not None:
                yield coming.result()
            if following is None:
                return
            coming = following


def _prepared(model: System, reading: Sequence[Future]) -> Sequence[Read]:
    return prepared(model, [future.result() for future in reading])


@dataclass(frozen=True)
class ExperimentSettings:
    """What a profile says of an experiment; paths are relative to the project.

    Attributes
    ----------
    ch_sims_root, cmu_mosi_root
        None for a corpus that the benchmark does without.
    model
        A folder or a hub id, and options (``systems.named``).
    frame_pixels
        The least and the most pixels of a frame; the model's own setting when None.
    render_clips
        How many surrogate clips of each corpus were rendered, where not all were.
    keep_encodings
        Whether clips stay on disk as the encoders left them.
    clips
        How many clips to ask about, a part of those (``corpora.part``); None for all.
    executor, workers
        ``local`` for this machine's processes, ``ray`` for so many workers of a Ray cluster (or
        ``auto``, one a GPU, or one a core); neither changes an answer.
    """

    profile: str
    ch_sims_root: str | None
    cmu_mosi_root: str | None
    model: str
    dtype: str
    device: str
    batch_size: int
    num_frames: int
    frame_pixels: Sequence[int] | None
    max_audio_seconds: float
    render_clips: int | None
    keep_encodings: bool = False
    clips: int | None = None
    executor: str = "local"
    workers: int | str = "auto"

    @classmethod
    def of(cls, names: Mapping[str, object]) -> list[ExperimentSettings]:
        """One for each of a notebook's ``backbones``, from its names, ``globals()``.

        All other names are passed over. Raises ``ValueError`` that lists what is missing, or for
        backbones that are no list of one or more names.
        """
        own = {field.name: names[field.name] for field in fields(cls) if field.name in names}
        own.pop("model", None)
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        needed = ["backbones" if name == "model" else name for name in needed]
        if missing := [name for name in needed if name not in {*own, "backbones"} & {*names}]:
            raise ValueError(
                f"an experiment needs the parameters {', '.join(missing)}; set them in the "
                "notebook's cell of parameters"
            )
        models = names["backbones"]
        if isinstance(models, str) or not isinstance(models, Sequence) or not models:
            raise ValueError(
                f"backbones is a list of models, the first of which all notebooks use; got {models!r}"
            )
        return [cls(model=model, **own) for model in models]


def media_settings(settings: ExperimentSettings) -> MediaSettings:
    """How clips are read under a profile's parameters."""
    return MediaSettings(
        VideoSettings(settings.num_frames), AudioSettings(max_seconds=settings.max_audio_seconds)
    )


def open_model(settings: ExperimentSettings, load: Callable[..., Loaded]) -> Loaded:
    """The model that a profile's parameters describe, opened by ``load``."""
    named = Named.of(settings.model)
    folder = located(named.path)
    return load(
        folder if folder.is_dir() else named.path,
        dtype=settings.dtype,
        device=settings.device,
        pixels=settings.frame_pixels,
        **named.options,
    )


def executor_of(settings: ExperimentSettings) -> Cluster | None:
    """What computes for a profile beside this process; None where nothing does.

    Raises ``ValueError`` for another executor than ``local`` or ``ray``.
    """
    if settings.executor == "local":
        return None
    if settings.executor != "ray":
        raise ValueError(f"executor is local or ray; got {settings.executor!r}")
    workers = None if settings.workers in (None, "auto") else int(settings.workers)
    return Cluster(partial(open_model, settings, load_system), settings.device, workers)


def open_experiment(settings: ExperimentSettings) -> Experiment:
    """The experiment that a profile's parameters describe.

    Where only ``render_clips`` clips were rendered, the others are left out; otherwise a missing
    file raises ``FileNotFoundError``. Of what is left, ``clips`` takes a part. Raises ``ValueError``
    for a benchmark with another corpus than the roots are of.
    """
    s = settings
    roots = corpus_roots(s.ch_sims_root, s.cmu_mosi_root)
    path = run_dir(s.profile) / "manifest.parquet"
    there = with_media(read_manifest(path), roots, partial=s.render_clips is not None)
    clips = there if s.clips is None else part_of(there, s.clips)
    named = Named.of(s.model)
    return Experiment(
        open_model(s, load_system),
        clips,
        roots,
        PredictionStore(cache_dir() / "predictions.sqlite", s.profile),
        media_settings(s),
        s.batch_size,
        keep_encodings=s.keep_encodings,
        executor=executor_of(s),
        name=shown_name(named),
        model_folder=located(named.path),
        part="" if s.clips is None else described(there, clips, s.clips),
    )
