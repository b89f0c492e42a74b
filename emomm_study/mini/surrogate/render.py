"""From a plan to real files: mp4 (H.264 + AAC) and wav, in the real corpora's own layouts."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from emomm_lib.labels import CLASS_NAMES
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.joint import COUNTS_FILE
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.speaker import (
    FRAME,
    FaceIdentity,
    Film,
    Grain,
    Performance,
    Pose,
    Room,
    head_pose,
    render_frame,
)
from emomm_study.mini.surrogate.voice import (
    SAMPLING_RATE,
    Prosody,
    VoiceIdentity,
    lengthened,
    speak,
)
from emomm_study.paths import whole

FPS = 10
_MARKER = "surrogate.json"


def _delivery(clip: pd.Series | dict) -> tuple[VoiceIdentity, Prosody, np.random.Generator]:
    rng = np.random.default_rng([int(clip["clip_seed"]), 1])
    voice = VoiceIdentity.draw(np.random.default_rng([int(clip["speaker_seed"]), 1]))
    return voice, Prosody.of(int(clip["shown_a"]), bool(clip["emphatic_a"]), rng), rng


def render_audio(clip: pd.Series | dict) -> np.ndarray:
    """What is said in one planned clip: float32 mono ``(samples,)`` at 16 kHz."""
    voice, prosody, rng = _delivery(clip)
    return speak(clip["text"], clip["language"], voice, prosody, rng)


def _room_after(audio: np.ndarray, clip: pd.Series | dict, film: Film) -> np.ndarray:
    """The sound of the whole clip."""
    rng = np.random.default_rng([int(clip["clip_seed"]), 4])
    return lengthened(audio, film.seconds, _delivery(clip)[1], rng)


def _cast(clip: pd.Series | dict) -> tuple[FaceIdentity, Performance, np.random.Generator]:
    rng = np.random.default_rng([int(clip["clip_seed"]), 2])
    face = FaceIdentity.draw(np.random.default_rng([int(clip["speaker_seed"]), 2]))
    return face, Performance.of(int(clip["shown_v"]), bool(clip["emphatic_v"]), rng), rng


def render_frames(
    clip: pd.Series | dict,
    times: Iterable[float],
    *,
    size: int = FRAME,
    spoken: float = math.inf,
) -> np.ndarray:
    """Frames of one planned clip at times in seconds: ``(N, size, size, 3)`` uint8, RGB.

    After ``spoken`` seconds lips are still.
    """
    face, act, rng = _cast(clip)
    room, grain = Room(rng, size), Grain(act.noise, rng, size)
    return np.stack(
        [render_frame(face, act, room, grain, float(t), rng, talks=t < spoken) for t in times]
    )


def head_poses(clip: pd.Series | dict, times: Iterable[float]) -> list[Pose]:
    """Where the head is in each of those frames."""
    face, act, _ = _cast(clip)
    return [head_pose(face, act, float(t)) for t in times]


def write_mp4(path: Path, frames: np.ndarray, audio: np.ndarray) -> None:
    """Write an mp4; one encoder thread, so that the same input gives the same bytes."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.time_base = Fraction(1, FPS)
        video.codec_context.thread_count = 1
        video.options = {"crf": "28", "preset": "ultrafast", "tune": "fastdecode"}
        sound = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        sound.bit_rate, sound.options = 64_000, {"aac_coder": "fast"}
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i
            container.mux(video.encode(picture))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        samples.sample_rate = SAMPLING_RATE
        samples.pts = 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode())


def clip_paths(clip: dict) -> tuple[str, str]:
    """Where a corpus keeps a clip's picture and sound, relative to its root."""
    video, number = clip["video_id"], clip["clip_id"]
    if clip["corpus"] == Corpus.CMU_MOSI:
        return (
            f"Raw/Video/Segmented/{video}_{number}.mp4",
            f"Raw/Audio/WAV_16000/Segmented/{video}_{number}.wav",
        )
    path = f"ch-simsv2s/Raw/{video}/{number}.mp4"
    return path, path


def write_clip(root: Path, clip: dict, film: Film = Film()) -> None:
    """Write the files of one clip; each appears under its name only when it is whole."""
    targets = dict.fromkeys(clip_paths(clip))
    if all((root / t).exists() for t in targets):
        return
    said = render_audio(clip)
    audio = _room_after(said, clip, film)
    n_frames = max(2, int(len(audio) / SAMPLING_RATE * FPS))
    spoken = len(said) / SAMPLING_RATE
    frames = render_frames(clip, np.arange(n_frames) / FPS, size=film.size, spoken=spoken)
    for target in targets:
        path = root / target
        with whole(path) as place:
            if path.suffix == ".wav":
                soundfile.write(place, audio, SAMPLING_RATE, format="WAV", subtype="PCM_16")
            else:
                write_mp4(place, frames, audio)


