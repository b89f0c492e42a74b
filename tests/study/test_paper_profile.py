"""The paper profile from folders to tables: corpora as their owners lay them out, a published model.

The corpora's labels, words and clips are surrogates', and the model is tiny and random; folders,
files and formats are the real ones, and the profile's parameters are its own. It takes thirteen kernels
and five minutes of a core, or twice that of one without instructions for bfloat16.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate import render
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.speaker import Film
from emomm_study.paths import COMMITTED_FIGURES
from tests import profile_runs, published_omni, true_vocabulary

if not true_vocabulary.installed():
    pytest.skip(f"{true_vocabulary.PACKAGE} is not installed", allow_module_level=True)

CLIPS, FILMED, MODEL = 24, 12, "tiny-omni"
SIZES = published_omni.Sizes(layers=2)
MORE = {Corpus.CH_SIMS: 30, Corpus.CMU_MOSI: 199}
"""Clips that a corpus has beyond the benchmark's 2,000; of CMU-MOSI's nobody judged these."""


def planned(corpus: Corpus) -> pd.DataFrame:
    plan = corpus_plan(corpus, SurrogateSettings())
    more = plan.head(MORE[corpus]).assign(
        video_id="aqgy5_0099" if corpus is Corpus.CH_SIMS else "-a_b-c_d-e_"
    )
    width = 4 if corpus is Corpus.CH_SIMS else 1
    more["clip_id"] = [f"{i:0{width}d}" for i in range(1, len(more) + 1)]
    return pd.concat([plan, more], ignore_index=True)


def link_media(root: Path, plan: pd.DataFrame) -> None:
    """A file for every clip: hard links to those of a few."""
    clips = plan.to_dict("records")
    films = [c | {"video_id": f"film{i}", "clip_id": "1"} for i, c in enumerate(clips[:FILMED])]
    for film in films:
        render.write_clip(root / "films", film, Film(size=56))
    for i, clip in enumerate(clips):
        taken = render.clip_paths(films[i % FILMED])
        for source, target in zip(taken, render.clip_paths(clip), strict=True):
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            if not (root / target).exists():
                os.link(root / "films" / source, root / target)


def bring_ch_sims(root: Path) -> None:
    plan = planned(Corpus.CH_SIMS)
    render._TABLES[Corpus.CH_SIMS](root, plan)
    link_media(root, plan)


def bring_cmu_mosi(root: Path) -> None:
    """With annotations of 2,000 of its 2,199 clips, as votes' means."""
    plan = planned(Corpus.CMU_MOSI)
    render._TABLES[Corpus.CMU_MOSI](root, plan)
    link_media(root, plan)
    votes = plan.head(2000)
    rng = np.random.default_rng(0)
    means = {
        f"label_{m}": [
            rng.choice(GRIDS[Corpus.CMU_MOSI].scores(y)) for y in votes[f"label_{m.lower()}"]
        ]
        for m in "TAV"
    }
    table = votes[["video_id", "clip_id"]].assign(**means)
    table.to_csv(root / "annotations.csv", index=False)


@dataclass(frozen=True)
class Made:
    """What a run left, and what it said."""

    root: Path
    said: str
    variables: dict[str, str]
    compared: pd.DataFrame

    @property
    def notebooks(self) -> list[Path]:
        return sorted((self.root / "runs" / "paper").glob("*.ipynb"))

    @property
    def figures(self) -> list[Path]:
        """Folders: of what describes the whole benchmark, and of what was asked about a part."""
        return [self.root / "figures" / name for name in ("paper", f"paper-{CLIPS}-clips")]

    def table(self, name: str) -> pd.DataFrame:
        [path] = [p for folder in self.figures for p in folder.glob(f"{name}.csv")]
        return pd.read_csv(path, dtype=str, keep_default_na=False)

    def stored(self, sql: str) -> pd.DataFrame:
        with sqlite3.connect(self.root / "cache" / "predictions.sqlite") as store:
            return pd.read_sql(sql, store)


