"""Gains that the text quotes, recomputed from the tables, and what stands beside them there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emomm_study.audit.attainable import SHARE, attainable_sizes
from emomm_study.audit.mix import DIGITS, best_weights
from emomm_study.paper import claims, items, table
from emomm_study.paths import PAPER_DATA

RATE_DIGITS = 4
"""Decimals that Table 6 prints."""


def claim_checks(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Every number of the running text beside what the tables give for it.

    Columns ``id, quoted, unit, model, section, cells, recomputed, difference, holds, what``.
    ``cells`` reads ``a - b`` for a difference of two cells. ``holds`` is missing, and ``cells`` is
    "not in a table", where the number is quoted from a figure or the protocol alone. Raises
    ``ValueError`` naming the claim when a cell it refers to does not exist.
    """
    known = pd.concat([items(n, folder) for n in (1, 2, 6)]).set_index("item")["published"]
    rows = []
    for claim in claims(folder).itertuples(index=False):
        cells = [cell for cell in (claim.item, claim.minus) if cell]
        if absent := [cell for cell in cells if cell not in known.index]:
            raise ValueError(f"claims.csv: {claim.id} refers to {absent}, which no table has")
        value = known[claim.item] - (known[claim.minus] if claim.minus else 0) if cells else np.nan
        # Rounding to more digits than any table has only drops the error of binary subtraction.
        value = float(np.round(value, 6))
        difference = float(np.round(value - claim.value, 6))
        rows.append(
            (
                *(claim.id, claim.value, claim.unit, claim.model, claim.section),
                " - ".join(cells) or "not in a table",
                *(value, difference, difference == 0 if cells else pd.NA, claim.what),
            )
        )
    columns = ["id", "quoted", "unit", "model", "section", "cells", "recomputed", "difference"]
    frame = pd.DataFrame(rows, columns=[*columns, "holds", "what"])
    return frame.astype({"holds": "boolean"})


def _better(after: pd.Series, before: pd.Series) -> dict[str, float]:
    """How much better ``after`` is: points of acc and f1, units of MAE less."""
    gains = {m: (-1 if m == "mae" else 1) * (after[m] - before[m]) for m in DIGITS}
    return {m: float(np.round(gain, DIGITS[m])) + 0.0 for m, gain in gains.items()}


