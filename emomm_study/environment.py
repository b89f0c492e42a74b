"""A process that needs nothing of its user but a cache to write to.

Libraries keep compiled functions, fonts, settings and temporary files in the home folder, beside
themselves, or in ``/tmp``. In a container those can be read-only, or missing, and the user may have
no name. :func:`prepare` runs when ``emomm_study`` is imported, before any of those libraries, and
gives each a folder in the cache where its own cannot be written to; elsewhere all stays as it was.

``python -m emomm_study`` prints the same for a shell, with what keeps Jupyter out of the home folder;
``run_all.sh`` and ``run_tests.sh`` start with it. Only the standard library is used: it also runs
before the packages are installed.
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from emomm_study.paths import ROOT, PlaceError, cache_dir, cache_root, is_utf8, plain, writable

CACHES = {
    "XDG_CACHE_HOME": "~/.cache",
    "MPLCONFIGDIR": "~/.config/matplotlib",
    "NUMBA_CACHE_DIR": "~/.cache/numba",
    "LIBROSA_DATA_DIR": "~/.cache/librosa",
    "TORCH_HOME": "~/.cache/torch",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
    "TRITON_HOME": "~",
    "JUPYTER_DATA_DIR": "~/.local/share/jupyter",
    "JUPYTER_CONFIG_DIR": "~/.jupyter",
    "JUPYTER_RUNTIME_DIR": "~/.local/share/jupyter/runtime",
    "IPYTHONDIR": "~/.ipython",
    "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis"),
}
"""Where libraries write unless the variable says otherwise."""
SET_HERE = (
    *CACHES,
    "EMOMM_CACHE",
    "HF_HOME",
    "HOME",
    "JUPYTER_PREFER_ENV_PATH",
    "LOGNAME",
    "PYTHONIOENCODING",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUTF8",
    "TMPDIR",
)
LEAST_FREE = 50_000_000
"""Bytes without which nothing can be begun."""


def prepare() -> None:
    """Give libraries places to write to, and a command of this package an encoding for all names.

    Sets environment variables, which child processes inherit; changes nothing where the cache
    itself cannot be used. Raises ``RuntimeError`` where the project's path is beyond the encoding
    of a Python that is running already.
    """
    _speak_utf8()
    try:
        root = cache_root()
        if writable(root):
            os.environ.update(_settings(root))
    except (OSError, PlaceError):
        # Whoever needs the cache says so; looking at the library must not fail.
        return
    # Read by Python when it started, and perhaps by others before this.
    sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX") or sys.pycache_prefix
    tempfile.tempdir = None


def _speak_utf8() -> None:
    # While `python -m` looks for the module in this package.
    is_command = sys.argv[:1] == ["-m"]
    if sys.getfilesystemencoding() != "utf-8":
        if is_command:
            arguments = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
            os.execve(sys.executable, arguments, {**os.environ, "PYTHONUTF8": "1"})
        if not str(ROOT).isascii():
            raise RuntimeError(
                f"{plain(ROOT)}: this Python takes file names for {sys.getfilesystemencoding()}, "
                "which this one is not; start it with PYTHONUTF8=1 in its environment"
            )
    if is_command:
        sys.excepthook = _say
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")
        encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
        os.environ["PYTHONIOENCODING"] = f"{encoding or 'utf-8'}:backslashreplace"
        os.environ["PYTHONUTF8"] = "1"


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends a command; a place that cannot be used needs no traceback."""
    if isinstance(error, PlaceError):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _settings(cache: Path) -> dict[str, str]:
    """Variables for what cannot be used as it is; their folders are made."""
    found: dict[str, str] = {}

    def place(name: str) -> None:
        found[name] = str(cache / "libraries" / name.lower())
        os.makedirs(found[name], exist_ok=True)

    hub = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    home = os.path.expanduser("~")
    homeless = not os.path.isabs(home) or not (os.access(home, os.R_OK | os.X_OK) or writable(home))
    if homeless:
        place("HOME")
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if not (os.path.isdir(temporary) and writable(temporary)):
        place("TMPDIR")
    for name, usual in CACHES.items():
        given = os.environ.get(name)
        lacking = homeless and usual.startswith("~")
        if not writable(given or os.path.expanduser(usual)) or (lacking and not given):
            place(name)
    # Models that were downloaded are found where they are, also if that is read-only.
    if os.path.isabs(hub) and (os.access(hub, os.R_OK | os.X_OK) or writable(hub)):
        if found.keys() & {"HOME", "XDG_CACHE_HOME"}:
            found["HF_HOME"] = hub
    else:
        place("HF_HOME")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found["LOGNAME"] = f"uid-{os.getuid()}"
    if not os.environ.get("PYTHONPYCACHEPREFIX") and _compiles_every_time():
        place("PYTHONPYCACHEPREFIX")
    return found


