"""CH-SIMS v2.0 as users have it on disk."""

from __future__ import annotations

import re
from pathlib import Path

from emomm_study.corpora import checks
from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.differences import note_differences
from emomm_study.corpora.scores import Corpus

LAYOUT = """\
  <root>/ch-simsv2s/label.csv           (or "CH-SIMS v2(s)"; meta.csv or meta(s).csv)
  <root>/ch-simsv2s/Raw/<video_id>/<clip_id>.mp4
  <root>/ch-simsv2u/meta.csv            (optional: the unlabelled part)
with columns video_id, clip_id, text, label, label_T, label_A, label_V;
<root> may also be the ch-simsv2s folder itself."""

META_NAMES = ("label.csv", "meta.csv", "meta(s).csv", "meta(u).csv")
"""Names of the label file, the one that is used first: of two, the dataset's makers call label.csv
the final one."""

ID_COLUMNS = ("video_id", "clip_id", "text")
SCORE_NAMES = {
    "label": "score_gt",
    "label_T": "score_t",
    "label_A": "score_a",
    "label_V": "score_v",
}
LABEL_COLUMNS = tuple(SCORE_NAMES)
FOLDER_PATTERN = r"chsimsv20?([su]?)"
"""Names of the two parts' folders, stripped to letters and digits."""


def load_ch_sims(
    root: str | Path, *, check_media: bool = True, progress: bool = False
) -> CorpusTable:
    """Load CH-SIMS v2.0 into a Clip table; sound is the mp4's own track (Appendix A.1).

    The dataset names no speakers, so the source video is the group: ``speaker_id == video_id``.
    Rows whose four labels are all blank (the U part) are counted in ``unlabelled`` and not
    otherwise looked at. Of identical rows with one id the first is used; of differing rows none.
    Where label files lie side by side, ``label.csv`` is used, as the dataset's makers say, and
    every difference of the others is an entry of the report.

    Parameters
    ----------
    root
        Folder that holds ``ch-simsv2s`` (and ``ch-simsv2u``), or one of them.
    check_media
        Look for every clip's file and read its header. Without it no media file is touched.
    progress
        Show a progress bar of that check.

    Raises
    ------
    CorpusError
        When the folder, the label file, one of its columns or ``Raw`` is missing, when the
        file's encoding is unknown, when a part is there twice, or when no row is usable. Every
        other defect is an entry of the report.
    """
    root = Path(root)
    homes = checks.find_homes(root, _meta, FOLDER_PATTERN, LAYOUT)
    parts = [_part(home) for home in homes]
    if len(set(parts)) < len(parts):
        names = ", ".join(home.name for home in homes)
        raise checks.CorpusError(f"{root}: the same part more than once ({names}); name one")
    sheet = checks.Sheet.join([_read(home, root) for home in homes])
    for home, part in zip(homes, parts, strict=True):
        if check_media and part == "s":
            checks.need_folder(home / "Raw", LAYOUT)
    unlabelled = (sheet.rows[list(LABEL_COLUMNS)] == "").all(axis=1)
    sheet = sheet.without(unlabelled)
    safe = checks.check_ids(sheet)
    checks.check_duplicates(sheet)
    checks.check_text(sheet)
    scores = checks.check_numbers(sheet, LABEL_COLUMNS).rename(columns=SCORE_NAMES)
    if check_media:
        checks.check_media(sheet, root, safe, progress=progress)
    return checks.corpus_table(sheet, root, scores, language="zh", unlabelled=int(unlabelled.sum()))


def _metas(folder: Path) -> list[Path]:
    return [folder / n for n in META_NAMES if (folder / n).is_file()]


def _meta(folder: Path) -> Path | None:
    return next(iter(_metas(folder)), None)


def _part(home: Path) -> str:
    """``u`` for the unlabelled part, else ``s``."""
    match = re.fullmatch(FOLDER_PATTERN, checks.plain_name(home))
    return "u" if _meta(home).name == "meta(u).csv" or (match and match[1] == "u") else "s"


def _read(home: Path, root: Path) -> checks.Sheet:
    required = ID_COLUMNS + (() if _part(home) == "u" else LABEL_COLUMNS)
    used, *others = _metas(home)
    sheet = checks.read_sheet(used, root, Corpus.CH_SIMS, required=required)
    for other in others:
        note_differences(sheet, other, root)
    rows = sheet.rows.assign(**{c: "" for c in LABEL_COLUMNS if c not in sheet.rows})
    raw = checks.relative_name(home / "Raw", root)
    path = raw + "/" + rows["video_id"] + "/" + rows["clip_id"] + ".mp4"
    sheet.rows = rows.assign(speaker_id=rows["video_id"], video_path=path, audio_path=path)
    return sheet
