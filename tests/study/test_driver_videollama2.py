"""VideoLLaMA2's driver builds what the repository builds, and refuses what would be scored wrongly.

The fixture holds token ids, sounds and frames of the repository's own code at a tiny random size,
and how far the driver's logits were from it: ``scripts/videollama2_parity.py``.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import hashlib
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from emomm_study.paths import ROOT
from emomm_study.systems import prompts
from emomm_study.systems.drivers.serving import Query

DRIVERS = ROOT / "emomm_study" / "systems" / "drivers"
FIXTURE = json.loads((ROOT / "tests/fixtures/videollama2.json").read_text(encoding="utf-8"))
PARITY = ROOT / "scripts" / "videollama2_parity.py"
CASES = FIXTURE["cases"]
NAMES = [f"{case['sound']} {case['coalition']} {case['seconds']:g} s" for case in CASES]
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text before it merges."""


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)
    return pytest.importorskip("videollama2")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("videollama2_parity", PARITY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The fixture's, with the driver's setting: Qwen2's with a few merges."""
    merges = [tuple(pair.split(" ")) for pair in FIXTURE["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = list(dict.fromkeys([*letters, *map("".join, merges)]))
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CUT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, split_special_tokens=True,
        additional_special_tokens=list(FIXTURE["control"]),
    )  # fmt: skip
    assert FIXTURE["control"].items() <= tokenizer.get_vocab().items()
    return tokenizer


@pytest.fixture(scope="module")
def plain(tokenizer):
    return lambda text: tokenizer(text, add_special_tokens=False).input_ids


def query(coalition: str, transcript: str, sound: str | None = "7.wav", mode: str = "letters"):
    """A query as the study sent it when the record was made: then without two of its line breaks."""
    _, user = prompts.messages(coalition, "ch_sims_v2", transcript)
    recorded = prompts.TRANSCRIPT_PREFIX.replace("\n", " ")
    text = user["content"][-1]["text"].replace(prompts.TRANSCRIPT_PREFIX, recorded)
    text = text.replace(",\nC (Neutral)", ", C (Neutral)")
    start = len(recorded)
    return Query(
        id="7",
        frames=["0.png"] * 16 if "V" in coalition else [],
        sound=sound if "A" in coalition else None,
        seconds_per_frame=0.5,
        system=prompts.SYSTEM_PROMPT,
        text=text,
        transcript=(start, start + len(transcript)) if "T" in coalition else (0, 0),
        replies=[],
        mode=mode,
    )


def test_the_record_is_of_the_code_that_the_driver_asks_for_and_within_its_bound(driver):
    assert FIXTURE["commit"] == driver.COMMIT
    assert FIXTURE["code"] == driver.CODE
    pinned = driver.decoders.pinned(driver.__file__)
    for name in ("transformers", "tokenizers", "timm", "accelerate"):
        assert FIXTURE["versions"][name] == pinned[name]
    assert len(FIXTURE["errors"]) == 2 * len(CASES)
    assert max(FIXTURE["errors"].values()) < 1e-5


def test_the_header_pins_the_code_that_the_driver_checks(driver):
    header = (DRIVERS / "videollama2.py").read_text(encoding="utf-8").split("# ///")[1]
    assert f"VideoLLaMA2@{driver.COMMIT}" in header


def test_every_coalition_was_compared_and_heard_what_it_holds():
    whole = [case for case in CASES if case["sound"] == "whole"]
    assert {case["coalition"] for case in whole} == {"T", "A", "V", "TA", "TV", "AV", "TAV"}
    for case in CASES:
        assert {m for m, n in case["tokens"].items() if n} == set(case["coalition"])
        assert {m for m, n in case["markers"].items() if n} == set(case["coalition"]) - {"T"}
        assert case["tokens"]["V"] in (0, 1352)
        assert case["tokens"]["A"] in (0, 1496)
    letters = [tuple(np.round(case["letters"], 2)) for case in CASES]
    assert len(set(letters)) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_ids_are_the_repository_s(driver, case, plain):
    asked = query(case["coalition"], case["transcript"])
    assert list(asked.transcript) == case["span"]
    assert driver.prompt_ids(asked, plain, FIXTURE["control"]) == case["ids"]
    markers = [number for number in case["ids"] if number < 0]
    assert markers == {"text": [], "audio": [driver.AUDIO], "video": [driver.VIDEO]}[case["modal"]]


def test_the_fixture_tells_line_breaks_that_merge(plain):
    [text] = [case["ids"] for case in CASES if case["coalition"] == "T"]
    assert plain("user\n\n") != [*plain("user\n"), *plain("\n")]
    assert any(text[i : i + 3] == plain("user\n\n")[-3:] for i in range(len(text)))


def test_what_a_transcript_spells_is_neither_marker_nor_control_token(driver, plain):
    spelt = FIXTURE["spelt"]
    ids = driver.prompt_ids(query("TAV", spelt["transcript"]), plain, FIXTURE["control"])
    assert ids == spelt["ids"]
    assert [number for number in ids if number < 0] == [driver.VIDEO]
    assert ids.count(FIXTURE["control"][driver.START]) == 3
    assert ids.count(FIXTURE["control"][driver.END]) == 2


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_tokens_of_the_transcript_are_counted(case, driver, tokenizer):
    asked = query(case["coalition"], case["transcript"])
    assert driver.decoders.transcript_tokens(asked, tokenizer) == case["tokens"]["T"]


@pytest.mark.parametrize("case", [c for c in CASES if c["heard"]], ids=lambda c: c["coalition"])
def test_what_is_heard_is_what_the_repository_hears(driver, case, script):
    samples = script.samples(case["seconds"]).astype(np.float32) / 32768
    heard = driver.cut_sound(samples, case["sound"])
    assert [str(heard.dtype), script.digest(heard)] == case["heard"]


def test_of_a_longer_sound_the_beginning_is_heard_twice_the_same(driver):
    samples = np.random.default_rng(0).uniform(-1, 1, 40 * 16_000).astype(np.float32)
    heard = driver.cut_sound(samples, "whole")
    assert np.array_equal(heard, samples[: 30 * 16_000])
    clips = driver.cut_sound(samples, "clips")
    assert len(clips) == 30 * 16_000
    assert np.array_equal(clips[32_000:64_000], samples[int(4.75 * 16_000) :][:32_000])
    assert not clips[16 * 16_000 :].any()


def test_a_sound_of_which_only_zeros_are_heard_is_refused(driver):
    late = np.zeros(31 * 16_000, np.float32)
    late[-1] = 1
    with pytest.raises(driver.Refused, match="all zeros"):
        driver.cut_sound(late, "whole")


def test_frames_are_those_given_in_their_order(driver, script):
    frames = [Image.fromarray(script.frame(number)) for number in range(16)]
    processor = SiglipImageProcessorPil(**script.PREPROCESSOR)
    pixels = driver.frame_tensor(frames, processor).numpy()
    recorded = FIXTURE["pixels"]
    assert list(pixels.shape) == recorded["shape"]
    np.testing.assert_allclose(pixels[:, :, 5, 7], recorded["corner"], atol=1e-5)
    assert abs(pixels.mean() - recorded["mean"]) < 1e-5
    assert len(driver.frame_tensor(frames[:6], processor)) == 6


@pytest.mark.parametrize("count", [1, 15, 34])
def test_frames_that_the_repository_would_drop_are_refused(driver, count):
    with pytest.raises(driver.Refused, match=f"{count} frames.*even"):
        driver.frame_tensor([None] * count, None)


class Tiny(Qwen2ForCausalLM):
    def get_model(self):
        return self.model


@pytest.fixture
def system(driver, tokenizer):
    """The driver's class around a small decoder, without the repository."""
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=500, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None,
        eos_token_id=1, initializer_range=0.2)  # fmt: skip
    made = object.__new__(driver.VideoLlama2)
    made.torch, made.max_new_tokens, made.control = torch, 12, FIXTURE["control"]
    made.model, made.tokenizer = Tiny(config).eval(), tokenizer
    return made


REPLIES = ["A\nScore: -1.0", "E", "A\nScore: -0.8", "A\nScore: -1.0"]


@torch.no_grad()
def test_scores_on_the_cache_are_those_of_one_pass_over_all(driver, system, plain):
    asked = query("T", "Well.")._replace(replies=REPLIES)
    ids, found = driver.prompt_ids(asked, plain, system.control), system.answer(asked)
    assert found.scores[0] == found.scores[3]
    for reply, score in zip(REPLIES, found.scores, strict=True):
        own = plain(reply)
        logits = system.model(torch.tensor([ids + own])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(own)), own].sum()
        assert abs(score - float(expected)) < 1e-5
    last = system.model(torch.tensor([ids])).logits[0, -1]
    expected = [float(last[own]) for [own] in map(plain, "ABCDE")]
    assert found.letters == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_a_free_reply_takes_the_largest_logit_each_time(driver, system, plain, monkeypatch):
    asked, said = query("T", "Well.", mode="free"), []
    ids = driver.prompt_ids(asked, plain, system.control)
    monkeypatch.setattr(
        type(system.tokenizer), "decode", lambda own, ids, **_: said.extend(ids.tolist()) or " x "
    )
    assert system.answer(asked).reply == "x"
    for number in said:
        assert number == int(system.model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(number)
    assert len(said) == system.max_new_tokens


@pytest.mark.parametrize("mode", ["letters", "free"])
def test_logits_that_are_not_finite_are_refused_with_advice(mode, driver, system):
    with torch.no_grad():
        system.model.lm_head.weight[17] = float("nan")
    with pytest.raises(driver.Refused, match="not finite; try bfloat16"):
        system.answer(query("T", "Well.", mode=mode))


def start(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(DRIVERS / "videollama2.py"), "--weights", "no-one/no-model", *options],
        input="", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_driver_without_the_repository_says_so_and_does_not_start(driver, tmp_path):
    for options, said in ((), "not installed"), (("--repo", str(tmp_path)), f"not in {tmp_path}"):
        done = start(*options)
        assert done.returncode == 1
        assert not done.stdout
        assert f"VideoLLaMA2's code is {said}; give --repo" in done.stderr
        assert driver.COMMIT in done.stderr


def test_other_code_than_the_pinned_is_not_run(driver, tmp_path):
    (tmp_path / "videollama2" / "model").mkdir(parents=True)
    (tmp_path / "videollama2" / "__init__.py").write_text("raise SystemExit('ran')\n")
    (tmp_path / "videollama2" / "constants.py").write_text("raise SystemExit('ran')\n")
    done = start("--repo", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"not that of commit {driver.COMMIT}" in done.stderr


def test_code_is_told_by_what_it_holds_and_not_by_its_line_ends(driver, tmp_path):
    digests = set()
    for text in (b"a = 1\n", b"a = 1\r\n", b"a = 2\n"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "x.py").write_bytes(text)
        (tmp_path / "constants.py").write_bytes(b"")
        digests.add(driver.code_digest(tmp_path))
    assert len(digests) == 2


def test_the_fixture_s_digests_are_sha256():
    assert all(
        len(case["heard"][1]) == hashlib.sha256().digest_size * 2 for case in CASES if case["heard"]
    )
