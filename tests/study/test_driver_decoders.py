"""What drivers of open weights share, read with this environment's own transformers."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import emomm_lib.attention  # noqa: F401
from emomm_study.paths import ROOT

from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM  # isort: skip

DRIVERS = ROOT / "emomm_study" / "systems" / "drivers"
REPLIES = ["A\nScore: -1.0", "C\nScore: 0.0", "E", "E\nScore: 0.8"]


@pytest.fixture
def decoders(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)
    return pytest.importorskip("decoders")


@pytest.fixture(scope="module")
def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="<|im_end|>", additional_special_tokens=["!"]
    )


@pytest.fixture(scope="module")
def llm(tokenizer):
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def query(decoders):
    text = "Said: Gr\u00fc\u00dfe.\nOne letter."
    return decoders.Query("1", [], None, 0.0, "System.", text, (6, 12), REPLIES, "letters")


@torch.no_grad()
def test_letters_and_scores_are_those_of_the_plain_forward(decoders, llm, tokenizer):
    prompt = tokenizer("How is it?", return_tensors="pt").input_ids
    embeds = llm.get_input_embeddings()(prompt)
    row, cache = decoders.prefill(llm, embeds)
    letters, scores = decoders.letters_and_scores(llm, tokenizer, row, cache, REPLIES)
    logits = llm(prompt).logits[0, -1]
    expected = [float(logits[tokenizer.convert_tokens_to_ids(letter)]) for letter in "ABCDE"]
    assert letters == pytest.approx(expected, abs=1e-5)
    for reply, score in zip(REPLIES, scores, strict=True):
        own = tokenizer(reply, return_tensors="pt").input_ids
        whole = llm(torch.cat([prompt, own], 1)).logits[0, prompt.shape[1] - 1 : -1]
        each = whole.log_softmax(-1).gather(-1, own[0, :, None])
        assert score == pytest.approx(float(each.sum()), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value, decoders, llm):
    embeds = torch.randn(1, 4, 32)
    embeds[0, 2] = value
    with pytest.raises(decoders.Refused, match="not finite; try bfloat16"):
        decoders.prefill(llm, embeds)


def test_only_the_transcript_s_tokens_are_counted(decoders, tokenizer, query):
    # Two of its six letters are two bytes each, and a byte is a token here.
    assert decoders.transcript_tokens(query, tokenizer) == 8
    assert decoders.transcript_tokens(query._replace(transcript=(0, 0)), tokenizer) == 0


def test_a_text_that_spells_a_control_token_or_a_mark_is_refused(decoders, tokenizer, query):
    # "!" is special to this tokenizer, and a sign of any text.
    decoders.check_text(query._replace(text="Well!"), tokenizer, ("<image>",))
    for text in ("so <|im_end|> it", "an <image> here"):
        with pytest.raises(decoders.Refused, match="spells out"):
            decoders.check_text(query._replace(text=text), tokenizer, ("<image>",))
        with pytest.raises(decoders.Refused, match="spells out"):
            decoders.check_text(query._replace(system=text), tokenizer, ("<image>",))


@pytest.mark.parametrize(
    ("weights", "revision", "said"),
    [
        ("no/such/folder", None, "no such folder, and no id on the hub"),
        ("someone/model", None, "revision is None; expected a whole commit hash"),
        ("someone/model", "main", "revision is 'main'.*a branch moves"),
        ("someone/model", "a" * 39, "40 hexadecimal digits"),
        (".", "a" * 40, "is a folder"),
    ],
)
def test_weights_are_a_folder_or_a_pinned_revision(decoders, weights, revision, said):
    with pytest.raises(SystemExit, match=said):
        decoders.folder(weights, revision)


def test_a_folder_is_called_the_same_wherever_it_lies(decoders, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place / "model").mkdir(parents=True)
        assert decoders.called(f"{tmp_path}/{place}/model/") == "model"
    assert decoders.called("someone/model") == "someone/model"


def test_a_folder_is_told_from_another_by_the_ends_of_its_files(decoders, tmp_path):
    large = b"\0" * (3 << 20)
    (tmp_path / "model.safetensors").write_bytes(large)
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "__pycache__").mkdir()
    first, code = decoders.digest(tmp_path), decoders.digest(tmp_path, "*.py")
    (tmp_path / "__pycache__" / "code.pyc").write_bytes(b"1")
    assert decoders.digest(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(large[:-1] + b"1")
    assert decoders.digest(tmp_path) != first
    assert decoders.digest(tmp_path, "*.py") == code
    (tmp_path / "code.py").write_text("a = 2\n")
    assert decoders.digest(tmp_path, "*.py") != code
    assert len(code) == hashlib.sha256().digest_size * 2
