"""The prompt of Appendix E, and the scores that a reply to it may give."""

from __future__ import annotations

import hashlib
from functools import cache

from emomm_lib.labels import CLASS_NAMES, COALITIONS, LETTERS
from emomm_study.corpora.clips import is_blank
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.systems.replies import Reply, read

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


def instruction(coalition: str, corpus: Corpus | str) -> str:
    """The instruction for a coalition and a corpus's score policy."""
    return _INSTRUCTION.format(present=present_modalities(coalition), policy=score_policy(corpus))


def messages(coalition: str, corpus: Corpus | str, transcript: str) -> list[dict]:
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


def parse_reply(text: str, corpus: Corpus | str) -> Reply:
    """Read a model's free text by :func:`emomm_study.systems.replies.read` and a corpus's grid."""
    return read(text, allowed_scores(corpus))


def prompt_version() -> str:
    """Digest of everything the prompt is made of, for fingerprints."""
    parts = [instruction(c, k) for c in COALITIONS for k in Corpus]
    text = "\0".join([SYSTEM_PROMPT, TRANSCRIPT_PREFIX, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
