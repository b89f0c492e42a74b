"""What the router is trained to say: p* and g* from labels (Sec. 5.1, Eq. 9)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import class_labels, polarity

Agreement = Literal["label", "polarity"]
"""When a modality agrees with GT: same class (Sec. 5.1), or same polarity (Sec. 3.2)."""


def correctness(
    label_gt: ArrayLike, labels: ArrayLike, present: ArrayLike, agreement: Agreement
) -> NDArray[np.bool_]:
    """r_m: whether each present modality agrees with GT, ``(N, 3)``; False where absent.

    ``label_gt`` is ``(N,)`` of 0..4, ``labels`` ``(N, 3)`` for T, A, V, ``present`` ``(N, 3)``.
    Raises ``ValueError`` for labels that are no class.
    """
    truth, own = class_labels(label_gt, "label_gt")[:, None], class_labels(labels)
    if agreement == "polarity":
        truth, own = polarity(truth), polarity(own)
    elif agreement != "label":
        raise ValueError(f"agreement is one of {get_args(Agreement)}; got {agreement!r}")
    return (own == truth) & np.asarray(present, dtype=bool)


def conflict_target(
    label_gt: ArrayLike, labels: ArrayLike, present: ArrayLike, agreement: Agreement
) -> NDArray[np.float32]:
    """p*: 1 where any present modality disagrees with GT (Sec. 5.1), ``(N,)``."""
    right = correctness(label_gt, labels, present, agreement)
    return (right != np.asarray(present, dtype=bool)).any(1).astype(np.float32)


def gate_target(
    label_gt: ArrayLike,
    labels: ArrayLike,
    present: ArrayLike,
    agreement: Agreement,
    epsilon: float = 0.01,
) -> NDArray[np.float32]:
    """g*: (r_m + epsilon) over its sum, for present modalities (Eq. 9), ``(N, 3)``.

    0 for absent ones. Sec. 5.1 defines r_m by the class. Where no present modality is right, all
    weigh the same. Raises ``ValueError`` for an epsilon that is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon is positive (Eq. 9); got {epsilon}")
    there = np.asarray(present, dtype=bool)
    weight = (correctness(label_gt, labels, there, agreement) + epsilon) * there
    total = weight.sum(1, keepdims=True)
    return np.divide(weight, total, where=total > 0, out=np.zeros_like(weight)).astype(np.float32)
