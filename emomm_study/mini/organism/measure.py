"""What is measured of every arm of the family, on clips put together from encoded faces and voices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from emomm_lib import (
    ConstantGate,
    SteeringConfig,
    TraceTable,
    conflict_target,
    gate_target,
    gtar_frame,
    interval_of,
    layer_shares,
    psmv_frame,
    replay,
)
from emomm_lib.labels import COALITIONS, MODALITIES, polarity
from emomm_lib.metrics.bootstrap import counted, ratio
from emomm_lib.metrics.pairs import pair_frame
from emomm_study.corpora.manifest import subset
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.knockout import Cut, cut_logits, cuts
from emomm_study.mini.model.decoder import EncodedBank, longer
from emomm_study.mini.organism.bank import assembled, beside_room
from emomm_study.mini.surrogate.observer import IdealObserver
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan, training_plan
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Computed, Encoded, Query

COLUMNS = ["measure", "subset", "what", "value", "low", "high", "n"]
LABELS = [f"label_{m.lower()}" for m in MODALITIES]
AT_ONCE = 24
"""Clips in a batch."""
MOMENTS, ROOMS = (1, 2, 4, 8), (1, 2, 4)
"""How many moments a video is made to have, and how many of another's room are appended."""


@dataclass(frozen=True)
class Material:
    """Clips to measure on.

    Attributes
    ----------
    plan
        A row a clip: ``align`` and ``conflict`` of the surrogate corpora, and ``held out`` of the
        kind that the decoder was trained on.
    clips
        The same after the towers.
    parts
        ``(N, moments, 8, 8)`` what part of the picture each token of their videos shows.
    """

    plan: pd.DataFrame
    clips: Sequence[Encoded]
    parts: NDArray[np.uint8]

    def only(self, chosen: Sequence[int], clips: Sequence[Encoded] | None = None) -> Material:
        """Some of it, or other clips in their place."""
        own = [self.clips[i] for i in chosen] if clips is None else clips
        plan = self.plan.iloc[list(chosen)].reset_index(drop=True)
        return Material(plan, own, self.parts[list(chosen)])


