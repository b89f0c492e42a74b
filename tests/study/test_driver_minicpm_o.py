"""The driver of MiniCPM-o 2.6 against prompts that the model's own ``chat`` made.

``scripts/minicpm_o_parity.py`` ran both on the same random weights and recorded them.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from emomm_study.paths import ROOT

DRIVERS = ROOT / "emomm_study" / "systems" / "drivers"
RECORD = json.loads((ROOT / "tests" / "fixtures" / "minicpm_o.json").read_text("utf-8"))
CASES = list(RECORD["cases"])


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)
    return pytest.importorskip("minicpm_o")


def recorded(driver, case: str):
    """A case's query, the tokens of its prompt, and all that was recorded."""
    found = RECORD["cases"][case]
    query = driver.Query(**{**found["query"], "transcript": tuple(found["query"]["transcript"])})
    return query, [number for number, run in found["ids"] for _ in range(run)], found


def test_the_record_holds_every_coalition_and_small_errors():
    assert set(CASES) >= {"T", "A", "V", "TA", "TV", "AV", "TAV"}
    assert RECORD["largest_errors"]["letters"] <= 1e-5
    assert RECORD["largest_errors"]["scores"] <= 1e-4
    assert RECORD["versions"]["transformers"] == "4.44.2"


@pytest.mark.parametrize("case", CASES)
def test_the_chat_is_the_one_that_the_model_s_own_code_made(case, driver):
    query, _, found = recorded(driver, case)
    assert driver.turns(query) == found["turns"]
    assert {name: RECORD["choices"][name] for name in driver.CHOICES} == driver.CHOICES


@pytest.mark.parametrize("case", CASES)
def test_marks_and_tokens_of_media_are_counted_from_the_prompt(case, driver):
    query, ids, found = recorded(driver, case)
    names = RECORD["special"]
    frames, video = driver.blocks(ids, names["<image>"], names["</image>"])
    sounds, audio = driver.blocks(ids, names["<|audio_start|>"], names["<|audio_end|>"])
    assert {"V": frames, "A": sounds} == found["markers"]
    assert {"V": video, "A": audio} == {name: found["tokens"][name] for name in "VA"}
    assert (frames, sounds) == (len(query.frames), int(query.sound is not None))
    assert video + audio == ids.count(names["<unk>"])
    assert bool(found["tokens"]["T"]) == ("T" in query.coalition)


@pytest.mark.parametrize("case", CASES)
def test_the_letters_stand_behind_the_speech_token_where_there_is_sound(case, driver):
    query, ids, _ = recorded(driver, case)
    names = RECORD["special"]
    opening = [names[f"<|{word}|>"] for word in ("spk_bos", "spk", "spk_eos", "tts_bos")]
    assert (ids[-4:] == opening) == (query.sound is not None)
    assert ids.count(names["<|im_start|>"]) == 3


def test_media_come_before_the_text_frames_first(driver):
    query, _, _ = recorded(driver, "TAV")
    said = driver.turns(query)[1]["content"]
    assert said == f"{driver.FRAME}\n" * 3 + f"{driver.SOUND}\n{query.text}"


@pytest.mark.parametrize("ids", [[1, 5, 5], [5, 2], [1, 5, 2, 2]])
def test_a_place_for_media_that_is_open_at_one_end_is_refused(ids, driver):
    with pytest.raises(driver.Refused, match="a place for media"):
        driver.blocks(ids, 1, 2)


def test_pieces_of_a_sound_are_one_and_frames_with_a_newline_between_are_two(driver):
    assert driver.blocks([1, 5, 5, 2, 1, 5, 2, 9], 1, 2) == (1, 3)
    assert driver.blocks([1, 5, 5, 2, 9, 1, 5, 2], 1, 2) == (2, 3)
    assert driver.blocks([9, 9], 1, 2) == (0, 0)


def start(*options: str):
    return subprocess.run(
        [sys.executable, str(DRIVERS / "minicpm_o.py"), *options],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_without_the_switch_it_does_not_start():
    done = start("--weights", "someone/model", "--revision", "a" * 40)
    assert done.returncode
    assert done.stdout == ""
    assert "--trust-remote-code" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_an_environment_that_is_not_its_own_it_says_which_it_needs():
    done = start("--weights", "someone/model", "--revision", "a" * 40, "--trust-remote-code")
    assert done.returncode
    assert done.stdout == ""
    assert "needs transformers 4.44.2" in done.stderr
    assert "uv run --script" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_of_another_repository_is_not_run(driver, tmp_path):
    named = {"auto_map": {"AutoModel": "modeling_minicpmo.MiniCPMO"}}
    (tmp_path / "config.json").write_text(json.dumps(named))
    (tmp_path / "special_tokens.json").write_text("[]")
    driver.check_code(tmp_path)
    named["auto_map"]["AutoTokenizer"] = [None, "someone/else--tokens.Fast"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    with pytest.raises(SystemExit, match="takes code from .*someone/else--tokens"):
        driver.check_code(tmp_path)