def _compiles_every_time() -> bool:
    """Whether the largest package has no compiled modules and no room for them."""
    spec = None if sys.dont_write_bytecode else importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return bool(folder) and not (folder / "__pycache__").is_dir() and not writable(folder)


def keep_jupyter_apart() -> None:
    """Make kernels run this interpreter and keep Jupyter's files in the cache, not in HOME."""
    home = cache_dir("jupyter")
    os.environ.update(
        JUPYTER_PREFER_ENV_PATH="1",
        JUPYTER_DATA_DIR=str(home),
        JUPYTER_RUNTIME_DIR=str(home / "runtime"),
        JUPYTER_CONFIG_DIR=str(home / "config"),
        IPYTHONDIR=str(home / "ipython"),
    )
    # A kernelspec found on a user's JUPYTER_PATH would come before the environment's own.
    os.environ.pop("JUPYTER_PATH", None)


def check_places() -> None:
    """Raise :class:`PlaceError` unless the project's folder and the cache can be used.

    A file is written into the cache for it.
    """
    if not is_utf8(ROOT):
        raise PlaceError(
            f"{plain(ROOT)}: this path of the project is not UTF-8 (bytes as \\xNN), which the "
            "libraries cannot open; rename its folder"
        )
    if os.pathsep in str(ROOT):
        raise PlaceError(f"{ROOT}: Python's search path cannot hold a {os.pathsep!r}; rename it")
    cache = cache_root()
    if not is_utf8(cache):
        raise PlaceError(
            f"EMOMM_CACHE={plain(cache)} is not UTF-8 (bytes as \\xNN), which the libraries cannot "
            "open; set EMOMM_CACHE to a folder with another name"
        )
    if os.path.exists(cache) and not os.path.isdir(cache):
        raise PlaceError(f"EMOMM_CACHE={cache} is not a folder; set EMOMM_CACHE to one")
    cache_dir()
    if (free := shutil.disk_usage(cache).free) < LEAST_FREE:
        raise PlaceError(
            f"{cache}: {in_gb(free)} free on its disk, where {in_gb(LEAST_FREE)} are the least to "
            "begin with; make room, or set EMOMM_CACHE to a folder on another disk"
        )
    try:
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        raise PlaceError(
            f"{cache}: the cache cannot be written to ({error.strerror}); "
            "set EMOMM_CACHE to a folder that you can write to"
        ) from error


def in_gb(size: float) -> str:
    """``"0.31 GB"``."""
    return f"{size / 1e9:.2f} GB"


def main() -> int:
    """Print what a shell has to export, or say in one sentence what is wrong; 0 or 1."""
    try:
        check_places()
        keep_jupyter_apart()
    except PlaceError as error:
        print(error, file=sys.stderr)
        return 1
    if os.environ.get("EMOMM_CACHE"):
        os.environ["EMOMM_CACHE"] = str(cache_root())
    lines = [f"export {k}={shlex.quote(os.environ[k])}" for k in SET_HERE if os.environ.get(k)]
    sys.stdout.buffer.write(os.fsencode("\n".join([*lines, "unset JUPYTER_PATH", ""])))
    return 0
