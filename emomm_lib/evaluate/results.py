"""From predictions to Table 1: which instances count, what failed, and scores by subset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from emomm_lib.benchmark import expand_missing, resolve_media
from emomm_lib.metrics import score_frame


def with_media(
    manifest: pd.DataFrame, roots: Mapping[str, Path], *, partial: bool = False
) -> pd.DataFrame:
    """The clips whose files are on disk.

    ``partial`` says that not all are expected there, as when only some surrogates were rendered;
    otherwise a missing one raises ``FileNotFoundError``, so that no result silently covers less.
    """
    there = [
        all(resolve_media(roots[c["corpus"]], c[k]).is_file() for k in ("video_path", "audio_path"))
        for c in manifest.to_dict("records")
    ]
    if not any(there) or not (partial or all(there)):
        absent = manifest[[not t for t in there]].iloc[0]
        raise FileNotFoundError(
            f"{len(there) - sum(there)} of {len(there)} clips are not on disk, the first is "
            f"{absent['video_path']} under {roots[absent['corpus']]}; check the corpus roots, or "
            "run notebook 01 again"
        )
    return manifest[there].reset_index(drop=True)


def instances(manifest: pd.DataFrame) -> pd.DataFrame:
    """The instances of Table 1: every clip whole (``TAV``) and with one modality masked.

    Columns of the manifest and ``coalition``; ``subset`` is ``align`` or ``conflict`` for whole
    clips and ``missing_align`` or ``missing_conflict`` for masked ones (Appendix A.3).
    """
    whole = manifest.assign(coalition="TAV")
    return pd.concat([whole, expand_missing(manifest)], ignore_index=True)


def join(rows: pd.DataFrame, predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Instances with ``label_pred`` and ``score_pred``, and those that failed with their reason.

    A failed instance is in the second frame only, so that it is scored neither right nor wrong.
    Raises ``ValueError`` for instances without any prediction.
    """
    answers = predictions.rename(columns={"label": "label_pred", "score": "score_pred"})
    columns = ["sample_id", "coalition", "label_pred", "score_pred", "failure"]
    joined = rows.merge(answers[columns], "left", on=["sample_id", "coalition"], indicator=True)
    absent = joined[joined["_merge"] == "left_only"]
    if len(absent):
        some = (absent["sample_id"] + " " + absent["coalition"]).head(3).tolist()
        raise ValueError(f"{len(absent)} instances have no prediction, among them {some}; run them")
    joined = joined.drop(columns="_merge")
    failed = joined["failure"].notna()
    scored = joined[~failed].drop(columns="failure").astype({"label_pred": "int64"})
    return scored.reset_index(drop=True), joined[failed].reset_index(drop=True)


def table1_scores(scored: pd.DataFrame, **bootstrap: int) -> pd.DataFrame:
    """Metrics of Table 1 with 95% intervals: ``subset, metric, value, low, high, n``.

    ``subset`` is ``overall, align, conflict`` or ``missing`` (both kinds). The bootstrap draws
    whole clips, since one clip gives several instances.
    """
    group = scored["subset"].str.split("_").str[0]
    both = pd.concat([scored.assign(group="overall"), scored.assign(group=group)])
    metrics = ("acc5", "acc2", "f1", "mae")
    scores = score_frame(both, ["group"], metrics, cluster="sample_id", **bootstrap)
    return scores.rename(columns={"group": "subset"})
