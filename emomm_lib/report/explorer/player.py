"""What a clip looks and sounds like, and nothing that a coalition leaves out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile

from emomm_lib.benchmark import resolve_media
from emomm_lib.media.audio import AudioSettings, read_audio
from emomm_lib.media.video import MediaError, require_file
from emomm_lib.report.style import COLOURS

_WIDE = 228


def player(clip: pd.Series, roots: Mapping[str, Path], coalition: str, audio: AudioSettings) -> str:
    """HTML that plays a clip's modalities of a coalition, the files held in it as data URLs.

    T is the transcript. A alone is sound as the model hears it; V alone a film without a sound
    track. Raises ``MediaError`` for a file that cannot be read.
    """
    root = roots[clip["corpus"]]
    film, sound = (resolve_media(root, clip[k]) for k in ("video_path", "audio_path"))
    parts = []
    if "V" in coalition:
        data = _film(film, with_sound="A" in coalition)
        parts.append(
            f'<video controls loop playsinline width="{_WIDE}" '
            f'style="display:block" src="{_url("video/mp4", data)}"></video>'
        )
    # A film without a track of its own would leave the sound unheard.
    if "A" in coalition and ("V" not in coalition or not _has_sound(film)):
        data = _wav(read_audio(sound, audio), audio.sampling_rate)
        parts.append(
            f'<audio controls style="display:block;width:{_WIDE}px" '
            f'src="{_url("audio/wav", data)}"></audio>'
        )
    if "T" in coalition:
        said = escape(str(clip["text"]))
        parts.append(
            f'<div lang="{escape(str(clip["language"]))}" style="margin-top:4px;'
            f'color:{COLOURS["t"]};font-size:15px;line-height:1.3">“{said}”</div>'
        )
    return "".join(parts) or "<i>nothing: the question alone</i>"


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _wav(samples: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _has_sound(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


def _film(path: Path, *, with_sound: bool) -> bytes:
    """An mp4's bytes, without its sound track unless it is wanted; pictures are not touched."""
    require_file(path)
    if with_sound:
        return path.read_bytes()
    buffer = io.BytesIO()
    try:
        with av.open(str(path)) as source, av.open(buffer, "w", format="mp4") as target:
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                # The last one marks the end and holds nothing.
                if packet.dts is not None:
                    packet.stream = copied
                    target.mux(packet)
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(
            f"{path}: its film cannot be read ({error}); copy the clip again"
        ) from None
    return buffer.getvalue()
