"""Checks shared by the corpus loaders: every defect is found in one pass, with its file and row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from emomm_lib.labels import SOURCES
from emomm_study.corpora.clips import CLIP_SCHEMA, REPORT_COLUMNS, CorpusTable, is_blank
from emomm_study.corpora.lines import FALLBACK_ENCODINGS, Lines, UnknownEncoding, read_lines
from emomm_study.corpora.scores import Corpus, on_grid, score_to_label
from emomm_study.media.container import (
    ANEW,
    chosen_stream,
    missing_bytes,
    opened,
    reason,
    stream_defect,
)
from emomm_study.media.sound_file import sound_defect

Problem = tuple[str, str]
"""What is wrong, and what was expected or what to do."""


class CorpusError(ValueError):
    """A defect that leaves nothing to load: a missing folder, table, column, parameter or clip.

    Attributes
    ----------
    report
        Every row that was left out, with :data:`REPORT_COLUMNS`, where rows were read at all.
    """

    report: pd.DataFrame | None = None


FIRST_REASONS = 5
"""How many reasons an error quotes where no row is usable."""


@dataclass
class Sheet:
    """The rows of one or more label files while they are checked.

    Attributes
    ----------
    rows
        Text columns as in the file, plus ``file``, ``row`` and ``sample_id``; index 0..n-1.
    ok
        One flag a row; a rejected row stays in ``rows``, so that later checks can add to it.
    entries
        Report entries so far, each with :data:`REPORT_COLUMNS`.
    broken
        Rows that could not be decoded or divided into columns; they are not in ``rows``.
    files
        Names of the files, also of those without a row.
    """

    corpus: str
    rows: pd.DataFrame
    entries: list[dict] = field(default_factory=list)
    broken: int = 0
    files: tuple[str, ...] = ()
    ok: pd.Series = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.rows.reset_index(drop=True)
        parts = zip(*(self.rows[column] for column in self.ids), strict=True)
        self.rows["sample_id"] = [sample_id(self.corpus, *own) for own in parts]
        self.ok = pd.Series(True, index=self.rows.index)

    @property
    def ids(self) -> tuple[str, ...]:
        """Columns that a clip is known by: ``video_id`` and ``clip_id``, or its ``name``."""
        return ("video_id", "clip_id") if "video_id" in self.rows else ("name",)

    def notice(
        self, file: str, problem: str, expected: str, row: int = 0, sample: str = ""
    ) -> None:
        """Add a report entry that rejects no row (``row=0``: about the whole file)."""
        values = (str(self.corpus), file, row, sample, problem, expected)
        self.entries.append(dict(zip(REPORT_COLUMNS, values, strict=True)))

    def notice_encoding(self, file: str, lines: Lines) -> None:
        """Add entries about a file that is not in UTF-8, and about lines that are not in its own.

        What cannot be read is left to the caller, who knows which row it spoils.
        """
        if lines.encoding != "utf-8":
            self.notice(file, f"encoded in {lines.encoding.upper()}, read as such", "UTF-8")
        for number, encoding in lines.odd.items():
            looks = "hardly looks like" if encoding == lines.encoding else "is not in"
            problem = f"line {number} {looks} {lines.encoding.upper()}, read as {encoding.upper()}"
            self.notice(file, problem, "UTF-8; look whether the line reads well", number)

    def reject(self, index: int, problem: str, expected: str) -> None:
        """Leave one row out, with the reason; a row may be rejected for several reasons."""
        at = self.rows.loc[index]
        self.notice(at["file"], problem, expected, int(at["row"]), at["sample_id"])
        self.ok[index] = False

    def without(self, mask: pd.Series) -> Sheet:
        """The sheet without some rows; what was found so far is kept."""
        kept = Sheet(self.corpus, self.rows[~mask], self.entries, self.broken, self.files)
        kept.ok = self.ok[~mask].reset_index(drop=True)
        return kept

    @staticmethod
    def join(sheets: Sequence[Sheet]) -> Sheet:
        """One sheet of several files' rows, in order."""
        return Sheet(
            sheets[0].corpus,
            pd.concat([s.rows for s in sheets], ignore_index=True),
            [entry for s in sheets for entry in s.entries],
            sum(s.broken for s in sheets),
            tuple(file for s in sheets for file in s.files),
        )


def sample_id(corpus: str, *ids: str) -> str:
    """``<corpus>/<video_id>/<clip_id>``, or ``<corpus>/<name>``."""
    return "/".join((str(corpus), *ids))


def relative_name(path: Path, root: Path) -> str:
    """A path as reports write it: relative to ``root`` with forward slashes where it lies there."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def plain_name(path: Path) -> str:
    """A folder's name in lower-case letters and digits: ``CH-SIMS v2(s)`` is ``chsimsv2s``."""
    return re.sub(r"[\W_]", "", path.name.lower())


