"""Tiny benchmarks of others on disk, in the layouts that their makers have."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.lib import format as npy
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.corpora.imported.mer_unibench import DATASETS


def films(folder: Path, names: Sequence[str], ending: str = ".mp4") -> None:
    """One film with sound under many names."""
    folder.mkdir(parents=True, exist_ok=True)
    first = write_mp4(folder.parent / "one.mp4", frames=grey_frames(size=56), sound=tone(0.5))
    for name in names:
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.symlink_to(first)


def sounds(folder: Path, names: Sequence[str]) -> None:
    """One second of sound under many names."""
    for name in names:
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(), 16_000)


def npz_of_pickles(path: Path, entries: Mapping[str, bytes]) -> Path:
    """An npz whose entries are pickles as they stand, behind the header of an array of one object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, pickled in entries.items():
            header = io.BytesIO()
            told = {"descr": "|O", "fortran_order": False, "shape": ()}
            npy.write_array_header_1_0(header, told)
            archive.writestr(f"{name}.npy", header.getvalue() + pickled)
    return path


def by_old_names(found: Any) -> bytes:
    """A pickled array of one object as numpy 1 wrote it, under the names of its modules then."""
    text = pickle.dumps(np.array(found, dtype=object), protocol=3)
    assert b"numpy._core" in text
    return text.replace(b"numpy._core", b"numpy.core")


def mer_unibench(
    root: Path,
    dataset: str,
    entries: Mapping[str, Mapping[str, Any]],
    *,
    texts: Mapping[str, str] | None = None,
    old: bool = False,
    ending: str = ".mp4",
    with_sounds: bool = True,
) -> Path:
    """A set of MER-UniBench; of every clip a film, a sound and a transcript. Returns its folder."""
    own = DATASETS[dataset]
    folder = root / own.folder
    folder.mkdir(parents=True)
    if old:
        npz_of_pickles(folder / own.label_file, {k: by_old_names(v) for k, v in entries.items()})
    else:
        np.savez_compressed(folder / own.label_file, **entries)
    names = [name for entry in entries.values() for name in entry if isinstance(name, str)]
    said = {name: f"remark {i}" for i, name in enumerate(names)} if texts is None else texts
    table = pd.DataFrame({"name": said.keys(), "chinese": said.values(), "english": said.values()})
    table.to_csv(folder / own.transcription, index=False)
    films(folder / own.video, names, ending)
    if with_sounds:
        sounds(folder / own.audio, names)
    return folder


def missrag(root: Path, rows: Sequence[tuple], apart: bool = True) -> Path:
    """CMU-MOSI as MissRAG lays it out; rows of video, clip, text, label, annotation, mode."""
    columns = ["video_id", "clip_id", "text", "label", "annotation", "mode"]
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(root / "labels.csv", index=False)
    names = [f"{video}/{clip}" for video, clip, *_ in rows]
    films(root / "Raw", names)
    if apart:
        sounds(root / "Raw_audio", names)
    return root
