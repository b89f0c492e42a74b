"""Published values, and the comparison with reproduced ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import yaml

from emomm_lib.labels import CLASSES, SOURCES
from emomm_study.paths import PAPER_DATA

CORPORA = ("cmu_mosi", "ch_sims_v2")
SUBSETS = ("overall", "align", "conflict", "missing")
UNNAMED = ("unnamed MLLM", "CHASE router")
"""Stands in column ``model`` where the paper gives a number without naming the backbone."""
COMPARISON = ("item", "published", "reproduced", "low", "high")
COMPARISON += ("tolerance", "within", "profile", "note")


def _text(*allowed: str) -> pa.Column:
    return pa.Column(str, pa.Check.isin(allowed) if allowed else None)


def _number(low: float, high: float, nullable: bool = False) -> pa.Column:
    return pa.Column(float, pa.Check.in_range(low, high), nullable=nullable)


def _schema(key: list[str], rows: int, **columns: pa.Column) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(
        {**columns, "reference": _text()},
        checks=pa.Check(lambda frame: len(frame) == rows, error=f"must have {rows} rows"),
        unique=key,
        strict=True,
        ordered=True,
        coerce=True,
    )


_SCORES = {"acc": _number(0, 100), "f1": _number(0, 100), "mae": _number(0, 2)}
_CASE = {
    "item": _text("label", "prediction", "attention"),
    "method": _text("", "baseline", "CHASE"),
    "layer": pa.Column("Int64", pa.Check.in_range(1, 28), nullable=True),
    "source": _text("", *SOURCES),
    "label": _text("", *CLASSES),
    "value": _number(-1, 1),
    "correct": pa.Column("boolean", nullable=True),
}
_CASE_KEY = ["item", "method", "layer", "source"]

SCHEMAS = {
    1: _schema(
        ["model", "method", "subset"],
        32,
        group=_text(),
        model=_text(),
        method=_text("baseline", "CHASE"),
        subset=_text(*SUBSETS),
        **_SCORES,
    ),
    2: _schema(["variant"], 5, model=_text(), variant=_text(), **_SCORES),
    3: _schema(
        ["corpus", "source", "label"],
        40,
        corpus=_text(*CORPORA),
        source=_text(*SOURCES),
        label=_text(*CLASSES),
        count=pa.Column("int64", pa.Check.ge(0)),
    ),
    4: _schema(
        ["corpus", "source_i", "source_j"],
        32,
        corpus=_text(*CORPORA),
        source_i=_text(*SOURCES),
        source_j=_text(*SOURCES),
        agreement=_number(0, 1),
    ),
    5: _schema(
        ["capability", "benchmark"],
        24,
        capability=_text(),
        name=_text(),
        benchmark=_text(),
        supported=pa.Column("bool"),
    ),
    6: _schema(
        ["split", "metric"],
        6,
        split=_text("valid", "test"),
        metric=_text("conflict_recall", "target_top1", "joint_success"),
        value=_number(0, 1),
    ),
    7: _schema(_CASE_KEY, 36, **_CASE),
    8: _schema(_CASE_KEY, 35, **_CASE),
}

CLAIMS_SCHEMA = pa.DataFrameSchema(
    {
        "id": pa.Column(str, pa.Check.str_matches(r"^[a-z0-9_]+$"), unique=True),
        "value": pa.Column(float),
        "unit": _text(),
        "relation": _text("=", "<", "~"),
        "model": _text(),
        "section": pa.Column(str, pa.Check.str_length(min_value=1)),
        "what": pa.Column(str, pa.Check.str_length(min_value=1)),
        "item": _text(),
        "minus": _text(),
    },
    strict=True,
    ordered=True,
    coerce=True,
)


def _read(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no published values here; restore data/paper")
    optional = [name for name, column in schema.columns.items() if column.nullable]
    frame = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in optional})
    try:
        return schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        rows = [
            f"  line {'?' if pd.isna(c.index) else int(c.index) + 2}, column {c.column}: "
            f"got {c.failure_case!r}, expected {c.check}"
            for c in cases.itertuples(index=False, name="Case")
        ]
        head = f"{path}: {len(rows)} bad values; restore the file"
        raise ValueError("\n".join([head, *rows])) from None


def table(number: int, folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Table ``number`` (1-8) of the paper in long form, validated; columns in data/paper/README.md.

    Accuracy and F1 are in percent, MAE in score units (0..2), agreement and attention shares in
    0..1. Raises ``FileNotFoundError``, or ``ValueError`` listing file, line, column and what was
    expected for every bad value.
    """
    if number not in SCHEMAS:
        raise ValueError(f"the paper has tables 1 to 8; got {number!r}")
    return _read(folder / f"table{number}.csv", SCHEMAS[number])


