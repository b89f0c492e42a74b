"""Where things are on disk, independent of the caller's working directory.

Where the project's own ``runs`` or ``figures`` cannot be written to, both stand in the cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

ROOT = Path(__file__).resolve().parents[1]
"""The project folder: the one that holds ``notebooks``, ``data`` and ``figures``."""
PAPER_DATA = ROOT / "data" / "paper"
COMMITTED_FIGURES = ROOT / "figures"
"""The figures that come with the project, wherever a run writes its own."""


class PlaceError(RuntimeError):
    """A folder that is needed and cannot be used; one sentence that says which, and what to do."""


def plain(path: os.PathLike[str] | str) -> str:
    r"""A path as text that can be printed and stored: bytes that are not UTF-8 as ``\xNN``."""
    text = re.sub(r"[\udc80-\udcff]", lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}", os.fspath(path))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_utf8(path: os.PathLike[str] | str) -> bool:
    """Whether a path's name is UTF-8.

    Names that are not come from archives packed under another encoding. Python opens them, but
    most of the libraries that read clips, weights and tables do not.
    """
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def writable(path: Path | str) -> bool:
    """Whether this user can write into a folder, or can make it where it does not exist."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def cache_root() -> Path:
    """The cache: ``$EMOMM_CACHE``, else ``cache/`` in the project; not made here.

    A relative ``$EMOMM_CACHE`` starts from the project's folder, as paths in profiles do. Raises
    :class:`PlaceError` where its ``~`` stands for no folder.
    """
    given = os.environ.get("EMOMM_CACHE") or "cache"
    folder = os.path.expanduser(given)
    if folder.startswith("~"):
        raise PlaceError(
            f"EMOMM_CACHE={plain(given)}: this user has no such home folder; "
            "set EMOMM_CACHE to a whole path"
        )
    return ROOT / folder


def cache_dir(*parts: str) -> Path:
    """A folder of the cache (:func:`cache_root`), made if missing; raises :class:`PlaceError`."""
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(
            f"{plain(folder)}: this folder cannot be made ({error.strerror}); "
            "set EMOMM_CACHE to a folder that you can write to"
        ) from error
    return folder


def _unwritable(root: Path) -> Path | None:
    """What of the project's outputs this user may not write to, or None."""
    for folder in (root / "runs", root / "figures"):
        if not writable(folder):
            return folder
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir() and not writable(path):
                return path
    return None


def _outputs() -> Path:
    if UNWRITABLE is None:
        return ROOT
    try:
        cache = cache_root()
    except PlaceError:
        return ROOT
    return cache if writable(cache) else ROOT


UNWRITABLE = _unwritable(ROOT)
"""The folder for whose sake outputs stand in the cache; None where they stand in the project."""
OUTPUTS = _outputs()
"""The folder of ``runs`` and ``figures``: the project, or the cache where that is read-only."""
FIGURES = OUTPUTS / "figures"
RUNS = OUTPUTS / "runs"
CHOICES = "choices.json"
"""The configurations that a run chose, in the folder of its profile."""


def located(value: Path | str) -> Path:
    """The file or folder that a parameter of a notebook names.

    A relative path starts from the project's folder, and one in ``cache/`` from the cache, wherever
    that is.
    """
    parts = PurePosixPath(value).parts
    return cache_root().joinpath(*parts[1:]) if parts[:1] == ("cache",) else ROOT / value


def run_dir(profile: str) -> Path:
    """Where a profile keeps what later notebooks read: ``runs/<profile>``, made if missing."""
    folder = RUNS / profile
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """A place to write a file at, which then appears under its own name whole or not at all.

    It lies beside the file, whose folder is made if missing, and is taken away where the block
    raises. Several processes may write the same file: the last to finish is the one that stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
