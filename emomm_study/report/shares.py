"""PSMV shares that labels alone allow, as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.psmv import SUBSETS
from emomm_study import paper
from emomm_study.report.frames import need
from emomm_study.report.numbers import MINUS, number
from emomm_study.report.style import SUBSET_TITLES

STRATEGIES = {"random": "follows one at random", "average": "follows the average"}


def shares_table(ranges: pd.DataFrame, committed: pd.DataFrame) -> pd.DataFrame:
    """Shares in percent that strategies without preference can have, of both corpora together.

    Parameters
    ----------
    ranges
        ``corpus, constraints, reader, subset, modality, quantity, low, high`` as by
        ``audit.collapse.share_ranges``; of it the shares under the last, narrowest constraints.
    committed
        ``corpus, reader, subset, modality, quantity, value`` as by ``audit.collapse.shares_of``.

    Returns rows ``(strategy, subset)`` and columns ``(modality, allowed | surrogates)``, and for V
    the ``published`` share, which is a model's; all text. Raises ``ValueError`` for missing columns
    or where both corpora together are missing.
    """
    keys = ("reader", "subset", "modality")
    need(ranges, "ranges", "corpus", "constraints", *keys, "quantity", "low", "high")
    need(committed, "committed", "corpus", *keys, "quantity", "value")
    both = ranges[ranges["quantity"].eq("share") & ranges["corpus"].eq("both")]
    if both.empty:
        raise ValueError("ranges: no shares of both corpora together; give all of collapse.allowed")
    allowed = both[both["constraints"] == both["constraints"].iloc[-1]].set_index([*keys])
    own = committed[committed["corpus"].eq("both") & committed["quantity"].eq("share")]
    own, facts = own.set_index([*keys])["value"], paper.claims().set_index("id")["value"]
    rows = {}
    for strategy, name in STRATEGIES.items():
        for subset in SUBSETS:
            row = rows[name, SUBSET_TITLES[subset]] = {}
            for modality in MODALITIES:
                low, high = 100 * allowed.loc[(strategy, subset, modality), ["low", "high"]]
                row[modality, "allowed"] = f"{_end(low)} to {_end(high)}"
                row[modality, "surrogates"] = number(100 * own[strategy, subset, modality], 1)
            row["V", "published"] = number(facts[f"vcc_share_v_{subset}"], 1)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["reference strategy", "subset"])
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def _end(value: float) -> str:
    if np.isinf(value):
        return f"{MINUS if value < 0 else ''}\N{INFINITY}"
    return f"{value:,.0f}".replace("-", MINUS)
