"""What loses users of such models days, named before a run: as far as files and headers tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from emomm_study.evaluate.headers import ClipHeaders
from emomm_study.media.audio import AudioSettings
from emomm_study.systems.backbone import Backbone

MANY_TOKENS = 1024
"""Of a frame: more is what a processor allows that was left without a bound."""
APART = 1.0
"""Seconds by which a film and its sound may differ in length."""
NOT_SEEN = (
    "whether a sound track is silent, or a film damaged inside, no header tells: such clips fail, "
    "or are asked, in their turn"
)
_SHOWN = 3


def of_parameters(parameters: Mapping[str, Any]) -> Iterator[str]:
    """What is dangerous in a profile's values."""
    if parameters.get("dtype") == "float16":
        yield (
            "dtype is float16, which overflows in this model family: answers become NaN and fail; "
            "use bfloat16"
        )


def of_model(model: Backbone, parameters: Mapping[str, Any]) -> Iterator[str]:
    """What in a checkpoint's files differs from its model, or from what the profile sets."""
    yield from _frames(model, parameters)
    processor = getattr(model, "processor", None)
    extractor = getattr(processor, "feature_extractor", processor)
    rate = getattr(extractor, "sampling_rate", None)
    if rate not in (None, AudioSettings().sampling_rate):
        yield (
            f"the processor's sampling_rate is {rate}, and sounds are read at "
            f"{AudioSettings().sampling_rate}: it would hear them at another speed; take the "
            "processor's files that the model was published with"
        )
    config, eyes = model.model.config, getattr(processor, "video_processor", None)
    pairs = [
        (eyes, "patch_size", "vision_config", "patch_size"),
        (eyes, "merge_size", "vision_config", "spatial_merge_size"),
        (eyes, "temporal_patch_size", "vision_config", "temporal_patch_size"),
        (extractor, "feature_size", "audio_config", "num_mel_bins"),
    ]
    for own, name, part, theirs in pairs:
        found, wanted = getattr(own, name, None), getattr(getattr(config, part, None), theirs, None)
        if None not in (found, wanted) and found != wanted:
            yield (
                f"the processor's {name} is {found}, and {theirs} in the {part} of config.json is "
                f"{wanted}; take the processor's files that the model was published with"
            )
    words, rows = len(model.tokenizer), config.get_text_config().vocab_size
    if words > rows:
        yield (
            f"the tokenizer has {words:,} tokens and the model {rows:,}: it is another model's; "
            "take the tokenizer's files that the model was published with"
        )


def _frames(model: Backbone, parameters: Mapping[str, Any]) -> Iterator[str]:
    size = getattr(model, "frame_size", None)
    eyes = getattr(getattr(model, "processor", None), "video_processor", None)
    if size is None or eyes is None:
        return
    token = (eyes.patch_size * eyes.merge_size) ** 2
    if (most := size["longest_edge"] // token) > MANY_TOKENS:
        where = "frame_pixels is null, so the checkpoint's own bound holds"
        if parameters.get("frame_pixels"):
            where = f"frame_pixels is {list(parameters['frame_pixels'])}"
        yield (
            f"{where}: a frame may become {most:,} tokens; set frame_pixels to the least and the "
            "most pixels of a frame, as [100352, 602112]"
        )
    own = dict(eyes.size)
    if parameters.get("frame_pixels") and any(own.get(k) != v for k, v in size.items()):
        yield (
            f"the checkpoint's processor bounds a frame to {own.get('shortest_edge'):,} to "
            f"{own.get('longest_edge'):,} pixels; the profile's frame_pixels, "
            f"{size['shortest_edge']:,} to {size['longest_edge']:,}, are used in their place"
        )


def of_clips(headers: Sequence[ClipHeaders]) -> Iterator[str]:
    """What is odd in the headers of clips."""
    broken = [clip for clip in headers if clip.problems]
    if broken:
        first = broken[0].problems[0]
        yield f"{len(broken):,} clips have files that cannot be read, the first: {first}"
    whole = [clip for clip in headers if clip.film and clip.sound]
    if twice := [c.sample_id for c in whole if c.apart and c.film.sound]:
        yield (
            f"{len(twice):,} films have a sound track beside a sound file of their own: the file is "
            "heard, and once"
        )
    apart = [c for c in whole if abs(c.film.seconds - c.sound.seconds) > APART]
    if apart:
        names = ", ".join(
            f"{c.sample_id} ({c.film.seconds:.1f} and {c.sound.seconds:.1f} s)"
            for c in apart[:_SHOWN]
        )
        yield f"{len(apart):,} films are {APART:g} s or more off their sounds in length: {names}"


def of_prompts(model: Backbone, tokens: pd.DataFrame) -> Iterator[str]:
    """Prompts that a model refuses."""
    longest = getattr(model, "longest", None)
    if longest is None or not len(over := tokens[tokens["prompt"] > longest]):
        return
    yield (
        f"{len(over):,} prompts are longer than the {longest:,} tokens that the model takes, and "
        "will fail: take fewer frames (num_frames) or less sound (max_audio_seconds)"
    )
