"""Loaders of the two corpora, on little folders in every layout and with every defect."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.checks import CorpusError, probe_video, write_report
from emomm_study.corpora.clips import CLIP_COLUMNS, REPORT_COLUMNS, CorpusTable
from emomm_study.corpora.cmu_mosi import load_cmu_mosi, unannotated_cmu_mosi

Put = Callable[..., Path]
SIMS_HEADER = [
    "video_id",
    "clip_id",
    "text",
    "label",
    "label_T",
    "label_A",
    "label_V",
    "annotation",
    "mode",
]
SIMS_ROWS = [
    ["video_0001", "0001", "我很高兴", "0.6", "0.8", "-0.2", "0.0", "Positive", "train"],
    ["video_0001", "0002", "不，谢谢", "-1.0", "-0.8", "-0.6", "-0.4", "Negative", "valid"],
    ["aqgy3_0001", "00001", "就这样", "0.0", "0.0", "0.2", "-0.0", "Neutral", "test"],
]


def write_csv(
    path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = (), encoding: str = "utf-8"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


def sims(
    home: Path, put: Put, rows=SIMS_ROWS, header=SIMS_HEADER, name="meta.csv", encoding="utf-8"
) -> Path:
    """A CH-SIMS folder with a good clip for each row."""
    write_csv(home / name, rows, header, encoding)
    for video_id, clip_id, *_ in rows:
        if "/" not in video_id + clip_id and ".." not in (video_id, clip_id):
            put(home / "Raw" / video_id / f"{clip_id}.mp4")
    return home


def problems(table: CorpusTable) -> list[tuple[str, int, str]]:
    return [(e.file, e.row, e.problem) for e in table.report.itertuples()]


def sole(table: CorpusTable, row: int, *words: str, file: str = "meta.csv") -> None:
    """The report has one entry, about this row and with these words."""
    assert [(f, r) for f, r, _ in problems(table)] == [(file, row)], problems(table)
    for word in words:
        assert word in table.report.problem[0] + " " + table.report.expected[0]


# CH-SIMS


@pytest.mark.parametrize("name", ["meta.csv", "meta(s).csv", "label.csv"])
@pytest.mark.parametrize("folder", ["ch-simsv2s", "CH-SIMS v2(s)", "."])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_ch_sims_layout_gives_the_same_clips(tmp_path, put, name, folder, encoding) -> None:
    sims(tmp_path / folder, put, name=name, encoding=encoding)
    table = load_ch_sims(tmp_path)
    assert tuple(table.clips.columns) == CLIP_COLUMNS and table.report.empty
    assert table.clips.sample_id.tolist() == [
        "ch_sims_v2/aqgy3_0001/00001",
        "ch_sims_v2/video_0001/0001",
        "ch_sims_v2/video_0001/0002",
    ]
    first = table.clips.iloc[1]
    assert (first.clip_id, first.text, first.language) == ("0001", "我很高兴", "zh")
    assert first.speaker_id == first.video_id == "video_0001"
    assert [first[f"score_{s}"] for s in ["gt", "t", "a", "v"]] == [0.6, 0.8, -0.2, 0.0]
    assert [first[f"label_{s}"] for s in ["gt", "t", "a", "v"]] == [3, 4, 1, 2]
    assert first.audio_path == first.video_path
    assert all((table.root / path).is_file() for path in table.clips.video_path)


def test_the_unlabelled_part_is_counted_and_is_no_defect(tmp_path, put) -> None:
    sims(tmp_path / "CH-SIMS v2(s)", put)
    blank = [["video_9", f"{i:04}", "无", "", "", "", "", "", ""] for i in range(5)]
    write_csv(tmp_path / "CH-SIMS v2(u)" / "meta.csv", blank, SIMS_HEADER)
    table = load_ch_sims(tmp_path)
    assert (len(table.clips), table.unlabelled, table.excluded) == (3, 5, 0)
    assert table.report.empty
    write_csv(tmp_path / "CH-SIMS v2(u)" / "meta.csv", [r[:3] for r in blank], SIMS_HEADER[:3])
    assert load_ch_sims(tmp_path).unlabelled == 5


def test_other_datasets_beside_ch_sims_are_left_alone(tmp_path, put) -> None:
    sims(tmp_path / "ch-simsv2s", put)
    write_csv(tmp_path / "MOSI" / "label.csv", [["x", "1", "hi", "3"]], SIMS_HEADER[:4])
    assert len(load_ch_sims(tmp_path).clips) == 3


def test_two_copies_of_one_part_are_refused(tmp_path, put) -> None:
    for name in ("ch-simsv2s", "CH-SIMS v2(s)"):
        sims(tmp_path / name, put)
    with pytest.raises(CorpusError, match=r"more than once.*CH-SIMS v2\(s\), ch-simsv2s"):
        load_ch_sims(tmp_path)


@pytest.mark.parametrize(
    "make", [lambda p: None, Path.mkdir, lambda p: (p / "x").mkdir(parents=True)]
)
def test_a_wrong_root_shows_how_the_folder_must_look(tmp_path, make) -> None:
    make(tmp_path / "data")
    with pytest.raises(CorpusError, match=r"data(?s:.*)ch-simsv2s/Raw/<video_id>/<clip_id>\.mp4"):
        load_ch_sims(tmp_path / "data")
    with pytest.raises(CorpusError, match=r"data(?s:.*)OpinionLevelSentiment\.csv"):
        load_cmu_mosi(tmp_path / "data")


def test_a_missing_raw_folder_is_fatal_only_when_media_are_wanted(tmp_path) -> None:
    write_csv(tmp_path / "meta.csv", SIMS_ROWS, SIMS_HEADER)
    with pytest.raises(CorpusError, match="Raw: no such folder"):
        load_ch_sims(tmp_path)
    assert len(load_ch_sims(tmp_path, check_media=False).clips) == 3


def test_missing_columns_are_named_beside_the_found_ones(tmp_path, put) -> None:
    header = [c.replace("label_T", "label_t").replace("text", "txt") for c in SIMS_HEADER]
    sims(tmp_path, put, header=header)
    with pytest.raises(CorpusError, match=r"missing columns text, label_T; found .*label_t"):
        load_ch_sims(tmp_path)


def test_gb18030_is_read_and_said_so(tmp_path, put) -> None:
    sims(tmp_path, put, encoding="gb18030")
    table = load_ch_sims(tmp_path)
    sole(table, 0, "GB18030", "UTF-8")
    assert table.clips.text[1] == "我很高兴" and table.excluded == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "gb18030"])
def test_a_file_with_another_byte_order_mark_is_read_as_it_says(tmp_path, put, encoding) -> None:
    sims(tmp_path, put)
    text = (tmp_path / "meta.csv").read_text(encoding="utf-8")
    marked = text if encoding in ("utf-16", "utf-32") else "\ufeff" + text
    (tmp_path / "meta.csv").write_bytes(marked.encode(encoding))
    table = load_ch_sims(tmp_path)
    sole(table, 0, f"encoded in {encoding.removesuffix('-be').upper()}", "UTF-8")
    assert table.clips.text[1] == "我很高兴"


@pytest.mark.parametrize(
    ("encoding", "cut", "words"),
    [("utf-16", 1, "UTF-16 by its mark, and damaged"), ("utf-16-le", 0, "without a byte-order")],
)
def test_utf_16_that_cannot_be_told_or_read_is_refused_by_name(
    tmp_path, put, encoding, cut, words
) -> None:
    sims(tmp_path, put)
    data = (tmp_path / "meta.csv").read_text(encoding="utf-8").encode(encoding)
    (tmp_path / "meta.csv").write_bytes(data[: len(data) - cut])
    with pytest.raises(CorpusError, match=rf"meta\.csv: .*{words}.*save it again as UTF-8"):
        load_ch_sims(tmp_path)


def numbered(n: int) -> list[list[str]]:
    """Good rows of CH-SIMS with different texts."""
    texts = ("我很高兴", "不，谢谢", "就这样", "真的吗？", "她说得对")
    return [
        [f"v{i:02d}", "0001", texts[i % 5] + texts[i % 3], *["0.2"] * 4, "", "train"]
        for i in range(n)
    ]


def spoil(path: Path, lines: dict[int, bytes]) -> None:
    """Other bytes in place of some lines, counted from 1."""
    kept = path.read_bytes().splitlines(keepends=True)
    for number, line in lines.items():
        kept[number - 1] = line + b"\r\n"
    path.write_bytes(b"".join(kept))


def test_a_line_in_gb18030_among_98_in_utf_8_is_read_and_garbles_no_other(tmp_path, put) -> None:
    rows = numbered(99)
    sims(tmp_path, put, rows=rows)
    spoil(tmp_path / "meta.csv", {50: ",".join(rows[48]).encode("gb18030")})
    table = load_ch_sims(tmp_path)
    sole(table, 50, "line 50 is not in UTF-8, read as GB18030")
    assert table.clips.text.tolist() == [row[2] for row in rows]


@pytest.mark.parametrize(
    "line",
    [
        "v48,0001,it’s café,0.2,0.2,0.2,0.2,,train".encode("cp1252"),
        "v48,0001,fiancée,0.2,0.2,0.2,0.2,,train".encode("latin-1"),
        "v48,0001,高兴,0.2,0.2,0.2,0.2,,train".encode().replace("兴".encode(), b"\xe5\x85"),
        "v48,0001,高\0兴,0.2,0.2,0.2,0.2,,train".encode(),
        "v48,0001,\xff\xff,0.2,0.2,0.2,0.2,,train".encode("latin-1"),
    ],
)
def test_a_line_in_no_likely_encoding_is_left_out_by_its_number(tmp_path, put, line) -> None:
    rows = numbered(99)
    sims(tmp_path, put, rows=rows)
    spoil(tmp_path / "meta.csv", {50: line})
    table = load_ch_sims(tmp_path)
    sole(table, 50, "line 50 has ")
    assert table.clips.text.tolist() == [row[2] for i, row in enumerate(rows) if i != 48]
    assert table.excluded == 1
    write_report(table, tmp_path / "report.csv")


def test_a_file_in_gb18030_with_bad_lines_is_still_read_as_such(tmp_path, put) -> None:
    rows = numbered(30)
    sims(tmp_path, put, rows=rows, encoding="gb18030")
    new = "v01,0001,现在是新的,0.2,0.2,0.2,0.2,,train"
    # The second line happens to be valid UTF-8 too, of other letters.
    chance = b"v03,0001,\xd0\xa1\xd0\xa2,0.2,0.2,0.2,0.2,,train"
    chance.decode("utf-8")
    spoil(tmp_path / "meta.csv", {3: new.encode(), 5: chance, 9: b"v07,0001,\xff\xff,0,0,0,0,,"})
    table = load_ch_sims(tmp_path)
    assert [(r, p) for _, r, p in problems(table)] == [
        (0, "encoded in GB18030, read as such"),
        (3, "line 3 is not in GB18030, read as UTF-8"),
        (9, "line 9 has byte 0xff, neither UTF-8 nor GB18030"),
    ]
    texts = table.clips.set_index("video_id").text
    assert texts["v01"] == "现在是新的" and texts["v03"] == chance[9:13].decode("gb18030")
    others = [i for i in range(30) if i not in (1, 3, 7)]
    assert [texts[f"v{i:02d}"] for i in others] == [rows[i][2] for i in others]


def test_a_quoted_text_of_several_lines_is_left_out_whole_if_one_cannot_be_read(
    tmp_path, put
) -> None:
    rows = numbered(9)
    rows[2][2] = "第一行\n第二行\n第三行"
    sims(tmp_path, put, rows=rows)
    assert load_ch_sims(tmp_path).clips.text[2] == "第一行\n第二行\n第三行"
    data = (tmp_path / "meta.csv").read_bytes()
    (tmp_path / "meta.csv").write_bytes(data.replace("第二行".encode(), "第二行".encode("gb18030")))
    table = load_ch_sims(tmp_path)
    sole(table, 5, "read as GB18030")
    assert table.clips.text[2] == "第一行\n第二行\n第三行"
    (tmp_path / "meta.csv").write_bytes(data.replace("第二行".encode(), b"\xff, \xff"))
    table = load_ch_sims(tmp_path)
    sole(table, 5, "line 5 has byte 0xff")
    assert table.clips.video_id.tolist() == [f"v{i:02d}" for i in range(9) if i != 2]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_lines_end_as_any_system_ends_them(tmp_path, put, end) -> None:
    sims(tmp_path, put)
    text = (tmp_path / "meta.csv").read_bytes().replace(b"\r\n", end.encode())
    (tmp_path / "meta.csv").write_bytes(text.replace(b"0.0,0.2,-0.0", b"0.0,0.3,-0.0"))
    table = load_ch_sims(tmp_path)
    sole(table, 4, "label_A is 0.3, off the grid")
    assert table.clips.text.tolist() == ["我很高兴", "不，谢谢"]


def test_files_that_were_joined_with_their_byte_order_marks_are_read(tmp_path, put) -> None:
    rows = numbered(6)
    sims(tmp_path, put, rows=rows)
    second = "\r\n".join([",".join(row) for row in rows[3:]]).encode("utf-8-sig")
    write_csv(tmp_path / "meta.csv", rows[:3], SIMS_HEADER, "utf-8-sig")
    with (tmp_path / "meta.csv").open("ab") as file:
        file.write(second)
    table = load_ch_sims(tmp_path)
    assert len(table.clips) == 6 and table.report.empty


def test_a_header_that_cannot_be_read_is_fatal(tmp_path, put) -> None:
    sims(tmp_path, put)
    spoil(tmp_path / "meta.csv", {1: ",".join(SIMS_HEADER).encode() + b",\xff"})
    with pytest.raises(CorpusError, match="the header has byte 0xff, neither UTF-8 nor GB18030"):
        load_ch_sims(tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there is no row, at most a header"),
        (
            [[v, c, t, "", "", "", "", "", ""] for v, c, t, *_ in SIMS_ROWS],
            "rows without labels: 3",
        ),
        (
            [[*r[:3], "2", *r[4:]] for r in SIMS_ROWS],
            r"rows left out: 3\n(?s:.*)line 2: label is 2",
        ),
        (
            [[*r[:3], "2", *r[4:]] for r in numbered(9)],
            r"rows left out: 9\n(?s:.*)line 4(?s:.*)18 such lines",
        ),
        (
            [SIMS_ROWS[0][:5], [*SIMS_ROWS[1][:3], *[""] * 6]],
            r"rows without labels: 1; rows left out: 1\n  .*line 2: 5 fields",
        ),
    ],
)
@pytest.mark.parametrize("name", ["meta.csv", "label.csv", "meta(s).csv"])
def test_a_ch_sims_without_a_usable_row_says_so_with_counts_and_reasons(
    tmp_path, put, rows, words, name
) -> None:
    home = sims(tmp_path / "ch-simsv2s", put, name=name)
    write_csv(home / name, rows, SIMS_HEADER)
    with pytest.raises(
        CorpusError, match=rf"no usable clip in \S*{re.escape(name)}; (?s:.*){words}"
    ):
        load_ch_sims(tmp_path)


def test_the_unlabelled_part_alone_is_refused_as_such(tmp_path, put) -> None:
    blank = [["video_9", f"{i:04}", "无"] for i in range(5)]
    write_csv(tmp_path / "CH-SIMS v2(u)" / "meta(u).csv", blank, SIMS_HEADER[:3])
    with pytest.raises(CorpusError, match=r"meta\(u\)\.csv; rows without labels: 5"):
        load_ch_sims(tmp_path)


def test_an_error_without_a_usable_row_carries_the_whole_report(tmp_path, put) -> None:
    sims(tmp_path, put, rows=[[*r[:3], "2", *r[4:]] for r in numbered(40)])
    with pytest.raises(CorpusError) as caught:
        load_ch_sims(tmp_path)
    assert caught.value.report.row.tolist() == [*range(2, 42)]
    assert len(str(caught.value).splitlines()) < 10


# Label files side by side


def test_label_csv_is_used_and_every_difference_of_meta_csv_is_reported(tmp_path, put) -> None:
    rows = numbered(8)
    other = [list(row) for row in rows]
    other[1][4], other[1][6] = "-0.6", "0.8"
    other[2][2] = "另外的话"
    other[3][3] = ""
    other[4][3] = "0.20"
    del other[6]
    other.insert(0, ["only", "0001", "多", *["0.4"] * 4, "", "test"])
    other += [["u1", "0001", "无", *[""] * 6], ["u2", "0001", "无", *[""] * 6]]
    sims(tmp_path, put, rows=rows, name="label.csv")
    write_csv(tmp_path / "meta.csv", other, SIMS_HEADER)
    table = load_ch_sims(tmp_path)
    assert table.clips.text.tolist() == [row[2] for row in rows]
    assert (table.clips.filter(like="score") == 0.2).all(axis=None)
    assert (table.excluded, table.unlabelled) == (0, 0)
    assert sorted(problems(table)) == [
        ("label.csv", 3, "label_T is '0.2', in meta.csv line 4 '-0.6'"),
        ("label.csv", 3, "label_V is '0.2', in meta.csv line 4 '0.8'"),
        ("label.csv", 4, f"text is {rows[2][2]!r}, in meta.csv line 5 '另外的话'"),
        ("label.csv", 5, "label is '0.2', in meta.csv line 6 blank"),
        ("label.csv", 8, "no such row in meta.csv"),
        ("meta.csv", 0, "2 rows without labels that label.csv does not have"),
        ("meta.csv", 2, "no such row in label.csv"),
    ]
    assert table.report.expected.str.contains("label.csv is used").all()
    assert table.report.sample_id[1] == "ch_sims_v2/v01/0001"


@pytest.mark.parametrize("other", ["meta.csv", "meta(s).csv"])
def test_label_files_that_say_the_same_add_nothing_to_the_report(tmp_path, put, other) -> None:
    rows = numbered(8)
    sims(tmp_path, put, rows=rows, name="label.csv")
    same = [[*r[:3], f"{float(r[3]):.6f}", *r[4:]] for r in reversed(rows)]
    write_csv(tmp_path / other, same, SIMS_HEADER, "gb18030")
    table = load_ch_sims(tmp_path)
    assert len(table.clips) == 8 and table.report.empty


def test_of_three_label_files_both_others_are_compared(tmp_path, put) -> None:
    rows = numbered(4)
    sims(tmp_path, put, rows=rows, name="label.csv")
    for name, value in (("meta.csv", "0.4"), ("meta(s).csv", "0.6")):
        write_csv(tmp_path / name, [*rows[:3], [*rows[3][:3], value, *rows[3][4:]]], SIMS_HEADER)
    table = load_ch_sims(tmp_path)
    assert [p for _, _, p in problems(table)] == [
        "label is '0.2', in meta.csv line 5 '0.4'",
        "label is '0.2', in meta(s).csv line 5 '0.6'",
    ]
    assert table.clips.score_gt.eq(0.2).all()


def test_thousands_of_differences_are_all_in_the_report(tmp_path, put) -> None:
    rows = [[f"v{i:04d}", "1", "好", *["0.2"] * 4, "", ""] for i in range(3000)]
    write_csv(tmp_path / "label.csv", rows, SIMS_HEADER)
    write_csv(tmp_path / "meta.csv", [[*r[:3], "0.4", *r[4:]] for r in rows], SIMS_HEADER)
    table = load_ch_sims(tmp_path, check_media=False)
    assert table.report.row.tolist() == [*range(2, 3002)] and len(table.clips) == 3000


def test_a_label_file_that_cannot_be_compared_is_said_to_be_so(tmp_path, put) -> None:
    sims(tmp_path, put, name="label.csv")
    (tmp_path / "meta.csv").write_text("a,b\n1,2\n")
    sole(load_ch_sims(tmp_path), 0, "cannot be compared", "missing columns", file="meta.csv")
    lines = (tmp_path / "label.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "meta.csv").write_bytes(b"".join([*lines[:3], b"\xff\xff\n"]))
    table = load_ch_sims(tmp_path)
    assert [(f, r, p) for f, r, p in problems(table)] == [
        ("label.csv", 4, "no such row in meta.csv"),
        ("meta.csv", 0, "1 of its rows cannot be read and compared"),
    ]


def test_a_column_that_one_label_file_lacks_is_one_entry(tmp_path, put) -> None:
    sims(tmp_path, put, rows=[r[:8] for r in SIMS_ROWS], header=SIMS_HEADER[:8], name="label.csv")
    write_csv(tmp_path / "meta.csv", SIMS_ROWS, SIMS_HEADER)
    sole(load_ch_sims(tmp_path), 0, "column mode is not in label.csv")


def test_an_empty_or_unclosed_table_is_fatal(tmp_path) -> None:
    (tmp_path / "meta.csv").write_text("\n\n")
    with pytest.raises(CorpusError, match="empty"):
        load_ch_sims(tmp_path)
    (tmp_path / "meta.csv").write_text('a,b\n1,"2\n3,4\n5,6\n')
    with pytest.raises(CorpusError, match="line 2.*quote"):
        load_ch_sims(tmp_path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zero", "zero-length"),
        ("junk", "unreadable"),
        ("cut", "cut short"),
        ("silent", "no audio stream"),
        ("blind", "no video stream"),
    ],
)
def test_a_bad_mp4_leaves_out_its_row_only(tmp_path, put, kind, words) -> None:
    sims(tmp_path, put)
    put(tmp_path / "Raw/video_0001/0002.mp4", kind)
    table = load_ch_sims(tmp_path)
    sole(table, 3, words, "Raw/video_0001/0002.mp4")
    assert len(table.clips) == 2 and table.excluded == 1
    assert len(load_ch_sims(tmp_path, check_media=False).clips) == 3


def test_a_missing_clip_file_is_reported(tmp_path, put) -> None:
    sims(tmp_path, put)
    (tmp_path / "Raw/aqgy3_0001/00001.mp4").unlink()
    table = load_ch_sims(tmp_path)
    sole(table, 4, "missing file", "Raw/aqgy3_0001/00001.mp4")
    assert "leading zeros" not in table.report.expected[0]


def test_lost_leading_zeros_are_recognised(tmp_path, put) -> None:
    sims(tmp_path, put)
    rows = [["video_0001", "2", *SIMS_ROWS[1][2:]], SIMS_ROWS[0]]
    write_csv(tmp_path / "meta.csv", rows, SIMS_HEADER)
    sole(load_ch_sims(tmp_path), 2, "Raw/video_0001/0002.mp4 exists", "leading zeros")


@pytest.mark.parametrize("column", ["label", "label_T", "label_A", "label_V"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.3", "off the grid"),
        ("1.2", "out of range"),
        ("-3", "out of range"),
        ("inf", "out of range"),
        ("gut", "not a number"),
        ("nan", "not a number"),
        ("", "blank"),
    ],
)
def test_a_bad_label_names_its_column_and_value(tmp_path, put, column, value, words) -> None:
    row = list(SIMS_ROWS[1])
    row[SIMS_HEADER.index(column)] = value
    sims(tmp_path, put, rows=[SIMS_ROWS[0], row, SIMS_ROWS[2]])
    table = load_ch_sims(tmp_path)
    sole(table, 3, words, f"{column} is {value}" if words != "not a number" else repr(value))
    assert len(table.clips) == 2 and table.excluded == 1


def test_rounding_noise_in_a_label_is_put_on_the_grid(tmp_path, put) -> None:
    row = [*SIMS_ROWS[0][:3], "0.6000000001", *SIMS_ROWS[0][4:]]
    assert load_ch_sims(sims(tmp_path, put, rows=[row])).clips.score_gt[0] == 0.6


@pytest.mark.parametrize("bad", ["..", ".", "../x", "/etc", "a\\b", "C:x", "", "0 1"])
@pytest.mark.parametrize("column", [0, 1])
def test_an_id_that_leads_out_of_the_corpus_is_never_opened(
    tmp_path, put, bad, column, monkeypatch
) -> None:
    row = list(SIMS_ROWS[1])
    row[column] = bad
    sims(tmp_path, put)
    write_csv(tmp_path / "meta.csv", [SIMS_ROWS[0], row], SIMS_HEADER)
    seen = []
    monkeypatch.setattr(
        "emomm_study.corpora.checks.probe_video", lambda path, **_: seen.append(path) or []
    )
    table = load_ch_sims(tmp_path)
    sole(table, 3, repr(bad), "plain name")
    assert seen == [tmp_path / "Raw/video_0001/0001.mp4"]


def test_identical_duplicates_keep_the_first_row(tmp_path, put) -> None:
    table = load_ch_sims(sims(tmp_path, put, rows=[*SIMS_ROWS, SIMS_ROWS[0]]))
    sole(table, 5, "duplicate id, same content (meta.csv line 2)")
    assert (len(table.clips), table.excluded) == (3, 1)


def test_of_differing_duplicates_none_is_used(tmp_path, put) -> None:
    other = [*SIMS_ROWS[0][:3], "-0.6", *SIMS_ROWS[0][4:]]
    table = load_ch_sims(sims(tmp_path, put, rows=[*SIMS_ROWS, other]))
    assert [(row, "different content" in p) for _, row, p in problems(table)] == [
        (2, True),
        (5, True),
    ]
    assert (len(table.clips), table.excluded) == (2, 2)


def test_rows_that_do_not_fit_the_header_and_blank_ones(tmp_path, put) -> None:
    sims(tmp_path, put, rows=[SIMS_ROWS[0], [""] * 9, SIMS_ROWS[1][:6], SIMS_ROWS[2]])
    table = load_ch_sims(tmp_path)
    sole(table, 4, "6 fields", "9 fields")
    assert (len(table.clips), table.excluded) == (2, 1)


def test_row_numbers_are_an_editors_lines_even_after_a_text_of_two_lines(tmp_path, put) -> None:
    long = [*SIMS_ROWS[0][:2], "两\n行", *SIMS_ROWS[0][3:]]
    empty = [*SIMS_ROWS[1][:2], " ", *SIMS_ROWS[1][3:]]
    table = load_ch_sims(sims(tmp_path, put, rows=[long, empty]))
    sole(table, 4, "text is empty")
    lines = (tmp_path / "meta.csv").read_text(encoding="utf-8").splitlines()
    assert lines[4 - 1].startswith("video_0001,0002")


def test_all_defects_come_back_from_one_run(tmp_path, put) -> None:
    rows = [[f"v{i}", "0001", "好", "0.2", "0.2", "0.2", "0.2", "", "train"] for i in range(9)]
    rows[1][2] = ""
    rows[2][3] = "0.25"
    rows[3][1] = ".."
    rows[4][4] = rows[4][5] = "x"
    rows[6] = list(rows[5])
    sims(tmp_path, put, rows=rows)
    put(tmp_path / "Raw/v2/0001.mp4", "silent")
    put(tmp_path / "Raw/v7/0001.mp4", "zero")
    table = load_ch_sims(tmp_path)
    assert [row for _, row, _ in problems(table)] == [3, 4, 4, 5, 6, 6, 8, 9]
    assert table.clips.video_id.tolist() == ["v0", "v5", "v8"]
    assert len(table.clips) + table.excluded == len(rows)


def test_the_report_file_holds_every_entry(tmp_path, put) -> None:
    sims(tmp_path, put)
    put(tmp_path / "Raw/video_0001/0002.mp4", "zero")
    table = load_ch_sims(tmp_path)
    path = write_report(table, tmp_path / "out" / "report.csv")
    back = pd.read_csv(path)
    assert tuple(back.columns) == REPORT_COLUMNS and back.row.tolist() == [3]
    assert back.sample_id[0] == "ch_sims_v2/video_0001/0002"


def test_row_order_does_not_change_the_clips(tmp_path, put) -> None:
    forward = load_ch_sims(sims(tmp_path / "a", put)).clips
    backward = load_ch_sims(sims(tmp_path / "b", put, rows=SIMS_ROWS[::-1])).clips
    pd.testing.assert_frame_equal(forward, backward)


def test_sound_is_asked_of_an_mp4_only_where_it_is_needed(tmp_path, put) -> None:
    path = put(tmp_path / "x.mp4", "silent")
    assert probe_video(path, needs_audio=False) == []
    assert probe_video(path, needs_audio=True) != []


# CMU-MOSI

MOSI_ROWS = [("-a_B", "1", "2.4"), ("-a_B", "2", "-1.75"), ("0c-D_e", "10", "0.0")]
VOTES = [
    ["-a_B", "1", "0.8", "0.0", "-0.2"],
    ["-a_B", "2", "-1", "-0.4", "0.6"],
    ["0c-D_e", "10", "0", "0.2", "0.4"],
]
VOTE_HEADER = ["video_id", "clip_id", "label_T", "label_A", "label_V"]


def mosi_zip(root: Path, put: Put, labels: str = "OpinionLevelSentiment.csv") -> Path:
    """The original zip's layout."""
    write_csv(root / labels, [["1.5", "3.25", v, c, label] for v, c, label in MOSI_ROWS])
    transcripts = root / "Raw/Transcript/Segmented"
    transcripts.mkdir(parents=True)
    for video_id in {v for v, _, _ in MOSI_ROWS}:
        lines = [f"{c}_DELIM_TEXT {c}, QUITE\n" for v, c, _ in MOSI_ROWS if v == video_id]
        (transcripts / f"{video_id}.annotprocessed").write_text("".join(lines))
    for video_id, clip_id, _ in MOSI_ROWS:
        put(root / f"Raw/Video/Segmented/{video_id}_{clip_id}.mp4", "silent")
        put(root / f"Raw/Audio/WAV_16000/Segmented/{video_id}_{clip_id}.wav")
    write_csv(root / "annotations.csv", VOTES, VOTE_HEADER)
    return root


