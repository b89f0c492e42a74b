"""Running under other kernels: the script that does it, and its check that they are others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from emomm_study.paths import ROOT

VARIABLES = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def last_bits(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "last_bits.py"), *arguments]
    return subprocess.run(command, env=VARIABLES, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def usual() -> dict[str, list[str]]:
    return json.loads(last_bits().stdout)


def test_the_same_kernels_are_not_taken_for_others(usual):
    done = last_bits("--beside", json.dumps(usual))
    assert done.returncode == 3, done.stderr
    assert "letter logits: the same bits" in done.stdout


def test_one_last_bit_of_one_logit_is_enough_to_tell_kernels_apart(usual):
    first, *others = map(float.fromhex, usual["letter logits"])
    moved = [first + 2.0**-20, *others]
    done = last_bits("--beside", json.dumps(usual | {"letter logits": [x.hex() for x in moved]}))
    assert done.returncode == 0, done.stderr
    assert "letter logits: up to 9.5e-07 apart" in done.stdout


def test_without_a_command_the_script_says_how_it_is_used():
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "other_kernels.sh")],
        env=VARIABLES, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "usage: scripts/other_kernels.sh ./run_tests.sh" in done.stdout
