"""A run in one file: what ran where, with what, what failed, and every number that was compared.

The pipeline writes ``runs/<profile>/report.json`` when a run ends, be it at a failure. It holds no
path, no name of a machine or user and no key, so that it can be attached to an issue.
``python -m emomm_study.run.report A.json B.json`` says where two of them differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

import emomm_lib
from emomm_study.corpora.manifest import read_manifest
from emomm_study.evaluate.uses import Use, used_since
from emomm_study.paths import ROOT, cache_root, plain, whole
from emomm_study.report import manifest
from emomm_study.report.manifest import frame_fingerprint
from emomm_study.report.values import COLUMNS, compare_values, read_values, recorded

FORMAT = 1
"""Raised when the report's keys change."""
NAME = "report.json"
_PATHS = ("video_path", "audio_path")
_VARIABLES = re.compile(r"(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|CUDA_VISIBLE_DEVICES|HF_HUB_OFFLINE|"
                        r"ONEDNN_\w+|DNNL_\w+|MKL_\w+|ATEN_CPU_CAPABILITY|CUBLAS_\w+|EMOMM_DEVICE")  # fmt: skip
_REASONS = 20
"""Reasons of failures that are listed, the most frequent first."""


def write_run_report(
    profile: Mapping[str, object],
    notebooks: Sequence[str],
    began: float,
    *,
    runs: Path,
    compared: pd.DataFrame | None = None,
    stopped: str | None = None,
) -> Path:
    """Write the report of a run and return its path.

    Parameters
    ----------
    profile
        The profile's values by name, references to the environment filled in.
    notebooks
        Stems of those that this run was asked for.
    began
        When it began, in seconds since the epoch.
    compared
        The closing table (``paper.compare``), where the run came so far.
    stopped
        Why it stopped early.
    """
    name = str(profile["profile"])
    report = {
        "format": FORMAT,
        "profile": name,
        "project": {"version": emomm_lib.__version__, **_revision()},
        "began": _iso(began),
        "seconds": round(time.time() - began, 1),
        "stopped": None if stopped is None else _private(stopped),
        "environment": environment(),
        "parameters": {key: _parameter(value) for key, value in sorted(profile.items())},
        "benchmark": _benchmark(runs / name / "manifest.parquet"),
        "notebooks": [_notebook(runs / name / f"{stem}.ipynb", began) for stem in notebooks],
        "answers": _answers(used_since(cache_root() / "predictions.sqlite", name, began)),
        "published": [] if compared is None else json.loads(compared.to_json(orient="records")),
        "values": _values(name, notebooks, runs),
        "files": _files(name, notebooks),
    }
    path = runs / name / NAME
    with whole(path) as partial:
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def environment() -> dict[str, object]:
    """This machine and its software, as far as a number may hang on them."""
    wanted = _pins(ROOT / "requirements.lock")
    # Of a package that is there twice, the first is the one that is imported.
    installed = {_canonical(d.name): d.version for d in reversed([*metadata.distributions()])}
    versions = {name: installed.get(name) for name in wanted}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if _VARIABLES.fullmatch(k)},
        "packages": versions,
        "unlike_lock": {n: [wanted[n], v] for n, v in versions.items() if v != wanted[n]},
    }  # fmt: skip


def _pins(lock: Path) -> dict[str, str]:
    with suppress(OSError):
        lines = lock.read_text(encoding="utf-8").splitlines()
        pins = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
        return {_canonical(pin[1]): pin[2] for pin in pins if pin}
    return {}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cpu() -> str:
    with suppress(OSError):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        known = {}
        for line in info.split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            known[key.strip()] = value.strip()
        numbers = "/".join(known.get(k, "?") for k in ("cpu family", "model"))
        if "model name" in known:
            return f"{known['model name']} ({numbers})"
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    with suppress(OSError, ValueError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return None


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU that NVIDIA's tool sees."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return [line.strip() for line in said.stdout.splitlines() if line.strip()]
    return []


def _revision() -> dict[str, object]:
    """Commit of the project's checkout, and whether files differ from it."""
    if not (ROOT / ".git").exists():
        return {"commit": None, "changed": None}
    with suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(ROOT)]
        options = {"capture_output": True, "text": True, "timeout": 20, "check": True}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], **options).stdout
        return {"commit": commit, "changed": bool(status.strip())}
    return {"commit": None, "changed": None}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _parameter(value: object) -> object:
    """A parameter as it can be shown: of a path its last part."""
    if isinstance(value, list):
        return [_parameter(item) for item in value]
    if not isinstance(value, str):
        return value
    name, mark, options = value.partition("?")
    pairs = [pair.partition("=") for pair in options.split("&")] if mark else []
    shown = "&".join(f"{key}{equals}{_shown_path(own)}" for key, equals, own in pairs)
    return _private(f"{_shown_path(name)}{mark}{shown}")


