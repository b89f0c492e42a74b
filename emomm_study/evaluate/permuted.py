"""What of a gate's gain is the clip's own: steered by its gate, or by that of a clip like it.

A router sees the states of the very prompt that it steers, and from the second steered layer on it
sees what steering made of them. Another clip's gate cannot be had that way, so both sides of the
contrast are recorded on the unsteered model and said again by layer: they differ in whose gate it
is and in nothing else. What asking online adds to a recording is measured beside it. Where only the
decision query is steered it comes by h_q and pi of later layers alone: there is none in the first
steered layer, and none for a router of embedded means.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from emomm_lib import Bootstrap, Router, RouterStates, equivalence_frame, intervals_of, routed
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, counted, means
from emomm_lib.metrics.outcomes import row
from emomm_lib.metrics.paired import KEYS, MARGIN
from emomm_study.evaluate.gates import GateByLayer
from emomm_study.evaluate.methods import Batch, CrossFitted, GateSource, Method, Routed
from emomm_study.evaluate.partners import partners
from emomm_study.evaluate.protocol import Study, baseline
from emomm_study.evaluate.protocol.fit import rows_of
from emomm_study.evaluate.protocol.score import WHOLE
from emomm_study.evaluate.results import by_subset, join


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was said of N prompts in an unsteered pass, said again whatever steering makes of them.

    Attributes
    ----------
    index
        N rows ``sample_id, coalition``, none twice.
    conflict, trust
        ``(N, L)`` p and ``(N, L, 3)`` g in every layer of the decoder.
    """

    index: pd.DataFrame
    conflict: Tensor
    trust: Tensor

    @classmethod
    def of(cls, source: Routed | CrossFitted, states: RouterStates) -> Recorded:
        """By a router, or for each clip by the one of several that never saw it.

        In all layers, since a router that steers is asked in any. Raises ``KeyError`` for a clip
        without a fold.
        """
        if isinstance(source, Routed):
            source = CrossFitted([source.router], dict.fromkeys(states.index["sample_id"], 0))
        fold = np.array([source.fold[name] for name in states.index["sample_id"]])
        conflict = torch.empty(states.query_state.shape[:2])
        gate = torch.empty(*conflict.shape, len(MODALITIES))
        for number in np.unique(fold):
            own = torch.from_numpy(np.flatnonzero(fold == number))
            router = _in_all_layers(source.routers[number])
            conflict[own], gate[own] = routed(router, states.take(own))
        return cls(states.index, conflict, gate)

    @cached_property
    def place(self) -> Mapping[tuple[str, str], int]:
        """Where each prompt stands, by (sample_id, coalition)."""
        return {key: i for i, key in enumerate(_keys(self.index))}

    def gate(self, batch: Batch) -> GateByLayer:
        """Raises ``LookupError`` that names a prompt which was not recorded."""
        asked = _keys(batch.clips)
        if absent := [key for key in asked if key not in self.place]:
            raise LookupError(
                f"no gate was recorded of {' '.join(absent[0])} ({len(absent)} such prompts); "
                "record states of these clips, under two modalities or more"
            )
        rows, device = torch.tensor([self.place[key] for key in asked]), batch.present.device
        return GateByLayer(self.conflict[rows].to(device), self.trust[rows].to(device))

    def settings(self) -> dict:
        digest = hashlib.sha256(self.index[KEYS].to_csv(index=False).encode())
        for said in (self.conflict, self.trust):
            digest.update(said.numpy().tobytes())
        return {"recorded": digest.hexdigest()[:16]}


@dataclass(frozen=True, eq=False)
class Permuted:
    """The recorded gate of another clip of the same stratum, under the same coalition.

    Attributes
    ----------
    stratum
        Of each clip, by sample_id (:func:`strata`). Who is alone in it keeps its own gate.
    seed
        Draws who takes whose: each gate of a stratum goes to one other clip.
    """

    source: Recorded
    stratum: Mapping[str, Hashable]
    seed: int = 0

    @cached_property
    def donors(self) -> NDArray[np.int64]:
        """``(N,)`` whose gate each recorded prompt takes, as a place among them."""
        place, index = self.source.place, self.source.index
        found = np.arange(len(index))
        for coalition, own in index.groupby("coalition"):
            group = {name: self.stratum[name] for name in own["sample_id"]}
            for name, other in partners(group, self.seed).items():
                found[place[name, coalition]] = place[other, coalition]
        return found

    @property
    def kept(self) -> set[str]:
        """Clips that keep their own gate under some coalition."""
        alone = self.donors == np.arange(len(self.donors))
        return set(self.source.index["sample_id"][alone])

    @cached_property
    def _said(self) -> Recorded:
        rows = torch.from_numpy(self.donors)
        return replace(
            self.source, conflict=self.source.conflict[rows], trust=self.source.trust[rows]
        )

    def gate(self, batch: Batch) -> GateByLayer:
        return self._said.gate(batch)

    def settings(self) -> dict:
        return self._said.settings()


