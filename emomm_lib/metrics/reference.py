"""Readers without any preference, on the same clips as a model (to stand beside Sec. 4.2 and 4.3).

Label-only readers see every present label without error and weigh all alike, so what PSMV and GTAR
say of them follows from the labels. Others weigh alike what the model itself answers to each
modality alone, so what is said of them follows from how it reads, not from how it arbitrates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from emomm_lib.labels import (
    CLASSES,
    COALITIONS,
    LETTERS,
    MODALITIES,
    SENTIMENT5,
    LabelSet,
    class_labels,
    coalition_modalities,
    numbers,
    side,
)
from emomm_lib.metrics.outcomes import LABELS, check, check_labels, present, with_evidence

Reader = Callable[[NDArray[np.int64], LabelSet], NDArray[np.float64]]
_CLASSES = np.arange(len(CLASSES))
LOGITS = tuple(f"logit_{letter.lower()}" for letter in LETTERS)
"""Columns of a model's letter logits."""


def follow_one(evidence: NDArray[np.int64], labels: LabelSet = SENTIMENT5) -> NDArray[np.float64]:
    """Probability ``(N, K)`` of each answer of a reader that follows one modality at random.

    ``evidence`` holds labels 0..K-1 of the present modalities, ``(N, k)`` with k >= 1; ``ValueError``
    for anything else.
    """
    evidence = class_labels(evidence, labels=labels)
    return (evidence[..., None] == np.arange(len(labels))).mean(axis=1)


def follow_average(
    evidence: NDArray[np.int64], labels: LabelSet = SENTIMENT5
) -> NDArray[np.float64]:
    """Probability ``(N, K)`` of each answer of a reader that takes the class nearest to the mean.

    A tie between two classes is split evenly: labels 0 and 1 are answered 0 and 1 half of the time
    each. ``evidence`` as in :func:`follow_one`; labels without an order raise ``ValueError``.
    """
    labels.need_order("the reader 'average'")
    evidence = class_labels(evidence, labels=labels)
    # Distances times the number of modalities are integers, so that a tie is exact.
    distance = np.abs(
        np.arange(len(labels)) * evidence.shape[1] - evidence.sum(axis=1, keepdims=True)
    )
    nearest = distance == distance.min(axis=1, keepdims=True)
    return nearest / nearest.sum(axis=1, keepdims=True)


READERS: dict[str, Reader] = {"random": follow_one, "average": follow_average}
"""Readers by name: answers to clips, and which evidence they follow, for :func:`reader_outcomes`."""


