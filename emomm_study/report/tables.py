"""The paper's tables with published and reproduced values side by side.

``heading`` is what the reproduced values are called beside ``published``: the profile's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from emomm_lib import agreement_matrix
from emomm_lib.labels import CLASSES, SOURCES
from emomm_study import paper
from emomm_study.report.numbers import fixed
from emomm_study.report.style import CORPUS_NAMES, NAMES, SUBSET_TITLES

SUBSET_NAMES = {
    "overall": "EmoMM (Overall)",
    "align": "EmoMM-Align",
    "conflict": "EmoMM-Conflict",
    "missing": "EmoMM-Missing",
}
METRIC_NAMES = {"acc": "Acc", "f1": "F1", "mae": "MAE"}
DECIMALS = {"Acc": 2, "F1": 2, "MAE": 3}
"""Printed digits of Table 1's columns."""
VARIANT_NAMES = {
    "full": "Full CHASE",
    "no_router": "w/o Router (Random Steering)",
    "no_inter_bias": "w/o Inter-modality Bias",
    "no_intra_bias": "w/o Intra-modality Bias",
    "baseline": "Original Baseline",
}
SPLIT_NAMES = {"valid": "Valid", "test": "Test"}
ROUTING_NAMES = {
    "conflict_recall": "Conflict Detection Recall",
    "target_top1": "Target-Modality Top-1 on Steered Layers",
    "joint_success": "Joint Success Rate",
}
YES, NO = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass(frozen=True)
class Collapsed:
    """A long table that opens on a click, under a line that counts its rows; as text that line."""

    table: pd.DataFrame
    line: str

    def _repr_html_(self) -> str:
        shown = self.table.to_html(na_rep="", max_rows=None)
        return f"<details><summary>{escape(self.line)}</summary>\n{shown}</details>"

    def __repr__(self) -> str:
        return self.line


def collapsed(compared: pd.DataFrame) -> Collapsed:
    """Published beside reproduced values, with what keeps most of them from being compared in a line.

    ``compared`` as of :func:`emomm_study.paper.compare`; the full list is RESULTS.md's.
    """
    notes = compared["note"].replace("", pd.NA).dropna().value_counts()
    why = "; ".join(f"{many} {note}" for note, many in notes.items())
    line = f"{len(compared)} numbers beside the published ones{': ' * bool(why)}{why}"
    return Collapsed(compared.drop(columns="note").set_index("item"), line)


def label_counts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Clips by ``corpus, source, label`` (class name), zeros included: ``count`` (Table 3).

    ``manifest`` has ``corpus`` and ``label_gt/t/a/v`` (0..4), one row a clip.
    """
    long = manifest.melt("corpus", [f"label_{s}" for s in SOURCES], "source", "label")
    corpora = [corpus for corpus in paper.CORPORA if corpus in set(long["corpus"])]
    index = pd.MultiIndex.from_product(
        [corpora, SOURCES, CLASSES], names=["corpus", "source", "label"]
    )
    long["source"] = long["source"].str.removeprefix("label_")
    long["label"] = np.array(CLASSES)[long["label"]]
    counts = long.groupby(["corpus", "source", "label"]).size()
    return counts.reindex(index, fill_value=0).rename("count").reset_index()


def agreements(manifest: pd.DataFrame) -> pd.DataFrame:
    """C_ij by ``corpus, source_i, source_j``: ``agreement`` (Eq. 1, Table 4)."""
    parts = {
        corpus: agreement_matrix(manifest[manifest["corpus"] == corpus]).stack()
        for corpus in paper.CORPORA
        if (manifest["corpus"] == corpus).any()
    }
    long = pd.concat(parts, names=["corpus", "source_i", "source_j"])
    return long.rename("agreement").reset_index()


def _beside(
    number: int, value: str, reproduced: pd.DataFrame, columns: str, order: tuple, heading: str
) -> pd.DataFrame:
    """Rows by the remaining keys, columns ``(columns, published | heading)``."""
    keys = [key for key in paper.ITEM_KEYS[number] if key != columns]
    wide = {
        "published": paper.table(number).pivot(index=keys, columns=columns, values=value),
        heading: reproduced.pivot(index=keys, columns=columns, values=value),
    }
    both = pd.concat(wide, axis=1, names=["value", columns]).swaplevel(axis=1)
    rows = pd.MultiIndex.from_product([paper.CORPORA, SOURCES], names=keys)
    return both.reindex(rows, columns=pd.MultiIndex.from_product([order, wide]))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename(index={**CORPUS_NAMES, **NAMES}, columns=NAMES)
    return frame.rename_axis(index=["corpus", "source"], columns=["", "value"])


def table3(manifest: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Table 3: class counts by corpus and source, columns ``(class, published | <heading>)``."""
    counts = label_counts(manifest)
    return _named(_beside(3, "count", counts, "label", CLASSES, heading).astype("Int64"))


