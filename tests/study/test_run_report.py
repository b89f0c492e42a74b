"""A run in one file: complete, private, and comparable with another's."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from emomm_study.evaluate.store import Prediction, PredictionStore
from emomm_study.evaluate.uses import used_since
from emomm_study.paper import COMPARISON
from emomm_study.paths import ROOT
from emomm_study.report.values import COLUMNS, write_values
from emomm_study.run import report as reporting
from emomm_study.run.report import differences, main, read_report, write_run_report

PLAIN, STEERED = {"weights": "abc", "prompt": "p1"}, {"weights": "abc", "steering": {"k": 4}}


def answered(name: str, coalition: str = "TAV", **options) -> Prediction:
    return Prediction(name, coalition, "v", 1, 0.2, *[0.0] * 5, **options)


def failed(name: str, reason: str) -> Prediction:
    return Prediction.failed(name, "TAV", "v", reason)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run's traces: answers, values, a notebook."""
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    store = PredictionStore(tmp_path / "cache" / "predictions.sqlite", "tried")
    store.begin("f1", PLAIN)
    unread = Prediction("c", "TAV", "v", None, None, *[None] * 5, reply="I cannot say")
    store.write("f1", [answered("a"), failed("b1", "b1: 17 frames in /data/clips/b1.mp4"), unread])
    store.begin("f2", STEERED)
    store.write("f2", [answered("a"), failed("b2", "b2: 23 frames in /data/clips/b2.mp4")])
    PredictionStore(tmp_path / "cache" / "predictions.sqlite", "other").begin("f3", PLAIN)
    write_values(
        pd.DataFrame([["t/x", 0.5, 0.4, 0.6, 0.02, 0.03], ["t/y", 1.0, *[None] * 2, 0.1, 0.1],
                      ["t/none", *[None] * 3, float("inf"), float("inf")]],
                     columns=COLUMNS).astype(dict.fromkeys(COLUMNS[1:], float)),
        _made(tmp_path / "runs" / "tried" / "values" / "03_some.csv"),
    )  # fmt: skip
    return tmp_path / "runs"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def notebook(path: Path, status: str) -> None:
    cell = nbformat.v4.new_code_cell("1", metadata={"papermill": {"status": status}})
    own = {"end_time": "2026-01-01T00:00:00", "duration": 12.5, "exception": status == "failed"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": own}), path)


PROFILE = {"profile": "tried", "seed": 0, "dtype": "float32", "systems": [], "ch_sims_root": None}


def write(runs, *, profile=PROFILE, notebooks=("03_some",), **options) -> dict:
    return read_report(write_run_report(profile, notebooks, 0.0, runs=runs, **options))


def test_failures_are_counted_and_their_reasons_told_without_clips_and_places(runs):
    found = write(runs)["answers"]
    [plain] = found["plain"]
    assert plain["fingerprint"] == "f1" and plain["settings"] == PLAIN
    assert (plain["answered"], plain["failed"], plain["unparseable"]) == (1, 1, 1)
    assert found["steered"]["runs"] == 1 and found["steered"]["failed"] == 1
    assert found["reasons"] == [{"reason": "CLIP: N frames in .../CLIP.mpN", "items": 2}]


def test_only_runs_that_this_profile_asked_for_since_it_began_are_told(runs, tmp_path):
    store = tmp_path / "cache" / "predictions.sqlite"
    assert [use.fingerprint for use in used_since(store, "tried", 0)] == ["f1", "f2"]
    assert [use.fingerprint for use in used_since(store, "other", 0)] == ["f3"]
    later = time.time() + 1e-3
    time.sleep(0.01)
    PredictionStore(store, "tried").begin("f2", STEERED)
    assert [use.fingerprint for use in used_since(store, "tried", later)] == ["f2"]
    PredictionStore(store).begin("f1", PLAIN)
    assert len(used_since(store, "tried", later)) == 1
    assert used_since(tmp_path / "none.sqlite", "tried", 0) == []


def test_a_store_of_an_earlier_version_has_no_uses_until_it_is_opened(tmp_path):
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE runs (fingerprint TEXT PRIMARY KEY, settings TEXT NOT NULL)")
    assert used_since(path, "tried", 0) == []
    PredictionStore(path, "tried").begin("f1", PLAIN)
    assert len(used_since(path, "tried", 0)) == 1


def test_no_place_of_this_machine_and_no_key_is_in_a_report(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("GEMINI_API_KEY", "sk-very-secret")
    profile = PROFILE | {
        "ch_sims_root": str(tmp_path / "CH-SIMS"), "cmu_mosi_root": "~/MOSI",
        "backbones": [str(tmp_path / "weights") + "?audio=full", "Qwen/Qwen2.5-Omni-7B"],
        "systems": [f"driver:echo?python={tmp_path}/bin/python"],
    }  # fmt: skip
    stopped = f"{ROOT}/notebooks/03: failed in /home/somebody/x and '{tmp_path}/clips/1.mp4'"
    path = write_run_report(profile, ["03_some"], 0.0, runs=runs, stopped=stopped)
    text = path.read_text()
    for place in (str(tmp_path), "somebody", str(ROOT), "very-secret", os.uname().nodename + '"'):
        assert place not in text, place
    found = read_report(path)
    assert found["parameters"]["ch_sims_root"] == ".../CH-SIMS"
    assert found["parameters"]["backbones"] == [".../weights?audio=full", "Qwen/Qwen2.5-Omni-7B"]
    assert found["parameters"]["systems"] == ["driver:echo?python=.../python"]
    assert found["stopped"] == "./notebooks/03: failed in ~/x and '.../1.mp4'"


def test_a_notebook_that_ran_earlier_is_not_told_as_run(runs):
    began = time.time()
    for stem, status in (("01_old", "completed"), ("02_new", "completed"), ("03_bad", "failed")):
        notebook(runs / "tried" / f"{stem}.ipynb", status)
    os.utime(runs / "tried" / "01_old.ipynb", (began - 60, began - 60))
    stems = ["01_old", "02_new", "03_bad", "04_never"]
    told = read_report(write_run_report(PROFILE, stems, began, runs=runs))["notebooks"]
    assert [own["status"] for own in told] == ["not run", "done", "stopped", "not run"]
    assert told[1]["seconds"] == 12.5


def test_packages_unlike_the_lock_are_named(monkeypatch, tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# pins\nnumpy==0.1\nPy_Arrow.X==3.0 ; python_version > '3'\n")
    monkeypatch.setattr(reporting, "ROOT", tmp_path)
    found = reporting.environment()
    assert set(found["packages"]) == {"numpy", "py-arrow-x"}
    assert found["unlike_lock"]["numpy"][0] == "0.1" and found["packages"]["py-arrow-x"] is None


def test_two_reports_of_one_run_agree_whenever_they_were_written(runs):
    one, other = write(runs), write(runs)
    assert differences(one, other | {"seconds": 1e9, "began": "never"}) == []


def test_what_differs_is_said_causes_first(runs, capsys):
    rows = pd.DataFrame([["table1/x", 1.0, 0.5, 0.4, 0.6, 0.1, True, "tried", ""]],
                        columns=list(COMPARISON))  # fmt: skip
    one = write(runs, compared=rows)
    (runs / "tried" / "report.json").rename(runs / "one.json")
    values = runs / "tried" / "values" / "03_some.csv"
    text = values.read_text()
    values.write_text(text.replace("t/x,0.5", "t/x,0.7").replace("t/y,1", "t/y,1.05"))
    write(runs, profile=PROFILE | {"dtype": "bfloat16"}, compared=rows.assign(within=False))
    assert main([str(runs / "one.json"), str(runs / "tried" / "report.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "parameters: dtype: float32 | bfloat16"
    assert lines[1] == "published: table1/x: true | false"
    assert lines[2] == "value: 03 t/x: 0.5 | 0.7 (tolerance 0.02)" and len(lines) == 3
    assert one["published"][0]["item"] == "table1/x"
    assert main([str(runs / "one.json"), str(runs / "one.json")]) == 0
    assert "agree" in capsys.readouterr().out


def test_a_value_that_only_one_run_has_is_said(runs):
    one = write(runs)
    (runs / "tried" / "values" / "03_some.csv").unlink()
    lines = differences(one, write(runs))
    assert len(lines) == 3 and all("nan" in line for line in lines)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', "{}"])
def test_what_is_no_report_is_named(tmp_path, text, capsys):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main([str(path), str(path)]) == 2
    assert "no report of a run" in capsys.readouterr().err


def test_a_report_is_plain_json_without_numbers_that_are_none(runs):
    path = write_run_report(PROFILE, ["03_some"], 0.0, runs=runs)

    def refuse(name):
        raise AssertionError(name)

    json.loads(path.read_text(), parse_constant=refuse)
