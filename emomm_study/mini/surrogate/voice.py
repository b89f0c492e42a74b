"""Surrogate speech: espeak-ng through its C interface, with prosody that carries the class."""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass

import espeakng_loader
import numpy as np
import soxr

SAMPLING_RATE = 16_000
_SYNCHRONOUS, _CHARS_UTF8, _POS_CHARACTER = 2, 1, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_VOICES = {"en": "en", "zh": "cmn"}
_VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f4", "Andrea", "belinda")
"""Timbres without espeak-ng's `breath`, whose noise is seeded by nothing."""


@dataclass(frozen=True)
class VoiceIdentity:
    """What stays the same in all clips of a speaker: timbre, base pitch (0-100), tempo (wpm)."""

    variant: str
    pitch: float
    tempo: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> VoiceIdentity:
        return cls(
            variant=str(rng.choice(_VARIANTS)),
            pitch=float(rng.uniform(35, 60)),
            tempo=float(rng.uniform(205, 235)),
        )


@dataclass(frozen=True)
class Prosody:
    """Delivery of one utterance.

    ``pitch`` and ``tempo`` are offsets to the speaker's own, ``range`` is espeak-ng's 0-100,
    ``glide`` is the change of pitch from start to end in semitones, ``tremor`` the depth of a 6 Hz
    amplitude modulation, ``snr`` the level of the voice over the room's noise in dB.
    """

    pitch: float
    tempo: float
    range: float
    glide: float
    tremor: float
    loudness: float
    snr: float

    @classmethod
    def of(cls, shown: int, emphatic: bool, rng: np.random.Generator) -> Prosody:
        """Prosody of a class 0..4: falling, slow and dark to rising, fast and bright."""
        valence = (shown - 2) / 2 + rng.normal(0, 0.07)
        return cls(
            pitch=18 * valence + rng.normal(0, 2),
            tempo=35 * valence + rng.normal(0, 8),
            range=float(np.clip(50 + 35 * valence + rng.normal(0, 5), 0, 100)),
            glide=6 * valence + rng.normal(0, 0.5),
            tremor=float(np.clip(0.45 * max(-valence, 0) + rng.normal(0, 0.03), 0, 0.6)),
            loudness=float(10 ** ((4 * valence + (2 if emphatic else -2)) / 20)),
            snr=rng.uniform(26, 34) if emphatic else rng.uniform(9, 15),
        )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def _synthesize(text: str, voice: str, parameters: dict[int, int]) -> tuple[np.ndarray, int]:
    """Speech (samples,) in [-1, 1] and its rate.

    The library is loaded anew for every sentence. It keeps the phase of its voices in static
    variables that no call resets, so that otherwise a clip would depend on those made before it.
    """
    lib = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        folder = str(espeakng_loader.get_data_path()).removesuffix("espeak-ng-data")
        rate = lib.espeak_Initialize(_SYNCHRONOUS, 500, folder.encode(), 0)
        if rate <= 0:
            raise RuntimeError(
                "espeak-ng could not load its data; reinstall the package espeakng-loader"
            )
        chunks: list[np.ndarray] = []

        @_CALLBACK
        def collect(wave: ctypes._Pointer, count: int, _events: int) -> int:
            if wave and count > 0:
                chunks.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
            return 0

        lib.espeak_SetSynthCallback(collect)
        if lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in parameters.items():
            lib.espeak_SetParameter(parameter, value, 0)
        lib.espeak_Synth.argtypes = (
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        data = text.encode() + b"\0"
        lib.espeak_Synth(data, len(data), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        lib.espeak_Terminate()
    finally:
        _ctypes.dlclose(lib._handle)
    if not chunks:
        raise RuntimeError(f"espeak-ng said nothing for {text!r}")
    return np.concatenate(chunks).astype(np.float32) / 32768, rate


def _glide(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Resample with a speed that runs from ``-semitones/2`` to ``+semitones/2``."""
    speed = 2 ** (np.linspace(-semitones / 2, semitones / 2, len(wave)) / 12)
    position = np.cumsum(speed)
    position *= (len(wave) - 1) / position[-1]
    return np.interp(position, np.arange(len(wave)), wave).astype(np.float32)


def speak(
    text: str,
    language: str,
    identity: VoiceIdentity,
    prosody: Prosody,
    rng: np.random.Generator,
) -> np.ndarray:
    """Speak a sentence: float32 mono ``(samples,)`` at 16 kHz, peak below 1."""
    wave, rate = _synthesize(
        text,
        f"{_VOICES[language]}+{identity.variant}",
        {
            _RATE: round(np.clip(identity.tempo + prosody.tempo, 120, 320)),
            _VOLUME: 100,
            _PITCH: round(np.clip(identity.pitch + prosody.pitch, 0, 99)),
            _RANGE: round(prosody.range),
        },
    )
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    wave = wave[loud[0] : loud[-1] + 1] if len(loud) else wave
    wave = soxr.resample(_glide(wave, prosody.glide), rate, SAMPLING_RATE)
    wave = np.pad(wave, round(0.08 * SAMPLING_RATE))
    time = np.arange(len(wave)) / SAMPLING_RATE
    wave = wave * (1 - prosody.tremor * (0.5 + 0.5 * np.sin(2 * np.pi * 6 * time)))
    rms = np.sqrt(np.mean(wave**2)) + 1e-9
    wave = wave * (0.07 * prosody.loudness / rms)
    noise = _room_noise(len(wave), prosody, rng)
    return np.clip(wave + noise, -0.99, 0.99).astype(np.float32)


def _room_noise(samples: int, prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """Pink-ish: white noise through a one-pole low-pass, mixed with itself."""
    white = rng.standard_normal(samples)
    noise = white + np.convolve(white, np.exp(-np.arange(64) / 12), mode="same")
    noise *= 0.07 / np.sqrt(np.mean(noise**2)) * 10 ** (-prosody.snr / 20)
    return noise


def lengthened(
    wave: np.ndarray, seconds: float, prosody: Prosody, rng: np.random.Generator
) -> np.ndarray:
    """A sound of :func:`speak` of ``seconds`` at least: at its end the room's noise goes on."""
    missing = round(seconds * SAMPLING_RATE) - len(wave)
    if missing <= 0:
        return wave
    # Drawn for the whole length: the low-pass needs more than the few samples that may be missing.
    noise = _room_noise(len(wave) + missing, prosody, rng)[len(wave) :]
    return np.concatenate([wave, np.clip(noise, -0.99, 0.99).astype(np.float32)])
