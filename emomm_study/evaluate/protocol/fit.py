"""Routers for an experiment: trained once, and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from emomm_lib.chase.router import Router, load_router
from emomm_lib.chase.training import RouterStates, RouterTargets, TrainingSettings, train_router
from emomm_study.evaluate.parallel import in_order
from emomm_study.evaluate.states import states_digest
from emomm_study.systems.interface import Steerable

Job, Fitted = TypeVar("Job"), TypeVar("Fitted")


def rows_of(states: RouterStates, clips: pd.DataFrame) -> np.ndarray:
    """Positions of the prompts of some clips."""
    return np.flatnonzero(states.index["sample_id"].isin(set(clips["sample_id"])))


def fit_router(
    model: Steerable,
    states: RouterStates,
    train: pd.DataFrame,
    settings: TrainingSettings,
    folder: str | Path,
    *,
    valid: pd.DataFrame | None = None,
    progress: bool = True,
) -> tuple[Router, pd.DataFrame]:
    """A router trained on all recorded prompts of some clips, and its history by epoch.

    Kept under ``folder`` by all that it depends on, so that it is trained once. Parameters as for
    :func:`emomm_lib.chase.training.train_router`, with clips of a manifest in place of targets.
    """
    columns = ["sample_id", "label_gt", "label_t", "label_a", "label_v"]
    used = [train[columns]] if valid is None else [train[columns], valid[columns]]
    identity = [
        json.dumps(asdict(settings), sort_keys=True),
        json.dumps(model.settings(), sort_keys=True),
        *(frame.sort_values("sample_id").to_csv(index=False) for frame in used),
        states_digest(states),
    ]
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    place = Path(folder) / digest
    if (place / "history.csv").is_file():
        router = load_router(place, model.model, model.fingerprint)
        return router, pd.read_csv(place / "history.csv")

    def of(clips: pd.DataFrame) -> tuple[RouterStates, RouterTargets]:
        part = states.take(rows_of(states, clips))
        return part, RouterTargets.of(part, clips, settings.agreement, settings.epsilon)

    router, history = train_router(
        *of(train),
        settings,
        model.fingerprint,
        validation=None if valid is None else of(valid),
        device=str(model.device),
        progress=progress,
    )
    router.save_pretrained(place)
    # Written last: without it the router is trained again.
    history.to_csv(place / "history.csv", index=False)
    return router, history


def side_by_side(fit: Callable[[Job], Fitted], jobs: Sequence[Job], processes: int) -> list[Fitted]:
    """``fit`` of every job, computed in several processes.

    What they train comes back by way of the disk, where ``fit`` has to keep and find it.
    """

    def train(job: Job) -> None:
        fit(job)

    if processes > 1:
        for _ in in_order(train, jobs, processes):
            pass
    return [fit(job) for job in jobs]
