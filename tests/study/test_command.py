"""``emomm`` on the command line: on a phone's film, on little corpora, and where it is refused."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tomllib
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import av
import nbformat
import numpy as np
import pandas as pd
import pytest
from explorer_bench import small_router
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.labels import LETTERS
from emomm_study.annotation.campaign import Answer, Campaign
from emomm_study.command import ask, profile
from emomm_study.command.main import main, parser
from emomm_study.corpora.manifest import read_manifest
from emomm_study.paths import ROOT
from emomm_study.run import check as checks, pipeline
from emomm_study.run.checked import Checked
from emomm_study.systems.omni import OmniModel

TURN = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
"""The display matrix of a phone held upright: its sensor lies on its side."""
QUARTERS = [[40, 100], [160, 220]]
ECHO = ["--system", "driver:echo"]


def phone_film(path: Path) -> Path:
    """As a phone writes it: lying on its side, at no steady rate, with stereo sound at 48 kHz."""
    upright = np.kron(np.array(QUARTERS, np.uint8), np.ones((160, 120), np.uint8))
    stored = np.ascontiguousarray(np.repeat(np.rot90(upright)[..., None], 3, 2))
    left = tone(2.0, 48_000)
    sound = np.stack([left, np.zeros_like(left)])
    tick, now = Fraction(1, 600), 0
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *stored.shape[:2], "yuv420p"
        video.codec_context.time_base = video.time_base = tick
        video.set_display_matrix(TURN)
        audio = container.add_stream("aac", rate=48_000, layout="stereo")
        for i in range(40):
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts, frame.time_base = now, tick
            now += (20, 21, 40)[i % 3]
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for start in range(0, sound.shape[1], 1024):
            block = np.ascontiguousarray(sound[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


@pytest.fixture(scope="module")
def phone(tmp_path_factory) -> str:
    return str(phone_film(tmp_path_factory.mktemp("phone") / "IMG 0001.mp4"))


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> str:
    return str(write_mp4(tmp_path_factory.mktemp("silent") / "s.mp4", frames=grey_frames(size=64)))


# The parser


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser by its words; the top's by none."""
    found, left = {}, {"": parser()}
    while left:
        name, own = left.popitem()
        found[name] = own
        for action in own._actions:
            if isinstance(action, argparse._SubParsersAction):
                left |= {f"{name} {k}".strip(): v for k, v in action.choices.items()}
    return found


@pytest.mark.parametrize("name", parsers())
def test_every_help_ends_in_examples_that_can_be_parsed(name):
    text = parsers()[name].format_help()
    _, _, examples = text.partition("Examples:\n")
    commands = examples.replace("\\\n", " ").strip().splitlines()
    assert commands
    for command in commands:
        words = shlex.split(command.partition("|")[0])
        assert words[0] == "emomm" and " ".join(words).startswith(f"emomm {name}".strip())
        parser().parse_args(words[1:])


def test_every_command_of_the_page_can_be_parsed():
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^emomm .*", page, re.M)
    for command in commands:
        parser().parse_args(shlex.split(command.partition("|")[0], comments=True)[1:])
    named = {command.split()[1] for command in commands}
    assert named == {name for name in parsers() if name and " " not in name}


