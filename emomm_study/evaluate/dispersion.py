"""Where in the picture attention on video lies, by layer: Sec. 4.3's scattered attention, measured.

nMAS counts a modality's attention and not its places. Here attention on the tokens that show a face,
or a person, is set against what blindness to place would give: their share of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import entr

from emomm_lib import Bootstrap, intervals_of
from emomm_lib.metrics.bootstrap import DEFAULT, counted, means
from emomm_lib.metrics.outcomes import row
from emomm_study.evaluate.experiment import Experiment
from emomm_study.media.regions import PersonSettings, token_cover
from emomm_study.media.video import MediaError
from emomm_study.paths import resolve_media

REGIONS = ("face", "person")


@dataclass(frozen=True, eq=False)
class VideoAttention:
    """Attention of the decision query on the video tokens of N clips, and what these show.

    Attributes
    ----------
    index
        N rows of clips, with ``sample_id``.
    attention
        ``(N, L, S)`` weights by layer, mean over heads; NaN beyond a clip's own tokens.
    cover
        By region, ``(N, S)`` the share in [0, 1] of each token's area inside it; NaN beyond a
        clip's own tokens, and for a clip without such a region.

    Raises ``ValueError`` for other shapes, and for attention that is negative.
    """

    index: pd.DataFrame
    attention: NDArray[np.float64]
    cover: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        shape = self.attention.shape
        if len(shape) != 3 or shape[0] != len(self.index):
            raise ValueError(f"attention is ({len(self.index)}, layers, tokens); got {shape}")
        for name, cover in self.cover.items():
            if cover.shape != (shape[0], shape[2]):
                raise ValueError(f"cover of {name} is {(shape[0], shape[2])}; got {cover.shape}")
        if (self.attention < 0).any():
            raise ValueError("attention on video tokens is never negative; record it again")


def region_ratio(attention: NDArray[np.float64], cover: NDArray[np.float64]) -> NDArray[np.float64]:
    """A region's share of the attention on video over its share of the picture, ``(N, L)``.

    1 is blind to place, above 1 the region gets more than its area. ``attention`` ``(N, L, S)`` and
    ``cover`` ``(N, S)`` as in :class:`VideoAttention`. NaN where a clip has no region, or a layer
    gives video no attention.
    """
    total, inside = np.nansum(attention, -1), np.nansum(attention * cover[:, None], -1)
    area = np.nansum(cover, -1) / np.maximum(np.isfinite(cover).sum(-1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = inside / total / area[:, None]
    return np.where((total > 0) & (area > 0)[:, None], found, np.nan)


def spread(attention: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of the attention over video tokens over that of an even one, ``(N, L)`` in [0, 1].

    1 is spread evenly, 0 all on one token. NaN without attention on video, and for a single token.
    """
    total = np.nansum(attention, -1, keepdims=True)
    tokens = np.isfinite(attention).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.nansum(entr(attention / total), -1) / np.log(tokens)
    return np.where((total[..., 0] > 0) & (tokens > 1), found, np.nan)


def dispersion_frame(
    seen: VideoAttention, by: str = "subset", *, bootstrap: Bootstrap = DEFAULT
) -> pd.DataFrame:
    """Where attention on video lies, by layer: means over clips with 95% intervals.

    Returns ``by, quantity, layer, value, low, high, n, without``, layers from 1. ``quantity`` is the
    name of a region, for its :func:`region_ratio`, or ``spread`` (:func:`spread`). ``n`` clips have
    a value, ``without`` have none, for want of the region or of any attention on video.
    """
    values = {name: region_ratio(seen.attention, own) for name, own in seen.cover.items()}
    values["spread"] = spread(seen.attention)
    rows = []
    index = seen.index.reset_index(drop=True)
    for group, part in index.groupby(by):
        for name, every in values.items():
            own = every[part.index]
            there = np.isfinite(own).sum(0).tolist()
            found = intervals_of(counted(own), means, bootstrap=bootstrap)
            rows += [
                (group, name, layer, *row(interval, n), len(part) - n)
                for layer, (interval, n) in enumerate(zip(found, there, strict=True), 1)
            ]
    columns = [by, "quantity", "layer", "value", "low", "high", "n", "without"]
    return pd.DataFrame(rows, columns=columns)


def video_attention(
    bench: Experiment, clips: pd.DataFrame, coalition: str = "TAV"
) -> VideoAttention:
    """Attention on the video tokens of some clips, and which of them show a face or a person.

    Each clip costs its regions, found where they were not yet, and one prompt of its own, which is
    not kept. Clips that cannot be read or asked are left out.
    """
    searched = {
        part: bench.person_only(clips, settings=PersonSettings(part=part)) for part in REGIONS
    }
    rows, attention = [], []
    cover: dict[str, list[NDArray]] = {part: [] for part in REGIONS}
    for place, (_, clip) in enumerate(bench.shown(clips).iterrows()):
        try:
            prompt = bench.inspect(clip, coalition)
        except MediaError:
            continue
        rows.append(place)
        weights = prompt.on_video(prompt.unsteered.rows.mean(axis=1))
        attention.append(weights.reshape(len(weights), -1))
        for part, own in searched.items():
            cover[part].append(_cover(own, clip, prompt.grid))
    if not rows:
        raise ValueError(f"none of {len(clips)} clips could be asked under {coalition}")
    padded = {part: _padded([own[None] for own in each])[:, 0] for part, each in cover.items()}
    index = clips.iloc[rows].reset_index(drop=True)
    return VideoAttention(index, _padded(attention), padded)


def _cover(
    searched: Experiment, clip: pd.Series, grid: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Share of each video token's area inside a clip's region, ``(S,)``; NaN without a region."""
    video = resolve_media(searched.roots[clip["corpus"]], clip["video_path"])
    try:
        regions = searched.region_store.read(video)
    except MediaError:
        return np.full(math.prod(grid), np.nan)
    if (regions.found == "none").all():
        return np.full(math.prod(grid), np.nan)
    top, left, height, width = searched.model.seen(*regions.mask.shape[1:])
    shown = regions.mask[:, top : top + height, left : left + width]
    return token_cover(shown, grid).ravel()


def _padded(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """``(N, L, S)`` of N ``(L, own)``, NaN beyond each one's own."""
    found = np.full((len(parts), len(parts[0]), max(part.shape[1] for part in parts)), np.nan)
    for place, part in enumerate(parts):
        found[place, :, : part.shape[1]] = part
    return found
