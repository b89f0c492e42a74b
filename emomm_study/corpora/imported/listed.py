"""A benchmark as one CSV: names, subsets, labels, and where the files are.

For those whose layout nobody has published, as CA-MER.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from emomm_lib.labels import MODALITIES, LabelSet
from emomm_study.corpora import checks
from emomm_study.corpora.imported.benchmark import Imported, imported_of
from emomm_study.corpora.manifest import SPLITS
from emomm_study.paths import stays_inside

REQUIRED = ("name", "subset", "label", "video")
OPTIONAL = ("split", "text", "audio", *(f"label_{m}" for m in MODALITIES))


def load_listed(
    path: str | Path,
    root: str | Path,
    labels: LabelSet,
    *,
    name: str | None = None,
    check_media: bool = True,
    progress: bool = False,
) -> Imported:
    """A CSV in UTF-8 with ``name, subset, label, video``, and if you have them ``split, text, audio,
    label_T, label_A, label_V``; other columns are left alone.

    Parameters
    ----------
    path
        The CSV. A label is a class's name or number from 0; ``split`` is ``test`` where there is no
        column; sound is the film's own track where there is no ``audio``. A column that is there
        has a value in every row.
    root
        Folder that ``video`` and ``audio`` are relative to, with forward slashes.
    name
        What the benchmark is called; by default as the file.

    Raises :class:`checks.CorpusError` for a file or column that is missing, a name that is no plain
    one, and where no row is usable; every other defect is an entry of the report.
    """
    path, root = Path(path), Path(root)
    name = path.stem if name is None else name
    if not re.fullmatch(r"[\w.-]+", name):
        raise checks.CorpusError(
            f"{name!r} cannot be a benchmark's name; give one of letters, digits, ., - and _"
        )
    sheet = checks.read_sheet(path, path.parent, name, required=REQUIRED)
    safe = checks.check_ids(sheet)
    checks.check_duplicates(sheet)
    there = set(sheet.rows)
    if "text" in there:
        checks.check_text(sheet)
    _fill(sheet, there)
    made = {"label_gt": _classes(sheet, "label", labels)}
    given = [f"label_{m}" for m in MODALITIES if f"label_{m}" in there]
    made |= {column.lower(): _classes(sheet, column, labels) for column in given}
    safe &= _check_paths(sheet, "video") & _check_paths(sheet, "audio")
    sheet.rows = sheet.rows.drop(columns=[c for c in given if c in sheet.rows]).assign(
        **made, video_path=sheet.rows["video"], audio_path=sheet.rows["audio"]
    )
    if check_media:
        if not root.is_dir():
            raise checks.CorpusError(f"{root}: no such folder; it has to hold the films")
        checks.check_media(sheet, root, safe, progress=progress)
    return imported_of(name, labels, sheet)


def _fill(sheet: checks.Sheet, there: set[str]) -> None:
    """Columns that may be left out, and the rows whose own are blank or unknown."""
    rows = sheet.rows
    defaults = {"split": "test", "text": "", "audio": rows["video"]}
    sheet.rows = rows.assign(**{k: v for k, v in defaults.items() if k not in there})
    for index, row in sheet.rows.iterrows():
        if row["split"] not in SPLITS:
            sheet.reject(index, f"split is {row['split']!r}", f"one of {', '.join(SPLITS)}")
        if not row["subset"]:
            sheet.reject(index, "subset is blank", "the subset's name, as conflict; or all")


def _classes(sheet: checks.Sheet, column: str, labels: LabelSet) -> pd.Series:
    found = pd.Series(pd.NA, index=sheet.rows.index, dtype="Int64")
    for index, text in sheet.rows[column].items():
        try:
            found[index] = class_of(text, labels)
        except ValueError as error:
            sheet.reject(index, f"{column} is {text!r}", str(error))
    return found


def class_of(text: str, labels: LabelSet) -> int:
    """A class by its name or its number from 0; ``ValueError`` with what was expected."""
    if text.isascii() and text.isdigit() and int(text) < len(labels):
        return int(text)
    try:
        return labels.index(text)
    except ValueError:
        raise ValueError(
            f"one of {', '.join(labels.classes)}, or its number 0 to {len(labels) - 1}"
        ) from None


def _check_paths(sheet: checks.Sheet, column: str) -> pd.Series:
    fine = sheet.rows[column].map(stays_inside).astype(bool)
    for index in sheet.rows.index[~fine]:
        value = sheet.rows.loc[index, column]
        sheet.reject(
            index,
            f"{column} is {value!r}",
            "a path inside the folder, relative, with forward slashes",
        )
    return fine


def label_set(text: str, known: dict[str, LabelSet]) -> LabelSet:
    """A set by its name, or one without an order from class names joined by commas.

    ``label_set("calm,tense", LABEL_SETS)`` has two classes. Raises ``ValueError`` as
    :class:`LabelSet`.
    """
    if text in known:
        return known[text]
    classes = tuple(part.strip() for part in text.split(","))
    if len(classes) < 2:
        raise ValueError(
            f"{text!r} is no set of labels; take one of {', '.join(known)}, or name two classes at "
            "least, as calm,tense"
        )
    return LabelSet("listed", classes)
