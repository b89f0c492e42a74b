"""Train and measure the family of model organisms: ``python -m emomm_study.mini.organism.family``.

Towers are trained once, then every arm with every seed; a row of what is measured goes to
``data/organism/family.csv`` as an arm is finished, and what stands there is not done again. A killed
run goes on where it stopped: encoded clips and trained decoders are kept, an arm in training begins
anew.
"""

from __future__ import annotations

import argparse
import fcntl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from emomm_study.mini.model.bank import Bank, build_bank
from emomm_study.mini.model.build import MiniConfig, OmniMini
from emomm_study.mini.model.decoder import EncodedBank, encode_bank, train_decoder
from emomm_study.mini.model.towers import train_audio, train_vision
from emomm_study.mini.organism.arms import ARMS, DOSES, EVIDENCE, SEEDS
from emomm_study.mini.organism.bank import load_encoded, save_encoded
from emomm_study.mini.organism.measure import COLUMNS, Material, material, measured, observed
from emomm_study.paths import ROOT, cache_dir, whole
from emomm_study.systems.prompts import PRINTED, Wording

FOLDER = ROOT / "data" / "organism"
TOWERS = FOLDER / "towers.safetensors"
FAMILY = FOLDER / "family.csv"
OBSERVER = "ideal observer"
SHIPPED = (("late, text first", 1), ("early, text first", 1))
"""Arms and seeds whose weights come with the project."""
_TOWER_PARTS = ("model.visual.", "model.audio_tower.", "visual.", "audio_tower.")


@dataclass(frozen=True)
class TowerRecipe:
    """What decides the towers; batches are clips, frame pairs for vision."""

    seed: int = 1
    clips: int = 14_000
    vision_steps: int = 1_400
    vision_rate: float = 1.5e-3
    audio_steps: int = 2_500
    audio_rate: float = 2e-3
    batch: int = 32
    held_out: int = 4_000
    """Clips of a second bank, of other speakers, on which the family is measured."""


@dataclass(frozen=True)
class FamilyConfig(MiniConfig):
    """Omni-mini's sizes, and a prompt that breaks its lines where Appendix E does."""

    wording: ClassVar[Wording] = PRINTED


def build() -> OmniMini:
    """The family's model with random weights."""
    return FamilyConfig().build()


def _tower_weights(mini: OmniMini) -> dict[str, torch.Tensor]:
    state = mini.model.state_dict()
    return {k: v.contiguous() for k, v in state.items() if k.startswith(_TOWER_PARTS)}


def train_towers(recipe: TowerRecipe = TowerRecipe(), path: Path = TOWERS) -> None:
    """Train eyes on the tokens of mouth and eyes, and ears; write both to ``path``."""
    torch.manual_seed(recipe.seed)
    mini = build()
    bank = build_bank(recipe.clips, recipe.seed)
    given = {"batch": recipe.batch, "seed": recipe.seed, "log": tqdm.write}
    parts = [mini.sounds(bank.waves[i : i + 200]) for i in range(0, len(bank), 200)]
    features = torch.cat([f.half() for f, _ in parts])
    extents = torch.cat([e for _, e in parts])
    train_audio(
        mini, features, extents, bank, steps=recipe.audio_steps, rate=recipe.audio_rate, **given
    )
    train_vision(
        mini, bank, steps=recipe.vision_steps, rate=recipe.vision_rate, evidence=EVIDENCE, **given
    )
    with whole(path) as partial:
        save_file(_tower_weights(mini), partial)


def with_towers(seed: int, path: Path = TOWERS) -> OmniMini:
    """A model whose decoder is new, by a seed, and whose towers are those of the family."""
    torch.manual_seed(seed)
    mini = build()
    missing, unexpected = mini.model.load_state_dict(load_file(path), strict=False)
    if unexpected or any(name.startswith(_TOWER_PARTS) for name in missing):
        raise ValueError(f"{path}: not the towers of this family; train them with --towers")
    return mini


def encoded(bank: Bank, name: str) -> EncodedBank:
    """A bank after the family's towers, from the cache where it is there."""
    stamp = f"{TOWERS.stat().st_size}-{int(TOWERS.stat().st_mtime)}"
    path = cache_dir("organism") / f"{name}-{stamp}.safetensors"
    if not path.exists():
        save_encoded(path, encode_bank(with_towers(0).backbone(), bank, tqdm.write))
    return load_encoded(path, bank)


