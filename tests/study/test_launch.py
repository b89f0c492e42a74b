"""Copies of the notebooks that set themselves up elsewhere: links, first cell, and that it works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml

from book import launch
from book.staging import stage
from emomm_study.paths import ROOT
from emomm_study.run.pipeline import BUILDS_ON, find_notebooks

ADDRESS = "https://github.com/somebody/something"


def settings(tmp_path, address: str):
    (tmp_path / "pyproject.toml").write_text(f"[tool.emomm]\nrepository = {json.dumps(address)}\n")
    return tmp_path


@pytest.mark.parametrize("address", ["", ADDRESS, f"{ADDRESS}.git"])
def test_the_address_is_that_of_the_setting(tmp_path, address):
    assert launch.repository(settings(tmp_path, address)) == address


@pytest.mark.parametrize(
    "address", ["somebody/something", "https://gitlab.com/a/b", f"{ADDRESS}/tree/main"]
)
def test_an_address_that_colab_and_binder_cannot_open_is_refused_in_a_sentence(tmp_path, address):
    with pytest.raises(launch.AddressError, match=r"pyproject\.toml.*https://github\.com/.*got"):
        launch.repository(settings(tmp_path, address))


def test_without_an_address_no_page_leads_elsewhere_and_with_one_every_notebook_does(tmp_path):
    for address in ("", ADDRESS):
        folder = stage(tmp_path / (address and "linked"), address)
        for path in sorted((folder / "notebooks").glob("*.ipynb")):
            text = " ".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
            colab = f"colab.research.google.com/github/somebody/something/blob/launch/{path.name}"
            binder = f"mybinder.org/v2/gh/somebody/something/launch?urlpath=lab/tree/{path.name}"
            assert (colab in text) == (binder in text) == bool(address), path.name


def test_what_has_to_run_before_a_notebook_is_all_that_it_builds_on_in_order():
    for number in BUILDS_ON:
        needed = launch.before(number)
        assert needed == sorted(set(needed)) and number not in needed
        assert set(BUILDS_ON[number]) <= set(needed)
        for other in needed:
            assert set(launch.before(other)) < set(needed)


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    launch.export(folder, ADDRESS)
    return folder


def test_every_copy_has_the_notebooks_cells_after_one_that_sets_it_up_and_no_result(branch):
    for source in find_notebooks():
        committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
        copy = nbformat.read(branch / f"{source.stem}.ipynb", as_version=4)
        nbformat.validate(copy)
        setup = copy.cells.pop(1)
        compile(setup.source, source.stem, "exec")
        assert ADDRESS in setup.source
        assert [c.source for c in copy.cells] == [c.source for c in committed.cells]
        assert not any(c.get("outputs") for c in copy.cells)


def test_binder_builds_the_environment_of_the_lock_without_the_project(branch):
    made = yaml.safe_load((branch / "environment.yml").read_text(encoding="utf-8"))
    [own] = [entry["pip"] for entry in made["dependencies"] if isinstance(entry, dict)]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert own == [line for line in lock if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository that has what this folder has."""
    folder = tmp_path_factory.mktemp("repository") / "project"
    apart = (
        "cache",
        "runs",
        ".venv",
        ".git",
        "site",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
    )
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*apart))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return folder


def test_a_kernel_in_an_empty_folder_runs_a_notebook_after_the_cell_alone(published, tmp_path):
    """Where the packages are there already, as on Binder; elsewhere the cell installs the lock."""
    source = next(path for path in find_notebooks() if path.stem.startswith("10"))
    cells = [cell.source for cell in nbformat.read(source.with_suffix(".ipynb"), 4).cells
             if cell.cell_type == "code"]  # fmt: skip
    beginning = cells[: 1 + next(i for i, text in enumerate(cells) if "open_run(" in text)]
    program = [launch.setup_cell(published.as_uri(), "10"), *beginning]
    program += ["import emomm_study.paths, os", "print(emomm_study.paths.ROOT, os.getcwd())"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    project = tmp_path / "emomm-companion"
    assert done.stdout.splitlines()[-1] == f"{project} {project}"
    assert "Ready" in done.stdout


def test_the_cell_installs_the_lock_and_says_so_where_other_versions_are_loaded(
    published, tmp_path
):
    """In place of pip and of the check of the pins: what is called is written down."""
    program = f"""
import subprocess, sys
called = []
class Done: returncode = 1
def run(command, **options):
    called.append(command)
    return real(command, **options) if command[0] == "git" else Done
real, subprocess.run = subprocess.run, run
sys.modules["numpy"] = None
try:
    exec({launch.setup_cell(published.as_uri(), "11")!r})
except SystemExit as stopped:
    print(stopped)
print(called[-1][-1], called[-1][1:4])
del sys.modules["numpy"]
exec({launch.setup_cell(published.as_uri(), "11")!r})
print([command[-1] for command in called if command[0] == "bash"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert "restart the kernel" in lines[0]
    assert lines[1] == "requirements.lock ['-m', 'pip', 'install']"
    assert lines[-1] == "['01', '03', '06', '07']"
