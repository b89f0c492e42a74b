"""VITA-1.5, small or large, behind the benchmark's questions."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from emomm_study.systems.backbone import Backbone, files_digest
from emomm_study.systems.interface import Computed, Encoded, Media, Query, made_ready
from emomm_study.systems.passes import Tokens
from emomm_study.systems.prompts import SYSTEM_PROMPT, messages
from emomm_study.systems.vita.load import audio_folder, load_vita, local_folder
from emomm_study.systems.vita.modeling import VitaForConditionalGeneration
from emomm_study.systems.vita.processing import VitaProcessor

PLACEHOLDERS = {"V": "<|video_pad|>", "A": "<|vision_pad|>"}
"""Tokens of the vocabulary that VITA itself does not use; its media stand in their places."""


@dataclass(frozen=True)
class States:
    """The token that VITA writes before an answer: to what it answers, or that it does not."""

    text: str = "\u261c"
    speech: str = "\u261e"
    noise: str = "\u261f"

    def due(self, coalition: str) -> str:
        """The state of a turn by the rule of its training: speech where the turn has sound."""
        return self.speech if "A" in coalition else self.text


STATES = States()
_LEADING = re.compile(rf"^\s*[{''.join(asdict(STATES).values())}]+")


@dataclass(frozen=True)
class Features:
    """A batch of ``count`` clips as the encoders take it, of those that have either."""

    count: int
    frames: Sequence[torch.Tensor]
    sounds: Sequence[torch.Tensor]


class VitaModel(Backbone):
    """VITA-1.5 and its processor.

    Contents come as everywhere here, video, sound, transcript, instruction, in VITA's ChatML, with
    Appendix E's system text in place of its own. Letters are read after the state token, which is
    prefilled by the rule of VITA's training; what it would have written there itself is kept beside
    each answer, as ``state_logits`` and ``declined`` (it takes the sound for noise, and would not
    answer).
    """

    version = 1

    def __init__(
        self, model: VitaForConditionalGeneration, processor: VitaProcessor, fingerprint: str
    ) -> None:
        super().__init__(model, processor.tokenizer, fingerprint, PLACEHOLDERS)
        self.processor = processor
        ids = {name: self._ids(token) for name, token in asdict(STATES).items()}
        if odd := [name for name, own in ids.items() if len(own) != 1]:
            raise ValueError(
                f"the tokenizer must have one token for each state of VITA; it has not for {odd}"
            )
        self.state_ids = {name: own[0] for name, own in ids.items()}
        self.longest = int(model.config.tokenizer_model_max_length)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        pixels: Sequence[int] | None = None,
        audio: str | None = None,
        weights: bool = True,
    ) -> VitaModel:
        """Load a checkpoint in the published format, from a folder or a hub id.

        ``dtype`` is a torch dtype's name or ``auto``; ``audio`` how the audio encoder attends, where
        the checkpoint leaves it open (:func:`load_vita`). Every frame is one tile of the size that
        the vision tower has, so that ``pixels`` change nothing. Without ``weights`` it has shapes
        alone, and computes none (``systems.size``). Raises like :func:`load_vita`.
        """
        given = {"dtype": dtype, "device": device, "audio": audio, "weights": weights}
        model, processor = load_vita(name_or_path, **given)
        return cls(model, processor, _fingerprint(name_or_path))

    def settings(self) -> dict[str, Any]:
        """All on this side that can change an answer, for run fingerprints."""
        audio = self.model.config.audio_config
        return super().settings() | {
            "frame_size": self.processor.side,
            "audio_attention": {"chunk": audio.chunk_size, "left": audio.left_chunks},
            "states": asdict(STATES),
        }

    @torch.inference_mode()
    def features(self, clips: Sequence[Media]) -> Features:
        """Tiles and spectra of a batch of clips, on the CPU."""
        frames = [self.processor.frames(c.frames.frames) for c in clips if c.frames is not None]
        sounds = [self.processor.sound(c.sound) for c in clips if c.sound is not None]
        return Features(len(clips), frames, sounds)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Run both encoders once over a batch of clips."""
        features = made_ready(clips) or self.features(clips)
        seen = [i for i, clip in enumerate(clips) if clip.frames is not None]
        heard = [i for i, clip in enumerate(clips) if clip.sound is not None]
        video: dict[int, torch.Tensor] = {}
        grid: dict[int, torch.Tensor] = {}
        audio: dict[int, torch.Tensor] = {}
        if seen:
            tiles = torch.cat(features.frames).to(self.device, self.model.dtype)
            made = self.model.get_video_features(tiles).split([len(x) for x in features.frames])
            side = round(made[0].shape[1] ** 0.5)
            video = {i: own.flatten(0, 1) for i, own in zip(seen, made, strict=True)}
            grid = {
                i: torch.tensor([len(own), side, side], device=self.device)
                for i, own in zip(seen, made, strict=True)
            }
        kept = {
            i: self._kept(clips[i], self.video_grid(grid[i]))
            for i in seen
            if clips[i].region is not None
        }
        video |= {i: video[i][kept[i]] for i in kept}
        if heard:
            lengths = torch.tensor([len(x) for x in features.sounds], device=self.device)
            padded = torch.nn.utils.rnn.pad_sequence(features.sounds, batch_first=True)
            # Features in single precision: in half, those of a long sound would be cut to steps.
            made = self.model.get_audio_features(padded.to(self.device), lengths)
            audio = dict(zip(heard, made, strict=True))
        return [
            Encoded(
                video=video.get(i),
                grid=grid.get(i),
                seconds_per_grid=1 / clips[i].frames.fps if i in video else None,
                audio=audio.get(i),
                kept=kept.get(i),
            )
            for i in range(len(clips))
        ]

    def blank(self, frames: tuple[int, int, int] | None, samples: int | None) -> Encoded:
        """What :meth:`encode` would make of a clip of that size, in shapes alone (on ``meta``)."""
        shape = partial(torch.empty, device="meta", dtype=self.model.dtype)
        width, video, grid, audio = self.decoder.config.hidden_size, None, None, None
        if frames is not None:
            tokens = self.processor.tokens_of_frame
            side = round(tokens**0.5)
            grid = torch.tensor([frames[0], side, side])
            video = shape(frames[0] * tokens, width)
        if samples is not None:
            audio = shape(self.processor.tokens_of_sound(samples), width)
        return Encoded(video, grid, None if grid is None else 1.0, audio)

    def video_grid(self, grid: torch.Tensor) -> tuple[int, int, int]:
        """``(t, h, w)`` of a video's tokens: one step a frame."""
        t, h, w = grid.tolist()
        return t, h, w

    def seen(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The square in the middle of a frame that its tile shows, to the nearest pixels."""
        top, left, *size = self.processor.seen(height, width)
        return round(top), round(left), *(round(side) for side in size)

    def _chat(self, query: Query) -> str:
        _, user = messages(query.coalition, query.corpus, query.transcript)
        # A newline after the frames and none after the sound, as in its training.
        media = "".join(
            self.placeholders[modality] + after
            for modality, after in (("V", "\n"), ("A", ""))
            if modality in query.coalition
        )
        return (
            f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
            f"<|im_start|>user\n{media}{user['content'][-1]['text']}<|im_end|>\n"
            f"<|im_start|>assistant\n{STATES.due(query.coalition)}"
        )

    def _tokens(self, queries: Sequence[Query], text: str = "transcript") -> Tokens:
        tokens = super()._tokens(queries, text)
        lengths = tokens.mask.sum(1)
        if (most := int(lengths.max())) > self.longest:
            raise ValueError(
                f"a prompt of {most} tokens: the model takes {self.longest}, and would lose the "
                "rest without a word; take fewer frames (num_frames) or less sound "
                "(max_audio_seconds)"
            )
        due = [self.state_ids["speech" if "A" in q.coalition else "text"] for q in queries]
        if tokens.ids[:, -1].tolist() != due:
            raise ValueError(
                "the tokenizer merges the state token with what precedes it; expected it alone at "
                "the end of every prompt"
            )
        return tokens

    def _details(self, part: Computed) -> list[dict[str, Any]]:
        """The state that it would have written itself: logits by name, and whether it declines."""
        ids = list(self.state_ids.values())
        logits = part.before.float() @ self.model.lm_head.weight[ids].float().T
        found = []
        for row in logits.tolist():
            by_name = dict(zip(self.state_ids, row, strict=True))
            heard = max(by_name["speech"], by_name["text"])
            found.append({"state_logits": by_name, "declined": by_name["noise"] > heard})
        return found

    def _said(self, text: str) -> str:
        return _LEADING.sub("", text)


def _fingerprint(name_or_path: str | Path) -> str:
    """Digest of a folder's files, the audio encoder's included, or a hub model's commits."""
    folder = local_folder(name_or_path)
    if not Path(name_or_path).is_dir():
        # A downloaded model lies in a folder that is named after its commit.
        return f"{name_or_path}@{folder.name}"
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = [] if "audio_config" in settings else [audio_folder(folder, settings["mm_audio_encoder"])]
    return files_digest(folder, *own)
