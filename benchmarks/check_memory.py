"""``python -m benchmarks.check_memory``: what ``--check`` says of memory, beside what is measured.

Three decoders of Qwen2.5-Omni's shape with random weights, saved in the published format. Of each,
``systems.size`` counts without weights what encoding, a pass over some clips under all coalitions
with everything recorded, and the gradient of one prompt take; PyTorch's profiler then follows every
allocation while the same is done with weights.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch.profiler import ProfilerActivity, profile

from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.media.video import Frames
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.systems import size
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.table import load_system

SIZES = {
    "hidden 128": MiniConfig(),
    "hidden 512": MiniConfig(hidden=512, layers=6, ffn=1536, audio_seconds=10),
    "hidden 1024": MiniConfig(hidden=1024, layers=4, ffn=3072, audio_seconds=10),
}
CLIP = ((8, 336, 448), 72_000)
TEXT = "well I do not know what to say to that"


def profiled(run: Callable[[], object]) -> int:
    """The most bytes that PyTorch's allocator gave out while ``run`` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        kept = run()
    del kept
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(changes).max())


def gradient(model: Backbone, query: Query) -> object:
    """Importance of one prompt's visual tokens."""
    prompt = model.prepare([query])
    return gradient_importance(
        model.model,
        prompt.inputs_embeds,
        prompt.attention_mask,
        prompt.position_ids,
        prompt.modality_ids,
        model.letter_weights,
    )


def questions(model: Backbone, clips: int, made: Callable[[], object]) -> list[Query]:
    """All coalitions of some clips."""
    own = [made() for _ in range(clips)]
    return [Query(clip, c, Corpus.CH_SIMS, TEXT) for clip in own for c in COALITIONS]


def compared(
    folder: Path, clips: int, dtype: str, clip: size.Clip = CLIP
) -> Iterator[tuple[str, int, int]]:
    """What is counted without weights and measured with them, of the model in a folder."""
    bare = size.load_weightless(str(folder), dtype=dtype)
    real = load_system(folder, dtype=dtype)
    yield "weights", size.bytes_of_weights(bare.model), size.bytes_of_weights(real.model)
    frames, samples = clip
    media = Media(Frames(np.zeros((*frames, 3), np.uint8), 2.0), np.zeros(samples, np.float32))
    real.encode([media])
    yield "encoding", size.bytes_of_encoding(bare, clip), profiled(lambda: real.encode([media]))
    counted = size.bytes_of_pass(bare, questions(bare, clips, lambda: bare.blank(*clip)))
    asked = questions(real, clips, lambda: real.encode([media])[0])
    held = sum(x.nbytes for q in asked[:: len(COALITIONS)] for x in (q.clip.video, q.clip.audio))
    measured = profiled(lambda: real.answer(asked, trace=True, states=True))
    yield "pass", counted, held + measured
    top = Query(bare.blank(*clip), "TAV", Corpus.CH_SIMS, TEXT)
    whole = next(q for q in asked if q.coalition == "TAV")
    yield "gradient", size.bytes_of_gradient(bare, top), profiled(lambda: gradient(real, whole))


def main() -> None:
    """Print a row for each size and each thing that takes memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_memory")
    parser.add_argument("--clips", type=int, default=4, help="in a pass (default: %(default)s)")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    print(
        "| model | what | counted, MB | measured, MB | counted / measured |\n|---|---|---|---|---|"
    )
    for name, config in SIZES.items():
        with TemporaryDirectory() as folder:
            processor = build_processor(config)
            build_model(processor, config).save_pretrained(folder)
            processor.save_pretrained(folder)
            for what, counted, measured in compared(Path(folder), given.clips, given.dtype):
                ratio = counted / measured
                row = f"{counted / 1e6:,.1f} | {measured / 1e6:,.1f} | {ratio:.2f}"
                print(f"| {name} | {what} | {row} |", flush=True)


if __name__ == "__main__":
    main()
