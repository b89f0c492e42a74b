"""Case studies of Appendix F: instances named by a rule, and what the model does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax
from statsmodels.stats.proportion import proportion_confint

from emomm_lib.chase.equations import PUBLISHED_LAYERS, SteeringConfig
from emomm_lib.chase.gates import Gate
from emomm_lib.labels import MODALITIES, coalition_modalities, polarity
from emomm_lib.metrics.reference import LOGITS
from emomm_study.corpora.manifest import missing_subset, subset
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.inspection import Inspection, Look
from emomm_study.evaluate.methods import Method
from emomm_study.evaluate.protocol import BASELINE, PUBLISHED, Study, baseline, on_test

PAPERS_LAYERS = (13, 17, 21, 26, 28)
"""Layers that Tables 7 and 8 show, of 28."""
METHODS = {
    "CHASE": "the paper's method, psi-hat and P chosen on the validation split",
    "CHASE, tuned": "the paper's router and equations, hyperparameters chosen on the validation "
    "split",
}
"""Methods that cases may be about, all of the paper's router."""
WORDS = {"T": "text", "A": "audio", "V": "video"}


def at_depth(layer: int, depth: int) -> int:
    """The layer at the same fraction of another depth as ``layer`` of 28, counted from 1.

    ``at_depth(13, 8) == 4``; ``ValueError`` for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"a decoder has at least one layer; got a depth of {depth}")
    return max(1, round(depth * layer / PUBLISHED_LAYERS))


def shown_layers(depth: int) -> tuple[int, ...]:
    """The layers of Tables 7 and 8 at the same fractions of a decoder's depth, each once.

    ``shown_layers(8) == (4, 5, 6, 7, 8)``.
    """
    return tuple(dict.fromkeys(at_depth(layer, depth) for layer in PAPERS_LAYERS))


@dataclass(frozen=True)
class Rule:
    """Which instance of the test split becomes a case.

    Attributes
    ----------
    name
        For file names: ``conflict``, ``no_audio``.
    coalition
        What is visible.
    harmed
        Whether steering makes the answer wrong; else it makes it right.
    """

    name: str
    coalition: str
    harmed: bool = False

    @property
    def title(self) -> str:
        """``conflict, repaired`` or ``audio missing, repaired``."""
        absent = [WORDS[m] for m in MODALITIES if m not in self.coalition]
        what = f"{absent[0]} missing" if absent else "conflict"
        return f"{what}, {'harmed' if self.harmed else 'repaired'}"

    def sentence(self, method: str) -> str:
        """The rule in words."""
        before, after = "the right class", "the wrong polarity"
        if not self.harmed:
            before, after = after, before
        words = [WORDS[m] for m in self.coalition]
        return (
            f"Of the test split's instances that show {', '.join(words[:-1])} and {words[-1]}, one "
            "or more of them against the ground truth's polarity, and to which the unsteered model "
            f"gives {before} and “{method}” {after}: of those whose change in the probability of the "
            f"ground truth's class lies within {100 * AROUND:g} points of the median change, the "
            "first by name."
        )

    def matches(self, pairs: pd.DataFrame) -> np.ndarray:
        """Which rows of :func:`answer_pairs` the rule may choose from, bool."""
        truth = pairs["label_gt"].to_numpy()
        before, after = (pairs[f"label_{which}"].to_numpy() for which in (BASELINE, "steered"))
        if self.harmed:
            before, after = after, before
        wrong = polarity(before) != polarity(truth)
        return self.conflicting(pairs) & wrong & (after == truth)

    def conflicting(self, pairs: pd.DataFrame) -> np.ndarray:
        """Rows of the rule's coalition of which a visible modality conflicts, bool."""
        kinds = subset(pairs) if self.coalition == "TAV" else missing_subset(pairs, self.coalition)
        return (
            pairs["coalition"].eq(self.coalition) & kinds.isin(["conflict", "missing_conflict"])
        ).to_numpy()


