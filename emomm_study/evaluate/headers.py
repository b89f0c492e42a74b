"""What a run will ask, as far as the headers of its files tell: nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.plan import Plan
from emomm_study.media.container import opened
from emomm_study.systems import prompts
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


def questions(plan: Plan, media: MediaSettings) -> Iterator[Asked]:
    """What every question of a plan will hold; nothing of a file whose header cannot be read."""
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
            [_, user] = prompts.messages(coalition, Corpus(item.corpus), item.text)
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
