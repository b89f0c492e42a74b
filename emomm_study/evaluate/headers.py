"""What a run will ask, as far as the headers of its files tell: nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch

from emomm_lib.labels import COALITIONS, LabelSet
from emomm_study.corpora.clips import is_blank
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.plan import Plan
from emomm_study.media.container import MediaError, opened
from emomm_study.media.header import Film, Sound, film_header, sound_header
from emomm_study.media.video import VideoSettings
from emomm_study.paths import resolve_media
from emomm_study.systems import prompts
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Encoded, Query
from emomm_study.systems.paid import Asked, Bill


@dataclass(frozen=True)
class Check:
    """What a run would do, without doing it.

    Attributes
    ----------
    known, questions
        Answers that are stored, and questions that would be asked.
    bill
        What these would cost, of a system that is paid.
    refused
        Why the run would be refused, where it would.
    """

    known: int
    questions: int
    bill: Bill | None = None
    refused: str | None = None


def questions(plan: Plan, media: MediaSettings, labels: LabelSet | None = None) -> Iterator[Asked]:
    """What every question of a plan will hold; nothing of a file whose header cannot be read.

    ``labels`` are those that are asked for in place of EmoMM's.
    """
    for item in (item for batch in plan.batches for item in batch):
        needed = "".join(item.coalitions)
        sound = _seconds(item.audio) if "A" in needed else 0.0
        if media.audio.max_seconds is not None:
            sound = min(sound, media.audio.max_seconds)
        frames = media.video.num_frames
        if frames is None:
            seconds = _seconds(item.video) if "V" in needed else 0.0
            frames = max(1, min(round(seconds * media.video.fps), media.video.max_frames))
        for coalition in item.coalitions:
            asked = Corpus(item.corpus) if labels is None else labels
            [_, user] = prompts.messages(coalition, asked, item.text)
            yield Asked(
                user["content"][-1]["text"],
                sound if "A" in coalition else 0.0,
                frames if "V" in coalition else 0,
            )


def _seconds(path: Path) -> float:
    try:
        with opened(path) as container:
            return (container.duration or 0) / av.time_base
    except (OSError, ValueError, av.FFmpegError):
        return 0.0


@dataclass(frozen=True)
class ClipHeaders:
    """A clip as its files' headers have it; None in place of one that cannot be read, and why."""

    sample_id: str
    film: Film | None
    sound: Sound | None
    apart: bool
    problems: tuple[str, ...] = ()

    def frames(self, settings: VideoSettings) -> tuple[int, int, int]:
        """(number, height, width) of the frames that are sampled."""
        count = settings.num_frames
        if count is None:
            wanted = round(self.film.seconds * settings.fps)
            count = max(1, min(wanted, settings.max_frames, self.film.pictures or wanted))
        return count, self.film.height, self.film.width


def read_headers(
    clips: pd.DataFrame, roots: Mapping[str, Path], workers: int = 8
) -> list[ClipHeaders]:
    """Of every clip of a manifest, in its order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda clip: _headers(clip, roots), clips.to_dict("records")))


def _headers(clip: Mapping[str, str], roots: Mapping[str, Path]) -> ClipHeaders:
    root, problems = Path(roots[clip["corpus"]]), []
    found: list[Film | Sound | None] = []
    for read, column in ((film_header, "video_path"), (sound_header, "audio_path")):
        try:
            found.append(read(resolve_media(root, clip[column])))
        except MediaError as error:
            found.append(None)
            problems.append(str(error))
    apart = clip["audio_path"] != clip["video_path"]
    return ClipHeaders(clip["sample_id"], *found, apart, tuple(problems))


def blank_clips(
    model: Backbone, headers: Sequence[ClipHeaders], media: MediaSettings
) -> dict[str, Encoded]:
    """Clips as the model would encode them, in shapes alone, by ``sample_id``.

    Those without a readable film or sound are left out.
    """
    films: dict[tuple[int, int, int], Encoded] = {}
    made = {}
    for clip in headers:
        if clip.film is None or clip.sound is None:
            continue
        frames = clip.frames(media.video)
        if frames not in films:
            films[frames] = model.blank(frames, None)
        sound = model.blank(None, clip.sound.heard(media.audio))
        made[clip.sample_id] = replace(films[frames], audio=sound.audio)
    return made


def count_tokens(
    model: Backbone, clips: pd.DataFrame, blank: Mapping[str, Encoded]
) -> pd.DataFrame:
    """Tokens of every clip under every coalition, as ``Answers.counts`` will have them.

    Columns ``sample_id, coalition, T, A, V, prompt``; clips that ``blank`` lacks, or whose
    transcript is blank, have no rows with what cannot be read.
    """
    rows = [clip for clip in clips.to_dict("records") if clip["sample_id"] in blank]
    empty = Encoded(torch.empty(0, 0), None, None, torch.empty(0, 0))
    fixed: dict[tuple[str, str], np.ndarray] = {}
    frames = []
    for coalition in COALITIONS:
        own = [r for r in rows if "T" not in coalition or not is_blank(str(r["text"] or ""))]
        if "T" in coalition:
            asked = [Query(empty, coalition, Corpus(r["corpus"]), r["text"]) for r in own]
            counts = model.counted(asked)
        else:
            for corpus in {r["corpus"] for r in own}:
                [fixed[coalition, corpus]] = model.counted(
                    [Query(empty, coalition, Corpus(corpus), "")]
                )
            counts = np.array([fixed[coalition, r["corpus"]] for r in own]).reshape(-1, 4)
        frame = pd.DataFrame(counts, columns=["T", "A", "V", "prompt"])
        for modality in "AV":
            if modality in coalition:
                of = [blank[r["sample_id"]] for r in own]
                frame[modality] = [len(c.video if modality == "V" else c.audio) for c in of]
        frame["prompt"] += frame["A"] + frame["V"]
        frame.insert(0, "coalition", coalition)
        frame.insert(0, "sample_id", [r["sample_id"] for r in own])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