AROUND = 0.05
"""How far from the median change a chosen instance's may be, as a probability."""
RULES = (
    Rule("conflict", "TAV"),
    Rule("no_audio", "TV"),
    Rule("no_video", "TA"),
    Rule("no_text", "AV"),
    Rule("harmed", "TAV", harmed=True),
)
"""Table 7's kind, Table 8's kind, one case for each other missing modality, and a failure."""


def answer_pairs(baseline: pd.DataFrame, steered: pd.DataFrame) -> pd.DataFrame:
    """Scored instances unsteered and steered in one row, by (sample_id, coalition).

    Columns of the manifest, ``coalition``, and for ``baseline`` and ``steered`` ``label_*, score_*,
    p_*`` (probability of the ground truth's class among A..E), and ``change``, p_steered less
    p_baseline. Both frames are by :func:`emomm_study.evaluate.results.join`; an instance that is
    not in both is left out. Raises ``ValueError`` for an answer without letter logits.
    """
    keys, made = ["sample_id", "coalition"], ["label_pred", "score_pred", *LOGITS]
    parts = {BASELINE: baseline, "steered": steered}
    pairs = baseline.drop(columns=[*made, "subset", "method"], errors="ignore")
    for name, frame in parts.items():
        logits = frame[[*LOGITS]].to_numpy(float)
        if np.isnan(logits).any():
            first = frame[np.isnan(logits).any(1)].iloc[0]
            raise ValueError(
                f"{name}: the answer to {first['sample_id']} {first['coalition']} has no letter "
                "logits, so its probability is not known; take a model that gives them"
            )
        truth = frame["label_gt"].to_numpy()
        own = frame[keys].assign(
            **{
                f"label_{name}": frame["label_pred"],
                f"score_{name}": frame["score_pred"],
                f"p_{name}": softmax(logits, axis=1)[np.arange(len(frame)), truth],
            }
        )
        pairs = pairs.merge(own, on=keys, validate="one_to_one")
    return pairs.assign(change=pairs["p_steered"] - pairs[f"p_{BASELINE}"])


def choose_case(pairs: pd.DataFrame, rule: Rule) -> pd.Series | None:
    """The row of :func:`answer_pairs` that a rule names, None where none satisfies it.

    Of those whose ``change`` lies within :data:`AROUND` of the median, the first by sample_id, so
    that answers which differ a little name the same one.
    """
    fitting = pairs[rule.matches(pairs)]
    near = fitting[_from_median(fitting) <= AROUND].sort_values("sample_id")
    return None if near.empty else near.iloc[0]


def _from_median(fitting: pd.DataFrame) -> pd.Series:
    # The lower median, which is one of them: with an even number the mean of two may be near none.
    middle = fitting["change"].quantile(0.5, interpolation="lower")
    return (fitting["change"] - middle).abs()


def _on_edge(pairs: pd.DataFrame, rule: Rule) -> bool:
    """Whether a rule would name another instance with a window a tenth wider or narrower, or if any
    other instance than the named one did not fit."""
    fitting = pairs[rule.matches(pairs)].sort_values("sample_id")

    def named(rows: pd.DataFrame, window: float) -> str:
        return rows[_from_median(rows) <= window]["sample_id"].iloc[0]

    chosen = named(fitting, AROUND)
    found = {named(fitting, by * AROUND) for by in (0.9, 1.1)}
    others = [i for i in fitting.index if fitting.at[i, "sample_id"] != chosen]
    found |= {named(fitting.drop(index=i), AROUND) for i in others}
    return found != {chosen}