def planned(
    *, conflict: int = 1000, align: int = 500, held_out: int = 1000, seed: int = 7
) -> pd.DataFrame:
    """Clips of both corpora in equal parts, and others such as decoders are trained on."""
    settings = SurrogateSettings()
    chosen = []
    for corpus in Corpus:
        plan = corpus_plan(corpus, settings)
        plan["subset"] = subset(plan)
        for name, count in (("conflict", conflict), ("align", align)):
            own = plan[plan["subset"] == name]
            chosen.append(own.sample(count // 2, random_state=seed))
    fresh = training_plan(held_out, 424_244)
    fresh["sample_id"] = [f"held-out/{i}" for i in range(held_out)]
    return pd.concat([*chosen, fresh.assign(subset="held out")], ignore_index=True)


def material(
    bank: EncodedBank, parts: NDArray[np.uint8], plan: pd.DataFrame | None = None, seed: int = 7
) -> Material:
    """Planned clips, :func:`planned` by default, put together from faces and voices of a bank.

    ``parts`` are the bank's (:attr:`emomm_study.mini.model.bank.Bank.parts`).
    """
    plan = planned() if plan is None else plan
    clips, faces = assembled(bank, plan, seed)
    return Material(plan, clips, parts[faces])


def _queries(found: Material, at: Sequence[int], coalitions: Sequence[str]) -> list[Query]:
    rows = found.plan.iloc[list(at)].to_dict("records")
    made = []
    for i, clip in zip(at, rows, strict=True):
        own = found.clips[i]
        assert own.video is not None and own.audio is not None
        own = replace(own, video=own.video.float(), audio=own.audio.float())
        made += [Query(own, c, Corpus(clip["corpus"]), clip["text"]) for c in coalitions]
    return made


def _batches(places: Sequence[int], size: int = AT_ONCE) -> Iterator[list[int]]:
    for start in range(0, len(places), size):
        yield list(places[start : start + size])


def answered(
    backbone: Backbone, found: Material, coalitions: Sequence[str] = COALITIONS
) -> tuple[pd.DataFrame, NDArray[np.float32], NDArray[np.int64]]:
    """A row a clip and coalition with ``label_pred``, the attention ``(N, L, H, 3)`` and counts."""
    frames, masses, counts = [], [], []
    for at in _batches(range(len(found.plan))):
        queries = _queries(found, at, coalitions)
        label = np.empty(len(queries), np.int64)
        mass: list[NDArray | None] = [None] * len(queries)
        count: list[NDArray | None] = [None] * len(queries)
        for part in backbone.compute(queries, trace=True):
            label[part.rows] = backbone.letter_logits(part.hidden).argmax(-1).cpu().numpy()
            for row, own, many in zip(part.rows, part.trace.mass, part.trace.counts, strict=True):
                mass[row], count[row] = own.cpu().numpy(), many.cpu().numpy()
        rows = found.plan.iloc[np.repeat(at, len(coalitions))]
        frames.append(rows.assign(coalition=list(coalitions) * len(at), label_pred=label))
        masses.append(np.stack(mass))
        counts.append(np.stack(count))
    return pd.concat(frames, ignore_index=True), np.concatenate(masses), np.concatenate(counts)


def _scored(answers: pd.DataFrame) -> pd.DataFrame:
    truth, said = answers["label_gt"], answers["label_pred"]
    same = polarity(truth.to_numpy()) == polarity(said.to_numpy())
    return answers.assign(right=(truth == said).astype(float), right_polarity=same.astype(float))


def _row(measure: str, subset: str, what: str, values: NDArray) -> tuple:
    """A mean with its interval over clips."""
    found = interval_of(counted(np.asarray(values, float)[:, None]), ratio)
    return measure, subset, what, found.value, found.low, found.high, found.n


def outcome_measures(outcomes: pd.DataFrame, evidence: str = "answer") -> list[tuple]:
    """Accuracy, PSMV, GTAR, pairs and the gain of video from outcomes under all coalitions."""
    rows = []
    for name, part in outcomes.groupby("subset", sort=True):
        wide = part.pivot(index="sample_id", columns="coalition", values="right")
        rows += [_row("accuracy", name, c, wide[c].to_numpy()) for c in COALITIONS]
        if name != "held out":
            gain = (wide["TAV"] - wide["TA"]).to_numpy()
            rows.append(_row("gain of video", name, "TAV - TA", gain))
    known = outcomes[outcomes["subset"] != "held out"]
    for frame, measure in ((psmv_frame(known), "PSMV"), (gtar_frame(known), "GTAR")):
        for one in frame.to_dict("records"):
            named = f"{measure} {one['quantity']}" if "quantity" in one else measure
            where = one.get("subset", one.get("setting"))
            rows.append((named, where, one["modality"], *_values(one)))
    if evidence:
        alone = known[known["coalition"].isin(MODALITIES)].pivot(
            index="sample_id", columns="coalition", values="label_pred"
        )
        names = {m: f"{evidence}_{m.lower()}" for m in MODALITIES}
        both = known.merge(alone.rename(columns=names), left_on="sample_id", right_index=True)
        for one in pair_frame(both[both["subset"] == "conflict"], evidence).to_dict("records"):
            what = f"{one['first']} over {one['second']}, {one['coalition']}"
            rows.append(("pair preference", "conflict", what, *_values(one)))
    return rows


def _values(one: Mapping) -> tuple:
    return tuple(one[name] for name in ("value", "low", "high", "n"))


def attention_measures(
    answers: pd.DataFrame, mass: NDArray, counts: NDArray, first_layer: int
) -> list[tuple]:
    """Shares of nMAS under TAV, mean over the layers from l_r on."""
    rows = []
    for name in ("align", "conflict"):
        at = ((answers["subset"] == name) & (answers["coalition"] == "TAV")).to_numpy()
        frame = answers.loc[at, ["sample_id", "coalition"]].reset_index(drop=True)
        table = TraceTable(frame, mass[at], counts[at])
        shares = layer_shares(table)[:, first_layer - 1 :].mean(1)
        rows += [_row("nMAS share", name, m, shares[:, i]) for i, m in enumerate(MODALITIES)]
    return rows


def _prompts(
    backbone: Backbone, found: Material, at: Sequence[int]
) -> Iterator[tuple[list[int], Computed]]:
    """Prefilled TAV prompts of some clips, with the places of their clips."""
    for own in _batches(at):
        for part in backbone.compute(_queries(found, own, ["TAV"]), states=True):
            yield [own[row] for row in part.rows], part.shortened()


def knockout_measures(backbone: Backbone, found: Material) -> list[tuple]:
    """Share of conflicts whose answer changes when reading is cut, by layer and modality.

    ``decision`` cuts what the decision query reads of all three from a layer on, or of one from
    layer 1 on; ``instruction`` what the instruction's tokens read in any layer.
    """
    at = np.flatnonzero((found.plan["subset"] == "conflict").to_numpy()).tolist()
    asked = cuts(backbone.layers)
    changed = []
    for own, part in _prompts(backbone, found, at):
        plain = backbone.letter_logits(part.hidden).argmax(-1, keepdim=True)
        queries = _queries(found, own, ["TAV"])
        said = cut_logits(backbone, queries, part, asked).argmax(-1)
        changed.append((said != plain).cpu().numpy())
    return [
        _row("answers changed by a knockout", "conflict", _named(cut), values)
        for cut, values in zip(asked, np.concatenate(changed).T, strict=True)
    ]


def _named(cut: Cut) -> str:
    if cut.queries == "instruction":
        return "instruction, all layers"
    return f"{cut.name} from {cut.first_layer or 1}"


def swap_measures(
    backbone: Backbone, found: Material, answers: pd.DataFrame, seed: int = 3
) -> list[tuple]:
    """Own video against another clip's of the same corpus: gain in accuracy, answers changed."""
    rng = np.random.default_rng(seed)
    chosen = found.plan[found.plan["subset"].isin(["align", "conflict"])]
    other = {}
    for _, part in chosen.groupby("corpus"):
        order = rng.permutation(part.index)
        other |= dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    at = chosen.index.tolist()
    clips = [replace(found.clips[i], video=found.clips[other[i]].video) for i in at]
    swapped = found.only(at, clips)
    said = _scored(answered(backbone, swapped, ["TAV"])[0]).set_index("sample_id")
    own = answers[answers["coalition"] == "TAV"].set_index("sample_id").loc[said.index]
    rows = []
    for name in ("align", "conflict"):
        here = (said["subset"] == name).to_numpy()
        gain = (own["right"] - said["right"]).to_numpy()[here]
        moved = (own["label_pred"] != said["label_pred"]).to_numpy()[here]
        rows.append(_row("gain of video", name, "own - another's", gain))
        rows.append(_row("answers changed by another's video", name, "TAV", moved))
    return rows


def redundancy_measures(backbone: Backbone, found: Material, answers: pd.DataFrame) -> list[tuple]:
    """Gain of video, and how often its label is answered, by how many tokens say nothing new.

    Moments that repeat the video's own, and moments that show another's room alone.
    """
    at = np.flatnonzero((found.plan["subset"] == "conflict").to_numpy()).tolist()
    videos = {f"{n} moments": [longer(found.clips[i], n) for i in at] for n in MOMENTS}
    others = np.roll(at, 1).tolist()
    for n in ROOMS:
        videos[f"2 moments, {n} of a room"] = [
            beside_room(found.clips[i], found.clips[k], found.parts[k], n)
            for i, k in zip(at, others, strict=True)
        ]
    without = answers[answers["coalition"] == "TA"].set_index("sample_id")["right"]
    rows = []
    for name, clips in videos.items():
        said = _scored(answered(backbone, found.only(at, clips), ["TAV"])[0])
        gain = said["right"].to_numpy() - without.loc[said["sample_id"]].to_numpy()
        follows = (said["label_pred"] == said["label_v"]).to_numpy()
        rows.append(_row("gain of video by redundancy", "conflict", name, gain))
        rows.append(_row("answers that are the video's", "conflict", name, follows))
    return rows


def steering_settings(layers: int) -> dict[str, SteeringConfig]:
    """CHASE as published, with the preference as a share, and from layer 1 on all heads."""
    published = SteeringConfig.at_published_depth(layers)
    deep = replace(published, first_layer=1, top_k=8)
    return {
        "published": published,
        "published, share": replace(published, preference="share"),
        "l_r 1, K 8": deep,
        "l_r 1, K 8, gamma 4": replace(deep, gamma=4.0),
        "l_r 1, K 8, share": replace(deep, preference="share"),
    }


def _gates(plan: pd.DataFrame, seed: int) -> dict[str, ConstantGate]:
    labels, truth = plan[LABELS].to_numpy(), plan["label_gt"].to_numpy()
    there = np.ones(labels.shape, bool)
    rng = np.random.default_rng([seed, len(plan)])
    n = len(plan)
    values = {
        "oracle": (
            conflict_target(truth, labels, there, "label"),
            gate_target(truth, labels, there, "label"),
        ),
        "random": (rng.random(n), rng.dirichlet(np.ones(3), n)),
        "even": (np.ones(n), np.full((n, 3), 1 / 3)),
    }
    return {
        name: ConstantGate(*(torch.from_numpy(x.astype(np.float32)) for x in pair))
        for name, pair in values.items()
    }


def steering_measures(backbone: Backbone, found: Material, seed: int = 0) -> list[tuple]:
    """Gains in accuracy by gates that need no training, each with several settings."""
    at = np.flatnonzero(found.plan["subset"].isin(["align", "conflict"]).to_numpy())
    configs = steering_settings(backbone.layers)
    names = [
        f"{setting}, {gate} gate" for setting in configs for gate in ("oracle", "random", "even")
    ]
    gained = np.zeros((len(found.plan), len(names)))
    for own, part in _prompts(backbone, found, at.tolist()):
        plan = found.plan.iloc[own]
        gates = _gates(plan, seed)
        columns = [(gate, config) for config in configs.values() for gate in gates.values()]
        replayed, _ = replay(part, columns)
        truth = torch.tensor(plan["label_gt"].to_numpy())
        plain = backbone.letter_logits(part.hidden).argmax(-1).cpu() == truth
        said = backbone.letter_logits(replayed.hidden).argmax(-1).cpu() == truth[:, None]
        gained[own] = (said.float() - plain[:, None].float()).numpy()
    where = found.plan["subset"].to_numpy()
    return [
        _row("gain of steering", name, column, gained[where == name, i])
        for name in ("align", "conflict")
        for i, column in enumerate(names)
    ]


def measured(backbone: Backbone, found: Material) -> pd.DataFrame:
    """All measures of one model, a row each: ``measure, subset, what, value, low, high, n``."""
    answers, mass, counts = answered(backbone, found)
    answers = _scored(answers)
    first = SteeringConfig.at_published_depth(backbone.layers).first_layer
    rows = outcome_measures(answers)
    rows += attention_measures(answers, mass, counts, first)
    rows += swap_measures(backbone, found, answers)
    rows += redundancy_measures(backbone, found, answers)
    rows += knockout_measures(backbone, found)
    rows += steering_measures(backbone, found)
    return pd.DataFrame(rows, columns=COLUMNS)


def observed(plan: pd.DataFrame) -> pd.DataFrame:
    """The same of the ideal observer that knows training clips alone, as far as it has them."""
    outcomes = IdealObserver().outcomes(plan)
    return pd.DataFrame(outcome_measures(outcomes, evidence=""), columns=COLUMNS)
