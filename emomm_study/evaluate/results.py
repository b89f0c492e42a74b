"""From predictions to what is measured: instances, outcomes, what failed, scores by subset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from emomm_lib import product_outcomes, reader_outcomes, score_frame
from emomm_lib.labels import (
    CLASSES,
    COALITIONS,
    MODALITIES,
    SENTIMENT5,
    LabelSet,
    coalition_modalities,
    side,
)
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap
from emomm_lib.metrics.outcomes import LABELS, check, check_labels
from emomm_lib.metrics.reference import LOGITS, expected
from emomm_study.corpora.manifest import expand_missing
from emomm_study.paths import resolve_media


def with_media(
    manifest: pd.DataFrame, roots: Mapping[str, Path], *, partial: bool = False
) -> pd.DataFrame:
    """The clips whose files are on disk.

    ``partial`` says that not all are expected there, as when only some surrogates were rendered;
    otherwise a missing one raises ``FileNotFoundError``, so that no result silently covers less.
    Raises ``ValueError`` for clips of a corpus without a root.
    """
    if unknown := sorted({*manifest["corpus"]} - {*roots}):
        raise ValueError(
            f"the benchmark has clips of {', '.join(unknown)}, of which no root is given; give it, or "
            "run notebook 01 again for a benchmark without"
        )
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
    """Instances with ``label_pred`` and ``score_pred``, and those that cannot be scored.

    The second frame has ``outcome``: ``failed``, with its reason in ``failure``, or
    ``unparseable``, with what the model wrote in ``reply``. Such an instance is scored neither
    right nor wrong. Raises ``ValueError`` for instances without any prediction.
    """
    answers = predictions.rename(columns={"label": "label_pred", "score": "score_pred"})
    keys = ["sample_id", "coalition"]
    values = ["label_pred", "score_pred", *LOGITS, "failure", "reply"]
    joined = rows.merge(
        answers[keys + values], "left", on=["sample_id", "coalition"], indicator=True
    )
    absent = joined[joined["_merge"] == "left_only"]
    if len(absent):
        some = (absent["sample_id"] + " " + absent["coalition"]).head(3).tolist()
        raise ValueError(f"{len(absent)} instances have no prediction, among them {some}; run them")
    joined = joined.drop(columns="_merge")
    answered = joined["label_pred"].notna()
    scored = joined[answered].drop(columns=["failure", "reply"])
    # A table in which no answer has a score comes as objects.
    scored = scored.astype({"label_pred": "int64", "score_pred": "float64"})
    lost = joined[~answered]
    outcome = lost["failure"].isna().map({True: "unparseable", False: "failed"})
    return scored.reset_index(drop=True), lost.assign(outcome=outcome).reset_index(drop=True)


def declined(predictions: pd.DataFrame) -> float | None:
    """Share in 0..1 of answers to which the system says that it would rather give none.

    By the ``declined`` of their ``details``; None where no answer has one, as of most systems.
    """
    said = [json.loads(text) for text in predictions["details"].dropna()]
    asked = [own["declined"] for own in said if "declined" in own]
    return sum(asked) / len(asked) if asked else None


def outcomes(
    clips: pd.DataFrame,
    predictions: pd.DataFrame,
    coalitions: Sequence[str] = COALITIONS,
    labels: LabelSet = SENTIMENT5,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every clip under every coalition, for PSMV, GTAR and nMAS; and what cannot be scored.

    Columns of ``clips`` (``subset`` is the whole clip's), ``coalition, label_pred, score_pred``,
    and ``right`` and ``right_polarity``, 1.0 where the answer has GT's class, or its polarity (c_x
    of Eq. 3; of labels without one, its class). The second frame as by :func:`join`.
    """
    rows = clips.merge(pd.DataFrame({"coalition": list(coalitions)}), how="cross")
    scored, lost = join(rows, predictions)
    truth, answer = scored["label_gt"], scored["label_pred"]
    right = (truth == answer).astype(float)
    same = (side(truth, labels) == side(answer, labels)).astype(float)
    return scored.assign(right=right, right_polarity=same), lost