def run(root: Path, variables: dict[str, str], *options: str) -> str:
    options = "--profile", "paper", "--clips", str(CLIPS), *options
    done = profile_runs.run(root, *options, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = profile_runs.project(tmp_path_factory.mktemp("paper") / "project")
    data = root.parent
    bring_ch_sims(data / "CH-SIMS-v2")
    bring_cmu_mosi(data / "CMU-MOSI")
    variables = {
        "EMOMM_CH_SIMS_ROOT": str(data / "CH-SIMS-v2"),
        "EMOMM_CMU_MOSI_ROOT": str(data / "CMU-MOSI"),
        "EMOMM_MOSI_ANNOTATIONS": str(data / "CMU-MOSI" / "annotations.csv"),
        "EMOMM_MODEL": str(published_omni.write(data / MODEL, SIZES)),
        "EMOMM_DEVICE": "cpu",
    }
    said = run(root, variables)
    compared = pd.read_csv(root / "runs" / "paper" / "comparison.csv").set_index("item")
    return Made(root, said, variables, compared)


def outputs(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)


def test_all_thirteen_notebooks_run_and_the_closing_table_is_written(made):
    assert [path.name[:2] for path in made.notebooks] == [f"{i:02d}" for i in range(1, 14)]
    assert f"{len(made.compared)} numbers compared: " in made.said
    found = made.compared["reproduced"]
    assert found.notna().sum() > 150
    assert found["claim/quota_ch_sims_conflict"] == 1000 and found["claim/clips_per_corpus"] == 2000


def test_what_the_corpora_have_beyond_the_benchmark_is_counted_and_left_out(made):
    for corpus in Corpus:
        excluded = pd.read_csv(made.root / "runs" / "paper" / f"excluded_{corpus}.csv")
        assert excluded.empty
    said = outputs(made.notebooks[0])
    assert re.search(r"ch_sims_v2 +2030 +0 +0", said) and re.search(r"cmu_mosi +2000 +0 +199", said)


def test_every_question_about_the_part_has_an_answer_and_none_failed(made):
    answers = made.stored("SELECT * FROM predictions")
    assert answers["failure"].isna().all()
    plain = answers.groupby(["fingerprint"])["coalition"].value_counts().unstack()
    assert (plain[list(COALITIONS)] == CLIPS).all(axis=1).sum() == 1
    settings = made.stored("SELECT settings FROM runs")["settings"]
    assert settings.str.contains("bfloat16").all()
    assert settings.str.contains("602112").all()


def test_tables_have_the_models_own_row_beside_the_published_ones(made):
    main = made.table("table1")
    own = main[main["model"] == MODEL]
    assert own["method"].tolist()[:2] == ["baseline", "CHASE"] and set(own["values"]) == {"paper"}
    others = main[main["model"] != MODEL]
    assert set(others["values"]) == {"published"} and "Qwen2.5-Omni-7B" in set(others["model"])
    ways = ("", ", share", ", linear router")
    assert set(made.table("table6")["model"]) == {f"{MODEL}{way}" for way in ways}
    theirs = made.compared[made.compared.index.str.startswith("table1/Qwen2.5-Omni-7B/")]
    assert len(theirs) and theirs["reproduced"].isna().all()
    assert made.compared.index.str.startswith(f"table1/{MODEL}/").any()


def test_the_figures_are_those_of_the_mini_profile(made):
    mini = {path.name for path in (COMMITTED_FIGURES / "mini").glob("*.png")}
    found = {path.name for folder in made.figures for path in folder.glob("*.png")}
    cases = {name for name in mini if name.startswith("case_")}
    assert mini - found <= cases | {"figure12_attention.png", "figure13_importance.png"}
    assert found <= mini


def test_nothing_is_worded_as_a_result_of_mini_or_of_the_real_model(made):
    for folder in made.figures:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        assert all("Profile paper" in entry["caption"] for entry in files.values())
        # The audit draws the labels of surrogates beside what the tables allow, and says so.
        captions = [e["caption"] for e in files.values() if e["notebook"] != "10_paper_audit"]
        assert not [c for c in captions if re.search(r"Profile mini|[Ss]urrogate|[Oo]mni-mini", c)]
    for notebook in made.notebooks:
        assert not re.search(r"omni-mini|Omni-mini|profile: mini|\bNone\. ", outputs(notebook)), (
            notebook
        )


def test_a_second_run_asks_nothing(made):
    count = "SELECT count(*) AS rows, max(rowid) AS last FROM traces"
    answers = "SELECT * FROM predictions"
    before = made.stored(count), made.stored(answers)
    run(made.root, made.variables, "--only", "03")
    pd.testing.assert_frame_equal(made.stored(count), before[0])
    pd.testing.assert_frame_equal(made.stored(answers), before[1])
