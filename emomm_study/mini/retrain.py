"""Train a small model again, measure it on held-out clips, and write its model card.

``python -m emomm_study.mini.retrain --model omni-mini`` (or ``omni-mini-early``, ``vita-mini``) does
all of it; a killed run goes on where it stopped. ``--card-text`` writes the card again from the committed
numbers, without the model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.model.bank import FRAMES
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.build_vita import VitaMiniConfig
from emomm_study.mini.model.heldout import CARD_SEED
from emomm_study.mini.model.mini import SECONDS
from emomm_study.mini.model.train import Recipe, train
from emomm_study.mini.organism.arms import ARMS
from emomm_study.mini.organism.family import TOWERS
from emomm_study.mini.reading import CARD_SCORES, ideal_accuracy, reading_accuracy
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
    arm
        Of the family of model organisms, whose stages train its decoder.
    towers
        Weights to take for both towers; none to train them first.
    steps
        How long the towers are trained, where not as the family's.
    own
        What its card says beyond what holds for all.
    library
        That opens it, as the hub names libraries.
    """

    title: str
    original: str
    architecture: str
    adapter: tuple[str, str]
    writes: str
    config: type[MiniConfig] | type[VitaMiniConfig]
    arm: str
    towers: Path | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    own: str = ""
    library: str = "transformers"

    def recipe(self, seed: int = 1) -> Recipe:
        """How it is trained."""
        return replace(ARMS[self.arm].recipe(seed), **self.steps)


_OMNI = Kind(
    title="Omni-mini",
    original="Qwen2.5-Omni-7B",
    architecture="Qwen2_5OmniThinkerForConditionalGeneration",
    adapter=("emomm_study.systems.omni", "OmniModel"),
    writes="letter, then score",
    config=MiniConfig,
    arm="late, text first",
    towers=TOWERS,
    own="""

It is the arm "{arm}", seed 1, of the family in `data/organism`, whose towers it has.""",
)
KINDS = {
    "omni-mini": _OMNI,
    "omni-mini-early": replace(_OMNI, title="Omni-mini, early", arm="early, text first"),
    "vita-mini": Kind(
        title="VITA-mini",
        original="VITA-1.5",
        architecture="VitaForConditionalGeneration",
        adapter=("emomm_study.systems.vita.adapter", "VitaModel"),
        writes="state token, letter, then score",
        config=VitaMiniConfig,
        arm="late, text first",
        steps={"audio_steps": 1000, "vision_steps": 1000},
        library="emomm_study",
        own="""

Its decoder is trained as that of the arm "{arm}" of the family in `data/organism`. Each frame is a tile
of {side} pixels a side, 28 pixels a token and side; no two frames are joined. The sound's features are
normalized by their means and deviations over the bank; attention in the audio encoder is full. The
state token, ☞ in a turn with sound and ☜ in one without, is trained with the rest of the reply; no
sound is noise, which ☟ would be the answer to.""",
    ),
}
"""The small models, by name."""

_DEPTH = {
    "late": """\
**Depth is designed in.** A decoder trained on all coalitions at once reads its evidence in the first
layers. Here single modalities come first, reading across is blocked in a random number of the first
layers, more and more often, and at last costs something there: so evidence is read in the upper half,
where CHASE as published steers. That this can be so is shown; that it is so in a real model is not. No
stage shows an empty prompt: what is answered to one is arbitrary.""",
    "early": """\
Where a modality is read is left to the training, which reads it in the first layers, before CHASE as
published begins.""",
}

_CARD = """\
---
{front}
---

# {title}

A **model organism**, not a model of people: a `{architecture}` of
{parameters:.2f} million parameters (vision tower {vision:.2f}, audio tower {audio:.2f}, decoder
{decoder:.2f}), trained from scratch on drawn speakers and synthetic voices. It exists so that the
benchmark, the attention analysis and the steering of this companion run on a laptop through the same
code as {original}. Nothing it does is a result about a real model or a real person.

{depth}

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
agreement; both languages and score policies alternate. No labels conflict. Every modality shows a
neighbouring class at a rate that nothing can read through, {emphatic:.0%} of the time when emphatic and
{plain:.0%} when plain: so some training clips *look* neutral in a modality where GT is not. These rates
and the {agreement:.0%} bound every accuracy below; they are the same in all three, so that any order
among modalities is the model's own.

## Recipe

1. Audio tower, {audio_steps} steps of {audio_batch}: class and emphasis from every token.
2. Vision tower, {vision_steps} steps of {vision_batch} frame pairs: the part of the picture from every
   token, class and emphasis from those of mouth and eyes alone (mirrored at random).
3. Decoder on the frozen towers, stages of {decoder_batch} clips a step: {writes}, with the prompt of
   Appendix E *in full*.

{stages}

The prompt is not shortened: each of its fixed lines is one token of the small tokenizer.{own}

AdamW, cosine schedule, seed {seed}; `recipe.json` has every number. About an hour on two CPU cores:
`python -m emomm_study.mini.retrain --model {name}`.

## Reading accuracy

On {n} held-out clips (new speakers, voices and rooms; sentences from the same small lexicon, about
half of which occur in training), labels agreeing in polarity, decoded from their mp4 and wav files.
95% bootstrap intervals over clips. Acc-5: the class, chance 20%. Ideal: the Acc-5 of an observer that
reads these clips without error and knows how they are drawn. Acc-2: negative against the rest, 60% for
always saying the rest. MAE: of the score, in [-1, 1].

{accuracy}

## Limits

The faces are drawings with one expression axis, the voices one synthesiser, the sentences a few
hundred words. Confidence is not calibrated. Do not use it on real clips.
"""


