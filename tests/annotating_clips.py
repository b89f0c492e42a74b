"""Little clips and a campaign over them, for tests of the annotation panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.annotation.campaign import Campaign

TEXTS = {
    "v0/1": "A remark to warm up with.",
    "v1/2": "What a wonderful afternoon.",
    "v1/3": "They met at half past three.",
    "v2/4": "I would not see <b>it</b> again & again.",
}
CALIBRATED = "cmu_mosi/v0/1"


def small_clips(root: Path) -> pd.DataFrame:
    """Four clips in CMU-MOSI's layout, of half a second each; the first is for calibration."""
    rows = []
    for number, (name, text) in enumerate(TEXTS.items()):
        video, clip = name.split("/")
        film = f"Raw/Video/Segmented/{video}_{clip}.mp4"
        sound = f"Raw/Audio/WAV_16000/Segmented/{video}_{clip}.wav"
        heard = tone(0.5, hertz=300 + 100 * number)
        frames = grey_frames(12, 64)
        frames[:, :, : 16 * (number + 1)] = np.array([40, 120, 200], np.uint8)
        write_mp4(root / film, frames=frames, fps=24, sound=heard)
        (root / sound).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / sound, heard, 16_000)
        rows.append((f"cmu_mosi/{name}", "en", text, film, sound))
    names = ["sample_id", "language", "text", "video_path", "audio_path"]
    return pd.DataFrame(rows, columns=names)


def small_campaign(path: Path, clips: pd.DataFrame) -> Campaign:
    """Over three of the clips, with a calibration round of the fourth."""
    names = ["sample_id", "label_T", "label_A", "label_V"]
    reference = pd.DataFrame([(CALIBRATED, 0, 1, -1)], columns=names)
    ids = clips["sample_id"][clips["sample_id"] != CALIBRATED]
    return Campaign.create(path, ids, calibration=reference)
