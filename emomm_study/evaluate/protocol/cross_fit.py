"""Routers of which each is asked about speakers that it never saw."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from emomm_lib.chase.router import Router
from emomm_lib.chase.training import RouterStates, TrainingSettings
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.protocol.fit import fit_router, side_by_side
from emomm_study.systems.interface import Steerable

FOLDS = 5


def speaker_folds(clips: pd.DataFrame, folds: int = FOLDS, seed: int = 0) -> pd.Series:
    """Fold 0..folds-1 of each clip, by sample_id: whole speakers, stratified by class and subset.

    As near as so few clips allow: where no class has a clip for each fold, speakers are dealt out
    without regard to it, and a fold that would be empty is none. Raises ``ValueError`` for fewer
    speakers than folds.
    """
    ordered = clips.sort_values("sample_id")
    if (speakers := ordered["speaker_id"].nunique()) < folds:
        raise ValueError(f"{speakers} speakers cannot be cut into {folds} folds; take fewer folds")
    strata = ordered["label_gt"].astype(str) + ordered["subset"]
    if strata.value_counts().max() < folds:
        strata = pd.Series("", ordered.index)
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = pd.Series(-1, index=ordered["sample_id"], name="fold")
    with warnings.catch_warnings():
        # A stratum smaller than the number of folds cannot be in all of them.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, held_out) in enumerate(cut.split(ordered, strata, ordered["speaker_id"])):
            fold.iloc[held_out] = number
    return fold.rank(method="dense").astype(int) - 1


def cross_fit(
    model: Steerable,
    states: RouterStates,
    clips: pd.DataFrame,
    fold: pd.Series,
    settings: TrainingSettings,
    folder: str | Path,
    *,
    progress: bool = True,
) -> Sequence[Router]:
    """One router a fold, trained on the clips of all other folds and those without a fold.

    ``fold`` is 0..n-1 by sample_id; router k is the one that has not seen fold k. Raises
    ``ValueError`` for folds that are numbered otherwise.
    """
    numbers = sorted(set(fold))
    if numbers != list(range(len(numbers))):
        raise ValueError(f"folds are numbered from 0 without a gap; got {numbers}")
    own = clips["sample_id"].map(fold)
    parts = [clips[own != k] for k in numbers]

    def fit(part: pd.DataFrame) -> tuple[Router, pd.DataFrame]:
        return fit_router(model, states, part, settings, folder, progress=progress)

    return [router for router, _ in side_by_side(fit, parts, processes_for(model.device))]
