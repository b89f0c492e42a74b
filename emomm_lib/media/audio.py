"""Sound of a clip as 16 kHz mono (librosa; the sound track of an mp4 is taken out with PyAV)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

from emomm_lib.media.video import MediaError, require_file

SOUND_FORMATS = frozenset(f".{name.lower()}" for name in soundfile.available_formats())
"""File name endings that soundfile reads; anything else is opened as a media container."""


SHORTEST = 0.05
"""Seconds; from less than a fiftieth of a second audio encoders make no token at all."""


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

    Channels are averaged. Raises :class:`MediaError` when the file is missing, empty or damaged,
    or has no sound.
    """
    samples, rate = read_sound(path)
    mono = samples.mean(axis=0)
    if settings.max_seconds is not None:
        mono = mono[: int(settings.max_seconds * rate)]
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
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(
            f"{path}: not a readable sound file ({error.error_string}); copy the clip again"
        ) from error
    return samples.T, rate


def _read_sound_track(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (channels, samples) and their rate, at the rate and channels of the file."""
    # Only the sample format changes here: resampling is librosa's, for mp4 and wav alike.
    to_float = av.AudioResampler(format="fltp")
    blocks = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise MediaError(f"{path}: no audio stream; the clip cannot be heard, leave it out")
            stream = container.streams.audio[0]
            rate = stream.rate
            for frame in container.decode(stream):
                blocks += [block.to_ndarray() for block in to_float.resample(frame)]
            if blocks:
                blocks += [block.to_ndarray() for block in to_float.resample(None)]
    except av.FFmpegError as error:
        raise MediaError(
            f"{path}: its sound cannot be decoded ({error.strerror}); copy the clip again"
        ) from error
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0), np.float32), rate
