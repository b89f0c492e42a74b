"""One experiment's split, and the routers that are trained on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.router import Router
from emomm_lib.chase.targets import gate_target
from emomm_lib.chase.training import RouterStates, RouterTargets, TrainingSettings
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import ByCorpus, CrossFitted, Method, Routed, with_routers
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.protocol.cross_fit import FOLDS, cross_fit, speaker_folds
from emomm_study.evaluate.protocol.fit import fit_router, rows_of, side_by_side
from emomm_study.evaluate.remembered import remembered
from emomm_study.paths import cache_dir

PUBLISHED, LINEAR, EMBEDDED = "published", "linear", "embedded"
"""Routers: the paper's with the MLPs of Sec. 6.1, the same with the linear maps that Eq. 7 and 8 print,
and one that reads the modalities as they enter the decoder."""


@dataclass(frozen=True, eq=False)
class Study:
    """Splits and routers of one experiment; all that is slow is kept on disk.

    Attributes
    ----------
    bench
        The experiment, its clips with ``split``.
    states
        What a router reads of all clips.
    seed
        Of folds and routers (these count upwards from it).
    """

    bench: Experiment
    states: RouterStates
    seed: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the run, and of all clips with their labels and splits."""
        made_of = [self.bench.fingerprint, self.bench.clips.to_csv(index=False)]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]

    @property
    def layers(self) -> int:
        return self.bench.model.layers

    @property
    def heads(self) -> int:
        return self.bench.model.heads

    @property
    def base(self) -> SteeringConfig:
        """The published configuration at this decoder's depth."""
        return SteeringConfig.at_published_depth(self.layers)

    @property
    def folder(self) -> Path:
        return cache_dir() / "routers"

    def split(self, name: str) -> pd.DataFrame:
        """Clips of ``train``, ``valid`` or ``test``."""
        clips = self.bench.clips
        return clips[clips["split"] == name]

    @cached_property
    def crossed_clips(self) -> pd.DataFrame:
        """Every clip on which nothing was chosen: all but the validation split."""
        return self.bench.clips[self.bench.clips["split"] != "valid"]

    def settings(self, kind: str, **changes) -> TrainingSettings:
        """How a kind of router is trained; the published kinds with the paper's values."""
        if kind == LINEAR:
            changes = {"hidden": 0} | changes
        if kind == EMBEDDED:
            embedded = {
                "first_layer": 1, "inputs": "embedded", "standardize": True,
                "learning_rate": 1e-3, "batch_size": 128,
            }  # fmt: skip
            changes = embedded | changes
        given = {"first_layer": self.base.first_layer, "seed": self.seed} | changes
        return TrainingSettings(**given)

    def router(self, kind: str, **changes) -> tuple[Router, pd.DataFrame]:
        """A router trained on the training split, and its history; kept on disk."""
        return fit_router(
            self.bench.model,
            self.states,
            self.split("train"),
            self.settings(kind, **changes),
            self.folder,
            valid=self.split("valid"),
        )

    def routers(self, kind: str, seeds: int) -> list[tuple[Router, pd.DataFrame]]:
        """The same router trained from several seeds, counting upwards from the study's."""
        wanted = range(self.seed, self.seed + seeds)
        processes = processes_for(self.bench.model.device)
        return side_by_side(lambda seed: self.router(kind, seed=seed), wanted, processes)

    @cached_property
    def fold(self) -> pd.Series:
        """Fold of each cross-fitted clip, by sample_id; as many as there are speakers, at most five."""
        clips = self.crossed_clips
        return speaker_folds(clips, min(FOLDS, clips["speaker_id"].nunique()), seed=self.seed)

    def crossed(self, kind: str) -> CrossFitted:
        """Routers of which each is asked about speakers that it never saw.

        Each is trained on the other folds and on the validation split.
        """
        routers = cross_fit(
            self.bench.model,
            self.states,
            self.bench.clips,
            self.fold,
            self.settings(kind),
            self.folder,
        )
        return CrossFitted(routers, self.fold.to_dict())

    def corpus_gate(self) -> ByCorpus:
        """What is right most often in a corpus, and nothing of the clip: the mean of g* (Eq. 9).

        Of whole clips of the other folds and the validation split, as :meth:`crossed` trains routers.
        """
        clips = self.bench.clips
        labels = clips[["label_t", "label_a", "label_v"]].to_numpy()
        there = np.ones(labels.shape, bool)
        wanted = gate_target(clips["label_gt"].to_numpy(), labels, there, "label")
        own = clips["sample_id"].map(self.fold)
        said = {}
        for corpus in clips["corpus"].unique():
            for number in sorted(set(self.fold)):
                seen = (clips["corpus"] == corpus) & (own != number)
                mean = wanted[seen.to_numpy()].mean(0) if seen.any() else np.full(3, 1 / 3)
                said[str(corpus), int(number)] = tuple(float(part) for part in mean)
        return ByCorpus(said, self.fold.to_dict())

    def targets(self, clips: pd.DataFrame) -> tuple[RouterStates, RouterTargets]:
        """States of some clips' prompts, and what a router should say of them."""
        part = self.states.take(rows_of(self.states, clips))
        return part, RouterTargets.of(part, clips)

    def trained(self, methods: Sequence[Method], *, crossed: bool = False) -> list[Method]:
        """Methods with a router for each kind that they name, of the training split or cross-fitted."""
        router_of = cache(self.crossed if crossed else lambda kind: Routed(self.router(kind)[0]))
        return [replace(m, source=with_routers(m.source, router_of)) for m in methods]

    def on(self, bench: Experiment) -> Study:
        """The same on other clips, with routers of their own."""
        return replace(self, bench=bench, states=bench.states(bench.clips))

    def remembered(
        self,
        name: str,
        clips: pd.DataFrame,
        methods: Sequence[Method],
        make: Callable[[], pd.DataFrame],
        *more: str,
    ) -> pd.DataFrame:
        """A table made of these methods' answers on these clips, or as it was made before."""
        runs = [json.dumps([*m.key, self.bench.run_of(m)]) for m in methods]
        labels = clips.to_csv(index=False)
        return remembered(name, [*runs, self.bench.versions(clips), labels, *more], make)
