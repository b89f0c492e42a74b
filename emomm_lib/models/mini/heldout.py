"""Held-out aligned clips as files: how well Omni-mini reads, apart from any conflict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from emomm_lib.corpora.surrogate.plan import training_plan
from emomm_lib.corpora.surrogate.render import clip_paths, sources_digest, write_clips
from emomm_lib.paths import cache_dir

SEED = 424_242


def heldout_clips(n: int, *, progress: bool = True) -> tuple[Path, pd.DataFrame]:
    """Render ``n`` clips that neither training nor benchmark has seen, as mp4 and wav in the cache.

    Drawn like the training clips: polarities agree with GT, classes mostly, emphasis is random.
    Returns their root and the plan with ``sample_id, video_path, audio_path``, one row a clip.
    """
    root = cache_dir("heldout", sources_digest())
    plan = training_plan(n, SEED)
    plan["video_id"] = "heldout"
    plan["clip_id"] = [f"{i:05d}" for i in range(n)]
    paths = [clip_paths(clip) for clip in plan.to_dict("records")]
    plan["video_path"], plan["audio_path"] = zip(*paths, strict=True)
    plan["sample_id"] = plan["corpus"] + "/heldout/" + plan["clip_id"]
    write_clips(root, plan.to_dict("records"), "held-out clips", progress=progress)
    return root, plan
