"""A rerun of notebooks in a project of its own: values beside the committed ones, cell by cell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import jupytext
import nbformat
import pandas as pd
import pytest

from emomm_study.paths import ROOT
from emomm_study.report.values import COLUMNS, write_values

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
profile = "little"

# %%
import pandas as pd
from emomm_study.report.values import record_values
"""
RECORD = """\
table = pd.DataFrame({{"name": ["T"], "value": [{value}], "low": [0.4], "high": [0.8], "n": [100]}})
record_values(table, "gtar", profile, "{notebook}", by=["name"])
"""
FOUND = {"01_within": 0.62, "02_outside": 0.7, "03_silent": None}
"""What each notebook finds; 0.6 with a tolerance of 0.05 is committed."""


@pytest.fixture(scope="module")
def rerun(tmp_path_factory) -> tuple[int, str]:
    """Exit status and output of pytest on three notebooks."""
    project = tmp_path_factory.mktemp("project")
    for name in ("emomm_lib", "emomm_study"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, project / name, ignore=ignore)
    notebooks = project / "notebooks"
    notebooks.mkdir()
    shutil.copy(ROOT / "notebooks" / "conftest.py", notebooks)
    for notebook, value in FOUND.items():
        source = HEADER
        if value is not None:
            source += RECORD.format(value=value, notebook=notebook)
        (notebooks / f"{notebook}.py").write_text(source)
        cells = jupytext.reads(source, "py:percent")
        for number, cell in enumerate(cells.cells, start=1):
            cell.execution_count = number
        nbformat.write(cells, notebooks / f"{notebook}.ipynb")
        kept = pd.DataFrame([("gtar/T", 0.6, 0.4, 0.8, 0.05, 0.05)], columns=COLUMNS)
        write_values(kept, notebooks / "values" / "little" / f"{notebook}.csv")
    # Left by a run before this one, and no answer to it.
    write_values(kept, project / "runs" / "little" / "values" / "03_silent.csv")
    variables = {"PYTHONPATH": str(project), "EMOMM_CACHE": str(project / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax",
         "--nbval-current-env", "-v", str(notebooks)],
        cwd=project, env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_notebook_whose_values_moved_beyond_their_tolerance_fails_after_its_last_cell(rerun):
    status, output = rerun
    assert status == 1, output
    for notebook, outcome in (("01_within", "PASSED"), ("02_outside", "FAILED")):
        assert re.search(rf"{notebook}\S*::estimated values {outcome}", output), output
    assert "0.6 committed, 0.7 found, tolerance 0.05; 2.00 of it" in output


def test_values_of_an_earlier_run_do_not_stand_in_for_a_notebook_that_recorded_none(rerun):
    assert "03_silent recorded no values in this run" in rerun[1]


def test_the_end_of_the_run_says_how_many_were_compared_and_which_came_nearest(rerun):
    assert "2 estimated values compared: 1 outside their tolerance" in rerun[1]
    assert "nearest to its limit: 01 gtar/T (0.6 committed, 0.62 found" in rerun[1]


def test_the_committed_notebooks_have_values_for_all_that_is_estimated():
    """Notebooks that ask a model or train something record what they found; no other has a file."""
    folder = ROOT / "notebooks" / "values" / "mini"
    recorded = {path.stem for path in folder.glob("*.csv")}
    texts = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "notebooks").glob("*.py")}
    asking = {name for name, text in texts.items() if "run.bench" in text}
    assert asking and asking <= recorded
    assert recorded == {name for name, text in texts.items() if "run.record(" in text}
