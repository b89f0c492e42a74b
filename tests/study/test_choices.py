"""Chosen configurations on disk, and which changes of the source make tables anew."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from emomm_lib.chase.equations import SteeringConfig
from emomm_study import paths
from emomm_study.evaluate import remembered as remembering
from emomm_study.evaluate.protocol.choices import Choice, choices_path, read_choices, write_choices
from emomm_study.evaluate.remembered import remembered, source_digest
from emomm_study.paths import ROOT

CHOICES = {
    "second": Choice(SteeringConfig(first_layer=2, gamma=0.1 + 0.2, heads=((2, 1), (3, 4)), rule="first"),
                     {"align": -1 / 3, "conflict": 0.1}, 16, 3, True, "published", "controls"),
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
