"""Loaders of the two corpora, on little folders in every layout and with every defect."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from emomm_lib.corpora.ch_sims import load_ch_sims
from emomm_lib.corpora.checks import CorpusError, probe_video, write_report
from emomm_lib.corpora.clips import CLIP_COLUMNS, REPORT_COLUMNS, CorpusTable
from emomm_lib.corpora.cmu_mosi import load_cmu_mosi, unannotated_cmu_mosi

Put = Callable[..., Path]
SIMS_HEADER = "video_id clip_id text label label_T label_A label_V annotation mode".split()
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
    assert [first[f"score_{s}"] for s in "gt t a v".split()] == [0.6, 0.8, -0.2, 0.0]
    assert [first[f"label_{s}"] for s in "gt t a v".split()] == [3, 4, 1, 2]
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


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_an_unknown_encoding_fails_with_its_place(tmp_path, encoding) -> None:
    text = "\n".join([",".join(SIMS_HEADER), "v,1,é,0,0,0,0,,", ""])
    (tmp_path / "meta.csv").write_bytes(text.encode(encoding))
    with pytest.raises(CorpusError, match=r"meta\.csv.*byte 0x\w+ on line \d.*UTF-8"):
        load_ch_sims(tmp_path)


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
    write_csv(tmp_path / "meta.csv", [["video_0001", "2", *SIMS_ROWS[1][2:]]], SIMS_HEADER)
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
        "emomm_lib.corpora.checks.probe_video", lambda path, **_: seen.append(path) or []
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
    table = load_cmu_mosi(tmp_path)
    assert table.clips.empty and table.excluded == 3
    said = sorted((f.rpartition("/")[2], r, p.partition(": ")[2]) for f, r, p in problems(table))
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
    (folder / "-a_B.annotprocessed").write_bytes(b"1_DELIM_\x81\n")
    assert sum("unknown encoding" in p for _, _, p in problems(load_cmu_mosi(tmp_path))) == 2


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
