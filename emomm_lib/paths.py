"""Where things are on disk, independent of the caller's working directory."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project folder: the one that holds ``notebooks``, ``data`` and ``figures``."""
PAPER_DATA = ROOT / "data" / "paper"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"


def cache_dir(*parts: str) -> Path:
    """A folder of the cache (``$EMOMM_CACHE``, else ``cache/`` in the project), made if missing."""
    folder = Path(os.environ.get("EMOMM_CACHE") or ROOT / "cache").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_dir(profile: str) -> Path:
    """Where a profile keeps what later notebooks read: ``runs/<profile>``, made if missing."""
    folder = RUNS / profile
    folder.mkdir(parents=True, exist_ok=True)
    return folder