def _shown_path(text: str) -> str:
    path = Path(os.path.expanduser(text))
    if not path.is_absolute():
        return text
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f".../{plain(path.name)}"


def _private(text: str) -> str:
    """A text in which no place of this machine is named."""
    places = {str(ROOT): ".", str(cache_root()): "cache", os.path.expanduser("~"): "~"}
    for place, short in sorted(places.items(), key=lambda pair: -len(pair[0])):
        if len(place) > 1:
            text = text.replace(place, short)
    return re.sub(r"(?<![\w.~/])/(?:[^\s/:'\"]+/)+(?=[^\s/:'\"]*)", ".../", text)


def _benchmark(path: Path) -> dict[str, object] | None:
    """The benchmark's size and digest: of labels, splits and texts, whatever folder they are in."""
    if not path.is_file():
        return None
    table = read_manifest(path)
    counts = table.groupby(["corpus", "subset"], observed=True).size()
    return {
        "clips": len(table),
        "digest": frame_fingerprint(table.drop(columns=[c for c in _PATHS if c in table])),
        "by_corpus_and_subset": {"/".join(map(str, key)): int(n) for key, n in counts.items()},
    }


def _notebook(path: Path, began: float) -> dict[str, object]:
    """How long a notebook ran, where it ran in this run."""
    found: dict[str, object] = {"name": path.stem, "seconds": None, "status": "not run"}
    with suppress(OSError, ValueError):
        if path.stat().st_mtime < began:
            return found
        own = nbformat.read(path, as_version=4)
        kept = own.metadata.get("papermill", {})
        states = {c.metadata.get("papermill", {}).get("status") for c in own.cells}
        ended = kept.get("end_time") is not None and "failed" not in states
        status = "done" if ended and not kept.get("exception") else "stopped"
        found |= {"seconds": kept.get("duration"), "status": status}
    return found


def _answers(uses: Sequence[Use]) -> dict[str, object]:
    """What was asked: every plain run with its settings, the steered ones together; failures of all."""
    plain_runs, steered = [], [use for use in uses if "steering" in use.settings]
    for use in uses:
        if "steering" not in use.settings:
            shown = {key: _shown_setting(value) for key, value in use.settings.items()}
            plain_runs.append({"fingerprint": use.fingerprint, **_counts([use]), "settings": shown})
    names = sorted(use.fingerprint for use in steered)
    digest = frame_fingerprint(pd.DataFrame({"run": names})) if names else None
    reasons = Counter(reason for use in uses for reason in use.reasons)
    return {
        "plain": plain_runs,
        "steered": {"runs": len(names), "digest": digest, **_counts(steered)},
        "reasons": [{"reason": _private(why), "items": n} for why, n in reasons.most_common(_REASONS)],
    }  # fmt: skip


def _shown_setting(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _shown_setting(own) for key, own in value.items()}
    return _private(value) if isinstance(value, str) else value


def _counts(uses: Sequence[Use]) -> dict[str, int]:
    return {
        name: sum(getattr(use, name) for use in uses)
        for name in ("answered", "failed", "unparseable")
    }


