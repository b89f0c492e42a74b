"""Train Omni-mini from nothing: bank, towers, decoder; finished stages are kept."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from emomm_lib.models.mini.bank import build_bank
from emomm_lib.models.mini.build import MiniConfig, build_model, build_processor
from emomm_lib.models.mini.decoder import encode_bank, train_decoder
from emomm_lib.models.mini.towers import Log, audio_features, train_audio, train_vision
from emomm_lib.models.omni import OmniModel
from emomm_lib.paths import cache_dir


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Batch sizes are clips (frame pairs for vision)."""

    seed: int = 1
    clips: int = 14_000
    vision_steps: int = 1_100
    vision_batch: int = 32
    vision_rate: float = 1.5e-3
    audio_steps: int = 1_000
    audio_batch: int = 32
    audio_rate: float = 2e-3
    decoder_steps: int = 1_000
    decoder_batch: int = 64
    decoder_rate: float = 2e-3


def _stage(model: torch.nn.Module, folder: Path, name: str, log: Log) -> bool:
    """Load a finished stage's weights if they are there."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return False
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    assert not unexpected, unexpected
    log(f"{name}: taken from {path}")
    return True


def _keep(model: torch.nn.Module, folder: Path, name: str) -> None:
    temporary = folder / f".{name}.{os.getpid()}"
    save_file(
        {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}, temporary
    )
    os.replace(temporary, folder / f"{name}.safetensors")


def train(out: Path, recipe: Recipe | None = None, config: MiniConfig | None = None) -> None:
    """Train with a recipe and save model, processor and ``recipe.json`` into ``out``.

    Stages are kept in the cache under a digest of recipe and sizes.
    """
    recipe, config = recipe or Recipe(), config or MiniConfig()
    settings = {"recipe": asdict(recipe), "config": asdict(config)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_dir("omni-mini", digest)
    log: Log = tqdm.write
    torch.manual_seed(recipe.seed)
    processor = build_processor(config)
    model = build_model(processor, config)
    bank = build_bank(recipe.clips, recipe.seed)
    if not _stage(model, folder, "1-audio", log):
        made = [
            audio_features(processor, bank.waves[i : i + 200]) for i in range(0, len(bank), 200)
        ]
        train_audio(
            model,
            torch.cat([f.half() for f, _ in made]),
            torch.cat([m for _, m in made]),
            bank,
            steps=recipe.audio_steps,
            batch=recipe.audio_batch,
            rate=recipe.audio_rate,
            seed=recipe.seed,
            log=log,
        )
        _keep(model, folder, "1-audio")
    if not _stage(model, folder, "2-vision", log):
        train_vision(
            model,
            processor,
            bank,
            steps=recipe.vision_steps,
            batch=recipe.vision_batch,
            rate=recipe.vision_rate,
            seed=recipe.seed,
            log=log,
        )
        _keep(model, folder, "2-vision")
    if not _stage(model, folder, "3-decoder", log):
        omni = OmniModel(model, processor, "in training")
        train_decoder(
            omni,
            encode_bank(omni, bank, log),
            steps=recipe.decoder_steps,
            batch=recipe.decoder_batch,
            rate=recipe.decoder_rate,
            seed=recipe.seed,
            log=log,
        )
        _keep(model, folder, "3-decoder")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(settings, indent=2) + "\n")
    log(f"saved to {out}")