def gain_table(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What CHASE gains by subset and metric, and what each part of it does (Tables 1 and 2).

    Columns ``number, model, comparison, subset, acc, f1, mae, relative_acc, holds, detail``: gains
    in points (MAE: units by which it falls), all positive where the first of the comparison is
    better, and the gain in accuracy as percent of the other's accuracy. ``holds`` where the three
    metrics agree on which is better; ``detail`` names those that go the other way than accuracy.
    """
    one = table(1, folder).set_index(["model", "method", "subset"])
    steered = one.xs("CHASE", level="method").index
    pairs = [
        (1, m, "CHASE - baseline", s, one.loc[(m, "CHASE", s)], one.loc[(m, "baseline", s)])
        for m, s in steered
    ]
    two = table(2, folder).set_index("variant")
    model = two["model"].iloc[0]
    pairs += [
        (2, model, f"full - {v}", "conflict", two.loc["full"], two.loc[v])
        for v in two.index
        if v != "full"
    ]
    pairs.append(
        (2, model, "no_router - baseline", "conflict", two.loc["no_router"], two.loc["baseline"])
    )
    rows = []
    for *names, after, before in pairs:
        gain = _better(after, before)
        other = [m for m in ("f1", "mae") if gain[m] * gain["acc"] < 0]
        detail = ", ".join(f"{m} {gain[m]:+.{DIGITS[m]}f}" for m in other)
        relative = 100 * gain["acc"] / before["acc"]
        rows.append((*names, *gain.values(), relative, not other, detail or "all agree"))
    columns = ["number", "model", "comparison", "subset", *DIGITS, "relative_acc"]
    return pd.DataFrame(rows, columns=[*columns, "holds", "detail"])


def routing_product(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Table 6: whether joint success is recall times top-1, as of one sample after the other.

    Columns ``split, recall, top1, joint, product, difference, bound, implied_top1, holds``.
    ``difference`` is joint less product, ``bound`` the most that three roundings explain, and
    ``implied_top1`` what top-1 would be among detected conflicts. Where ``holds`` is false the
    three numbers do not count the same units; top-1 averaged over steered *layers* and joint
    success over *samples* would do that, and so would a target judged by one layer in the one and
    by all of them in the other.
    """
    wide = table(6, folder).pivot(index="split", columns="metric", values="value")
    half = 0.5 * 10.0**-RATE_DIGITS
    rows = []
    for split in ("valid", "test"):
        recall, top1, joint = wide.loc[split, ["conflict_recall", "target_top1", "joint_success"]]
        product = recall * top1
        bound = (recall + half) * (top1 + half) - product + half
        difference = joint - product
        holds = bool(abs(difference) <= bound)
        rows.append((split, recall, top1, joint, product, difference, bound, joint / recall, holds))
    columns = ["split", "recall", "top1", "joint", "product", "difference", "bound"]
    return pd.DataFrame(rows, columns=[*columns, "implied_top1", "holds"])


def routing_sizes(folder: Path = PAPER_DATA, most: int = 4000) -> pd.DataFrame:
    """Table 6: numbers of true conflicts that print both recall and joint success of a split.

    Columns ``split, conflicts, least, sizes, holds, detail``: conflicts among the split's
    full-modality clips by Table 1's mix, the least size that prints both, all sizes to ``most``,
    and whether one lies within 10% of ``conflicts``. Where none does, the samples of Table 6 are
    not the full-modality conflicts of that split alone; Missing-Conflict instances may be among
    them.
    """
    facts = claims(folder).set_index("id")["value"]
    share = best_weights(("acc",), "largest", folder).weights.conflict_share
    wide = table(6, folder).pivot(index="split", columns="metric", values="value")
    rows = []
    for split in ("valid", "test"):
        conflicts = share * 2 * facts["clips_per_corpus"] * facts[f"split_{split}"]
        both = [
            attainable_sizes(wide.loc[split, m], RATE_DIGITS, SHARE, range(1, most + 1))
            for m in ("conflict_recall", "joint_success")
        ]
        sizes = np.intersect1d(*both)
        near = sizes[np.abs(sizes - conflicts) <= 0.1 * conflicts]
        least = int(sizes.min()) if len(sizes) else most + 1
        detail = f"about {conflicts:.0f} full-modality conflicts; the least size is {least}"
        rows.append((split, conflicts, least, tuple(sizes.tolist()), len(near) > 0, detail))
    columns = ["split", "conflicts", "least", "sizes", "holds", "detail"]
    return pd.DataFrame(rows, columns=columns)


def observations(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What a reader of the quoted gains may want to know: ``id, whose, statement, holds, detail``.

    ``whose`` is ``paper`` for what the paper says, ``reading`` for what one may read into it;
    ``holds`` is whether the published numbers make it so, and ``detail`` the numbers.
    """
    rows = [
        *_of_quoted_gains(folder),
        *_of_every_score(folder),
        *_of_collapse(folder),
        *_of_joint_success(folder),
    ]
    frame = pd.DataFrame(rows, columns=["id", "whose", "statement", "holds", "detail"])
    return frame.astype({"holds": bool})


Observation = tuple[str, str, str, bool, str]


def _of_quoted_gains(folder: Path) -> list[Observation]:
    facts = claims(folder).set_index("id")
    value = facts["value"]
    gains = gain_table(folder).set_index(["comparison", "model", "subset"])
    one = gains.xs("CHASE - baseline")
    overall = value["gain_overall_qwen"]
    base = table(1, folder).set_index(["model", "method", "subset"])["acc"]
    qwen, vita = (facts.loc[f"gain_{s}", "model"] for s in ("missing_qwen", "conflict_vita"))
    relative = 100 * overall / base[qwen, "baseline", "overall"]
    return [
        (
            "gain_in_points",
            "paper",
            f"the quoted gain of {overall}% is in points",
            one.loc[(qwen, "overall"), "acc"] == overall,
            f"relative to the baseline's {base[qwen, 'baseline', 'overall']} it is {relative:.1f}%",
        ),
        (
            "gains_share_a_backbone",
            "reading",
            "the gains that Sec. 1 quotes for Conflict and Missing are of one backbone",
            qwen == vita,
            "; ".join(
                f"{m}: Conflict {one.loc[(m, 'conflict'), 'acc']:+.2f}, "
                f"Missing {one.loc[(m, 'missing'), 'acc']:+.2f}, "
                f"Overall {one.loc[(m, 'overall'), 'acc']:+.2f}"
                for m in (qwen, vita)
            ),
        ),
    ]


def _of_every_score(folder: Path) -> list[Observation]:
    gains = gain_table(folder).set_index(["comparison", "model", "subset"])
    one = gains.xs("CHASE - baseline")
    rows: list[Observation] = []
    every = {
        # Its caption says no more than "consistently improves performance".
        "all_metrics_gain": ("reading", one, "CHASE improves every score of Table 1"),
        "full_is_best": (
            "reading",
            gains[[c.startswith("full") for c in gains.index.get_level_values(0)]],
            "every part of CHASE helps every score of Table 2",
        ),
    }
    for name, (whose, part, statement) in every.items():
        worse = [
            f"{' '.join(map(str, index))} {m} {row[m]:+.{DIGITS[m]}f}"
            for index, row in part.iterrows()
            for m in DIGITS
            if row[m] < 0
        ]
        rows.append((name, whose, statement, not worse, "; ".join(worse) or "none is worse"))
    random = gains.xs("no_router - baseline").iloc[0]
    rows.append(
        (
            "random_steering_is_worse",
            "paper",
            "random steering is worse than no steering (Table 2, accuracy)",
            random["acc"] < 0,
            f"accuracy {random['acc']:+.2f}, F1 {random['f1']:+.2f}, MAE {-random['mae']:+.3f}",
        )
    )
    return rows


def _of_collapse(folder: Path) -> list[Observation]:
    value = claims(folder).set_index("id")["value"]
    before, after = value["vcc_share_v_align"], value["vcc_share_v_conflict"]
    change = 100 * (after / before - 1)
    drops = {m: value[f"vcc_drop_{m}"] for m in "tav"}
    others = (drops["t"] + drops["a"]) / 2
    return [
        (
            "align_share_is_equal",
            "paper",
            "video's share on Align is one third to the printed digit",
            abs(before - 100 / 3) <= 0.05,
            f"{before}% against 33.33%: an equal share, of which {after}% is "
            f"{after - before:+.1f} points or {change:+.1f}%",
        ),
        (
            "video_falls_most",
            "paper",
            "video alone loses more accuracy from Align to Conflict than text or audio alone",
            drops["v"] > max(drops["t"], drops["a"]),
            f"V -{drops['v']}, T -{drops['t']}, A -{drops['a']} (whether points or percent is not "
            f"said): V's drop is {drops['v'] / others:.2f} times the mean of the other two",
        ),
    ]


def _of_joint_success(folder: Path) -> list[Observation]:
    product = routing_product(folder)
    about = claims(folder).set_index("id")["value"]["router_joint_success_about"]
    return [
        (
            "joint_is_about_70",
            "paper",
            f"joint success is about {about:.0f}% in both splits",
            bool((100 * product["joint"]).round().sub(about).abs().le(1).all()),
            ", ".join(f"{r.split} {100 * r.joint:.2f}%" for r in product.itertuples()),
        ),
        (
            "joint_is_product",
            "reading",
            "joint success is recall times top-1 within rounding (Table 6)",
            bool(product["holds"].all()),
            ", ".join(
                f"{r.split} {r.difference:+.4f} (rounding: {r.bound:.5f})"
                for r in product.itertuples()
            ),
        ),
    ]
