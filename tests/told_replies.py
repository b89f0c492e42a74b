"""Replies of every kind that a model gives: plain, off the format, refusing, none at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.systems.prompts import reply

FAILED = 0.05
"""Share of instances to which there is no reply."""


def told_replies(
    clips: pd.DataFrame, coalitions: Sequence[str] = COALITIONS, seed: int = 0
) -> pd.DataFrame:
    """A reply to every clip under every coalition: ``sample_id, coalition, reply``; "" is none."""
    rng = np.random.default_rng(seed)
    rows = clips.merge(pd.DataFrame({"coalition": list(coalitions)}), how="cross")
    said = []
    for corpus, truth in zip(rows["corpus"], rows["label_gt"], strict=True):
        label = int(truth) if rng.random() < 0.6 else int(rng.integers(5))
        letter = LETTERS[label]
        score = rng.choice(GRIDS[Corpus(corpus)].scores(label))
        kinds = [
            reply(label, score),
            f"**Answer:** {letter}\n\nScore: {score:.1f}",
            f"{letter}\nScore: 0.1",
            letter,
            "I cannot tell how this person feels.",
            "",
        ]
        chance = [0.6, 0.1, 0.1, 0.1, 0.1 - FAILED, FAILED]
        said.append(kinds[rng.choice(len(kinds), p=chance)])
    return rows[["sample_id", "coalition"]].assign(reply=said)


def submission(replies: pd.DataFrame) -> list[dict[str, str]]:
    """The same as rows that one hands in."""
    return [
        {"sample_id": s, "coalition": c, **({"reply": r} if r else {"failure": "no reply"})}
        for s, c, r in replies.itertuples(index=False)
    ]
