"""Reading a model's reply back into a letter and a score.

Needs nothing beside the standard library, so that its source can be carried into a task that another
tool runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

REPLY_VERSION = 2
"""Raised whenever a change to :func:`read` can change what is read; part of fingerprints."""

LETTERS = "ABCDE"


@dataclass(frozen=True)
class Reply:
    """A parsed reply. ``outcome`` says whether letter, score and their agreement were readable.

    ``why`` says in words what kept a letter or a score from being read.
    """

    outcome: Literal["ok", "score off the letter's grid", "no score", "unparseable"]
    label: int | None = None
    score: float | None = None
    why: str = ""


# Marks that only decorate: emphasis, quotation marks, brackets.
_DECOR = re.compile(
    r"\\boxed|[*_#`|\"'\u2018-\u201f\u00ab\u00bb<>()\[\]{}\u3008-\u3011\u3014\u3015$]"
)
_BULLET = re.compile(r"^\s*[-\u2022\u00b7]\s+(?=[^\s\d.])")
_DASHES = re.compile(r"[\u2010-\u2015\u2212\u2796\u02d7\ufe58]")
_WEAK = r"(?:(?:weakly|weak|slightly|mildly)[\s-]+|[弱偏]|[轻輕稍略]微)"
_NAME = (
    rf"(?:{_WEAK}?(?:negative|positive|[负負正]面|[负負正]向|[消积積]极|[消積]極)|neutral|中[性立])"
)
_LABEL = (
    r"(?:(?:the|my|final|correct|best|predicted|overall)\s+)*"
    r"(?:sentiment\s+)?(?:answer|sentiment|label|letter|class|category|option|choice|prediction|"
    r"output)|(?:最终)?(?:情感|情绪|情緒)?(?:答案|情感|情绪|情緒|标签|標籤|类别|類別|选项|選項|字母)"
)
_SCORE = (
    r"(?:(?:the|my|final|predicted)\s+)*(?:sentiment\s+)?score|"
    r"(?:情感|情绪|情緒)?(?:分数|分數|得分|评分|評分|分值)"
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?![\w%]|[.,]\d)"
_LINE = re.compile(
    rf"(?:(?i:{_LABEL})\s*(?P<mark>(?:[:=-]|(?i:is\b)\s*:?|[是为為])?)\s*)?"
    rf"(?:(?P<before>(?i:{_NAME}))\s*[-,:;]?\s*)?"
    r"(?P<letter>[A-Ea-e])(?![A-Za-z0-9])"
    rf"(?:\s*[-.,:;]?\s*(?P<after>(?i:{_NAME}))(?:\s+(?i:sentiment))?)?"
    r"(?P<stop>\s*[.,:;!。、]?)\s*"
    rf"(?P<score>(?i:{_SCORE})\s*(?=[:=是为為]|[+-]?[\d.]).*|[+-]?{_NUMBER}.*)?",
    re.ASCII,
)
_NAMED = re.compile(
    rf"(?i:(?:(?:{_LABEL})\s*(?:[:=]|is\b|[是为為])?\s*)?({_NAME}))[.。]?", re.ASCII
)
_SCORED = re.compile(
    rf"(?i:{_SCORE})\s*(?:(?:[:=]|(?i:is\b)\s*:?|[是为為])|(?=[+-]?[\d.]))", re.ASCII
)
_VALUES = re.compile(
    rf"(?P<values>[+-]?\s*{_NUMBER}(?:(?:\s*[,;=]\s*(?:[+-]\s*)?|\s+[+-]?){_NUMBER})*)\s*分?"
    rf"(?:\s*[-,:;]?\s*(?P<name>(?i:{_NAME})))?[,;!]?(?:[.。](?:\s+\D*)?)?",
    re.ASCII,
)
# "A" as an article, and "N/A", are not answers.
_OTHER_LETTER = re.compile(r"(?<![\w/])([A-E])(?![\w'])")
_ARTICLE = re.compile(
    r"\bA(?=\s+(?!(?:is|was|or|and|but|would|could|may|might|seems|fits|because|if)\b)[a-z])|"
    r"\bN/A\b",
    re.ASCII,
)
_ONLY_NUMBERS = re.compile(
    rf"(?:[+-]?{_NUMBER}|[\s;/~.!。-]|\b(?:or|to|and)\b|[或到至])+", re.ASCII
)
_REFUSAL = re.compile(
    r"\b(?:i|we)\s+(?:cannot|can't|can not|could not|couldn't|do not know|don't know|"
    r"(?:am|are) (?:unable|not able))\b|\b(?:i'm|i am) sorry\b|\bas an ai\b|"
    r"(?:无法|不能|無法)(?:判断|确定|给出|识别|回答|评估|判斷|確定)|抱歉"
)


def _lines(text: str) -> list[str]:
    """A reply's lines in plain letters, digits and signs; a wrapped line is one with its first."""
    text = _DASHES.sub("-", unicodedata.normalize("NFKC", text))
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    lines: list[str] = []
    for line in text.splitlines():
        line = _BULLET.sub("", _DECOR.sub(" ", line)).strip()
        if not line:
            continue
        scored = re.match(rf"(?i:{_SCORE})\s*[:=是为為]", line)
        begun = re.fullmatch(rf"(?i:{_LABEL})\s*[:=]", lines[-1]) if len(lines) == 1 else None
        if lines and (begun or (re.match(r"[a-z\d+.,;/&-]", line) and not scored)):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return lines


