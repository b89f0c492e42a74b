"""The pipeline on throwaway notebooks: parameters, failures, comparison, committed outputs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from emomm_study.paper import COMPARISON
from emomm_study.paths import ROOT
from emomm_study.report.comparison import comparison_path, save_comparison
from emomm_study.run import pipeline, profiles
from emomm_study.run.pairing import PairError, declared_parameters, pair_differences, read_source
from emomm_study.run.report import read_report

SOURCES = pipeline.find_notebooks() if any(pipeline.NOTEBOOKS.glob("[0-9][0-9]_*.py")) else []

GOOD = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Title

# %% tags=["parameters"]
profile = "mini"
seed = 0

# %%
import os, sys
from pathlib import Path
import pandas as pd
print("seed", seed, flush=True)
print("profile", profile)
print("noise", file=sys.stderr)

# %% [markdown]
# ## Section two

# %%
Path(os.environ["EMOMM_TEST_SEEN"]).write_text(f"{sys.executable}\\n{os.getcwd()}\\n{seed}")
from emomm_study.report.comparison import save_comparison
table = pd.DataFrame(
    {"item": ["table3/a"], "published": [1.0], "reproduced": [float(seed)], "low": [0.5],
     "high": [1.5], "tolerance": [0.0], "within": [seed == 1], "profile": [profile], "note": [""]}
)
save_comparison(table, profile, "01", Path(os.environ["EMOMM_TEST_RUNS"]))
len(table)
"""
BAD = """\
# %% [markdown]
# # Broken
# ## The part that fails

# %%
raise ValueError("row 3 of meta.csv: expected a number")
"""


