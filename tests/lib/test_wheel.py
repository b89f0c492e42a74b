"""The small library as a stranger installs it: a wheel in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from emomm_study.paths import ROOT

MODEL = """
import torch
import emomm_lib
from transformers import Qwen3Config, Qwen3ForCausalLM

torch.manual_seed(0)
layers = 3
model = Qwen3ForCausalLM(Qwen3Config(
    hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, vocab_size=120)).eval()
tokens = torch.tensor([[5, 91, 91, 92, 92, 92, 7, 8, 9, 3]])
inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
audio_token_id, video_token_id, is_transcript = 91, 92, (tokens > 5) & (tokens < 10)
router = emomm_lib.ConstantGate(torch.tensor([0.9]), torch.tensor([[0.1, 0.2, 0.7]]))
"""


def readme_examples() -> str:
    """The README's examples of ``emomm_lib``, in their order."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)
    return "\n".join(block for block in blocks if "from emomm_lib import" in block)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is packed, since a build leaves files beside its source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("emomm_lib", "emomm_study"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def built(what: str, folder: Path) -> Path:
    """The wheel of a folder or an address, built by the setuptools that is here."""
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, what], check=True)
    [made] = folder.glob("*.whl")
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    """Files of a wheel by name; its list of itself, which is ordered by the build, left out."""
    with zipfile.ZipFile(wheel) as packed:
        return {n: packed.read(n) for n in packed.namelist() if not n.endswith("/RECORD")}


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return built(str(source), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def stranger(wheel, tmp_path_factory) -> Path:
    """An interpreter with the wheel and what it asks for, by the versions of the lock."""
    home = tmp_path_factory.mktemp("stranger")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / "bin" / "python"
    lock = str(ROOT / "requirements.lock")
    install = ["-m", "pip", "install", "--quiet", "--no-compile", "-c", lock, str(wheel)]
    subprocess.run([str(python), *install], check=True, env=apart())
    return python


def apart() -> dict[str, str]:
    """An environment in which a process sees nothing of the project."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def alone(python: Path, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", program]
    return subprocess.run(
        command, cwd=folder, env=apart(), capture_output=True, text=True, check=False
    )


def test_the_wheel_has_both_packages_with_what_they_read_and_no_test(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "emomm_lib/__init__.pyi",
        "emomm_lib/py.typed",
        "emomm_study/exchange/submission.schema.json",
        "emomm_study/exchange/lmms_eval_utils.py",
        "emomm_study/report/explorer/panel.js",
        "emomm_study/report/annotating/panel.css",
    ):
        assert name in names
    tops = {name.partition("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"emomm_lib", "emomm_study"}


def test_the_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    program = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)
    [packed] = tmp_path.glob("*.tar.gz")
    assert contents(built(str(packed), tmp_path / "again")) == contents(wheel)


def test_pip_installs_the_same_wheel_from_a_git_repository(source, wheel, tmp_path):
    repository = tmp_path / "emomm"
    clean = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(source, repository, ignore=clean)
    settings = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*settings, "commit", "-qm", "All"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    made = built(f"git+{repository.as_uri()}", tmp_path / "wheel")
    assert contents(made) == contents(wheel)


def test_the_readmes_steering_example_runs_in_an_empty_environment(stranger, tmp_path):
    examples = readme_examples()
    assert "record(" in examples and "steer(" in examples
    done = alone(stranger, MODEL + examples, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 3, 4, 3])" in done.stdout


def test_the_small_library_brings_no_part_of_the_workshops_needs(stranger, tmp_path):
    program = textwrap.dedent("""
        import importlib.metadata
        names = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
        print(sorted(names & {"matplotlib", "mediapipe", "librosa", "jupyterlab", "papermill",
                              "decord", "av", "espeakng-loader", "torchvision"}))
    """)
    assert alone(stranger, program, tmp_path).stdout.strip() == "[]"
