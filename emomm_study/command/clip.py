"""A clip of the user's own: its files, what of T, A, V there is, and an experiment about it alone."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emomm_lib.labels import MODALITIES, coalition_modalities, coalition_name
from emomm_study.command.outcome import Refused, refusing
from emomm_study.corpora.clips import is_blank
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.container import (
    MediaError,
    chosen_stream,
    opened as opened_file,
    reading,
    require_file,
)
from emomm_study.systems.interface import System


@dataclass(frozen=True)
class Clip:
    """What the user gave.

    Attributes
    ----------
    film, sound
        Files; the same where the sound is the film's own track.
    text
        What is said, empty where that was not told.
    corpus
        Whose prompt and scores it is asked with.
    absent
        Why a modality is not there, by its letter.
    """

    film: Path
    sound: Path
    text: str
    corpus: str
    absent: dict[str, str]

    @property
    def there(self) -> str:
        """The largest coalition that can be asked."""
        return coalition_name(m for m in MODALITIES if m not in self.absent)

    def coalition(self, wanted: str | None) -> str:
        """The coalition to ask: the one wanted, else all there is.

        Raises ``Refused`` for one that there is not, or that has what is absent.
        """
        if wanted is None:
            return self.there
        with refusing(ValueError):
            name = "none" if wanted.lower() == "none" else coalition_name(wanted.upper())
        lacking = [self.absent[m] for m in coalition_modalities(name) if m in self.absent]
        if lacking:
            raise Refused(
                f"{name} cannot be asked: {'; '.join(lacking)}. What can be is "
                f"--coalition {self.there}"
            )
        return name

    def row(self) -> pd.Series:
        """As a manifest has it, with paths from the file system's root."""
        films, sounds = (p.relative_to(p.anchor).as_posix() for p in (self.film, self.sound))
        return pd.Series(
            {
                "sample_id": self.film.name,
                "corpus": self.corpus,
                "text": self.text,
                "video_path": films,
                "audio_path": sounds,
            }
        )


def tracks(path: Path) -> set[str]:
    """Which of A and V a file has; raises ``MediaError`` for one that cannot be opened."""
    require_file(path)
    with reading(path, "not a readable film or sound"), opened_file(path) as container:
        kinds = {"A": "audio", "V": "video"}
        return {m for m, kind in kinds.items() if chosen_stream(container, kind) is not None}


def given_clip(options: argparse.Namespace) -> Clip:
    """The clip that a command line names; ``Refused`` for files that are not there or not media."""
    film = _file(options.file)
    sound = film if options.audio is None else _file(options.audio)
    with refusing(MediaError):
        there, absent = tracks(film), {}
        heard = there if sound == film else tracks(sound)
    text = options.text or ""
    if options.text_file is not None:
        text = _said(options.text_file)
    if is_blank(text):
        absent["T"] = "no transcript was given (--text)"
    if "A" not in heard:
        absent["A"] = f"{sound.name} has no sound track"
    if "V" not in there:
        absent["V"] = f"{film.name} has no video stream"
    return Clip(film, sound, text, options.corpus, absent)


def _said(name: str) -> str:
    try:
        with refusing(OSError):
            return Path(name).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise Refused(f"{name}: not a text in UTF-8; save it as that") from error


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise Refused(f"{name}: no such file")
    return path.resolve()


@contextmanager
def bench_of(clip: Clip, model: System, media: MediaSettings) -> Iterator[Experiment]:
    """An experiment about one clip, of which nothing is kept."""
    with tempfile.TemporaryDirectory() as folder:
        yield Experiment(
            model,
            clip.row().to_frame().T,
            {clip.corpus: Path(clip.film.anchor)},
            PredictionStore(Path(folder) / "predictions.sqlite"),
            media,
            batch_size=1,
            processes=1,
            progress=False,
        )
