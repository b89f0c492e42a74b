"""What a run has to do: clips x coalitions, in batches that stay the same when a run is resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emomm_lib.labels import coalition_modalities
from emomm_study.paths import resolve_media


@dataclass(frozen=True)
class Item:
    """A clip and the coalitions it is still to be asked under.

    Attributes
    ----------
    sample_id, corpus, text
        As in the manifest; a transcript that is missing there is empty.
    video, audio
        Its files.
    version
        What was asked: files by size and modification time, the transcript by digest.
    coalitions
        Those without an answer of this version.
    video_of
        The clip whose video is shown in place of its own; empty for its own.
    """

    sample_id: str
    corpus: str
    text: str
    video: Path
    audio: Path
    version: str
    coalitions: tuple[str, ...]
    video_of: str = ""


@dataclass(frozen=True)
class Plan:
    """Batches of items to compute, and how many (clip, coalition) pairs are known already."""

    batches: tuple[tuple[Item, ...], ...]
    known: int

    @property
    def remaining(self) -> int:
        """(Clip, coalition) pairs still to compute."""
        return sum(len(item.coalitions) for batch in self.batches for item in batch)


def make_plan(
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    coalitions: Sequence[str],
    known: Collection[tuple[str, str, str]],
    batch_size: int,
) -> Plan:
    """Which clips of a manifest to run under which coalitions.

    Batches are cut from the whole list, the longest clips first (by the size of their sound file,
    so that memory runs out early or never), and only then lose what is known. A resumed run
    therefore computes exactly the batches that an undisturbed one would have.

    Parameters
    ----------
    clips
        Columns ``sample_id, corpus, text, video_path, audio_path``, and ``video_of`` where the video
        is another clip's.
    known
        (sample_id, coalition, version) of what is stored.

    Raises ``ValueError`` for a repeated ``sample_id``, a path outside of its corpus's root, a
    corpus without a root, an unknown coalition, or a batch size below 1.
    """
    for coalition in coalitions:
        coalition_modalities(coalition)
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1; got {batch_size}")
    if repeated := clips.loc[clips["sample_id"].duplicated(), "sample_id"].tolist():
        raise ValueError(f"sample_id repeats in the manifest: {repeated[:5]}; give each clip one")
    if absent := sorted(set(clips["corpus"]) - set(roots)):
        raise ValueError(f"no root folder is given for the corpora {absent}")
    sized = []
    for clip in clips.to_dict("records"):
        root = Path(roots[clip["corpus"]])
        video, audio = (resolve_media(root, clip[k]) for k in ("video_path", "audio_path"))
        text = clip["text"] if isinstance(clip["text"], str) else ""
        version, size = _version(video, audio, text)
        if other := clip.get("video_of", ""):
            version = f"{version};{other}"
        wanted = tuple(c for c in coalitions if (clip["sample_id"], c, version) not in known)
        identity = (clip["sample_id"], str(clip["corpus"]), text)
        sized.append((-size, Item(*identity, video, audio, version, wanted, other)))
    sized.sort(key=lambda pair: (pair[0], pair[1].sample_id))
    items = [item for _, item in sized]
    batches = (items[i : i + batch_size] for i in range(0, len(items), batch_size))
    left = (tuple(item for item in batch if item.coalitions) for batch in batches)
    known_here = sum(len(coalitions) - len(item.coalitions) for item in items)
    return Plan(tuple(batch for batch in left if batch), known_here)


def _version(video: Path, audio: Path, text: str) -> tuple[str, int]:
    stats = {path: _stat(path) for path in (video, audio)}
    files = (f"{s.st_size}-{s.st_mtime_ns}" if s else "missing" for s in stats.values())
    # A transcript that is no Unicode text is refused in its turn, not here.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    return ";".join([*files, digest]), stats[audio].st_size if stats[audio] else 0


def _stat(path: Path) -> os.stat_result | None:
    """None where a file is missing or cannot be reached: it is read in its turn, and fails then."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None
