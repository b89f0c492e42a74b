"""An export as its users read it: by datasets, by mlcroissant, and without what may not go out."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import datasets
import mlcroissant
import pandas as pd
import pytest
import yaml
from test_benchmark import make_clips

from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest, expand_missing
from emomm_study.corpora.scores import Corpus
from emomm_study.exchange.huggingface import NAMES, export
from emomm_study.mini.surrogate.joint import label_table

GIVEN = {"note": "Made-up clips.", "terms": "MIT; no person is shown or heard."}


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    tables = [
        CorpusTable(Path("r"), make_clips(c, label_table(c).sample(300, random_state=1), 40))
        for c in Corpus
    ]
    return build_manifest(tables, BenchmarkSettings(ch_sims=None, cmu_mosi=None))


@pytest.fixture(scope="module")
def folder(manifest, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("export") / "emomm"
    export(manifest, made, **GIVEN)
    return made


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return {"cache_dir": str(tmp_path / "cache")}


def test_datasets_loads_the_folder_with_the_manifests_rows_and_splits(manifest, folder, offline):
    clips = datasets.load_dataset(str(folder), "clips", **offline)
    missing = datasets.load_dataset(str(folder), "missing", **offline)
    assert set(clips) == set(NAMES.values())
    for split, name in NAMES.items():
        own = manifest[manifest["split"] == split].drop(columns=["split", "text"])
        found = clips[name].to_pandas()
        pd.testing.assert_frame_equal(found, own.reset_index(drop=True), check_dtype=False)
        assert len(missing[name]) == 3 * len(own)
    expected = expand_missing(manifest)["subset"].value_counts().to_dict()
    rows = pd.concat([part.to_pandas() for part in missing.values()])
    assert rows["subset"].value_counts().to_dict() == expected


def test_without_a_configuration_the_whole_clips_are_loaded(folder, offline):
    assert "coalition" not in datasets.load_dataset(str(folder), **offline)["test"].features


def test_croissant_metadata_is_valid_and_gives_the_same_records(manifest, folder, caplog):
    with caplog.at_level(logging.WARNING):
        described = mlcroissant.Dataset(str(folder / "croissant.json"))
    issues = described.metadata.issues
    assert not issues.errors
    assert all("datePublished" in warning for warning in issues.warnings)
    records = pd.DataFrame(described.records("clips-test-rows"))
    records.columns = [name.rpartition("/")[2] for name in records.columns]
    own = manifest[manifest["split"] == "test"]
    assert [name.decode() for name in records["sample_id"]] == own["sample_id"].tolist()
    assert records["label_gt"].tolist() == own["label_gt"].tolist()


def test_the_metadata_has_the_digest_of_every_file(manifest, tmp_path):
    export(manifest, tmp_path, **GIVEN)
    metadata = json.loads((tmp_path / "croissant.json").read_text())
    for one in metadata["distribution"]:
        content = (tmp_path / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()


def test_transcripts_go_out_only_when_that_is_said(manifest, folder, tmp_path):
    every = [path for path in folder.rglob("*") if path.is_file()]
    words = manifest["text"].iloc[0].encode()
    for path in every:
        assert words not in path.read_bytes()
        assert path.suffix != ".parquet" or "text" not in pd.read_parquet(path)
    export(manifest, tmp_path, with_text=True, **GIVEN)
    whole = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "clips").iterdir()))
    assert set(whole["text"]) == set(manifest["text"])
    assert "transcripts are" in (tmp_path / "README.md").read_text()
    assert "no transcripts" in (folder / "README.md").read_text()


def test_equal_manifests_give_equal_files_and_the_same_folder_can_be_written_again(
    manifest, folder
):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    export(manifest.sample(frac=1, random_state=0).sort_values("sample_id"), folder, **GIVEN)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_card_says_sizes_languages_terms_and_loads_as_yaml(manifest, folder):
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["language"] == ["en", "zh"] and front["license"] == "other"
    assert [c["config_name"] for c in front["configs"]] == ["clips", "missing"]
    for path in (f["path"] for c in front["configs"] for f in c["data_files"]):
        assert (folder / path).is_file()
    counts = manifest["split"].value_counts()
    assert f"| {counts['train']} | {counts['valid']} | {counts['test']} |" in text
    assert GIVEN["note"] in text and GIVEN["terms"] in text


@pytest.mark.parametrize("spoilt", [{"note": " "}, {"terms": ""}])
def test_an_export_without_a_note_or_terms_is_refused(manifest, tmp_path, spoilt):
    with pytest.raises(ValueError, match="says what it is"):
        export(manifest, tmp_path / "x", **GIVEN | spoilt)
    assert not (tmp_path / "x").exists()


def test_a_folder_with_something_else_in_it_is_refused(manifest, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"film\.mp4"):
        export(manifest, tmp_path, **GIVEN)
