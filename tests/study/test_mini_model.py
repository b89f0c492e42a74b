"""The committed small models: what their cards claim, and that they still read clips from files."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.results import declined
from emomm_study.evaluate.store import PredictionStore
from emomm_study.mini.reading import CARD_SCORES, reading_accuracy
from emomm_study.mini.retrain import KINDS, MEDIA, card_text, main
from emomm_study.paths import ROOT
from emomm_study.systems.table import load_system

# Imported here: beside a CPU build of torch it needs emomm_study.systems to be imported first.
from transformers import AutoTokenizer  # isort: skip


@pytest.fixture(scope="module", params=KINDS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name) -> Path:
    return ROOT / "data" / name


@pytest.fixture(scope="module")
def card(folder) -> pd.DataFrame:
    return pd.read_csv(folder / CARD_SCORES, keep_default_na=False)


def test_the_card_says_what_was_measured_and_how_it_was_trained(name, folder, card):
    assert card_text(name, folder, card) == (folder / "README.md").read_text("utf-8")
    assert set(card["coalition"]) == set(COALITIONS)


def test_the_front_matter_of_the_card_is_the_hubs_and_has_the_measured_accuracy(name, folder, card):
    text = (folder / "README.md").read_text("utf-8")
    data = ModelCard(text).data
    assert data.license == "mit" and set(data.language) == {"en", "zh"}
    assert "model-organism" in data.tags and data.model_name == KINDS[name].title
    [result] = data.eval_results
    value = card[(card["metric"] == "acc5") & (card["coalition"] == "TAV")]["value"].item()
    assert result.metric_value == pytest.approx(value, abs=5e-4)
    assert f"| TAV | {100 * value:.1f} |" in text


def test_the_card_is_written_again_from_the_committed_numbers_alone(name, folder, tmp_path):
    for part in ("recipe.json", CARD_SCORES):
        shutil.copy(folder / part, tmp_path)
    main(["--model", name, "--out", str(tmp_path), "--card-text"])
    assert (tmp_path / "README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_the_recipe_and_sizes_are_those_that_retrain_uses(name, folder):
    settings = json.loads((folder / "recipe.json").read_text("utf-8"))
    assert settings["recipe"] == json.loads(json.dumps(asdict(KINDS[name].recipe())))
    assert settings["config"] == asdict(KINDS[name].config())


def test_the_tokenizer_is_the_one_that_is_built(name, folder):
    built = KINDS[name].config().build().processor.tokenizer
    committed = AutoTokenizer.from_pretrained(folder)
    assert committed.get_vocab() == built.get_vocab()
    assert committed.special_tokens_map == built.special_tokens_map


def test_the_card_s_accuracies_reach_the_bar(card):
    acc5 = card[card["metric"] == "acc5"].set_index("coalition")["value"]
    assert (acc5[["T", "A", "V"]] >= 0.60).all()
    assert acc5["TAV"] >= acc5[["T", "A", "V"]].max()


def test_the_committed_weights_are_safetensors_of_at_most_12_mb(folder):
    files = [p for p in folder.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 12e6
    assert not [p for p in files if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]


@pytest.fixture(scope="module")
def fresh(folder, tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores on fresh clips, and the answers they are of."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOMM_CACHE", str(cache))
        store = PredictionStore(cache / "p.sqlite")
        bench = Experiment(load_system(folder), pd.DataFrame(), {}, store, MEDIA, progress=False)
        return reading_accuracy(bench, 60), store.read(bench.fingerprint)


def test_the_model_reads_fresh_files_about_as_well_as_its_card_says(card, fresh):
    for coalition in ("T", "A", "V", "TAV"):
        claimed, found = (
            f[(f["metric"] == "acc5") & (f["coalition"] == coalition)]["value"].item()
            for f in (card, fresh[0])
        )
        # 60 clips: three standard errors are about 0.18.
        assert found >= claimed - 0.18, coalition


def test_vita_mini_would_itself_write_the_state_that_is_due_wherever_anything_is_shown(name, fresh):
    answers = fresh[1]
    if name != "vita-mini":
        assert answers["details"].isna().all()
        return
    assert declined(answers) == 0
    answers = answers[answers["coalition"] != "none"]
    logits = pd.DataFrame(
        [json.loads(said)["state_logits"] for said in answers["details"]], answers.index
    )
    due = answers["coalition"].map(lambda c: "speech" if "A" in c else "text")
    assert (logits.idxmax(axis=1) == due).all()
