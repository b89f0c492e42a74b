"""Votes as files: the means that the corpus loader reads, and anonymous votes for release (A.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from emomm_lib.labels import MODALITIES
from emomm_study.annotation.agreement import COUNTS, RATERS, check_votes, vote_counts
from emomm_study.annotation.campaign import ANONYMOUS
from emomm_study.paths import whole

HEADER = ("video_id", "clip_id", *(f"label_{m}" for m in MODALITIES))
RELEASED = ("seq", "sample_id", "modality", "annotator", "label")


@dataclass(frozen=True)
class Export:
    """An annotations file that was written.

    Attributes
    ----------
    path
        The file.
    clips
        How many clips it has.
    left_out
        ``sample_id, problem``: clips without five votes in each modality.
    """

    path: Path
    clips: int
    left_out: pd.DataFrame


def open_items(votes: pd.DataFrame, sample_ids: Iterable[str]) -> pd.DataFrame:
    """Clips that lack votes: ``sample_id, problem``, one row a clip, sorted.

    ``sample_ids`` are all clips that should have them. Raises like ``check_votes``.
    """
    counts = vote_counts(votes)
    number = counts.assign(votes=counts[list(COUNTS)].sum(axis=1)).pivot(
        index="sample_id", columns="modality", values="votes"
    )
    every = number.index.union(pd.Index(list(sample_ids), name="sample_id"))
    number = number.reindex(index=every, columns=MODALITIES).fillna(0).astype(int)
    number = number[(number != RATERS).any(axis=1)]
    problems = [
        ", ".join(f"{m} has {n} of {RATERS} votes" for m, n in row.items() if n != RATERS)
        for _, row in number.iterrows()
    ]
    return pd.DataFrame({"sample_id": number.index, "problem": pd.Series(problems, dtype=str)})


def export_annotations(
    votes: pd.DataFrame,
    path: str | Path,
    sample_ids: Iterable[str] = (),
    incomplete: Literal["refuse", "leave_out"] = "refuse",
) -> Export:
    """Write the mean votes as the CSV that ``load_cmu_mosi`` reads, all or nothing.

    Columns ``video_id, clip_id, label_T, label_A, label_V``, one row a clip, sorted; a label is the
    mean of five votes, written with one decimal (-1.0 to 1.0, never -0.0).

    Parameters
    ----------
    votes
        As by ``Campaign.votes``.
    sample_ids
        All clips of the campaign, so that those without any vote are noticed, too.
    incomplete
        What to do with clips that have other than five votes in a modality: raise ``ValueError``
        naming them, or leave them out and say so in ``left_out``.

    Raises ``ValueError`` also for votes that are not well formed, and where no clip is complete.
    """
    if incomplete not in ("refuse", "leave_out"):
        raise ValueError(f"incomplete is 'refuse' or 'leave_out'; got {incomplete!r}")
    left_out = open_items(votes, sample_ids)
    if incomplete == "refuse" and len(left_out):
        lines = [f"  {row.sample_id}: {row.problem}" for row in left_out.head(10).itertuples()]
        raise ValueError(
            f"{path}: not written, {len(left_out)} clips are incomplete; have them judged, or "
            "pass incomplete='leave_out'\n" + "\n".join([*lines, *(["  …"] * (len(left_out) > 10))])
        )
    counts = vote_counts(votes)
    counts = counts[~counts["sample_id"].isin(left_out["sample_id"])]
    if counts.empty:
        raise ValueError(f"{path}: not written, no clip has {RATERS} votes in every modality")
    # A whole number divided once: 0.6 comes out as 0.6, and 0 never as -0.
    steps = counts["positive"] - counts["negative"]
    written = counts.assign(label=[f"{step / RATERS:.1f}" for step in steps]).pivot(
        index="sample_id", columns="modality", values="label"
    )[list(MODALITIES)]
    ids = written.index.str.split("/", expand=True).to_frame(index=False)
    rows = pd.concat([ids.iloc[:, 1:], written.reset_index(drop=True)], axis=1)
    path = _write(rows.set_axis(HEADER, axis=1), path)
    return Export(path, len(rows), left_out)


def export_votes(votes: pd.DataFrame, path: str | Path) -> Path:
    """Write single votes for release, all or nothing: ids and labels alone (Appendix A.2).

    Columns ``seq, sample_id, modality, annotator, label``, sorted by seq, modality and annotator:
    no media, text or time. Raises ``ValueError`` for annotators that are not anonymous ids (``A1``)
    and for votes that are not well formed.
    """
    check_votes(votes)
    if named := sorted({a for a in votes["annotator"] if not ANONYMOUS.fullmatch(str(a))}):
        raise ValueError(f"{path}: not written; annotators are anonymous ids like A1, got {named}")
    order = {m: i for i, m in enumerate(MODALITIES)}
    rows = votes.sort_values(
        ["seq", "modality", "annotator"], key=lambda c: c.map(order) if c.name == "modality" else c
    )
    return _write(rows[list(RELEASED)], path)


def _write(rows: pd.DataFrame, path: str | Path) -> Path:
    with whole(path) as partial:
        rows.to_csv(partial, index=False, lineterminator="\n")
    return Path(path)
