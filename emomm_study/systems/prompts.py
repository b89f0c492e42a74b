"""The prompt of Appendix E, the same for another set of labels, and what a reply to it may be.

What is asked for is a corpus of EmoMM, whose five classes have scores, or a set of labels, which has
none. The system text is one for all: only what is asked for differs.
"""

from __future__ import annotations

import hashlib
from functools import cache

from emomm_lib.labels import CLASS_NAMES, COALITIONS, LETTERS, LabelSet
from emomm_study.corpora.clips import is_blank
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.systems.replies import Grammar, Reply, read

Asked = Corpus | LabelSet
"""What a prompt asks for."""

SYSTEM_PROMPT = """\
You are a multimodal sentiment analysis assistant.
You may receive any subset of modalities (video, audio, transcript text).
Do not assume missing modalities or fabricate details not supported by the evidence.
Follow the required output format exactly and output nothing else."""

TRANSCRIPT_PREFIX = "Transcript (may contain ASR errors):\n"

_INSTRUCTION = """\
Task: Based on the provided modalities ({present}), assign a sentiment label and score.
Requirements:
Decision process:
1) First decide the Sentiment LETTER (A-E) based on all available modalities.
2) Then choose ONE Score from the allowed set of that LETTER that best reflects the sentiment \
intensity.
{policy}
Output format (exactly):
<ONE LETTER: A or B or C or D or E>
Score: <one value from the allowed set matching the letter>"""

_CLASSES = """\
Task: Based on the provided modalities ({present}), assign {about} label.
Requirements:
Choose the ONE LETTER ({first}-{last}) that fits best, based on all available modalities.
{classes}
Output format (exactly):
<ONE LETTER: {letters}>"""

_SPOKEN = {"V": "video", "A": "audio", "T": "transcript text"}


def format_score(score: float) -> str:
    """A score as the prompt writes it: one decimal, no negative zero."""
    return f"{score + 0.0:.1f}"


@cache
def score_policy(corpus: Corpus | str) -> str:
    """The allowed scores of each letter under a corpus's mapping, on two lines (Appendix E)."""
    grid = GRIDS[Corpus(corpus)]
    sets = [
        f"{letter} ({name}) = {{{', '.join(map(format_score, grid.scores(label)))}}}"
        for label, (letter, name) in enumerate(zip(LETTERS, CLASS_NAMES, strict=True))
    ]
    return ",\n".join([", ".join(sets[:2]), ", ".join(sets[2:])])


def present_modalities(coalition: str) -> str:
    """The modalities of a coalition in words, in the prompt's order: video, audio, transcript."""
    if coalition not in COALITIONS:
        raise ValueError(f"unknown coalition {coalition!r}; expected one of {COALITIONS}")
    return ", ".join(_SPOKEN[m] for m in "VAT" if m in coalition) or "none"


def subject(labels: LabelSet) -> str:
    """What classes are of: sentiment where they have a polarity, else emotion."""
    return "sentiment" if labels.polarity else "emotion"


@cache
def grammar_of(labels: LabelSet) -> Grammar:
    """How a reply gives a class of a set; ``ValueError`` for one too large to be asked by letter."""
    return Grammar.of(labels.spoken, about=subject(labels))


def instruction(coalition: str, corpus: Asked | str) -> str:
    """The instruction for a coalition, with a corpus's score policy or a set's classes.

    Raises ``ValueError`` for a set of more classes than there are letters to ask by.
    """
    if isinstance(corpus, LabelSet):
        letters, about = grammar_of(corpus).letters, subject(corpus)
        named = zip(letters, corpus.classes, strict=True)
        return _CLASSES.format(
            present=present_modalities(coalition),
            about=f"an {about}" if about[0] in "aeiou" else f"a {about}",
            first=letters[0],
            last=letters[-1],
            classes=", ".join(f"{letter} ({name})" for letter, name in named),
            letters=" or ".join(letters),
        )
    return _INSTRUCTION.format(present=present_modalities(coalition), policy=score_policy(corpus))


def messages(coalition: str, corpus: Asked | str, transcript: str) -> list[dict]:
    """Chat messages in the paper's order: video, audio, transcript, instruction (Appendix E).

    Media are placeholders without data; the model adapter passes frames and sound itself.
    """
    content: list[dict] = []
    if "V" in coalition:
        content.append({"type": "video"})
    if "A" in coalition:
        content.append({"type": "audio"})
    text = instruction(coalition, corpus)
    if "T" in coalition:
        text = f"{TRANSCRIPT_PREFIX}{transcript}\n{text}"
    content.append({"type": "text", "text": text})
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPT}]},
        {"role": "user", "content": content},
    ]


def reply(label: int, score: float) -> str:
    """The reply the output format asks for: ``reply(4, 1.0) == "E\\nScore: 1.0"``."""
    return f"{LETTERS[label]}\nScore: {format_score(score)}"


class TranscriptError(ValueError):
    """A transcript that cannot be shown to a model; the message says why."""


def check_transcript(transcript: str) -> None:
    """Raise :class:`TranscriptError` where T would be nothing (:func:`is_blank`)."""
    if is_blank(transcript):
        raise TranscriptError(
            f"the transcript is blank ({transcript!r}), so that nothing can be read in it; add it "
            "to the label file, or leave the clip out"
        )


@cache
def allowed_scores(corpus: Corpus | str) -> tuple[tuple[float, ...], ...]:
    """The scores that may stand behind each letter under a corpus's mapping."""
    grid = GRIDS[Corpus(corpus)]
    return tuple(tuple(grid.scores(label)) for label in range(len(LETTERS)))


def parse_reply(text: str, corpus: Asked | str) -> Reply:
    """Read a model's free text by :func:`emomm_study.systems.replies.read`.

    With a corpus's grid of scores, or by the names of a set's classes.
    """
    if isinstance(corpus, LabelSet):
        return read(text, grammar=grammar_of(corpus))
    return read(text, allowed_scores(corpus))


def prompt_version(labels: LabelSet | None = None) -> str:
    """Digest of everything the prompt is made of, and of what a set's replies are read by.

    For fingerprints; without ``labels`` of the prompts of EmoMM's corpora.
    """
    parts = [
        instruction(c, k) for c in COALITIONS for k in (Corpus if labels is None else [labels])
    ]
    parts += [] if labels is None else [*grammar_of(labels).names]
    text = "\0".join([SYSTEM_PROMPT, TRANSCRIPT_PREFIX, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
