"""A clip's files, read for a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import torch

from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.plan import Item
from emomm_study.failures import Failure, one_line
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import suppress
from emomm_study.media.video import MediaError, VideoSettings, read_video
from emomm_study.systems.interface import Encoded, Media
from emomm_study.systems.prompts import TranscriptError

REFUSALS = (MediaError, TranscriptError)
"""What is said of a clip in words of our own; any other exception is named with its type."""


@dataclass(frozen=True)
class PersonOnly:
    """Video of which only the person is seen (C.2).

    Attributes
    ----------
    found_by
        Fingerprint of how regions are found (:class:`RegionStore`).
    pixels
        Whether pixels outside the region are blotted out.
    tokens
        Least share of a video token's area inside the region for it to be kept; None keeps all.
    inverted
        A control: all but the person, whose pixels are blotted out or whose tokens are dropped.
    """

    found_by: str
    pixels: bool = True
    tokens: float | None = None
    inverted: bool = False


@dataclass(frozen=True)
class OtherVideo:
    """Video of another clip of the same corpus, drawn by ``seed``: what a video shows is wrong."""

    seed: int = 0


@dataclass(frozen=True)
class MediaSettings:
    """How a clip's files are read, and which.

    ``person`` needs a store of regions beside it; ``other`` is for an experiment to carry out.
    """

    video: VideoSettings = field(default_factory=VideoSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    person: PersonOnly | None = None
    other: OtherVideo | None = None

    def settings(self) -> dict:
        """All that can change what is read, for fingerprints."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Read:
    """What could be read of the modalities that are needed, and why the others could not.

    ``encoded`` stands in for media where a store had the clip.
    """

    item: Item
    media: Media
    failures: dict[str, Failure]
    encoded: Encoded | None = None


@dataclass(frozen=True)
class Reader:
    """Reads clips for a model.

    Attributes
    ----------
    encodings
        Encoded clips, which are not read again.
    regions
        Where people are in the videos, for settings with ``person``.
    """

    settings: MediaSettings
    device: torch.device
    encodings: EncodingStore | None = None
    regions: RegionStore | None = None

    def __post_init__(self) -> None:
        wanted = self.settings.person
        if wanted and (self.regions is None or self.regions.fingerprint != wanted.found_by):
            raise ValueError("media settings with a person need the store of regions they name")

    def __call__(self, item: Item) -> Read:
        key = (item.sample_id, item.version)
        if self.encodings is not None and key in self.encodings:
            return Read(item, Media(None, None), {}, self.encodings.read(key, self.device))
        needed = "".join(item.coalitions)
        seen, sound, failures = Media(None, None), None, {}
        if "V" in needed:
            try:
                seen = self._video(item)
            except BaseException as error:
                failures["V"] = failure_of(error, "reading the video", item)
        if "A" in needed:
            try:
                sound = read_audio(item.audio, self.settings.audio)
            except BaseException as error:
                failures["A"] = failure_of(error, "reading the sound", item)
        return Read(item, replace(seen, sound=sound), failures)

    def _video(self, item: Item) -> Media:
        video, person = read_video(item.video, self.settings.video), self.settings.person
        if person is None:
            return Media(video, None)
        region = self.regions.read(item.video).mask
        if person.inverted:
            region = ~region
        if person.pixels:
            video = replace(video, frames=suppress(video.frames, region))
        if person.tokens is None:
            return Media(video, None)
        return Media(video, None, region, person.tokens)


def failure_of(error: BaseException, stage: str, item: Item) -> Failure:
    """A clip's failure; an exception that is the program's is raised again.

    Where the video is another clip's, what fails of it names both.
    """
    failure = Failure.of(error, stage, item.sample_id, REFUSALS)
    if item.video_of and stage.endswith("video"):
        shown = f"{item.sample_id} is shown the video of {item.video_of}: {failure.reason}"
        failure = replace(failure, reason=one_line(shown))
    return failure