def test_help_imports_nothing_that_takes_time():
    program = (
        "import sys; from emomm_study.command.main import parser; parser().format_help()\n"
        "sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_entry_point_and_the_module_are_one_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["emomm"].partition(":")
    assert getattr(import_module(module), name) is main
    command = [sys.executable, "-m", "emomm_study.command", "ask", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: emomm ask")


def test_an_error_of_the_program_keeps_its_traceback(phone, monkeypatch):
    monkeypatch.setattr(ask, "_asked", lambda *_: {}["nothing"])
    with pytest.raises(KeyError):
        main(["ask", phone])


def test_a_package_that_lacks_is_named(refused, phone, monkeypatch):
    monkeypatch.delitem(sys.modules, "emomm_study.command.ask")
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    assert "scipy.special is not installed; the commands need the extra study" in refused(
        "ask", phone
    )


# One clip


def test_a_phones_film_reaches_the_system_upright_and_its_sound_in_mono(found, phone, monkeypatch):
    seen, encode = [], OmniModel.encode

    def spied(model, clips):
        seen.extend(clips)
        return encode(model, clips)

    monkeypatch.setattr(OmniModel, "encode", spied)
    answer = found("ask", phone, "--text", "What a day", "--frames", "6")
    [clip] = seen
    assert clip.frames.frames.shape == (6, 320, 240, 3)
    places = clip.frames.frames[:, [80, 240]][:, :, [60, 180]].mean(-1)
    assert np.abs(places - QUARTERS).max() < 8
    assert clip.sound.ndim == 1 and 1.9 < len(clip.sound) / 16_000 < 2.1
    crossings = (np.diff(np.sign(clip.sound[8000:24_000])) != 0).sum()
    assert abs(crossings - 880) < 10 and abs(np.abs(clip.sound[8000:24_000]).max() - 0.25) < 0.02
    assert answer["coalition"] == "TAV" and answer["absent"] == {}


def test_an_answer_has_letter_score_and_attention(found, phone, capsys):
    answer = found("ask", phone, "--text", "What a day")
    chances, budget = answer["probabilities"], answer["budget"]
    assert list(chances) == list(LETTERS) and sum(chances.values()) == pytest.approx(1)
    assert max(chances, key=chances.get) == answer["letter"] == LETTERS[answer["label"]]
    assert answer["score"] in np.arange(-5, 6) / 5
    assert sum(budget.values()) == pytest.approx(1)
    assert np.mean(answer["budget_by_layer"], 0) == pytest.approx(list(budget.values()))
    assert all(n > 0 for n in answer["tokens"].values())
    assert "drawn faces" in answer["notes"][0]
    assert main(["ask", phone, "--text", "What a day"]) == 0
    out, err = capsys.readouterr()
    assert f"answer  {answer['letter']}, {answer['name']}" in out and "cmu_mosi" in out
    assert "drawn faces and synthetic voices alone" in err


def test_what_is_absent_is_said_and_the_rest_is_asked(found, phone, silent):
    answer = found("ask", phone)
    assert answer["coalition"] == "AV" and "--text" in answer["absent"]["T"]
    assert answer["budget"]["T"] is None and answer["tokens"]["T"] == 0
    answer = found("ask", silent, "--text", "Well", "--corpus", "ch_sims_v2")
    assert answer["coalition"] == "TV" and "no sound track" in answer["absent"]["A"]


def test_sound_and_text_may_come_from_files_of_their_own(found, silent, put, tmp_path):
    wav, said = put(tmp_path / "a.wav"), tmp_path / "said.txt"
    said.write_text("真不错\n", encoding="utf-8")
    answer = found("ask", silent, "--audio", str(wav), "--text-file", str(said))
    assert answer["coalition"] == "TAV" and answer["tokens"]["A"] > 0
    assert found("ask", str(wav), "--coalition", "a")["coalition"] == "A"


def test_a_system_that_only_answers_is_asked_too(found, phone):
    answer = found("ask", phone, "--text", "simply wonderful", "--coalition", "vt", *ECHO)
    assert (answer["coalition"], answer["letter"]) == ("TV", "E")
    assert answer["budget"] is None and answer["notes"] == []


@pytest.mark.parametrize(
    "more, said",
    [
        (
            ["--coalition", "TA"],
            "TA cannot be asked: no transcript was given (--text); s.mp4 has no",
        ),
        (["--coalition", "AV"], "What can be is --coalition V"),
        (["--coalition", "TX"], "modalities are distinct letters"),
        (["--audio", "none.wav"], "none.wav: no such file"),
        (["--text-file", "none.txt"], "none.txt: No such file or directory"),
        (["--system", "data/none"], "neither a folder nor the id of a model"),
        (["--system", "driver:none"], "driver:none names no driver"),
        (["--device", "nonsense"], "nonsense: "),
        (["--frames", "0"], "must be positive"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(refused, silent, more, said):
    assert said in refused("ask", silent, *more)


def test_a_file_that_is_no_clip_is_said_to_be_none(refused, put, tmp_path):
    assert "not a readable film or sound" in refused("ask", str(put(tmp_path / "x.mp4", "junk")))
    (tmp_path / "said.txt").write_bytes("好".encode("gb18030"))
    line = ["ask", str(put(tmp_path / "z.mp4")), "--text-file", str(tmp_path / "said.txt")]
    assert "not a text in UTF-8" in refused(*line)
    assert "cut short" in refused("ask", str(put(tmp_path / "y.mp4", "cut")), "--coalition", "V")


def test_steering_shows_both_answers_and_what_the_router_said(found, refused, phone, tmp_path):
    model = OmniModel.load(ROOT / "data" / "omni-mini", dtype="float32")
    router = tmp_path / "router"
    small_router(SimpleNamespace(model=model)).save_pretrained(router)
    line = ["steer", phone, "--text", "What a day", "--router", str(router)]
    steered = found(*line, "--gamma", "8", "--top-k", "3", "--layer", "5")
    assert steered["configuration"]["gamma"] == 8 and steered["configuration"]["tau"] == 0.7
    assert [own["layer"] for own in steered["layers"]] == [5, 6, 7, 8]
    for own in steered["layers"]:
        assert own["p"] > 0.7 and sum(own["gate"].values()) == pytest.approx(1)
        assert len(own["heads"]) == 3 and set(own["heads"]) <= set(range(1, 9))
    assert steered["before"]["budget"] != steered["after"]["budget"]
    asked = found("ask", phone, "--text", "What a day")
    assert steered["before"]["letter"] == asked["letter"]
    assert list(steered["before"]["budget"].values()) == pytest.approx(
        list(asked["budget"].values()), abs=1e-4
    )
    still = found(*line, "--tau", "1", "--layer", "2", "--coalition", "T")
    before, after = (list(still[when]["probabilities"].values()) for when in ("before", "after"))
    assert before == pytest.approx(after, abs=1e-4) and len(still["notes"]) == 4
    assert still["after"]["budget"] == {"T": pytest.approx(1), "A": None, "V": None}
    assert "tau is in [0, 1]" in refused(*line, "--tau", "2")
    assert "has no config.json" in refused(*line[:-1], str(tmp_path))
    assert "only answers" in refused(*line, *ECHO)


# The benchmark


@pytest.fixture(scope="module")
def sims(tmp_path_factory) -> Path:
    """A CH-SIMS folder of eighty clips of forty videos, which are one film."""
    root = tmp_path_factory.mktemp("sims")
    clip = write_mp4(root / "clip.mp4", frames=grey_frames(size=56), sound=tone(0.5))
    scores = np.random.default_rng(0).choice([-0.8, 0.0, 0.6], (80, 4))
    scores[::2] = scores[::2, :1]
    rows = [(f"v{i // 2:02d}", f"{i:04d}", f"remark {i}", *scores[i]) for i in range(80)]
    for video, own, *_ in rows:
        (root / "Raw" / video).mkdir(parents=True, exist_ok=True)
        (root / "Raw" / video / f"{own}.mp4").symlink_to(clip)
    names = ["video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V"]
    pd.DataFrame(rows, columns=names).to_csv(root / "meta.csv", index=False)
    return root


@pytest.fixture(scope="module")
def benchmark_file(sims, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("benchmark")
    assert main(["build", "--ch-sims", str(sims), "--all-clips", "--out", str(out)]) == 0
    return out / "manifest.parquet"


def test_a_benchmark_is_built_from_a_folder(found, refused, sims, tmp_path):
    line = ["build", "--ch-sims", str(sims), "--out", str(tmp_path)]
    built = found(*line, "--all-clips")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert built["clips"] == len(manifest) == 80 == sum(built["splits"].values())
    assert built["corpora"]["ch_sims_v2"]["excluded"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "manifest.parquet", "datasheet.md", "excluded_ch_sims_v2.csv"
    }  # fmt: skip
    assert "cannot fill the quotas" in refused(*line)
    assert "needs a corpus" in refused("build", "--out", str(tmp_path))
    assert "no such folder" in refused("build", "--cmu-mosi", "none", "--out", str(tmp_path))


def test_a_systems_answers_are_written_and_scored_as_score_does(
    found, refused, sims, benchmark_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    line = ["evaluate", "--benchmark", str(benchmark_file), "--ch-sims", str(sims), *ECHO]
    answers, tables = tmp_path / "answers.csv", tmp_path / "tables"
    asked = found(*line, "--out", str(answers))
    assert asked["system"] == "echo (no model)" and asked["lost"] == []
    again = ["score", str(answers), "--benchmark", str(benchmark_file)]
    scored = found(*again, "--out", str(tables))
    assert scored["table1"] == asked["table1"] and scored["psmv"] is scored["gtar"] is None
    assert {row["subset"] for row in scored["table1"]} == {
        "overall",
        "align",
        "conflict",
        "missing",
    }
    assert {path.name for path in tables.iterdir()} == {"table1.csv", "counts.csv", "lost.csv"}
    assert main(again) == 0 and "Table 1, with 95% intervals" in capsys.readouterr().out
    part = found(*line, "--coalitions", "TAV,T", "--out", str(tmp_path / "part.jsonl"))
    kept = [row for row in asked["table1"] if row["subset"] in ("align", "conflict")]
    assert part["table1"] == kept
    assert "instances have no answer" in refused(*again, "--split", "all")
    assert "name such a file" in refused(*line, "--out", str(tmp_path / "x.txt"))
    assert "no manifest there" in refused(*again[:-1], "none.parquet")
    assert "of which no root is given" in refused(*line[:3], *ECHO, "--out", str(answers))


def test_all_coalitions_give_psmv_and_gtar(found, sims, benchmark_file, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    line = ["evaluate", "--benchmark", str(benchmark_file), "--ch-sims", str(sims), *ECHO]
    every = "none,T,A,V,TA,TV,AV,TAV"
    asked = found(*line, "--split", "all", "--coalitions", every, "--out", str(tmp_path / "a.csv"))
    assert asked["clips"] == 80 and asked["psmv"] and asked["gtar"]


def test_a_profile_brings_its_benchmark_and_its_model(
    found, sims, benchmark_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    mini = pipeline.load_profile("mini") | {"ch_sims_root": str(sims), "cmu_mosi_root": None}
    mini |= {"annotations": None, "keep_encodings": False}
    monkeypatch.setattr(profile, "load_profile", lambda name: mini)
    evaluate = import_module("emomm_study.command.evaluate")
    monkeypatch.setattr(evaluate, "RUNS", tmp_path)
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "manifest.parquet").write_bytes(benchmark_file.read_bytes())
    line = ["evaluate", "--profile", "mini", "--out", str(tmp_path / "a.csv")]
    asked = found(*line, "--coalitions", "TAV")
    assert asked["system"] == "omni-mini" and asked["clips"] > 0
    assert pd.read_csv(tmp_path / "a.csv")["letter"].isin([*LETTERS]).all()


def test_a_benchmark_is_exported_once_into_an_empty_folder(
    found, refused, benchmark_file, tmp_path
):
    pytest.importorskip("mlcroissant")
    line = ["export", "huggingface", "--benchmark", str(benchmark_file), "--out", str(tmp_path)]
    line += ["--note", "Made-up clips.", "--terms"]
    assert len(found(*line, "MIT")["files"]) == 8
    assert "its terms" in refused(*line, "")
    (tmp_path / "mine.txt").touch()
    assert "give an empty folder" in refused(*line, "MIT")


def test_tasks_for_lmms_eval_are_exported_with_the_split_that_is_asked_for(
    found, refused, benchmark_file, tmp_path
):
    line = ["export", "lmms-eval", "--benchmark", str(benchmark_file), "--out", str(tmp_path)]
    made = found(*line, "--note", "Made-up clips.", "--split", "all")
    assert made["tasks"] == [f"emomm_{t}" for t in ("align", "conflict", "missing", "single")]
    assert {Path(path) for path in made["files"]} == {p for p in tmp_path.rglob("*") if p.is_file()}
    clips = len(read_manifest(benchmark_file))
    assert len(pd.read_parquet(tmp_path / "data" / "missing.parquet")) == 3 * clips
    assert "say of which clips" in refused(*line, "--note", "")
    (tmp_path / "mine.txt").touch()
    assert "give an empty folder" in refused(*line, "--note", "Made-up clips.")


# The pipeline


def test_check_says_go_or_no_by_its_status(found, refused, monkeypatch):
    monkeypatch.setattr(checks, "check_profile", lambda *_, **__: Checked("mini", "none"))
    assert found("check")["go"] is True
    no = Checked("mini", "none", refused=["the model is not there"])
    monkeypatch.setattr(checks, "check_profile", lambda *_, **__: no)
    assert found("check", status=1)["refused"] == ["the model is not there"]
    assert "There is no profile 'none'" in refused("check", "--profile", "none")


def test_run_is_what_run_all_does(found, refused, monkeypatch):
    row = {"item": "Table 3", "published": 1.0, "reproduced": np.nan, "low": np.nan, "high": np.nan}
    table = pd.DataFrame([row | {"within": False, "note": ""}])

    def run(sources, own, *, refresh):
        print("[1/1] running")
        assert [s.stem[:2] for s in sources] == ["02"] and own["clips"] == 40 and not refresh
        return table

    monkeypatch.setattr(pipeline, "run", run)
    ran = found("run", "--only", "02", "--clips", "40")
    [shown] = ran["comparison"]
    assert (shown["published"], shown["reproduced"], shown["within"]) == (1.0, None, False)
    assert "There is no notebook '99'" in refused("run", "--only", "99")


# Annotation


@pytest.fixture
def mosi(tmp_path, put) -> Path:
    """A CMU-MOSI folder of ten clips in MMSA's layout."""
    root = tmp_path / "mosi"
    rows = [(f"video{i}", "1", f"remark {i}", i % 5 * 1.5 - 3) for i in range(10)]
    for video, own, *_ in rows:
        put(root / "Raw" / video / f"{own}.mp4")
    names = ["video_id", "clip_id", "text", "label"]
    pd.DataFrame(rows, columns=names).to_csv(root / "label.csv", index=False)
    return root


def test_a_campaign_is_made_labelled_watched_and_exported(found, refused, mosi, tmp_path):
    path, out = str(tmp_path / "c.sqlite"), str(tmp_path / "annotations.csv")
    create = ["annotate", "create", path, "--cmu-mosi", str(mosi), "--clips", "5"]
    assert found(*create)["annotators"] == ["A1", "A2", "A3", "A4", "A5"]
    assert "is there already" in refused(*create)
    assert "no votes yet" in refused("annotate", "export", path, "--out", out)
    campaign = Campaign(path)
    for name in campaign.annotators:
        while task := campaign.task(name):
            campaign.record([Answer(name, task.modality, task.seq, 1, task.phase)])
    rows = found("annotate", "progress", path)["progress"]
    assert all(row["done"] == row["total"] == 5 for row in rows) and len(rows) == 5 * len("TAV")
    votes = str(tmp_path / "votes.csv")
    written = found("annotate", "export", path, "--out", out, "--votes", votes)
    assert written["clips"] == 5 and len(pd.read_csv(out)) == 5 and len(pd.read_csv(votes)) == 75
    own = ["annotate", "notebook", path, "--cmu-mosi", str(mosi), "--out"]
    found(*own, str(tmp_path / "A2.ipynb"), "--annotator", "A2")
    [cell] = nbformat.read(tmp_path / "A2.ipynb", as_version=4).cells
    scope: dict = {}
    exec(compile(cell.source, "A2", "exec"), scope)
    assert len(scope["clips"]) == 10
    assert "A9 is no annotator" in refused(*own, out, "--annotator", "A9")
    assert "label.csv" in refused("annotate", "progress", str(mosi / "label.csv"))
