"""Which drivers there are, what each has to be told, and what starting one would do."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from emomm_study.paths import cache_root, located, plain
from emomm_study.systems.isolated.process import shown_command
from emomm_study.systems.isolated.system import IsolatedSystem
from emomm_study.systems.named import Named
from emomm_study.systems.table import DRIVER

SCRIPTS = Path(__file__).parents[1] / "drivers"
SWITCH = "trust-remote-code"
"""The option, ``yes`` or absent, without which no driver runs code that lies beside weights."""
MASK = "CUDA_VISIBLE_DEVICES"
_OURS = ("python", "timeout", "loading", "workers")
_WEIGHTS = ("weights", "tower", "whisper", "siglip")
# What they are the driver's hello says; a path says nothing elsewhere.
_OF_THE_MACHINE = (*_WEIGHTS, "device", "repo")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Driver:
    """A driver's script, and the options that it has to be and can be given.

    Attributes
    ----------
    title
        What tables call the system.
    needs, takes
        Options by the names of the script's flags; ``device`` and ``dtype`` come from the profile
        where the system's name says nothing of them.
    plain
        Whether it needs nothing but what this Python has.
    """

    title: str
    script: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    plain: bool = False


DRIVERS = {
    "echo": Driver("echo (no model)", "echo.py", plain=True),
    "videollama2": Driver(
        "VideoLLaMA2.1-7B-AV",
        "videollama2.py",
        ("weights", "revision", "repo"),
        ("device", "dtype", "max-new-tokens", "tower", "tower-revision", "sound"),
    ),
    "minicpm_o": Driver(
        "MiniCPM-o 2.6",
        "minicpm_o.py",
        ("weights", "revision", SWITCH),
        ("device", "dtype", "max-new-tokens"),
    ),
    "video_salmonn2": Driver(
        "video-SALMONN 2 7B",
        "video_salmonn2.py",
        ("weights", "revision", "repo", "whisper-revision", "siglip-revision"),
        ("device", "dtype", "max-new-tokens", "whisper", "siglip"),
    ),
}


def driver_of(named: Named) -> Driver:
    """The driver that a name, as ``driver:echo``, means; ``ValueError`` for one that is not there."""
    name = named.path.removeprefix(DRIVER)
    if name not in DRIVERS:
        raise ValueError(
            f"{named.path} names no driver; known are {', '.join(DRIVER + d for d in DRIVERS)}"
        )
    return DRIVERS[name]


def open_driver(named: Named, *, dtype: str = "auto", device: str = "cpu") -> IsolatedSystem:
    """The system that a name with options means; nothing is started yet.

    ``python`` is the driver's own (``uv run --script`` makes one where it is not given), ``timeout``
    and ``loading`` seconds as for :class:`IsolatedSystem`, ``workers`` how many run side by side
    (:func:`environments_of`), the others are the script's flags. Raises ``ValueError`` that names
    every option that is wrong.
    """
    driver, command = driver_of(named), command_of(named, dtype=dtype, device=device)
    seconds = {k: float(named.options[k]) for k in ("timeout", "loading") if k in named.options}
    told = {k: v for k, v in _flags(named, dtype, device).items() if k not in _OF_THE_MACHINE}
    places = environments_of(named, dtype=dtype, device=device)
    return IsolatedSystem(driver.title, command, options=told, environments=places, **seconds)


def environments_of(
    named: Named, *, dtype: str = "auto", device: str = "cpu"
) -> list[dict[str, str]]:
    """Environment variables of each process of a driver: one a GPU, or as many as ``workers``.

    On ``cuda`` without a number each sees one GPU of those that this program sees, in turn. Any
    other device is as it is, and has one process unless ``workers`` says otherwise.
    """
    gpus = _gpus() if _flags(named, dtype, device).get("device") == "cuda" else []
    many = int(named.options.get("workers", max(1, len(gpus))))
    return [{MASK: gpus[i % len(gpus)]} if gpus else {} for i in range(many)]


def _gpus() -> list[str]:
    """The GPUs that this program sees, by the names that a mask has for them."""
    if (mask := os.environ.get(MASK)) is not None:
        return [name.strip() for name in mask.split(",") if name.strip()]
    import torch

    return list(map(str, range(torch.cuda.device_count())))


def command_of(named: Named, *, dtype: str = "auto", device: str = "cpu") -> list[str]:
    """The command that starts a driver; raises ``ValueError`` as :func:`open_driver`."""
    driver, options = driver_of(named), dict(named.options)
    flags = _flags(named, dtype, device)
    if wrong := _problems(driver, options, flags):
        raise ValueError(f"{named.path}: {'; '.join(wrong)}")
    command = [*_starter(driver, options), str(SCRIPTS / driver.script)]
    for name, value in flags.items():
        if name == SWITCH:
            command.append(f"--{name}")
        elif name == "repo" or (name in _WEIGHTS and located(value).is_dir()):
            command += [f"--{name}", str(located(value))]
        else:
            command += [f"--{name}", value]
    return command


def _flags(named: Named, dtype: str, device: str) -> dict[str, str]:
    takes = driver_of(named).takes
    given = {"device": device, "dtype": dtype}
    given = {k: v for k, v in given.items() if k in takes and v != "auto"}
    return given | {k: v for k, v in named.options.items() if k not in _OURS}


def _starter(driver: Driver, options: Mapping[str, str]) -> list[str]:
    if "python" in options:
        return [str(located(options["python"]))]
    return [sys.executable] if driver.plain else [shutil.which("uv") or "uv", "run", "--script"]


def _problems(driver: Driver, options: Mapping[str, str], flags: Mapping[str, str]) -> list[str]:
    known = (*driver.needs, *driver.takes)
    if unknown := sorted(set(flags) - set(known)):
        return [f"knows no option {', '.join(unknown)}; its are {', '.join((*known, *_OURS))}"]
    # A folder has no revision.
    folders = {name for name in _WEIGHTS if flags.get(name) and located(flags[name]).is_dir()}
    free = {"revision" if name == "weights" else f"{name}-revision" for name in folders}
    lacking = [name for name in driver.needs if name not in free and not flags.get(name)]
    wrong = [f"needs the option {name}={_MEANT.get(name, 'COMMIT')}" for name in lacking]
    if flags.get(SWITCH, "yes") != "yes":
        wrong.append(f"{SWITCH}={flags[SWITCH]} is neither absent nor yes")
    for name, value in flags.items():
        if name.endswith("revision") and value and not _COMMIT.fullmatch(value):
            wrong.append(f"{name}={value} is no commit of 40 hexadecimal digits, and may move")
    if flags.get("repo") and not located(flags["repo"]).is_dir():
        wrong.append(f"repo={plain(flags['repo'])} is no folder")
    for name in ("timeout", "loading"):
        if name in options and not re.fullmatch(
            r"0*[1-9]\d*(\.\d+)?|0*\.\d*[1-9]\d*", options[name]
        ):
            wrong.append(f"{name}={options[name]} is no number of seconds")
    if not re.fullmatch(r"[1-9]\d{0,2}", options.get("workers", "1")):
        wrong.append(f"workers={options['workers']} is no number of processes")
    python = options.get("python")
    if python is None and not driver.plain and shutil.which("uv") is None:
        wrong.append("needs uv, which is not on the path, or the option python=/path/to/python")
    if python is not None and not os.access(located(python), os.X_OK):
        wrong.append(f"python={plain(python)} cannot be run")
    return wrong


_MEANT = {
    "weights": "OWNER/MODEL (or a folder)",
    "repo": "/path/to/its/code",
    SWITCH: "yes",
}


def check_driver(text: str, *, dtype: str = "auto", device: str = "cpu") -> list[str]:
    """What a system's name would run, download and send, a row each; nothing of it is done.

    Raises ``ValueError`` as :func:`open_driver`.
    """
    named = Named.of(text)
    driver, options = driver_of(named), named.options
    command = command_of(named, dtype=dtype, device=device)
    script = SCRIPTS / driver.script
    many = len(environments_of(named, dtype=dtype, device=device))
    times = "" if many == 1 else f" {many} times, side by side"
    rows = [f"{driver.title}: runs{times} {shown_command(command)}"]
    if "python" in options or driver.plain:
        rows.append(f"environment: that of {command[0]}, as it is; nothing is installed")
    else:
        needs = ", ".join(_requirements(script.read_text(encoding="utf-8"))) or "nothing"
        rows.append(f"environment: uv makes one and downloads what it lacks of: {needs}")
    for name in _WEIGHTS:
        revision = options.get("revision" if name == "weights" else f"{name}-revision")
        if name in options or revision:
            rows.append(f"{name}: {_fetched(options.get(name), revision)}")
    if "repo" in options:
        rows.append(f"code: runs the Python code in {plain(located(options['repo']))}")
    if SWITCH in options:
        rows.append(
            f"code: runs the Python code that lies beside the weights ({SWITCH}=yes), "
            f"revision {options.get('revision', 'of the folder')}"
        )
    rows.append(
        "sent, to this process alone: a question's frames as PNG and its sound as a 16 kHz wav (in "
        f"{plain(cache_root() / 'drivers')} while its clip is asked), transcript, instruction"
    )
    rows.append("paid: nothing")
    return rows


def _fetched(weights: str | None, revision: str | None) -> str:
    if weights is None:
        return f"what the driver names, at {revision}, is downloaded from the hub by it"
    if located(weights).is_dir():
        return f"the folder {plain(located(weights))}; nothing is downloaded"
    there = try_to_load_from_cache(weights, "config.json", revision=revision)
    what = "are on this machine, what is missing of them is" if isinstance(there, str) else "are"
    return f"{weights} at {revision or 'no revision'} {what} downloaded from the hub by the driver"


def _requirements(script: str) -> list[str]:
    """What the header of a script (PEP 723) asks for."""
    block = re.search(r"(?ms)^# /// script$\n(.*?)^# ///$", script)
    lines = block[1].splitlines() if block else []
    return tomllib.loads("\n".join(line[2:] for line in lines)).get("dependencies", [])