def _write_sims_tables(root: Path, plan: pd.DataFrame) -> None:
    meta = plan[["video_id", "clip_id", "text"]].assign(
        label=plan["score_gt"],
        label_T=plan["score_t"],
        label_A=plan["score_a"],
        label_V=plan["score_v"],
        annotation=plan["label_gt"].map(dict(enumerate(CLASS_NAMES))),
        mode=np.where(np.arange(len(plan)) % 10 < 7, "train", "test"),
    )
    (root / "ch-simsv2s").mkdir(parents=True, exist_ok=True)
    meta.to_csv(root / "ch-simsv2s" / "meta.csv", index=False, encoding="utf-8-sig")


def _write_mosi_tables(root: Path, plan: pd.DataFrame) -> None:
    root.mkdir(parents=True, exist_ok=True)
    start = plan.groupby("video_id").cumcount() * 3.0
    pd.DataFrame(
        {
            "start": start,
            "end": start + 3.0,
            "video_id": plan["video_id"],
            "segment": plan["clip_id"],
            "label": (plan["score_gt"] * 3).round(4),
        }
    ).to_csv(root / "OpinionLevelSentiment.csv", index=False, header=False)
    transcripts = root / "Raw" / "Transcript" / "Segmented"
    transcripts.mkdir(parents=True, exist_ok=True)
    for video, clips in plan.groupby("video_id"):
        lines = [f"{c}_DELIM_{t}\n" for c, t in zip(clips["clip_id"], clips["text"], strict=True)]
        (transcripts / f"{video}.annotprocessed").write_text("".join(lines), encoding="utf-8")


_TABLES = {Corpus.CH_SIMS: _write_sims_tables, Corpus.CMU_MOSI: _write_mosi_tables}


def sources_digest() -> str:
    """Digest of this package's code, for keys of what it renders."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def fingerprint(corpus: Corpus, settings: SurrogateSettings) -> str:
    """Digest of all that decides a surrogate corpus: settings, label counts and code."""
    text = json.dumps([corpus.value, asdict(settings), sources_digest()], sort_keys=True)
    return hashlib.sha256(text.encode() + COUNTS_FILE.read_bytes()).hexdigest()[:16]


def write_clips(
    root: Path,
    clips: list[dict],
    what: str,
    processes: int | None = None,
    progress: bool = True,
    film: Film = Film(),
) -> None:
    """Write clips in parallel; those that are there already are kept."""
    # Spawned, not forked: a fork of a process that runs threads (torch, Jupyter) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        done = pool.map(partial(write_clip, root, film=film), clips, chunksize=8)
        for _ in tqdm(done, total=len(clips), desc=f"rendering {what}", disable=not progress):
            pass


def render_corpus(
    root: Path | str,
    corpus: Corpus,
    settings: SurrogateSettings | None = None,
    *,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Render a surrogate corpus into ``root`` in the real corpus's layout and return its plan.

    ``limit`` renders only so many clips, spread over all speakers; the label files always list all
    of them. Clips that are already there are kept, so a killed run goes on where it stopped, and
    those beyond the limit are removed, so that what is there depends on the settings alone. When
    the folder holds a surrogate of other settings it is made anew; a folder that holds anything
    else is refused with ``ValueError``.
    """
    root, corpus, settings = Path(root), Corpus(corpus), settings or SurrogateSettings()
    marker, key = root / _MARKER, fingerprint(corpus, settings)
    if root.exists() and any(root.iterdir()):
        if not marker.exists():
            raise ValueError(
                f"{root} is not empty and was not rendered by this project; name another folder "
                "for the surrogate corpus, or set render: false to use it as a real corpus"
            )
        if json.loads(marker.read_text())["fingerprint"] != key:
            shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    done = json.loads(marker.read_text())["clips"] if marker.exists() else 0
    plan = corpus_plan(corpus, settings)
    order = plan.sample(frac=1, random_state=settings.seed)
    clips = order.head(limit or len(plan))
    if done != len(clips):
        marker.write_text(json.dumps({"fingerprint": key, "clips": 0}))
        for clip in order.iloc[len(clips) :].to_dict("records"):
            for target in clip_paths(clip):
                (root / target).unlink(missing_ok=True)
        write_clips(root, clips.to_dict("records"), corpus, processes, progress, settings.film)
        _TABLES[corpus](root, plan)
        marker.write_text(json.dumps({"fingerprint": key, "clips": len(clips)}))
    return plan
