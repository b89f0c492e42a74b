"""Whether the published numbers agree with each other, cell by cell: sums, mixes, quoted gains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib.labels import CLASSES, SOURCES
from emomm_study import paper
from emomm_study.audit.gains import claim_checks
from emomm_study.audit.mix import Weights, residuals
from emomm_study.paths import PAPER_DATA

MIX = Weights(missing=0.7524, conflict=0.1627, align=0.0849)
"""Share of each subset in Table 1's Overall column, in which every row fits (``audit.mix``)."""


def _mix_checks(folder: Path) -> Iterator[tuple]:
    for row in residuals(MIX, ("acc", "mae"), folder).itertuples(index=False):
        check = f"Overall {row.metric} of {row.model} {row.method} is the mix of its subsets"
        yield check, "Table 1", row.holds, f"residual {row.residual:+.4f}"


def _label_checks(folder: Path) -> Iterator[tuple]:
    facts = paper.claims(folder).set_index("id")["value"]
    clips = int(facts["clips_per_corpus"])
    counts, agreement = paper.table(3, folder), paper.table(4, folder)
    totals = {}
    for (corpus, source), rows in counts.groupby(["corpus", "source"]):
        by_class = rows.set_index("label").loc[list(CLASSES), "count"].to_numpy()
        totals[corpus, source] = int(by_class @ np.arange(5))
        check = f"classes of {corpus} {source} sum to {clips}"
        yield check, "Table 3", by_class.sum() == clips, f"sum {by_class.sum()}"
    cells = agreement.set_index(["corpus", "source_i", "source_j"])["agreement"]
    for corpus in paper.CORPORA:
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
    ratio = np.array(paper.hyperparameters(folder)["split_ratio"].value)
    shares = facts[["split_train", "split_valid", "split_test"]].to_numpy()
    holds = np.allclose(shares, ratio / ratio.sum())
    yield "split shares follow the ratio", "Sec. 6.1", holds, str(shares)


def _text_checks(folder: Path) -> Iterator[tuple]:
    known = pd.concat([paper.items(n, folder) for n in (1, 2, 6)])
    known = known.set_index("item")["published"]
    for claim in claim_checks(folder).dropna(subset="holds").itertuples(index=False):
        check = f"claim {claim.id} equals its table cells"
        yield check, claim.section, bool(claim.holds), f"cells give {claim.recomputed:.4f}"
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
    settings = paper.hyperparameters(folder)
    allowed = [settings[f"score_policy_{corpus}"].value for corpus in paper.CORPORA]
    letter = dict(zip(CLASSES, "ABCDE", strict=True))
    for number in (7, 8):
        reference, frame = f"Table {number}", paper.table(number, folder)
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


def consistency(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Internal consistency of the published numbers: ``check, reference, holds, detail``.

    Raises like :func:`emomm_study.paper.table` where a file breaks its schema; a failed check is a
    row with ``holds`` false, not an error.
    """
    groups = (_mix_checks, _label_checks, _text_checks, _case_checks)
    rows = [row for checks in groups for row in checks(folder)]
    return pd.DataFrame(rows, columns=["check", "reference", "holds", "detail"]).astype(
        {"holds": bool}
    )
