"""The driver of video-SALMONN 2 against prompts that its repository's code made.

``scripts/video_salmonn2_parity.py`` ran both on the same random weights and recorded them.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import emomm_lib.attention  # noqa: F401
from emomm_study.paths import ROOT

from transformers import PreTrainedTokenizerFast  # isort: skip

DRIVERS = ROOT / "emomm_study" / "systems" / "drivers"
RECORD = json.loads((ROOT / "tests" / "fixtures" / "video_salmonn2.json").read_text("utf-8"))
CASES = list(RECORD["cases"])


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)
    return pytest.importorskip("video_salmonn2")


@pytest.fixture(scope="module")
def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.add_special_tokens(list(RECORD["special"]))
    found = PreTrainedTokenizerFast(tokenizer_object=built)
    assert {word: found.convert_tokens_to_ids(word) for word in RECORD["special"]} == RECORD[
        "special"
    ]
    return found


def recorded(driver, case: str):
    """A case's query, the tokens of its prompt, and all that was recorded."""
    found = RECORD["cases"][case]
    query = driver.Query(**{**found["query"], "transcript": tuple(found["query"]["transcript"])})
    return query, [number for number, run in found["ids"] for _ in range(run)], found


def test_the_record_holds_every_coalition_and_small_errors():
    assert set(CASES) >= {"T", "A", "V", "TA", "TV", "AV", "TAV"}
    assert RECORD["largest_errors"]["letters"] <= 1e-5
    assert RECORD["largest_errors"]["scores"] <= 1e-4
    assert RECORD["versions"]["transformers"] == "4.39.2"


@pytest.mark.parametrize("case", CASES)
def test_the_prompt_is_the_one_that_the_repository_tokenized(case, driver, tokenizer):
    query, ids, _ = recorded(driver, case)
    media = bool(query.frames or query.sound)
    assert driver.prompt_ids(tokenizer, query.system, query.text, media) == ids
    assert ids.count(driver.IMAGE) == media


@pytest.mark.parametrize("case", CASES)
def test_media_take_the_places_that_they_took_in_the_repository(case, driver, tokenizer):
    query, _, found = recorded(driver, case)
    seconds = len(query.frames) * query.seconds_per_frame
    written = max((len(tokenizer(time).input_ids) for time in driver.times(query)), default=0)
    video, audio = driver.places(len(query.frames), seconds, found["pieces"], written)
    assert video + audio == found["places"]
    assert {"V": video, "A": audio} == {name: found["tokens"][name] for name in "VA"}
    assert bool(found["tokens"]["T"]) == ("T" in query.coalition)
    assert found["markers"] == {"V": len(query.frames), "A": int(query.sound is not None)}
    assert {name: RECORD["choices"][name] for name in driver.CHOICES} == driver.CHOICES


def test_frame_times_are_the_seconds_behind_each_frame(driver):
    query, _, _ = recorded(driver, "V")
    assert driver.times(query) == ["1.0", "2.0", "3.0"]
    assert driver.times(query._replace(seconds_per_frame=0.25)) == ["0.2", "0.5", "0.8"]
    assert driver.times(query._replace(frames=[])) == []


def test_places_of_sound_are_spread_over_the_frames(driver):
    assert driver.places(0, 0.0, 2, 0) == (0, 120)
    assert driver.places(2, 2.0, 0, 3) == (2 * (13 * 14 + 3), 0)
    # 60 windows of a sound over 7 frames are 9 each, three of them twice.
    assert driver.places(7, 7.0, 1, 3) == (7 * 13 * 14, 63)
    # 50 windows are a second to the repository: 45 go over 4 frames as 48, and 15 behind them.
    assert driver.places(4, 0.9, 1, 3) == (4 * 13 * 14, 63)


def test_media_without_a_place_are_refused_by_name(driver):
    query, _, _ = recorded(driver, "AV")
    driver.check_media(query, 16_000)
    for change, said in (
        ({"frames": ["0.png"]}, "one frame; expected at least two"),
        ({"frames": ["0.png"] * 111}, "111 frames; expected at most 110"),
        ({"seconds_per_frame": 0.0}, "seconds_per_frame is 0.0"),
        ({"seconds_per_frame": float("nan")}, "seconds_per_frame is nan"),
        ({"frames": []}, "110.1 s of sound; expected at most 110"),
    ):
        with pytest.raises(driver.Refused, match=said):
            driver.check_media(query._replace(**change), round(110.1 * 16_000))
    assert "one frame; expected at least two" in RECORD["refused"]


def start(*options: str):
    return subprocess.run(
        [sys.executable, str(DRIVERS / "video_salmonn2.py"), *options],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("given", [False, True])
def test_without_its_repository_it_does_not_start(given, tmp_path):
    done = start("--weights", ".", *(["--repo", str(tmp_path)] if given else []))
    assert done.returncode
    assert done.stdout == ""
    assert "expected a checkout of https://github.com/bytedance/video-SALMONN-2" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_an_environment_that_is_not_its_own_it_says_which_it_needs(tmp_path):
    code = tmp_path / "llava" / "model" / "language_model" / "video_salmonn_2.py"
    code.parent.mkdir(parents=True)
    code.touch()
    done = start("--weights", ".", "--repo", str(tmp_path))
    assert done.returncode
    assert done.stdout == ""
    assert "needs transformers 4.39.2" in done.stderr
    assert "uv run --script" in done.stderr
    assert "Traceback" not in done.stderr
