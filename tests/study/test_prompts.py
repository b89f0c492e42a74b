"""The prompt of Appendix E, and replies read back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import CLASS_NAMES, CLASSES, COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.systems import prompts


def test_the_score_policies_are_those_of_appendix_e():
    assert prompts.score_policy(Corpus.CH_SIMS) == (
        "A (Negative) = {-1.0, -0.8}, B (Weakly Negative) = {-0.6, -0.4, -0.2},\n"
        "C (Neutral) = {0.0}, D (Weakly Positive) = {0.2, 0.4, 0.6}, E (Positive) = {0.8, 1.0}"
    )
    assert prompts.score_policy(Corpus.CMU_MOSI) == (
        "A (Negative) = {-1.0, -0.8, -0.6}, B (Weakly Negative) = {-0.4, -0.2},\n"
        "C (Neutral) = {0.0}, D (Weakly Positive) = {0.2, 0.4}, E (Positive) = {0.6, 0.8, 1.0}"
    )


@pytest.mark.parametrize("coalition", COALITIONS)
def test_the_message_holds_what_the_coalition_has_and_nothing_else(coalition):
    [system, user] = prompts.messages(coalition, Corpus.CMU_MOSI, "secret words")
    kinds = [part["type"] for part in user["content"]]
    assert kinds == [k for k, m in (("video", "V"), ("audio", "A")) if m in coalition] + ["text"]
    text = user["content"][-1]["text"]
    assert ("secret words" in text) == ("T" in coalition)
    printed = "Transcript (may contain ASR errors):\nsecret words\nTask:"
    assert text.startswith(printed) == ("T" in coalition)
    assert system["content"][0]["text"] == prompts.SYSTEM_PROMPT


def test_an_unknown_coalition_is_refused():
    with pytest.raises(ValueError, match="unknown coalition 'VT'"):
        prompts.instruction("VT", Corpus.CMU_MOSI)


@given(corpus=st.sampled_from(list(Corpus)), label=st.integers(0, 4), pick=st.integers(0, 2))
def test_a_well_formed_reply_is_read_back_exactly(corpus, label, pick):
    allowed = GRIDS[corpus].scores(label)
    score = allowed[pick % len(allowed)]
    parsed = prompts.parse_reply(prompts.reply(label, score), corpus)
    assert (parsed.outcome, parsed.label, parsed.score) == ("ok", label, score)


@pytest.mark.parametrize(
    ("text", "outcome", "label", "score"),
    [
        ("E\nScore: 1.0", "ok", 4, 1.0),
        ("<E>\nScore: 0.8", "ok", 4, 0.8),
        ("b (Weakly Negative)\nScore: \u22120.4", "ok", 1, -0.4),
        ("C", "no score", 2, None),
        ("A\nScore: 0.8", "score off the letter's grid", 0, None),
        ("D Score: 0.6", "ok", 3, 0.6),
        ("**D**\n\nScore: 0.6", "ok", 3, 0.6),
        # A letter in company
        ("(A)", "no score", 0, None),
        ("**E**", "no score", 4, None),
        ("E.", "no score", 4, None),
        ("E Positive", "no score", 4, None),
        ("E (Positive)", "no score", 4, None),
        ("C - Neutral, Score: 0.0", "ok", 2, 0.0),
        ("Weakly Negative (B)", "no score", 1, None),
        ("Answer: A", "no score", 0, None),
        ("Sentiment: A", "no score", 0, None),
        ("**Answer:** E\n**Score:** 1.0", "ok", 4, 1.0),
        ("Answer:\nE\nScore:\n0.8", "ok", 4, 0.8),
        ("The answer is B.", "no score", 1, None),
        ("Sentiment LETTER: B\nScore: -0.2", "ok", 1, -0.2),
        ('{"sentiment": "E", "score": 1.0}', "ok", 4, 1.0),
        ("```\nE\nScore: 1.0\n```", "ok", 4, 1.0),
        ("\\boxed{E}", "no score", 4, None),
        ("b", "no score", 1, None),
        ("e\nscore: 0.8", "ok", 4, 0.8),
        ("E, 0.8", "ok", 4, 0.8),
        ("E\n0.8", "ok", 4, 0.8),
        # Other signs and words
        ("\uff25\n\uff33\uff43\uff4f\uff52\uff45\uff1a\uff11\uff0e\uff10", "ok", 4, 1.0),
        ("A\nScore: \ufe630.8", "ok", 0, -0.8),
        ("A\nScore: \uff0d0.8", "ok", 0, -0.8),
        ("B\nScore: \u20130.4", "ok", 1, -0.4),
        ("A\nScore: - 0.8", "ok", 0, -0.8),
        ("\u7b54\u6848\uff1aE", "no score", 4, None),
        ("\u60c5\u611f\uff1aE\n\u5206\u6570\uff1a0.8", "ok", 4, 0.8),
        ("\u6807\u7b7e\uff1aA\n\u5f97\u5206\uff1a-0.8", "ok", 0, -0.8),
        ("E\uff08\u6b63\u9762\uff09\n\u8bc4\u5206\uff1a\uff10\uff0e\uff18", "ok", 4, 0.8),
        # What may follow
        ("E\nScore: 1.0\n\nThe speaker smiles.", "ok", 4, 1.0),
        ("C\nScore: 0.0\nA calm voice.", "ok", 2, 0.0),
        ("E\nScore: 1.0 (Positive)", "ok", 4, 1.0),
        ("E\nScore: N/A", "no score", 4, None),
        # Two scores are none
        ("E\nScore: 0.8 or 1.0", "no score", 4, None),
        ("E\nScore: 0.8/1.0", "no score", 4, None),
        ("E\nScore: between 0.8 and 1.0", "no score", 4, None),
        ("E\nScore: 0.8-1.0", "no score", 4, None),
        ("E\nScore: 0.8\nor 1.0", "no score", 4, None),
        ("E\nScore: 0.8\nScore: 1.0", "no score", 4, None),
        ("E\nScore: 0.8\nScore: 0.80", "ok", 4, 0.8),
        ("E\nScore: 80%", "no score", 4, None),
        ("E\nScore: 0,8", "no score", 4, None),
        ("E\nScore - 0.8", "no score", 4, None),
        ("E\nScore: - 0.8", "score off the letter's grid", 4, None),
    ],
)
def test_a_reply_that_is_plainly_one_answer_is_read(text, outcome, label, score):
    parsed = prompts.parse_reply(text, Corpus.CH_SIMS)
    assert (parsed.outcome, parsed.label, parsed.score) == (outcome, label, score)
    assert bool(parsed.why) == (outcome != "ok")


@pytest.mark.parametrize(
    "text",
    [
        "", "F\nScore: 1.0", "Positive", "Score: 0.8", "a", "E?", "A...", "B+", "A-",
        "The speaker seems happy.", "Absolutely wonderful", "A wonderful clip. Score: 1.0",
        "A score cannot be given without evidence.", "A\nscore cannot be given",
        "A score of -0.8", "A score: 0.8 seems right", "A 90s film", "A 5-second clip",
        'A "happy" speaker, so E', "A happy speaker", "a\nThe speaker", "A\nhappy speaker",
        "A. Smith speaks", "E.g. a smile", "C'est bien", "E-mail", "The answer is a",
        "A/B", "A or B", "A, B, C, D or E", "A B", "A\nB\nC\nD\nE", "E\nNo, D",
        "Between A and B", "A|B", "Answer: A or B", "E (Positive) or D", "A\nLabel: e",
        "E\nScore: 0.8\nD is also possible", "E\nScore: 0.8\nA is also possible",
        "A (Negative) = {-1.0, -0.8}, B (Weakly Negative) = {-0.6, -0.4, -0.2}",
        "A (Negative): {-1.0, -0.8}", "B: -0.6, -0.4, -0.2", "A,", "a.",
        "A (Negative) = {-1.0, -0.8}", "A (Negative)\nB (Weakly Negative)\nC (Neutral)",
        "<ONE LETTER: A or B or C or D or E>\nScore: 0.8",
        "A (Positive)", "A positive", "A\nPositive", "E (Weakly Positive)",
        "E\n\u6807\u7b7e\uff1a\u8d1f\u9762",
        "I cannot tell.", "A\nI cannot determine the sentiment.", "E\n\u65e0\u6cd5\u5224\u65ad",
        "\u0410\nScore: -0.8",
    ],
)  # fmt: skip
def test_of_prose_refusals_and_several_answers_no_class_is_read(text):
    parsed = prompts.parse_reply(text, Corpus.CH_SIMS)
    assert (parsed.outcome, parsed.label, parsed.score) == ("unparseable", None, None)
    assert parsed.why


WIDE = {ord(sign): ord(sign) + 0xFEE0 for sign in "ABCDEabcdefghijklmnopqrstuvwxyzS:.-0123456789()"}
ASIDE = st.sampled_from(["", "(", "**", "`", '"', "<", "[", "\u201c", "\u300c"])
CLOSING = {"": "", "(": ")", "<": ">", "[": "]", "\u201c": "\u201d", "\u300c": "\u300d"}
CHINESE = ("负面", "弱负面", "中性", "弱正面", "正面")


@st.composite
def good_replies(draw):
    """A reply of the grammar, and what it says: corpus, label, score or None."""
    corpus, label = draw(st.sampled_from(list(Corpus))), draw(st.integers(0, 4))
    opening = draw(ASIDE)
    text = f"{opening}{LETTERS[label]}{CLOSING.get(opening, opening)}"
    names = [CLASS_NAMES[label], CLASS_NAMES[label].lower(), CHINESE[label]]
    name = draw(st.sampled_from(["", *names]))
    if name:
        text += draw(st.sampled_from([" {}", " ({})", ": {}", " - {}", "\n{}"])).format(name)
    lead = draw(
        st.sampled_from(
            [
                "",
                "Answer: ",
                "Sentiment: ",
                "**Label:** ",
                "The answer is ",
                "Final answer: ",
                "答案\uff1a",
                "情感标签: ",
            ]
        )
    )
    text = lead + text + draw(st.sampled_from(["", ".", "\u3002"]))
    score = draw(st.none() | st.sampled_from(GRIDS[corpus].scores(label)))
    if score is not None:
        minus = draw(st.sampled_from(["-", "\u2212", "\ufe63", "\uff0d", "\u2013", "- "]))
        number = prompts.format_score(score).replace("-", minus)
        word = draw(
            st.sampled_from(
                [
                    "Score: ",
                    "score: ",
                    "Score:",
                    "**Score:** ",
                    "Score = ",
                    "\u5206\u6570\uff1a",
                    "\u5f97\u5206: ",
                    "\u8bc4\u5206\uff1a",
                ]
            )
        )
        text += draw(st.sampled_from(["\n", "\n\n", "\n- "])) + word + number
        text += draw(st.sampled_from(["", ".", f"\n{word}{number}", f", {number}"]))
    text += draw(st.sampled_from(["", "\n", "\n\nThe speaker smiles.", "\n说话人在笑。"]))
    return (text.translate(WIDE) if draw(st.booleans()) else text), corpus, label, score


@given(good_replies())
@settings(max_examples=500, deadline=None)
def test_every_reply_of_the_grammar_is_read_as_what_it_says(reply):
    text, corpus, label, score = reply
    parsed = prompts.parse_reply(text, corpus)
    assert (parsed.label, parsed.score) == (label, score), text


NOUNS = st.sampled_from(["score", "speaker", "smile", "sentiment", "label", "clip", "90s film"])
VERBS = st.sampled_from(["cannot be given", "is not enough", "seems right: 0.8", "of -0.8"])


@st.composite
def bad_replies(draw):
    """Prose, several answers, or a contradiction."""
    one, other = draw(st.permutations(range(5)))[:2]
    a, b = LETTERS[one], LETTERS[other]
    kind = draw(st.integers(0, 5))
    article = draw(st.sampled_from(["A", "a", "An", "The"]))
    adjective = draw(st.sampled_from(["", "happy ", '"sad" ', "very calm "]))
    tail = draw(st.sampled_from(["", f", so {b}", f"\nScore: {0.8}", "."]))
    return [
        f"{article} {adjective}{draw(NOUNS)} {draw(VERBS)}{tail}",
        draw(
            st.sampled_from(
                [
                    "{}/{}",
                    "{} or {}",
                    "{}, {}",
                    "{}\n{}",
                    "({}) ({})",
                    "{} -> {}",
                    "{} and {}",
                    "{}; {}",
                    "{} {}",
                    "{}\nNo, {}",
                ]
            )
        ).format(a, b),
        f"{a} ({CLASS_NAMES[other]})" + draw(st.sampled_from(["", "\nScore: 0.8", "."])),
        f"{a} ({CLASS_NAMES[one]}) = {{0.8}}, {b} ({CLASS_NAMES[other]}) = {{1.0}}",
        f"{a}\nScore: 0.8\n{draw(st.sampled_from(['Or', 'Perhaps', 'Answer:']))} {b}",
        f"I {draw(st.sampled_from(['cannot', 'am unable to', 'do not']))} choose {a}",
    ][kind]


@given(bad_replies())
@settings(max_examples=500, deadline=None)
def test_no_class_is_read_where_there_is_no_single_answer(text):
    assert prompts.parse_reply(text, Corpus.CH_SIMS).label is None, text


@given(good_replies(), st.sampled_from(["{} or {}", "{}/{}", "between {} and {}", "{} ~ {}",
                                        "{}, {}", "{}-{}", "{}\nScore: {}"]))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_of_two_scores_neither_is_taken(reply, between):
    _, corpus, label, _ = reply
    allowed = [prompts.format_score(score) for score in GRIDS[corpus].scores(label)]
    pair = (allowed + ["0.9"])[:2]
    parsed = prompts.parse_reply(f"{LETTERS[label]}\nScore: {between.format(*pair)}", corpus)
    assert (parsed.label, parsed.score) == (label, None)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser_or_yields_a_score_off_the_grid(text):
    parsed = prompts.parse_reply(text, Corpus.CMU_MOSI)
    if parsed.outcome == "unparseable":
        assert parsed.label is None
    else:
        assert parsed.label in range(len(CLASSES))
    if parsed.score is not None:
        assert parsed.score in GRIDS[Corpus.CMU_MOSI].scores(parsed.label)


def test_the_version_follows_the_prompt(monkeypatch):
    before = prompts.prompt_version()
    monkeypatch.setattr(prompts, "SYSTEM_PROMPT", prompts.SYSTEM_PROMPT + " ")
    assert prompts.prompt_version() != before
