"""Whole runs of a profile in a copy of the project, with nothing that was made before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from emomm_study.media.models import fetch_models
from emomm_study.paths import ROOT

PARTS = ("emomm_lib", "emomm_study", "notebooks", "data/paper", "data/annotations", "data/organism")


def project(folder: Path) -> Path:
    """A copy of the sources and of what is published, with a cache that has MediaPipe's models."""
    ignore = shutil.ignore_patterns("__pycache__", "*.ipynb", "values")
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    (folder / "cache" / "mediapipe").mkdir(parents=True)
    for model in fetch_models():
        shutil.copy(model, folder / "cache" / "mediapipe")
    return folder


def run(root: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``run_all.sh`` inside an environment; no variable of this project's but those given."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("EMOMM_")}
    given = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "emomm_study.run.pipeline", *options],
        cwd=root, env=ours | given, capture_output=True, text=True, check=False,
    )  # fmt: skip