def _class_of(name: str) -> int:
    """The class that a name stands for, in English or Chinese."""
    if re.fullmatch(r"(?i:neutral)|中[性立]", name):
        return 2
    weak = re.match(rf"(?i:{_WEAK})", name) is not None
    positive = re.search(r"(?i:positive)|正|[积積]", name) is not None
    return (3 if weak else 4) if positive else (1 if weak else 0)


def _values(text: str, label: int) -> set[float]:
    """What a text says that the score is: nothing unless it says just that, for this class."""
    found = _VALUES.fullmatch(text.strip())
    if not found or (found["name"] and _class_of(found["name"]) != label):
        return set()
    numbers = re.findall(r"[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)", found["values"], re.ASCII)
    return {float(re.sub(r"\s", "", number)) for number in numbers}


def read(text: str, allowed: Sequence[Sequence[float]]) -> Reply:
    """Read a model's free text; ``allowed`` has the scores of each letter. A reply that is not plainly one answer is ``unparseable``.

    The first line has to be the answer and nothing else: a letter, perhaps with ``Answer:`` before
    it, its class's name beside it, and the score behind it; ``Score:`` may have a line of its own.
    Further lines may say why, but name no other letter. Decoration, full-width signs and Chinese
    words are read as plain ones; a lower-case letter only in such company. Of prose nothing is
    read, since "A" is a word too. Two scores are none, and a score outside the letter's allowed set
    is dropped, since the format forbids it.
    """
    lines = _lines(text)
    answer = _LINE.fullmatch(lines[0]) if lines else None
    if not answer:
        return Reply("unparseable", why="the first line is not an answer")
    letter = answer["letter"].upper()
    label = LETTERS.index(letter)
    names = [answer["before"], answer["after"]]
    names += [found[1] for line in lines[1:] if (found := _NAMED.fullmatch(line))]
    if any(_class_of(name) != label for name in names if name):
        return Reply("unparseable", why="its letter and its class contradict each other")
    more = [answer["score"] or "", *lines[1:]]
    others = [_LINE.fullmatch(line) for line in lines[1:]]
    letters = {other["letter"].upper() for other in others if other}
    for part in more:
        letters |= set(_OTHER_LETTER.findall(_ARTICLE.sub(" ", part)))
    if letters - {letter}:
        return Reply("unparseable", why="it names several letters")
    if _REFUSAL.search(text.casefold().replace("\u2019", "'")):
        return Reply("unparseable", why="it refuses to answer")
    said = [part for part in more if part]
    scored = [part[m.end() :] for part in said if (m := _SCORED.match(part))]
    if answer["score"] and not _SCORED.match(answer["score"]):
        scored.append(answer["score"])
    found = [_values(part, label) for part in scored]
    numbers = set().union(*found)
    # A score line that cannot be read leaves it open which one is meant.
    score = numbers.pop() + 0.0 if all(found) and len(numbers) == 1 else None
    on_grid = score is not None and any(abs(score - s) < 1e-6 for s in allowed[label])
    if not _stands(answer, text, on_grid, more):
        return Reply("unparseable", why="its first letter may be a word")
    if score is None:
        return Reply("no score", label, why="no single number is given as its score")
    if not on_grid:
        return Reply("score off the letter's grid", label, why=f"{score:g} is not {letter}'s")
    return Reply("ok", label, score)


def _stands(answer: re.Match[str], text: str, on_grid: bool, more: list[str]) -> bool:
    """Whether a letter in the place of an answer can be nothing else."""
    if answer["stop"].strip() in {",", ";", "、"} and not any(more):
        return False
    named = bool(answer["before"] or answer["after"])
    marked = bool(answer["mark"]) and not answer["mark"].lower().startswith("is")
    if answer["letter"].islower():
        alone = re.fullmatch(r"\W*[b-e]\W*|\W+a\W+", text.strip())
        return named or marked or on_grid or alone is not None
    # "A score: ...", "A 90s film" and "A: -1.0, -0.8" are no answers, unless with one A's score.
    if on_grid or not answer["score"]:
        return True
    bare = answer["letter"] == "A" and not (answer["mark"] or named or answer["stop"].strip())
    in_words = _SCORED.match(answer["score"]) or _ONLY_NUMBERS.fullmatch(answer["score"])
    return not bare and in_words is not None
