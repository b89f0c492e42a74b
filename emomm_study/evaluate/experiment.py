"""What the notebooks that ask a model begin with: benchmark, model, media settings and store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib import TraceTable
from emomm_lib.chase.training import RouterStates
from emomm_study.corpora.manifest import read_manifest
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.inspection import Inspection
from emomm_study.evaluate.methods import Method
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.plan import make_plan
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.runner import (
    ANSWERING,
    REFUSALS,
    MediaSettings,
    PersonOnly,
    Reader,
    evaluate,
    readable,
    run_fingerprint,
)
from emomm_study.evaluate.states import COALITIONS as STATE_COALITIONS, StateStore
from emomm_study.evaluate.steered import evaluate_methods, steering_fingerprint
from emomm_study.evaluate.store import PredictionStore
from emomm_study.failures import Failure
from emomm_study.media.audio import AudioSettings
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import PersonSettings
from emomm_study.media.video import MediaError, VideoSettings
from emomm_study.mini.surrogate.cue import CUES
from emomm_study.mini.surrogate.plan import SurrogateSettings
from emomm_study.mini.surrogate.render import render_corpus
from emomm_study.paths import cache_dir, located, resolve_media, run_dir
from emomm_study.systems.omni import OmniModel


@dataclass(frozen=True)
class Experiment:
    """A model, the benchmark's clips that are on disk, and the store of what was asked.

    Attributes
    ----------
    name
        The model's, without owner or folder.
    model_folder
        Where its weights are; for a hub id a path that does not exist.
    clips
        The manifest's rows whose files are there.
    keep_encodings
        Whether clips stay on disk as the encoders left them.
    region_store
        Where people are in the videos, for :meth:`person_only`.
    """

    name: str
    model: OmniModel
    model_folder: Path
    clips: pd.DataFrame
    roots: Mapping[str, Path]
    media: MediaSettings
    store: PredictionStore
    batch_size: int
    keep_encodings: bool = False
    region_store: RegionStore | None = None

    @cached_property
    def encodings(self) -> EncodingStore | None:
        """Encoded clips on disk, where they are kept."""
        if not self.keep_encodings:
            return None
        made_by = {"model": self.model.settings(), "media": self.media.settings()}
        text = json.dumps(made_by, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return EncodingStore(self.store.path.parent / "encodings" / self.store.path.stem / name)

    @property
    def fingerprint(self) -> str:
        """Of the run: all that can change an answer besides the clip."""
        return run_fingerprint(self.model, self.media)[0]

    @property
    def state_store(self) -> StateStore:
        """Where hidden states of this run are kept, beside the store of its answers."""
        folder = self.store.path.parent / "states" / self.store.path.stem
        return StateStore(folder / self.fingerprint)

    def predictions(
        self,
        clips: pd.DataFrame,
        coalitions: Sequence[str],
        *,
        traces: bool = False,
        states: bool = False,
    ) -> pd.DataFrame:
        """Answers from the store, the missing ones asked first (``runner.evaluate``)."""
        return evaluate(
            self.model,
            clips,
            self.roots,
            coalitions,
            self.store,
            media=self.media,
            traces=traces,
            states=self.state_store if states else None,
            encodings=self.encodings,
            regions=self.region_store,
            batch_size=self.batch_size,
        )

    def states(self, clips: pd.DataFrame) -> RouterStates:
        """What a router reads of some clips, recorded where it was not yet."""
        self.predictions(clips, STATE_COALITIONS, traces=True, states=True)
        return self.state_store.read(clips["sample_id"])

    def steered(
        self, clips: pd.DataFrame, coalitions: Sequence[str], methods: Sequence[Method]
    ) -> pd.DataFrame:
        """Answers of steering methods from the store, the missing ones asked first."""
        return evaluate_methods(
            self.model,
            clips,
            self.roots,
            coalitions,
            methods,
            self.store,
            media=self.media,
            encodings=self.encodings,
            batch_size=self.batch_size,
        )

    def routes(self, method: Method) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """What a scored method's gate said in each layer (``PredictionStore.read_routes``)."""
        return self.store.read_routes(self.run_of(method))

    def run_of(self, method: Method) -> str:
        """Fingerprint of a steered run."""
        return steering_fingerprint(self.model, self.media, method)[0]

    def regions(
        self, clips: pd.DataFrame, settings: PersonSettings = PersonSettings()
    ) -> pd.DataFrame:
        """Where the person is in some clips' sampled frames, found where it was not yet.

        Rows of :meth:`RegionStore.find` with ``sample_id`` and ``corpus``.
        """
        rows = clips[["corpus", "video_path"]].itertuples(index=False)
        videos = [resolve_media(self.roots[corpus], path) for corpus, path in rows]
        found = self._regions(settings).find(videos, processes=processes_for("cpu"))
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
        self.regions(clips, settings)
        store = self._regions(settings)
        media = replace(self.media, person=PersonOnly(store.fingerprint, pixels, tokens, inverted))
        return replace(self, clips=clips, media=media, region_store=store, keep_encodings=False)

    def versions(self, clips: pd.DataFrame) -> str:
        """Digest of the run and of some clips' files and transcripts, as they are now."""
        plan = make_plan(clips, self.roots, ["TAV"], set(), max(1, len(clips)))
        items = sorted((i.sample_id, i.version) for batch in plan.batches for i in batch)
        return hashlib.sha256(json.dumps([self.fingerprint, items]).encode()).hexdigest()[:16]

    def inspect(self, clip: pd.Series, coalition: str) -> Inspection:
        """One clip of the manifest under one coalition, to be looked at under many steerings.

        Raises ``MediaError`` when its files cannot be read, or anything else fails at this clip.
        """
        plan = make_plan(clip.to_frame().T, self.roots, [coalition], set(), 1)
        reader = Reader(self.media, self.model.device, self.encodings, self.region_store)
        [item] = plan.batches[0]
        ready = readable(self.model, [reader(item)])
        if ready.failed:
            raise MediaError(f"{item.sample_id}: {ready.failed[0].prediction.failure}")
        try:
            return Inspection(self.model, ready.work[0][1])
        except BaseException as error:
            failure = Failure.of(error, ANSWERING, item.sample_id, REFUSALS)
            raise MediaError(f"{item.sample_id}: {failure.reason}") from error

    def traces(self) -> TraceTable:
        """Attention of all answers that were asked with ``traces``."""
        return self.store.read_traces(self.fingerprint)


