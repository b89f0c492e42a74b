"""MER-UniBench as its makers lay it out: eight of its nine sets, whose labels are classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_lib.labels import IEMOCAP4, MELD7, MER6, SENTIMENT2, LabelSet
from emomm_study.corpora import checks
from emomm_study.corpora.clips import is_blank
from emomm_study.corpora.imported.benchmark import Imported, by_sign, imported_of, media_by_name
from emomm_study.corpora.imported.unpickle import as_records, read_pickled

ENTRIES = {
    "train_corpus": ("train", "train"),
    "val_corpus": ("valid", "valid"),
    "test_corpus": ("test", "test"),
    "test1_corpus": ("test", "test1"),
    "test2_corpus": ("test", "test2"),
    "test3_corpus": ("test", "test3"),
    "whole_corpus": ("test", "whole"),
}
"""Split and subset of each entry of a label file; what is not divided is asked as a whole."""
OPEN_VOCABULARY = "ov-merd"
VIDEO, AUDIO = (".mp4", ".avi", ".mkv", ".mov"), (".wav", ".mp3", ".flac", ".m4a")


@dataclass(frozen=True)
class Dataset:
    """One of MER-UniBench's sets: its folder, files in it, the language asked, and its classes."""

    folder: str
    language: str
    video: str
    audio: str
    labels: LabelSet = SENTIMENT2
    label_file: str = "label.npz"
    transcription: str = "transcription-engchi-polish.csv"


DATASETS = {
    "cmu-mosi": Dataset("cmumosi-process", "english", "subvideo", "subaudio"),
    "cmu-mosei": Dataset("cmumosei-process", "english", "subvideo_new", "subaudio"),
    "ch-sims": Dataset("sims-process", "chinese", "video", "audio"),
    "ch-sims-v2": Dataset("simsv2-process", "chinese", "video_new", "audio"),
    "iemocap": Dataset(
        "iemocap-process", "english", "subvideo-tgt", "subaudio", IEMOCAP4, "label_4way.npz"
    ),
    "meld": Dataset("meld-process", "english", "subvideo", "subaudio", MELD7),
    "mer2023": Dataset(
        "mer2023-dataset-process", "chinese", "video", "audio", MER6, "label-6way.npz"
    ),
    "mer2024": Dataset(
        "mer2024-dataset-process", "chinese", "video", "audio", MER6, "label-6way.npz",
        "transcription_merge.csv",
    ),
}  # fmt: skip


def folder_of(root: str | Path, dataset: str) -> Path:
    """A set's own folder: the one given, or the one of its name in it.

    Raises :class:`checks.CorpusError` for a set that is none, for OV-MERD+, whose labels are words
    without a list, and where there is no such folder.
    """
    root = Path(root)
    if dataset.startswith(OPEN_VOCABULARY):
        raise checks.CorpusError(
            "OV-MERD+ has an open vocabulary: any words for emotions, which its makers group by a "
            "language model before they compare them. A match of labels would say nothing, so it is "
            f"not scored here; the other sets are {', '.join(DATASETS)}"
        )
    if dataset not in DATASETS:
        raise checks.CorpusError(
            f"MER-UniBench has no set {dataset!r} here; there are {', '.join(DATASETS)}"
        )
    own = DATASETS[dataset]
    for folder in (root, root / own.folder):
        if (folder / own.label_file).is_file():
            return folder
    raise checks.CorpusError(
        f"{root}: no {own.label_file} in it or in its {own.folder}. Expected\n"
        f"  {own.folder}/{own.label_file}\n  {own.folder}/{own.transcription}  (name, {own.language})\n"
        f"  {own.folder}/{own.video}/<name>.mp4\n  {own.folder}/{own.audio}/<name>.wav"
    )


def load_mer_unibench(
    root: str | Path, dataset: str, *, check_media: bool = True, progress: bool = False
) -> Imported:
    """A set of MER-UniBench with its classes; paths are relative to :func:`folder_of`.

    Sentiment is the sign of ``val``, where clips with 0 are dropped, as its makers' metric does: a
    task of two classes. Emotions are those of ``emo``, a class's number or name. A set that is not
    divided is asked as a whole. Where a clip has no file of sound, it is the film's own track.

    Raises :class:`checks.CorpusError` as :func:`folder_of` and :func:`read_pickled` do, where a
    transcription, a folder or a known entry is missing, and where no clip is usable. Every other
    defect is an entry of the report, whose ``row`` is the clip's place in its entry.
    """
    folder, own = folder_of(root, dataset), DATASETS[dataset]
    path = folder / own.label_file
    entries = read_pickled(path, ENTRIES.__contains__)
    if not entries:
        raise checks.CorpusError(f"{path}: no entry of it is one of {', '.join(ENTRIES)}")
    rows = [
        {"name": name, "row": place, "split": split, "subset": subset, "given": given}
        for entry, (split, subset) in ENTRIES.items()
        if entry in entries
        for place, (name, given) in enumerate(as_records(entries[entry], f"{path}, {entry}"), 1)
    ]
    if not rows:
        raise checks.CorpusError(f"{path}: its entries hold no clip")
    frame = pd.DataFrame(rows)
    odd = frame["name"].map(lambda name: not isinstance(name, str))
    frame["name"] = frame["name"].map(str)
    corpus = f"mer-unibench-{dataset}"
    sheet = checks.Sheet(corpus, frame.assign(file=own.label_file), files=(own.label_file,))
    for index in frame.index[odd]:
        sheet.reject(index, "a name that is no text", "the clip's name")
    safe = checks.check_ids(sheet)
    _check_twice(sheet)
    dropped = _label(sheet, own.labels)
    _transcribe(sheet, folder, own)
    _find_media(sheet, folder, own, safe, check_media)
    if check_media:
        there = safe & (sheet.rows["video_path"] != "")
        checks.check_media(sheet, folder, there, progress=progress)
    sheet.rows = sheet.rows.drop(columns="given")
    return imported_of(f"MER-UniBench, {dataset}", own.labels, sheet, dropped)