def _values(profile: str, notebooks: Sequence[str], runs: Path) -> dict[str, list[list[object]]]:
    """Estimated values of each notebook, a row each in the order of ``values.COLUMNS``."""
    found = {}
    for stem in notebooks:
        path = recorded(profile, runs) / f"{stem}.csv"
        if path.is_file():
            # A value of no clip has no tolerance: it is infinite, which JSON does not know.
            rows = read_values(path)[COLUMNS].replace([np.inf, -np.inf], np.nan).astype(object)
            found[stem] = rows.where(rows.notna(), None).to_numpy().tolist()
    return found


def _files(profile: str, notebooks: Sequence[str]) -> dict[str, str]:
    with suppress(ValueError):
        return {
            name: digest
            for stem in notebooks
            for name, digest in manifest.digests(profile, stem).items()
        }
    return {}


def read_report(path: Path) -> dict:
    """A report; ``ValueError`` for a file that is none, or is of another format."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no report of a run ({error})") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        found = report.get("format") if isinstance(report, dict) else None
        raise ValueError(
            f"{path}: no report of a run in format {FORMAT} (found {found!r}); "
            f"runs/<profile>/{NAME} is one"
        )
    return report


def differences(one: Mapping, other: Mapping) -> list[str]:
    """Where two reports differ, a line each, causes first; empty where their numbers agree.

    Estimated values are compared with the tolerances of ``one``; what depends on the hour (times,
    durations) is not compared.
    """
    lines = []
    for part in ("profile", "project", "parameters", "benchmark"):
        lines += _unlike(part, one[part], other[part])
    ours, theirs = one["environment"], other["environment"]
    for key in ("python", "system", "cpu", "gpus", "variables", "packages"):
        lines += _unlike(key, ours[key], theirs[key])
    lines += _unlike("stopped", one["stopped"], other["stopped"])
    lines += _unlike("answers", _by_run(one), _by_run(other))
    lines += _unlike("published", _by_item(one), _by_item(other))
    return lines + _unlike_values(one, other) + _unlike_files(one, other)


def _by_run(report: Mapping) -> dict[str, object]:
    """Answers by what was asked of them, so that two models' runs stand beside each other."""
    answers = report["answers"]
    runs = {f"run {run['fingerprint']}": {k: run[k] for k in ("answered", "failed", "unparseable")}
            for run in answers["plain"]}  # fmt: skip
    return {**runs, "steered": answers["steered"]}


def _by_item(report: Mapping) -> dict[str, object]:
    return {row["item"]: row["within"] for row in report["published"]}


def _unlike(name: str, one: object, other: object) -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return [line for k in keys for line in _unlike(f"{name}: {k}", one.get(k), other.get(k))]
    return [] if one == other else [f"{name}: {_brief(one)} | {_brief(other)}"]


def _brief(value: object) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _unlike_values(one: Mapping, other: Mapping) -> list[str]:
    lines = []
    for stem in dict.fromkeys([*one["values"], *other["values"]]):
        tables = [
            pd.DataFrame(report["values"].get(stem, []), columns=COLUMNS).astype(
                dict.fromkeys(COLUMNS[1:], float)
            )
            for report in (one, other)
        ]
        compared = compare_values(*tables)
        far = compared[compared["deviation"] > 1]
        for row in far.itertuples():
            lines.append(
                f"value: {stem[:2]} {row.name}: {row.committed:.6g} | {row.found:.6g} "
                f"(tolerance {row.tolerance:.2g})"
            )
    return lines


def _unlike_files(one: Mapping, other: Mapping) -> list[str]:
    names = [name for name in one["files"] if one["files"][name] != other["files"].get(name)]
    names += [name for name in other["files"] if name not in one["files"]]
    return [f"files not identical: {', '.join(names)}"] if names else []


def main(argv: Sequence[str] | None = None) -> int:
    """Print where two reports differ; 0 where they agree, 1 where not, 2 for what is no report."""
    parser = argparse.ArgumentParser(
        prog="python -m emomm_study.run.report", description="Where two runs' reports differ."
    )
    parser.add_argument("one", type=Path, help="runs/<profile>/report.json")
    parser.add_argument("other", type=Path)
    options = parser.parse_args(argv)
    try:
        one, other = read_report(options.one), read_report(options.other)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    lines = differences(one, other)
    print("\n".join(lines) if lines else "Both runs agree.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