def folder_with(tmp_path: Path, **sources: str) -> list[Path]:
    paths = [tmp_path / f"{name.lstrip('n')}.py" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.fixture
def runs(tmp_path, monkeypatch):
    # prepare_jupyter changes the environment; monkeypatch puts these names back afterwards.
    for name in (
        "JUPYTER_DATA_DIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
        "JUPYTER_PREFER_ENV_PATH",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("EMOMM_TEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("EMOMM_TEST_SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    # The project of these tests may be read-only.
    monkeypatch.setattr(pipeline, "OUTPUTS", ROOT)
    for name in ("FIGURES", "COMMITTED_FIGURES"):
        monkeypatch.setattr(pipeline, name, tmp_path / "figures")
    commit = partial(pipeline.commit_notebook, root=tmp_path / "values")
    monkeypatch.setattr(pipeline, "commit_notebook", commit)
    return tmp_path / "runs"


def test_declared_parameters_are_injected_and_others_ignored(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    said = []
    profile = {"profile": "try", "seed": 1, "unheard_of": 5, "cell_timeout": 60}
    table = pipeline.run([source], profile, runs=runs, say=said.append)
    executable, cwd, seed = (tmp_path / "seen").read_text().splitlines()
    assert os.path.samefile(executable, sys.executable) and Path(cwd) == ROOT and seed == "1"
    injected = nbformat.read(runs / "try" / "01_good.ipynb", as_version=4)
    (cell,) = [c for c in injected.cells if "injected-parameters" in c.metadata.tags]
    assert "unheard_of" not in cell.source and 'profile = "try"' in cell.source
    assert table["within"].tolist() == [True]
    assert (runs / "try" / "comparison.csv").is_file()
    assert source.read_text() == GOOD and not source.with_suffix(".ipynb").exists()
    assert said[0] == "[1/1] 01_good: running" and said[1].startswith("[1/1] 01_good: done in ")
    told = read_report(runs / "try" / "report.json")
    assert said[-2].endswith("report.json") and told["stopped"] is None
    assert told["notebooks"][0]["status"] == "done" and told["parameters"]["seed"] == 1
    assert told["published"][0]["item"] == "table3/a"


def test_refresh_gives_the_same_bytes_twice_and_keeps_out_what_varies(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    profile = {"profile": "mini", "seed": 0}
    pipeline.run([source], profile, refresh=True, runs=runs)
    twin = source.with_suffix(".ipynb")
    first = twin.read_bytes()
    pipeline.run([source], profile, refresh=True, runs=runs)
    assert twin.read_bytes() == first
    assert pair_differences(source) == []
    notebook = nbformat.read(twin, as_version=4)
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3]
    assert b"injected" not in first and b'"noise\\n"' not in first and b'stderr"' not in first
    assert notebook.cells[2].outputs[0].text == "seed 0\nprofile mini\n"
    assert notebook.cells[4].outputs[0].execution_count == 3


def test_refresh_refuses_parameters_other_than_the_notebooks_defaults(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    with pytest.raises(pipeline.PipelineError, match="seed = 0, the profile has 1"):
        pipeline.run([source], {"profile": "mini", "seed": 1}, refresh=True, runs=runs)
    assert not runs.exists()


def test_formats_reach_the_kernels_and_are_checked_before_anything_runs(
    tmp_path, runs, monkeypatch, capsys
):
    monkeypatch.setenv("EMOMM_FIGURE_FORMATS", "png")
    text = "# %%\nfrom emomm_study.report.formats import figure_formats\nprint(figure_formats())\n"
    [source] = folder_with(tmp_path, n01_formats=text)
    monkeypatch.setattr(pipeline, "find_notebooks", lambda: [source])
    monkeypatch.setattr(pipeline, "load_profile", lambda name: {"profile": name})
    monkeypatch.setattr(pipeline, "run", partial(pipeline.run, runs=runs))
    assert pipeline.main(["--formats", "pdf,png,svg"]) == 0
    [cell] = nbformat.read(runs / "mini" / "01_formats.ipynb", as_version=4).cells[-1:]
    assert cell.outputs[0].text == "('png', 'svg', 'pdf')\n"
    capsys.readouterr()
    shutil.rmtree(runs)
    assert pipeline.main(["--formats", "png,jpg"]) == 1
    said = capsys.readouterr()
    assert "expected png, with svg or pdf" in said.err and "'png,jpg'" in said.err
    assert pipeline.main(["--refresh", "--formats", "png,svg,pdf"]) == 1
    assert "--refresh writes the committed figures, which are png,svg" in capsys.readouterr().err
    assert not runs.exists()


def test_refresh_refuses_an_output_with_a_path_of_this_machine(tmp_path, runs):
    text = "# %%\nfrom emomm_study.paths import ROOT\nprint(ROOT / 'data')\n"
    (source,) = folder_with(tmp_path, n01_path=text)
    with pytest.raises(PairError, match="01_path.py, cell 1: an output holds"):
        pipeline.run([source], {"profile": "mini"}, refresh=True, runs=runs)


def test_the_first_failure_stops_the_run_in_plain_words(tmp_path, runs):
    bad, later = folder_with(tmp_path, n01_bad=BAD, n02_good=GOOD)
    with pytest.raises(pipeline.NotebookFailed) as caught:
        pipeline.run([bad, later], {"profile": "mini"}, runs=runs)
    message = str(caught.value)
    assert "[1/2] 01_bad: failed after" in message
    assert "error: ValueError: row 3 of meta.csv: expected a number" in message
    assert "section: The part that fails" in message
    assert "./run_all.sh --profile mini --from 01" in message
    assert "\x1b" not in (runs / "mini" / "01_bad.log").read_text()
    assert "raise ValueError" in (runs / "mini" / "01_bad.log").read_text()
    assert not (runs / "mini" / "02_good.ipynb").exists()
    told = read_report(runs / "mini" / "report.json")
    assert "row 3 of meta.csv" in told["stopped"] and str(runs) not in told["stopped"]
    assert [own["status"] for own in told["notebooks"]] == ["stopped", "not run"]


def test_a_cell_over_its_time_is_named_as_such(tmp_path, runs):
    slow = "# %% [markdown]\n# # Wait\n\n# %%\nimport time; time.sleep(60)\n\n# %%\n1\n"
    (source,) = folder_with(tmp_path, n01_slow=slow)
    with pytest.raises(pipeline.NotebookFailed, match=r"longer than 1 s[\s\S]*section: Wait"):
        pipeline.run([source], {"profile": "mini", "cell_timeout": 1}, runs=runs)


def test_a_stale_comparison_never_outlives_a_failed_run(tmp_path, runs):
    (bad,) = folder_with(tmp_path, n01_bad=BAD)
    stale = comparison_path("mini", "01", runs)
    stale.parent.mkdir(parents=True)
    stale.write_text(",".join(COMPARISON) + "\n")
    with pytest.raises(pipeline.NotebookFailed):
        pipeline.run([bad], {"profile": "mini"}, runs=runs)
    assert not stale.exists()


def test_two_runs_of_one_profile_do_not_mix(tmp_path):
    with pipeline.only_run(tmp_path):
        with pytest.raises(pipeline.PipelineError, match="Another run"):
            with pipeline.only_run(tmp_path):
                pass
    with pipeline.only_run(tmp_path):
        pass


def test_ctrl_c_ends_with_130_and_leaves_no_kernel(tmp_path, runs):
    wait = """
        # %%
        import os, pathlib, time
        pathlib.Path(os.environ["EMOMM_TEST_SEEN"]).write_text(str(os.getpid()))
        time.sleep(120)
    """
    folder_with(tmp_path, n01_wait=textwrap.dedent(wait))
    program = (
        # A test run in the background may have started with Ctrl-C ignored, which is inherited.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; from emomm_study.run import pipeline as p\n"
        f"p.find_notebooks.__defaults__ = (Path({str(tmp_path)!r}),)\n"
        f"p.run.__kwdefaults__['runs'] = Path({str(runs)!r})\n"
        "sys.exit(p.main([]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.strip().startswith("Interrupted.")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "seen").read_text()), 0)


def test_choosing_a_notebook_that_does_not_exist_lists_those_that_do():
    paths = [Path("01_a.py"), Path("02_b.py"), Path("07_c.py")]
    assert pipeline.select(paths, None, None) == paths
    assert pipeline.select(paths, "2", None) == paths[1:]
    assert pipeline.select(paths, None, "02_b") == pipeline.select(paths, None, "02") == [paths[1]]
    with pytest.raises(pipeline.PipelineError, match="'03'[\\s\\S]*01_a\n  02_b\n  07_c"):
        pipeline.select(paths, None, "03")


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(pipeline.PipelineError, match="mini, omni, paper"):
        profiles.load_profile("big")


def test_an_environment_reference_takes_its_value_or_its_default(monkeypatch):
    monkeypatch.setenv("EMOMM_X", "here")
    monkeypatch.delenv("EMOMM_Y", raising=False)
    assert profiles.resolve("${EMOMM_X}/a") == "here/a"
    assert profiles.resolve("${EMOMM_Y:-there}/a") == "there/a"
    assert profiles.resolve("${EMOMM_Y:-}") is None
    assert profiles.resolve(3) == 3
    assert profiles.resolve("") == "" and profiles.resolve("${EMOMM_Y:-}") is None
    assert profiles.resolve(["${EMOMM_X}", 4]) == ["here", 4]
    with pytest.raises(KeyError, match="EMOMM_Y"):
        profiles.resolve("${EMOMM_Y}")


def test_the_paper_profile_without_data_names_every_variable_and_layout(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("EMOMM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMOMM_MODEL", "nobody/no-such-model")
    with pytest.raises(pipeline.PipelineError) as caught:
        profiles.preflight(profiles.load_profile("paper"))
    message = str(caught.value)
    for name in ("CH_SIMS_ROOT", "CMU_MOSI_ROOT", "MOSI_ANNOTATIONS", "MODEL"):
        assert f"export EMOMM_{name}=..." in message
    for line in ("Raw/<video_id>/<clip_id>.mp4", "Raw/Transcript", "label_T", "hf download"):
        assert line in message
    assert "nobody/no-such-model: neither a folder nor the id of a model" in message


def test_preflight_accepts_folders_that_look_right(monkeypatch, tmp_path):
    for name in (
        "sims/ch-simsv2s/meta.csv",
        "mosi/OpinionLevelSentiment.csv",
        "votes.csv",
        "model/config.json",
        "model/a.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("EMOMM_CH_SIMS_ROOT", str(tmp_path / "sims"))
    monkeypatch.setenv("EMOMM_CMU_MOSI_ROOT", str(tmp_path / "mosi"))
    monkeypatch.setenv("EMOMM_MOSI_ANNOTATIONS", str(tmp_path / "votes.csv"))
    monkeypatch.setenv("EMOMM_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("EMOMM_DEVICE", "cpu")
    parameters = profiles.preflight(profiles.load_profile("paper"))
    assert parameters["ch_sims_root"] == str(tmp_path / "sims")
    (tmp_path / "mosi" / "OpinionLevelSentiment.csv").unlink()
    (tmp_path / "model" / "a.safetensors").unlink()
    with pytest.raises(pipeline.PipelineError, match=r"cmu_mosi_root[\s\S]*backbones") as caught:
        profiles.preflight(profiles.load_profile("paper"))
    assert "* ch_sims_root" not in str(caught.value)


def test_a_profile_that_renders_its_corpora_needs_none_on_disk_but_room_for_them(tmp_path):
    root = str(tmp_path / "nowhere" / "at" / "all")
    profiles.preflight({"profile": "p", "render": True, "ch_sims_root": root})
    with pytest.raises(pipeline.PipelineError, match="nowhere/at/all: no such folder"):
        profiles.preflight({"profile": "p", "render": False, "ch_sims_root": root})
    (tmp_path / "nowhere").touch()
    with pytest.raises(pipeline.PipelineError, match="nowhere/at: this user cannot write there"):
        profiles.preflight({"profile": "p", "render": True, "ch_sims_root": root})


def test_one_corpus_may_be_null_or_empty_and_not_both(tmp_path, monkeypatch):
    (tmp_path / "meta.csv").touch()
    monkeypatch.delenv("EMOMM_CMU_MOSI_ROOT", raising=False)
    one = {"profile": "p", "ch_sims_root": str(tmp_path), "annotations": None}
    one["cmu_mosi_root"] = "${EMOMM_CMU_MOSI_ROOT:-}"
    assert profiles.preflight(one)["cmu_mosi_root"] is None
    for render in (False, True):
        with pytest.raises(
            pipeline.PipelineError, match=r"ch_sims_root: null, as cmu_mosi_root is"
        ):
            profiles.preflight(one | {"ch_sims_root": None, "render": render})
    (tmp_path / "label.csv").touch()
    with pytest.raises(pipeline.PipelineError, match=r"annotations: null, where cmu_mosi_root"):
        profiles.preflight(one | {"ch_sims_root": None, "cmu_mosi_root": str(tmp_path)})


@pytest.mark.parametrize("clips", [0, -1, True, "40", 2.5])
def test_clips_that_are_no_count_stop_the_run_before_it_begins(tmp_path, runs, clips):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    with pytest.raises(pipeline.PipelineError, match=r"\* clips: .*from 1 on, or null for all"):
        pipeline.run([source], {"profile": "mini", "clips": clips}, runs=runs)
    assert not runs.exists()


def test_clips_of_the_command_line_go_before_the_profiles(monkeypatch):
    given = []
    monkeypatch.setattr(
        pipeline, "run", lambda s, profile, **_: given.append(profile["clips"]) or []
    )
    monkeypatch.setattr(pipeline, "load_profile", lambda name: {"profile": name, "clips": 7})
    monkeypatch.setattr(pipeline, "_closing", lambda *_, **__: "")
    assert pipeline.main(["--clips", "40"]) == 0 and pipeline.main([]) == 0
    assert given == [40, 7]


def test_committed_outputs_are_never_those_of_a_part(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD.replace("seed = 0", "seed = 0\nclips = None"))
    with pytest.raises(
        pipeline.PipelineError, match="--refresh needs.*\n.*clips = None, .* has 40"
    ):
        pipeline.run([source], {"profile": "mini", "clips": 40}, refresh=True, runs=runs)


def test_a_device_that_torch_does_not_find_stops_the_run():
    with pytest.raises(pipeline.PipelineError, match=r"\* device: nonsense:3: "):
        profiles.preflight({"profile": "p", "device": "nonsense:3"})


@pytest.mark.parametrize("name", ["paper", "omni"])
def test_every_profile_sets_the_same_parameters(name):
    assert list(profiles.load_profile(name)) == list(profiles.load_profile("mini"))


def test_a_run_ends_with_a_screen_and_writes_the_page_with_every_number(tmp_path):
    rows = [
        ("table1/a", 1.0, 1.0, 0.9, 1.1, 0.0, True, "mini", ""),
        ("table1/bb", 0.5, 0.75, None, None, 0.1, False, "mini", ""),
        ("table2/c", 2.0, -0.25, -0.5, 0.0, None, None, "mini", "not comparable: another"),
    ]
    path = comparison_path("mini", "01", tmp_path)
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=list(COMPARISON)).to_csv(path, index=False)
    said = pipeline._closing("mini", [], refresh=False, runs=tmp_path).splitlines()
    assert said == [
        "Table 1: 1 of 2 numbers as published; not: table1/bb",
        "3 numbers compared: 1 as published, 1 not, 1 not comparable",
        f"All of it, number beside number: {tmp_path / 'mini' / 'RESULTS.md'}",
    ]
    page = (tmp_path / "mini" / "RESULTS.md").read_text(encoding="utf-8")
    minus = "\N{MINUS SIGN}"
    assert f"| table2/c | 2 | {minus}0.25 [{minus}0.5, 0] | not comparable: another |" in page


def test_a_comparison_with_other_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="notebook 01: expected the columns"):
        save_comparison(pd.DataFrame({"item": []}), "mini", "01", tmp_path)


def test_a_parameters_cell_may_only_hold_literals(tmp_path):
    (source,) = folder_with(tmp_path, n01_x='# %% tags=["parameters"]\nseed = int("3")\n')
    with pytest.raises(PairError, match="01_x.py: the parameters cell holds"):
        declared_parameters(read_source(source), source.name)


def test_an_edited_or_unexecuted_twin_is_noticed(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    assert pair_differences(source) == ["01_good.ipynb is missing"]
    pipeline.run([source], {"profile": "mini", "seed": 0}, refresh=True, runs=runs)
    source.write_text(GOOD.replace("Section two", "Section 2"))
    assert pair_differences(source) == ["cell 4: text differs between the files"]
    source.write_text(GOOD)
    twin = source.with_suffix(".ipynb")
    notebook = nbformat.read(twin, as_version=4)
    notebook.cells[2].execution_count = None
    nbformat.write(notebook, twin)
    assert pair_differences(source) == ["01_good.ipynb, cell 3: never ran"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_committed_notebook_is_the_executed_twin_of_its_source(source):
    assert pair_differences(source) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_opened_by_hand_has_the_mini_profiles_parameters(source):
    profile = profiles.load_profile("mini")
    declared = declared_parameters(read_source(source), source.name)
    assert declared == {name: profiles.resolve(profile[name]) for name in declared}


def code(text: str) -> str:
    return GOOD[: GOOD.index("# %% [markdown]")] + "# %% [markdown]\n# # Title\n\n# %%\n" + text


FULL_INSIDE = {
    "a file": "with open(full, 'w') as file:\n    file.write('x' * 10**6)\n",
    "a table": "import pandas as pd\npd.DataFrame({'a': range(9)}).to_csv(full)\n",
    "parquet": "import pandas as pd\npd.DataFrame({'a': range(9)}).to_parquet(full)\n",
    "weights": "raise RuntimeError('I/O error: No space left on device (os error 28)')\n",
    "a database": (
        "import sqlite3\ndb = sqlite3.connect(':memory:')\n"
        "db.execute('pragma max_page_count = 2')\n"
        "for i in range(9):\n    db.execute(f'create table t{i} (a)')\n"
    ),
    "hidden in a cause": (
        "try:\n    open(full, 'w').write('x' * 10**6)\n"
        "except OSError as error:\n    raise ValueError('the store is damaged') from error\n"
    ),
    "a quota": "import errno, os\nraise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), '/a')\n",
}


@pytest.mark.parametrize("text", FULL_INSIDE.values(), ids=list(FULL_INSIDE))
def test_a_disk_that_fills_inside_a_notebook_is_one_sentence(text, tmp_path, runs):
    # Libraries remove what they could not write, so the device itself is not what they are given.
    (tmp_path / "full").symlink_to("/dev/full")
    (source,) = folder_with(tmp_path, n03_full=code(f"full = '{tmp_path}/full'\n{text}"))
    with pytest.raises(pipeline.DiskFull) as caught:
        pipeline.run([source], {"profile": "mini"}, runs=runs)
    assert re.fullmatch(
        r"\[1/1\] 03_full: stopped after [\d.]+ s, because the disk of \S+ is full; what had "
        r"finished is kept: make room, and go on with \./run_all\.sh --profile mini --from 03",
        str(caught.value),
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_disk_that_is_full_for_the_outputs_is_one_sentence(jobs, tmp_path, runs):
    sources = folder_with(tmp_path, n01_good=GOOD, n02_good=GOOD)
    (runs / "mini").mkdir(parents=True)
    (runs / "mini" / "01_good.ipynb").symlink_to("/dev/full")
    (runs / "mini" / "01_good.log").symlink_to("/dev/full")
    with pytest.raises(pipeline.DiskFull, match=r"^\[1/2\] 01_good: stopped.* --from 01$"):
        pipeline.run(sources, {"profile": "mini", "jobs": jobs}, runs=runs)


def test_a_disk_that_is_full_for_the_closing_table_is_one_sentence(
    tmp_path, runs, monkeypatch, capsys
):
    folder_with(tmp_path, n01_good=GOOD)
    (runs / "mini").mkdir(parents=True)
    (runs / "mini" / "comparison.csv").symlink_to("/dev/full")
    monkeypatch.setattr(pipeline.find_notebooks, "__defaults__", (tmp_path,))
    monkeypatch.setitem(pipeline.run.__kwdefaults__, "runs", runs)
    assert pipeline.main([]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("Stopped, because the disk of") and sentence.endswith("run again")


def test_an_error_that_a_full_disk_may_cause_is_taken_for_one_only_where_no_room_is_left(
    tmp_path, runs, monkeypatch
):
    (source,) = folder_with(tmp_path, n01_dies=code("import os\nos._exit(7)\n"))
    with pytest.raises(pipeline.NotebookFailed, match="error: the kernel died"):
        pipeline.run([source], {"profile": "mini"}, runs=runs)
    room = shutil.disk_usage(tmp_path)
    left = iter([room, room, room])
    monkeypatch.setattr(
        pipeline.shutil, "disk_usage", lambda path: next(left, room._replace(free=0))
    )
    with pytest.raises(pipeline.DiskFull):
        pipeline.run([source], {"profile": "mini"}, runs=runs)


def test_an_error_that_only_speaks_of_a_disk_stays_what_it_is(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_bad=code("raise OSError('disk I/O error')\n"))
    with pytest.raises(pipeline.NotebookFailed, match="error: OSError: disk I/O error") as caught:
        pipeline.run([source], {"profile": "mini"}, runs=runs)
    assert not isinstance(caught.value, pipeline.DiskFull)


def test_an_output_that_cannot_be_written_is_a_failure_in_plain_words(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    (runs / "mini").mkdir(parents=True)
    (runs / "mini" / "01_good.ipynb").mkdir()
    with pytest.raises(pipeline.NotebookFailed, match="IsADirectoryError"):
        pipeline.run([source], {"profile": "mini"}, runs=runs)


def test_too_little_room_says_what_is_needed_and_free_and_counts_what_is_there(
    tmp_path, runs, monkeypatch
):
    sources = folder_with(tmp_path, n01_good=GOOD, n02_good=GOOD)
    profile = {"profile": "mini", "disk_gb": 1}
    little = shutil.disk_usage(tmp_path)._replace(free=4 * 10**8)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: little)
    with pytest.raises(pipeline.PipelineError, match=r"needs 1\.00 GB more.* 0\.40 GB are free"):
        pipeline.check_run(profile, sources, refresh=False, runs=runs)
    pipeline.check_run(profile, sources[:1], refresh=False, runs=runs)
    (tmp_path / "cache" / "states").mkdir()
    with open(tmp_path / "cache" / "states" / "a", "wb") as file:
        file.truncate(7 * 10**8)
    pipeline.check_run(profile, sources, refresh=False, runs=runs)


@pytest.mark.parametrize(("clips", "gigabytes"), [(None, "30.00"), (100, "0.80"), (10**6, "30.00")])
def test_the_room_that_is_needed_is_that_of_the_clips_asked_for(
    tmp_path, runs, monkeypatch, clips, gigabytes
):
    sources = folder_with(tmp_path, n01_good=GOOD, n02_good=GOOD)
    profile = {"profile": "mini", "clips": clips, "disk_gb": 30, "disk_mb_a_clip": 8}
    little = shutil.disk_usage(tmp_path)._replace(free=5 * 10**8)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: little)
    with pytest.raises(pipeline.PipelineError, match=rf"needs {gigabytes} GB more"):
        pipeline.check_run(profile, sources, refresh=False, runs=runs)
    pipeline.check_run(profile | {"clips": 50}, sources, refresh=False, runs=runs)


def test_a_process_that_runs_notebooks_imports_neither_matplotlib_nor_torch():
    code = (
        "import sys, emomm_study.run.pipeline; print(*{'torch', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_refresh_that_cannot_write_stops_before_anything_runs(tmp_path, runs, monkeypatch):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    twin = source.with_suffix(".ipynb")
    # Root may write where the file's mode says that nobody may.
    allowed = os.access
    monkeypatch.setattr(
        pipeline.os, "access", lambda path, mode: Path(path) != twin and allowed(path, mode)
    )
    twin.touch()
    with pytest.raises(pipeline.PipelineError, match=r"--refresh rewrites .*01_good\.ipynb"):
        pipeline.run([source], {"profile": "mini", "seed": 0}, refresh=True, runs=runs)
    assert not (tmp_path / "seen").exists()
    pipeline.check_run({"profile": "mini"}, [source], refresh=False, runs=runs)


def test_outputs_go_where_a_folder_name_has_braces(tmp_path, runs):
    (source,) = folder_with(tmp_path, n01_good=GOOD)
    pipeline.run([source], {"profile": "mini"}, runs=runs / "{x}{}")
    assert (runs / "{x}{}" / "mini" / "01_good.ipynb").is_file()


NOT_UTF8 = os.fsdecode(b"\xb1\xed\xc7\xe9")


@pytest.mark.parametrize("name", ["ch_sims_root", "cmu_mosi_root", "annotations", "backbones"])
def test_a_folder_whose_name_is_not_utf8_is_named_before_anything_runs(name, tmp_path):
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    for file in ("meta.csv", "label.csv", "config.json", "a.safetensors"):
        (folder / file).touch()
    value = str(folder / "label.csv" if name == "annotations" else folder)
    value = ["data/omni-mini", f"{value}?audio=full"] if name == "backbones" else value
    for render in (False, True):
        with pytest.raises(pipeline.PipelineError) as caught:
            profiles.preflight({"profile": "p", name: value, "render": render})
        assert rf"* {name}: {tmp_path}/\xb1\xed\xc7\xe9" in str(caught.value)
        assert "rename the folder" in str(caught.value)
    link = tmp_path / "link"
    link.symlink_to(folder)
    linked = link / "label.csv" if name == "annotations" else link
    value = [str(linked)] if name == "backbones" else str(linked)
    assert profiles.preflight({"profile": "p", name: value})[name] == value


def test_a_folder_inside_a_corpus_whose_name_is_not_utf8_is_named_too(tmp_path):
    (tmp_path / NOT_UTF8).mkdir()
    (tmp_path / NOT_UTF8 / "meta.csv").touch()
    with pytest.raises(pipeline.PipelineError, match=r"\\xb1.*\\xe9: this path is not UTF-8"):
        profiles.preflight({"profile": "p", "ch_sims_root": str(tmp_path)})


def test_a_path_that_the_system_refuses_is_a_complaint_like_any_other():
    with pytest.raises(pipeline.PipelineError, match="File name too long"):
        profiles.preflight({"profile": "p", "ch_sims_root": "x" * 300})


def test_the_preflight_of_paths_imports_no_torch():
    program = (
        "import sys; from emomm_study.run import pipeline as p\n"
        "p.preflight({'profile': 'p', 'backbones': ['data/omni-mini'], 'render': True})\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