def null_control(bench: Experiment, clips: int) -> Experiment:
    """The surrogate corpora again, ``clips`` of each, with an emphasis that says nothing.

    Labels, words, voices' and faces' readability are as before; a modality that has the ground
    truth's class is no longer expressed more clearly than another. Rendered where it is not yet,
    and with stores of its own.
    """
    roots = {corpus: root.parent.with_name(root.parent.name + "-null") / root.name
             for corpus, root in bench.roots.items()}  # fmt: skip
    for corpus, root in roots.items():
        render_corpus(root, corpus, SurrogateSettings(cue=CUES["null"]), limit=clips)
    there = with_media(bench.clips, roots, partial=True)
    store = PredictionStore(bench.store.path.with_name("predictions-null.sqlite"))
    return replace(bench, roots=roots, clips=there, store=store)


def open_experiment(
    profile: str,
    *,
    ch_sims_root: str,
    cmu_mosi_root: str,
    model: str,
    dtype: str,
    device: str,
    batch_size: int,
    num_frames: int,
    frame_pixels: Sequence[int] | None,
    max_audio_seconds: float,
    render_clips: int | None,
    keep_encodings: bool = False,
) -> Experiment:
    """The experiment that a profile's parameters describe; paths are relative to the project.

    ``model`` is a folder or a hub id. Where only ``render_clips`` clips were rendered, the others
    are left out; otherwise a missing file raises ``FileNotFoundError``.
    """
    folder = located(model)
    omni = OmniModel.load(
        folder if folder.is_dir() else model, dtype=dtype, device=device, pixels=frame_pixels
    )
    roots = {Corpus.CH_SIMS: located(ch_sims_root), Corpus.CMU_MOSI: located(cmu_mosi_root)}
    manifest = read_manifest(run_dir(profile) / "manifest.parquet")
    return Experiment(
        name=Path(model).name,
        model=omni,
        model_folder=folder,
        clips=with_media(manifest, roots, partial=render_clips is not None),
        roots=roots,
        media=MediaSettings(
            VideoSettings(num_frames), AudioSettings(max_seconds=max_audio_seconds)
        ),
        store=PredictionStore(cache_dir() / "predictions.sqlite"),
        batch_size=batch_size,
        keep_encodings=keep_encodings,
    )
