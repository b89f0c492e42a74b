"""A clip's film and sound as bytes that a browser plays."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import av
import soundfile

from emomm_study.media.audio import AudioSettings, read_audio, read_sound
from emomm_study.media.container import (
    AGAIN,
    MediaError,
    opened,
    reading,
    require_file,
    require_stream,
)

FILM, SOUND = "video/mp4", "audio/wav"


def film(path: str | Path, *, with_sound: bool) -> bytes:
    """An mp4's bytes, or those of its pictures alone; the pictures themselves are not touched.

    Without sound the audio stream is gone, not silenced: nobody can turn it up. Raises
    ``MediaError`` for a file that is missing, empty, damaged, or without a film.
    """
    path = Path(path)
    require_file(path)
    if with_sound:
        return path.read_bytes()
    buffer = io.BytesIO()
    with (
        reading(path, "its film cannot be read"),
        opened(path) as source,
        av.open(buffer, "w", format="mp4") as target,
    ):
        stream = require_stream(source, path, "video")
        copied = target.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            # The last one marks the end and holds nothing.
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    if not (written := buffer.getvalue()):
        raise MediaError(f"{path}: its video stream holds no picture; {AGAIN}")
    return written


def sound(path: str | Path, settings: AudioSettings | None = None) -> bytes:
    """Sound of a wav or an mp4 as the bytes of a wav, without any picture.

    As the file has it, or as a model with ``settings`` hears it. Raises as ``read_audio``.
    """
    if settings is None:
        samples, rate = read_sound(path)
    else:
        samples, rate = read_audio(path, settings), settings.sampling_rate
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def has_sound(path: str | Path) -> bool:
    """Whether a film has a sound track of its own; raises ``MediaError`` as :func:`film`."""
    path = Path(path)
    require_file(path)
    with reading(path, "its film cannot be read"), opened(path) as container:
        return bool(container.streams.audio)


def data_url(kind: str, data: bytes) -> str:
    """Bytes of a media type, :data:`FILM` or :data:`SOUND`, as a URL that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
