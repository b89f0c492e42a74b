"""MissRAG's sentiment benchmark: MMSA's layout, of which one mode is asked.

Its authors take modalities away when they ask, as coalitions do here; no file of theirs says which.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emomm_lib.labels import SENTIMENT2, SENTIMENT3, SENTIMENT5, LabelSet
from emomm_study.corpora import checks
from emomm_study.corpora.cmu_mosi import MAX_INTENSITY
from emomm_study.corpora.imported.benchmark import Imported, by_sign, imported_of
from emomm_study.corpora.manifest import SPLITS
from emomm_study.corpora.scores import Corpus, mosi_intensity_to_score, score_to_label

LAYOUT = """\
  <root>/labels.csv or label.csv        (video_id, clip_id, text, label, mode; annotation)
  <root>/Raw/<video_id>/<clip_id>.mp4
  <root>/Raw_audio/<video_id>/<clip_id>.wav   (else the mp4's own sound)"""
LABEL_FILES = ("labels.csv", "label.csv")
MODES = (*SPLITS, "all")
SETS = {one.name: one for one in (SENTIMENT3, SENTIMENT2, SENTIMENT5)}
"""What it may be asked for: MissRAG's own three classes first."""


def load_missrag(
    root: str | Path,
    *,
    mode: str = "test",
    labels: LabelSet = SENTIMENT3,
    check_media: bool = True,
    progress: bool = False,
) -> Imported:
    """CMU-MOSI as MissRAG lays it out, with its three classes, the sign alone, or EmoMM's five.

    Parameters
    ----------
    mode
        Rows of this ``mode``; MissRAG asks ``test``. ``all`` takes all three.
    labels
        One of :data:`SETS`. Of ``sentiment2`` neutral clips are dropped; ``sentiment5`` is asked with
        EmoMM's own prompt and scores.

    Raises :class:`checks.CorpusError` as the other readers do, for a mode that is none, and where no
    row has it; every other defect is an entry of the report.
    """
    root = Path(root)
    if mode not in MODES:
        raise checks.CorpusError(f"mode is one of {', '.join(MODES)}; got {mode!r}")
    if labels.name not in SETS:
        raise checks.CorpusError(
            f"MissRAG's labels are sentiment, as {', '.join(SETS)}; got {labels.name}"
        )
    files = [root / name for name in LABEL_FILES if (root / name).is_file()]
    if not files:
        raise checks.CorpusError(f"{root}: no label file. Expected\n{LAYOUT}")
    required = ("video_id", "clip_id", "text", "label", "mode")
    sheet = checks.read_sheet(files[0], root, Corpus.CMU_MOSI, required=required)
    if mode != "all":
        sheet = sheet.without(sheet.rows["mode"].isin([m for m in SPLITS if m != mode]))
    if sheet.rows.empty:
        raise checks.CorpusError(
            f"{files[0]}: no row has the mode {mode}; take another of {', '.join(MODES)}"
        )
    _place(sheet, root)
    safe = checks.check_ids(sheet)
    checks.check_duplicates(sheet)
    checks.check_text(sheet)
    for index, value in sheet.rows["mode"].items():
        if value not in SPLITS:
            sheet.reject(index, f"mode is {value!r}", f"one of {', '.join(SPLITS)}")
    span = {"limit": MAX_INTENSITY, "grid": False}
    intensity = checks.check_numbers(sheet, ["label"], **span)["label"]
    _check_annotation(sheet, intensity)
    if check_media:
        checks.need_folder(root / "Raw", LAYOUT)
        checks.check_media(sheet, root, safe, progress=progress)
    score = pd.Series(mosi_intensity_to_score(intensity.fillna(0)), index=sheet.rows.index)
    if labels == SENTIMENT5:
        label = pd.Series(score_to_label(score, Corpus.CMU_MOSI), index=score.index)
    else:
        label = by_sign(intensity, labels)
    sheet.rows = sheet.rows.assign(label_gt=label, score_gt=score)
    return imported_of("MissRAG, CMU-MOSI", labels, sheet, intensity.notna() & label.isna())


def _place(sheet: checks.Sheet, root: Path) -> None:
    rows = sheet.rows
    name = "/" + rows["video_id"] + "/" + rows["clip_id"]
    video = "Raw" + name + ".mp4"
    apart = (root / "Raw_audio").is_dir()
    sheet.rows = rows.assign(
        subset="all",
        split=rows["mode"],
        video_path=video,
        audio_path="Raw_audio" + name + ".wav" if apart else video,
    )


def _check_annotation(sheet: checks.Sheet, intensity: pd.Series) -> None:
    """Reject rows whose ``annotation`` is not the sign of their label."""
    if "annotation" not in sheet.rows:
        return
    for index, said in sheet.rows["annotation"].items():
        sign = int(np.sign(intensity[index])) if not np.isnan(intensity[index]) else None
        if not said or sign is None:
            continue
        expected = SENTIMENT3.classes[SENTIMENT3.polarity.index(sign)]
        if said.casefold() != expected:
            sheet.reject(
                index,
                f"annotation is {said!r} of a label of {sheet.rows.loc[index, 'label']}",
                f"{expected.title()}, the label's sign, or a blank",
            )
