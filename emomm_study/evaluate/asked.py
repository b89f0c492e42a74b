"""Systems side by side: the same instances, by letters and in free text, with what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import pandas as pd

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.results import instances, join, table1_scores
from emomm_study.evaluate.states import COALITIONS
from emomm_study.evaluate.unsteered import Decoding
from emomm_study.systems.interface import NotOffered, System
from emomm_study.systems.paid import spent

LOST = ("failed", "unparseable")


def asked(bench: Experiment, system: System, name: str, clips: pd.DataFrame) -> pd.DataFrame:
    """Table 1's scores of a system on some clips, by letters and in free text.

    Whole clips and their masked instances are asked; what a system does not offer is left out.
    ``bench`` gives the clips' files, how they are cut, and the store. Returns one row a decoding,
    subset and metric, as by :func:`table1_scores`, with ``system, decoding`` (``constrained`` or
    ``free``) and how many instances were ``asked, failed, unparseable`` in that subset; a subset of
    which nothing could be scored has no value. ``bill`` says in words what the service of a paid
    system counted, and is None of others.
    """
    # Workers hold the bench's own model.
    own = replace(bench, model=system, name=name, keep_encodings=False, executor=None)
    frames = []
    for decoding in get_args(Decoding):
        try:
            predictions = own.predictions(clips, COALITIONS, decoding=decoding)
        except NotOffered:
            continue
        scored, lost = join(instances(clips), predictions)
        counts = lost_by_subset(clips, lost)
        scores = table1_scores(scored) if len(scored) else pd.DataFrame(columns=["subset"])
        paid = hasattr(system, "estimate")
        bill = str(spent(predictions["details"], system.prices)) if paid else None
        both = counts.merge(scores, how="left", on="subset")
        frames.append(both.assign(decoding=decoding, bill=bill))
    if not frames:
        raise NotOffered(f"{name} offers neither letters nor replies; there is nothing to ask it")
    return pd.concat(frames, ignore_index=True).assign(system=name)


def lost_by_subset(clips: pd.DataFrame, lost: pd.DataFrame) -> pd.DataFrame:
    """Instances of some clips by ``subset``: ``asked``, and of them ``failed`` and ``unparseable``.

    ``lost`` is the second frame of :func:`join`.
    """
    rows = []
    for frame in (instances(clips), lost):
        kind = frame["subset"].str.split("_").str[0]
        both = pd.concat([frame.assign(subset=kind), frame.assign(subset="overall")])
        rows.append(both)
    whole, gone = rows
    table = pd.DataFrame({"asked": whole.groupby("subset", sort=False).size()})
    for outcome in LOST:
        count = gone[gone["outcome"] == outcome].groupby("subset").size()
        table[outcome] = count.reindex(table.index, fill_value=0)
    return table.rename_axis("subset").reset_index()


def side_by_side(
    bench: Experiment, systems: Mapping[str, System], clips: pd.DataFrame
) -> pd.DataFrame:
    """:func:`asked` of several systems by name, one after the other."""
    parts = [asked(bench, system, name, clips) for name, system in systems.items()]
    return pd.concat(parts, ignore_index=True)
