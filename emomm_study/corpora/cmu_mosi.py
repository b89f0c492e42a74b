"""CMU-MOSI as users have it on disk: the original zip's layout, or MMSA's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from emomm_study.corpora import checks
from emomm_study.corpora.clips import CorpusTable, is_blank
from emomm_study.corpora.differences import note_differences, note_different_values
from emomm_study.corpora.lines import UnknownEncoding, read_lines
from emomm_study.corpora.scores import Corpus, mosi_intensity_to_score

LAYOUT = """\
  <root>/OpinionLevelSentiment.csv      (not in the zip; start, end, video_id, segment_no, label)
  <root>/Raw/Video/Segmented/<video_id>_<n>.mp4
  <root>/Raw/Audio/WAV_16000/Segmented/<video_id>_<n>.wav
  <root>/Raw/Transcript/Segmented/<video_id>.annotprocessed
or
  <root>/label.csv                      (video_id, clip_id, text, label)
  <root>/Raw/<video_id>/<clip_id>.mp4
and, in both,
  <root>/annotations.csv                (video_id, clip_id, label_T, label_A, label_V)"""

OPINIONS = "OpinionLevelSentiment.csv"
OPINION_COLUMNS = ("start", "end", "video_id", "clip_id", "label")
ANNOTATION_NAMES = {"label_T": "score_t", "label_A": "score_a", "label_V": "score_v"}
FOLDER_PATTERN = r"(cmu)?mosi(raw)?"
MAX_INTENSITY = 3


def load_cmu_mosi(
    root: str | Path,
    annotations: str | Path | None = None,
    *,
    check_media: bool = True,
    progress: bool = False,
) -> CorpusTable:
    """Load CMU-MOSI into a Clip table (Appendix A.1).

    The ground truth is the dataset's intensity in [-3, 3], scaled and put on the 0.2 grid. The
    unimodal labels were made for the paper (Appendix A.2) and come from a CSV; each is the mean of
    five votes of -1, 0 or 1, so on the 0.2 grid. Clips without them are counted in
    ``unlabelled``. No public map names the speakers, so the video is the group:
    ``speaker_id == video_id``. Of identical rows with one id the first is used; of differing
    rows none. Where label files or annotations lie in several places, one is used, and every
    difference of the others is an entry of the report.

    Parameters
    ----------
    root
        Folder with the layout above, or the parent of a folder ``CMU-MOSI`` that has it.
    annotations
        CSV with columns ``video_id, clip_id, label_T, label_A, label_V``; by default
        ``annotations.csv`` in the folder.
    check_media
        Look for every clip's files and read their headers. Without it no media file is touched.
    progress
        Show a progress bar of that check.

    Raises
    ------
    CorpusError
        When a folder, a label file or one of its columns is missing, when a file's encoding is
        unknown, when no annotation belongs to a clip, or when no row is usable. Every other defect
        is an entry of the report.
    """
    root = Path(root)
    sheet, home, original = _read_labels(root, check_media)
    votes, vote_scores = _read_annotations(annotations, home, root, sheet)
    safe = checks.check_ids(sheet)
    unlabelled = safe & ~sheet.rows["sample_id"].isin(votes.rows["sample_id"])
    sheet, safe = sheet.without(unlabelled), safe[~unlabelled].reset_index(drop=True)
    sheet.ok &= sheet.rows["sample_id"].isin(vote_scores.index)
    truth = _check(sheet, home, root, original, safe, check_media, progress)
    scores = vote_scores.reindex(sheet.rows["sample_id"]).set_axis(sheet.rows.index)
    scores["score_gt"] = truth
    sheet.entries += votes.entries
    return checks.corpus_table(sheet, root, scores, language="en", unlabelled=int(unlabelled.sum()))


def unannotated_cmu_mosi(
    root: str | Path, *, check_media: bool = True, progress: bool = False
) -> CorpusTable:
    """CMU-MOSI before its modalities are annotated: what an annotation campaign begins with.

    As :func:`load_cmu_mosi` with its checks, report and errors, but no annotations are looked for,
    and ``clips`` has no scores and labels of T, A and V. The paper has 2,000 clips annotated that
    are balanced over the ground truth's classes: ``sample_cmu_mosi`` of :mod:`emomm_study.corpora.manifest`
    draws them from ``clips``.
    """
    root = Path(root)
    sheet, home, original = _read_labels(root, check_media)
    safe = checks.check_ids(sheet)
    truth = _check(sheet, home, root, original, safe, check_media, progress)
    return checks.corpus_table(
        sheet, root, truth.to_frame("score_gt"), language="en", unlabelled=0, sources=("gt",)
    )


def _read_labels(root: Path, check_media: bool) -> tuple[checks.Sheet, Path, bool]:
    """The rows of the label file, the folder that holds it, and whether that is the original's."""
    homes = checks.find_homes(root, _label_files, FOLDER_PATTERN, LAYOUT)
    if len(homes) > 1:
        names = ", ".join(home.name for home in homes)
        raise checks.CorpusError(f"{root}: holds the corpus more than once ({names}); name one")
    home = homes[0]
    labels, *others = _label_files(home)
    original = labels.name == OPINIONS
    required = () if original else ("video_id", "clip_id", "text", "label")
    header = OPINION_COLUMNS if original else None
    sheet = checks.read_sheet(labels, root, Corpus.CMU_MOSI, required=required, header=header)
    for other in others:
        theirs = OPINION_COLUMNS if other.name == OPINIONS else None
        note_differences(sheet, other, root, header=theirs, columns_too=header == theirs is None)
    if sheet.rows.empty:
        raise checks.nothing_usable(sheet, f"{root}: no usable clip", 0)
    (_place_original if original else _place_mmsa)(sheet, home, root)
    if check_media:
        checks.need_folder(_raw(home) / "Video/Segmented" if original else home / "Raw", LAYOUT)
    return sheet, home, original