def mosi_mmsa(root: Path, put: Put) -> Path:
    """MMSA's layout."""
    rows = [[v, c, f"TEXT {c}, QUITE", label, "", "", "", "", ""] for v, c, label in MOSI_ROWS]
    write_csv(root / "label.csv", rows, SIMS_HEADER)
    for video_id, clip_id, _ in MOSI_ROWS:
        put(root / f"Raw/{video_id}/{clip_id}.mp4")
    write_csv(root / "annotations.csv", VOTES, VOTE_HEADER)
    return root


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
def test_cmu_mosi_paths_lead_to_files_from_the_given_root_even_a_parent(
    layout, tmp_path, put
) -> None:
    layout(tmp_path / "sets" / "CMU-MOSI", put)
    for root in (tmp_path / "sets" / "CMU-MOSI", tmp_path / "sets"):
        table = load_cmu_mosi(root)
        assert len(table.clips) == len(MOSI_ROWS) and table.root == root
        for name in ("video_path", "audio_path"):
            assert all((root / path).is_file() for path in table.clips[name])


def test_both_cmu_mosi_layouts_give_the_same_clips(tmp_path, put) -> None:
    original = load_cmu_mosi(mosi_zip(tmp_path / "zip", put))
    mmsa = load_cmu_mosi(mosi_mmsa(tmp_path / "mmsa", put))
    assert original.report.empty and mmsa.report.empty
    shared = [c for c in CLIP_COLUMNS if not c.endswith("_path")]
    pd.testing.assert_frame_equal(original.clips[shared], mmsa.clips[shared])
    first = original.clips.iloc[0]
    assert first.sample_id == "cmu_mosi/-a_B/1" and first.text == "TEXT 1, QUITE"
    assert first.speaker_id == "-a_B" and first.language == "en"
    assert original.clips.score_gt.tolist() == [0.8, -0.6, 0.0]
    assert original.clips.label_gt.tolist() == [4, 0, 2]
    assert [first[f"label_{s}"] for s in "tav"] == [4, 2, 1]
    assert first.video_path == "Raw/Video/Segmented/-a_B_1.mp4"
    assert first.audio_path == "Raw/Audio/WAV_16000/Segmented/-a_B_1.wav"
    assert (mmsa.clips.audio_path == mmsa.clips.video_path).all()


