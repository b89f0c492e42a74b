"""What VITA takes a recording for: text, speech or noise, by the state that it would answer with.

``python -m emomm_study.systems.vita.check --model "VITA-MLLM/VITA-1.5?audio=full" q1.wav q2.wav``
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from emomm_study.media.audio import read_audio
from emomm_study.systems.interface import Media
from emomm_study.systems.named import Named
from emomm_study.systems.vita.adapter import STATES, VitaModel


@torch.inference_mode()
def state_logits(vita: VitaModel, sound: np.ndarray, system: str | None = None) -> dict[str, float]:
    """Logits of the state tokens after a spoken question alone, by the state's name.

    ``sound`` is ``(samples,)`` at 16 kHz. VITA's own system text is not in this project; ``system``
    takes one, and without it the prompt has none.
    """
    [clip] = vita.encode([Media(None, sound)])
    spoken = vita.placeholders["A"] * len(clip.audio)
    turns = [("system", system)] if system else []
    turns.append(("user", spoken))
    text = "".join(f"<|im_start|>{who}\n{said}<|im_end|>\n" for who, said in turns)
    ids = torch.tensor([vita._ids(f"{text}<|im_start|>assistant\n")], device=vita.device)
    embeds = vita.model.get_input_embeddings()(ids)
    heard = (ids == vita._placeholder_ids()["A"])[..., None]
    embeds = embeds.masked_scatter(heard, clip.audio.to(embeds.dtype))
    logits = vita.model(inputs_embeds=embeds).logits[0, -1].float()
    return {name: float(logits[number]) for name, number in vita.state_ids.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a line a recording."""
    parser = argparse.ArgumentParser(
        prog="python -m emomm_study.systems.vita.check",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("files", nargs="+", type=Path, help="recordings, wav or mp4")
    parser.add_argument("--model", required=True, help="a folder or hub id, with its options")
    parser.add_argument("--device", default="cpu", help="where it computes (default: cpu)")
    parser.add_argument("--dtype", default="bfloat16", help="its precision (default: bfloat16)")
    parser.add_argument("--system", help="the system text; none by default")
    given = parser.parse_args(arguments)
    named = Named.of(given.model)
    vita = VitaModel.load(named.path, dtype=given.dtype, device=given.device, **named.options)
    for file in given.files:
        logits = state_logits(vita, read_audio(file), given.system)
        said = "  ".join(f"{token} {logits[name]:.2f}" for name, token in asdict(STATES).items())
        print(f"{file.name}: {max(logits, key=logits.get)}  ({said})")


if __name__ == "__main__":
    main()
