"""Run a model over clips and coalitions: each clip decoded and encoded once, nothing lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
import transformers
from tqdm.auto import tqdm

from emomm_lib.benchmark import resolve_media
from emomm_lib.evaluate.store import Prediction, PredictionStore
from emomm_lib.labels import Corpus
from emomm_lib.media.audio import AudioSettings, read_audio
from emomm_lib.media.video import MediaError, VideoSettings, read_video
from emomm_lib.models.omni import ADAPTER_VERSION, Media, OmniModel, Query
from emomm_lib.prompts import prompt_version


@dataclass(frozen=True)
class MediaSettings:
    """How a clip's files are read."""

    video: VideoSettings = field(default_factory=VideoSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)


def run_fingerprint(model: OmniModel, media: MediaSettings) -> tuple[str, dict]:
    """Digest, and its preimage, of all that can change a prediction besides the clip itself."""
    settings = {
        "model": model.fingerprint,
        "adapter": ADAPTER_VERSION,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "dtype": str(model.model.dtype),
        "frame_size": model.frame_size,
        "prompt": prompt_version(),
        "media": asdict(media),
    }
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], settings


def _version(paths: Sequence[Path], text: str) -> str:
    """Identifies what was asked: files by size and modification time, the transcript by digest."""
    stats = [p.stat() if p.exists() else None for p in dict.fromkeys(paths)]
    files = (f"{s.st_size}-{s.st_mtime_ns}" if s else "missing" for s in stats)
    return ";".join([*files, hashlib.sha256(text.encode()).hexdigest()[:12]])


@dataclass(frozen=True)
class _Item:
    clip: dict
    coalitions: list[str]
    video: Path
    audio: Path
    version: str


def _read(item: _Item, settings: MediaSettings) -> tuple[Media, dict[str, str]]:
    """What could be read of the modalities that are needed, and why the others could not."""
    needed, failures = "".join(item.coalitions), {}
    frames = sound = None
    try:
        frames = read_video(item.video, settings.video) if "V" in needed else None
    except MediaError as error:
        failures["V"] = str(error)
    try:
        sound = read_audio(item.audio, settings.audio) if "A" in needed else None
    except MediaError as error:
        failures["A"] = str(error)
    return Media(frames, sound), failures


def _batches(
    items: Sequence[_Item], settings: MediaSettings, size: int
) -> Iterator[list[tuple[_Item, Future]]]:
    """Batches of clips whose files are read ahead of the model, two batches deep."""
    groups = [items[i : i + size] for i in range(0, len(items), size)]
    with ThreadPoolExecutor(2) as pool:
        ahead: list[list[tuple[_Item, Future]]] = []
        for group in groups:
            ahead.append([(item, pool.submit(_read, item, settings)) for item in group])
            if len(ahead) > 2:
                yield ahead.pop(0)
        yield from ahead


def _predict(
    model: OmniModel, batch: list[tuple[_Item, Media, dict[str, str]]]
) -> list[Prediction]:
    encoded = model.encode([media for _, media, _ in batch])
    work: dict[str, list[tuple[_Item, Query]]] = {}
    predictions = []
    for (item, _, failures), clip in zip(batch, encoded, strict=True):
        for coalition in item.coalitions:
            if reasons := [why for modality, why in failures.items() if modality in coalition]:
                sample_id, reason = item.clip["sample_id"], "; ".join(reasons)
                predictions.append(Prediction.failed(sample_id, coalition, item.version, reason))
                continue
            query = Query(clip, coalition, Corpus(item.clip["corpus"]), item.clip["text"])
            work.setdefault(coalition, []).append((item, query))
    # One coalition at a time: its prompts are nearly equally long, so little is padded.
    for coalition, pairs in work.items():
        answers = model.answer([query for _, query in pairs])
        predictions += [
            Prediction(
                item.clip["sample_id"],
                coalition,
                item.version,
                int(label),
                float(score),
                *map(float, logits),
            )
            for (item, _), label, score, logits in zip(
                pairs, answers.label, answers.score, answers.letter_logits, strict=True
            )
        ]
    return predictions


def evaluate(
    model: OmniModel,
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    coalitions: Sequence[str],
    store: PredictionStore,
    *,
    media: MediaSettings | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> pd.DataFrame:
    """Predictions of every clip under every coalition, from the store where they are known.

    ``clips`` has the manifest's columns and ``roots`` the folder of each corpus. A clip that cannot
    be read is stored as failed with the reason, and the run goes on. Each batch is durable before
    the next begins. Returns one row a (sample, coalition), failures included: ``sample_id,
    coalition, label, score, logit_a..logit_e, failure``.
    """
    settings = media or MediaSettings()
    fingerprint, preimage = run_fingerprint(model, settings)
    store.begin(fingerprint, preimage)
    known = store.read(fingerprint)
    fresh = set(zip(known["sample_id"], known["coalition"], known["media"], strict=True))
    items = []
    for clip in clips.to_dict("records"):
        root = Path(roots[clip["corpus"]])
        paths = [resolve_media(root, clip[k]) for k in ("video_path", "audio_path")]
        version = _version(paths, clip["text"])
        missing = [c for c in coalitions if (clip["sample_id"], c, version) not in fresh]
        if missing:
            items.append(_Item(clip, missing, *paths, version))
    bar = tqdm(total=len(clips), initial=len(clips) - len(items), unit="clip", disable=not progress)
    for futures in _batches(items, settings, batch_size):
        batch = [(item, *future.result()) for item, future in futures]
        store.write(fingerprint, _predict(model, batch))
        bar.update(len(futures))
    bar.close()
    table = store.read(fingerprint)
    wanted = table["sample_id"].isin(clips["sample_id"]) & table["coalition"].isin(coalitions)
    return table[wanted].drop(columns="media").reset_index(drop=True)
