"""Whole clips streamed through a model whose attention is changed: many answers a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emomm_lib import Prefill
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.parallel import in_order, processes_for
from emomm_study.evaluate.plan import Item, make_plan
from emomm_study.evaluate.questions import (
    ANSWERING,
    Failed,
    Work,
    divided,
    finite,
    not_finite,
    readable,
)
from emomm_study.evaluate.remembered import remembered
from emomm_study.evaluate.states import Key
from emomm_study.failures import Failure, Watch
from emomm_study.systems.interface import Query

Logits = Callable[[Sequence[str], Sequence[Query], Prefill], Tensor]
"""Logits of A..E ``(B, C, 5)`` of prompts, by their clips, questions and prefill, in C ways."""


def answers_in_ways(
    name: str, bench: Experiment, clips: pd.DataFrame, made_of: Sequence[str], logits: Logits
) -> pd.DataFrame:
    """Classes of TAV prompts by ``sample_id``, a column a way, as ``logits`` gives them.

    Computed batch by batch, or as it is remembered under ``name``, where run, files and ``made_of``
    are the same. A clip that cannot be read or asked is left out, and counted on the bar. Raises
    ``ValueError`` where all are, and :class:`emomm_study.failures.Broken` where it is the program
    that fails.
    """

    def make() -> pd.DataFrame:
        return _asked(bench, clips, logits).rename(columns=str).reset_index()

    table = remembered(name, [bench.versions(clips), *made_of], make).set_index("sample_id")
    return table.set_axis(range(table.shape[1]), axis=1)


def subsets_of(
    clips: pd.DataFrame, answered: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame, pd.Series, int]]:
    """Name, answers, GT, and how many clips were left out, of each subset that has any answer."""
    known = clips[clips["sample_id"].isin(answered.index)].set_index("sample_id")
    for subset, part in known.groupby("subset"):
        lost = int((clips["subset"] == subset).sum()) - len(part)
        yield str(subset), answered.loc[part.index], part["label_gt"], lost


@dataclass(frozen=True)
class _Batch:
    """Classes ``(C,)`` by clip, what failed, and what went well."""

    said: Mapping[str, NDArray[np.int64]]
    failed: Sequence[Failed]
    worked: set[str]


def _asked(bench: Experiment, clips: pd.DataFrame, logits: Logits) -> pd.DataFrame:
    """Classes of all clips that can be asked, batch by batch; the others are counted on the bar.

    Raises :class:`emomm_study.failures.Broken` where the program fails, and not clips.
    """
    plan = make_plan(bench.shown(clips), bench.roots, ["TAV"], set(), bench.batch_size)
    model, reader = bench.steerable("changing its attention"), bench.reader

    def ask(work: Sequence[Work]) -> Iterator[tuple[list[Key], Tensor]]:
        for part in model.compute([query for _, query in work], states=True):
            keys, queries = zip(*(work[i] for i in part.rows), strict=True)
            with torch.inference_mode():
                made = logits([key[0] for key in keys], queries, part.shortened())
            yield list(keys), made

    def batch(items: Sequence[Item]) -> _Batch:
        ready = readable(model, [reader(item) for item in items], bench.encodings)
        done = _Batch({}, [*ready.failed], {*ready.worked})
        for keys, found in divided(ready.work, ask, ANSWERING):
            if isinstance(found, Failure):
                done.failed.extend(Failed.at(key, found) for key in keys)
                continue
            done.worked.add(ANSWERING)
            good, labels = finite(found), found.argmax(-1).cpu().numpy()
            for i, key in enumerate(keys):
                if good[i]:
                    done.said[key[0]] = labels[i]
                else:
                    done.failed.append(Failed.at(key, not_finite(ANSWERING, "logits of A..E")))
        return done

    wanted = processes_for(model.device) if bench.processes is None else bench.processes
    watch, said, failed = Watch(), {}, 0
    with tqdm(total=len(clips), unit="clip", disable=not bench.progress) as bar:
        for done in in_order(batch, plan.batches, wanted):
            watch.worked(done.worked)
            for own in done.failed:
                for cause in own.causes:
                    watch.failed(own.prediction.sample_id, cause)
            said |= done.said
            failed += len(done.failed)
            bar.update(len(done.said) + len(done.failed))
            if failed:
                bar.set_postfix(failed=failed)
    if not said:
        raise ValueError(f"none of {len(clips)} clips could be asked under TAV")
    if bench.encodings is not None:
        bench.encodings.refresh()
    index = [name for name in clips["sample_id"] if name in said]
    return pd.DataFrame([said[name] for name in index], pd.Index(index, name="sample_id"))