def _check_twice(sheet: checks.Sheet) -> None:
    for index in sheet.rows.index[sheet.rows["name"].duplicated(keep=False)]:
        subset = sheet.rows.loc[index, "subset"]
        sheet.reject(index, f"a name of {subset} and of another entry", "one entry a clip")


def _label(sheet: checks.Sheet, labels: LabelSet) -> pd.Series:
    """Fill ``label_gt``; flags the clips that the set's metric leaves out."""
    wanted = "val" if labels.polarity else "emo"
    values = pd.Series(0.0, index=sheet.rows.index)
    found = pd.Series(pd.NA, index=sheet.rows.index, dtype="Int64")
    for index, given in sheet.rows["given"].items():
        if not isinstance(given, dict) or wanted not in given:
            sheet.reject(index, f"no {wanted} in {given!r:.60}", "a dictionary of emo and val")
            continue
        value = given[wanted]
        try:
            if labels.polarity:
                values[index] = _sentiment(value)
            else:
                found[index] = _emotion(value, labels)
        except ValueError as error:
            sheet.reject(index, f"{wanted} is {value!r:.60}", str(error))
    if labels.polarity:
        found = by_sign(values, labels)
    sheet.rows["label_gt"] = found
    return found.isna()


def _sentiment(value: Any) -> float:
    number = math.nan
    if isinstance(value, (Real, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    # Its makers write -10 where there is none.
    if not math.isfinite(number) or abs(number) > 3:
        raise ValueError("a sentiment in [-3, 3]")
    return number


def _emotion(value: Any, labels: LabelSet) -> int:
    expected = f"one of {', '.join(labels.classes)}, or its number from 0"
    if isinstance(value, str):
        try:
            return labels.index(value)
        except ValueError:
            raise ValueError(expected) from None
    whole = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    if not whole or not 0 <= int(value) < len(labels):
        raise ValueError(expected)
    return int(value)


def _transcribe(sheet: checks.Sheet, folder: Path, own: Dataset) -> None:
    """Fill ``text`` from the transcription, by name; reject rows that have none."""
    path = folder / own.transcription
    said = checks.read_sheet(path, folder, str(sheet.corpus), required=("name", own.language))
    sheet.entries += said.entries
    texts: dict[str, set[str]] = {}
    for name, text in zip(said.rows["name"], said.rows[own.language], strict=True):
        texts.setdefault(name, set()).add(text)
    column = pd.Series("", index=sheet.rows.index, dtype=object)
    for index, name in sheet.rows["name"].items():
        found = {text for text in texts.get(name, ()) if not is_blank(text)}
        if len(found) == 1:
            column[index] = found.pop()
        else:
            problem = "two transcripts" if found else f"no {own.language} transcript"
            sheet.reject(index, f"{own.transcription}: {problem} of {name}", "one row a clip")
    sheet.rows["text"] = column.astype(str)


def _find_media(
    sheet: checks.Sheet, folder: Path, own: Dataset, safe: pd.Series, must: bool
) -> None:
    """Fill the paths of film and sound by the clip's name, whatever ending they have."""
    films = media_by_name(folder / own.video, VIDEO)
    sounds = media_by_name(folder / own.audio, AUDIO)
    if must and not films:
        raise checks.CorpusError(f"{folder / own.video}: no films there, as <name>.mp4")
    paths: dict[str, list[str]] = {"video_path": [], "audio_path": []}
    for index, name in sheet.rows["name"].items():
        own_films = films.get(name, [] if must else [f"{name}.mp4"])
        own_sounds = sounds.get(name, [])
        if safe[index] and len(own_films) != 1:
            many = ", ".join(own_films)
            problem = f"two films ({many})" if many else "no film"
            sheet.reject(index, f"{own.video}: {problem} of {name}", f"{own.video}/{name}.mp4")
        film = f"{own.video}/{own_films[0]}" if safe[index] and own_films else ""
        sound = f"{own.audio}/{own_sounds[0]}" if safe[index] and own_sounds else film
        paths["video_path"].append(film)
        paths["audio_path"].append(sound)
    sheet.rows = sheet.rows.assign(**paths)
