"""Replies out of lmms-eval's sample logs (``--log_samples``), as rows of a submission."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from emomm_study.exchange.submission import SubmissionError, checked, json_rows
from emomm_study.paths import plain

PATTERN = "*_samples_emomm_*.jsonl"
"""Names of the logs of the exported tasks, in the folder that ``--output_path`` names."""
NO_REPLY = "lmms-eval has no reply; its models write an empty one where they fail"


def is_sample_log(path: Path | str) -> bool:
    """Whether this is a folder, or a file of JSON lines whose first is a sample of lmms-eval."""
    path = Path(path)
    if path.is_dir():
        return True
    if path.suffix != ".jsonl":
        return False
    try:
        _, first = next(json_rows(path))
    except (OSError, ValueError, StopIteration):
        return False
    return isinstance(first, dict) and {"doc_id", "doc_hash", "filtered_resps"} <= first.keys()


def read_sample_log(path: Path | str) -> pd.DataFrame:
    """The replies of a log, or of all logs of one run below a folder, as ``read_submission`` gives rows.

    An empty reply becomes a failure. Raises :class:`SubmissionError` for a folder without a log or with
    two of one task, for a log of other tasks, and as ``read_submission``.
    """
    path = Path(path)
    logs = sorted(path.rglob(PATTERN)) if path.is_dir() else [path]
    if not logs:
        raise SubmissionError(
            plain(path.name),
            [f"The folder holds no {PATTERN}; run lmms-eval with --log_samples, and look for errors: "
             "its exit status is 0 even then."],
        )  # fmt: skip
    by_task: dict[str, Path] = {}
    for log in logs if path.is_dir() else ():
        task = log.stem.partition("_samples_")[2]
        if task in by_task:
            one, two = (plain(p.relative_to(path)) for p in (by_task[task], log))
            raise SubmissionError(
                plain(path.name), [f"It holds two logs of {task}, {one} and {two}; give one run's."]
            )
        by_task[task] = log
    return pd.concat([checked(plain(log.name), _rows(log)) for log in logs], ignore_index=True)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, sample in json_rows(path):
        yield line, _row(sample, line)


def _row(sample: Any, line: int) -> dict[str, Any]:
    answered = sample.get("answered") if isinstance(sample, dict) else None
    if not isinstance(answered, dict) or "filtered_resps" not in sample:
        raise ValueError(
            f"line {line} is not a sample of a task that emomm exported; run those tasks, and without "
            "--predict_only"
        )
    reply = sample["filtered_resps"]
    if not isinstance(reply, str):
        raise ValueError(f"line {line} has several replies; ask once, without --repeats")
    row = {key: answered[key] for key in ("sample_id", "coalition") if key in answered}
    if answered.get("outcome") == "failed":
        return row | {"failure": NO_REPLY}
    return row | {"reply": reply}
