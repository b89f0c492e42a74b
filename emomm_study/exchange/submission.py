"""Answers that anyone hands in: their format, what is wrong with them, and what they score.

A row an instance, a clip under a coalition, as CSV or as JSON lines in UTF-8; ``submission.schema.json``
beside this file is the schema of one row. No media are needed, only the benchmark's manifest.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from jsonschema import Draft202012Validator

from emomm_lib import LabelSet, gtar_frame, psmv_frame
from emomm_lib.labels import COALITIONS
from emomm_lib.metrics.reference import LOGITS
from emomm_study.corpora.manifest import SPLITS
from emomm_study.corpora.scores import GRIDS, Corpus, nearest_step
from emomm_study.evaluate.asked import lost_by_subset
from emomm_study.evaluate.results import instances, join, outcomes, table1_scores
from emomm_study.paths import plain, whole
from emomm_study.systems.prompts import grammar_of, parse_reply

KEYS = ("sample_id", "coalition")
ANSWERS = ("letter", "score", "reply", "failure")
COLUMNS = (*KEYS, *ANSWERS, *LOGITS)
TABLE1 = ("TAV", "TA", "TV", "AV")
"""Coalitions of Table 1: whole clips, and each with one modality masked."""
SHOWN = 5
"""Of many rows with one defect, so many are named."""


class SubmissionError(ValueError):
    """A submission that is not scored; the text has a sentence a defect."""

    def __init__(self, path: str, found: list[str]) -> None:
        self.found = found
        many = "a defect" if len(found) == 1 else f"{len(found)} defects"
        super().__init__("\n".join([f"{path}: {many}; nothing was scored", *found]))


@dataclass(frozen=True)
class Scores:
    """What a submission scores.

    Attributes
    ----------
    table1
        As by :func:`emomm_study.evaluate.results.table1_scores`, a row a subset and metric.
    lost
        Instances that are neither right nor wrong: ``sample_id, coalition, outcome``, and why.
    counts
        By ``subset``, how many were ``asked``, ``failed`` and ``unparseable``.
    psmv, gtar
        PSMV by subset and GTAR, where all eight coalitions were handed in, else None.
    """

    table1: pd.DataFrame
    lost: pd.DataFrame
    counts: pd.DataFrame
    psmv: pd.DataFrame | None
    gtar: pd.DataFrame | None


@cache
def schema(labels: LabelSet | None = None) -> dict[str, Any]:
    """JSON schema of a row; of other ``labels`` with their letters, and without scores and logits."""
    whole = json.loads(Path(__file__).with_name("submission.schema.json").read_text("utf-8"))
    if labels is None:
        return whole
    left_out = {"score", *LOGITS}
    whole["properties"] = {k: v for k, v in whole["properties"].items() if k not in left_out}
    told = ", ".join(labels.classes)
    whole["properties"]["letter"] = {"enum": list(grammar_of(labels).letters), "description": told}
    whole["anyOf"] = [one for one in whole["anyOf"] if one["required"] != ["score"]]
    return whole | {"dependentRequired": {}}


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    numeric = {"score", *LOGITS}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="cells without a column", strict=True)
        for one in reader:
            row: dict[str, Any] = {k: v for k, v in one.items() if v not in ("", None)}
            for name in numeric & row.keys():
                # What is no finite number stays as it is written, and is refused as that.
                with suppress(ValueError):
                    row[name] = number if isfinite(number := float(row[name])) else row[name]
            yield reader.line_num, row


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The objects of a file of JSON lines, each with its line; ``ValueError`` for what is no JSON."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, json.loads(line, parse_constant=_not_a_number)


def _not_a_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".csv": _csv_rows,
    ".jsonl": json_rows,
}


def read_submission(path: Path | str, labels: LabelSet | None = None) -> pd.DataFrame:
    """The rows of a file, as they stand, with the ``line`` that each ends on.

    ``labels`` are those that were asked for in place of EmoMM's five classes and scores. Raises
    :class:`SubmissionError` with a sentence for each row that is not of the schema, and for a file
    that cannot be read at all.
    """
    path = Path(path)
    name = plain(path.name)
    if path.suffix not in READERS:
        raise SubmissionError(
            name, [f"The name ends in {' or '.join(READERS)}; this one does not."]
        )
    return checked(name, READERS[path.suffix](path), labels)


def checked(
    name: str, numbered: Iterator[tuple[int, Any]], labels: LabelSet | None = None
) -> pd.DataFrame:
    """Rows, each with the line that it ends on, as :func:`read_submission` gives those of a file.

    ``name`` is the file's, for messages. Raises :class:`SubmissionError` as there, also for what
    ``numbered`` raises on the way.
    """
    validator, rows, found = Draft202012Validator(schema(labels)), [], []
    try:
        for line, row in numbered:
            wrong = dict.fromkeys(map(_said, _errors(validator, row)))
            found += [f"Line {line}: {sentence}" for sentence in wrong]
            rows.append({"line": line, **row} if isinstance(row, dict) else {"line": line})
    except (OSError, ValueError, csv.Error) as error:
        at = f"After line {rows[-1]['line']}: " if rows else ""
        found.append(f"{at}it cannot be read: {plain(str(error))}.")
    if not rows and not found:
        found.append("It holds no answer.")
    if found:
        raise SubmissionError(name, _few(found))
    return pd.DataFrame(rows).reindex(columns=["line", *COLUMNS])


def _errors(validator: Draft202012Validator, row: Any) -> list:
    # Of a row that lacks an answer, the schema's own words would be about four alternatives.
    return sorted(
        validator.iter_errors(row), key=lambda error: [str(p) for p in error.absolute_path]
    )


def _said(error: Any) -> str:
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "anyOf":
        return f"there is no answer; give one of {', '.join(ANSWERS)}."
    if error.validator == "dependentRequired":
        return "give all five logits or none."
    return f"{f'{where}: ' if where else ''}{plain(error.message)}."


def _few(sentences: list[str]) -> list[str]:
    if len(sentences) <= 4 * SHOWN:
        return sentences
    return [*sentences[: 4 * SHOWN], f"And {len(sentences) - 4 * SHOWN} more."]


def asked_of(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """The clips of a split, or of ``all``; ``ValueError`` for one that is none."""
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is one of {(*SPLITS, 'all')}; got {split!r}")
    chosen = manifest if split == "all" else manifest[manifest["split"] == split]
    return chosen.reset_index(drop=True)


def defects(
    frame: pd.DataFrame,
    manifest: pd.DataFrame,
    split: str = "test",
    needed: Sequence[str] = TABLE1,
) -> list[str]:
    """What keeps a submission from being scored, a sentence a kind of defect; empty where nothing.

    Clips that the benchmark does not have, clips of another split than was asked for, an instance
    twice, and instances without an answer: those of ``needed``, Table 1's. Other coalitions may be
    left out, but only for all clips.
    """
    asked = asked_of(manifest, split)
    keys = pd.MultiIndex.from_frame(frame[list(KEYS)])
    unknown = ~frame["sample_id"].isin(manifest["sample_id"])
    elsewhere = ~unknown & ~frame["sample_id"].isin(asked["sample_id"])
    twice = pd.Series(keys.duplicated(keep="first"), frame.index)
    found = [
        _sentence(frame[unknown], "of a clip that the benchmark does not have"),
        _sentence(
            frame[elsewhere], f"of a clip that is not in the split {split}, so was not asked"
        ),
        _sentence(frame[twice], "of an instance that was answered before"),
    ]
    given = [c for c in COALITIONS if c in set(frame["coalition"]) or c in needed]
    wanted = pd.MultiIndex.from_product([asked["sample_id"], given], names=KEYS)
    gaps = wanted.difference(keys, sort=False)
    if len(gaps):
        some = ", ".join(" ".join(key) for key in gaps[:SHOWN])
        found.append(
            f"{len(gaps)} of {len(wanted)} instances have no answer, first {some}; one that the "
            "system could not answer has a row with a failure."
        )
    return [sentence for sentence in found if sentence]


def _sentence(rows: pd.DataFrame, what: str) -> str:
    if not len(rows):
        return ""
    some = ", ".join(
        f"line {line} ({name} {coalition})"
        for line, name, coalition in rows[["line", *KEYS]].head(SHOWN).itertuples(index=False)
    )
    return f"{len(rows)} answers are {what}: {some}."


def predictions_of(
    frame: pd.DataFrame, manifest: pd.DataFrame, labels: LabelSet | None = None
) -> pd.DataFrame:
    """Rows of a submission as predictions, replies and scores read into classes.

    A letter counts before a score, a score before a reply. A score alone is the class of the nearest
    one that the corpus allows (Appendix A.1); a reply is read as those of every system here are.
    """
    corpora = manifest.set_index("sample_id")["corpus"]
    rows = []
    for one in frame.to_dict("records"):
        asked = Corpus(corpora[one["sample_id"]]) if labels is None else labels
        rows.append({**{k: one[k] for k in KEYS}, **_answer(one, asked)})
    made = pd.DataFrame(rows)
    return made.assign(**{name: frame[name].to_numpy(float) for name in LOGITS})


def _answer(one: dict[str, Any], corpus: Corpus | LabelSet) -> dict[str, Any]:
    known = {name: one[name] for name in ANSWERS if not pd.isna(one[name])}
    none = {"label": None, "score": None, "failure": None, "reply": None}
    if "failure" in known:
        return none | {"failure": known["failure"]}
    score = known.get("score")
    if "letter" in known:
        return none | {"label": ascii_uppercase.index(known["letter"]), "score": score}
    if score is not None:
        step = int(nearest_step(score))
        return none | {"label": int(GRIDS[corpus].labels(step)), "score": score}
    read = parse_reply(known["reply"], corpus)
    return none | {"label": read.label, "score": read.score, "reply": known["reply"]}


def score_submission(frame: pd.DataFrame, manifest: pd.DataFrame, split: str = "test") -> Scores:
    """Table 1's row of a submission, with intervals over clips, and what was lost.

    ``split`` is the part of the benchmark that was asked: ``test``, another, or ``all``. Raises
    :class:`SubmissionError` with all :func:`defects`.
    """
    if found := defects(frame, manifest, split):
        raise SubmissionError("The submission", found)
    asked = asked_of(manifest, split)
    predictions = predictions_of(frame, manifest)
    scored, lost = join(instances(asked), predictions)
    if not len(scored):
        raise SubmissionError("The submission", ["No instance has an answer that can be scored."])
    psmv = gtar = None
    if set(COALITIONS) <= set(frame["coalition"]):
        known, _ = outcomes(asked, predictions)
        psmv, gtar = psmv_frame(known), gtar_frame(known)
    columns = [*KEYS, "subset", "outcome", "failure", "reply"]
    return Scores(table1_scores(scored), lost[columns], lost_by_subset(asked, lost), psmv, gtar)


def write_submission(path: Path | str, predictions: pd.DataFrame) -> None:
    """Write predictions, as an :class:`~emomm_study.evaluate.experiment.Experiment` gives them.

    A reply that was read is handed in as it was written, so that whoever scores it reads it too.
    """
    path = Path(path)
    letters = predictions["label"].map(lambda k: None if pd.isna(k) else ascii_uppercase[int(k)])
    free = predictions["reply"].notna()
    # An empty reply is one, too.
    predictions = predictions.assign(reply=predictions["reply"].replace("", " "))
    made = predictions[[*KEYS, "score", "reply", "failure", *LOGITS]].assign(
        letter=letters.where(~free), score=predictions["score"].where(~free)
    )[list(COLUMNS)]
    with whole(path) as partial:
        if path.suffix == ".csv":
            made.to_csv(partial, index=False, lineterminator="\n")
        else:
            records = made.replace({np.nan: None}).to_dict("records")
            lines = [
                json.dumps({k: v for k, v in r.items() if v is not None}, ensure_ascii=False)
                for r in records
            ]
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
