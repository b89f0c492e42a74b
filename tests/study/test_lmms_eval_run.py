"""The exported tasks under lmms-eval itself, where ``EMOMM_LMMS_EVAL`` names a Python that has it
(docs/lmms_eval.md): rendered clips, a model that opens what it is shown, and the same numbers as ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from told_replies import submission, told_replies

from emomm_lib.labels import COALITIONS
from emomm_study.annotation.export import export_annotations
from emomm_study.command.main import main
from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest
from emomm_study.corpora.scores import Corpus
from emomm_study.exchange.lmms_eval import GROUP, METRICS, TASKS
from emomm_study.mini.annotators import simulated_campaign
from emomm_study.mini.surrogate.render import render_corpus
from emomm_study.paths import ROOT
from emomm_study.systems.prompts import messages

PYTHON = os.environ.get("EMOMM_LMMS_EVAL")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="EMOMM_LMMS_EVAL names no Python with lmms-eval (docs/lmms_eval.md)"
)
CLIPS = 80
ENTRY = "[lmms_eval.models]\nemomm_told = lmms_eval_model:MANIFEST\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lmms-eval")


@pytest.fixture(scope="module")
def roots(home) -> dict[Corpus, Path]:
    made = {corpus: home / corpus.value for corpus in Corpus}
    plans = {c: render_corpus(root, c, limit=CLIPS, progress=False) for c, root in made.items()}
    campaign = simulated_campaign(home / "campaign.sqlite", plans[Corpus.CMU_MOSI])
    export_annotations(campaign.votes(), made[Corpus.CMU_MOSI] / "annotations.csv")
    return made


@pytest.fixture(scope="module")
def manifest(roots, home) -> pd.DataFrame:
    tables = [load_ch_sims(roots[Corpus.CH_SIMS]), load_cmu_mosi(roots[Corpus.CMU_MOSI])]
    made = build_manifest(tables, BenchmarkSettings(ch_sims=None, cmu_mosi=None))
    made.to_parquet(home / "manifest.parquet")
    return made


@pytest.fixture(scope="module")
def told(manifest) -> pd.DataFrame:
    return told_replies(manifest)


@pytest.fixture(scope="module")
def run(home, roots, manifest, told) -> Path:
    """lmms-eval has asked the model; its output is below the folder's ``logs``."""
    line = ["--benchmark", str(home / "manifest.parquet"), "--split", "all"]
    assert main(["export", "lmms-eval", *line, "--out", str(home / "tasks"), "--note", "S."]) == 0
    model = home / "model"
    (model / "emomm_told-1.dist-info").mkdir(parents=True)
    (model / "emomm_told-1.dist-info" / "entry_points.txt").write_text(ENTRY)
    (model / "emomm_told-1.dist-info" / "METADATA").write_text("Name: emomm-told\nVersion: 1\n")
    shutil.copy(ROOT / "tests" / "lmms_eval_model.py", model)
    replies = {f"{s} {c}": r for s, c, r in told.itertuples(index=False)}
    (home / "told.json").write_text(json.dumps(replies), encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = kept | {
        "PYTHONPATH": str(model), "PYTHONUTF8": "1",
        "EMOMM_TOLD": str(home / "told.json"), "EMOMM_SEEN": str(home / "seen.jsonl"),
        "EMOMM_CH_SIMS": str(roots[Corpus.CH_SIMS]), "EMOMM_CMU_MOSI": str(roots[Corpus.CMU_MOSI]),
        "EMOMM_CACHE": str(home / "cache"), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [
        PYTHON, "-m", "lmms_eval", "--model", "emomm_told", "--include_path", str(home / "tasks"),
        "--tasks", f"{GROUP},{GROUP}_single", "--output_path", str(home / "logs"), "--log_samples",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    # Its status is 0 on errors too: what counts is whether there are results.
    assert list((home / "logs").rglob("*_results.json")), done.stdout + done.stderr
    sys.stdout.write(done.stdout[-6000:])
    return home / "logs"


@pytest.fixture(scope="module")
def results(run) -> dict:
    [path] = run.rglob("*_results.json")
    return json.loads(path.read_text("utf-8"))["results"]


@pytest.fixture(scope="module")
def ours(home, manifest, told, run) -> dict[str, dict]:
    """What ``emomm score`` says, of the replies handed in and of lmms-eval's logs."""
    (home / "answers.jsonl").write_text("\n".join(map(json.dumps, submission(told))), "utf-8")
    found = {}
    for name, answers in {"answers": home / "answers.jsonl", "log": run}.items():
        out = home / f"scores-{name}"
        line = ["--benchmark", str(home / "manifest.parquet"), "--split", "all", "--out", str(out)]
        assert main(["score", str(answers), *line]) == 0
        found[name] = {path.stem: pd.read_csv(path) for path in out.iterdir()}
    return found


@pytest.mark.parametrize("subset", ["align", "conflict", "missing"])
def test_its_numbers_of_each_subset_are_those_of_emomm_score(subset, results, ours):
    table = ours["answers"]["table1"].set_index(["subset", "metric"])["value"]
    counts = ours["answers"]["counts"].set_index("subset").loc[subset]
    own = results[f"{GROUP}_{subset}"]
    for metric in METRICS:
        assert own[f"{metric},none"] == pytest.approx(table[subset, metric], abs=1e-12)
    for kind in ("failed", "unparseable"):
        assert own[f"{kind},none"] == counts[kind] > 0


def test_its_sample_logs_score_as_the_same_replies_handed_in(ours):
    assert set(ours["log"]) == {"table1", "counts", "lost", "psmv", "gtar"}
    for name in ("table1", "counts", "psmv", "gtar"):
        pd.testing.assert_frame_equal(ours["log"][name], ours["answers"][name])


def test_the_model_saw_and_heard_what_the_coalition_has_and_nothing_else(home, manifest, run):
    lines = (home / "seen.jsonl").read_text("utf-8").splitlines()
    seen = [json.loads(line) for line in lines]
    assert len(seen) == len(COALITIONS) * len(manifest)
    clips = manifest.set_index("sample_id")
    for one in seen:
        name, coalition = one["key"].rsplit(" ", 1)
        placeholders = messages(coalition, clips.loc[name, "corpus"], clips.loc[name, "text"])
        assert one["order"] == [part["type"] for part in placeholders[1]["content"]]
        assert one["text"] == placeholders[1]["content"][-1]["text"]
        assert one["system"] == placeholders[0]["content"][0]["text"]
        assert [f["kinds"] for f in one["films"]] == [["video"]] * ("V" in coalition)
        assert [s["kinds"] for s in one["sounds"]] == [["audio"]] * ("A" in coalition)
        assert all(media["frames"] > 4 for media in [*one["films"], *one["sounds"]])
        assert one["settings"]["until"] == [] and one["settings"]["do_sample"] is False
    assert {one["task"] for one in seen} == {f"{GROUP}_{task}" for task in TASKS}
