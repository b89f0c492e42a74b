"""Modalities and coalitions, classes and their polarity (Sec. 3.1-3.2, Appendix A.1).

The paper's five classes of sentiment are :data:`SENTIMENT5`, and every metric's default. Another
:class:`LabelSet` may take their place wherever a function has ``labels``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

CLASSES = ("N", "WN", "Neu", "WP", "P")
CLASS_NAMES = ("Negative", "Weakly Negative", "Neutral", "Weakly Positive", "Positive")
LETTERS = ("A", "B", "C", "D", "E")
MODALITIES = ("T", "A", "V")
COALITIONS = ("none", "T", "A", "V", "TA", "TV", "AV", "TAV")
"""All subsets of {T, A, V}, smallest first."""
SOURCES = ("gt", "t", "a", "v")
"""Suffixes of the label and score columns: ground truth, text, audio, video."""
NEUTRAL = 2


@dataclass(frozen=True)
class LabelSet:
    """The classes that a clip may have, by their numbers 0..K-1.

    Attributes
    ----------
    name
        A plain name, as file names have it.
    classes
        Names of the K classes, two at least.
    ordered
        Whether the numbers count steps of one scale, as classes of sentiment do and emotions do not.
    polarity
        Of an ordered set -1, 0 or +1 of every class, never falling; empty where it has none.
    aliases
        Other names of each class, in any language; empty where there are none.

    Raises ``ValueError`` for a name or class that is blank, a name that two classes have, and an
    order or polarity that is none.
    """

    name: str
    classes: tuple[str, ...]
    ordered: bool = False
    polarity: tuple[int, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(sign.isalnum() or sign in "-_" for sign in self.name):
            raise ValueError(
                f"a set of labels has a name of letters, digits, - and _; got {self.name!r}"
            )
        if len(self.classes) < 2:
            raise ValueError(f"{self.name}: two classes at least are needed; got {self.classes}")
        if self.aliases and len(self.aliases) != len(self.classes):
            raise ValueError(
                f"{self.name}: aliases are one tuple a class, {len(self.classes)} in all; got "
                f"{len(self.aliases)}"
            )
        spoken = [name for own in self.spoken for name in {part.casefold() for part in own}]
        if bad := [name for name in spoken if not name.strip() or name != name.strip()]:
            raise ValueError(f"{self.name}: a class needs a plain name; got {bad[0]!r}")
        if twice := sorted({name for name in spoken if spoken.count(name) > 1}):
            raise ValueError(f"{self.name}: two classes are named {', '.join(twice)}")
        if not self.polarity:
            return
        if not self.ordered:
            raise ValueError(f"{self.name}: only classes in an order have a polarity")
        signs = list(self.polarity)
        if len(signs) != len(self.classes) or signs != sorted(signs) or not {*signs} <= {-1, 0, 1}:
            raise ValueError(
                f"{self.name}: a polarity is -1, 0 or 1 of each of {len(self.classes)} classes and "
                f"never falls; got {self.polarity}"
            )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def spoken(self) -> tuple[tuple[str, ...], ...]:
        """All names of each class, its own first."""
        return tuple(
            (name, *more)
            for name, more in zip(self.classes, self.aliases or [()] * len(self), strict=True)
        )

    def index(self, name: str) -> int:
        """The number of a class by one of its names, in whatever case; ``ValueError`` if unknown."""
        wanted = name.strip().casefold()
        for number, own in enumerate(self.spoken):
            if wanted in (one.casefold() for one in own):
                return number
        raise ValueError(f"{self.name} has no class {name!r}; it has {', '.join(self.classes)}")

    def need_order(self, what: str) -> None:
        """Raise ``ValueError`` that says why ``what`` cannot be had, where there is no order."""
        if not self.ordered:
            raise ValueError(
                f"{what} needs classes in an order, and those of {self.name} have none; take a "
                "metric that counts right answers: acc, f1 or weighted_f1"
            )

    def need_polarity(self, what: str) -> None:
        """The same where classes have no polarity."""
        if not self.polarity:
            raise ValueError(
                f"{what} needs classes with a polarity, and those of {self.name} have none; take a "
                "metric that counts right answers: acc, f1 or weighted_f1"
            )


SENTIMENT5 = LabelSet("sentiment5", CLASS_NAMES, ordered=True, polarity=(-1, -1, 0, 1, 1))
"""The paper's five classes, which alone have scores and the short names :data:`CLASSES`."""
SENTIMENT3 = LabelSet(
    "sentiment3",
    ("negative", "neutral", "positive"),
    ordered=True,
    polarity=(-1, 0, 1),
    aliases=(("消极", "负面"), ("中性", "中立"), ("积极", "正面")),
)
"""MMSA's column ``annotation``, and what MissRAG asks for."""
SENTIMENT2 = LabelSet(
    "sentiment2",
    ("negative", "positive"),
    ordered=True,
    polarity=(-1, 1),
    aliases=(("消极", "负面"), ("积极", "正面")),
)
"""Negative against positive, neutral clips left out: MER-UniBench's sentiment, MMSA's Acc-2."""
_ANGER, _JOY = ("angry", "生气", "愤怒"), ("joy", "happiness", "高兴", "快乐", "开心")
_SADNESS, _NEUTRAL = ("sadness", "悲伤", "难过", "伤心"), ("中性", "平静")
_SURPRISE = ("surprised", "惊讶", "吃惊")
MELD7 = LabelSet(
    "meld7",
    ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"),
    aliases=(
        _ANGER,
        ("happy", "happiness", "高兴", "快乐", "开心"),
        ("sad", *_SADNESS[1:]),
        _NEUTRAL,
        ("disgusted", "厌恶"),
        ("fearful", "恐惧", "害怕"),
        _SURPRISE,
    ),
)
"""MELD's emotions, numbered as MER-UniBench's label file does."""
IEMOCAP4 = LabelSet(
    "iemocap4",
    ("happy", "sad", "neutral", "anger"),
    aliases=(_JOY, _SADNESS, _NEUTRAL, _ANGER),
)
"""IEMOCAP's four emotions, numbered as MER-UniBench's label file does."""
MER6 = LabelSet(
    "mer6",
    ("neutral", "angry", "happy", "sad", "worried", "surprise"),
    aliases=(
        _NEUTRAL,
        ("anger", *_ANGER[1:]),
        _JOY,
        _SADNESS,
        ("worry", "担心", "担忧", "焦虑"),
        _SURPRISE,
    ),
)
"""The emotions of MER2023 and MER2024."""
LABEL_SETS = {one.name: one for one in (SENTIMENT5, SENTIMENT3, SENTIMENT2, MELD7, IEMOCAP4, MER6)}
"""The sets above by name."""


