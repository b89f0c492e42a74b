"""The committed Omni-mini: what its card claims, and that it still reads clips from files."""

from __future__ import annotations

import pandas as pd
import pytest

from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore
from emomm_study.mini.reading import CARD_SCORES, reading_accuracy
from emomm_study.mini.retrain import MEDIA, accuracy_table
from emomm_study.paths import ROOT
from emomm_study.systems.omni import OmniModel

FOLDER = ROOT / "data" / "omni-mini"


@pytest.fixture(scope="module")
def card() -> pd.DataFrame:
    return pd.read_csv(FOLDER / CARD_SCORES, keep_default_na=False)


def test_the_card_s_table_is_that_of_the_measured_scores(card):
    assert accuracy_table(card) in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(card["coalition"]) == set(COALITIONS)


def test_the_card_s_accuracies_reach_the_bar(card):
    acc5 = card[card["metric"] == "acc5"].set_index("coalition")["value"]
    assert acc5["T"] >= 0.75 and acc5["A"] >= 0.60 and acc5["V"] >= 0.55
    assert acc5["TAV"] >= acc5[["T", "A", "V"]].max()


def test_the_committed_weights_are_safetensors_of_at_most_40_mb():
    files = [p for p in FOLDER.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40e6
    assert not [p for p in files if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_the_model_reads_fresh_files_about_as_well_as_its_card_says(card, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path))
    store = PredictionStore(tmp_path / "p.sqlite")
    bench = Experiment(OmniModel.load(FOLDER), pd.DataFrame(), {}, store, MEDIA, progress=False)
    scores = reading_accuracy(bench, 60)
    for name in ("T", "A", "V", "TAV"):
        claimed, found = (
            f[(f["metric"] == "acc5") & (f["coalition"] == name)]["value"].item()
            for f in (card, scores)
        )
        # 60 clips: three standard errors are about 0.18.
        assert found >= claimed - 0.18, name