@pytest.mark.parametrize(
    "labels", ["Labels/OpinionLevelSentiment.csv", "Raw/OpinionLevelSentiment.csv"]
)
def test_the_intensities_are_found_where_users_keep_them(tmp_path, put, labels) -> None:
    mosi_zip(tmp_path / "CMU-MOSI", put, labels)
    assert len(load_cmu_mosi(tmp_path).clips) == 3


def test_missing_annotations_name_the_parameter_and_the_columns(tmp_path, put) -> None:
    (mosi_mmsa(tmp_path, put) / "annotations.csv").unlink()
    with pytest.raises(CorpusError, match=r"annotations=.*label_T, label_A, label_V"):
        load_cmu_mosi(tmp_path)
    elsewhere = write_csv(tmp_path / "my" / "votes.csv", VOTES, VOTE_HEADER)
    assert len(load_cmu_mosi(tmp_path, annotations=elsewhere).clips) == 3
    write_csv(elsewhere, VOTES, ["video", *VOTE_HEADER[1:]])
    with pytest.raises(CorpusError, match="missing columns video_id"):
        load_cmu_mosi(tmp_path, annotations=elsewhere)


def test_annotations_of_other_clips_are_refused(tmp_path, put) -> None:
    write_csv(mosi_mmsa(tmp_path, put) / "annotations.csv", [["zz", *VOTES[0][1:]]], VOTE_HEADER)
    with pytest.raises(CorpusError, match="none of its 1 labelled rows.*cmu_mosi/-a_B/1"):
        load_cmu_mosi(tmp_path)


