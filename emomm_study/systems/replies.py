"""Reading a model's reply back into a letter and a score.

Needs nothing beside the standard library, so that its source can be carried into a task that another
tool runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

REPLY_VERSION = 2
"""Raised whenever a change to :func:`read` can change what is read; part of fingerprints."""

MOST = 8
"""Most letters that can be told from words: the ninth is I."""


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
_NEGATIVE = r"(?:negative|[负負]面|[负負]向|消[极極])"
_POSITIVE = r"(?:positive|正面|正向|[积積]极|積極)"
_SCORE = (
    r"(?:(?:the|my|final|predicted)\s+)*(?:sentiment\s+)?score|"
    r"(?:情感|情绪|情緒)?(?:分数|分數|得分|评分|評分|分值)"
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?![\w%]|[.,]\d)"
_SCORED = re.compile(
    rf"(?i:{_SCORE})\s*(?:(?:[:=]|(?i:is\b)\s*:?|[是为為])|(?=[+-]?[\d.]))", re.ASCII
)
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


@dataclass(frozen=True)
class Grammar:
    """What an answer looks like: its letters, how the class of each is called, what else it has.

    Attributes
    ----------
    names
        Of every class a regular expression of its names, in whatever case; the class's letter is
        A, B, ... by its place.
    scored
        Whether a score has to stand behind the letter.
    by_name
        Whether a class's name alone is an answer.
    about
        What is asked for, as a reply may call it.

    Raises ``ValueError`` for fewer than two classes and for more than :data:`MOST`.
    """

    names: tuple[str, ...]
    scored: bool = False
    by_name: bool = True
    about: str = "emotion"

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= MOST:
            raise ValueError(
                f"by letter 2 to {MOST} classes can be asked, as the ninth letter, I, is a word; got "
                f"{len(self.names)}"
            )

    @classmethod
    def of(cls, names: Sequence[Sequence[str]], about: str = "emotion") -> Grammar:
        """Without scores, from the plain names of each class in any language."""
        return cls(tuple("|".join(map(_spelled, own)) for own in names), about=about)

    @property
    def letters(self) -> str:
        """The letters that stand for the classes."""
        return "ABCDEFGH"[: len(self.names)]

    def class_of(self, name: str) -> int:
        """The class that a name stands for; ``ValueError`` for none."""
        for label, own in enumerate(self.names):
            if re.fullmatch(rf"(?i:{own})", name):
                return label
        raise ValueError(f"{name!r} is the name of no class")

    @cached_property
    def _name(self) -> str:
        return rf"(?:{'|'.join(f'(?:{own})' for own in self.names)})"

    @cached_property
    def _label(self) -> str:
        about = "sentiment" if self.about == "sentiment" else f"sentiment|{re.escape(self.about)}"
        return (
            r"(?:(?:the|my|final|correct|best|predicted|overall)\s+)*"
            rf"(?:(?:{about})\s+)?(?:answer|{about}|label|letter|class|category|option|choice|"
            r"prediction|output)|(?:最终)?(?:情感|情绪|情緒)?"
            r"(?:答案|情感|情绪|情緒|标签|標籤|类别|類別|选项|選項|字母)"
        )

    @cached_property
    def begun(self) -> re.Pattern[str]:
        """What announces an answer that stands on the next line."""
        return re.compile(rf"(?i:{self._label})\s*[:=]")

    @cached_property
    def line(self) -> re.Pattern[str]:
        """A line that is an answer by letter."""
        last = self.letters[-1]
        return re.compile(
            rf"(?:(?i:{self._label})\s*(?P<mark>(?:[:=-]|(?i:is\b)\s*:?|[是为為])?)\s*)?"
            rf"(?:(?P<before>(?i:{self._name}))\s*[-,:;]?\s*)?"
            rf"(?P<letter>[A-{last}a-{last.lower()}])(?![A-Za-z0-9])"
            rf"(?:\s*[-.,:;]?\s*(?P<after>(?i:{self._name}))(?:\s+(?i:{re.escape(self.about)}))?)?"
            r"(?P<stop>\s*[.,:;!。、]?)\s*"
            rf"(?P<score>(?i:{_SCORE})\s*(?=[:=是为為]|[+-]?[\d.]).*|[+-]?{_NUMBER}.*)?",
            re.ASCII,
        )

    @cached_property
    def named(self) -> re.Pattern[str]:
        """A line that is a class's name."""
        return re.compile(
            rf"(?i:(?:(?:{self._label})\s*(?:[:=]|is\b|[是为為])?\s*)?({self._name}))[.。]?",
            re.ASCII,
        )

    @cached_property
    def values(self) -> re.Pattern[str]:
        """What may stand where a score is announced."""
        return re.compile(
            rf"(?P<values>[+-]?\s*{_NUMBER}(?:(?:\s*[,;=]\s*(?:[+-]\s*)?|\s+[+-]?){_NUMBER})*)\s*分?"
            rf"(?:\s*[-,:;]?\s*(?P<name>(?i:{self._name})))?[,;!]?(?:[.。](?:\s+\D*)?)?",
            re.ASCII,
        )

    @cached_property
    def letter(self) -> re.Pattern[str]:
        """A letter that stands alone; "A" as an article, and "N/A", are none."""
        return re.compile(rf"(?<![\w/])([A-{self.letters[-1]}])(?![\w'])")


def _spelled(name: str) -> str:
    """A plain name as it may be written: decoration is gone, and spaces may be several."""
    plain = _DECOR.sub(" ", unicodedata.normalize("NFKC", name))
    # "surprised" is not "surprise", and the letter D.
    return r"\s+".join(map(re.escape, plain.split())) + r"(?![A-Za-z])"


