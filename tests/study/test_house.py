"""Style, types and floors of both packages, as a contributor's tools see them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import emomm_lib
from emomm_study.paths import ROOT


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["scripts/architecture.py", "--check"],
    ],
    ids=" ".join,
)
def test_the_tools_find_nothing_to_mend(command, tmp_path):
    run = ["-m", *command] if not command[0].endswith(".py") else command
    options = ["--cache-dir", str(tmp_path)] if command[0] in ("ruff", "mypy") else []
    done = subprocess.run(
        [sys.executable, *run, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_that_the_library_exports_is_there_and_none_is_hidden():
    for name in emomm_lib.__all__:
        assert getattr(emomm_lib, name) is not None
    assert set(emomm_lib.__all__) <= set(dir(emomm_lib))
    with pytest.raises(AttributeError, match=r"no name 'recrod'.*record"):
        emomm_lib.recrod  # noqa: B018
    with pytest.raises(ImportError, match="recrod"):
        importlib.import_module("emomm_lib.recrod")


@pytest.mark.parametrize("name", ["labels", "metrics.psmv", "metrics.paired"])
def test_labels_and_metrics_are_imported_without_torch(name):
    program = f"import sys, emomm_lib.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_transformers_tables_are_left_alone_until_the_first_record():
    program = (
        "import emomm_lib; emomm_lib.record\n"
        "from transformers import AttentionInterface\n"
        "assert not [n for n in AttentionInterface()._global_mapping if n.startswith('emomm')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