def stages_table(recipe: Recipe) -> str:
    """The stages of a decoder's training in Markdown."""
    lines = ["| steps | samples | reading across | costs |", "|---|---|---|---|"]
    for stage in recipe.stages:
        mixture = ", ".join(f"{c} {share:.0%}" for c, share in stage.mixture.items())
        blocked = f"blocked in {stage.blocked:.0%} of the steps" if stage.blocked else "free"
        lines.append(f"| {stage.steps} | {mixture} | {blocked} | {stage.penalty:g} |")
    return "\n".join(lines)


def accuracy_table(scores: pd.DataFrame) -> str:
    """The model card's accuracies in Markdown."""
    wide = scores.set_index(["metric", "coalition"])
    ideal = ideal_accuracy(int(scores["n"].iloc[0]))
    lines = [
        "| coalition | Acc-5 (%) | 95% interval | Ideal (%) | Acc-2 (%) | MAE |",
        "|---|---|---|---|---|---|",
    ]
    for name in COALITIONS:
        acc5, acc2, mae = (wide.loc[(m, name)] for m in ("acc5", "acc2", "mae"))
        lines.append(
            f"| {name} | {100 * acc5.value:.1f} | [{100 * acc5.low:.1f}, {100 * acc5.high:.1f}] | "
            f"{100 * ideal[name]:.1f} | {100 * acc2.value:.1f} | {mae.value:.3f} |"
        )
    return "\n".join(lines)


def front_matter(name: str, scores: pd.DataFrame) -> str:
    """What the Hugging Face hub reads of a card: licence, languages, tags, and the card's Acc-5."""
    kind = KINDS[name]
    shown = scores[(scores["metric"] == "acc5") & (scores["coalition"] == "TAV")].iloc[0]
    result = EvalResult(
        task_type="video-classification",
        task_name="Sentiment in five classes",
        dataset_type="surrogates",
        dataset_name=f"{int(shown['n'])} held-out surrogate clips, text, sound and film shown",
        metric_type="accuracy",
        metric_name="Acc-5",
        metric_value=round(float(shown["value"]), 3),
    )
    data = ModelCardData(
        model_name=kind.title,
        license="mit",
        language=["en", "zh"],
        library_name=kind.library,
        tags=["multimodal", "sentiment-analysis", "model-organism", "synthetic-data"],
        eval_results=[result],
    )
    return data.to_yaml()


def card_text(name: str, folder: Path, scores: pd.DataFrame) -> str:
    """The model card of the model in ``folder``, given its scores on held-out clips."""
    kind = KINDS[name]
    settings = json.loads((folder / "recipe.json").read_text())
    config, shown = kind.config(**settings["config"]), Expressiveness()
    assert shown.t == shown.a == shown.v
    given = settings["recipe"] | {"stages": stages_table(kind.recipe())}
    return _CARD.format(
        **{part: n / 1e6 for part, n in config.build().parameters().items()},
        **given,
        **(vars(kind) | {"own": kind.own.format(arm=kind.arm, **settings["config"])}),
        front=front_matter(name, scores),
        name=name,
        depth=_DEPTH[ARMS[kind.arm].reading],
        agreement=CLASS_AGREEMENT,
        emphatic=shown.t.emphatic,
        plain=shown.t.plain,
        n=int(scores["n"].iloc[0]),
        accuracy=accuracy_table(scores),
    )


def write_card(name: str, folder: Path, clips: int) -> pd.DataFrame:
    """Measure the model in ``folder`` and write its card and the card's scores beside it."""
    store = PredictionStore(cache_dir() / "predictions.sqlite")
    bench = Experiment(load_system(folder), pd.DataFrame(), {}, store, MEDIA)
    scores = reading_accuracy(bench, clips, seed=CARD_SEED)
    (folder / "README.md").write_text(card_text(name, folder, scores), encoding="utf-8")
    scores.round(6).to_csv(folder / CARD_SCORES, index=False)
    return scores


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m emomm_study.mini.retrain [--model vita-mini] [--card-only | --card-text]``."""
    parser = argparse.ArgumentParser(prog="python -m emomm_study.mini.retrain", description=__doc__)
    parser.add_argument("--model", choices=KINDS, default="omni-mini")
    parser.add_argument("--out", type=Path, help="folder to write to; data/<model>")
    parser.add_argument("--clips", type=int, default=1000, help="held-out clips to measure on")
    parser.add_argument("--seed", type=int, default=1)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--card-only", action="store_true", help="measure again, do not train")
    again.add_argument("--card-text", action="store_true", help="write the card again, no more")
    options = parser.parse_args(arguments)
    kind = KINDS[options.model]
    out = options.out or ROOT / "data" / options.model
    if options.card_text:
        scores = pd.read_csv(out / CARD_SCORES, keep_default_na=False)
        (out / "README.md").write_text(card_text(options.model, out, scores), encoding="utf-8")
        return
    if not options.card_only:
        train(out, kind.recipe(options.seed), kind.config(), kind.towers)
    print(accuracy_table(write_card(options.model, out, options.clips)))


if __name__ == "__main__":
    main()
