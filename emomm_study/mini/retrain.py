"""Train a small model again, measure it on held-out clips, and write its model card.

``python -m emomm_study.mini.retrain --model omni-mini`` (or ``vita-mini``) does all of it; a killed
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.model.bank import FRAMES
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.build_vita import VitaMiniConfig
from emomm_study.mini.model.decoder import MIXTURE, ONE_ALONE, TEXT_ALONE
from emomm_study.mini.model.heldout import CARD_SEED
from emomm_study.mini.model.mini import SECONDS
from emomm_study.mini.model.train import Recipe, train
from emomm_study.mini.reading import CARD_SCORES, reading_accuracy
from emomm_study.mini.surrogate.cue import Expressiveness
from emomm_study.mini.surrogate.plan import CLASS_AGREEMENT
from emomm_study.paths import ROOT, cache_dir
from emomm_study.systems.table import load_system

MEDIA = MediaSettings(VideoSettings(num_frames=FRAMES), AudioSettings(max_seconds=float(SECONDS)))
"""How the models were trained to see and hear clips; the mini profile reads them the same way."""


@dataclass(frozen=True)
class Kind:
    """What is a small model's own in its training and on its card.

    Attributes
    ----------
    original, architecture
        The model that it is a small one of, and its class there.
    adapter
        Module and class that open it.
    writes
        What it is trained to write, in order.
    own
        What its card says beyond what holds for all.
    """

    title: str
    original: str
    architecture: str
    adapter: tuple[str, str]
    writes: str
    config: type[MiniConfig] | type[VitaMiniConfig]
    recipe: Recipe = Recipe()
    own: str = ""


KINDS = {
    MiniConfig.name: Kind(
        title="Omni-mini",
        original="Qwen2.5-Omni-7B",
        architecture="Qwen2_5OmniThinkerForConditionalGeneration",
        adapter=("emomm_study.systems.omni", "OmniModel"),
        writes="letter, then score",
        config=MiniConfig,
    ),
    VitaMiniConfig.name: Kind(
        title="VITA-mini",
        original="VITA-1.5",
        architecture="VitaForConditionalGeneration",
        adapter=("emomm_study.systems.vita.adapter", "VitaModel"),
        writes="state token, letter, then score",
        config=VitaMiniConfig,
        recipe=Recipe(audio_steps=600, vision_steps=700),
        own="""

Each frame is a tile of {side} pixels a side, 28 pixels a token and side; no two frames are joined. The
sound's features are normalized by their means and deviations over the bank; attention in the audio
encoder is full. The state token, ☞ in a turn with sound and ☜ in one without, is trained with the
rest of the reply; no sound is noise, which ☟ would be the answer to.""",
    ),
}
"""The small models, by name."""

_CARD = """\
# {title}

A **model organism**, not a model of people: a `{architecture}` of
{parameters:.2f} million parameters (vision tower {vision:.2f}, audio tower {audio:.2f}, decoder
{decoder:.2f}), trained from scratch on drawn speakers and synthetic voices. It exists so that the
benchmark, the attention analysis and the steering of this companion run on a laptop through the same
code as {original}. Nothing it does is a result about a real model or a real person.

## Use

```python
from {adapter[0]} import {adapter[1]}
model = {adapter[1]}.load("data/{name}")
```

## Training data

Surrogate clips that are in no benchmark: {clips:,} rendered clips, each with a speaker of its own,
kept as a bank of faces and voices by what they show. Each training sample takes a face and a voice
from the bank, and a new sentence, to match freshly drawn labels. The bank's voices say sentences of
any class, so that prosody and not words tells; in training the voice therefore says another sentence
than the transcript, while in the benchmark it says the transcript. Frames pass through JPEG instead
of H.264.

Labels agree in polarity, and in class {agreement:.0%} of the time; emphasis is random and unrelated to
agreement; both languages and score policies alternate. No labels conflict. A modality shows a
neighbouring class at a rate that nothing can read through: {confusion}. So some training clips *look*
neutral in a modality where GT is not. These rates and the {agreement:.0%} bound every accuracy below,
and they put an order text, audio, video into what can be read.

## Recipe

1. Audio tower, {audio_steps} steps of {audio_batch}: class and emphasis from every token.
2. Vision tower, {vision_steps} steps of {vision_batch} frame pairs: part of the face, class and
   emphasis from every token (mirrored at random).