def table4(manifest: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Table 4: C_ij by corpus and source, columns ``(source, published | <heading>)``."""
    return _named(_beside(4, "agreement", agreements(manifest), "source_j", SOURCES, heading))


RUN_HERE = "Run by this companion"


def table5(
    companion: Mapping[str, str] | None = None, runs: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Table 5: capabilities by benchmark as check marks and crosses.

    ``companion`` adds a column that says where this companion shows a capability (by the paper's
    capability name or by its key); a dash where it does not. ``runs`` adds a row that says of every
    benchmark how this companion runs it. Raises ``ValueError`` for a capability or benchmark that the
    table does not have, and for a benchmark of which nothing is said.
    """
    frame = paper.table(5)
    if runs is not None and (odd := {*runs} ^ {*frame["benchmark"]}):
        raise ValueError(
            f"Table 5 has the benchmarks {[*frame['benchmark'].unique()]}; {sorted(odd)} "
            "is too many or not told of"
        )
    if unknown := set(companion or {}) - set(frame["capability"]) - set(frame["name"]):
        raise ValueError(f"Table 5 has no capability {sorted(unknown)}")
    keys = frame.drop_duplicates("capability").set_index("name")["capability"]
    marks = frame.pivot(index="name", columns="benchmark", values="supported")
    marks = marks.loc[keys.index, frame["benchmark"].unique()].replace({True: YES, False: NO})
    if companion is not None:
        where = [companion.get(key, companion.get(name, "-")) for name, key in keys.items()]
        marks["in this companion"] = where
    if runs is not None:
        marks.loc[RUN_HERE] = pd.Series(runs).reindex(marks.columns, fill_value="")
    return marks.rename_axis(index="capability", columns=None)


def published_units(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as by ``emomm_lib.score_frame`` in Table 1's names and units.

    Keeps ``acc5`` (as ``acc``), ``f1`` and ``mae``; accuracy and F1 become percent.
    """
    kept = scores[scores["metric"].isin(["acc5", "f1", "mae"])].copy()
    percent = kept["metric"] != "mae"
    kept["metric"] = kept["metric"].replace({"acc5": "acc"})
    ends = ["value", "low", "high"]
    kept[ends] = kept[ends].where(~percent, kept[ends] * 100)
    return kept


def table1(results: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Table 1's rows with the reproduced ones beneath them.

    ``results`` has ``model, method`` (``baseline`` or ``CHASE``)``, subset, metric`` (``acc, f1,
    mae``)``, value, low, high`` in published units (see :func:`published_units`); a hub id counts
    as the paper's name for it. A model that the paper does not have forms the group "not in the paper" and
    has no published row, so a small model's numbers never stand in a real model's row.

    Returns rows ``(group, model, method, values)`` with ``values`` either ``published`` or the
    heading, columns ``(subset, Acc | Acc 95% | F1 | MAE)``; ``Acc 95%`` is a text
    ``[low, high]``, empty for published rows.
    """
    known = paper.table(1)
    results = results.assign(model=results["model"].map(paper.model_name))
    order = known.drop_duplicates(["model", "method"])[["group", "model", "method"]]
    ours = results.drop_duplicates(["model", "method"])[["model", "method"]]
    ours = ours.merge(order, how="left", on=["model", "method"])
    ours["group"] = ours["group"].fillna("not in the paper")
    published = known.melt(["group", "model", "method", "subset"], ["acc", "f1", "mae"], "metric")
    reproduced = results.merge(ours, on=["model", "method"])
    parts = [published.assign(values="published"), reproduced.assign(values=heading)]
    both = pd.concat(parts, ignore_index=True)
    both["text"] = _intervals(both, DECIMALS["Acc"])
    index = ["group", "model", "method", "values"]
    wide = both.pivot(index=index, columns=["subset", "metric"])
    columns = {}
    for subset, title in SUBSET_NAMES.items():
        for metric, name in METRIC_NAMES.items():
            unknown = pd.Series(np.nan, wide.index)
            columns[title, name] = wide.get(("value", subset, metric), unknown).astype(float)
            if metric == "acc":
                text = wide.get(("text", subset, metric), unknown.astype(str))
                columns[title, "Acc 95%"] = text.fillna("")
    frame = pd.DataFrame(columns)
    wanted = []
    for group, model, method in pd.concat([order, ours]).drop_duplicates()[index[:3]].to_numpy():
        wanted += [(group, model, method, values) for values in ("published", heading)]
    return frame.loc[[key for key in wanted if key in frame.index]]


def _intervals(rows: pd.DataFrame, digits: int) -> pd.Series:
    """Intervals as ``[low, high]``, empty where an end is missing."""
    text = [
        "" if pd.isna(low) or pd.isna(high) else f"[{fixed(low, digits)}, {fixed(high, digits)}]"
        for low, high in zip(rows["low"], rows["high"], strict=True)
    ]
    return pd.Series(text, rows.index, dtype=str)


def _allowed(column: pd.Series, what: str, names: Mapping[str, str]) -> None:
    if unknown := sorted(set(column) - set(names), key=str):
        raise ValueError(f"{what}: {column.name} is one of {[*names]}, got also {unknown}")


def table2(results: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Table 2: the ablation on EmoMM-Conflict, published scores beside reproduced ones.

    ``results`` has ``variant`` (``full, no_router, no_inter_bias, no_intra_bias, baseline``),
    ``metric`` (``acc, f1, mae``) and ``value, low, high`` in published units: percent for accuracy
    and F1. Other variants follow beneath under their own names, without published scores.

    Returns columns ``(published, Acc | F1 | MAE)`` and ``(<heading>, Acc | Acc 95% | F1 | MAE)``,
    ``Acc 95%`` a text. A variant without results has no number. Raises ``ValueError`` for another
    metric or two rows of one variant and metric.
    """
    _allowed(results["metric"], "Table 2", METRIC_NAMES)
    known = paper.table(2).set_index("variant")
    wide = results.pivot(index="variant", columns="metric", values="value")
    accuracy = results[results["metric"] == "acc"].set_index("variant")
    order = [*dict.fromkeys([*VARIANT_NAMES, *results["variant"]])]
    columns = {("published", name): known[key] for key, name in METRIC_NAMES.items()}
    for key, name in METRIC_NAMES.items():
        columns[heading, name] = wide[key] if key in wide else pd.Series(dtype=float)
        if key == "acc":
            columns[heading, "Acc 95%"] = _intervals(accuracy, DECIMALS[name])
    table = pd.DataFrame({key: column.reindex(order) for key, column in columns.items()})
    table[heading, "Acc 95%"] = table[heading, "Acc 95%"].fillna("")
    return table.rename(index=VARIANT_NAMES).rename_axis("variant")


def table6(results: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Table 6: how well the router finds conflicts and the modality to trust, by split.

    ``results`` has ``split`` (``valid, test``), ``metric`` (``conflict_recall, target_top1,
    joint_success``) and ``value, low, high`` in 0..1, as by ``metrics.routing.routing_metrics``, and
    ``model`` where there are several; the paper does not say of which model its router is.

    Returns columns ``(metric, published | <heading> | 95%)``, ``95%`` a text, and rows by split, or by
    (model, split). A split without results has no number. Raises ``ValueError`` for another split or
    metric or two rows of one.
    """
    if "model" in results:
        each = results.groupby("model", sort=False)
        parts = {name: table6(own.drop(columns="model"), heading) for name, own in each}
        return pd.concat(parts, names=["model"])
    _allowed(results["split"], "Table 6", SPLIT_NAMES)
    _allowed(results["metric"], "Table 6", ROUTING_NAMES)
    known = paper.table(6).pivot(index="split", columns="metric", values="value")
    ours = results.assign(text=_intervals(results, 4)).pivot(index="split", columns="metric")
    columns = {}
    for key, name in ROUTING_NAMES.items():
        columns[name, "published"] = known[key]
        for title, part, kind in ((heading, "value", float), ("95%", "text", str)):
            columns[name, title] = ours.get((part, key), pd.Series(dtype=kind)).astype(kind)
    table = pd.DataFrame({key: column.reindex([*SPLIT_NAMES]) for key, column in columns.items()})
    for name in ROUTING_NAMES.values():
        table[name, "95%"] = table[name, "95%"].fillna("")
    return table.rename(index=SPLIT_NAMES).rename_axis("split")


DECODING_NAMES = {"constrained": "letters", "free": "free text"}


def systems_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Acc-5 (%) with its interval by subset, a row a (system, decoding), and what was lost.

    ``scores`` is by :func:`emomm_study.evaluate.asked.side_by_side`. ``asked``, ``failed`` and
    ``unparseable`` count instances of all subsets together; a subset of which none was scored has a
    dash.
    """
    rows = scores[scores["metric"].isna() | scores["metric"].eq("acc5")]
    table = {}
    for (system, decoding), own in rows.groupby(["system", "decoding"], sort=False):
        own = own.set_index("subset")
        cells = {
            title: "-" if pd.isna(own.at[name, "value"]) else estimate(own.loc[name], 100, 1)
            for name, title in SUBSET_TITLES.items()
            if name in own.index
        }
        lost = own.loc["overall", ["asked", "failed", "unparseable"]].astype(int).to_dict()
        table[system, DECODING_NAMES[decoding]] = cells | lost
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(["system", "asked by"])


def estimate(row: object, factor: float, digits: int) -> str:
    """``value [low, high]`` of a row of a tidy result, times ``factor``; a dash for no number."""
    if pd.isna(row.value):
        return "-"
    value, low, high = (fixed(factor * x, digits) for x in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]"


def with_intervals(
    frame: pd.DataFrame,
    index: str | Sequence[str],
    columns: str | Sequence[str],
    *,
    factor: float = 100,
    digits: int = 1,
) -> pd.DataFrame:
    """A tidy result spread out, each cell ``value [low, high]`` times ``factor``.

    Rows and columns keep the order in which they first appear; a cell without a row is empty, and
    one without a number a dash.
    """
    if frame.empty:
        return pd.DataFrame()
    text = [estimate(row, factor, digits) for row in frame.itertuples()]
    table = frame.assign(text=text).pivot(index=index, columns=columns, values="text")
    rows = pd.Index(dict.fromkeys(frame.set_index(index).index), name=table.index.name)
    if table.index.nlevels > 1:
        rows = pd.MultiIndex.from_tuples(rows, names=table.index.names)
    order = list(dict.fromkeys(frame.set_index(columns).index))
    return table.reindex(index=rows, columns=order).fillna("")


def formatted(table: pd.DataFrame, decimals: int | Mapping[str, int] = 4) -> pd.DataFrame:
    """A table as text: fixed digits, a dash where there is no number.

    ``decimals`` is for all columns, or by the name in the last column level.
    """
    text = {}
    for position, column in enumerate(table.columns):
        name = column[-1] if isinstance(column, tuple) else column
        digits = decimals.get(name, 4) if isinstance(decimals, Mapping) else decimals
        values = table.iloc[:, position]
        real = pd.api.types.is_float_dtype(values)
        text[position] = [
            "-" if pd.isna(v) else fixed(v, digits) if real else str(v) for v in values
        ]
    result = pd.DataFrame(text, index=table.index)
    result.columns = table.columns
    return result
