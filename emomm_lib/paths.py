"""Where things are on disk, independent of the caller's working directory."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

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


def stays_inside(relative: str) -> bool:
    """Whether a media path is relative, with forward slashes, and stays inside its root."""
    windows = PureWindowsPath(relative)
    return bool(relative) and "\\" not in relative and not (windows.anchor or ".." in windows.parts)


def resolve_media(root: Path | str, relative: str) -> Path:
    """The path of a clip's file under its corpus root; does not touch the disk.

    Raises ``ValueError`` unless ``relative`` is a relative path with forward slashes that stays
    inside ``root``. A symbolic link inside ``root`` is the user's own and is followed as usual.
    """
    if not stays_inside(relative):
        raise ValueError(
            f"media path {relative!r} must be relative, with forward slashes and without '..'"
        )
    return Path(root) / PurePosixPath(relative)
