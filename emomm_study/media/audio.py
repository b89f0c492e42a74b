"""Sound of a clip as 16 kHz mono (librosa; the sound track of an mp4 is taken out with PyAV)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import av
import librosa
import numpy as np
from numpy.typing import NDArray

from emomm_study.media.container import (
    AGAIN,
    MediaError,
    opened,
    reading,
    require_file,
    require_stream,
)
from emomm_study.media.sound_file import (
    RATES,
    SOUND_FORMATS,
    says_its_length,
    sound_defect,
    sound_file,
)

SHORTEST = 0.05
"""Seconds; from less than a fiftieth of a second audio encoders make no token at all."""
BLOCK = 2**20
"""Samples that are read at once."""


@dataclass(frozen=True)
class AudioSettings:
    """What a clip's sound is turned into.

    Parameters
    ----------
    sampling_rate
        Samples a second.
    max_seconds
        The rest of a longer clip is cut off; None keeps it whole.
    """

    sampling_rate: int = 16_000
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.sampling_rate <= 0 or (self.max_seconds is not None and self.max_seconds <= 0):
            raise ValueError(f"sampling_rate and max_seconds must be positive; got {self}")


def read_audio(path: str | Path, settings: AudioSettings = AudioSettings()) -> NDArray[np.float32]:
    """Sound of a wav, or sound track of an mp4, as mono ``(samples,)`` float32 in about [-1, 1].

    Channels are averaged. Of a sound track it is what a player plays, from its first sample to its
    last: an encoder's priming and what an edit list hides are left out. No silence is added where
    the track begins after the film or skips a moment: sound and frames go to a model apart. Where
    rate or channels change on the way, all of it is brought to the first part's rate.

    Raises :class:`MediaError` when the file is missing, empty, cut short or damaged, or has no
    sound that can be decoded.
    """
    samples, rate = read_sound(path)
    mono = samples.mean(axis=0)
    if settings.max_seconds is not None:
        mono = mono[: int(settings.max_seconds * rate)]
    # Not the file's fault where this fails: an installation's, most often.
    mono = librosa.resample(mono, orig_sr=rate, target_sr=settings.sampling_rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def read_sound(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """Sound of a wav or an mp4 as the file has it: ``(channels, samples)`` and samples a second.

    Raises as :func:`read_audio`.
    """
    path = Path(path)
    require_file(path)
    read = _read_sound_file if path.suffix.lower() in SOUND_FORMATS else _read_sound_track
    samples, rate = read(path)
    if samples.shape[1] < SHORTEST * rate:
        raise MediaError(
            f"{path}: it holds {samples.shape[1] / rate:.3f} s of sound, too short to hear "
            f"anything in (under {SHORTEST} s); copy the clip again, or leave it out"
        )
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: its sound holds values that are not numbers; copy it again")
    return samples, rate


def _read_sound_file(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (channels, samples) and their rate."""
    with reading(path, "not a readable sound file"):
        if defect := sound_defect(path):
            raise MediaError(f"{path}: {defect}; {AGAIN}")
        with sound_file(path) as sound:
            if says_its_length(sound):
                blocks = []
                # In pieces: the length in an MP3's header may be nonsense.
                while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                    blocks.append(block)
                return np.concatenate(blocks).T, sound.samplerate
    return _read_sound_track(path)


def _read_sound_track(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (channels, samples) and their rate."""
    runs: list[tuple[int, NDArray[np.float32]]] = []
    with reading(path, "its sound cannot be decoded"), opened(path) as container:
        frames = container.decode(require_stream(container, path, "audio"))
        for (rate, *_), alike in groupby(frames, _form):
            _require_rate(path, rate)
            # Only the sample format changes here: resampling is librosa's, for all files alike.
            to_float = av.AudioResampler(format="fltp")
            blocks = [block.to_ndarray() for f in alike for block in to_float.resample(f)]
            blocks += [block.to_ndarray() for block in to_float.resample(None)]
            runs.append((rate, np.concatenate(blocks, axis=1)))
    return _joined(runs)


def _form(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _joined(runs: list[tuple[int, NDArray[np.float32]]]) -> tuple[NDArray[np.float32], int]:
    """One sound of parts that differ: at the first's rate, in mono where channels differ."""
    if not runs:
        return np.zeros((1, 0), np.float32), 1
    rate = runs[0][0]
    if len({len(part) for _, part in runs}) > 1:
        runs = [(own, part.mean(axis=0, keepdims=True)) for own, part in runs]
    parts = [librosa.resample(part, orig_sr=own, target_sr=rate) for own, part in runs]
    return np.concatenate(parts, axis=1), rate


def _require_rate(path: Path, rate: int) -> None:
    if rate not in RATES:
        raise MediaError(f"{path}: its header says {rate} samples a second; {AGAIN}")
