"""What a clip looks and sounds like, and nothing that a coalition leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import pandas as pd

from emomm_study.media.audio import AudioSettings
from emomm_study.media.playback import FILM, SOUND, data_url, film, has_sound, sound
from emomm_study.paths import resolve_media
from emomm_study.report.style import COLOURS

_WIDE = 228


def player(clip: pd.Series, roots: Mapping[str, Path], coalition: str, audio: AudioSettings) -> str:
    """HTML that plays a clip's modalities of a coalition, the files held in it as data URLs.

    T is the transcript. A alone is sound as the model hears it; V alone a film without a sound
    track. Raises ``MediaError`` for a file that cannot be read.
    """
    root = roots[clip["corpus"]]
    seen, heard = (resolve_media(root, clip[k]) for k in ("video_path", "audio_path"))
    parts = []
    if "V" in coalition:
        data = film(seen, with_sound="A" in coalition)
        parts.append(
            f'<video controls loop playsinline width="{_WIDE}" '
            f'style="display:block" src="{data_url(FILM, data)}"></video>'
        )
    # A film without a track of its own would leave the sound unheard.
    if "A" in coalition and ("V" not in coalition or not has_sound(seen)):
        parts.append(
            f'<audio controls style="display:block;width:{_WIDE}px" '
            f'src="{data_url(SOUND, sound(heard, audio))}"></audio>'
        )
    if "T" in coalition:
        said = escape(str(clip["text"]))
        parts.append(
            f'<div lang="{escape(str(clip["language"]))}" style="margin-top:4px;'
            f'color:{COLOURS["t"]};font-size:15px;line-height:1.3">“{said}”</div>'
        )
    return "".join(parts) or "<i>nothing: the question alone</i>"
