"""The prompt of Appendix E, and replies read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emomm_lib import prompts
from emomm_lib.labels import CLASSES, COALITIONS, GRIDS, Corpus


def test_the_score_policies_are_those_of_appendix_e():
    assert prompts.score_policy(Corpus.CH_SIMS) == (
        "A (Negative) = {-1.0, -0.8}, B (Weakly Negative) = {-0.6, -0.4, -0.2}, "
        "C (Neutral) = {0.0}, D (Weakly Positive) = {0.2, 0.4, 0.6}, E (Positive) = {0.8, 1.0}"
    )
    assert prompts.score_policy(Corpus.CMU_MOSI) == (
        "A (Negative) = {-1.0, -0.8, -0.6}, B (Weakly Negative) = {-0.4, -0.2}, "
        "C (Neutral) = {0.0}, D (Weakly Positive) = {0.2, 0.4}, E (Positive) = {0.6, 0.8, 1.0}"
    )


@pytest.mark.parametrize("coalition", COALITIONS)
def test_the_message_holds_what_the_coalition_has_and_nothing_else(coalition):
    [system, user] = prompts.messages(coalition, Corpus.CMU_MOSI, "secret words")
    kinds = [part["type"] for part in user["content"]]
    assert kinds == [k for k, m in (("video", "V"), ("audio", "A")) if m in coalition] + ["text"]
    text = user["content"][-1]["text"]
    assert ("secret words" in text) == ("T" in coalition)
    assert text.startswith(prompts.TRANSCRIPT_PREFIX) == ("T" in coalition)
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
        ("The speaker seems happy.", "unparseable", None, None),
        ("Absolutely wonderful", "unparseable", None, None),
        ("A wonderful clip. Score: 1.0", "unparseable", None, None),
        ("D Score: 0.6", "ok", 3, 0.6),
        ("**D**\n\nScore: 0.6", "ok", 3, 0.6),
        ("", "unparseable", None, None),
        ("F\nScore: 1.0", "unparseable", None, None),
    ],
)
def test_odd_replies_have_an_outcome_of_their_own(text, outcome, label, score):
    parsed = prompts.parse_reply(text, Corpus.CH_SIMS)
    assert (parsed.outcome, parsed.label, parsed.score) == (outcome, label, score)


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
