"""What two label files of one corpus say differently; one of them is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emomm_study.corpora.checks import CorpusError, Sheet, read_sheet, relative_name

KEYS = ["sample_id", "nth"]
PLACES = ["file", "row"]


def note_differences(
    sheet: Sheet,
    other: Path,
    root: Path,
    *,
    header: Sequence[str] | None = None,
    columns_too: bool = True,
) -> None:
    """Add a report entry for everything in which another file differs from the one that is used.

    Rows are the same by their ids, the n-th of one id and the n-th; values by their words, numbers
    to 1e-6. A row in one file only is an entry too; rows without labels that only the other file
    has are one entry together. Files that say the same add none.

    Parameters
    ----------
    sheet
        The file that is used, as :func:`emomm_study.corpora.checks.read_sheet` gave it.
    other, header
        The other one, and its columns where it has no header line.
    columns_too
        Whether a column in one file only is an entry; files of two formats differ in them anyway.
    """
    name, used = relative_name(other, root), f"{sheet.files[0]} is used"
    required = ("video_id", "clip_id")
    try:
        theirs = read_sheet(other, root, sheet.corpus, required=required, header=header)
    except CorpusError as error:
        sheet.notice(name, f"cannot be compared ({error})", used)
        return
    if theirs.broken:
        sheet.notice(name, f"{theirs.broken} of its rows cannot be read and compared", used)
    note_different_values(sheet, theirs.rows)
    if columns_too:
        for one, two in ((sheet, theirs), (theirs, sheet)):
            for column in one.rows.columns.difference(two.rows.columns):
                sheet.notice(one.files[0], f"column {column} is not in {two.files[0]}", used)
    mine, others = _keyed(sheet.rows).index, _keyed(theirs.rows).index
    both = f"a row in both; {used}"
    for at in sheet.rows[~mine.isin(others)].itertuples():
        sheet.notice(at.file, f"no such row in {name}", both, at.row, at.sample_id)
    lost = theirs.rows[~others.isin(mine)]
    labels = [c for c in lost if c.startswith("label")]
    blank = (lost[labels] == "").all(axis=1)
    for at in lost[~blank].itertuples():
        sheet.notice(name, f"no such row in {sheet.files[0]}", both, at.row, at.sample_id)
    if blank.any():
        problem = f"{int(blank.sum())} rows without labels that {sheet.files[0]} does not have"
        sheet.notice(name, problem, used)


def note_different_values(sheet: Sheet, others: pd.DataFrame) -> None:
    """Add an entry for each value that rows of another file give otherwise, by row and column."""
    pairs = _keyed(sheet.rows).join(_keyed(others), how="inner", suffixes=("", "_other"))
    used = f"the same in both; {sheet.files[0]} is used"
    for column in sheet.rows.columns.intersection(others.columns).difference([*PLACES, *KEYS]):
        one, two = pairs[column], pairs[f"{column}_other"]
        for at in pairs[~_same(one, two)].reset_index().to_dict("records"):
            where = f"{at['file_other']} line {at['row_other']}"
            problem = (
                f"{column} is {_shown(at[column])}, in {where} {_shown(at[column + '_other'])}"
            )
            sheet.notice(at["file"], problem, used, at["row"], at["sample_id"])


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(nth=rows.groupby("sample_id").cumcount()).set_index(KEYS)


def _same(one: pd.Series, two: pd.Series) -> pd.Series:
    apart = (pd.to_numeric(one, errors="coerce") - pd.to_numeric(two, errors="coerce")).abs()
    words = (values.str.split().str.join(" ") for values in (one, two))
    return (apart <= 1e-6) | (next(words) == next(words))


def _shown(value: str) -> str:
    return repr(value) if value else "blank"