3. Decoder on the frozen towers, {decoder_steps} steps of {decoder_batch} clips: {writes},
   with the prompt of Appendix E *in full*. Text alone for the first {text_alone:.0%} of the steps,
   single modalities to {one_alone:.0%}, then all coalitions: {mixture}.

The prompt is not shortened: each of its fixed lines is one token of the small tokenizer.{own}

AdamW, cosine schedule, seed {seed}; `recipe.json` has every number. The three stages took
{minutes:.0f} minutes on two CPU cores, after rendering the bank. Again:
`{command}`.

## Reading accuracy

On {n} held-out clips (new speakers, voices and rooms; sentences from the same small lexicon, about
half of which occur in training), labels agreeing in polarity, decoded from their mp4 and wav files.
95% bootstrap intervals over clips. Acc-5: the class, chance 20%. Acc-2: negative against the rest,
60% for always saying the rest. MAE: of the score, in [-1, 1].

{accuracy}

## Limits

The faces are drawings with one expression axis, the voices one synthesiser, the sentences a few
hundred words. Confidence is not calibrated. Do not use it on real clips.
"""


def accuracy_table(scores: pd.DataFrame) -> str:
    """The model card's accuracies in Markdown."""
    wide = scores.set_index(["metric", "coalition"])
    lines = ["| coalition | Acc-5 (%) | 95% interval | Acc-2 (%) | MAE |", "|---|---|---|---|---|"]
    for name in COALITIONS:
        acc5, acc2, mae = (wide.loc[(m, name)] for m in ("acc5", "acc2", "mae"))
        lines.append(
            f"| {name} | {100 * acc5.value:.1f} | [{100 * acc5.low:.1f}, {100 * acc5.high:.1f}] | "
            f"{100 * acc2.value:.1f} | {mae.value:.3f} |"
        )
    return "\n".join(lines)


def card_text(kind: Kind, folder: Path, scores: pd.DataFrame) -> str:
    """The model card of the model in ``folder``, given its scores on held-out clips."""
    settings = json.loads((folder / "recipe.json").read_text())
    config, shown = kind.config(**settings["config"]), Expressiveness()
    option = "" if config.name == MiniConfig.name else f" --model {config.name}"
    return _CARD.format(
        **{part: n / 1e6 for part, n in config.build().parameters().items()},
        **settings["recipe"],
        **(vars(kind) | {"own": kind.own.format(**settings["config"])}),
        name=config.name,
        command=f"python -m emomm_study.mini.retrain{option}",
        text_alone=TEXT_ALONE,
        one_alone=ONE_ALONE,
        agreement=CLASS_AGREEMENT,
        confusion=", ".join(
            f"{name} {c.emphatic:.0%} when emphatic and {c.plain:.0%} when plain"
            for name, c in zip(("text", "audio", "video"), (shown.t, shown.a, shown.v), strict=True)
        ),
        mixture=", ".join(f"{c} {share:.0%}" for c, share in MIXTURE.items()),
        minutes=sum(settings["seconds"].values()) / 60,
        n=int(scores["n"].iloc[0]),
        accuracy=accuracy_table(scores),
    )


def write_card(kind: Kind, folder: Path, clips: int) -> pd.DataFrame:
    """Measure the model in ``folder`` and write its card and the card's scores beside it."""
    store = PredictionStore(cache_dir() / "predictions.sqlite")
    bench = Experiment(load_system(folder), pd.DataFrame(), {}, store, MEDIA)
    scores = reading_accuracy(bench, clips, seed=CARD_SEED)
    (folder / "README.md").write_text(card_text(kind, folder, scores), encoding="utf-8")
    scores.round(6).to_csv(folder / CARD_SCORES, index=False)
    return scores


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m emomm_study.mini.retrain [--model vita-mini] [--card-only]``."""
    parser = argparse.ArgumentParser(prog="python -m emomm_study.mini.retrain", description=__doc__)
    parser.add_argument("--model", choices=KINDS, default=MiniConfig.name)
    parser.add_argument("--out", type=Path, help="folder to write to; data/<model>")
    parser.add_argument("--clips", type=int, default=1000, help="held-out clips to measure on")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--card-only", action="store_true", help="measure again, do not train")
    options = parser.parse_args(arguments)
    kind = KINDS[options.model]
    out = options.out or ROOT / "data" / options.model
    if not options.card_only:
        train(out, replace(kind.recipe, seed=options.seed), kind.config())
    print(accuracy_table(write_card(kind, out, options.clips)))


if __name__ == "__main__":
    main()
