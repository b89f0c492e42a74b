"""What VITA's encoders take: frames cropped to a square, and Kaldi's filter-bank features."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, PreTrainedTokenizerBase
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.utils import cached_file

from emomm_study.systems.vita.audio import audio_tokens
from emomm_study.systems.vita.configuration import VitaConfig, WhaleConfig
from emomm_study.systems.vita.modeling import JOINED

SETTINGS = "vita_processor.json"
"""Written by :meth:`VitaProcessor.save_pretrained`; a published folder has none."""
_LOUDNESS = 2.0**15
_LOWEST = 20.0
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)


class VitaProcessor:
    """A tokenizer, and the arithmetic of frames and sounds.

    Parameters
    ----------
    tokenizer
        The decoder's.
    side
        S, pixels a side of what the vision tower sees.
    patch
        Pixels a side of a patch; a token is two patches a side.
    audio
        The features' sampling rate, filters, and milliseconds of a window and between two; VITA-1.5's
        when None.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        side: int = 448,
        patch: int = 14,
        audio: WhaleConfig | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.side = side
        self.patch = patch
        audio = audio or WhaleConfig()
        self.sampling_rate = audio.sampling_rate
        self.mels = audio.num_mel_bins
        self.frame_length = audio.frame_length
        self.frame_shift = audio.frame_shift
        # Pillow's resizing, which the model was trained on; torchvision's differs by a grey level.
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            resample=PILImageResampling.BICUBIC,
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        )

    @classmethod
    def for_config(cls, tokenizer: PreTrainedTokenizerBase, config: VitaConfig) -> VitaProcessor:
        """The processor whose sizes are those that ``config`` has."""
        vision = config.vision_config
        return cls(
            tokenizer,
            side=vision.image_size[0],
            patch=vision.patch_size[0],
            audio=config.audio_config,
        )

    @property
    def tokens_of_frame(self) -> int:
        """Tokens that a frame becomes."""
        return (self.side // self.patch // JOINED) ** 2

    @property
    def window(self) -> int:
        """Samples of a window: the shortest sound with features."""
        return round(self.sampling_rate * self.frame_length / 1000)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(self.sampling_rate * self.frame_shift / 1000)

    def frames_of_sound(self, samples: int) -> int:
        """Windows that lie wholly in so many samples."""
        return 0 if samples < self.window else 1 + (samples - self.window) // self.hop

    def tokens_of_sound(self, samples: int) -> int:
        """Tokens that so many samples become; 44 for 3.54 s."""
        return max(0, audio_tokens(self.frames_of_sound(samples)))

    def frames(self, frames: np.ndarray) -> torch.Tensor:
        """Frames ``(N, H, W, 3)`` uint8 to ``(N, 3, S, S)`` float32.

        The shorter side is resized to S (bicubic), the middle of the longer kept, and colours are
        standardized by ImageNet's. Raises ``ValueError`` for another shape or type.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames are (N, H, W, 3) uint8; got {frames.shape} {frames.dtype}")
        done = self.image_processor(list(frames), input_data_format="channels_last")
        return torch.from_numpy(np.stack(done["pixel_values"]).astype(np.float32, copy=False))

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, height, width) of what is kept of a frame, in the frame's own pixels.

        Borders need not fall on pixels' borders: the crop is made after resizing.
        """
        shorter = min(height, width)
        resized = {side: int(self.side * side / shorter) for side in (height, width)}
        top, left = ((resized[s] - self.side) // 2 * s / resized[s] for s in (height, width))
        return top, left, self.side * height / resized[height], self.side * width / resized[width]

    @cached_property
    def _filters(self) -> np.ndarray:
        """``(bins, mels)``, triangles on Kaldi's mel scale."""
        return mel_filter_bank(
            num_frequency_bins=self._fft // 2 + 1,
            num_mel_filters=self.mels,
            min_frequency=_LOWEST,
            max_frequency=self.sampling_rate / 2,
            sampling_rate=self.sampling_rate,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )

    @property
    def _fft(self) -> int:
        return 1 << (self.window - 1).bit_length()

    def sound(self, wave: np.ndarray) -> torch.Tensor:
        """Log energies ``(frames, mels)`` float32 of a sound ``(samples,)`` in -1..1.

        Kaldi's filter bank without dither. Raises ``ValueError`` for a sound shorter than one
        window, another shape, or samples that are not finite.
        """
        wave = np.asarray(wave)
        if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
            raise ValueError(f"a sound is (samples,) of floats; got {wave.shape} {wave.dtype}")
        if len(wave) < self.window:
            raise ValueError(
                f"the sound has {len(wave)} samples; expected {self.window} or more, which are one "
                f"window of {self.frame_length} ms at {self.sampling_rate} Hz: leave the sound out"
            )
        if not np.isfinite(wave).all():
            raise ValueError("the sound has samples that are not finite numbers")
        # All windows at once: transformers' ``spectrogram``, which does the same, takes them singly.
        windows = np.lib.stride_tricks.sliding_window_view(wave * _LOUDNESS, self.window)
        windows = windows[:: self.hop].astype(np.float64)
        windows -= windows.mean(1, keepdims=True)
        windows[:, 1:] -= _PREEMPHASIS * windows[:, :-1]
        windows[:, 0] *= 1 - _PREEMPHASIS
        windows *= window_function(self.window, "povey", periodic=False)
        power = np.abs(np.fft.rfft(windows, self._fft)) ** 2
        energies = np.log(np.maximum(power @ self._filters, _FLOOR))
        return torch.from_numpy(energies.astype(np.float32))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the settings of frames and sounds."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        settings = {
            "side": self.side,
            "patch": self.patch,
            "sampling_rate": self.sampling_rate,
            "num_mel_bins": self.mels,
            "frame_length": self.frame_length,
            "frame_shift": self.frame_shift,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> VitaProcessor:
        """Read what :meth:`save_pretrained` wrote, or a published folder or hub id.

        Where there are no settings they are VITA-1.5's; ``load_vita`` takes them from the model's
        configuration.
        """
        tokenizer = AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=False)
        found = cached_file(
            str(name_or_path), SETTINGS, _raise_exceptions_for_missing_entries=False
        )
        if found is None:
            return cls(tokenizer)
        settings = json.loads(Path(found).read_text(encoding="utf-8"))
        side, patch = settings.pop("side"), settings.pop("patch")
        return cls(tokenizer, side=side, patch=patch, audio=WhaleConfig(**settings))
