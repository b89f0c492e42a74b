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
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from emomm_study.mini.model.bank import Bank, build_bank
from emomm_study.mini.model.build import MiniConfig, OmniMini
from emomm_study.mini.model.decoder import EncodedBank, encode_bank
from emomm_study.mini.model.train import (
    Parts,
    Recipe,
    take_towers,
    tower_weights,
    train_ears,
    train_eyes,
    train_reader,
)
from emomm_study.mini.organism.arms import ARMS, DOSES, SEEDS
from emomm_study.mini.organism.bank import load_encoded, save_encoded
from emomm_study.mini.organism.measure import COLUMNS, Material, material, measured, observed
from emomm_study.mini.organism.verdicts import OBSERVER
from emomm_study.paths import ROOT, cache_dir, whole
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.omni import OmniModel

FOLDER = ROOT / "data" / "organism"
TOWERS = FOLDER / "towers.safetensors"
FAMILY = FOLDER / "family.csv"
SHIPPED = {
    ("late, text first", 1): ROOT / "data" / "omni-mini",
    ("early, text first", 1): ROOT / "data" / "omni-mini-early",
}
"""Arms and seeds whose whole models come with the project, and where."""
HELD_OUT = 4_000
"""Clips of a second bank, of other speakers, on which the family is measured."""


def train_towers(recipe: Recipe = Recipe(), path: Path = TOWERS) -> None:
    """Train eyes on the tokens of mouth and eyes, and ears; write both to ``path``."""
    torch.manual_seed(recipe.seed)
    mini = MiniConfig().build()
    bank = build_bank(recipe.clips, recipe.seed)
    train_ears(mini, bank, recipe, tqdm.write)
    train_eyes(mini, bank, recipe, tqdm.write)
    with whole(path) as partial:
        save_file(tower_weights(mini), partial)


def with_towers(seed: int, path: Path = TOWERS) -> OmniMini:
    """A model whose decoder is new, by a seed, and whose towers are those of the family."""
    torch.manual_seed(seed)
    mini = MiniConfig().build()
    take_towers(mini, path)
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


def trained_arm(name: str, seed: int, bank: Callable[[], EncodedBank]) -> Backbone:
    """An arm as it was trained before, or is trained now on a bank.

    Shipped ones are read from their folders, others kept in the cache.
    """
    folder = SHIPPED.get((name, seed))
    if folder is not None and (folder / "recipe.json").exists():
        return OmniModel.load(folder)
    mini, recipe = with_towers(seed), ARMS[name].recipe(seed)
    kept = Parts(mini.model, cache_dir("organism", f"{name}, {seed}"), seed, tqdm.write)
    kept.run("decoder", lambda: train_reader(mini, bank(), recipe, tqdm.write))
    mini.model.eval()
    return mini.backbone()


def run(arms: list[str], seeds: list[int], recipe: Recipe = Recipe()) -> None:
    """Do what is not in the CSV of some arms and seeds."""
    if not TOWERS.exists():
        train_towers(recipe)
    held_out = build_bank(HELD_OUT, recipe.seed + 1)
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
            add(measured(trained_arm(name, seed, training), tests), name, seed)
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
