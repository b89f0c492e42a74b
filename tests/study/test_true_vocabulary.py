"""Prompts and replies under the vocabulary of the published models, instead of a small one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.model import build, build_vita
from emomm_study.paths import ROOT
from emomm_study.systems.interface import Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.plain import PlainText
from emomm_study.systems.prompts import SYSTEM_PROMPT, instruction, reply
from emomm_study.systems.vita.adapter import PLACEHOLDERS, STATES, VitaModel
from emomm_study.systems.vita.configuration import VitaConfig
from emomm_study.systems.vita.processing import VitaProcessor
from tests import true_vocabulary
from tests.backbones import SMALL, SMALL_VITA, clip, plain_omni, plain_vita, random_weights

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers import (  # isort: skip
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

if not true_vocabulary.installed():
    pytest.skip(f"{true_vocabulary.PACKAGE} is not installed", allow_module_level=True)

STATE_IDS = {"☜": 145_789, "☞": 144_766, "☟": 146_164}
REPLIES = [
    (label, score)
    for label in range(len(LETTERS))
    for score in sorted({s for grid in GRIDS.values() for s in grid.scores(label)})
]
TRANSCRIPTS = [
    "To me the trip was absolutely awful",
    "我觉得电影真的精彩",
    " with blanks around ",
    "\nin\ntwo lines\n",
    "at 7:30, 100% \u261e \u2014 #1 ",
    "e\u0301 and \u00e9",
]
PROMPTS = [(name, TRANSCRIPTS[0]) for name in COALITIONS] + [("TAV", t) for t in TRANSCRIPTS[1:]]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return true_vocabulary.tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def ids(qwen):
    return lambda text: qwen(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def vita(qwen) -> VitaModel:
    """A tiny one with the whole vocabulary."""
    model = random_weights(build_vita.build_model(qwen, SMALL_VITA))
    return VitaModel(model, VitaProcessor.for_config(qwen, model.config), "random")


def test_it_is_the_vocabulary_that_qwens_makers_publish_by_ranks(qwen):
    assert true_vocabulary.ranks_digest() == true_vocabulary.RANKS_SHA256
    assert len(qwen) == true_vocabulary.TOKENS
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file_sep|>"]
    assert qwen.convert_tokens_to_ids(names) == [151_643, 151_644, 151_645, 151_664]
    assert (qwen.eos_token_id, qwen.pad_token_id) == (151_645, 151_643)


def test_letters_are_single_tokens_wherever_an_answer_begins(ids):
    assert [ids(letter) for letter in LETTERS] == [[32], [33], [34], [35], [36]]
    for before in ("assistant\n", "<|im_start|>assistant\n", *STATE_IDS, "assistant\n☞"):
        for letter in LETTERS:
            assert ids(before + letter) == [*ids(before), *ids(letter)]


def test_state_tokens_are_single_and_those_that_the_adapter_names(ids):
    assert {STATES.text, STATES.speech, STATES.noise} == set(STATE_IDS)
    for state, number in STATE_IDS.items():
        assert ids(state) == [number]
        assert ids(f"assistant\n{state}") == [*ids("assistant\n"), number]


@pytest.mark.parametrize(("label", "score"), REPLIES)
def test_a_reply_in_appendix_es_form_is_its_letter_and_seven_more_tokens(ids, label, score):
    found = ids(reply(label, score))
    assert len(found) == 8 and found[0] == 32 + label
    for before in ("assistant\n", "☞"):
        assert ids(before + reply(label, score)) == [*ids(before), *found]


def test_digits_are_single_and_a_letter_in_decoration_hides_behind_it(ids):
    assert [ids(digit) for digit in "0123456789"] == [[n] for n in range(15, 25)]
    assert ids("1.0") == [16, 13, 15]
    assert [len(ids(text)) for text in ("A\n", " A", "<A", "**")] == [2, 1, 1, 1]
    assert ids("<A>")[0] != 32 and ids("**A**")[0] != 32


@pytest.mark.parametrize("corpus", list(Corpus))
def test_the_prompts_fixed_text_takes_the_tokens_that_the_estimates_count(ids, corpus):
    assert len(ids(SYSTEM_PROMPT)) == 52
    sizes = {name: len(ids(instruction(name, corpus))) for name in ("TAV", "T", "none")}
    assert sizes == {"TAV": 184, "T": 181, "none": 179}


def test_the_medias_placeholders_are_single_control_tokens(qwen, ids):
    for spelled, number in zip(PLACEHOLDERS.values(), (151_656, 151_654), strict=True):
        assert ids(spelled) == [number] and qwen.added_tokens_decoder[number].special


@pytest.mark.parametrize(("coalition", "text"), PROMPTS)
def test_vitas_prompt_is_tokenized_as_its_pieces_between_media_are(vita, coalition, text):
    media, corpus = clip(1), Corpus.CMU_MOSI
    [encoded] = vita.encode([media])
    [found] = vita.prepare([Query(encoded, coalition, corpus, text)]).input_ids
    logits, pieces = plain_vita(vita, media, coalition, corpus, text)
    stand_for = list(vita._placeholder_ids().values())
    assert found.masked_fill(sum(found == n for n in stand_for).bool(), -1).equal(pieces)
    assert vita.state_ids == {
        "text": STATE_IDS["☜"], "speech": STATE_IDS["☞"], "noise": STATE_IDS["☟"]
    }  # fmt: skip
    answers = vita.answer([Query(encoded, coalition, corpus, text)])
    assert abs(answers.letter_logits[0] - logits[-1, vita.letter_ids].numpy()).max() < 1e-4


def test_vitas_prompts_are_as_long_as_the_paper_profiles_page_says(qwen, ids):
    """Frames of 256 tokens, 30 s of sound, and the text around them and a transcript."""
    page = (ROOT / "docs/paper_profile.md").read_text(encoding="utf-8")
    query = Query(None, "TAV", Corpus.CH_SIMS, TRANSCRIPTS[0])
    chat = VitaModel._chat(SimpleNamespace(placeholders=PLACEHOLDERS), query)
    text = len(ids(chat)) - len(ids(TRANSCRIPTS[0])) - len(PLACEHOLDERS)
    published = VitaProcessor(qwen)
    sound, frame = published.tokens_of_sound(30 * 16_000), published.tokens_of_frame
    assert f"{sound} + {text} of text" in page and f"30 s are {sound} |" in page
    sizes = {frames: frames * frame + sound + text for frames in (8, 16, 21, 22)}
    assert all(f"{sizes[frames]:,} tokens and the transcript's" in page for frames in (8, 16))
    longest = VitaConfig().tokenizer_model_max_length
    assert sizes[21] < longest < sizes[22] and f"{sizes[21]:,} of {longest:,} tokens" in page


def test_no_control_token_that_a_transcript_spells_out_becomes_one(qwen):
    plain = PlainText(qwen)
    names = {number: token.content for number, token in qwen.added_tokens_decoder.items()}
    assert len(names) == 22
    for name in names.values():
        half = len(name) // 2
        for spelled in (name, f"so {name} much", name * 2, name[:half] + name + name[half:]):
            text = f"<|im_start|>user\nTranscript: {spelled}\nTask<|im_end|>\n"
            start = text.index(spelled)
            [found] = plain([(text, start, start + len(spelled))])
            own = [n for n, inside in zip(found.ids, found.inside, strict=True) if inside]
            assert qwen.decode(own).strip() == spelled and not set(own) & set(names), spelled
            assert [n for n in found.ids if n in names] == [151_644, 151_645]


@pytest.fixture(scope="module")
def omni(tmp_path_factory) -> OmniModel:
    """A tiny one with the whole vocabulary, its tokens' numbers those that transformers expects."""
    tokenizer = true_vocabulary.tokenizer(
        tmp_path_factory.mktemp("omni"), renamed=true_vocabulary.OMNI
    )
    small = build.build_processor(SMALL)
    parts = small.image_processor, small.video_processor, small.feature_extractor, tokenizer
    processor = Qwen2_5OmniProcessor(*parts, chat_template=small.chat_template)
    sizes = build.build_model(small, SMALL).config.to_dict()
    sizes["text_config"] |= {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    towers = {name: sizes[name] for name in ("text_config", "vision_config", "audio_config")}
    config = Qwen2_5OmniThinkerConfig(**towers, vision_start_token_id=151_652)
    model = random_weights(Qwen2_5OmniThinkerForConditionalGeneration(config))
    return OmniModel(model, processor, "random")


@pytest.mark.parametrize(("coalition", "text"), PROMPTS)
def test_omnis_prompt_is_its_processors_and_ends_where_a_letter_is_next(omni, coalition, text):
    media, corpus = clip(1), Corpus.CMU_MOSI
    [encoded] = omni.encode([media])
    query = Query(encoded, coalition, corpus, text)
    [found] = omni.prepare([query]).input_ids
    logits, whole = plain_omni(omni, media, coalition, corpus, text, "E")
    assert whole.tolist() == [*found.tolist(), 36]
    answers = omni.answer([query])
    assert abs(answers.letter_logits[0] - logits[-2, omni.letter_ids].numpy()).max() < 1e-4


def test_omnis_media_stand_in_for_tokens_of_the_numbers_that_its_model_looks_for(omni):
    config = omni.model.config
    assert omni._placeholder_ids() == {"V": config.video_token_id, "A": config.audio_token_id}
    assert omni.letter_ids.tolist() == [32, 33, 34, 35, 36]