def reader_outcomes(
    clips: pd.DataFrame,
    reader: str,
    evidence: str = "label",
    none: str | None = None,
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """Expected outcomes of a reader on clips under all eight coalitions.

    Parameters
    ----------
    clips
        One row a clip: ``sample_id, corpus, subset, label_gt, label_t, label_a, label_v`` and the
        columns ``{evidence}_t, {evidence}_a, {evidence}_v`` (0..K-1).
    reader
        ``random`` follows one present modality drawn uniformly; ``average`` answers the class
        nearest to the mean of the present ones. Without a modality both guess one of the
        classes uniformly.
    evidence
        What it reads: ``label`` for the annotated labels, or columns that hold, say, a model's own
        answers to each modality alone.
    none
        Column of the label (0..K-1) that it answers without a modality, instead of a uniform guess.
    labels
        What the classes are; ``average`` needs an order.

    Returns ``sample_id, corpus, subset, coalition, label_gt, label_t, label_a, label_v, right,
    right_polarity``, eight rows a clip; ``right`` is the exact probability of the right class (1/K
    without a modality) and ``right_polarity`` that of the right polarity, or class where there is
    none. A clip that lacks
    evidence is left out under all coalitions. Raises ``ValueError`` for an unknown reader, missing
    columns, labels other than 0..K-1, a clip twice, or no clip left.
    """
    if reader not in READERS:
        raise ValueError(f"unknown reader {reader!r}; there are {list(READERS)}")
    _check_clips(clips)
    clips = with_evidence(clips, evidence, "the clips", labels)
    check_labels(clips, ["label_gt", *([none] if none else [])], "the clips", labels)
    guess = np.full((len(clips), len(labels)), 1 / len(labels))
    if none:
        guess = np.eye(len(labels))[clips[none].to_numpy(np.int64)]
    answers = {}
    for name in COALITIONS:
        seen = [f"{evidence}_{m.lower()}" for m in coalition_modalities(name)]
        answers[name] = READERS[reader](clips[seen].to_numpy(np.int64), labels) if seen else guess
    return expected(clips, answers, labels)


def _check_clips(clips: pd.DataFrame) -> None:
    check(clips, ["sample_id", "corpus", "subset", *LABELS], "the clips")
    if len(twice := clips.loc[clips["sample_id"].duplicated(), "sample_id"]):
        raise ValueError(f"the clips have {twice.iloc[0]!r} twice; give one row a clip")


def product_outcomes(
    clips: pd.DataFrame, single: pd.DataFrame, prior: ArrayLike | None = None
) -> pd.DataFrame:
    """Expected outcomes of the normalised product of what a model says to each modality alone.

    It answers the class c of the highest p(c) times the product of p(c | m) / p(c) over the present
    modalities; a tie, up to rounding, is split evenly. Where modalities are independent given the
    class and the model's letters are their posteriors, nothing is right more often (naive Bayes).

    ``single`` are predictions under T, A and V with ``logit_a .. logit_e``, ``prior`` is p(c)
    ``(5,)``, uniform by default; the rest as for :func:`reader_outcomes`. A clip without all logits
    is left out. Raises ``ValueError`` for a clip twice, none left, or a prior not of sum 1.
    """
    _check_clips(clips)
    p = np.full(len(_CLASSES), 1 / len(_CLASSES)) if prior is None else numbers(prior, "the prior")
    if p.shape != _CLASSES.shape or not ((p > 0).all() and np.isclose(p.sum(), 1)):
        raise ValueError(f"a prior has {len(_CLASSES)} positive parts of sum 1; got {p.tolist()}")
    wide = single.pivot(index="sample_id", columns="coalition", values=list(LOGITS))
    wide = wide.reindex(columns=pd.MultiIndex.from_product([LOGITS, MODALITIES])).dropna()
    clips = clips[clips["sample_id"].isin(wide.index)].reset_index(drop=True)
    if not len(clips):
        raise ValueError("no clip was answered under T, A and V alone with letter logits")
    check_labels(clips, ["label_gt"], "the clips")
    logits = wide.loc[clips["sample_id"]].to_numpy(np.float64).reshape(len(clips), len(p), -1)
    told = log_softmax(logits, axis=1) - np.log(p)[:, None]
    answers = {}
    for name, there in zip(COALITIONS, present(pd.Series(COALITIONS)), strict=True):
        total = np.log(p) + told[..., there].sum(axis=-1)
        highest = total >= total.max(axis=1, keepdims=True) - 1e-9
        answers[name] = highest / highest.sum(axis=1, keepdims=True)
    return expected(clips, answers)


def expected(
    clips: pd.DataFrame,
    by_coalition: dict[str, NDArray[np.float64]],
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """Rows a coalition from probabilities ``(N, K)`` of each answer, sorted by clip."""
    truth = clips["label_gt"].to_numpy(np.int64)
    same_polarity = side(np.arange(len(labels)), labels) == side(truth, labels)[:, None]
    frames = []
    for name, answers in by_coalition.items():
        frames.append(
            clips[["sample_id", "corpus", "subset"]].assign(
                coalition=name,
                **{column: clips[column] for column in LABELS},
                right=answers[np.arange(len(clips)), truth],
                # A sum of exact thirds may exceed 1 by a rounding error.
                right_polarity=np.minimum((answers * same_polarity).sum(axis=1), 1.0),
            )
        )
    stacked = pd.concat(frames, keys=range(len(frames)), names=["coalition_order", "clip"])
    return stacked.sort_index(level=["clip", "coalition_order"]).reset_index(drop=True)
