"""The paper profile from folders to tables: corpora as their owners lay them out, a published model.

The corpora's labels, words and clips are surrogates', and the model is tiny and random; folders,
files and formats are the real ones, and the profile's parameters are its own.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate import render
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.speaker import Film
from tests import profile_runs, published_omni, true_vocabulary

if not true_vocabulary.installed():
    pytest.skip(f"{true_vocabulary.PACKAGE} is not installed", allow_module_level=True)

CLIPS, FILMED, MODEL = 24, 12, "tiny-omni"
SIZES = published_omni.Sizes(layers=2)
MORE = {Corpus.CH_SIMS: 30, Corpus.CMU_MOSI: 199}
"""Clips that a corpus has beyond the benchmark's 2,000; of CMU-MOSI's nobody judged these."""
NOTEBOOKS = [f"{i:02d}" for i in range(1, 13)]


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
    done: subprocess.CompletedProcess[str]
    variables: dict[str, str]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        again = ["--profile", "paper", "--clips", str(CLIPS), *options]
        return profile_runs.run(self.root, *again, **self.variables)

    @property
    def figures(self) -> Path:
        return self.root / "figures" / "paper"

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.figures / f"{name}.csv", dtype=str, keep_default_na=False)

    def answers(self) -> pd.DataFrame:
        with sqlite3.connect(self.root / "cache" / "predictions.sqlite") as store:
            return pd.read_sql("SELECT * FROM predictions", store)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = profile_runs.project(tmp_path_factory.mktemp("paper") / "project")
    data = root.parent
    bring_ch_sims(data / "CH-SIMS-v2")
    bring_cmu_mosi(data / "CMU-MOSI")
    published_omni.write(data / MODEL, SIZES)
    variables = {
        "EMOMM_CH_SIMS_ROOT": str(data / "CH-SIMS-v2"),
        "EMOMM_CMU_MOSI_ROOT": str(data / "CMU-MOSI"),
        "EMOMM_MOSI_ANNOTATIONS": str(data / "CMU-MOSI" / "annotations.csv"),
        "EMOMM_MODEL": str(data / MODEL),
        "EMOMM_DEVICE": "cpu",
    }
    options = ["--profile", "paper", "--clips", str(CLIPS)]
    return Made(root, profile_runs.run(root, *options, **variables), variables)


def test_all_twelve_notebooks_run_and_the_closing_table_is_written(made):
    assert made.done.returncode == 0, made.done.stdout + made.done.stderr
    ran = sorted(path.name[:2] for path in (made.root / "runs" / "paper").glob("*.ipynb"))
    assert ran == NOTEBOOKS
    print(made.done.stdout)
    table = pd.read_csv(made.root / "runs" / "paper" / "comparison.csv")
    assert set(table["profile"]) == {"paper"} and table["reproduced"].notna().sum() > 100
