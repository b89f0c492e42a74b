"""The omni profile: a model in the published format, here tiny, about surrogates of 448 pixels."""

from __future__ import annotations

import os
import re
import sqlite3

import nbformat
import numpy as np
import pandas as pd
import pytest

from emomm_lib.labels import COALITIONS
from emomm_study.media.audio import read_audio
from emomm_study.media.video import VideoSettings, read_frames
from emomm_study.run import profiles
from tests import profile_runs, published_omni, true_vocabulary

RENDERED = 5


def test_without_a_model_and_a_gpu_the_profile_names_both_and_asks_for_no_corpus(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EMOMM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMOMM_MODEL", "nobody/no-such-model")
    monkeypatch.setenv("EMOMM_DEVICE", "nonsense")
    with pytest.raises(profiles.PipelineError) as caught:
        profiles.preflight(profiles.load_profile("omni"))
    said = str(caught.value)
    assert re.findall(r"^\* (\w+)", said, re.MULTILINE) == ["backbones", "device"]
    assert "export EMOMM_MODEL=..." in said and "export EMOMM_DEVICE=..." in said
    monkeypatch.delenv("EMOMM_MODEL")
    with pytest.raises(profiles.PipelineError, match="Qwen/Qwen2.5-Omni-3B: neither a folder"):
        profiles.preflight(profiles.load_profile("omni"))


def test_surrogates_and_figures_of_the_profiles_lie_apart():
    mini, omni = (profiles.load_profile(name) for name in ("mini", "omni"))
    for name in ("ch_sims_root", "cmu_mosi_root", "annotations", "campaign"):
        assert str(omni[name]).startswith("cache/surrogate-448/") and omni[name] != mini[name]
    assert "surrogate" in omni["data_note"] and "real model" in omni["data_note"]


@pytest.mark.skipif(not true_vocabulary.installed(), reason="the published vocabulary is missing")
def test_a_model_of_the_published_format_is_asked_about_large_surrogates(tmp_path):
    root = profile_runs.project(tmp_path / "project")
    profile = root / "notebooks" / "profiles" / "omni.yaml"
    text, changed = re.subn(
        r"(?m)^render_clips: \d+", f"render_clips: {RENDERED}", profile.read_text()
    )
    assert changed == 1
    profile.write_text(text)
    model = published_omni.write(tmp_path / "tiny-omni", published_omni.Sizes(layers=2))
    variables = {"EMOMM_MODEL": str(model), "EMOMM_DEVICE": "cpu"}
    for number in ("01", "03"):
        done = profile_runs.run(root, "--profile", "omni", "--only", number, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
    films = list((root / "cache" / "surrogate-448").rglob("*.mp4"))
    assert len(films) == 2 * RENDERED
    for film in films:
        assert read_frames(film, VideoSettings(num_frames=1)).shape == (1, 448, 448, 3)
        assert len(read_audio(film)) / 16_000 > 3.9
    with sqlite3.connect(root / "cache" / "predictions.sqlite") as store:
        answers = pd.read_sql("SELECT * FROM predictions", store)
        counts = store.execute("SELECT counts FROM traces WHERE coalition = 'V'").fetchall()
    assert answers["failure"].isna().all()
    assert len(answers) == 2 * RENDERED * len(COALITIONS)
    # Four pairs of frames, 16 x 16 tokens each.
    assert {tuple(np.frombuffer(own, "<i4")) for (own,) in counts} == {(0, 0, 4 * 16 * 16)}
    assert (root / "figures" / "omni" / "figure3_vcc.png").is_file()
    captions = (root / "figures" / "omni" / "manifest.json").read_text(encoding="utf-8")
    assert "Profile omni" in captions and "Profile mini" not in captions
    shown = nbformat.read(root / "runs" / "omni" / "03_vcc_analysis.ipynb", as_version=4)
    assert "tiny-omni" in str(shown.cells)