def find_homes(
    root: Path, is_home: Callable[[Path], object], name_pattern: str, layout: str
) -> list[Path]:
    """The folder itself if ``is_home`` accepts it, else those of its subfolders that it accepts.

    A subfolder's name must also match ``name_pattern`` once lower-cased and stripped to letters
    and digits: the parent often holds other datasets with the same file names.

    Raises
    ------
    CorpusError
        When there is none; the message shows the expected ``layout`` and what was found.
    """
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder. Expected\n{layout}")
    if is_home(root):
        return [root]
    homes = [
        folder
        for folder in sorted(root.iterdir())
        if re.fullmatch(name_pattern, plain_name(folder)) and is_home(folder)
    ]
    if not homes:
        found = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
        raise CorpusError(f"{root}: not a corpus folder (it holds {found}). Expected\n{layout}")
    return homes


def _records(lines: Sequence[str], file: str) -> Iterator[tuple[range, list[str]]]:
    """Non-blank records and the lines each stands on (a quoted field may span several)."""
    # Strict: otherwise a quote that is never closed swallows all later rows without a word.
    reader = csv.reader(lines, strict=True)
    line = 1
    try:
        for record in reader:
            if any(value.strip() for value in record):
                yield range(line, reader.line_num + 1), [value.strip() for value in record]
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"{file}, line {line}: {error}; look for a stray or unclosed quote"
        ) from error


