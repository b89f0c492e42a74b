"""Tiny backbones with random weights, clips for them, and their own models' plain forwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from emomm_study.corpora.scores import Corpus
from emomm_study.media.video import Frames
from emomm_study.mini.model import build, build_vita
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Media
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.prompts import SYSTEM_PROMPT, messages
from emomm_study.systems.vita.adapter import STATES, VitaModel
from emomm_study.systems.vita.processing import VitaProcessor
from tests import qwen3_omni

SIDE, LAYERS, HEADS = 56, 3, 4
_DECODER = {"hidden": 32, "layers": LAYERS, "heads": HEADS, "kv_heads": 2, "ffn": 32}
_VISION = {"vision_hidden": 32, "vision_layers": 1, "vision_heads": 2, "vision_ffn": 32}
_AUDIO = {"audio_hidden": 32, "audio_layers": 1, "audio_heads": 2, "audio_ffn": 32}
SMALL = build.MiniConfig(**_DECODER, **_VISION, **_AUDIO, side=SIDE)
SMALL_VITA = build_vita.VitaMiniConfig(**_DECODER, **_VISION, **_AUDIO, audio_channels=4, side=SIDE)
Plain = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""Logits ``(Q, vocabulary)`` and ids ``(Q,)`` of one prompt, and of text forced after it."""


@dataclass(frozen=True)
class Kind:
    """One kind of backbone, with how its prompts are computed without this project."""

    make: Callable[[], Backbone]
    plain: Plain


def clip(seed: int) -> Media:
    """Four frames and up to two and a half seconds of sound."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    sound = 0.1 * rng.standard_normal(rng.integers(12_000, 40_000))
    return Media(Frames(frames, fps=2.0), sound.astype(np.float32))


def random_weights(model: torch.nn.Module, std: float = 0.2) -> torch.nn.Module:
    """The model with every parameter drawn anew, so that nothing is near zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def make_omni() -> OmniModel:
    processor = build.build_processor(SMALL)
    return OmniModel(random_weights(build.build_model(processor, SMALL)), processor, "random")


@torch.inference_mode()
def plain_omni(
    omni: OmniModel, media: Media, coalition: str, corpus: Corpus, text: str, tail: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """By transformers' processor and model alone."""
    prompt = omni.processor.apply_chat_template(
        messages(coalition, corpus, text), tokenize=False, add_generation_prompt=True
    )
    inputs = omni.processor(
        text=[prompt + tail],
        videos=[media.frames.frames] if "V" in coalition else None,
        audio=[media.sound] if "A" in coalition else None,
        videos_kwargs={"size": omni.frame_size, "do_sample_frames": False, "fps": media.frames.fps},
        return_tensors="pt",
    )
    return omni.model(**inputs).logits[0], inputs["input_ids"][0]


def make_vita() -> VitaModel:
    tokenizer = build_vita.build_tokenizer(SMALL_VITA)
    # Drawn wider: of its few tokens, alike through the residual paths, steering moves little.
    model = random_weights(build_vita.build_model(tokenizer, SMALL_VITA), std=0.3)
    return VitaModel(model, VitaProcessor.for_config(tokenizer, model.config), "random")


@torch.inference_mode()
def plain_vita(
    vita: VitaModel, media: Media, coalition: str, corpus: Corpus, text: str, tail: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """As VITA's own code does it: text between media tokenized apart, embeddings put between."""
    question = messages(coalition, corpus, text)[1]["content"][-1]["text"]
    state = STATES.speech if "A" in coalition else STATES.text
    end = f"{question}<|im_end|>\n<|im_start|>assistant\n{state}{tail}"
    pieces: list[str | torch.Tensor] = [
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n"
    ]
    if "V" in coalition:
        tiles = vita.processor.frames(media.frames.frames)
        pieces += [vita.model.get_video_features(tiles).flatten(0, 1), "\n"]
    if "A" in coalition:
        sound = vita.processor.sound(media.sound)
        lengths = torch.tensor([len(sound)])
        pieces.append(vita.model.get_audio_features(sound[None], lengths)[0])
    pieces.append(end)
    embeds, ids, written = [], [], []
    for piece in pieces:
        if isinstance(piece, str):
            written.append(piece)
            continue
        for part in ("".join(written), piece):
            _append(vita, part, embeds, ids)
        written = []
    _append(vita, "".join(written), embeds, ids)
    logits = vita.model(inputs_embeds=torch.cat(embeds)[None]).logits[0]
    return logits, torch.cat(ids)


def _append(vita: VitaModel, piece: str | torch.Tensor, embeds: list, ids: list) -> None:
    if isinstance(piece, str):
        own = torch.tensor(vita.tokenizer(piece, add_special_tokens=False)["input_ids"])
        ids.append(own)
        embeds.append(vita.model.get_input_embeddings()(own))
    else:
        ids.append(torch.full((len(piece),), -1))
        embeds.append(piece)


def make_qwen3() -> Backbone:
    """Behind the adapter that docs/add_a_backbone.md writes; its plain path is Omni's."""
    processor = qwen3_omni.processor()
    model = random_weights(qwen3_omni.thinker(processor, LAYERS, HEADS))
    return qwen3_omni.adapter()(model, processor, "random")


KINDS = {
    "omni": Kind(make_omni, plain_omni),
    "vita": Kind(make_vita, plain_vita),
    "qwen3-omni": Kind(make_qwen3, plain_omni),
}
