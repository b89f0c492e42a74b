"""How large a clip is, as the headers and packets of its files tell: nothing is decoded."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from av.audio.stream import AudioStream
from av.packet import Packet

from emomm_study.media.audio import AudioSettings
from emomm_study.media.container import chosen_stream, opened, reading, require_file, require_stream
from emomm_study.media.sound_file import SOUND_FORMATS, says_its_length, sound_file


@dataclass(frozen=True)
class Film:
    """The film in a file.

    Attributes
    ----------
    height, width
        Of a picture, as it is stored.
    pictures
        How many there are; 0 where the header does not say.
    seconds
        How long they are shown.
    sound
        Whether the file has a sound track, too.
    """

    height: int
    width: int
    pictures: int
    seconds: float
    sound: bool


@dataclass(frozen=True)
class Sound:
    """The sound in a file: samples of one channel, and samples a second."""

    samples: int
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples / self.rate

    def heard(self, settings: AudioSettings) -> int:
        """Samples that :func:`emomm_study.media.audio.read_audio` gives of it."""
        kept = self.samples
        if settings.max_seconds is not None:
            kept = min(kept, int(settings.max_seconds * self.rate))
        if self.rate == settings.sampling_rate:
            return kept
        # As librosa rounds it.
        return math.ceil(kept * (float(settings.sampling_rate) / self.rate))


def film_header(path: str | Path) -> Film:
    """Of a clip's film; raises ``MediaError`` as :func:`emomm_study.media.video.read_video` does."""
    path = Path(path)
    require_file(path)
    with reading(path, "its header cannot be read"), opened(path) as container:
        stream = require_stream(container, path, "video")
        codec, tick = stream.codec_context, stream.time_base
        seconds = float(stream.duration * tick) if stream.duration and tick else 0.0
        return Film(
            codec.height,
            codec.width,
            stream.frames,
            seconds or (container.duration or 0) / 1e6,
            chosen_stream(container, "audio") is not None,
        )


def sound_header(path: str | Path) -> Sound:
    """Of a clip's sound; raises ``MediaError`` as :func:`emomm_study.media.audio.read_audio` does.

    Of a sound track packets are counted, since the header has its length before the last packet is
    filled up. A file whose channels or rate change on the way counts as if it began anew.
    """
    path = Path(path)
    require_file(path)
    with reading(path, "its header cannot be read"):
        if path.suffix.lower() in SOUND_FORMATS:
            with sound_file(path) as sound:
                if says_its_length(sound):
                    return Sound(sound.frames, sound.samplerate)
        with opened(path) as container:
            stream = require_stream(container, path, "audio")
            return Sound(
                _samples(container.demux(stream), stream), stream.codec_context.sample_rate
            )


def _samples(packets: Iterable[Packet], stream: AudioStream) -> int:
    """Samples that a decoder gives of packets: without priming, and what an edit list hides."""
    size, rate, skipped, total = stream.codec_context.frame_size, stream.codec_context.rate, 0, 0
    for packet in packets:
        if not packet.size:
            continue
        own, end = size or round((packet.duration or 0) * packet.time_base * rate), 0
        for side in packet.iter_sidedata():
            if side.data_type == "skip_samples":
                skipped, end = struct.unpack("<II", bytes(side)[:8])
        if packet.is_discard:
            skipped = max(0, skipped - own)
            continue
        begin = min(skipped, own)
        skipped -= begin
        total += max(0, own - begin - end)
    return total