def _check(
    sheet: checks.Sheet,
    home: Path,
    root: Path,
    original: bool,
    safe: pd.Series,
    check_media: bool,
    progress: bool,
) -> pd.Series:
    """Reject rows with a defect, and return the ground truth's scores on the 0.2 grid."""
    checks.check_duplicates(sheet)
    if original:
        _read_transcripts(sheet, home, root, safe)
    else:
        checks.check_text(sheet)
    intensity = checks.check_numbers(sheet, ["label"], limit=MAX_INTENSITY, grid=False)["label"]
    if check_media:
        checks.check_media(sheet, root, safe, progress=progress)
    scores = mosi_intensity_to_score(intensity.fillna(0))
    return pd.Series(scores, index=sheet.rows.index)


def _raw(home: Path) -> Path:
    return home / "Raw" if (home / "Raw").is_dir() else home


def _label_files(folder: Path) -> list[Path]:
    """The label files, first the one that is used: of both kinds that whose media are there."""
    places = (OPINIONS, f"[Ll]abel*/{OPINIONS}", f"Raw/{OPINIONS}", f"Raw/[Ll]abel*/{OPINIONS}")
    opinions = [path for place in places for path in sorted(folder.glob(place))]
    mmsa = [path for path in [folder / "label.csv"] if path.is_file()]
    original = (_raw(folder) / "Video" / "Segmented").is_dir()
    return opinions + mmsa if original else mmsa + opinions


def _place_original(sheet: checks.Sheet, home: Path, root: Path) -> None:
    rows = sheet.rows
    name = "/" + rows["video_id"] + "_" + rows["clip_id"]
    video = checks.relative_name(_raw(home) / "Video/Segmented", root)
    audio = checks.relative_name(_raw(home) / "Audio/WAV_16000/Segmented", root)
    sheet.rows = rows.assign(
        speaker_id=rows["video_id"],
        text="",
        video_path=video + name + ".mp4",
        audio_path=audio + name + ".wav",
    )


def _place_mmsa(sheet: checks.Sheet, home: Path, root: Path) -> None:
    rows = sheet.rows
    raw = checks.relative_name(home / "Raw", root)
    path = raw + "/" + rows["video_id"] + "/" + rows["clip_id"] + ".mp4"
    sheet.rows = rows.assign(speaker_id=rows["video_id"], video_path=path, audio_path=path)


