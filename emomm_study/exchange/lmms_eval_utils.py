"""What lmms-eval calls of EmoMM's tasks: what a model is shown, and what its replies score.

`emomm export lmms-eval` copies this file as ``utils.py`` beside the tasks, with ``replies.py``, which
reads replies, and ``scores.json``, the scores that may stand behind each letter; here, without them, it
cannot be imported. Scoring needs the standard library alone; media are prepared with PyAV and numpy,
which lmms-eval brings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import wave
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOTS = {"ch_sims_v2": "EMOMM_CH_SIMS", "cmu_mosi": "EMOMM_CMU_MOSI"}
"""Environment variable that holds the folder of each corpus."""
BOTH = "EMOMM_SIMPLE_TAKES_BOTH"
"""Set to 1 for a simple model that is known to take a film and a sound at once."""
RATE = 16_000
SOUND_FILES = {".wav", ".flac", ".ogg", ".mp3"}
NEUTRAL, LETTERS = 2, "ABCDE"

Doc = dict[str, Any]


class MediaError(ValueError):
    """A clip that cannot be shown; one sentence that says which, and what to do."""


def _beside(name: str) -> ModuleType:
    """A module of this folder, imported once."""
    path = FOLDER / f"{name}.py"
    known = f"emomm_{name}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported; export the tasks again")
        module = importlib.util.module_from_spec(spec)
        # Data classes look their own module up by its name.
        sys.modules[known] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[known]
            raise
    return sys.modules[known]


# What a model is shown


def media_path(doc: Doc, column: str) -> Path:
    """A clip's file under its corpus's folder; raises :class:`MediaError` where there is none."""
    variable, relative = ROOTS[doc["corpus"]], doc[column]
    root = os.environ.get(variable)
    if not root:
        raise MediaError(
            f"{variable} is not set; set it to the folder of {doc['corpus']} that the benchmark was "
            f"built from, in which {relative} lies"
        )
    windows = PureWindowsPath(relative)
    if not relative or "\\" in relative or windows.anchor or ".." in windows.parts:
        raise MediaError(
            f"{doc['sample_id']}: {column} {relative!r} must be relative, with forward slashes and "
            "without '..'; export the tasks again"
        )
    path = Path(root) / PurePosixPath(relative)
    if not path.is_file():
        raise MediaError(
            f"{doc['sample_id']}: {path} does not exist; check {variable}={root}, or copy the clip "
            "again from the dataset"
        )
    return path


def _kept(path: Path, kind: str, suffix: str, make: Callable[[Path, Path], None]) -> Path:
    """What is made of a file, kept in the cache under the file's name, time and size."""
    cache = os.environ.get("EMOMM_CACHE") or os.path.join(os.path.expanduser("~"), ".cache/emomm")
    state = path.stat()
    key = f"{path.resolve()}\0{state.st_mtime_ns}\0{state.st_size}\0{kind}"
    name = f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:24]}{suffix}"
    made = Path(cache) / "lmms-eval" / name
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_name(f".{os.getpid()}-{name}")
        try:
            make(path, partial)
            os.replace(partial, made)
        except Exception as error:
            raise MediaError(f"{path}: its {kind} cannot be taken out ({error})") from error
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
    return made


def _silence(film: Path, silent: Path) -> None:
    import av

    with av.open(str(film)) as source, av.open(str(silent), "w", format="mp4") as target:
        picture = source.streams.video[0]
        copy = target.add_stream_from_template(picture)
        for packet in source.demux(picture):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)


def silent_film(doc: Doc) -> Path:
    """The clip's film without a sound track, so that a model which opens it cannot hear it."""
    import av

    path = media_path(doc, "video_path")
    try:
        with av.open(str(path)) as film:
            heard, seen = bool(film.streams.audio), bool(film.streams.video)
    except Exception as error:
        raise MediaError(f"{path}: it cannot be opened ({error}); copy the clip again") from error
    if not seen:
        raise MediaError(f"{path}: it has no picture; copy the clip again from the dataset")
    return _kept(path, "picture", ".mp4", _silence) if heard else path


def samples(path: Path) -> Any:
    """Sound as mono float32 ``(samples,)`` in -1..1 at 16 kHz, also of a film's own track."""
    import av
    import numpy as np

    parts = []
    with av.open(str(path)) as source:
        if not source.streams.audio:
            raise MediaError(f"{path}: it has no sound track; copy the clip again")
        resample = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in source.decode(source.streams.audio[0]):
            parts += [part.to_ndarray()[0] for part in resample.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resample.resample(None)]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def _write_sound(path: Path, target: Path) -> None:
    import numpy as np

    sound = samples(path)
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).round().astype("<i2").tobytes())


