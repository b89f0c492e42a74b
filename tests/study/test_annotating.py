"""The annotation panel's kernel side and what it plays: one modality, and nothing of another."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from annotating_clips import TEXTS, small_campaign, small_clips
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.annotation.campaign import CALIBRATION, Answer, Campaign, CampaignError
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.playback import film, has_sound, sound
from emomm_study.media.video import MediaError
from emomm_study.report import annotating
from emomm_study.report.annotating import AnnotationPanel, annotate
from emomm_study.report.style import COLOURS

HOME = Path(annotating.__file__).parent


# What is played


def streams(data: bytes) -> list[str]:
    with av.open(io.BytesIO(data)) as container:
        return [stream.type for stream in container.streams]


def pictures(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(params=["cmu_mosi", "ch_sims"])
def clip(request, tmp_path) -> tuple[Path, Path]:
    """Film and sound as CMU-MOSI has them, mp4 and wav, and as CH-SIMS has them, an mp4."""
    heard = tone(1.0)
    path = write_mp4(tmp_path / "a/0001.mp4", frames=grey_frames(), sound=heard)
    if request.param == "ch_sims":
        return path, path
    soundfile.write(tmp_path / "a_1.wav", heard, 16_000)
    return path, tmp_path / "a_1.wav"


def test_a_film_without_sound_has_no_audio_stream_and_the_same_pictures(clip):
    muted, whole = film(clip[0], with_sound=False), film(clip[0], with_sound=True)
    assert streams(whole) == ["video", "audio"] and whole == clip[0].read_bytes()
    assert streams(muted) == ["video"]
    assert b"mp4a" in whole and b"mp4a" not in muted and b"soun" not in muted
    np.testing.assert_array_equal(pictures(muted), pictures(whole))


def test_sound_alone_is_a_wav_without_pictures_and_sounds_the_same(clip):
    data = sound(clip[1])
    assert streams(data) == ["audio"] and data[:4] == b"RIFF"
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    expected = read_audio(clip[1], AudioSettings(sampling_rate=rate))
    np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_sound_keeps_its_rate_and_channels_unless_a_models_are_asked_for(tmp_path):
    both = np.stack([tone(0.5, 44_100), tone(0.5, 44_100, 880)])
    soundfile.write(tmp_path / "both.wav", both.T, 44_100)
    samples, rate = soundfile.read(io.BytesIO(sound(tmp_path / "both.wav")), dtype="float32")
    assert rate == 44_100
    np.testing.assert_allclose(samples.T, both, atol=1e-4)
    data = sound(tmp_path / "both.wav", AudioSettings(max_seconds=0.25))
    assert soundfile.info(io.BytesIO(data)).samplerate == 16_000
    assert soundfile.info(io.BytesIO(data)).frames == 4000


def test_files_that_cannot_be_played_are_named(put, tmp_path):
    for kind in ("junk", "zero", "blind"):
        path = put(tmp_path / f"{kind}.mp4", kind)
        with pytest.raises(MediaError, match=path.name):
            film(path, with_sound=False)
    with pytest.raises(MediaError, match="silent.mp4: no audio stream"):
        sound(put(tmp_path / "silent.mp4", "silent"))
    assert not has_sound(tmp_path / "silent.mp4") and has_sound(put(tmp_path / "good.mp4"))


# The panel without a browser


@dataclass
class Browser:
    """A panel's other side: what it was sent, and answers to the newest screen."""

    panel: AnnotationPanel
    sent: list[tuple[dict, list[bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.panel.send = lambda content, buffers=None: self.sent.append((content, buffers or []))
        self.tell("ready")

    def tell(self, kind: str, number: int | None = None, **more) -> None:
        number = self.screen["number"] if number is None and self.sent else number
        self.panel._handle_custom_msg({"kind": kind, "number": number, **more}, [])

    @property
    def screen(self) -> dict:
        return self.sent[-1][0]

    @property
    def data(self) -> list[bytes]:
        return self.sent[-1][1]

    def answer(self, label: int) -> None:
        if self.screen["screen"] == "pause":
            self.tell("next")
        self.tell("answer", label=label)
        if self.screen["screen"] == "feedback":
            self.tell("next")


@dataclass
class Desk:
    root: Path
    clips: pd.DataFrame
    campaign: Campaign

    def open(self, annotator: str = "A1") -> Browser:
        return Browser(annotate(self.campaign.path, self.clips, self.root, annotator))


@pytest.fixture(scope="session")
def little(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("little")
    return root, small_clips(root)


@pytest.fixture
def desk(little, tmp_path) -> Desk:
    return Desk(*little, small_campaign(tmp_path / "campaign.sqlite", little[1]))


def texts_in(content: object) -> list[str]:
    found = json.dumps(content, ensure_ascii=False)
    return [text for text in TEXTS.values() if text in found]


def test_each_pass_sends_its_modality_alone_and_the_clip_that_is_meant(desk):
    browser, seen = desk.open(), []
    while browser.screen.get("button") or browser.screen["screen"] != "pause":
        if browser.screen["screen"] == "item":
            screen, data = browser.screen, browser.data
            task = desk.campaign.task("A1")
            clip = desk.clips.set_index("sample_id").loc[task.sample_id]
            assert (screen["modality"], screen["seq"]) == (task.modality, task.seq)
            assert screen["guideline"] == annotating.GUIDELINE[task.modality]
            seen.append((task.phase, task.modality, task.seq))
            if task.modality == "T":
                assert screen["text"] == clip["text"] and not data
            else:
                assert not texts_in(screen) and "text" not in screen
                kind = {"A": "audio", "V": "video"}[task.modality]
                assert streams(data[0]) == [kind] and screen["media"].startswith(kind)
            if task.modality == "A":
                played = soundfile.read(io.BytesIO(data[0]), dtype="float32")[0]
                own = soundfile.read(desk.root / clip["audio_path"], dtype="float32")[0]
                np.testing.assert_array_equal(played, own)
            if task.modality == "V":
                own = pictures((desk.root / clip["video_path"]).read_bytes())
                np.testing.assert_array_equal(pictures(data[0]), own)
            browser.tell("answer", label=1)
        else:
            browser.tell("next")
    assert len(seen) == len(set(seen)) == 12
    assert browser.screen["title"] == "All is done. Thank you."


def test_neither_the_widgets_state_nor_the_campaigns_file_holds_a_text_or_a_medium(desk):
    browser = desk.open()
    for _ in range(12):
        browser.answer(0)
        state = browser.panel.get_state()
        assert not texts_in({k: str(v) for k, v in state.items()})
        # Code and layout: the clip's bytes would be many times that.
        assert not any(isinstance(value, bytes | memoryview) for value in state.values())
        assert all("RIFF" not in str(v) and "ftyp" not in str(v) for v in state.values())
    assert desk.campaign.task("A1") is None
    folder = desk.campaign.path.parent
    stored = b"".join(p.read_bytes() for p in folder.glob("campaign.sqlite*"))
    assert b"cmu_mosi/v1/2" in stored
    for word in (*TEXTS.values(), "Segmented", ".mp4", ".wav", str(desk.root)):
        assert word.encode() not in stored


def test_what_was_meant_for_another_screen_labels_nothing(desk):
    browser = desk.open()
    browser.tell("next")
    number = browser.screen["number"]
    browser.tell("answer", label=1)
    assert browser.screen["screen"] == "feedback"
    for stale in (number, number - 1, 0, None):
        browser.panel._handle_custom_msg({"kind": "answer", "number": stale, "label": -1}, [])
    browser.tell("answer", label=-1)
    assert desk.campaign.history(CALIBRATION)["label"].tolist() == [1]
    browser.tell("next")
    assert browser.screen["screen"] == "pause"
    browser.tell("answer", label=-1)
    assert len(desk.campaign.history(CALIBRATION)) == 1


def test_of_two_answers_to_one_screen_at_the_same_time_one_is_counted(desk, monkeypatch):
    """JupyterLab may have two messages of one widget answered at the same time."""
    browser, record = desk.open(), Campaign.record

    def late(*given):
        time.sleep(0.1)
        return record(*given)

    for _ in range(3):
        browser.answer(0)
    browser.tell("next")
    monkeypatch.setattr(Campaign, "record", late)
    answer = {"kind": "answer", "number": browser.screen["number"]}
    with ThreadPoolExecutor(2) as pool:
        both = [{**answer, "label": 1}, {**answer, "label": -1}]
        [*pool.map(lambda content: browser.panel._handle_custom_msg(content, []), both)]
    assert len(desk.campaign.history()) == 1
    assert browser.screen["seq"] == desk.campaign.task("A1").seq


@pytest.mark.parametrize("label", [2, None, "1", 0.5, True, [1]])
def test_a_label_that_is_none_of_the_three_is_refused_in_words(desk, label):
    browser = desk.open()
    browser.tell("next")
    browser.tell("answer", label=label)
    assert browser.screen["screen"] == "remark"
    assert "expected the label -1, 0 or 1" in browser.screen["remark"]
    assert desk.campaign.history(CALIBRATION).empty


def test_the_calibration_round_tells_the_reference_after_the_answer_and_not_before(desk):
    browser = desk.open()
    assert "Calibration round" in " ".join(browser.screen["lines"])
    for label, reference, agreed in ((0, "0 neutral", 1), (0, "+1 positive", 1), (0, "−1", 1)):
        browser.tell("next")
        assert "reference" not in browser.screen
        browser.tell("answer", label=label)
        screen = browser.screen
        assert screen["screen"] == "feedback" and screen["answer"] == "0 neutral"
        assert screen["reference"].startswith(reference)
        assert screen["same"] == screen["reference"].startswith("0")
        assert (screen["agreed"], screen["why"]) == (agreed, screen["guideline"])
        browser.tell("next")
    assert browser.screen["title"] == "Next: Text (pass 1 of 3)"
    assert browser.screen["lines"][0] == "Calibration, Video is done: 1 of 1."
    assert desk.campaign.votes().empty


def test_a_view_drawn_anew_during_feedback_gets_the_clip_with_it(desk):
    browser = desk.open()
    browser.answer(0)
    browser.tell("next")
    browser.tell("answer", label=1)
    assert browser.screen["kept"] and not browser.data
    browser.panel._handle_custom_msg({"kind": "ready", "number": None}, [])
    assert "kept" not in browser.screen and streams(browser.data[0]) == ["audio"]


def test_a_panel_goes_on_where_another_stopped(desk):
    browser = desk.open()
    for _ in range(5):
        browser.answer(1)
    again = desk.open()
    assert again.screen["title"] == "Next: Text (pass 1 of 3)"
    assert "2 of 3 clips are done." in again.screen["lines"]
    again.tell("next")
    assert again.screen["seq"] == browser.screen["seq"] == desk.campaign.task("A1").seq
    assert desk.open("A2").screen["title"] == "Next: Calibration, Text (pass 1 of 3)"


def test_of_two_panels_on_one_clip_the_second_labels_nothing_and_catches_up(desk):
    for _ in range(3):
        desk.open().answer(0)
    one, two = desk.open(), desk.open()
    one.tell("next")
    two.tell("next")
    assert one.screen["seq"] == two.screen["seq"]
    one.tell("answer", label=1)
    two.tell("answer", label=-1)
    assert desk.campaign.history()["label"].tolist() == [1]
    assert "another panel" in two.screen["remark"] and two.screen["seq"] == one.screen["seq"]


def test_going_back_shows_the_answer_and_another_replaces_it(desk):
    browser = desk.open()
    for label in (0, 0, 0, 1, -1):
        browser.answer(label)
    here = browser.screen["seq"]
    browser.tell("back")
    assert browser.screen["label"] == -1
    browser.tell("back")
    assert browser.screen["label"] == 1
    first = browser.screen["seq"]
    browser.tell("back")
    assert browser.screen["remark"] == "There is nothing to go back to in this pass."
    browser.tell("answer", label=0)
    assert browser.screen["seq"] == here and browser.screen["label"] is None
    votes = desk.campaign.votes().set_index("seq")["label"]
    assert votes[first] == 0 and len(votes) == 2
    browser.tell("back")
    browser.tell("next")
    assert browser.screen["seq"] == here


def test_from_the_break_after_a_pass_its_last_answer_can_be_corrected(desk):
    browser = desk.open()
    for label in (0, 0, 0, 1, 1, 1):
        browser.answer(label)
    assert browser.screen["lines"][0] == "Text is done: 3 of 3."
    browser.tell("back")
    assert (browser.screen["modality"], browser.screen["label"]) == ("T", 1)
    browser.tell("answer", label=-1)
    assert browser.screen["screen"] == "pause" and browser.screen["modality"] == "A"
    assert sorted(desk.campaign.votes()["label"]) == [-1, 1, 1]


def test_a_clip_that_cannot_be_opened_gets_no_label_and_waits_until_it_is_mended(desk, tmp_path):
    for _ in range(6):
        desk.open().answer(0)
    task = desk.campaign.task("A1")
    row = desk.clips.index[desk.clips["sample_id"] == task.sample_id][0]
    whole = desk.clips.at[row, "audio_path"]
    (desk.root / "broken").mkdir(exist_ok=True)
    name = Path(whole).name
    broken = desk.root / "broken" / name
    broken.write_bytes(b"no sound")
    desk.clips = desk.clips.copy()
    desk.clips.at[row, "audio_path"] = f"broken/{name}"
    browser = desk.open()
    browser.tell("next")
    assert name in browser.screen["failed"] and not browser.data
    browser.tell("skip")
    assert desk.campaign.progress()["unreadable"].sum() == 1
    for _ in range(4):
        browser.answer(1)
    assert browser.screen["title"] == "All that could be opened is done."
    assert f"Could not be opened: Audio of seq {task.seq}." in browser.screen["lines"][-1]
    assert len(desk.campaign.votes()) == 3 + 2 + 2
    desk.clips.at[row, "audio_path"] = whole
    browser = desk.open()
    browser.answer(-1)
    browser.answer(-1)
    assert browser.screen["title"] == "All is done. Thank you."
    assert len(desk.campaign.votes()) == 9 and desk.campaign.unreadable().empty


def test_clips_that_do_not_fit_the_campaign_are_refused_by_name(desk):
    def opened(clips: pd.DataFrame) -> None:
        annotate(desk.campaign, clips, desk.root, "A1")

    with pytest.raises(CampaignError, match="1 of the campaign's 4 are absent, cmu_mosi/v2/4"):
        opened(desk.clips.iloc[:-1])
    with pytest.raises(CampaignError, match="'audio_path'. are absent"):
        opened(desk.clips.drop(columns="audio_path"))
    with pytest.raises(CampaignError, match="cmu_mosi/v2/4 is there more than once"):
        opened(pd.concat([desk.clips, desk.clips.iloc[-1:]]))
    swapped = desk.clips.assign(video_path=desk.clips["video_path"].iloc[::-1].values)
    with pytest.raises(CampaignError, match="bears another clip's name; expected v"):
        opened(swapped)
    with pytest.raises(CampaignError, match="'A9' is not an annotator"):
        annotate(desk.campaign, desk.clips, desk.root, "A9")


def test_a_clip_without_a_transcript_is_said_to_have_none(desk):
    clips = desk.clips.assign(text=["", None, " ", np.nan])
    browser = Browser(annotate(desk.campaign, clips, desk.root, "A1"))
    browser.tell("next")
    assert "there is no transcript" in browser.screen["failed"]


def test_an_answer_that_the_disk_refuses_is_said_and_the_clip_stays(desk, monkeypatch):
    browser = desk.open()
    browser.tell("next")

    def full(self, answers: list[Answer]) -> None:
        raise CampaignError("campaign.sqlite: nothing was read or written (disk is full)")

    monkeypatch.setattr(Campaign, "record", full)
    before = browser.screen["number"]
    browser.tell("answer", label=1)
    assert browser.screen == {
        "screen": "remark", "number": before,
        "remark": "campaign.sqlite: nothing was read or written (disk is full)",
    }  # fmt: skip


# What it is made of


def test_the_panel_opens_without_the_packages_that_load_slowly():
    code = (
        "import sys, emomm_study.report.annotating\n"
        "slow = ('torch', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'pandera', 'cv2')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_browser_side_needs_no_network_and_has_the_house_colours():
    code = (HOME / "panel.js").read_text()
    style = (HOME / "panel.css").read_text()
    assert not re.search(r"https?:|//cdn|\bimport\b|\bfetch\(|@import|url\(", code + style)
    assert "localStorage" not in code and "innerHTML" not in code
    found = re.findall(r'data-modality="(\w)"\] \{ --emomm-modality: (#\w+)', style)
    assert dict(found) == {m: COLOURS[m.lower()].lower() for m in "TAV"}