def _read_transcripts(sheet: checks.Sheet, home: Path, root: Path, safe: pd.Series) -> None:
    """Fill ``text`` from the ``n_DELIM_TEXT`` lines; reject rows that have none."""
    for video_id, rows in sheet.rows[safe].groupby("video_id"):
        path = _raw(home) / "Transcript" / "Segmented" / f"{video_id}.annotprocessed"
        file = checks.relative_name(path, root)
        if not path.is_file():
            for index in rows.index:
                sheet.reject(index, f"{file}: missing file", "the video's transcript")
            continue
        try:
            lines = read_lines(path.read_bytes(), sheet.corpus)
        except UnknownEncoding as error:
            for index in rows.index:
                sheet.reject(index, f"{file}: {error}", "UTF-8")
            continue
        sheet.notice_encoding(file, lines)
        texts: dict[str, set[str]] = {}
        spoilt: dict[str, str] = {}
        for number, line in enumerate(lines.text, start=1):
            clip_id, delimiter, text = line.partition("_DELIM_")
            for _, problem in checks.unreadable(lines, [number], sheet.corpus):
                spoilt[clip_id.strip()] = f"line {number} {problem}"
            if delimiter:
                texts.setdefault(clip_id.strip(), set()).add(text.strip())
            elif line.strip():
                sheet.notice(
                    file, f"not a transcript line: {line.strip()[:40]!r}", "n_DELIM_TEXT", number
                )
        for index, clip_id in rows["clip_id"].items():
            found = texts.get(clip_id, set())
            if clip_id in spoilt:
                sheet.reject(index, f"{file}: {spoilt[clip_id]}", "UTF-8; write the line again")
            elif len(found) != 1:
                problem = "two texts" if found else "no line"
                sheet.reject(index, f"{file}: {problem} for {clip_id}", f"one {clip_id}_DELIM_TEXT")
            elif is_blank(*found):
                sheet.reject(index, f"{file}: text of {clip_id} is empty", "the clip's transcript")
            else:
                sheet.rows.loc[index, "text"] = found.pop()


def _read_annotations(
    path: str | Path | None, home: Path, root: Path, clips: checks.Sheet
) -> tuple[checks.Sheet, pd.DataFrame]:
    """The annotated rows, and the usable ones' scores indexed by ``sample_id``."""
    columns = ("video_id", "clip_id", *ANNOTATION_NAMES)
    places = [Path(path)] if path else [home / "annotations.csv", root / "annotations.csv"]
    found, *others = [place for place in dict.fromkeys(places) if place.is_file()] or [None]
    if found is None:
        raise checks.CorpusError(
            f"{places[0]}: no such file. CMU-MOSI's unimodal labels do not come with the dataset: "
            f"pass annotations=<a CSV with columns {', '.join(columns)}>, or put it there; each "
            "label is the mean of five votes of -1, 0 or 1. To have people label them, see "
            "docs/annotation_campaign.md"
        )
    votes = checks.read_sheet(found, root, Corpus.CMU_MOSI, required=columns)
    for other in others:
        note_differences(votes, other, root)
    blank = (votes.rows[list(ANNOTATION_NAMES)] == "").all(axis=1)
    votes = votes.without(blank)
    if votes.rows.empty:
        raise checks.nothing_usable(votes, f"{root}: no annotated clip", int(blank.sum()))
    if set(ANNOTATION_NAMES) <= set(clips.rows):
        # MMSA's file has these columns too, and they are empty unless somebody filled them.
        filled = (clips.rows[list(ANNOTATION_NAMES)] != "").any(axis=1)
        columns = ["sample_id", "file", "row", *ANNOTATION_NAMES]
        note_different_values(votes, clips.rows.loc[filled, columns])
    checks.check_duplicates(votes)
    scores = checks.check_numbers(votes, list(ANNOTATION_NAMES)).rename(columns=ANNOTATION_NAMES)
    known = votes.rows["sample_id"].isin(clips.rows["sample_id"])
    if not known.any():
        example = ", ".join(clips.rows["sample_id"].head(2))
        raise checks.CorpusError(
            f"{found}: none of its {len(known)} labelled rows belongs to a clip; "
            f"the clips are {example}, …"
        )
    for index in votes.rows.index[~known]:
        votes.reject(index, "no such clip", f"an id of {clips.rows['file'].iloc[0]}")
    usable = votes.rows["sample_id"][votes.ok]
    return votes, scores.loc[usable.index].set_axis(usable, axis=0)
