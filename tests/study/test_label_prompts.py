"""Prompts for other sets of labels, and replies to them read back."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import (
    COALITIONS,
    IEMOCAP4,
    LABEL_SETS,
    MELD7,
    SENTIMENT2,
    LabelSet,
)
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import ROOT
from emomm_study.systems import prompts, replies
from emomm_study.systems.interface import Encoded, Query
from emomm_study.systems.omni import OmniModel

SETS = st.sampled_from([*LABEL_SETS.values()])


# Prompts


def test_the_papers_prompts_are_the_same_to_the_letter():
    parts = [prompts.instruction(c, k) for c in COALITIONS for k in Corpus]
    text = "\0".join([prompts.SYSTEM_PROMPT, prompts.TRANSCRIPT_PREFIX, *parts])
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == prompts.prompt_version()
    assert prompts.prompt_version() == "115628b019b6"


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_prompt_names_every_class_with_its_letter_and_asks_for_no_score(labels):
    for coalition in COALITIONS:
        text = prompts.instruction(coalition, labels)
        assert f"({prompts.present_modalities(coalition)})" in text and "Score" not in text
        for letter, name in zip("ABCDEFGH", labels.classes, strict=False):
            assert f"{letter} ({name})" in text
        assert text.endswith(f"<ONE LETTER: {' or '.join('ABCDEFGH'[: len(labels)])}>")
    subject = "a sentiment label" if labels.polarity else "an emotion label"
    assert f"assign {subject}" in text


def test_a_message_about_other_labels_differs_in_its_instruction_alone():
    five = prompts.messages("TAV", Corpus.CMU_MOSI, "well")
    seven = prompts.messages("TAV", MELD7, "well")
    assert five[0] == seven[0] and five[1]["content"][:-1] == seven[1]["content"][:-1]
    own = prompts.instruction("TAV", Corpus.CMU_MOSI), prompts.instruction("TAV", MELD7)
    texts = [said[1]["content"][-1]["text"] for said in (five, seven)]
    assert texts[0].replace(*own) == texts[1]


def test_every_set_has_a_version_of_its_own_that_names_in_replies_are_part_of():
    versions = {prompts.prompt_version(labels) for labels in LABEL_SETS.values()}
    assert len(versions | {prompts.prompt_version()}) == len(LABEL_SETS) + 1
    plain = LabelSet("meld7", MELD7.classes)
    assert prompts.instruction("T", plain) == prompts.instruction("T", MELD7)
    assert prompts.prompt_version(plain) != prompts.prompt_version(MELD7)


def test_more_classes_than_letters_that_are_no_words_cannot_be_asked():
    nine = LabelSet("nine", tuple(f"class {i}" for i in range(9)))
    with pytest.raises(ValueError, match="the ninth letter, I, is a word"):
        prompts.instruction("T", nine)
    eight = LabelSet("eight", tuple(f"class {i}" for i in range(8)))
    assert prompts.parse_reply("H", eight).label == 7


def test_a_real_template_carries_the_classes_to_the_model():
    model = OmniModel.load(ROOT / "data" / "omni-mini", dtype="float32")
    query = Query(Encoded(None, None, None, None), "T", MELD7, "what a day")
    assert prompts.instruction("T", MELD7) in model._chat(query)
    [said] = model.reply([query])
    assert isinstance(said, str)


# Replies


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("B", 1), ("g", 6), ("**G**", 6), ("F.", 5), ("B (joy)", 1), ("Joy (B)", 1), ("joy", 1),
        ("Joy.", 1), ("Emotion: Joy", 1), ("Emotion: B", 1), ("The emotion is B.", 1),
        ("Answer: G\nThe voice rises.", 6), ("答案\uff1aF", 5), ("恐惧", 5), ("A（生气）", 0),
        ("\uff27", 6), ("<C>", 2), ("情绪\uff1a高兴", 1), ("D\nScore: 0.0", 3), ("surprised", 6),
    ],
)  # fmt: skip
def test_a_reply_that_is_plainly_one_class_is_read(text, label):
    parsed = prompts.parse_reply(text, MELD7)
    assert (parsed.outcome, parsed.label, parsed.score, parsed.why) == ("ok", label, None, "")


@pytest.mark.parametrize(
    "text",
    [
        "", "H", "I", "a", "B (anger)", "joy (A)", "joy or fear", "joy\nFear", "B or C", "B\nC",
        "The speaker feels joy.", "A smile", "A joyful face", "joyful", "I cannot tell", "N/A",
        "joy\nThe answer may be C", "B, C", "neutral, I cannot determine it", "rage",
        "B\nI cannot determine it",
    ],
)  # fmt: skip
def test_of_prose_refusals_and_several_classes_none_is_read(text):
    parsed = prompts.parse_reply(text, MELD7)
    assert (parsed.outcome, parsed.label) == ("unparseable", None) and parsed.why


@given(SETS.flatmap(lambda own: st.tuples(st.just(own), st.integers(0, len(own) - 1))), st.data())
@settings(max_examples=300, deadline=None)
def test_every_name_and_letter_of_a_set_is_read_as_its_class(drawn, data):
    labels, label = drawn
    letter, name = "ABCDEFGH"[label], data.draw(st.sampled_from(labels.spoken[label]))
    form = data.draw(
        st.sampled_from(
            ["{0}", "{1}", "{0} ({1})", "{1} ({0})", "Answer: {0}", "**{1}**", "{0}: {1}",
             "Label: {1}.", "\u201c{1}\u201d", "{0}.\nThe speaker smiles.", "{0}\n{1}"]
        )
    )  # fmt: skip
    text = form.format(letter, data.draw(st.sampled_from([name, name.upper(), name.title()])))
    assert prompts.parse_reply(text, labels).label == label, text


@given(SETS, st.data())
@settings(max_examples=300, deadline=None)
def test_two_different_classes_are_never_read_as_one(labels, data):
    one, two = data.draw(st.permutations(range(len(labels))))[:2]
    names = [data.draw(st.sampled_from(labels.spoken[k])) for k in (one, two)]
    letters = ["ABCDEFGH"[k] for k in (one, two)]
    form = data.draw(
        st.sampled_from(
            ["{0} or {1}", "{0}\n{1}", "{0} ({3})", "{2} / {3}", "{2}\n{3}", "{2} ({1})"]
        )
    )
    text = form.format(*letters, *names)
    assert prompts.parse_reply(text, labels).label is None, text


@given(st.text(max_size=40), SETS)
@settings(deadline=None)
def test_no_text_breaks_the_parser_or_yields_a_class_that_is_none(text, labels):
    parsed = prompts.parse_reply(text, labels)
    assert (parsed.label is None) == (parsed.outcome == "unparseable")
    assert parsed.label is None or parsed.label < len(labels)
    assert parsed.score is None


def test_names_of_a_class_are_words_and_no_patterns():
    odd = LabelSet("odd", ("a.b", "c|d", "very  sad"))
    for text, label in (("a.b", 0), ("c|d", 1), ("Very sad", 2), ("B (c|d)", 1)):
        assert prompts.parse_reply(text, odd).label == label
    assert prompts.parse_reply("axb", odd).label is None


def test_replies_are_read_with_the_standard_library_alone(tmp_path):
    source = Path(replies.__file__).read_text(encoding="utf-8")
    named = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    modules = {getattr(node, "module", None) or node.names[0].name for node in named}
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
    (tmp_path / "carried.py").write_text(source, encoding="utf-8")
    program = (
        "from carried import Grammar, read\n"
        "assert read('E\\nScore: 1.0', [[], [], [], [], [1.0]]).score == 1.0\n"
        "own = Grammar.of([['joy', '高兴'], ['fear']])\n"
        "assert read('高兴', grammar=own).label == 0 and read('B', grammar=own).label == 1"
    )
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path[:0] = ['.']\n{program}"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_small_set_takes_no_letter_beyond_it():
    assert prompts.parse_reply("C", SENTIMENT2).label is None
    assert prompts.parse_reply("E", IEMOCAP4).label is None