def test_clips_without_annotations_are_counted_not_reported(tmp_path, put) -> None:
    votes = [VOTES[0], ["-a_B", "2", "", "", ""]]
    write_csv(mosi_zip(tmp_path, put) / "annotations.csv", votes, VOTE_HEADER)
    table = load_cmu_mosi(tmp_path)
    assert (len(table.clips), table.unlabelled, table.excluded) == (1, 2, 0)
    assert table.report.empty


def test_a_defect_of_the_annotations_is_reported_there_and_leaves_the_clip_out(
    tmp_path, put
) -> None:
    votes = [VOTES[0], ["-a_B", "2", "0.5", "", "1.4"], VOTES[2], ["zz", "1", "0", "0", "0"]]
    write_csv(mosi_zip(tmp_path, put) / "annotations.csv", votes, VOTE_HEADER)
    table = load_cmu_mosi(tmp_path)
    assert [(f, r) for f, r, _ in problems(table)] == [("annotations.csv", 3)] * 3 + [
        ("annotations.csv", 5)
    ]
    assert (len(table.clips), table.excluded, table.unlabelled) == (2, 1, 0)
    votes = [*VOTES, VOTES[0], ["-a_B", "2", "0", "0", "0"]]
    write_csv(tmp_path / "annotations.csv", votes, VOTE_HEADER)
    table = load_cmu_mosi(tmp_path)
    assert [r for _, r, _ in problems(table)] == [3, 5, 6]
    assert table.clips.clip_id.tolist() == ["1", "10"] and table.excluded == 1


