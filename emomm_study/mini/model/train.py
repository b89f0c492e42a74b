"""Train a small model from nothing: bank, towers, decoder; finished stages are kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from emomm_study.mini.model.bank import build_bank
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.decoder import encode_bank, text_first, train_decoder
from emomm_study.mini.model.towers import Log, train_audio, train_vision
from emomm_study.paths import cache_dir, whole


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


class _Stages:
    """Finished stages on disk: their weights, and how long each took."""

    def __init__(self, model: torch.nn.Module, folder: Path, seed: int, log: Log) -> None:
        self._model, self._folder, self._seed, self._log = model, folder, seed, log

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Take a stage's weights if they are there; else do its work and keep them."""
        path = self._folder / f"{name}.safetensors"
        if path.exists():
            _, unexpected = self._model.load_state_dict(load_file(path), strict=False)
            if unexpected:
                raise ValueError(f"{path}: weights of another model; delete it and train again")
            self._log(f"{name}: taken from the cache")
            return
        began = time.monotonic()
        # Seeded here, so that a resumed training draws what an undisturbed one does.
        torch.manual_seed(self._seed)
        work()
        weights = dict(self._model.state_dict())
        if self._model.config.tie_word_embeddings:
            # Not stored a second time.
            del weights["lm_head.weight"]
        kept = {k: v.clone() for k, v in weights.items()}
        with whole(path) as partial:
            save_file(kept, partial)
            self._note(name, time.monotonic() - began)

    def _note(self, name: str, seconds: float) -> None:
        times = self.seconds() | {name: round(seconds)}
        (self._folder / "seconds.json").write_text(json.dumps(times))

    def seconds(self) -> dict[str, int]:
        """Seconds that each finished stage took."""
        path = self._folder / "seconds.json"
        return json.loads(path.read_text()) if path.exists() else {}


def train(out: Path, recipe: Recipe | None = None, config: MiniConfig | None = None) -> None:
    """Train with a recipe and save model, processor and ``recipe.json`` into ``out``.

    Stages are kept in the cache under a digest of recipe and sizes; the code is not part of it, so
    clear the cache's folder of the model after changing the training itself.
    """
    recipe, config = recipe or Recipe(), config or MiniConfig()
    settings = {"recipe": asdict(recipe), "config": asdict(config)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    log: Log = tqdm.write
    torch.manual_seed(recipe.seed)
    mini = config.build()
    stages = _Stages(mini.model, cache_dir(config.name, digest), recipe.seed, log)
    bank = build_bank(recipe.clips, recipe.seed)

    def audio() -> None:
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

    def vision() -> None:
        train_vision(
            mini,
            bank,
            steps=recipe.vision_steps,
            batch=recipe.vision_batch,
            rate=recipe.vision_rate,
            seed=recipe.seed,
            log=log,
        )

    def decoder() -> None:
        train_decoder(
            mini,
            encode_bank(mini.backbone(), bank, log),
            text_first(recipe.decoder_steps),
            batch=recipe.decoder_batch,
            rate=recipe.decoder_rate,
            seed=recipe.seed,
            log=log,
        )

    stages.run("1-audio", audio)
    stages.run("2-vision", vision)
    stages.run("3-decoder", decoder)
    mini.save(out)
    settings["seconds"] = stages.seconds()
    (out / "recipe.json").write_text(json.dumps(settings, indent=2) + "\n")
    log(f"saved to {out}")
