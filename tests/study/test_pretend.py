"""The stand-ins of the mini profile: what a notebook gets of them, and that no table takes them in."""

from __future__ import annotations

import json

import pytest

from emomm_study import notebook, paper
from emomm_study.run import profiles
from emomm_study.systems.named import Named
from emomm_study.systems.pretend import LocalApi, answer
from emomm_study.systems.table import NO_MODEL, load_system, shown_name

PARAMETERS = {
    "profile": "mini", "ch_sims_root": "a", "cmu_mosi_root": "b", "backbones": ["data/omni-mini"],
    "dtype": "float32", "device": "cpu", "batch_size": 4, "num_frames": 2, "frame_pixels": None,
    "max_audio_seconds": 1.5, "render_clips": 3, "systems": ["driver:echo", "pretend:api"],
}  # fmt: skip


def test_a_notebook_gets_its_systems_by_their_names_and_ends_each_when_its_turn_is_over(
    monkeypatch,
):
    run = notebook.Run("07", "mini", "", PARAMETERS)
    names, closed = [], []
    for name, system in run.systems():
        names.append(name)
        if hasattr(system, "close"):
            monkeypatch.setattr(system, "close", lambda own=name: closed.append(own))
    assert names == [f"echo {NO_MODEL}", f"local API {NO_MODEL}"] and closed == names[:1]
    assert [*notebook.Run("07", "mini", "", PARAMETERS | {"systems": []}).systems()] == []


def test_no_stand_in_has_a_name_that_the_paper_has():
    published = set(paper.table(1)["model"])
    for text in PARAMETERS["systems"]:
        name = shown_name(Named.of(text))
        assert name.endswith(NO_MODEL) and paper.model_name(name) not in published


def test_the_local_api_is_the_same_system_on_every_port_and_needs_no_key(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    one, other = load_system("pretend:api"), LocalApi()
    assert one.server.server_port != other.server.server_port
    assert one.settings() == other.settings() and one.key() == "none"
    assert "127.0.0.1" not in json.dumps(one.settings())
    with pytest.raises(ValueError, match="expected pretend:api"):
        load_system("pretend:other")


def test_the_local_api_answers_what_a_request_allows_and_the_same_every_time():
    body = {"contents": [{"parts": [{"inlineData": {"data": "abcd"}}, {"text": "so"}]}]}
    free = answer(body)
    assert free == answer(body) and free[0] in "ACE"
    body["generationConfig"] = {"responseSchema": {"enum": ["B", "D"]}}
    assert answer(body) in ("B", "D")


@pytest.mark.parametrize(
    ("name", "said"),
    [("driver:nobody", "names no driver; known are driver:echo"),
     ("driver:minicpm_o?weights=a/b", "needs the option revision"),
     ("other:x", "no such kind of system; a name begins with driver:, gemini:"),
     ("nobody/no-such-model", "neither a folder nor the id of a model")],
)  # fmt: skip
def test_a_system_that_cannot_be_is_named_before_anything_runs(name, said):
    with pytest.raises(profiles.PipelineError, match=said):
        profiles.preflight({"profile": "p", "systems": ["driver:echo", name]})
    assert profiles.preflight({"profile": "p", "systems": ["driver:echo", "pretend:api"]})


def test_what_a_downloaded_system_is_called_here_has_the_papers_name():
    names = ["driver:videollama2?weights=a", "driver:minicpm_o", "driver:video_salmonn2",
             "gemini:gemini-3-pro-preview"]  # fmt: skip
    found = [paper.model_name(shown_name(Named.of(name))) for name in names]
    assert set(found) <= set(paper.table(1)["model"]) and len(set(found)) == 4