@pytest.mark.parametrize(
    ("kind", "words"), [("zero", "zero-length"), ("junk", "unreadable"), ("empty", "no samples")]
)
def test_a_bad_wav_leaves_out_its_row_only(tmp_path, put, kind, words) -> None:
    put(mosi_zip(tmp_path, put) / "Raw/Audio/WAV_16000/Segmented/-a_B_2.wav", kind)
    table = load_cmu_mosi(tmp_path)
    sole(table, 2, words, "-a_B_2.wav", file="OpinionLevelSentiment.csv")
    assert len(table.clips) == 2


def test_a_wav_of_which_a_part_was_copied_leaves_out_its_row_only(tmp_path, put) -> None:
    path = put(mosi_zip(tmp_path, put) / "Raw/Audio/WAV_16000/Segmented/-a_B_2.wav")
    path.write_bytes(path.read_bytes()[:3_200])
    table = load_cmu_mosi(tmp_path)
    sole(table, 2, "cut short", "-a_B_2.wav", file="OpinionLevelSentiment.csv")
    assert len(table.clips) == 2


def test_a_place_that_cannot_be_looked_at_is_a_row_of_the_report(tmp_path, put) -> None:
    row = ["video_0001", "9" * 300, *SIMS_ROWS[0][2:]]
    sims(tmp_path, put)
    write_csv(tmp_path / "meta.csv", [SIMS_ROWS[0], row], SIMS_HEADER)
    table = load_ch_sims(tmp_path)
    sole(table, 3, "cannot be reached")
    assert len(table.clips) == 1