SENTIMENT = Grammar(
    (
        _NEGATIVE,
        rf"{_WEAK}{_NEGATIVE}",
        r"neutral|中[性立]",
        rf"{_WEAK}{_POSITIVE}",
        _POSITIVE,
    ),
    scored=True,
    by_name=False,
    about="sentiment",
)
"""The paper's five classes (Appendix E)."""


def _lines(text: str, grammar: Grammar) -> list[str]:
    """A reply's lines in plain letters, digits and signs; a wrapped line is one with its first."""
    text = _DASHES.sub("-", unicodedata.normalize("NFKC", text))
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    lines: list[str] = []
    for line in text.splitlines():
        line = _BULLET.sub("", _DECOR.sub(" ", line)).strip()
        if not line:
            continue
        scored = re.match(rf"(?i:{_SCORE})\s*[:=是为為]", line)
        begun = grammar.begun.fullmatch(lines[-1]) if len(lines) == 1 else None
        if lines and (begun or (re.match(r"[a-z\d+.,;/&-]", line) and not scored)):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return lines


def _values(text: str, label: int, grammar: Grammar) -> set[float]:
    """What a text says that the score is: nothing unless it says just that, for this class."""
    found = grammar.values.fullmatch(text.strip())
    if not found or (found["name"] and grammar.class_of(found["name"]) != label):
        return set()
    numbers = re.findall(r"[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)", found["values"], re.ASCII)
    return {float(re.sub(r"\s", "", number)) for number in numbers}


def read(
    text: str, allowed: Sequence[Sequence[float]] = (), *, grammar: Grammar = SENTIMENT
) -> Reply:
    """Read a model's free text; ``allowed`` has the scores of each letter, where there are scores.

    A reply that is not plainly one answer is ``unparseable``. The first line has to be the answer and
    nothing else: a letter, perhaps with ``Answer:`` before it, its class's name beside it, and the
    score behind it; ``Score:`` may have a line of its own. Further lines may say why, but name no
    other letter. Decoration, full-width signs and Chinese words are read as plain ones; a lower-case
    letter only in such company. Of prose nothing is read, since "A" is a word too. Two scores are
    none, and a score outside the letter's allowed set is dropped, since the format forbids it.

    ``grammar`` is that of other classes. Where it has no scores, what is said of one is passed over,
    and where it goes by name, a class's name alone is an answer.
    """
    lines = _lines(text, grammar)
    answer = grammar.line.fullmatch(lines[0]) if lines else None
    named = grammar.named.fullmatch(lines[0]) if lines and grammar.by_name else None
    if named and not answer:
        label = grammar.class_of(named[1])
        wrong = _contradicted(label, [], lines[1:], text, grammar)
        return Reply("unparseable", why=wrong) if wrong else Reply("ok", label)
    if not answer:
        return Reply("unparseable", why="the first line is not an answer")
    letter = answer["letter"].upper()
    label = grammar.letters.index(letter)
    more = [answer["score"] or "", *lines[1:]]
    if wrong := _contradicted(label, [answer["before"], answer["after"]], more, text, grammar):
        return Reply("unparseable", why=wrong)
    said = [part for part in more if part]
    scored = [part[m.end() :] for part in said if (m := _SCORED.match(part))]
    if answer["score"] and not _SCORED.match(answer["score"]):
        scored.append(answer["score"])
    found = [_values(part, label, grammar) for part in scored]
    numbers = set().union(*found)
    # A score line that cannot be read leaves it open which one is meant.
    score = numbers.pop() + 0.0 if all(found) and len(numbers) == 1 else None
    own = allowed[label] if grammar.scored else ()
    on_grid = score is not None and any(abs(score - s) < 1e-6 for s in own)
    if not _stands(answer, text, on_grid, more):
        return Reply("unparseable", why="its first letter may be a word")
    if not grammar.scored:
        return Reply("ok", label)
    if score is None:
        return Reply("no score", label, why="no single number is given as its score")
    if not on_grid:
        return Reply("score off the letter's grid", label, why=f"{score:g} is not {letter}'s")
    return Reply("ok", label, score)


def _contradicted(
    label: int,
    names: Sequence[str | None],
    more: Sequence[str],
    text: str,
    grammar: Grammar,
) -> str:
    """Why an answer is none after all, by the names beside it and what follows; empty if it is one."""
    told = [*names, *(found[1] for line in more if (found := grammar.named.fullmatch(line)))]
    if any(grammar.class_of(name) != label for name in told if name):
        return "its letter and its class contradict each other"
    letters = {own["letter"].upper() for line in more if (own := grammar.line.fullmatch(line))}
    for part in more:
        letters |= set(grammar.letter.findall(_ARTICLE.sub(" ", part)))
    if letters - {grammar.letters[label]}:
        return "it names several letters"
    if _REFUSAL.search(text.casefold().replace("\u2019", "'")):
        return "it refuses to answer"
    return ""


def _stands(answer: re.Match[str], text: str, on_grid: bool, more: list[str]) -> bool:
    """Whether a letter in the place of an answer can be nothing else."""
    if answer["stop"].strip() in {",", ";", "、"} and not any(more):
        return False
    named = bool(answer["before"] or answer["after"])
    marked = bool(answer["mark"]) and not answer["mark"].lower().startswith("is")
    if answer["letter"].islower():
        alone = re.fullmatch(r"\W*[b-h]\W*|\W+a\W+", text.strip())
        return named or marked or on_grid or alone is not None
    # "A score: ...", "A 90s film" and "A: -1.0, -0.8" are no answers, unless with one A's score.
    if on_grid or not answer["score"]:
        return True
    bare = answer["letter"] == "A" and not (answer["mark"] or named or answer["stop"].strip())
    in_words = _SCORED.match(answer["score"]) or _ONLY_NUMBERS.fullmatch(answer["score"])
    return not bare and in_words is not None