def coalition_name(modalities: Iterable[str]) -> str:
    """The name of a set of modalities in the order T, A, V: ``coalition_name("VT") == "TV"``.

    The empty set is ``"none"``. Raises ``ValueError`` for a repetition and for any other letter.
    """
    given = list(modalities)
    if not set(given) <= set(MODALITIES) or len(set(given)) != len(given):
        raise ValueError(f"modalities are distinct letters of {MODALITIES}, got {given}")
    return "".join(m for m in MODALITIES if m in given) or "none"


def coalition_modalities(name: str) -> tuple[str, ...]:
    """The modalities of a coalition, ``("T", "V")`` for ``"TV"``; ``ValueError`` if unknown."""
    if name not in COALITIONS:
        raise ValueError(f"unknown coalition {name!r}, expected one of {COALITIONS}")
    return () if name == "none" else tuple(name)


def as_array(values: ArrayLike) -> NDArray:
    """An array in which a boolean in a list of numbers is still a boolean."""
    # As objects, or a boolean in a list of numbers becomes one of them.
    return np.asarray(values, dtype=None if hasattr(values, "dtype") else object)


def _numeric(values: NDArray) -> NDArray[np.bool_]:
    """Which values are real numbers; booleans, text and what stands for a missing value are not."""
    if values.dtype.kind in "iuf":
        return np.ones(values.shape, bool)
    if values.dtype.kind != "O":
        return np.zeros(values.shape, bool)
    found = [isinstance(v, Real) and not isinstance(v, bool | np.bool_) for v in values.flat]
    return np.array(found, dtype=bool).reshape(values.shape)


def shown_values(values: ArrayLike) -> str:
    """The first distinct values of a complaint and how many there are: ``nan, 7 (3 in all)``."""
    values = as_array(values)
    names = dict.fromkeys(map(repr, values.ravel().tolist()))
    return f"{', '.join([*names][:5])} ({values.size} in all)"


def is_class(label: ArrayLike, labels: LabelSet = SENTIMENT5) -> NDArray[np.bool_]:
    """Whether each label is a class 0..K-1: a whole number, of an integer or a float type.

    NaN, NA, other numbers, booleans and text are not.
    """
    values = as_array(label)
    found = _numeric(values)
    found[found] = np.isin(values[found].astype(np.float64), range(len(labels)))
    return found


def class_labels(
    label: ArrayLike, name: str = "labels", labels: LabelSet = SENTIMENT5
) -> NDArray[np.int64]:
    """Labels as integers, in their shape; an empty array stays empty.

    Raises ``ValueError``, with ``name`` in front, that shows what is no class 0..K-1 and how many.
    """
    values = as_array(label)
    if not (good := is_class(values, labels)).all():
        raise ValueError(
            f"{name} are whole numbers 0 to {len(labels) - 1}; got {shown_values(values[~good])}"
        )
    return values.astype(np.int64)


def numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Real numbers as floats, None and NA as NaN; ``ValueError`` shows booleans and text."""
    values = as_array(values)
    if values.dtype.kind == "O":
        values = np.where(pd.isna(values), np.nan, values)
    if not (good := _numeric(values)).all():
        raise ValueError(f"{name} must be numbers; got {shown_values(values[~good])}")
    return values.astype(np.float64)


def polarity(label: ArrayLike, labels: LabelSet = SENTIMENT5) -> NDArray[np.int64]:
    """Polarity -1, 0 or +1 of classes; neutral is a polarity of its own (Sec. 3.2).

    Keeps the shape, also of an empty array. Raises ``ValueError`` as :func:`class_labels`, and for
    a set of labels that has no polarity.
    """
    labels.need_polarity("a polarity")
    return np.array(labels.polarity, np.int64)[class_labels(label, labels=labels)]


def side(label: ArrayLike, labels: LabelSet = SENTIMENT5) -> NDArray[np.int64]:
    """What two labels have to share to be on one side: the polarity, or where there is none the class.

    Keeps the shape; raises ``ValueError`` as :func:`class_labels`.
    """
    return polarity(label, labels) if labels.polarity else class_labels(label, labels=labels)
