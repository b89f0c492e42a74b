"""Published values, their internal consistency, and the comparison with reproduced ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import yaml

from emomm_lib.paths import PAPER_DATA

CLASSES = ("N", "WN", "Neu", "WP", "P")
SOURCES = ("gt", "t", "a", "v")
CORPORA = ("cmu_mosi", "ch_sims_v2")
SUBSETS = ("overall", "align", "conflict", "missing")
MIX = {"missing": 0.752, "conflict": 0.163, "align": 0.085}
"""Share of each subset in Table 1's Overall column, measured from its accuracies."""
MIX_TOLERANCE = {"acc": 0.02, "mae": 0.001}
"""Points of accuracy, units of MAE: two roundings to the last printed digit, and that of MIX."""
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


def _mix_checks(folder: Path) -> Iterator[tuple]:
    frame = table(1, folder)
    for metric, tolerance in MIX_TOLERANCE.items():
        wide = frame.pivot(index=["model", "method"], columns="subset", values=metric)
        residual = wide["overall"] - sum(share * wide[subset] for subset, share in MIX.items())
        for (model, method), value in residual.items():
            check = f"Overall {metric} of {model} {method} is the mix of its subsets"
            yield check, "Table 1", abs(value) <= tolerance, f"residual {value:+.4f}"


def _label_checks(folder: Path) -> Iterator[tuple]:
    facts = claims(folder).set_index("id")["value"]
    clips = int(facts["clips_per_corpus"])
    counts, agreement = table(3, folder), table(4, folder)
    totals = {}
    for (corpus, source), rows in counts.groupby(["corpus", "source"]):
        by_class = rows.set_index("label").loc[list(CLASSES), "count"].to_numpy()
        totals[corpus, source] = int(by_class @ np.arange(5))
        check = f"classes of {corpus} {source} sum to {clips}"
        yield check, "Table 3", by_class.sum() == clips, f"sum {by_class.sum()}"
    cells = agreement.set_index(["corpus", "source_i", "source_j"])["agreement"]
    for corpus in CORPORA:
        for source in SOURCES:
            value = cells[corpus, source, source]
            yield f"{corpus} {source} agrees with itself", "Table 4", value == 1, f"{value:.4f}"
        for i, j in combinations(SOURCES, 2):
            value, mirrored = cells[corpus, i, j], cells[corpus, j, i]
            detail = f"{value:.4f} and {mirrored:.4f}"
            yield f"{corpus} {i}-{j} is symmetric", "Table 4", value == mirrored, detail
            # Eq. 1: C = 1 - S / 4N with an integer S, the sum of |y_i - y_j|, which is odd exactly
            # when the sum of y_i - y_j is, and that one follows from Table 3.
            total = np.arange(4 * clips + 1)
            total = total[np.abs(1 - total / (4 * clips) - value) <= 0.5e-4 + 1e-9]
            check = f"{corpus} {i}-{j} is 1 - S/{4 * clips} for an integer S"
            detail = f"S in {total.tolist()}"
            yield check, "Table 4, Eq. 1", len(total) > 0, detail
            odd = (totals[corpus, i] - totals[corpus, j]) % 2
            check = f"{corpus} {i}-{j} has the parity that the label counts force"
            yield check, "Tables 3-4", bool((total % 2 == odd).any()), f"{detail}, odd: {odd}"
    quotas = facts[[name for name in facts.index if name.startswith("quota_ch_sims_")]].sum()
    yield "CH-SIMS quotas sum to its clips", "Appendix A.1", quotas == clips, f"{quotas:.0f}"
    ratio = np.array(hyperparameters(folder)["split_ratio"].value)
    shares = facts[["split_train", "split_valid", "split_test"]].to_numpy()
    holds = np.allclose(shares, ratio / ratio.sum())
    yield "split shares follow the ratio", "Sec. 6.1", holds, str(shares)


def _text_checks(folder: Path) -> Iterator[tuple]:
    known = pd.concat([items(n, folder) for n in SCHEMAS]).set_index("item")["published"]
    for claim in claims(folder).itertuples():
        if claim.item:
            cell = known[claim.item] - (known[claim.minus] if claim.minus else 0)
            check, holds = (
                f"claim {claim.id} equals its table cells",
                abs(cell - claim.value) < 1e-6,
            )
            yield check, claim.section, holds, f"cells give {cell:.4f}"
    for metric in ("acc", "f1", "mae"):
        for variant, method in (("full", "CHASE"), ("baseline", "baseline")):
            one = known[f"table1/Qwen2.5-Omni-7B/{method}/conflict/{metric}"]
            two = known[f"table2/{variant}/{metric}"]
            check = f"Table 2's {metric} of {variant} is Table 1's"
            yield check, "Tables 1-2", one == two, f"{one} and {two}"
    for split in ("valid", "test"):
        joint, recall = (known[f"table6/{split}/{m}"] for m in ("joint_success", "conflict_recall"))
        check = f"joint success of {split} is at most its recall"
        yield check, "Table 6", joint <= recall, f"{joint} and {recall}"


def _case_checks(folder: Path) -> Iterator[tuple]:
    settings = hyperparameters(folder)
    allowed = [settings[f"score_policy_{corpus}"].value for corpus in CORPORA]
    letter = dict(zip(CLASSES, "ABCDE", strict=True))
    for number in (7, 8):
        reference, frame = f"Table {number}", table(number, folder)
        attention = frame[frame["item"] == "attention"]
        sums = attention.groupby(["method", "layer"])["value"].sum()
        for (method, layer), value in sums.items():
            # Three shares, each rounded to four decimals.
            holds = abs(value - 1) <= 1.5e-4 + 1e-9
            yield f"{method} shares of layer {layer} sum to 1", reference, holds, f"sum {value:.4f}"
        truth = frame.loc[(frame["item"] == "label") & (frame["source"] == "gt"), "label"].item()
        for row in frame[frame["item"] != "attention"].itertuples():
            which = f"{row.item} {row.method or row.source}"
            holds = all(row.value in policy[letter[row.label]] for policy in allowed)
            check = f"score of {which} belongs to its class"
            yield check, reference, holds, f"{row.label} ({row.value})"
            if row.item == "prediction":
                holds = row.correct == (row.label == truth)
                yield (
                    f"{which} is marked as it is",
                    reference,
                    holds,
                    f"{row.label} against {truth}",
                )


def audit(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Internal consistency of the published numbers: ``check, reference, holds, detail``.

    Raises like :func:`table` where a file breaks its schema; a failed check is a row with
    ``holds`` false, not an error.
    """
    groups = (_mix_checks, _label_checks, _text_checks, _case_checks)
    rows = [row for checks in groups for row in checks(folder)]
    return pd.DataFrame(rows, columns=["check", "reference", "holds", "detail"]).astype(
        {"holds": bool}
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
    return one.rsplit("/", 1)[-1] == other.rsplit("/", 1)[-1]


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
