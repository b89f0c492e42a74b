"""Which Fleiss' kappas Table 3's class counts of T, A and V allow (Appendix A.1, A.2).

Five annotators vote -1, 0 or 1 on a clip and the mean of the five falls into a class, so that each
class admits a few of the 21 possible patterns of five votes. Kappa is a function of how many clips
have which pattern, and Table 3 fixes how many clips each class has. Observed agreement is linear in
those numbers and chance agreement convex, so that kappa >= k is a convex set: the maximum is a
convex programme and the minimum lies at a vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, linprog, minimize_scalar

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_lib.metrics.fleiss import fleiss_of, fleiss_parts
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.paper import claims, table
from emomm_study.paths import PAPER_DATA

ANNOTATORS = 5
VOTES = (-1, 0, 1)
PATTERNS = np.array(
    [
        (negative, ANNOTATORS - negative - positive, positive)
        for negative in range(ANNOTATORS, -1, -1)
        for positive in range(ANNOTATORS - negative + 1)
    ]
)
"""How many of the five vote -1, 0 and 1: all 21 possibilities, ``(21, 3)``."""
PATTERNS.flags.writeable = False
HALF_UNIT = 0.005
"""Half a unit in the last printed digit of the published kappa."""
BANDS = {
    "poor": (-1.0, 0.0),
    "slight": (0.0, 0.20),
    "fair": (0.20, 0.40),
    "moderate": (0.40, 0.60),
    "substantial": (0.60, 0.80),
    "almost perfect": (0.80, 1.0),
}
"""Landis and Koch's names (1977, Biometrics 33:159): above the first number, up to the second."""
WORD = "substantial"
"""What Appendix A.1 calls the agreement."""

_GAP, _CUTS = 1e-9, 400
_NEAR = 0.002
_PARTS = fleiss_parts(PATTERNS)
_VOTE_SHARES = PATTERNS / ANNOTATORS
_AGREEMENT = _PARTS[:, -2]


def pattern_scores() -> NDArray[np.float64]:
    """Mean vote of each pattern ``(21,)``: a multiple of 0.2 in [-1, 1] (Sec. 3.1)."""
    return (PATTERNS @ VOTES) / ANNOTATORS


def pattern_labels(mapping: Corpus | str) -> NDArray[np.int64]:
    """Class 0..4 of each pattern's mean ``(21,)`` under a corpus's mapping (Appendix A.1)."""
    return GRIDS[Corpus(mapping)].labels(PATTERNS @ VOTES)


def kappa_of_counts(clips: ArrayLike) -> NDArray[np.float64]:
    """Fleiss' kappa from how many clips, or what share of them, have each pattern.

    ``clips`` is ``(..., 21)``, not negative and not all zero; the result ``(...)`` lies in
    [-0.25, 1], and is NaN where all votes are one and the same. Fleiss (1971).
    """
    clips = np.asarray(clips, dtype=np.float64)
    if clips.shape[-1:] != (len(PATTERNS),) or (clips < 0).any() or not clips.any(axis=-1).all():
        raise ValueError(
            f"clips must be (..., {len(PATTERNS)}) numbers of clips by pattern, not negative and "
            f"not all zero; got shape {clips.shape}"
        )
    return fleiss_of(clips @ _PARTS)[..., 2]


def band(kappa: float) -> str:
    """Landis and Koch's word for a kappa in [-1, 1] to two decimals: "moderate" for 0.54."""
    for name, (_, high) in BANDS.items():
        if round(kappa, 2) <= high:
            return name
    raise ValueError(f"kappa is at most 1; got {kappa}")


@dataclass(frozen=True, eq=False)
class KappaRange:
    """The least and largest kappa of votes whose means give certain class counts.

    Attributes
    ----------
    low
        The minimum, which whole clips reach.
    high
        An upper bound that holds for any votes, whatever solver found it.
    votes_low, votes_high
        Clips by pattern ``(21,)``, integers, with the class counts: the minimum, and what the
        maximum becomes in whole clips.
    """

    low: float
    high: float
    votes_low: NDArray[np.int64]
    votes_high: NDArray[np.int64]

    @property
    def attained_low(self) -> float:
        """Kappa of ``votes_low``."""
        return float(kappa_of_counts(self.votes_low))

    @property
    def attained_high(self) -> float:
        """Kappa of ``votes_high``: at most ``high``."""
        return float(kappa_of_counts(self.votes_high))

    def contains(self, kappa: float) -> bool:
        """Whether votes in whole clips have kappas on both sides of ``kappa``, or that one."""
        return self.attained_low <= kappa <= self.attained_high