def sound_file(doc: Doc) -> Path:
    """The clip's sound as a file that every model's reader opens: a film's track as a wav."""
    path = media_path(doc, "audio_path")
    if path.suffix.lower() in SOUND_FILES:
        return path
    return _kept(path, "sound", ".wav", _write_sound)


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: object = None) -> list[dict[str, Any]]:
    """The prompt of Appendix E for a chat model: video, audio, then text; each only where shown."""
    content: list[dict[str, Any]] = []
    if "V" in doc["coalition"]:
        content.append({"type": "video", "url": str(silent_film(doc))})
    if "A" in doc["coalition"]:
        content.append({"type": "audio", "url": str(sound_file(doc))})
    content.append({"type": "text", "text": doc["prompt"]})
    return [
        {"role": "system", "content": [{"type": "text", "text": doc["system"]}]},
        {"role": "user", "content": content},
    ]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: object = None) -> str:
    """The same as one text for a simple model, whose wrapper has no place for a system prompt."""
    return f"{doc['system']}\n\n{doc['prompt']}"


def doc_to_visual(doc: Doc, lmms_eval_specific_kwargs: object = None) -> list[Any]:
    """Film and sound for a simple model.

    Most wrappers of simple models take the first of several media and drop the rest, which nobody
    would notice in the scores: for film and sound at once the user says that this one does not.
    """
    film, sound = "V" in doc["coalition"], "A" in doc["coalition"]
    if film and sound and os.environ.get(BOTH) != "1":
        raise MediaError(
            f"{doc['sample_id']} {doc['coalition']} shows film and sound, of which most simple models "
            f"of lmms-eval drop one; take a chat model that has audio, or set {BOTH}=1 where this "
            "model's wrapper passes both on"
        )
    shown: list[Any] = [str(silent_film(doc))] if film else []
    if sound:
        heard = samples(media_path(doc, "audio_path"))
        shown.append({"array": heard, "sampling_rate": RATE})
    return shown


def doc_to_target(doc: Doc) -> str:
    """The letter of the clip's class."""
    return LETTERS[doc["label_gt"]]


# What replies score


def process_results(doc: Doc, results: list[str | None]) -> dict[str, Any]:
    """What an instance adds to each metric of its task; None where it adds nothing.

    lmms-eval's wrappers write an empty reply where they fail. Such a one has ``failed``; one that
    is not plainly an answer is ``unparseable``. Neither is right or wrong: both are counted.
    """
    text = (results[0] or "").strip() if results else ""
    reply = _read(text, SCORES[doc["corpus"]]) if text else None
    label = reply.label if reply else None
    score = reply.score if reply else None
    truth = doc["label_gt"]
    known = label is not None
    found: dict[str, Any] = {
        "acc5": int(label == truth) if known else None,
        "acc2": int((label >= NEUTRAL) == (truth >= NEUTRAL)) if known else None,
        "f1": [truth, label] if known else None,
        "mae": abs(doc["score_gt"] - score) if known and score is not None else None,
    }
    mine = {f"{name}_{doc['coalition']}": value for name, value in found.items()}
    kinds = {"align": found, "conflict": found, "missing": found | mine, "single": mine}
    outcome = reply.outcome if reply else "failed"
    return {
        **kinds[doc["task"]],
        "answered": {
            "sample_id": doc["sample_id"],
            "coalition": doc["coalition"],
            "outcome": outcome,
            "label": label,
        },
        "failed": int(outcome == "failed"),
        "unparseable": int(outcome == "unparseable"),
    }


def mean(values: list[float | None]) -> float | None:
    """Of the instances that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def macro_f1(values: list[list[int] | None]) -> float | None:
    """Unweighted mean of the F1 of each class that occurs in truth or answers; None without any."""
    pairs = [(truth, answer) for truth, answer in (v for v in values if v is not None)]
    each = []
    for label in {label for pair in pairs for label in pair}:
        hits = pairs.count((label, label))
        each.append(2 * hits / sum((pair[0] == label) + (pair[1] == label) for pair in pairs))
    return sum(each) / len(each) if each else None


def share_answered(values: list[dict[str, Any]]) -> float:
    """Share in 0..1 of the instances whose reply is an answer: those that are scored."""
    return sum(value["label"] is not None for value in values) / len(values)


def total(values: list[int]) -> int:
    """How many."""
    return sum(values)


_read = _beside("replies").read
SCORES: dict[str, list[list[float]]] = json.loads(
    (FOLDER / "scores.json").read_text(encoding="utf-8")
)
