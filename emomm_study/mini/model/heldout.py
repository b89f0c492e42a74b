"""Held-out aligned clips as files: how well a small model reads, apart from any conflict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from emomm_study.mini.surrogate.plan import training_plan
from emomm_study.mini.surrogate.render import clip_paths, sources_digest, write_clips
from emomm_study.mini.surrogate.speaker import Film
from emomm_study.paths import cache_dir

CARD_SEED, FRESH_SEED = 424_242, 424_243
"""Of the clips that the model card is measured on, and of those that a notebook measures on."""


def heldout_clips(
    n: int, seed: int, film: Film = Film(), *, progress: bool = True
) -> tuple[Path, pd.DataFrame]:
    """Render ``n`` clips of speakers that are in no training or benchmark, as files in the cache.

    Drawn like the training clips: labels agree with GT in polarity, mostly in class, and emphasis
    is random. Returns their root and the plan with ``sample_id, video_path, audio_path``.
    """
    name = f"heldout-{seed}-{n}"
    filmed = "" if film == Film() else f"-{film.size}-{film.seconds:g}"
    root = cache_dir("heldout", sources_digest(), name + filmed)
    plan = training_plan(n, seed)
    plan["video_id"] = name
    plan["clip_id"] = [f"{i:05d}" for i in range(n)]
    paths = [clip_paths(clip) for clip in plan.to_dict("records")]
    plan["video_path"], plan["audio_path"] = zip(*paths, strict=True)
    plan["sample_id"] = plan["corpus"] + "/" + name + "/" + plan["clip_id"]
    write_clips(root, plan.to_dict("records"), "held-out clips", progress=progress, film=film)
    return root, plan
