"""Decoding by line: what one line holds changes no other."""

import pytest
from hypothesis import assume, given, settings, strategies as st

from emomm_study.corpora.lines import FALLBACK_ENCODINGS, UnknownEncoding, read_lines
from emomm_study.corpora.scores import Corpus

FEW = settings(max_examples=150, deadline=None)
CORPORA = st.sampled_from(Corpus)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff"), max_size=20)
CHINESE = "我们今天去看电影吧好不好呢她说得对真的很高兴，。？！“”"


def is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@FEW
@given(CORPORA, st.lists(TEXT, min_size=1, max_size=8), st.binary(max_size=20), st.integers(0, 8))
def test_good_lines_are_read_as_they_are_whatever_another_line_holds(corpus, good, bad, at):
    bad = b"x" + bad.replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"")
    lines = [text.encode() for text in good]
    # Or the odd line alone would tell what the file is in.
    lines.append("“我”".encode())
    at = min(at, len(lines))
    found = read_lines(b"\n".join([*lines[:at], bad, *lines[at:]]) + b"\n", corpus)
    text = [line.rstrip("\n") for line in found.text]
    assert [*text[:at], *text[at + 1 :]] == [line.decode() for line in lines]
    assert found.encoding == "utf-8"
    # The odd one is read or named, and never passed over.
    if is_utf8(bad):
        assert text[at] == bad.decode()
    else:
        assert (at + 1 in found.odd) != (at + 1 in found.unreadable)
        if at + 1 in found.odd:
            assert text[at] == bad.decode(FALLBACK_ENCODINGS[corpus])


@FEW
@given(st.lists(st.text(CHINESE, min_size=1, max_size=12), min_size=2, max_size=8), st.data())
def test_lines_of_a_gb18030_file_are_read_as_such_and_a_utf_8_line_among_them_too(texts, data):
    raw = [f"v,{text},0.2".encode("gb18030") for text in texts]
    # Some short ones are UTF-8 too, of other letters: 去 is ȥ.
    assume(sum(not is_utf8(line) for line in raw) > (len(raw) + 1) / 2)
    found = read_lines(b"\n".join(raw), Corpus.CH_SIMS)
    assert [line.rstrip("\n") for line in found.text] == [f"v,{text},0.2" for text in texts]
    assert (found.encoding, found.odd, found.unreadable) == ("gb18030", {}, {})
    at = data.draw(st.integers(0, len(raw)))
    mixed = [*raw, "w,喜欢看书，很好,0.2".encode()]
    mixed.insert(at, mixed.pop())
    found = read_lines(b"\n".join(mixed), Corpus.CH_SIMS)
    expected = [f"v,{text},0.2" for text in texts]
    expected.insert(at, "w,喜欢看书，很好,0.2")
    assert [line.rstrip("\n") for line in found.text] == expected
    assert found.odd == {at + 1: "utf-8"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@given(texts=st.lists(TEXT, max_size=6), end=st.sampled_from(["\n", "\r", "\r\n"]))
@settings(max_examples=40, deadline=None)
def test_a_marked_file_says_the_same_in_every_encoding(encoding, texts, end):
    whole = end.join(texts)
    plain, marked = (read_lines(whole.encode(e), Corpus.CMU_MOSI) for e in ("utf-8", encoding))
    assert plain.text == marked.text and not marked.odd and not marked.unreadable
    assert "".join(plain.text) == whole


def test_a_file_of_zeros_or_of_utf_16_without_a_mark_is_refused():
    for data in (b"\0" * 40, "video,1,0.2\n".encode("utf-16-be"), "a\n".encode("utf-32-le")):
        with pytest.raises(UnknownEncoding, match="without a byte-order mark"):
            read_lines(data, Corpus.CMU_MOSI)


def test_what_could_be_either_goes_with_the_lines_that_tell():
    ascii_lines = [b"id,text"] * 10
    either, gb18030 = "去".encode("gb18030"), "我很高兴".encode("gb18030")
    found = read_lines(b"\n".join([*ascii_lines, either, gb18030, gb18030]), Corpus.CH_SIMS)
    assert found.text[10].strip() == "去" and found.odd == dict.fromkeys((11, 12, 13), "gb18030")
    found = read_lines(b"\n".join([*ascii_lines, either, gb18030]), Corpus.CH_SIMS)
    assert found.text[10].strip() == "ȥ" and found.odd == {12: "gb18030"}
