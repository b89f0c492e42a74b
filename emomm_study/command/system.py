"""A system by its name on the command line, and how clips are read for it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emomm_study.command.outcome import Refused, refusing, warn
from emomm_study.evaluate.files import MediaSettings
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.paths import located
from emomm_study.run.profiles import NEEDS, load_profile
from emomm_study.systems.interface import NotOffered, Steerable, System, offered
from emomm_study.systems.named import Named
from emomm_study.systems.table import load_system

DRAWN_ONLY = (
    "{name} is a small model that was trained on drawn faces and synthetic voices alone: what it "
    "says of a real person is worth nothing"
)


def named_system(text: str) -> Named:
    """What a name means: a folder as seen from where the user is, else from the project."""
    with refusing(ValueError):
        named = Named.of(text)
    here = Path(os.path.expanduser(named.path))
    folder = here if here.is_dir() else located(named.path)
    return Named(str(folder.resolve()), named.options) if folder.is_dir() else named


def is_mini(named: Named) -> bool:
    """Whether it is one of the small models that are trained on surrogates."""
    return (Path(named.path) / "recipe.json").is_file()


def settings_for(named: Named) -> Mapping[str, Any]:
    """Parameters that clips are read and a model is opened with: of the profile it belongs to."""
    return load_profile("mini" if is_mini(named) else "paper")


def media_for(named: Named, frames: int | None = None) -> MediaSettings:
    """How a clip is read for a system."""
    own = settings_for(named)
    seconds = float(own["max_audio_seconds"])
    with refusing(ValueError):
        video = VideoSettings(own["num_frames"] if frames is None else frames)
        return MediaSettings(video, AudioSettings(max_seconds=seconds))


def told_of(named: Named) -> list[str]:
    """What a user should know of a system before its answers; also said on stderr."""
    notes = [DRAWN_ONLY.format(name=named.name)] if is_mini(named) else []
    for note in notes:
        warn(note)
    return notes


@contextmanager
def opened(named: Named, options: argparse.Namespace) -> Iterator[System]:
    """A system, ended when its turn is over; ``Refused`` for one that is not there."""
    device = options.device or "cpu"
    text = named.path + ("?" if named.options else "")
    text += "&".join(f"{name}={value}" for name, value in named.options.items())
    with refusing(ValueError, OSError):
        for problem in (NEEDS["device"].problem(device), NEEDS["systems"].problem(text)):
            if problem:
                raise Refused(problem)
        system = load_system(
            named.path,
            dtype=options.dtype or "auto",
            device=device,
            pixels=settings_for(named)["frame_pixels"],
            **named.options,
        )
    try:
        yield system
    finally:
        getattr(system, "close", lambda: None)()


def is_steerable(system: System) -> bool:
    """Whether it shows its attention."""
    try:
        offered(system, "looking")
    except NotOffered:
        return False
    return True


def steerable(system: System, what: str) -> Steerable:
    """The system; ``Refused`` where it only answers."""
    with refusing(NotOffered):
        return offered(system, what)