def need_folder(folder: Path, layout: str) -> None:
    """Raise :class:`CorpusError` when the folder that should hold the media is missing."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder. Expected\n{layout}")


def read_sheet(
    path: Path,
    root: Path,
    corpus: str,
    *,
    required: Iterable[str] = (),
    header: Sequence[str] | None = None,
) -> Sheet:
    """A CSV file as text, so that leading zeros of ids survive, with each row's line number.

    Parameters
    ----------
    required
        Columns that must be there.
    header
        Column names of a file that has no header line.

    Raises
    ------
    CorpusError
        When the file is missing or empty, is in no encoding known here, has a header that cannot be
        read, or lacks a column.
    """
    file = relative_name(path, root)
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        lines = read_lines(path.read_bytes(), corpus)
    except UnknownEncoding as error:
        raise CorpusError(f"{path}: {error}; save it again as UTF-8") from None
    records = list(_records(lines.text, file))
    if not records:
        raise CorpusError(f"{path}: the file is empty")
    if header is None:
        place, columns = records.pop(0)
        if bad := unreadable(lines, place, corpus):
            raise CorpusError(f"{path}: the header {bad[0][1]}; save it again as UTF-8")
    columns = list(header or columns)
    missing = [name for name in required if name not in columns]
    if missing:
        raise CorpusError(
            f"{path}: missing columns {', '.join(missing)}; found {', '.join(columns)}"
        )
    repeated = [name for name, n in Counter(columns).items() if n > 1]
    if repeated:
        raise CorpusError(f"{path}: column {', '.join(repeated)} stands more than once")
    spoilt = {place: unreadable(lines, place, corpus) for place, _ in records}
    whole = [(p, r) for p, r in records if not spoilt[p] and len(r) == len(columns)]
    rows = pd.DataFrame([record for _, record in whole], columns=columns, dtype=str)
    rows = rows.assign(file=file, row=[place.start for place, _ in whole])
    sheet = Sheet(corpus, rows, broken=len(records) - len(whole), files=(file,))
    sheet.notice_encoding(file, lines)
    for place, record in records:
        for line, problem in spoilt[place]:
            sheet.notice(file, f"line {line} {problem}", "UTF-8; write the row again", line)
        if not spoilt[place] and len(record) != len(columns):
            problem, expected = f"{len(record)} fields", f"{len(columns)} fields, as in the header"
            sheet.notice(file, problem, expected, place.start)
    return sheet


def unreadable(lines: Lines, place: Iterable[int], corpus: str) -> list[tuple[int, str]]:
    """Of some lines the numbers of those that cannot be read, with the reason."""
    other = FALLBACK_ENCODINGS.get(corpus)
    neither = f", neither UTF-8 nor {other.upper()}" if other else ", which is no UTF-8"
    return [
        (n, f"has {why}{neither if why.startswith('byte') else ''}")
        for n in place
        if (why := lines.unreadable.get(n))
    ]


def check_ids(sheet: Sheet) -> pd.Series:
    """Reject ids that are blank, hold spaces, or would lead out of the corpus folder.

    Returns one flag a row: whether a path may be made of its ids.
    """
    safe = pd.Series(True, index=sheet.rows.index)
    for column in sheet.ids:
        # A drive letter's colon makes a path absolute on Windows.
        fine = sheet.rows[column].str.fullmatch(r"[^\s/\\:\x00]+")
        fine &= ~sheet.rows[column].isin([".", ".."])
        for index in sheet.rows.index[~fine]:
            value = sheet.rows.loc[index, column]
            sheet.reject(
                index, f"{column} is {value!r}", "a plain name, without spaces, slashes, : or .."
            )
        safe &= fine
    return safe


def check_duplicates(sheet: Sheet) -> None:
    """Reject repeated ids: of identical rows the first stays, of differing rows none does."""
    content = [c for c in sheet.rows.columns if c not in ("file", "row")]
    for _, group in sheet.rows[sheet.rows.duplicated("sample_id", keep=False)].groupby("sample_id"):
        same = len(group[content].drop_duplicates()) == 1
        for index in group.index[1:] if same else group.index:
            others = group.drop(index)[["file", "row"]].itertuples(index=False)
            where = "; ".join(f"{o.file} line {o.row}" for o in others)
            sheet.reject(
                index,
                f"duplicate id, {'same' if same else 'different'} content ({where})",
                "one row an id" + ("; the first one is used" if same else "; none is used"),
            )


def check_text(sheet: Sheet) -> None:
    """Reject rows whose transcript is blank."""
    for index in sheet.rows.index[sheet.rows["text"].map(is_blank).astype(bool)]:
        sheet.reject(index, "text is empty", "the clip's transcript")


def check_numbers(
    sheet: Sheet, columns: Sequence[str], *, limit: float = 1, grid: bool = True
) -> pd.DataFrame:
    """Numbers of label columns, NaN where a row was rejected for one.

    Rejects what is blank, not a number, outside [-limit, limit] or (``grid``) no multiple of 0.2.
    """
    numbers = pd.DataFrame(index=sheet.rows.index)
    span = f"a number in [{-limit:g}, {limit:g}]" + (" in steps of 0.2" if grid else "")
    for column in columns:
        written = sheet.rows[column]
        value = pd.to_numeric(written, errors="coerce")
        inside = value.abs() <= limit + 1e-9
        fine = inside & (on_grid(value.where(inside)) if grid else True)
        for index in sheet.rows.index[~fine]:
            if written[index] == "":
                problem = f"{column} is blank"
            elif np.isnan(value[index]):
                problem = f"{column} is {written[index]!r}, not a number"
            elif not inside[index]:
                problem = f"{column} is {written[index]}, out of range"
            else:
                problem = f"{column} is {written[index]}, off the grid"
            sheet.reject(index, problem, span)
        numbers[column] = value.where(fine).clip(-limit, limit)
    return numbers


def check_media(
    sheet: Sheet, root: Path, among: pd.Series, *, workers: int = 4, progress: bool = False
) -> None:
    """Reject rows whose files cannot be used, from the files' headers alone (about 2 ms a clip).

    Columns ``video_path`` and ``audio_path`` are relative to ``root``; where they are equal the
    mp4 must have a sound track. ``among`` flags the rows to look at. A file that is damaged only
    inside its frames passes here and fails when it is decoded.
    """
    rows = sheet.rows[among]
    twin = cache(_padded_twin)

    def look(paths: tuple[str, str]) -> list[Problem]:
        video, audio = paths
        found = _file_problems(root, video, twin) or probe_video(
            root / video, needs_audio=audio == video
        )
        problems = [(f"{video}: {p}", e) for p, e in found]
        if audio != video:
            found = _file_problems(root, audio, twin) or probe_audio(root / audio)
            problems += [(f"{audio}: {p}", e) for p, e in found]
        return problems

    pairs = list(zip(rows["video_path"], rows["audio_path"], strict=True))
    with ThreadPoolExecutor(workers) as pool:
        results = tqdm(
            pool.map(look, pairs),
            total=len(pairs),
            desc=f"{sheet.corpus}: media files",
            unit="clip",
            disable=not progress,
        )
        for index, problems in zip(rows.index, results, strict=True):
            for problem, expected in problems:
                sheet.reject(index, problem, expected)


def probe_video(path: Path, *, needs_audio: bool) -> list[Problem]:
    """Problems of an mp4 that its header shows; an empty list when there are none."""
    again = "a playable mp4; copy it again from the dataset"
    try:
        with opened(path) as container:
            problems: list[Problem] = []
            for kind in ("video", "audio") if needs_audio else ("video",):
                stream = chosen_stream(container, kind)
                if stream is None:
                    film = again if kind == "video" else "an mp4 with a sound track"
                    problems.append((f"no {kind} stream", film))
                elif not (stream.frames or stream.duration or container.duration):
                    problems.append((f"the {kind} stream is empty", again))
                elif defect := stream_defect(stream):
                    problems.append((defect, f"a stream that can be decoded; {ANEW}"))
            size = path.stat().st_size
            if missing := missing_bytes(container, size):
                length = size + missing
                problems.append((f"cut short: {size} of at least {length} bytes", again))
            return problems
    except Exception as error:
        return [(f"unreadable mp4 ({reason(error)})", again)]


def probe_audio(path: Path) -> list[Problem]:
    """Problems of a sound file that its header shows; an empty list when there are none."""
    again = "a playable wav; copy it again from the dataset"
    try:
        defect = sound_defect(path)
    except Exception as error:
        return [(f"unreadable wav ({reason(error)})", again)]
    return [(defect, again)] if defect else []


def _file_problems(root: Path, name: str, twin: Callable[[Path, str], str | None]) -> list[Problem]:
    path = root / name
    try:
        size = path.stat().st_size if path.is_file() else None
        padded = twin(root, name) if size is None else None
    except (OSError, ValueError) as error:
        return [(f"cannot be reached ({reason(error)})", "a readable file")]
    if size is None:
        hint = f"; {padded} exists: did the ids lose their leading zeros?" if padded else ""
        return [("missing file", f"the clip at this place{hint}")]
    if size == 0:
        return [("zero-length file", "the clip; copy it again from the dataset")]
    return []


def _padded_twin(root: Path, name: str) -> str | None:
    """An existing path that differs from ``name`` only in leading zeros of its numbers."""

    def bare(part: str) -> str:
        return re.sub(r"(?<!\d)0+(?=\d)", "", part)

    folder = root
    for part in PurePosixPath(name).parts:
        if not (folder / part).exists():
            listing = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            part = next((other for other in listing if bare(other) == bare(part)), None)
            if part is None:
                return None
        folder /= part
    return relative_name(folder, root)


def report_of(sheet: Sheet) -> pd.DataFrame:
    """What was found of a sheet's rows, with :data:`REPORT_COLUMNS`, in the order of the files."""
    report = pd.DataFrame(sheet.entries, columns=list(REPORT_COLUMNS)).astype({"row": int})
    return report.sort_values(["file", "row"], kind="stable", ignore_index=True)