def claims(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Numbers of the running text, one row each.

    Columns ``id, value, unit, relation, model, section, what, item, minus``. ``relation`` is ``=``,
    ``<`` or ``~`` (about). Where a claim repeats table cells, it equals cell ``item``, or ``item``
    less cell ``minus`` (identifiers of :func:`items`). ``model`` is empty for statements about
    labels and protocol. Raises like :func:`table`.
    """
    return _read(folder / "claims.csv", CLAIMS_SCHEMA)


@dataclass(frozen=True)
class Hyperparameter:
    """One published setting; ``value`` is None where the paper names it but gives no value."""

    name: str
    value: object
    symbol: str | None
    reference: str
    note: str = ""


def hyperparameters(folder: Path = PAPER_DATA) -> dict[str, Hyperparameter]:
    """Published settings by name (Sec. 6.1, Appendices A and E): ``["threshold"].value == 0.7``.

    Raises ``ValueError`` naming the file and entry when a field is missing or unknown.
    """
    path = folder / "hyperparameters.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = {}
    for name, fields in entries.items():
        try:
            settings[name] = Hyperparameter(name, **fields)
        except TypeError as error:
            raise ValueError(
                f"{path}: entry {name!r} takes value, symbol, reference and a note: {error}"
            ) from None
    return settings


ITEM_KEYS = {
    1: ("model", "method", "subset", "metric"),
    2: ("variant", "metric"),
    3: ("corpus", "source", "label"),
    4: ("corpus", "source_i", "source_j"),
    5: ("benchmark", "capability"),
    6: ("split", "metric"),
    7: tuple(_CASE_KEY),
    8: tuple(_CASE_KEY),
}
"""Columns that name a number of each table; Tables 1 and 2 with one row a metric."""
_VALUES = {3: "count", 4: "agreement", 5: "supported"}


HUB_NAMES = {
    "VITA-1.5": "VITA-1.5-8B",
    "VideoLLaMA2.1-7B-AV": "Video-LLaMA2.1-7B-AV",
    "MiniCPM-o 2.6": "MiniCPM-o 2.6-8B",
    "video-SALMONN 2 7B": "Video-SALMONN 2-7B",
    "gemini-3-pro-preview": "Gemini 3 Pro",
}
"""Names in the paper of models that are known under others where they are had."""


def model_name(name: str) -> str:
    """A model's name as the paper prints it, from a hub id or a folder's name.

    ``model_name("VITA-MLLM/VITA-1.5") == "VITA-1.5-8B"``; one that the paper does not have stays.
    """
    last = name.rsplit("/", 1)[-1]
    return HUB_NAMES.get(last, last)


def item_names(number: int, frame: pd.DataFrame) -> pd.Series:
    """Identifier of each row of a long frame with the columns ``ITEM_KEYS[number]``.

    ``table1/Qwen2.5-Omni-7B/CHASE/overall/acc``, ``table3/cmu_mosi/gt/WN``. Empty or missing keys
    are left out. Gives reproduced values the names of the published ones.
    """
    parts = frame[list(ITEM_KEYS[number])].astype("string").fillna("")
    names = [
        "/".join([f"table{number}", *filter(None, row)])
        for row in parts.itertuples(index=False, name=None)
    ]
    return pd.Series(names, index=frame.index, name="item", dtype=str)


def items(number: int, folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Every number of a table as ``item, published, model, reference``, ready for :func:`compare`.

    ``item`` as by :func:`item_names`; ``model`` is empty for facts about labels and benchmarks.
    """
    frame = table(number, folder)
    value = _VALUES.get(number, "value")
    if number in (1, 2):
        kept = [column for column in frame.columns if column not in ("acc", "f1", "mae")]
        frame = frame.melt(kept, ["acc", "f1", "mae"], "metric", value)
    if number == 6:
        frame["model"] = "CHASE router"
    if number in (7, 8):
        frame["model"] = np.where(frame["item"] == "label", "", "unnamed MLLM")
    return pd.DataFrame(
        {
            "item": item_names(number, frame),
            "published": frame[value].astype(float),
            "model": frame["model"].astype(str) if "model" in frame else "",
            "reference": frame["reference"],
        }
    )


def claim_items(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """The claims in the form of :func:`items`; ``item`` reads ``claim/kappa``."""
    frame = claims(folder)
    return pd.DataFrame(
        {
            "item": "claim/" + frame["id"],
            "published": frame["value"],
            "model": frame["model"],
            "reference": frame["section"],
        }
    )


def _by_item(values: pd.DataFrame | pd.Series | Mapping[str, float], name: str) -> pd.DataFrame:
    if not isinstance(values, pd.DataFrame):
        values = pd.Series(values, dtype=float).rename_axis("item").rename(name).reset_index()
    if missing := {"item", name} - set(values.columns):
        raise ValueError(f"compare: the {name} values lack the columns {sorted(missing)}")
    if (twice := values["item"].duplicated()).any():
        some = sorted(set(values["item"][twice]))[:5]
        raise ValueError(f"compare: {name} items occur twice: {some}")
    return values.set_index("item")


def _same_model(one: str, other: str) -> bool:
    """Whether two names mean one model, with or without the owner (``Qwen/Qwen2.5-Omni-7B``)."""
    return model_name(one) == model_name(other)


def compare(
    published: pd.DataFrame | pd.Series | Mapping[str, float],
    reproduced: pd.DataFrame | pd.Series | Mapping[str, float],
    tolerance: float | Mapping[str, float],
    *,
    profile: str,
    not_comparable: Mapping[str, str] | None = None,
    assume: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Published beside reproduced values, one row an item, in the order of ``published``.

    Parameters
    ----------
    published
        Columns ``item, published`` and, for a result of a model, ``model`` (see :func:`items`); or
        a mapping from item to value.
    reproduced
        Columns ``item, reproduced`` and, where known, ``low, high`` (95% interval) and ``model``;
        or a mapping. Items without a published value follow at the end with ``within`` missing.
    tolerance
        Largest absolute difference, in the item's own unit, that still counts as reproduced; one
        for all or one an item. Zero asks for the printed value exactly, half a unit in the last
        printed digit asks for a value that prints the same. The interval never widens it.
    profile
        Name of the profile that made the reproduced values.
    not_comparable
        Reason by item why the comparison makes no sense under this profile.
    assume
        Reproduced model by the name that stands for an unnamed one (:data:`UNNAMED`).

    Returns
    -------
    Columns ``item, published, reproduced, low, high, tolerance, within, profile, note``. ``within``
    is boolean and missing where nothing can be said, with the reason in ``note``. A value published
    for one model and reproduced with another (or with none named) is always such a case: a
    result of a small model is never presented as one about a real model.

    Raises ``ValueError`` for missing columns, repeated items, and an item without a tolerance.
    """
    left, right = _by_item(published, "published"), _by_item(reproduced, "reproduced")
    reasons, assume = not_comparable or {}, assume or {}
    if unknown := set(assume) - set(UNNAMED):
        raise ValueError(f"compare: assume takes names out of {UNNAMED}; got {sorted(unknown)}")
    rows = []
    for item in [*left.index, *right.index.difference(left.index, sort=False)]:
        there, here = item in left.index, item in right.index
        old = float(left.at[item, "published"]) if there else np.nan
        new = float(right.at[item, "reproduced"]) if here else np.nan
        low, high = (
            float(right.at[item, end]) if here and end in right else np.nan
            for end in ("low", "high")
        )
        if isinstance(tolerance, Mapping):
            if there and item not in tolerance:
                raise ValueError(f"compare: item {item!r} lacks a tolerance; give every item one")
            allowed = float(tolerance.get(item, np.nan))
        else:
            allowed = float(tolerance)
        model = left.at[item, "model"] if there and "model" in left else ""
        ours = right.at[item, "model"] if here and "model" in right else ""
        model, ours = ("" if pd.isna(m) else str(m) for m in (model, ours))
        within, note = pd.NA, ""
        if item in reasons:
            note = reasons[item]
        elif not there:
            note = "no published value"
        elif np.isnan(new):
            note = "not reproduced"
        elif model and not _same_model(assume.get(model, model), ours):
            other = ours or "a model not named"
            note = f"not comparable: published for {model}, reproduced with {other}"
        else:
            # The slack only absorbs binary rounding of decimal numbers.
            within = abs(new - old) <= allowed + 1e-9
            note = f"assumes that the paper's {model} is {assume[model]}" if model in assume else ""
        rows.append((item, old, new, low, high, allowed, within, profile, note))
    return pd.DataFrame(rows, columns=list(COMPARISON)).astype({"within": "boolean"})
