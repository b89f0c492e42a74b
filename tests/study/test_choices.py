"""Chosen configurations on disk, and which changes of the source make tables anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from emomm_lib.chase.equations import SteeringConfig
from emomm_study import paths
from emomm_study.evaluate import remembered as remembering
from emomm_study.evaluate.protocol.choices import (
    Choice,
    choices_path,
    earlier_configs,
    read_choices,
    write_choices,
)
from emomm_study.evaluate.remembered import remembered, source_digest
from emomm_study.paths import ROOT
from emomm_study.report.choices import choices_table, chosen_settings
from emomm_study.run.profiles import load_profile

CHOICES = {
    "second": Choice(SteeringConfig(first_layer=2, gamma=0.1 + 0.2, heads=((2, 1), (3, 4)), rule="first"),
                     {"align": -1 / 3, "conflict": 0.1}, 16, 3, True, True, "published", "controls"),
    "first": Choice(SteeringConfig(first_layer=1), {}, 4),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


def test_choices_come_back_as_they_were_and_in_their_order():
    write_choices(CHOICES, "mini", "f")
    found = read_choices("mini", "f")
    assert found == CHOICES and list(found) == list(CHOICES)
    assert isinstance(found["second"].config.heads[0], tuple)


def test_choices_that_were_not_made_yet_name_the_notebook_that_makes_them():
    with pytest.raises(FileNotFoundError, match=r"choices\.json is missing; run notebook 07"):
        read_choices("mini", "f")


def test_choices_of_another_study_are_refused():
    write_choices(CHOICES, "mini", "f")
    with pytest.raises(ValueError, match="another model, media settings, clips or labels.*07"):
        read_choices("mini", "g")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps({"choices": content["choices"]}),
        lambda content: json.dumps(content | {"choices": {"first": {"config": {}}}}),
        lambda content: json.dumps(content).replace('"gamma"', '"gama"'),
        lambda content: json.dumps(content).replace('"tied"', '"ties"'),
    ],
)
def test_a_file_that_holds_no_choices_is_refused(damage):
    write_choices(CHOICES, "mini", "f")
    path = choices_path("mini")
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=r"choices\.json holds no choices .*run notebook 07"):
        read_choices("mini", "f")


# Remembered tables


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's packages, in a folder of their own that a test may edit."""
    for package in ("emomm_lib", "emomm_study"):
        shutil.copytree(ROOT / package, tmp_path / "project" / package)
    monkeypatch.setattr(remembering, "ROOT", tmp_path / "project")
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    source_digest.cache_clear()
    yield tmp_path / "project"
    source_digest.cache_clear()


def edit(file):
    file.write_text(file.read_text() + "# edited\n")
    source_digest.cache_clear()


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("emomm_lib/chase/equations.py", True),
        ("emomm_study/evaluate/protocol/score.py", True),
        ("emomm_study/systems/omni.py", True),
        ("emomm_study/media/video.py", True),
        ("emomm_study/corpora/manifest.py", True),
        ("emomm_study/report/tables.py", False),
        ("emomm_study/run/pipeline.py", False),
        ("emomm_study/audit/gains.py", False),
        ("emomm_study/annotation/export.py", False),
        ("emomm_study/paths.py", False),
    ],
)
def test_a_table_is_made_anew_when_what_can_change_an_answer_is_edited(project, file, matters):
    made = []

    def make():
        made.append(1)
        return pd.DataFrame({"x": [1.5]})

    for _ in range(2):
        table = remembered("table", ["clips"], make)
    assert len(made) == 1 and table["x"].tolist() == [1.5]
    edit(project / file)
    remembered("table", ["clips"], make)
    assert len(made) == 1 + matters
    remembered("table", ["other clips"], make)
    assert len(made) == 2 + matters


def test_an_earlier_runs_configurations_are_read_whatever_they_were_made_for():
    write_choices(CHOICES, "mini", "f")
    found = earlier_configs(str(choices_path("mini")))
    assert found == {name: choice.config for name, choice in CHOICES.items()}
    assert earlier_configs(None) == {}


def test_earlier_choices_that_are_missing_or_damaged_name_the_parameter():
    with pytest.raises(FileNotFoundError, match="nowhere.json is missing; set earlier_choices"):
        earlier_configs("nowhere.json")
    write_choices(CHOICES, "mini", "f")
    choices_path("mini").write_text("{}")
    with pytest.raises(ValueError, match="holds no choices .*; set earlier_choices"):
        earlier_configs(str(choices_path("mini")))


def test_the_committed_choices_are_what_the_mini_profile_holds_to():
    """And what the committed notebook prints of each."""
    held = earlier_configs(load_profile("mini")["earlier_choices"])
    notebook = nbformat.read(ROOT / "notebooks" / "07_main_results.ipynb", as_version=4)
    [printed] = [
        output.text
        for cell in notebook.cells
        if "chosen_settings(choices)" in cell.source
        for output in cell.outputs
    ]
    rows = {name: Choice(config, {}, tried=1) for name, config in held.items()}
    [first] = [config for name, config in held.items() if name == "CHASE"]
    shown = chosen_settings(choices_table(rows, replace(first, psi_hat=0.3, percentile=80.0)))
    assert shown.to_string() == printed.rstrip("\n")
