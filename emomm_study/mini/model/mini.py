"""What the training asks of a small model, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from emomm_study.systems.backbone import Backbone

SECONDS = 3
"""Of a clip's sound, the rest of which no small model hears."""


class Mini(ABC):
    """A small model in the making, and how it sees and hears.

    Attributes
    ----------
    eyes, ears
        The modules that turn pictures and sounds into tokens for the decoder.
    written
        Tokens at a prompt's end that the model would write itself, before the letter.
    """

    written: ClassVar[int] = 0

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, eyes: nn.Module, ears: nn.Module
    ) -> None:
        self.model, self.processor = model, processor
        self.eyes, self.ears = eyes, ears

    @property
    def hidden(self) -> int:
        """Size of a token."""
        return self.model.config.get_text_config().hidden_size

    @abstractmethod
    def see(self, videos: list[np.ndarray]) -> torch.Tensor:
        """Tokens ``(N, steps, h, w, hidden)`` of N videos ``(F, H, W, 3)`` uint8."""

    @abstractmethod
    def sounds(self, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of N sounds, padded to ``SECONDS``, and how much of each there is.

        Both begin with N; the second is a mask or lengths, as the model wants it.
        """

    @abstractmethod
    def hear(
        self, features: torch.Tensor, extent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of a batch of :meth:`sounds`, concatenated, and how many each sound has."""

    @abstractmethod
    def backbone(self) -> Backbone:
        """The model behind the benchmark's questions."""

    def fit_to(self, features: torch.Tensor, extent: torch.Tensor) -> None:  # noqa: B027
        """Take what the ears are not trained to know from the features of all training sounds."""

    def save(self, folder: Path) -> None:
        """Write weights, configuration and processor."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def parameters(self) -> dict[str, int]:
        """Numbers of trained parameters: ``vision``, ``audio``, ``decoder``, ``parameters``."""
        vision, audio, whole = (
            sum(p.numel() for p in module.parameters())
            for module in (self.eyes, self.ears, self.model)
        )
        decoder = whole - vision - audio
        return {"vision": vision, "audio": audio, "decoder": decoder, "parameters": whole}