def own_answers(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What a model answers to each modality alone, and to none: ``answer_t, _a, _v, _none``.

    By ``sample_id``, classes 0..4, NaN where it was not scored. Merged with outcomes these are the
    evidence of :func:`emomm_lib.pair_frame`, and merged with clips that of ``reader_outcomes``.
    """
    alone = outcomes[outcomes["coalition"].isin(["none", *MODALITIES])].pivot(
        index="sample_id", columns="coalition", values="label_pred"
    )
    return alone.rename(columns=lambda name: f"answer_{name.lower()}").rename_axis(columns=None)


def baselines(outcomes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Readers without a preference on the same clips, to stand beside a model's outcomes.

    Two read the labels without error, and follow one present modality at random, or the mean of
    all. Three others read as the model does: one follows at random the answers that it gives to each
    modality alone, one averages the probabilities that it gives then, and so follows whatever the
    model reads most surely, one multiplies them, as is right where modalities are independent given
    the class (``emomm_lib.metrics.reference``). The last two need letter logits, which free replies lack.
    """
    clips = outcomes.drop_duplicates("sample_id").drop(columns="coalition")
    clips = clips.merge(own_answers(outcomes).dropna(), on="sample_id")
    found = {
        "random label": reader_outcomes(clips, "random"),
        "mean label": reader_outcomes(clips, "average"),
        "random own answer": reader_outcomes(clips, "random", "answer", none="answer_none"),
    }
    if outcomes[list(LOGITS)].notna().all(axis=None):
        found["mean own probability"] = pooled_outcomes(outcomes)
        found["product of own probabilities"] = product_outcomes(clips, outcomes)
    return found


def table1_scores(scored: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Metrics of Table 1 with 95% intervals: ``subset, metric, value, low, high, n``.

    ``subset`` is ``overall, align, conflict`` or ``missing`` (both kinds). The bootstrap draws
    whole clips, since one clip gives several instances. An answer without a readable score counts
    for the classes and not for MAE, whose ``n`` shows it.
    """
    group = scored["subset"].str.split("_").str[0]
    both = pd.concat([scored.assign(group="overall"), scored.assign(group=group)])
    options = {"cluster": "sample_id", "bootstrap": bootstrap}
    classes = score_frame(both, ["group"], ("acc5", "acc2", "f1"), **options)
    errors = score_frame(both[both["score_pred"].notna()], ["group"], ("mae",), **options)
    scores = pd.concat([classes, errors], ignore_index=True)
    return scores.rename(columns={"group": "subset"})


def by_subset(scored: pd.DataFrame) -> pd.DataFrame:
    """Instances with Missing's two kinds as one ``subset``: align, conflict, missing."""
    return scored.assign(subset=scored["subset"].str.split("_").str[0])


def pooled_outcomes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes of a reader that averages a model's own probabilities of each modality alone.

    It answers the class with the highest mean, over the present modalities, of the softmax of the
    model's letter logits under that modality alone, and what the model answers under ``none``. So
    it reads as surely or unsurely as the model does, and gives no modality more weight.

    ``outcomes`` has ``sample_id, corpus, subset, coalition, label_pred``, the four labels, and
    ``logit_a .. logit_e``. Returns frames as by :func:`reader_outcomes`, of the clips that were
    answered under T, A, V and none. Raises ``ValueError`` for missing columns, labels other than
    0..4, or where no clip was.
    """
    check(outcomes, ["sample_id", "coalition", "corpus", "subset", *LABELS, "label_pred", *LOGITS])
    known = outcomes.dropna(subset=[*LOGITS, "label_pred"])
    alone = {
        name: known[known["coalition"] == name].set_index("sample_id").sort_index()
        for name in (*MODALITIES, "none")
    }
    common = alone["none"].index
    for frame in alone.values():
        common = common.intersection(frame.index)
    if not len(common):
        raise ValueError("no clip was answered under T, A, V and none alone with letter logits")
    clips = alone["none"].loc[common].reset_index()
    check_labels(clips, ["label_gt", "label_pred"])
    probability = {
        m: softmax(alone[m].loc[common, list(LOGITS)].to_numpy(np.float64), axis=1)
        for m in MODALITIES
    }
    one_hot = np.eye(len(CLASSES))
    answers = {"none": one_hot[clips["label_pred"].to_numpy(np.int64)]}
    for name in COALITIONS[1:]:
        pooled = sum(probability[m] for m in coalition_modalities(name))
        answers[name] = one_hot[pooled.argmax(axis=1)]
    return expected(clips, answers)