def known(path: Path = FAMILY) -> pd.DataFrame:
    """What has been measured: ``arm, seed`` and the columns of a measure."""
    if not path.exists():
        return pd.DataFrame(columns=["arm", "seed", *COLUMNS])
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def add(frame: pd.DataFrame, arm: str, seed: int, path: Path = FAMILY) -> None:
    """Append an arm's measures; the file is whole at any time, also where two runs do so at once."""
    own = frame.assign(arm=arm, seed=seed)[["arm", "seed", *COLUMNS]].round(5)
    with (cache_dir("organism") / "family.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = known(path)
        both = pd.concat([before, own]) if len(before) else own
        with whole(path) as partial:
            both.to_csv(partial, index=False, lineterminator="\n")


def decoder_path(name: str, seed: int) -> Path:
    """Where an arm's decoder is kept: with the project if it is shipped, else in the cache."""
    folder = FOLDER if (name, seed) in SHIPPED else cache_dir("organism")
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.safetensors"


def save_decoder(mini: OmniMini, path: Path) -> None:
    """Write all but the towers."""
    state = mini.model.state_dict()
    own = {k: v.contiguous() for k, v in state.items() if not k.startswith(_TOWER_PARTS)}
    # Tied to the embeddings, and not stored a second time.
    own.pop("lm_head.weight")
    with whole(path) as partial:
        save_file(own, partial)


def load_decoder(path: Path) -> OmniMini:
    """A model of the family whose decoder was written to ``path``; ``ValueError`` for another's."""
    mini = with_towers(0)
    missing, unexpected = mini.model.load_state_dict(load_file(path), strict=False)
    rest = {k for k in missing if not k.startswith(_TOWER_PARTS)} - {"lm_head.weight"}
    if unexpected or rest:
        raise ValueError(f"{path}: not a decoder of this family; delete it and train it again")
    mini.model.eval()
    return mini


def trained_arm(name: str, seed: int, bank: Callable[[], EncodedBank]) -> OmniMini:
    """An arm as it was trained before, or is trained now on a bank."""
    path = decoder_path(name, seed)
    if path.exists():
        return load_decoder(path)
    arm, mini = ARMS[name], with_towers(seed)
    train_decoder(
        mini, bank(), arm.stages, batch=arm.batch, rate=arm.rate, seed=seed, log=tqdm.write,
        expressiveness=arm.expressiveness, moments=arm.moments,
    )  # fmt: skip
    save_decoder(mini, path)
    return mini


def run(arms: list[str], seeds: list[int], recipe: TowerRecipe = TowerRecipe()) -> None:
    """Do what is not in the CSV of some arms and seeds."""
    if not TOWERS.exists():
        train_towers(recipe)
    held_out = build_bank(recipe.held_out, recipe.seed + 1)
    tests = material(encoded(held_out, "held-out"), held_out.parts)
    _observe(tests)

    @cache
    def training() -> EncodedBank:
        return encoded(build_bank(recipe.clips, recipe.seed), "training")

    for seed in seeds:
        for name in arms:
            done = known()
            if name in DOSES and seed != SEEDS[0]:
                continue
            if ((done["arm"] == name) & (done["seed"] == seed)).any():
                tqdm.write(f"{name}, seed {seed}: measured already")
                continue
            began = time.monotonic()
            tqdm.write(f"{name}, seed {seed}")
            mini = trained_arm(name, seed, training)
            add(measured(mini.backbone(), tests), name, seed)
            tqdm.write(f"{name}, seed {seed}: {(time.monotonic() - began) / 60:.0f} min")


def _observe(tests: Material) -> None:
    if not (known()["arm"] == OBSERVER).any():
        add(observed(tests.plan), OBSERVER, 0)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m emomm_study.mini.organism.family", description=__doc__
    )
    parser.add_argument("--arm", action="append", choices=ARMS, help="only this one; repeatable")
    parser.add_argument("--seed", action="append", type=int, help="only this one; repeatable")
    parser.add_argument("--towers", action="store_true", help="train the towers anew, no arm")
    options = parser.parse_args(arguments)
    if options.towers:
        train_towers()
    else:
        run(options.arm or list(ARMS), options.seed or list(SEEDS))


if __name__ == "__main__":
    main()
