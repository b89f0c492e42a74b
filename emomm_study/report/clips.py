"""What the benchmark's clips look like, and whether faces are found in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from emomm_lib.labels import CLASSES, MODALITIES, polarity
from emomm_study.media.person import FaceDetector
from emomm_study.media.video import VideoSettings, read_frames
from emomm_study.paths import resolve_media
from emomm_study.report.style import COLOURS, CORPUS_NAMES, context, titled


def _path(clip: Mapping, roots: Mapping[str, Path]) -> Path:
    return resolve_media(roots[clip["corpus"]], clip["video_path"])


def faithful(manifest: pd.DataFrame, plans: pd.DataFrame) -> pd.DataFrame:
    """Clips of the manifest that show, in all modalities, the classes that they are labelled with.

    ``plans`` has the surrogates' ``sample_id`` and ``shown_t, shown_a, shown_v``: what a surrogate
    shows is now and then a neighbour of its label, which in a picture of one clip misleads.
    """
    shown = plans.set_index("sample_id").reindex(manifest["sample_id"])
    same = [
        shown[f"shown_{m.lower()}"].to_numpy() == manifest[f"label_{m.lower()}"].to_numpy()
        for m in MODALITIES
    ]
    return manifest[np.logical_and.reduce(same)]


def present(manifest: pd.DataFrame, roots: Mapping[str, Path]) -> pd.DataFrame:
    """Clips whose film is on disk; ``FileNotFoundError`` where there is none."""
    there = [_path(clip, roots).is_file() for clip in manifest.to_dict("records")]
    if not any(there):
        raise FileNotFoundError("none of the manifest's clips is on disk; check the corpus roots")
    return manifest[there]


def contact_sheet(manifest: pd.DataFrame, roots: Mapping[str, Path], *, seed: int = 0) -> Figure:
    """One clip of each ground-truth class and corpus: its middle frame and its four labels.

    A modality whose polarity differs from GT's is marked with an asterisk. ``roots`` has the
    folder of each corpus; clips that are not on disk are passed over.
    """
    clips = present(manifest, roots)
    corpora = [c for c in CORPUS_NAMES if (clips["corpus"] == c).any()]
    with context():
        fig, axes = plt.subplots(
            len(corpora), 5, figsize=(9.6, 2.55 * len(corpora) + 0.6), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for row, corpus in zip(axes, corpora, strict=True):
            for label, ax in enumerate(row):
                ax.set_axis_off()
                group = clips[(clips["corpus"] == corpus) & (clips["label_gt"] == label)]
                if group.empty:
                    continue
                clip = group.sample(1, random_state=seed + label).iloc[0]
                [frame] = read_frames(_path(clip, roots), VideoSettings(num_frames=1))
                ax.imshow(frame)
                ax.set_title(f"GT {CLASSES[label]}", color=COLOURS["gt"], fontweight="bold")
                for k, m in enumerate(MODALITIES):
                    own = clip[f"label_{m.lower()}"]
                    mark = "*" if polarity(own) != polarity(label) else ""
                    ax.text(
                        0.17 + 0.33 * k, -0.04, f"{m} {CLASSES[own]}{mark}", ha="center", va="top",
                        transform=ax.transAxes, color=COLOURS[m.lower()], fontweight="bold",
                    )  # fmt: skip
            row[0].text(
                -0.06, 0.5, CORPUS_NAMES[corpus], rotation=90, ha="center", va="center",
                transform=row[0].transAxes, fontsize=10,
            )  # fmt: skip
        titled(fig, "Clips by class", "* polarity differs from GT's")
    return fig


def face_statistics(
    manifest: pd.DataFrame,
    roots: Mapping[str, Path],
    *,
    clips: int,
    frames: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """How often MediaPipe finds a face, by corpus, in frames of ``clips`` randomly chosen clips.

    Returns ``corpus, clips, frames, found`` (share of frames with a face, 0..1) and the median
    and 5th percentile of the surest face's score (0..1, zero where none is found).
    """
    there = present(manifest, roots)
    chosen = there.sample(min(clips, len(there)), random_state=seed).sort_values("sample_id")
    scores: dict[str, list[float]] = {}
    with FaceDetector() as detector:
        for clip in chosen.to_dict("records"):
            images = read_frames(_path(clip, roots), VideoSettings(num_frames=frames))
            best = [max(f.scores, default=0.0) for f in detector.detect(images)]
            scores.setdefault(clip["corpus"], []).extend(map(float, best))
    return pd.DataFrame(
        {
            "corpus": corpus,
            "clips": len(values) // frames,
            "frames": len(values),
            "found": np.mean(np.array(values) > 0),
            "median_score": np.median(values),
            "score_p05": np.quantile(values, 0.05),
        }
        for corpus, values in scores.items()
    )
