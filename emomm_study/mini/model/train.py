"""Train a small model from nothing: bank, towers, decoder; finished parts are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from emomm_study.mini.model.bank import Bank, build_bank
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.build_vita import VitaMiniConfig
from emomm_study.mini.model.decoder import EncodedBank, Stage, encode_bank, train_decoder
from emomm_study.mini.model.mini import Mini
from emomm_study.mini.model.towers import Log, train_audio, train_vision
from emomm_study.paths import cache_dir, whole

EVIDENCE = ("mouth", "eyes")
"""Parts of a picture whose tokens are trained to tell what the face expresses."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Batch sizes are clips (frame pairs for vision).

    Attributes
    ----------
    stages
        Of the decoder's training.
    moments
        How many moments its videos have there (:func:`train_decoder`).
    """

    stages: tuple[Stage, ...] = ()
    moments: tuple[int, ...] = ()
    seed: int = 1
    clips: int = 14_000
    vision_steps: int = 1_400
    vision_batch: int = 32
    vision_rate: float = 1.5e-3
    audio_steps: int = 2_500
    audio_batch: int = 32
    audio_rate: float = 2e-3
    decoder_batch: int = 32
    decoder_rate: float = 2e-3


class Parts:
    """Finished parts of a training on disk."""

    def __init__(self, model: torch.nn.Module, folder: Path, seed: int, log: Log) -> None:
        self._model, self._folder, self._seed, self._log = model, folder, seed, log

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Take a part's weights if they are there; else do its work and keep them."""
        path = self._folder / f"{name}.safetensors"
        if path.exists():
            _, unexpected = self._model.load_state_dict(load_file(path), strict=False)
            if unexpected:
                raise ValueError(f"{path}: weights of another model; delete it and train again")
            self._log(f"{name}: taken from the cache")
            return
        # Seeded here, so that a resumed training draws what an undisturbed one does.
        torch.manual_seed(self._seed)
        work()
        weights = dict(self._model.state_dict())
        if self._model.config.tie_word_embeddings:
            # Not stored a second time.
            del weights["lm_head.weight"]
        kept = {k: v.clone() for k, v in weights.items()}
        with whole(path) as unfinished:
            save_file(kept, unfinished)


def train_ears(mini: Mini, bank: Bank, recipe: Recipe, log: Log) -> None:
    """Train the audio tower on a bank's voices."""
    parts = [bank.waves[i : i + 200] for i in range(0, len(bank), 200)]
    made = [mini.sounds(waves) for waves in parts]
    train_audio(
        mini,
        torch.cat([f.half() for f, _ in made]),
        torch.cat([e for _, e in made]),
        bank,
        steps=recipe.audio_steps,
        batch=recipe.audio_batch,
        rate=recipe.audio_rate,
        seed=recipe.seed,
        log=log,
    )


def train_eyes(mini: Mini, bank: Bank, recipe: Recipe, log: Log) -> None:
    """Train the vision tower on a bank's faces: what they express, at ``EVIDENCE`` alone."""
    train_vision(
        mini,
        bank,
        steps=recipe.vision_steps,
        batch=recipe.vision_batch,
        rate=recipe.vision_rate,
        seed=recipe.seed,
        log=log,
        evidence=EVIDENCE,
    )


def train_reader(mini: Mini, bank: EncodedBank, recipe: Recipe, log: Log) -> None:
    """Train the decoder on an encoded bank."""
    train_decoder(
        mini,
        bank,
        recipe.stages,
        batch=recipe.decoder_batch,
        rate=recipe.decoder_rate,
        seed=recipe.seed,
        log=log,
        moments=recipe.moments,
    )


def train(
    out: Path, recipe: Recipe, config: MiniConfig | VitaMiniConfig, towers: Path | None = None
) -> None:
    """Train with a recipe and save model, processor and ``recipe.json`` into ``out``.

    ``towers`` are weights to take for both towers instead of training them. Finished parts are kept
    in the cache under a digest of recipe and sizes; the code is not part of it, so clear the cache's
    folder of the model after changing the training itself.
    """
    settings = {"recipe": asdict(recipe), "config": asdict(config)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    log: Log = tqdm.write
    torch.manual_seed(recipe.seed)
    mini = config.build()
    parts = Parts(mini.model, cache_dir(config.name, digest), recipe.seed, log)
    bank = build_bank(recipe.clips, recipe.seed)
    if towers is None:
        parts.run("1-audio", lambda: train_ears(mini, bank, recipe, log))
        parts.run("2-vision", lambda: train_eyes(mini, bank, recipe, log))
    else:
        take_towers(mini, towers)
    encoded = partial(encode_bank, mini.backbone(), bank, log)
    parts.run("3-decoder", lambda: train_reader(mini, encoded(), recipe, log))
    save(mini, out, recipe, config)
    log(f"saved to {out}")


def save(mini: Mini, out: Path, recipe: Recipe, config: MiniConfig | VitaMiniConfig) -> None:
    """Write model, processor and ``recipe.json`` into ``out``."""
    mini.save(out)
    settings = {"recipe": asdict(recipe), "config": asdict(config)}
    (out / "recipe.json").write_text(json.dumps(settings, indent=2) + "\n")


_TOWERS = ("model.visual.", "model.audio_tower.", "visual.", "audio_tower.")


def tower_weights(mini: Mini) -> dict[str, torch.Tensor]:
    """The weights of both towers of an Omni-mini."""
    state = mini.model.state_dict()
    return {k: v.contiguous() for k, v in state.items() if k.startswith(_TOWERS)}


def take_towers(mini: Mini, path: Path) -> None:
    """Load both towers; ``ValueError`` where the file does not hold just these."""
    missing, unexpected = mini.model.load_state_dict(load_file(path), strict=False)
    if unexpected or any(name.startswith(_TOWERS) for name in missing):
        raise ValueError(f"{path}: not the towers of this model; train them with --towers")