def _shares(class_counts: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(class_counts)
    if counts.shape != (len(CLASSES),) or (counts < 0).any() or counts.sum() == 0:
        raise ValueError(
            f"class counts are {len(CLASSES)} numbers of clips for {CLASSES}, not negative and not "
            f"all zero; got {counts.tolist()}"
        )
    if (counts > 0).sum() < 2:
        # Votes could all be the same one, and kappa is then 0 / 0.
        raise ValueError(f"kappa needs clips in two classes or more; got {counts.tolist()}")
    return counts / counts.sum()


def ceiling(class_counts: ArrayLike, mapping: Corpus | str, votes: ArrayLike) -> float:
    """A kappa that no votes with these class counts exceed.

    Chance agreement |p|^2 is at least 2 q.p - |q|^2 for any q, with equality at p = q. With that in
    its place kappa is a ratio of linear functions, whose maximum is found exactly class by class.

    Parameters
    ----------
    class_counts
        Clips of the classes N..P, ``(5,)``.
    mapping
        The corpus whose grid takes means of five votes to classes.
    votes
        q, a guess ``(3,)`` of the shares of the votes -1, 0, 1. Every guess gives a valid bound and
        the shares at the maximum give the maximum itself.
    """
    q = np.asarray(votes, dtype=np.float64)
    shares, labels = _shares(class_counts), pattern_labels(mapping)
    tangent = 2 * _VOTE_SHARES @ q - q @ q
    kappa = -1.0
    while True:
        # Dinkelbach's steps: each is the ratio at a choice of patterns, and no choice comes twice.
        value = _AGREEMENT - (1 - kappa) * tangent
        best = [max(np.flatnonzero(labels == c), key=value.__getitem__) for c in range(len(shares))]
        chance = shares @ tangent[best]
        ratio = (shares @ _AGREEMENT[best] - chance) / (1 - chance)
        if ratio <= kappa + 1e-14:
            return float(max(ratio, kappa))
        kappa = ratio


def _vertices(class_counts: NDArray[np.int64], mapping: Corpus) -> NDArray[np.int64]:
    """Clips by pattern ``(V, 21)`` where each class has all its clips in one pattern."""
    labels = pattern_labels(mapping)
    choices = np.array([*product(*(np.flatnonzero(labels == c) for c in range(len(class_counts))))])
    clips = np.zeros((len(choices), len(PATTERNS)), dtype=np.int64)
    np.put_along_axis(clips, choices, class_counts[None, :], axis=1)
    return clips


def _whole(within: NDArray[np.float64], class_counts: NDArray[np.int64], mapping: Corpus):
    """Whole clips ``(21,)`` in proportion to ``within`` inside each class, by largest remainder."""
    labels = pattern_labels(mapping)
    clips = np.zeros(len(PATTERNS), dtype=np.int64)
    for label, count in enumerate(class_counts):
        at = np.flatnonzero(labels == label)
        total = within[at].sum()
        exact = count * within[at] / total if total > 0 else np.eye(len(at))[0] * count
        clips[at] = np.floor(exact)
        order = np.argsort(-(exact - clips[at]), kind="stable")
        clips[at[order[: count - clips[at].sum()]]] += 1
    return clips


def _peak(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point of largest kappa on a segment, where kappa has no other peak; never below start."""
    way = minimize_scalar(
        lambda t: -kappa_of_counts(start + t * (end - start)),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return max(start, start + way.x * (end - start), key=kappa_of_counts)


def _steepest(
    shares: NDArray[np.float64], mapping: Corpus, start: NDArray
) -> tuple[float, NDArray[np.float64]]:
    """Upper bound of kappa, and shares of patterns ``(21,)`` that reach it within :data:`_GAP`.

    Cutting planes: |p|^2 is the largest of its tangents, of which those at the points visited are
    kept, so that each step is a linear programme.
    """
    member = (pattern_labels(mapping) == np.arange(len(shares))[:, None]).astype(float)
    best, visited, bound = start, [start @ _VOTE_SHARES], np.inf
    while True:
        kappa = float(kappa_of_counts(best))
        q = np.array(visited)
        cuts = np.column_stack([2 * q @ _VOTE_SHARES.T, -np.ones(len(q))])
        found = linprog(
            np.append(-_AGREEMENT, 1 - kappa),
            A_ub=cuts,
            b_ub=(q * q).sum(axis=1),
            A_eq=np.column_stack([member, np.zeros(len(shares))]),
            b_eq=shares,
            bounds=[(0, None)] * len(PATTERNS) + [(None, None)],
        )
        weights = np.maximum(-found.ineqlin.marginals, 0)
        bound = min(bound, ceiling(shares, mapping, weights @ q / weights.sum()))
        point = np.maximum(found.x[:-1], 0)
        # Without the step to the peak, tangents at far points only take hundreds of programmes.
        best = max(_peak(best, point), point, key=kappa_of_counts)
        if bound - kappa_of_counts(best) <= _GAP or len(visited) > _CUTS:
            return bound, best
        visited += [point @ _VOTE_SHARES, best @ _VOTE_SHARES]


@cache
def _range(class_counts: tuple[int, ...], mapping: Corpus) -> KappaRange:
    counts = np.array(class_counts)
    shares = _shares(counts)
    vertices = _vertices(counts, mapping)
    lowest = vertices[np.argmin(kappa_of_counts(vertices))]
    high, best = _steepest(shares, mapping, lowest / counts.sum())
    low = float(kappa_of_counts(lowest))
    return KappaRange(low, high, lowest, _whole(best, counts, mapping))


def kappa_range(class_counts: ArrayLike, mapping: Corpus | str) -> KappaRange:
    """The kappas that five votes a clip can have when their means give these class counts.

    Parameters
    ----------
    class_counts
        Whole clips of the classes N..P, ``(5,)``.
    mapping
        The corpus whose grid takes means of five votes to classes (Appendix A.1).

    Returns
    -------
    A range whose ``low`` is exact and whose ``high`` is an upper bound (:func:`ceiling`). Votes in
    whole clips come within rounding of it. Raises ``ValueError`` for counts that are not whole, not
    negative, and in two classes or more.
    """
    counts = np.asarray(class_counts)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"class counts are whole clips; got {counts.dtype} {counts.tolist()}")
    _shares(counts)
    return _range(tuple(counts.tolist()), Corpus(mapping))


def class_counts(folder: Path = PAPER_DATA) -> dict[str, NDArray[np.int64]]:
    """CMU-MOSI's clips by class, ``(5,)`` for each of T, A and V (Table 3)."""
    frame = table(3, folder).query("corpus == 'cmu_mosi'").set_index(["source", "label"])["count"]
    return {m: frame[m.lower()].loc[list(CLASSES)].to_numpy() for m in MODALITIES}


def published_kappa(folder: Path = PAPER_DATA) -> float:
    """The paper's kappa, "approximately 0.54" (Appendix A.1)."""
    return float(claims(folder).set_index("id").at["kappa", "value"])


def _ranges(folder: Path, mapping: Corpus) -> dict[str, KappaRange]:
    counts = class_counts(folder)
    # Kappa does not ask of which modality a clip's votes are: together they are a larger corpus.
    counts["all"] = sum(counts.values())
    return {m: kappa_range(c, mapping) for m, c in counts.items()}


def kappa_ranges(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Attainable kappas of each modality, of all three together, and of their mean.

    Returns ``modality, mapping, low, high, gap, attained_low, attained_high, contains_published``,
    ten rows. ``modality`` is T, A, V, ``all`` (6,000 items, one kappa) or ``mean`` (of three
    kappas). ``mapping`` is the corpus whose grid takes means of votes to classes: the paper does
    not say which one did. ``high`` is a proved upper bound, ``attained_high`` what whole clips
    reach, ``gap`` the difference; ``contains_published`` says whether votes exist whose kappa
    prints as the published one.
    """
    published, rows = published_kappa(folder), []
    for mapping in Corpus:
        found = _ranges(folder, mapping)
        ends = {
            m: np.array([r.low, r.high, r.attained_low, r.attained_high]) for m, r in found.items()
        }
        ends["mean"] = np.mean([ends[m] for m in MODALITIES], axis=0)
        for modality, (low, high, attained_low, attained_high) in ends.items():
            inside = attained_low - HALF_UNIT <= published < attained_high + HALF_UNIT
            gap = high - attained_high
            row = (modality, mapping.value, low, high, gap, attained_low, attained_high, inside)
            rows.append(row)
    columns = ["modality", "mapping", "low", "high", "gap", "attained_low", "attained_high"]
    return pd.DataFrame(rows, columns=[*columns, "contains_published"])


@dataclass(frozen=True, eq=False)
class Witness:
    """Votes in whole clips that give Table 3's classes and print the published kappa.

    Attributes
    ----------
    mapping
        The corpus whose grid takes means of five votes to classes.
    clips
        Clips by pattern of T, A and V, ``(3, 21)`` integers.
    """

    mapping: Corpus
    clips: NDArray[np.int64]

    @property
    def kappa(self) -> float:
        """Fleiss' kappa of the three modalities together."""
        return float(kappa_of_counts(self.clips.sum(axis=0)))

    @property
    def by_modality(self) -> dict[str, float]:
        """Fleiss' kappa of each modality by itself."""
        return dict(zip(MODALITIES, kappa_of_counts(self.clips).tolist(), strict=True))

    def frame(self) -> pd.DataFrame:
        """``modality, label, negative, neutral, positive, clips``, patterns that occur."""
        rows, patterns = np.nonzero(self.clips)
        labels = np.array(CLASSES)[pattern_labels(self.mapping)[patterns]]
        votes = dict(zip(("negative", "neutral", "positive"), PATTERNS[patterns].T, strict=True))
        named = {"modality": np.array(MODALITIES)[rows], "label": labels}
        return pd.DataFrame(named | votes | {"clips": self.clips[rows, patterns]})


def witness(mapping: Corpus | str, folder: Path = PAPER_DATA) -> Witness:
    """Votes on all T, A and V clips whose one kappa prints as the published value.

    The votes of least and of largest kappa are mixed, class by class in the same proportion for
    each modality. They show that such votes exist, not that the annotators' were like them. Raises
    ``ValueError`` where none exist.
    """
    mapping, published = Corpus(mapping), published_kappa(folder)
    counts = class_counts(folder)
    whole = _ranges(folder, mapping)["all"]
    if not whole.contains(published):
        raise ValueError(
            f"no votes with Table 3's counts give kappa {published} under the mapping of "
            f"{mapping.value}: it lies between {whole.low:.4f} and {whole.high:.4f}"
        )

    def mixed(share: float) -> NDArray[np.float64]:
        return (1 - share) * whole.votes_low + share * whole.votes_high

    share = brentq(lambda t: float(kappa_of_counts(mixed(t))) - published, 0, 1)
    return Witness(
        mapping, np.array([_whole(mixed(share), counts[m], mapping) for m in MODALITIES])
    )


def _halves(triangle: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A triangle, corners ``(3, D)``, cut in two through the middle of its longest side."""
    sides = np.linalg.norm(triangle - np.roll(triangle, -1, axis=0), axis=1)
    i = int(sides.argmax())
    j = (i + 1) % 3
    halves = [triangle.copy(), triangle.copy()]
    for half, corner in zip(halves, (i, j), strict=True):
        half[corner] = (triangle[i] + triangle[j]) / 2
    return halves


def _least_beside(
    own: NDArray[np.int64], others: NDArray[np.int64], mapping: Corpus, together: float
) -> tuple[float, float]:
    """Least kappa of ``own`` clips where they and ``others`` have ``together`` or more as one.

    Returns a lower bound, and a kappa :data:`_NEAR` above it that proportions of patterns reach.
    Branch and bound over the shares of votes of the own clips: in a triangle of these, the chord of
    |p|^2 is above it, so that kappa < c implies a linear inequality, while the condition on all
    clips is the intersection of its tangents, added as they are needed.
    """
    total, labels = (own + others).sum(), pattern_labels(mapping)
    member = (labels == np.arange(len(own))[:, None]).astype(float)
    weight, n = own.sum() / total, len(PATTERNS)
    # Columns: the own clips by pattern, the others, and the place in the triangle.
    equal = np.zeros((2 * len(own) + len(VOTES) + 1, 2 * n + 3))
    equal[: len(own), :n] = equal[len(own) : 2 * len(own), n : 2 * n] = member
    equal[-4:-1, :n] = _VOTE_SHARES.T / weight
    equal[-1, 2 * n :] = 1
    right = np.concatenate([own / total, others / total, np.zeros(3), [1]])

    everyone = kappa_range(own + others, mapping).votes_high / total
    # A class without clips has none of any pattern, whatever it is divided by.
    within = everyone / np.maximum(member @ everyone, 1 / total)[labels]
    safe = np.concatenate([within * (own / total)[labels], within * (others / total)[labels]])
    reached = float(kappa_of_counts(safe[:n]))
    tangents, triangles = [everyone @ _VOTE_SHARES], [np.eye(3)]
    while triangles:
        triangle = triangles.pop()
        equal[-4:-1, 2 * n :] = -triangle.T
        while True:
            goal = reached - _NEAR
            chord = (1 - goal) * (triangle**2).sum(axis=1)
            q = np.array(tangents)
            chance = 2 * q @ _VOTE_SHARES.T - (q * q).sum(axis=1, keepdims=True)
            excess = _AGREEMENT - together - (1 - together) * chance
            found = linprog(
                np.concatenate([_AGREEMENT / weight, np.zeros(n), -chord]),
                A_ub=-np.column_stack([excess, excess, np.zeros((len(q), 3))]),
                b_ub=np.zeros(len(q)),
                A_eq=equal,
                b_eq=right,
            )
            if found.status == 2 or (found.status == 0 and found.fun >= goal):
                break
            if found.status != 0:
                raise RuntimeError(f"the linear programme of the least kappa: {found.message}")
            votes = np.maximum(found.x[: 2 * n], 0)
            everyone = votes[:n] + votes[n:]
            if (short := together - float(kappa_of_counts(everyone))) > _NEAR / 20:
                tangents.append(everyone @ _VOTE_SHARES)
                continue
            # Kappa >= k is a convex set: the way to votes well inside enters it and stays.
            share = 0.0 if short <= 0 else brentq(_shortfall(votes, safe, together), 0, 1)
            reached = min(reached, float(kappa_of_counts((votes + share * (safe - votes))[:n])))
            triangles += _halves(triangle)
            break
    return reached - _NEAR, reached


def _shortfall(votes: NDArray[np.float64], safe: NDArray[np.float64], kappa: float):
    """What all clips' kappa lacks of ``kappa``, by the share of the way from one to the other."""
    start, end = (v.reshape(2, -1).sum(axis=0) for v in (votes, safe))
    return lambda share: kappa - float(kappa_of_counts(start + share * (end - start)))


def least_kappas(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """The least kappa that each modality can have by itself, given the published value.

    Returns ``mapping, published_is, modality, least, reached, most``. The published value, less
    half a unit in its last digit, is taken to be the ``mean`` of three kappas or the one kappa of
    ``all`` votes. ``least`` is a lower bound under that condition, ``reached`` the least found to
    meet it in proportions of votes, ``most`` the upper bound without any condition. All but
    ``most`` are NaN where no votes meet it.
    """
    together, counts, rows = published_kappa(folder) - HALF_UNIT, class_counts(folder), []
    for mapping in Corpus:
        found = _ranges(folder, mapping)
        for modality in MODALITIES:
            own, others = found[modality], [found[m] for m in MODALITIES if m != modality]
            least = max(own.low, 3 * together - sum(r.high for r in others))
            reached = max(own.attained_low, 3 * together - sum(r.attained_high for r in others))
            pair = (least, reached) if reached <= own.attained_high else (np.nan, np.nan)
            rows.append((mapping.value, "mean", modality, *pair, own.high))
        for modality in MODALITIES:
            others = sum(c for m, c in counts.items() if m != modality)
            pair = (np.nan, np.nan)
            if together <= found["all"].attained_high:
                pair = _least_beside(counts[modality], others, mapping, together)
            rows.append((mapping.value, "all", modality, *pair, found[modality].high))
    columns = ["mapping", "published_is", "modality", "least", "reached", "most"]
    return pd.DataFrame(rows, columns=columns)


def kappa_statements(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What can be said of the published kappa: ``whose, statement, mapping, holds, detail``.

    ``whose`` is ``paper`` for what the paper says, ``reading`` for what one may read into it, and
    ``mapping`` is empty where it does not matter. A statement that does not hold is a limit of
    what the tables allow under the reading that it names; other readings are open: a calibration
    round or part of the clips, teams that differ from clip to clip, weights for near votes.
    """
    published, ranges = published_kappa(folder), kappa_ranges(folder)
    by = ranges.set_index(["mapping", "modality"])
    rows = []
    for mapping in Corpus:
        own = by.loc[mapping.value]
        all_three = own.loc["all"]
        detail = f"between {all_three['low']:.4f} and {all_three['high']:.4f}"
        text = f"one kappa over all T, A and V votes can be {published:.2f}"
        rows.append(("paper", text, mapping.value, all_three["contains_published"], detail))
        out = [m for m in MODALITIES if not own.at[m, "contains_published"]]
        detail = ", ".join(f"{m} at most {own.at[m, 'high']:.4f}" for m in MODALITIES)
        text = f"each modality by itself can have kappa {published:.2f}"
        rows.append(("reading", text, mapping.value, not out, detail))
        low, high = BANDS[WORD]
        detail = f"at most {all_three['high']:.4f}, {WORD} is above {low:.2f}"
        text = f"one kappa over all T, A and V votes can be {WORD}"
        rows.append(("reading", text, mapping.value, all_three["attained_high"] > low, detail))
    detail = f"{published:.2f} is {band(published)}; {WORD} is above {low:.2f}, up to {high:.2f}"
    text = f"{WORD!r} is Landis and Koch's word for {published:.2f}"
    rows.append(("reading", text, "", band(published) == WORD, detail))
    frame = pd.DataFrame(rows, columns=["whose", "statement", "mapping", "holds", "detail"])
    return frame.astype({"holds": bool})
