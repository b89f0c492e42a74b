"""Runs where the project, the home folder, the locale or the user's name are no help."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
import pytest
import soundfile
from tiny_media import tone

from emomm_study import environment, paths
from emomm_study.environment import CACHES
from emomm_study.media.models import fetch_models
from emomm_study.paths import ROOT, PlaceError, is_utf8, located, plain, writable

NOT_UTF8 = os.fsdecode(b"corpus-\xb1\xed\xc7\xe9")
ODD = """表情 'q' "d" 100% #1 {x} $HOME [a] & ;é"""
NOBODY = "12345"

HEAD = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""
SMALL = """
    # %% tags=["parameters"]
    profile = "mini"

    # %%
    from pathlib import Path
    import pandas as pd
    from matplotlib import pyplot as plt
    from emomm_study.media.audio import read_audio
    from emomm_study.paths import cache_dir, located, run_dir
    from emomm_study.notebook import open_run

    # %%
    sound = read_audio(located("cache/sound.wav"))[:8_000]
    print("音", len(sound))
    pd.DataFrame({"表情": sound[:3]}).to_parquet(run_dir(profile) / "表.parquet")
    fig, ax = plt.subplots()
    ax.plot(sound[:100])
    ax.set_title("表情")
    run = open_run("01_small", globals())
    run.publish(fig, "sound", "Figure 1", "A sound", of="0")
"""


