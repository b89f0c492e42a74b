"""Training material for Omni-mini: rendered faces and voices, sorted by what they show.

Every entry is rendered by the same code as the surrogate corpora, from a plan that shares no
speaker, sentence draw or seed with them. Frames pass through JPEG as a stand-in for the video
codec. Only the class shown and its emphasis are kept as labels.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from emomm_study.mini.surrogate import cue, lexicon, plan, render, speaker, voice
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.mini.surrogate.plan import training_plan
from emomm_study.mini.surrogate.speaker import FRAME
from emomm_study.paths import cache_dir, whole

FRAMES = 4
TOKEN = 28
"""Side in pixels of the square that one visual token covers."""
PARTS = ("room", "face", "mouth", "eyes")


@dataclass(frozen=True)
class Bank:
    """Rendered material of N clips.

    Attributes
    ----------
    jpegs
        N lists of ``FRAMES`` JPEG files.
    parts
        ``(N, FRAMES / 2, 8, 8)`` uint8: what part of the picture each visual token shows.
    waves
        N float16 sounds ``(samples,)`` at 16 kHz.
    shown, emphatic
        ``(N, 2)`` of audio and video.
    language
        ``(N,)`` of ``zh`` or ``en``.
    """

    jpegs: list[list[bytes]]
    parts: np.ndarray
    waves: list[np.ndarray]
    shown: np.ndarray
    emphatic: np.ndarray
    language: np.ndarray

    def __len__(self) -> int:
        return len(self.jpegs)

    def frames(self, i: int) -> np.ndarray:
        """Frames of entry ``i``: ``(FRAMES, FRAME, FRAME, 3)`` uint8, RGB."""
        decoded = (
            cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR) for j in self.jpegs[i]
        )
        return np.stack([cv2.cvtColor(d, cv2.COLOR_BGR2RGB) for d in decoded])


def part_grid(poses: list[render.Pose]) -> np.ndarray:
    """Part shown by each visual token of a pair of frames: ``(8, 8)`` uint8."""
    pose = poses[0]
    centre = np.mean([p.centre for p in poses], axis=0)
    axis = (np.arange(FRAME // TOKEN) + 0.5) * TOKEN
    x = (axis[None, :] - centre[0]) / pose.size
    y = (axis[:, None] - centre[1]) / pose.size
    grid = np.where((x / 0.80) ** 2 + y**2 < 1, 1, 0)
    grid = np.where((np.abs(x) < 0.45) & (np.abs(y - 0.56) < 0.28), 2, grid)
    grid = np.where((np.abs(x) < 0.62) & (np.abs(y + 0.22) < 0.26), 3, grid)
    return grid.astype(np.uint8)


def _make(clip: dict) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    rng = np.random.default_rng([int(clip["clip_seed"]), 3])
    wave = render.render_audio(clip)
    duration = len(wave) / render.SAMPLING_RATE
    times = (np.arange(FRAMES) + rng.uniform(0.0, 1.0)) / FRAMES * duration
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 95))]
    jpegs = [
        cv2.imencode(".jpg", cv2.cvtColor(f, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
        for f in render.render_frames(clip, times)
    ]
    poses = render.head_poses(clip, times)
    parts = np.stack([part_grid(poses[i : i + 2]) for i in range(0, FRAMES, 2)])
    return jpegs, parts, wave.astype(np.float16)


def _shard(folder: Path, size: int, seed: int, index: int) -> Path:
    path = folder / f"{index:05d}.npz"
    if path.exists():
        return path
    clips = training_plan(size, seed * 100_003 + index)
    # Voices speak sentences of any class: only their prosody tells, not the words they say.
    rng = np.random.default_rng([seed, index, 4])
    clips["text"] = [
        LEXICONS[language].sentence(int(rng.integers(5)), bool(rng.integers(2)), rng)
        for language in clips["language"]
    ]
    made = [_make(clip) for clip in clips.to_dict("records")]
    jpegs = [j for m in made for j in m[0]]
    waves = [m[2] for m in made]
    with whole(path) as place, place.open("wb") as file:
        np.savez(
            file,
            jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
            jpeg_end=np.cumsum([len(j) for j in jpegs]),
            parts=np.stack([m[1] for m in made]),
            wave=np.concatenate(waves),
            wave_end=np.cumsum([len(w) for w in waves]),
            shown=clips[["shown_a", "shown_v"]].to_numpy(np.int64),
            emphatic=clips[["emphatic_a", "emphatic_v"]].to_numpy(bool),
            language=clips["language"].to_numpy(str),
        )
    return path


def _sources() -> str:
    """Digest of the code that decides a bank's content."""
    modules = (cue, lexicon, plan, render, speaker, voice)
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for module in modules:
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()[:12]


def build_bank(clips: int, seed: int, *, processes: int | None = None, shard: int = 250) -> Bank:
    """Render a bank, or read it from the cache; a killed run keeps its finished shards."""
    folder = cache_dir("bank", f"{_sources()}-{shard}-{seed}")
    n = -(-clips // shard)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        paths = list(
            tqdm(pool.map(partial(_shard, folder, shard, seed), range(n)), total=n, desc="bank")
        )
    jpegs: list[list[bytes]] = []
    waves: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {
        k: [] for k in ("parts", "shown", "emphatic", "language")
    }
    for path in paths:
        with np.load(path) as data:
            blob, ends = data["jpeg"].tobytes(), data["jpeg_end"]
            starts = np.concatenate([[0], ends[:-1]])
            files = [blob[a:b] for a, b in zip(starts, ends, strict=True)]
            jpegs += [files[i : i + FRAMES] for i in range(0, len(files), FRAMES)]
            waves += np.split(data["wave"], data["wave_end"][:-1])
            for name, parts in columns.items():
                parts.append(data[name])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Bank(
        jpegs, joined["parts"], waves, joined["shown"], joined["emphatic"], joined["language"]
    )