def corpus_table(
    sheet: Sheet,
    root: Path,
    scores: pd.DataFrame,
    *,
    language: str,
    unlabelled: int,
    sources: Sequence[str] = SOURCES,
) -> CorpusTable:
    """The usable rows as a validated Clip table, with the report of the others.

    Parameters
    ----------
    sheet
        Checked rows with ``video_id, clip_id, speaker_id, text, video_path, audio_path``.
    scores
        Columns ``score_<source>`` on the 0.2 grid, indexed as the rows.
    sources
        Those that have scores; the table has no columns of others.

    Raises :class:`CorpusError` where no row is usable: how many were found, how many have no labels
    and were left out, and the first reasons.
    """
    absent = [f"{kind}_{s}" for s in SOURCES if s not in sources for kind in ("score", "label")]
    schema = CLIP_SCHEMA.remove_columns(absent)
    if not sheet.ok.any():
        raise nothing_usable(sheet, f"{root}: no usable clip", unlabelled)
    clips = sheet.rows[sheet.ok].join(scores)
    clips = clips.assign(corpus=str(sheet.corpus), language=language)
    for source in sources:
        score = (clips[f"score_{source}"].astype(float) * 5).round() / 5 + 0.0
        clips[f"score_{source}"] = score
        clips[f"label_{source}"] = score_to_label(score, Corpus(sheet.corpus))
    clips = clips[list(schema.columns)].sort_values("sample_id", ignore_index=True)
    return CorpusTable(
        root=root,
        clips=schema.validate(clips, lazy=True),
        report=report_of(sheet),
        unlabelled=unlabelled,
        excluded=len(sheet.rows) + sheet.broken - len(clips),
    )


def nothing_usable(sheet: Sheet, what: str, unlabelled: int) -> CorpusError:
    """The error of a sheet without a usable row: what was found, and the first reasons."""
    report, lost = report_of(sheet), len(sheet.rows) + sheet.broken
    parts = [f"{what} in {', '.join(dict.fromkeys(sheet.files))}"]
    if not lost + unlabelled:
        parts.append("there is no row, at most a header")
    if unlabelled:
        parts.append(f"rows without labels: {unlabelled}")
    if lost:
        shown = report.head(FIRST_REASONS).itertuples()
        more = "" if len(report) <= FIRST_REASONS else f"\n  … ({len(report)} such lines)"
        parts.append(
            f"rows left out: {lost}\n"
            + "\n".join(
                f"  {e.file} line {e.row}: {e.problem}; expected {e.expected}" for e in shown
            )
            + more
        )
    error = CorpusError("; ".join(parts))
    error.report = report
    return error


def write_report(table: CorpusTable, path: str | Path) -> Path:
    """Write what was left out of a corpus as CSV (UTF-8), header only when nothing was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.report.to_csv(path, index=False)
    return path