def nameless() -> list[str]:
    """Words before a command that has to be run as a user who owns nothing and has no name.

    None for a user whom permissions bind anyway. Root becomes another, who may still read all:
    the interpreter may be in root's own folder.
    """
    if os.geteuid() != 0:
        return []
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reads_all = [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps")]
    for found in ([*words, *reads_all, "--bounding-set=-all,+dac_read_search"], words):
        if subprocess.run([*found, sys.executable, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise AssertionError("setpriv cannot start Python as another user")


@pytest.fixture(scope="module")
def stranger() -> list[str]:
    return nameless()


def give_away(path: Path) -> Path:
    if os.geteuid() == 0:
        os.chown(path, int(NOBODY), int(NOBODY))
    return path


def freeze(folder: Path) -> Path:
    """Take away everyone's right to write."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    return folder


def new_place() -> Iterator[Path]:
    """A folder that other users may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


place = pytest.fixture(new_place)
lasting_place = pytest.fixture(new_place, scope="module")


@pytest.fixture
def cache(place: Path) -> Path:
    """A cache of the stranger's."""
    (place / "cache").mkdir()
    return give_away(place / "cache")


@pytest.fixture(scope="module")
def sound(lasting_place: Path) -> Path:
    """Another that lasts, with a wav of 22,050 samples a second; numba takes a minute to fill it."""
    folder = lasting_place / "cache"
    folder.mkdir()
    soundfile.write(folder / "sound.wav", tone(0.5, rate=22_050), 22_050)
    with_models(folder)
    return give_away(folder)


def with_models(cache: Path) -> Path:
    """The cache with MediaPipe's models, which a run would download."""
    (cache / "mediapipe").mkdir()
    for model in fetch_models():
        shutil.copy(model, cache / "mediapipe")
    give_away(cache / "mediapipe")
    return cache


def project(folder: Path, source: str = SMALL) -> Path:
    """The project with one small notebook in place of its own."""
    for name in ("emomm_lib", "emomm_study", "scripts", "notebooks/profiles", "data/paper"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("run_all.sh", "run_tests.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "notebooks" / "01_small.py").write_text(
        HEAD + textwrap.dedent(source), encoding="utf-8"
    )
    return folder


def variables(**given: str) -> dict[str, str]:
    """The environment of a bare container with this interpreter's environment active."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "VIRTUAL_ENV": sys.prefix, "PYTHONDONTWRITEBYTECODE": "1", **given}


def call(command: list, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, encoding="utf-8", errors="replace"
    )


def made(folder: Path, name: str) -> bool:
    return any(folder.rglob(name))


def test_with_the_cache_alone_a_run_reads_sound_and_draws(place, sound, stranger):
    cache, root = sound, freeze(project(place / "project"))
    env = variables(EMOMM_CACHE=str(cache), LC_ALL="C", HOME="/nonexistent")
    done = call([*stranger, "bash", "run_all.sh"], root, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{root}/runs cannot be written to: runs and figures go to {cache}" in done.stdout
    assert f"{cache}/runs/mini/01_small.ipynb" in done.stdout
    assert (cache / "figures" / "mini" / "sound.png").is_file()
    [text] = [
        output.text
        for cell in nbformat.read(cache / "runs/mini/01_small.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    ]
    assert text == "音 8000\n"
    assert not {"runs", "figures", "cache", ".venv"} & {path.name for path in root.iterdir()}


READ = """
    import emomm_study, json, os, tempfile
    from emomm_study.media.audio import read_audio
    from matplotlib import pyplot as plt
    print(len(read_audio(os.environ["EMOMM_CACHE"] + "/sound.wav")), tempfile.gettempdir())
    plt.plot([1, 2]); plt.savefig(tempfile.mkstemp(suffix=".png")[1])
    import torch._inductor.runtime.cache_dir_utils as inductor
    print(inductor.cache_dir())
    from jupyter_core.paths import jupyter_runtime_dir
    print(jupyter_runtime_dir())
"""


def test_a_home_and_a_temporary_folder_that_are_read_only_are_not_missed(place, sound, stranger):
    cache, root = sound, freeze(project(place / "project"))
    (place / "home").mkdir()
    home = freeze(place / "home")
    env = variables(EMOMM_CACHE=str(cache), HOME=str(home), TMPDIR=str(home), PYTHONPATH=str(root))
    done = call([*stranger, sys.executable, "-c", textwrap.dedent(READ)], place, env)
    assert done.returncode == 0, done.stderr
    length, temporary, *others = done.stdout.split()
    assert length == "8000"
    assert all(path.startswith(f"{cache}/") for path in (temporary, *others))
    assert made(cache / "libraries" / "mplconfigdir", "fontlist*")
    assert list(home.iterdir()) == []


def left_by_import(stranger: list[str], env: Mapping[str, str]) -> dict[str, str]:
    """What ``import emomm_study`` changes in the environment."""
    program = "import os, json; a = dict(os.environ); import emomm_study; b = dict(os.environ)\n"
    program += "print(json.dumps({k: b[k] for k in b if a.get(k) != b[k]}))"
    command = [*stranger, sys.executable, "-c", program]
    done = call(command, ROOT, {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_where_all_can_be_written_nothing_is_redirected(place, stranger):
    (place / "home").mkdir()
    home = give_away(place / "home")
    env = {"HOME": str(home), "EMOMM_CACHE": str(home / "cache"), "LOGNAME": "someone"}
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = str(home / "hypothesis")
    assert left_by_import(stranger, env) == {}
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", CACHES)
def test_a_folder_that_the_user_chose_is_kept_while_it_can_be_written(name, place, cache, stranger):
    good, bad = place / "good", place / "bad"
    good.mkdir()
    bad.mkdir()
    give_away(good)
    freeze(bad)
    env = {"EMOMM_CACHE": str(cache), "HOME": "/nonexistent"}
    assert name not in left_by_import(stranger, {**env, name: str(good)})
    moved = left_by_import(stranger, {**env, name: str(bad)})[name]
    assert moved.startswith(f"{cache}/") and Path(moved).is_dir()


@pytest.mark.parametrize("way", ["home", "XDG_CACHE_HOME", "HF_HOME"])
def test_models_that_were_downloaded_are_found_where_the_folder_is_read_only(
    way, place, cache, stranger
):
    home = place / "home"
    hub = home / {"home": ".cache/huggingface", "XDG_CACHE_HOME": "huggingface"}.get(way, "hub")
    snapshot = hub / "hub" / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).touch()
    (hub / "hub" / "models--a--b" / "refs").mkdir()
    (hub / "hub" / "models--a--b" / "refs" / "main").write_text("0123")
    freeze(home)
    env = variables(EMOMM_CACHE=str(cache), HOME=str(home), PYTHONPATH=str(ROOT))
    env |= {} if way == "home" else {way: str(home if way == "XDG_CACHE_HOME" else hub)}
    program = "from emomm_study.run import profiles; print(profiles._model_problem('a/b'))"
    done = call([*stranger, sys.executable, "-c", program], place, env)
    assert done.stdout == "None\n", done.stdout + done.stderr


@pytest.mark.parametrize("home", ["/nonexistent", None], ids=["no home", "no HOME"])
def test_a_user_without_home_and_name_gets_both(home, cache, stranger):
    env = {"EMOMM_CACHE": str(cache), **({"HOME": home} if home else {})}
    if os.geteuid() == 0:
        changed = left_by_import(stranger, env)
        assert changed["LOGNAME"] == f"uid-{NOBODY}"
    else:
        changed = left_by_import(stranger, {**env, "HOME": "/nonexistent"})
    assert changed["HOME"] == f"{cache}/libraries/home" and Path(changed["HOME"]).is_dir()


PROBLEMS = {
    "a file": ("file", "is not a folder"),
    "in a file": ("file/cache", "cannot be made"),
    "not the user's": ("fixed/cache", "cannot be made"),
    "read-only": ("fixed", "cannot be written to"),
    "of nobody": ("~no-such-user/cache", "no such home folder"),
    "not UTF-8": (NOT_UTF8, "is not UTF-8"),
    "too long": ("x" * 300, "cannot be made"),
}


@pytest.mark.parametrize("value, reason", PROBLEMS.values(), ids=list(PROBLEMS))
def test_a_cache_that_cannot_be_used_is_one_sentence_at_the_start(value, reason, place, stranger):
    root = freeze(project(place / "project"))
    (place / "file").touch()
    (place / "fixed").mkdir()
    freeze(place / "fixed")
    given = value if value.startswith("~") else f"{place}/{value}"
    done = call([*stranger, "bash", "run_all.sh"], root, variables(EMOMM_CACHE=given, HOME="/"))
    assert done.returncode == 1 and done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert plain(given) in sentence and reason in sentence and "set EMOMM_CACHE to" in sentence


def test_a_read_only_project_without_a_cache_says_to_set_it(place, stranger):
    root = freeze(project(place / "project"))
    for command in (
        "bash run_all.sh",
        "bash run_tests.sh",
        "python -m emomm_study.run.pipeline",
        "python -m emomm_study.media.models fetch",
    ):
        done = call([*stranger, *command.split()], root, variables(HOME="/nonexistent"))
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert f"{root}/cache" in sentence and "set EMOMM_CACHE to" in sentence


def test_a_relative_cache_starts_from_the_project_and_a_tilde_from_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMOMM_CACHE", "kept/here")
    assert paths.cache_root() == ROOT / "kept" / "here"
    monkeypatch.setenv("EMOMM_CACHE", "~/kept")
    assert paths.cache_root() == tmp_path / "kept"
    assert located("cache/surrogate/a.csv") == tmp_path / "kept" / "surrogate" / "a.csv"
    assert located("cached/a.csv") == ROOT / "cached" / "a.csv"
    assert located("/data/cache/a.csv") == Path("/data/cache/a.csv")


@pytest.mark.parametrize(
    "command, locale",
    [
        ("bash run_all.sh", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("python -m emomm_study.run.pipeline", {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}),
    ],
    ids=["ascii names", "ascii output"],
)
def test_a_project_with_any_name_runs_in_any_locale(command, locale, place, cache):
    root = project(place / ODD)
    with_models(cache)
    soundfile.write(cache / "sound.wav", tone(), 16_000)
    env = variables(EMOMM_CACHE=str(cache), HOME=str(place), **locale)
    done = call(command.split(), root, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs/mini/01_small.ipynb" in done.stdout
    assert (root / "runs" / "mini" / "表.parquet").is_file()
    assert (root / "figures" / "mini" / "sound.svg").is_file()


def test_a_message_with_a_name_beyond_the_outputs_encoding_is_printed_all_the_same(place):
    root = project(place / "project", "# %%\nraise ValueError('表情')\n")
    env = variables(EMOMM_CACHE=str(place / "cache"), HOME=str(place), PYTHONIOENCODING="ascii")
    done = call([sys.executable, "-m", "emomm_study.run.pipeline"], root, env)
    assert done.returncode == 1
    assert r"error: ValueError: \u8868\u60c5" in done.stderr and "Traceback" not in done.stderr


def test_a_kernel_that_started_without_utf8_says_how_to_start_it(place):
    root = project(place / "表情")
    env = variables(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONPATH=str(root))
    done = call([sys.executable, "-c", "import emomm_study"], place, env)
    assert "start it with PYTHONUTF8=1" in done.stderr.splitlines()[-1]
    env["PYTHONUTF8"] = "1"
    assert call([sys.executable, "-c", "import emomm_study"], place, env).stderr == ""


@pytest.mark.parametrize("name, reason", [(NOT_UTF8, "is not UTF-8"), ("a:b", "search path")])
def test_a_project_path_that_no_library_can_open_is_one_sentence(name, reason, place):
    root = project(place / name)
    for command in (["bash", "run_all.sh"], [sys.executable, "-m", "emomm_study.run.pipeline"]):
        done = call(command, root, variables(HOME=str(place)))
        assert done.returncode == 1 and done.stdout == ""
        [sentence] = done.stderr.splitlines()
        assert plain(root) in sentence and reason in sentence and "rename" in sentence


FAKE_PYTHON = """\
#!/usr/bin/env bash
case "$*" in
"-m venv"*)
    mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
"-m pip"*) ;;
*torch_build*) echo 0 ;;
*sysconfig*) dirname "$0" ;;
*) exec "$REAL" "$@" ;;
esac
"""


@pytest.mark.parametrize("fixed", [True, False], ids=["read-only", "writable"])
def test_an_environment_is_made_in_the_project_or_in_the_cache_where_that_is_read_only(
    fixed, place, cache, stranger
):
    root = project(place / "project", "# %%\nprint(1)\n")
    # One who may write there is this user.
    words = stranger if fixed else []
    if fixed:
        freeze(root)
    fake = place / "bin" / "python3.11"
    fake.parent.mkdir()
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:/usr/bin:/bin", "REAL": sys.executable}
    env |= {"EMOMM_CACHE": str(with_models(cache)), "HOME": "/nonexistent"}
    done = call([*words, "bash", "run_all.sh"], root, env)
    assert done.returncode == 0, done.stdout + done.stderr
    venv = (cache / "venv") if fixed else (root / ".venv")
    assert f"pinned packages into {venv if fixed else '.venv'} (" in done.stdout
    # A path file does there what an editable install would.
    found = venv / "bin" / "emomm.pth"
    assert found.read_text() == f"{root}\n" if fixed else not found.exists()
    again = call([*words, "bash", "run_all.sh"], root, env)
    assert again.returncode == 0 and "Installing" not in again.stdout


def test_names_that_are_not_utf8_are_told_from_others_and_can_be_shown():
    assert not is_utf8(NOT_UTF8) and is_utf8(ODD) and is_utf8(Path("a"))
    assert plain(f"/data/{NOT_UTF8}/表") == r"/data/corpus-\xb1\xed\xc7\xe9/表"
    assert plain(Path(ODD)) == ODD
    assert plain("\ud800x") == r"\ud800x"


def test_writable_asks_the_nearest_folder_that_exists(tmp_path):
    (tmp_path / "file").touch()
    assert writable(tmp_path / "a" / "b") and writable(tmp_path)
    assert not writable(tmp_path / "file") and not writable(tmp_path / "file" / "a")


def test_a_cache_on_a_full_disk_is_refused_at_the_start(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path))
    full = shutil.disk_usage(tmp_path)._replace(free=10**7)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: full)
    with pytest.raises(PlaceError, match=r"0\.01 GB free on its disk, .* make room"):
        environment.check_places()


def test_the_tests_of_a_read_only_project_keep_their_notes_in_the_cache(place, cache, stranger):
    root = project(place / "project")
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text(TESTS)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import emomm_study")])
    nbformat.write(notebook, root / "notebooks" / "01_small.ipynb")
    freeze(root)
    env = variables(EMOMM_CACHE=str(with_models(cache)), HOME="/nonexistent")
    given = ["tests", "notebooks/01_small.ipynb"]
    done = call([*stranger, "bash", "run_tests.sh", "-W", "error", *given], root, env)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    assert (cache / "pytest").is_dir()


TESTS = """
from hypothesis import given
from hypothesis.strategies import integers

@given(integers())
def test_it(number):
    assert number * 0 == 0
"""


def test_a_file_is_seen_whole_or_not_at_all(tmp_path):
    path = tmp_path / "made" / "file.txt"
    with paths.whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(ValueError, match="cut short"), paths.whole(path) as partial:
        partial.write_text("other")
        raise ValueError("cut short")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
