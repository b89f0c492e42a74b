"""Which paper item, notebook and run every file under figures/ comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emomm_study.paths import FIGURES

NAME = "manifest.json"


@dataclass(frozen=True)
class Provenance:
    """Where a file comes from.

    Attributes
    ----------
    item
        The paper's item: ``Figure 6``, ``Table 3``.
    notebook
        Stem of the notebook that makes it: ``02_statistics``.
    fingerprint
        Hash of everything that can change the file's numbers.
    caption
        Caption; it names the profile.
    published
        Published value or values, where there are any: a number, a text, or numbers by item.
    """

    item: str
    notebook: str
    fingerprint: str
    caption: str
    published: float | str | dict[str, float] | None = None


def frame_fingerprint(*frames: pd.DataFrame) -> str:
    """Digest of tables: of their columns, their values and the order of their rows."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.to_csv(index=False).encode())
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(profile: str, root: Path = FIGURES) -> dict[str, dict]:
    """Entries by file name, none where nothing was recorded; ``ValueError`` if unreadable."""
    path = Path(root) / profile / NAME
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest ({error}); delete it and rerun") from None


def digests(profile: str, notebook: str, root: Path = FIGURES) -> dict[str, str]:
    """sha256 by file name of what a notebook last made under ``figures/<profile>``."""
    return {
        name: entry["sha256"]
        for name, entry in read(profile, root).items()
        if entry["notebook"] == notebook and (Path(root) / profile / name).is_file()
    }


def write_digests(files: Mapping[str, str], path: Path, prefix: str) -> None:
    """Digests as ``sha256sum --check`` reads them; ``prefix`` leads from there to the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{digest}  {prefix}/{name}\n" for name, digest in sorted(files.items()))
    path.write_text("".join(lines), encoding="utf-8")


def read_digests(path: Path) -> dict[str, str]:
    """By file name, what :func:`write_digests` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {
        file.rpartition("/")[2]: digest for digest, _, file in (x.partition("  ") for x in lines)
    }


def verify(profile: str, root: Path = FIGURES) -> pd.DataFrame:
    """What is wrong with ``figures/<profile>``: ``file, problem``, empty when all is well.

    A problem is a listed file that is missing or differs from its digest, or one not listed.
    """
    base, entries, problems = Path(root) / profile, read(profile, root), []
    for name, entry in entries.items():
        if not (base / name).is_file():
            problems.append((name, "is listed but missing"))
        elif sha256(base / name) != entry["sha256"]:
            problems.append((name, "differs from the digest it was recorded with"))
    present = {p.name for p in base.glob("*") if p.is_file() and not p.name.startswith(".")}
    problems += [(name, "is not listed") for name in present - set(entries) - {NAME}]
    return pd.DataFrame(sorted(problems), columns=["file", "problem"])
