"""A label file's lines as text, each in its own encoding: one bad line spoils no other."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from emomm_study.corpora.scores import Corpus

FALLBACK_ENCODINGS = {Corpus.CH_SIMS: "gb18030", Corpus.CMU_MOSI: "cp1252"}
"""What a line that is not UTF-8 most likely is, by the language of the corpus."""

# UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"\x84\x31\x95\x33": "gb18030",
}
_BREAK = re.compile(rb"(?<=\n)|(?<=\r)(?!\n)")
_UTF8_MARKS = re.compile(rb"\A(\xef\xbb\xbf)+")
_WHOLE_UTF8_SEQUENCE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)


class UnknownEncoding(ValueError):
    """A file that as a whole is in no encoding known here; says which one it looks like."""


@dataclass(frozen=True)
class Lines:
    """The lines of a text file.

    Attributes
    ----------
    text
        Lines with their ends, without byte-order marks. What could not be read stands in them as
        surrogates, so that commas and quotes around it keep their places.
    encoding
        What the file as a whole is in.
    odd
        By number, from 1, lines in another encoding than the file's, with its name; with the file's
        own where they hardly look like it.
    unreadable
        By number, lines that cannot be read, with what is wrong.
    """

    text: list[str]
    encoding: str = "utf-8"
    odd: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


def _plausible_gb18030(line: bytes) -> bool:
    """Whether at most half of the Chinese characters are rare ones, as by mistaken bytes."""
    there = [c for c in line.decode("gb18030") if not c.isascii()]
    rare = sum(not c.encode("gb2312", "ignore") for c in there)
    return 2 * rare <= len(there)


def _plausible_cp1252(line: bytes) -> bool:
    """Whether accents and quotes stand among plain letters and are no remains of UTF-8."""
    line.decode("cp1252")
    remains = _WHOLE_UTF8_SEQUENCE.search(line) or b"\xe2\x80" in line
    return not remains and not re.search(rb"[\x80-\xff]{4}", line)


_PLAUSIBLE: dict[str, Callable[[bytes], bool]] = {
    "gb18030": _plausible_gb18030,
    "cp1252": _plausible_cp1252,
}


def _reads_as(line: bytes, encoding: str) -> bool:
    try:
        return _PLAUSIBLE.get(encoding, lambda x: bool(x.decode(encoding)))(line)
    except UnicodeDecodeError:
        return False


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_lines(data: bytes, corpus: str) -> Lines:
    """Lines of a file, decoded one by one; another corpus than EmoMM's two has no fallback.

    A line that is UTF-8 is read as such. Another is read in the corpus's fallback encoding where
    that is plausible and listed in ``odd``, or else listed in ``unreadable``, as is one with a NUL
    byte. Where most lines that are not ASCII are in the fallback encoding, so are those that could
    be in either; where most lines of all are, it is the file's, and ``odd`` are those that are
    UTF-8 and those that are in neither very likely. UTF-16, UTF-32 and GB18030 are known by a
    byte-order mark. Lines end at LF, CRLF or a lone CR.

    Raises :class:`UnknownEncoding` for UTF-16 and UTF-32 that are damaged or have no mark.
    """
    mark = next((m for m in _MARKS if data.startswith(m)), b"")
    marked, fallback = _MARKS.get(mark), FALLBACK_ENCODINGS.get(corpus, "utf-8")
    if marked in ("utf-16", "utf-32"):
        try:
            return _decoded(_cut(data.decode(marked).encode()), marked)
        except UnicodeDecodeError as error:
            raise UnknownEncoding(
                f"{marked.upper()} by its mark, and damaged at byte {error.start}"
            ) from None
    # In UTF-16 every comma and digit has a zero beside it.
    if 4 * data.count(0) > len(data):
        raise UnknownEncoding("UTF-16 or UTF-32 without a byte-order mark, or no text")
    if marked == "gb18030":
        return _decoded(_cut(data.removeprefix(mark)), marked, marked)
    lines = _cut(data)
    foreign = {i for i, line in enumerate(lines) if not _is_utf8(line)}
    plausible = {i for i, line in enumerate(lines) if _reads_as(line, fallback)}
    odd, written = foreign & plausible, [i for i, line in enumerate(lines) if line.strip()]
    telling = [i for i in written if not lines[i].isascii()]
    if mark or 2 * len(odd) <= len(telling):
        return _decoded(lines, "utf-8", others=dict.fromkeys(odd, fallback))
    # Among lines that tell, UTF-8 is the exception: what could be either is in the fallback.
    if 2 * len(odd) <= len(written):
        others = [i for i in telling if i in plausible]
        return _decoded(lines, "utf-8", others=dict.fromkeys(others, fallback))
    rest = {i: fallback if i in foreign else "utf-8" for i in telling if i not in plausible}
    return _decoded(lines, fallback, fallback, rest)


def _cut(data: bytes) -> list[bytes]:
    lines = _BREAK.split(data)
    # Files that were joined keep their marks at the beginnings of lines.
    return [kept for line in lines if (kept := _UTF8_MARKS.sub(b"", line))]


def _decoded(
    lines: list[bytes], name: str, encoding: str = "utf-8", others: dict[int, str] | None = None
) -> Lines:
    text, odd, unreadable = [], {}, {}
    for i, line in enumerate(lines):
        own = (others or {}).get(i)
        try:
            text.append(line.decode(own or encoding))
        except UnicodeDecodeError as error:
            unreadable[i + 1] = f"byte 0x{line[error.start]:02x}"
            text.append(line.decode("utf-8", "surrogateescape"))
        else:
            if own:
                odd[i + 1] = own
        if b"\0" in line:
            unreadable[i + 1] = "a NUL byte"
            odd.pop(i + 1, None)
    return Lines(text, name, odd, unreadable)