def rule_counts(pairs: pd.DataFrame, rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """How many instances each rule could choose from: ``case, coalition, fitting, among``.

    ``among`` are those of the coalition in which a visible modality conflicts. ``value, low, high,
    n`` are the share that fits with its 95% interval (Wilson's), and ``edge`` is ``yes`` where a
    slightly wider or narrower window around the median would name another instance.
    """
    rows = []
    for rule in rules:
        fitting, among = int(rule.matches(pairs).sum()), int(rule.conflicting(pairs).sum())
        low, high = proportion_confint(fitting, among, method="wilson") if among else (None, None)
        edge = "yes" if fitting and _on_edge(pairs, rule) else ""
        share = fitting / among if among else None
        rows.append((rule.title, rule.coalition, fitting, among, share, low, high, among, edge))
    columns = ["case", "coalition", "fitting", "among", "value", "low", "high", "n", "edge"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, eq=False)
class Answer:
    """One method's answer to a case.

    Attributes
    ----------
    label, score, p_truth
        Class 0..4, score, and probability of the ground truth's class, as stored.
    look
        The same prompt computed again, with its attention.
    on_video
        ``(L, t, h, w)`` attention of the decision query on video tokens, mean over heads; None
        without video.
    """

    label: int
    score: float
    p_truth: float
    look: Look
    on_video: np.ndarray | None

    def mean_on_video(self, layers: Sequence[int]) -> np.ndarray:
        """``(t, h, w)`` mean over some layers, counted from 1 (Figure 12)."""
        if self.on_video is None:
            raise ValueError("this answer is to a prompt without video; choose a case that shows V")
        return self.on_video[np.array(layers) - 1].mean(0)


@dataclass(frozen=True)
class NoCase:
    """Stands where a case would, when no instance satisfies its rule."""

    rule: Rule
    method: str
    among: int

    @property
    def sentence(self) -> str:
        return (
            f"No case: none of {self.among:,} instances satisfies the rule. "
            f"{self.rule.sentence(self.method)}"
        )


@dataclass(frozen=True, eq=False)
class Case:
    """An instance that a rule named, and what the model does with it.

    Attributes
    ----------
    method
        The steering that the rule is about, a key of ``answers``.
    clip
        The manifest's row.
    fitting, among
        Instances that satisfy the rule, of those in which a visible modality conflicts.
    answers
        By method, ``baseline`` among them.
    tau
        Conflict threshold of ``method``: layers with p above it are steered.
    importance
        ``(t, h, w)`` I_k of the video's tokens (Eq. 24), None without video.
    """

    rule: Rule
    method: str
    clip: pd.Series
    fitting: int
    among: int
    answers: Mapping[str, Answer]
    tau: float
    importance: np.ndarray | None

    @property
    def baseline(self) -> Answer:
        return self.answers[BASELINE]

    @property
    def steered(self) -> Answer:
        return self.answers[self.method]

    @property
    def present(self) -> tuple[str, ...]:
        """Visible modalities."""
        return coalition_modalities(self.rule.coalition)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers to show, counted from 1."""
        return shown_layers(len(self.baseline.look.share))

    def is_right(self, answer: Answer) -> bool:
        """Whether an answer has the ground truth's class."""
        return answer.label == self.clip["label_gt"]

    def agreement(self) -> dict[str, str]:
        """Of each visible modality's label: ``class`` (GT's), ``polarity`` only, or ``conflict``.

        Eq. 9 asks for the class, the subsets of Sec. 3.2 for the polarity.
        """
        found, truth = {}, self.clip["label_gt"]
        for m in self.present:
            own = self.clip[f"label_{m.lower()}"]
            same = "polarity" if polarity(own) == polarity(truth) else "conflict"
            found[m] = "class" if own == truth else same
        return found

    def budget_change(self, answer: Answer) -> np.ndarray:
        """``(3,)`` share of T, A, V less the baseline's, mean over the shown layers."""
        rows = np.array(self.layers) - 1
        return (answer.look.share[rows] - self.baseline.look.share[rows]).mean(0)


def case_pairs(study: Study, configs: Mapping[str, SteeringConfig]) -> dict[str, pd.DataFrame]:
    """By method, the test split's :func:`answer_pairs` from stored answers.

    ``configs`` are the configurations of methods with the paper's router, by name.
    """
    reference = baseline(study, study.split("test"))
    methods = [Method(name, PUBLISHED, config) for name, config in configs.items()]
    return {name: answer_pairs(reference, own) for name, own in on_test(study, methods).items()}


def find_cases(
    study: Study,
    configs: Mapping[str, SteeringConfig],
    method: str,
    rules: Sequence[Rule] = RULES,
) -> list[Case | NoCase]:
    """A case for each rule from the study's stored answers on the test split.

    ``configs`` as for :func:`case_pairs`; ``method`` is one of their names, and the answers of all
    of them are in each case. Raises ``ValueError`` for another one.
    """
    if method not in configs:
        raise ValueError(f"cases are shown of one of {[*configs]}; got {method!r}")
    pairs = case_pairs(study, configs)
    router = study.router(PUBLISHED)[0]
    columns = {name: (router, config) for name, config in configs.items()}
    return [_case(study.bench, rule, method, pairs, columns) for rule in rules]


def opening_clip(clips: pd.DataFrame, answers: pd.DataFrame) -> tuple[str, str]:
    """The clip on which the explorer opens, by sample_id, and in words what it is.

    The first conflict in which video alone has GT's class and the unsteered model answers something
    else; where there is none, the first conflict that it answers wrong, conflict, or clip at all.
    ``answers`` are to TAV. Raises ``ValueError`` without clips.
    """
    if clips.empty:
        raise ValueError("there is no clip to open on; take more clips")
    truth, conflict = clips["label_gt"], clips["subset"] == "conflict"
    given = clips["sample_id"].map(answers.set_index("sample_id")["label"])
    wrong = conflict & (given != truth)
    others = (clips["label_t"] != truth) & (clips["label_a"] != truth)
    kinds = {
        "a conflict that the model answers wrong, and video alone has the ground truth's class": wrong
        & others
        & (clips["label_v"] == truth),
        "a conflict that the model answers wrong": wrong,
        "a conflict": conflict,
        "a clip without a conflict": ~conflict,
    }
    words, chosen = next((w, clips[own]) for w, own in kinds.items() if own.any())
    return chosen["sample_id"].iloc[0], words


def _case(
    bench: Experiment,
    rule: Rule,
    method: str,
    pairs: Mapping[str, pd.DataFrame],
    columns: Mapping[str, tuple[Gate, SteeringConfig]],
) -> Case | NoCase:
    chosen = choose_case(pairs[method], rule)
    among = int(rule.conflicting(pairs[method]).sum())
    if chosen is None:
        return NoCase(rule, method, among)
    [place] = np.flatnonzero(bench.clips["sample_id"] == chosen["sample_id"])
    clip = bench.clips.iloc[place]
    seen = bench.inspect(clip, rule.coalition)
    looks = dict(zip(columns, seen.steered([*columns.values()]), strict=True))
    answers = {BASELINE: _answer(chosen, BASELINE, seen.unsteered, seen)}
    for name, look in looks.items():
        own = pairs[name].set_index(["sample_id", "coalition"])
        stored = own.loc[(chosen["sample_id"], rule.coalition)]
        answers[name] = _answer(stored, "steered", look, seen)
    return Case(
        rule=rule,
        method=method,
        clip=clip,
        fitting=int(rule.matches(pairs[method]).sum()),
        among=among,
        answers=answers,
        tau=columns[method][1].tau,
        importance=None if seen.grid is None else seen.on_video(seen.importance[0].cpu().numpy()),
    )


def _answer(stored: pd.Series, which: str, look: Look, seen: Inspection) -> Answer:
    return Answer(
        label=int(stored[f"label_{which}"]),
        score=float(stored[f"score_{which}"]),
        p_truth=float(stored[f"p_{which}"]),
        look=look,
        on_video=None if seen.grid is None else seen.on_video(look.rows.mean(1)),
    )