def test_missing_wav_and_bad_mp4_of_one_clip_are_both_reported(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    (tmp_path / "Raw/Audio/WAV_16000/Segmented/-a_B_1.wav").unlink()
    put(tmp_path / "Raw/Video/Segmented/-a_B_1.mp4", "junk")
    table = load_cmu_mosi(tmp_path)
    assert [row for _, row, _ in problems(table)] == [1, 1]
    assert (len(table.clips), table.excluded) == (2, 1)


@pytest.mark.parametrize("value", ["3.2", "-4", "x", ""])
def test_an_intensity_outside_its_range_is_reported(tmp_path, put, value) -> None:
    mosi_zip(tmp_path, put)
    rows = [["0", "1", v, c, value if c == "2" else x] for v, c, x in MOSI_ROWS]
    write_csv(tmp_path / "OpinionLevelSentiment.csv", rows)
    sole(load_cmu_mosi(tmp_path), 2, "label is", "[-3, 3]", file="OpinionLevelSentiment.csv")


def test_every_defect_of_a_transcript_is_reported(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    folder = tmp_path / "Raw/Transcript/Segmented"
    (folder / "-a_B.annotprocessed").write_text("1_DELIM_ \nnonsense\n")
    (folder / "0c-D_e.annotprocessed").unlink()
    with pytest.raises(CorpusError, match="rows left out: 3") as caught:
        load_cmu_mosi(tmp_path)
    found = caught.value.report[["file", "row", "problem"]].itertuples(index=False)
    said = sorted((f.rpartition("/")[2], r, p.partition(": ")[2]) for f, r, p in found)
    assert said == [
        ("-a_B.annotprocessed", 2, "'nonsense'"),
        ("OpinionLevelSentiment.csv", 1, "text of 1 is empty"),
        ("OpinionLevelSentiment.csv", 2, "no line for 2"),
        ("OpinionLevelSentiment.csv", 3, "missing file"),
    ]
    (folder / "-a_B.annotprocessed").write_bytes(b"1_DELIM_IT\x92S\n1_DELIM_NO\n2_DELIM_IT\x92S")
    table = load_cmu_mosi(tmp_path)
    assert table.clips.text.tolist() == ["IT’S"]
    assert {p for _, r, p in problems(table) if r == 0} == {"encoded in CP1252, read as such"}
    assert any("two texts for 1" in p for _, _, p in problems(table))


def test_a_transcript_is_decoded_by_line(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    file = tmp_path / "Raw/Transcript/Segmented/-a_B.annotprocessed"
    others = "".join(f"{n}_DELIM_“IT’S {n}”\r" for n in range(3, 9)).encode()
    file.write_bytes(b"1_DELIM_IT\x92S\r2_DELIM_\xe2\x80\x9cGOOD\xe2\x80\x9d\r" + others)
    table = load_cmu_mosi(tmp_path)
    assert table.clips.text.tolist() == ["IT’S", "“GOOD”", "TEXT 10, QUITE"]
    sole(table, 1, "line 1 is not in UTF-8, read as CP1252",
         file="Raw/Transcript/Segmented/-a_B.annotprocessed")  # fmt: skip
    file.write_bytes(b"1_DELIM_\x81\r2_DELIM_GOOD\r" + others)
    table = load_cmu_mosi(tmp_path)
    sole(table, 1, "line 1 has byte 0x81, neither UTF-8 nor CP1252",
         file="OpinionLevelSentiment.csv")  # fmt: skip
    assert table.clips.text.tolist() == ["GOOD", "TEXT 10, QUITE"]
    file.write_bytes("1_DELIM_GOOD\n2_DELIM_BAD\n".encode("utf-16-le"))
    table = load_cmu_mosi(tmp_path)
    assert [r for _, r, p in problems(table) if "without a byte-order mark" in p] == [1, 2]
    file.write_bytes("1_DELIM_GOOD\n2_DELIM_BAD\n".encode("utf-16"))
    assert load_cmu_mosi(tmp_path).clips.text.tolist()[:2] == ["GOOD", "BAD"]


@pytest.mark.parametrize("text", ["", " ", "\u3000", "\u200b", "\xa0\ufeff", '"\u2028"', "\x07"])
@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa, sims])
def test_a_transcript_that_shows_nothing_leaves_its_clip_out(tmp_path, put, layout, text) -> None:
    layout(tmp_path, put)
    if layout is mosi_zip:
        file = tmp_path / "Raw/Transcript/Segmented/-a_B.annotprocessed"
        file.write_text(f"1_DELIM_{text}\n2_DELIM_GOOD\n".replace('"', ""), encoding="utf-8")
    else:
        file = next(p for p in tmp_path.glob("*.csv") if p.name != "annotations.csv")
        data = file.read_text(encoding="utf-8")
        first = "TEXT 1, QUITE" if layout is mosi_mmsa else "我很高兴"
        data = data.replace(f'"{first}"', first).replace(first, text, 1)
        file.write_text(data, encoding="utf-8")
    table = (load_ch_sims if layout is sims else load_cmu_mosi)(tmp_path)
    assert ["empty" in p for _, _, p in problems(table)] == [True]
    assert (len(table.clips), table.excluded) == (2, 1)


def test_an_odd_line_of_the_annotations_or_intensities_spoils_no_other(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    with (tmp_path / "annotations.csv").open("ab") as file:
        file.write(b"caf\xe9,1,0,0,0\r\n-a\x81,1,0,0,0\r\n")
    with (tmp_path / "OpinionLevelSentiment.csv").open("ab") as file:
        file.write(b"0,1,caf\xe9,1,0\r\n0,1,\x81,1,0\r\n")
    table = load_cmu_mosi(tmp_path, check_media=False)
    assert table.clips.clip_id.tolist() == ["1", "2", "10"]
    assert [(f, r) for f, r, p in problems(table) if p.startswith("line")] == [
        ("OpinionLevelSentiment.csv", 4), ("OpinionLevelSentiment.csv", 5),
        ("annotations.csv", 5), ("annotations.csv", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
@pytest.mark.parametrize("kind", ["header alone", "blank", "bad", "no intensity", "no row"])
def test_a_cmu_mosi_without_a_usable_row_says_so(tmp_path, put, layout, kind) -> None:
    layout(tmp_path, put)
    labels = next(p for p in tmp_path.glob("*.csv") if p.name != "annotations.csv")
    votes = {
        "header alone": [],
        "blank": [[*row[:2], "", "", ""] for row in VOTES],
        "bad": [[*row[:2], "7", *row[3:]] for row in VOTES],
    }.get(kind, VOTES)
    write_csv(tmp_path / "annotations.csv", votes, VOTE_HEADER)
    text = labels.read_text()
    if kind == "no intensity":
        for label in ("2.4", "-1.75", "0.0"):
            text = text.replace(f",{label}", ",x")
        labels.write_text(text)
    if kind == "no row":
        labels.write_text(text.splitlines()[0] + "\n" if layout is mosi_mmsa else "")
    words = {
        "header alone": "no annotated clip in annotations.csv; there is no row",
        "blank": "no annotated clip in annotations.csv; rows without labels: 3",
        "bad": r"rows left out: 3\n(?s:.*)label_T is 7, out of range",
        "no intensity": r"rows left out: 3\n(?s:.*)label is 'x', not a number",
        "no row": "empty|no row",
    }[kind]
    with pytest.raises(CorpusError, match=words):
        load_cmu_mosi(tmp_path)
    if kind.startswith("no"):
        with pytest.raises(CorpusError, match=words):
            unannotated_cmu_mosi(tmp_path)


def test_two_files_of_intensities_that_differ_are_compared(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    rows = [["1.5", "3.25", v, c, label] for v, c, label in MOSI_ROWS]
    rows[1][4] = "1.5"
    write_csv(tmp_path / "Labels/OpinionLevelSentiment.csv", rows)
    table = load_cmu_mosi(tmp_path)
    sole(table, 2, "label is '-1.75', in Labels/OpinionLevelSentiment.csv line 2 '1.5'",
         "OpinionLevelSentiment.csv is used", file="OpinionLevelSentiment.csv")  # fmt: skip
    assert table.clips.score_gt.tolist() == [0.8, -0.6, 0.0]


@pytest.mark.parametrize("used", [mosi_zip, mosi_mmsa])
def test_intensities_of_both_layouts_are_compared_where_both_are_there(tmp_path, put, used) -> None:
    used(tmp_path, put)
    mmsa = [[v, c, "HI", f"{float(label):.7f}", "", "", "", "", ""] for v, c, label in MOSI_ROWS]
    mmsa[2][3] = "0.4"
    mmsa.append(["zz", "1", "HI", "1.0", "", "", "", "", ""])
    original = [["1.5", "3.25", v, c, label] for v, c, label in MOSI_ROWS]
    if used is mosi_zip:
        write_csv(tmp_path / "label.csv", mmsa, SIMS_HEADER)
        expected = [
            ("OpinionLevelSentiment.csv", 3, "label is '0.0', in label.csv line 4 '0.4000000'"),
            ("label.csv", 5, "no such row in OpinionLevelSentiment.csv"),
        ]
        expected[0] = (*expected[0][:2], "label is '0.0', in label.csv line 4 '0.4'")
    else:
        original[2][4] = "0.4"
        write_csv(tmp_path / "OpinionLevelSentiment.csv", [*original, ["0", "1", "zz", "1", "0"]])
        expected = [
            ("OpinionLevelSentiment.csv", 4, "no such row in label.csv"),
            ("label.csv", 4, "label is '0.0', in OpinionLevelSentiment.csv line 3 '0.4'"),
        ]
    table = load_cmu_mosi(tmp_path)
    assert sorted(problems(table)) == expected
    assert table.clips.score_gt.tolist() == [0.8, -0.6, 0.0] and table.excluded == 0


def test_two_files_of_annotations_that_differ_are_compared(tmp_path, put) -> None:
    mosi_zip(tmp_path / "CMU-MOSI", put)
    votes = [[*VOTES[0][:2], "-0.8", *VOTES[0][3:]], *VOTES[1:]]
    write_csv(tmp_path / "annotations.csv", votes, VOTE_HEADER)
    table = load_cmu_mosi(tmp_path)
    sole(table, 2, "label_T is '0.8', in annotations.csv line 2 '-0.8'",
         file="CMU-MOSI/annotations.csv")  # fmt: skip
    assert table.clips.score_t[0] == 0.8


def test_unimodal_labels_inside_mmsas_file_are_compared_with_the_annotations(tmp_path, put) -> None:
    mosi_mmsa(tmp_path, put)
    file = tmp_path / "label.csv"
    lines = file.read_text().splitlines()
    lines[1] = '-a_B,1,"TEXT 1, QUITE",2.4,0.8,0.2,-0.2,,'
    file.write_text("\n".join(lines))
    sole(load_cmu_mosi(tmp_path), 2, "label_A is '0.0', in label.csv line 2 '0.2'",
         file="annotations.csv")  # fmt: skip


def test_an_mmsa_clip_needs_its_own_sound_track(tmp_path, put) -> None:
    put(mosi_mmsa(tmp_path, put) / "Raw/-a_B/2.mp4", "silent")
    sole(load_cmu_mosi(tmp_path), 3, "no audio stream", file="label.csv")


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
def test_a_cmu_mosi_id_that_leads_out_of_the_corpus_is_reported(tmp_path, put, layout) -> None:
    layout(tmp_path, put)
    file = next(p for p in tmp_path.glob("*.csv") if p.name != "annotations.csv")
    last = "0,1,../../x,1,0.4" if layout is mosi_zip else "../../x,1,HI,0.4,,,,,"
    file.write_text(file.read_text() + last + "\n")
    table = load_cmu_mosi(tmp_path)
    sole(table, len(file.read_text().splitlines()), "'../../x'", file=file.name)
    assert (len(table.clips), table.excluded, table.unlabelled) == (3, 1, 0)


def test_labels_can_be_read_before_any_clip_is_there(tmp_path, put) -> None:
    mosi_zip(tmp_path, put)
    for path in (*tmp_path.rglob("*.mp4"), *tmp_path.rglob("*.wav")):
        path.unlink()
    assert len(load_cmu_mosi(tmp_path, check_media=False).clips) == 3


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
def test_before_annotation_the_clips_are_the_annotated_ones_without_unimodal_labels(
    layout, tmp_path, put
) -> None:
    layout(tmp_path, put)
    annotated = load_cmu_mosi(tmp_path).clips
    (tmp_path / "annotations.csv").unlink()
    before = unannotated_cmu_mosi(tmp_path)
    unimodal = [f"{kind}_{s}" for kind in ("score", "label") for s in "tav"]
    assert before.report.empty and before.excluded == before.unlabelled == 0
    pd.testing.assert_frame_equal(before.clips, annotated.drop(columns=unimodal))


@pytest.mark.parametrize("layout", [mosi_zip, mosi_mmsa])
def test_a_clip_that_nobody_could_judge_is_reported_before_annotation(
    layout, tmp_path, put
) -> None:
    layout(tmp_path, put)
    file = next(p for p in tmp_path.glob("*.csv") if p.name != "annotations.csv")
    put(next(tmp_path.rglob("*2.mp4")), "junk")
    line = 2 if layout is mosi_zip else 3
    before = unannotated_cmu_mosi(tmp_path)
    sole(before, line, "unreadable mp4", file=file.name)
    assert before.clips.clip_id.tolist() == ["1", "10"] and before.excluded == 1
    assert len(unannotated_cmu_mosi(tmp_path, check_media=False).clips) == 3
