"""CodeMeta, Zenodo's file, the citation, the package and the changelog say the same of the software."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

import emomm_lib
from emomm_study.paths import ROOT

SOURCES = ("CITATION.cff", "pyproject.toml")
MADE = ("codemeta.json", ".zenodo.json")
ADDRESS = "https://github.com/somebody/something"


def made(name: str) -> dict:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def copy(tmp_path):
    """The files' sources and the script in a folder of their own."""
    (tmp_path / "scripts").mkdir()
    for name in (*SOURCES, *MADE, "scripts/metadata.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def run(folder, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "scripts" / "metadata.py", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def edit(folder, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")


def test_the_committed_files_are_what_the_citation_and_the_project_make_them():
    done = run(ROOT, "--check")
    assert done.returncode == 0, done.stdout


def test_a_change_of_the_citation_is_named_until_both_files_are_made_again(copy):
    edit(copy, "CITATION.cff", "title: EmoMM companion", "title: Another companion")
    done = run(copy, "--check")
    assert done.returncode == 1 and all(f"{name} is out of date" in done.stdout for name in MADE)
    assert run(copy).returncode == 0 and run(copy, "--check").returncode == 0
    assert json.loads((copy / "codemeta.json").read_text())["name"] == "Another companion"
    assert json.loads((copy / ".zenodo.json").read_text())["title"] == "Another companion"


def test_the_repositorys_address_is_in_both_files_once_it_is_set_and_in_none_before(copy):
    [line] = re.findall(r"^repository = .*$", (copy / "pyproject.toml").read_text(), re.M)
    edit(copy, "pyproject.toml", line, 'repository = ""')
    run(copy)
    assert not any("github.com" in (copy / name).read_text() for name in MADE)
    edit(copy, "pyproject.toml", 'repository = ""', f'repository = "{ADDRESS}"')
    run(copy)
    assert json.loads((copy / "codemeta.json").read_text())["codeRepository"] == ADDRESS
    [about] = json.loads((copy / ".zenodo.json").read_text())["related_identifiers"]
    assert about["identifier"] == ADDRESS


def test_all_say_the_packages_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = emomm_lib.__version__
    versions = {made(name)["version"] for name in MADE} | {str(citation["version"])}
    assert versions == {version}
    assert made(".zenodo.json")["license"] == citation["license"] == project["license"]
    assert made("codemeta.json")["license"].endswith(f"/{project['license']}")


def test_codemeta_names_the_papers_authors_in_their_order():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    named = made("codemeta.json")["referencePublication"]["author"]
    pairs = [(person["givenName"], person["familyName"]) for person in named]
    assert pairs == [(a["given-names"], a["family-names"]) for a in paper["authors"]]


def test_the_changelogs_newest_release_is_this_version_or_none_is_released_yet():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[0] == "Unreleased" or emomm_lib.__version__ in headings[0]
    released = [h for h in headings if h != "Unreleased"]
    for heading in released:
        assert re.fullmatch(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d{2}-\d{2}", heading), heading
    if released:
        assert emomm_lib.__version__ in released[0]