def strata(clips: pd.DataFrame, single: pd.DataFrame) -> dict[str, str]:
    """Clips of a corpus of which the model itself says the same under T, A and V alone.

    ``single`` are its answers there. By sample_id, ``ch_sims_v2 014``; a clip without one of the
    three answers has a stratum of its own.
    """
    alone = single[single["coalition"].isin(MODALITIES)]
    said = alone.pivot(index="sample_id", columns="coalition", values="label")
    said = said.reindex(columns=list(MODALITIES)).dropna().astype(int).astype(str)
    known = said.agg("".join, axis=1).to_dict()
    pairs = zip(clips["sample_id"], clips["corpus"], strict=True)
    return {name: f"{corpus} {known[name]}" if name in known else name for name, corpus in pairs}


def parts_of_gain(
    unsteered: pd.DataFrame,
    online: pd.DataFrame,
    own: pd.DataFrame,
    permuted: Sequence[pd.DataFrame],
    by: str = "subset",
    *,
    margin: float = MARGIN,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """A gain in Acc-5 by where it comes from, with intervals over clips and a verdict on each part.

    ``stratum`` is what the gates of other clips of the stratum gain over no steering, in the mean
    over permutations; ``clip`` what a clip's own recorded gate gains over them; ``online`` what the
    router gains over its recording, since it sees the steered states. The three add up to the gain,
    ``all``. Frames are scored instances; those that any of them lacks are left out of all. Returns
    ``by, part, value, low, high, n, equivalent, verdict`` (:func:`emomm_lib.equivalence_frame`).
    Raises ``ValueError`` where no instance is common to all.
    """
    frames = [unsteered, online, own, *permuted]
    right = [_right(frame) for frame in frames]
    table = pd.concat(right, axis=1, join="inner", keys=range(len(right))).sort_index()
    if not len(table):
        raise ValueError("no instance was answered in every way; ask them about the same clips")
    plain, routed_, recorded, *others = table.to_numpy().T
    other = np.mean(others, axis=0)
    parts = {
        "stratum": other - plain,
        "clip": recorded - other,
        "online": routed_ - recorded,
        "all": routed_ - plain,
    }
    values = pd.DataFrame(parts, index=table.index)
    group = own.set_index(KEYS)[by].loc[table.index]

    def measure(drawn: Bootstrap) -> pd.DataFrame:
        rows = []
        for name, part in values.groupby(group):
            clips = part.index.get_level_values("sample_id")
            found = intervals_of(counted(part), means, clusters=clips, bootstrap=drawn)
            rows += [(name, p, *row(i)) for p, i in zip(parts, found, strict=True)]
        return pd.DataFrame(rows, columns=[by, "part", "value", "low", "high", "n"])

    return equivalence_frame(measure, margin, bootstrap=bootstrap)


def permuted_null(
    study: Study,
    methods: Sequence[Method],
    permutations: int = 5,
    *,
    margin: float = MARGIN,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """:func:`parts_of_gain` of methods that name a kind of router, cross-fitted on whole clips.

    A clip takes the gates of other clips of its corpus of which the model says the same under T, A
    and V alone (:func:`strata`): what is left of a gain is then not what these tell. Their routers
    may be those of other folds. Columns ``method, kept``, how many clips of the subset keep their
    own gate since they are alone in their stratum, and those of :func:`parts_of_gain`. Raises
    ``ValueError`` without a permutation.
    """
    if permutations < 1:
        raise ValueError(f"a null needs at least one permutation; got {permutations}")
    clips = study.crossed_clips
    states = study.states.take(rows_of(study.states, clips))
    states = states.take(np.flatnonzero(states.index["coalition"].isin(WHOLE)))
    alike = strata(clips, study.bench.predictions(clips, MODALITIES))

    @cache
    def ways(source: CrossFitted) -> list[GateSource]:
        said = Recorded.of(source, states)
        return [source, said, *(Permuted(said, alike, study.seed + i) for i in range(permutations))]

    asked = [
        replace(method, source=source, importance="attention", protocol="permuted", variant=i)
        for method in study.trained(methods, crossed=True)
        for i, source in enumerate(ways(method.source))
    ]

    def measure() -> pd.DataFrame:
        return _parts_by_method(study, clips, asked, margin, bootstrap)

    return study.remembered("permuted", clips, asked, measure, str(margin), repr(bootstrap))


def _parts_by_method(
    study: Study,
    clips: pd.DataFrame,
    asked: Sequence[Method],
    margin: float,
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    answers = study.bench.steered(clips, WHOLE, asked)
    plain = baseline(study, clips, WHOLE)
    alone = clips["sample_id"].isin(asked[-1].source.kept)
    kept = alone.groupby(clips["subset"]).sum().rename("kept")
    found = []
    for name, of_method in answers.groupby("method", sort=False):
        scored = [
            by_subset(join(clips.assign(coalition="TAV"), own)[0])
            for _, own in of_method.groupby("variant")
        ]
        parts = parts_of_gain(
            plain, scored[0], scored[1], scored[2:], margin=margin, bootstrap=bootstrap
        )
        found.append(parts.merge(kept, on="subset").assign(method=name))
    return pd.concat(found, ignore_index=True)


def _keys(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return list(frame[KEYS].itertuples(index=False, name=None))


def _in_all_layers(router: Router) -> Router:
    """The same router, whose first layer is the decoder's."""
    other = copy.copy(router)
    other.first_layer = 1
    return other


def _right(scored: pd.DataFrame) -> pd.Series:
    return scored.set_index(KEYS).eval("label_pred == label_gt").astype(float)
