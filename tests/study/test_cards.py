"""Case cards: what they say, and that they show it, as do Tables 7 and 8."""

from __future__ import annotations

import html
import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, strategies as st
from legible import profiled
from matplotlib import pyplot as plt
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.labels import CLASSES
from emomm_study import paper
from emomm_study.evaluate.cases import RULES, Answer, Case, NoCase
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.inspection import Look
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import MediaError, VideoSettings
from emomm_study.report import cards, numbers, style
from emomm_study.report.card_pages import write_card_page
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure
from emomm_study.systems.interface import STEERED_BY

RATE = 16_000
CONFLICT, NO_AUDIO, NO_VIDEO, NO_TEXT = RULES[:4]


def published_case(number, method="CHASE", text="Hey, got a cigarette?"):
    """The paper's case as if it were ours: its labels, answers and budgets, in 28 layers."""
    frame = paper.table(number)
    labels = frame[frame["item"] == "label"].set_index("source")
    clip = {"sample_id": "cmu_mosi/a/1", "corpus": "cmu_mosi", "text": text}
    for source in ("gt", "t", "a", "v"):
        there = source in labels.index
        clip[f"label_{source}"] = CLASSES.index(labels.at[source, "label"]) if there else 0
        clip[f"score_{source}"] = labels.at[source, "value"] if there else 0.0
    answers = {}
    for name, p in (("baseline", 0.25), ("CHASE", 0.625)):
        own = frame[frame["method"] == name]
        said = own[own["item"] == "prediction"].iloc[0]
        share = np.full((28, 3), np.nan)
        for row in own[own["item"] == "attention"].itertuples():
            share[row.layer - 1, "tav".index(row.source)] = row.value
        label = CLASSES.index(said["label"])
        look = Look(np.eye(5)[label], share, np.zeros((28, 2, 3)), np.zeros((28, 2, 4)))
        if name != "baseline":
            conflict = np.where(np.arange(28) < 12, np.nan, 0.9)
            conflict[12] = 0.5
            gate = np.where(np.arange(28)[:, None] < 12, np.nan, [[0.1, 0.2, 0.7]])
            look = replace(look, conflict=conflict, gate=gate, heads=np.zeros((28, 2), bool))
        key = name if name == "baseline" else method
        answers[key] = Answer(label, said["value"], p, look, None)
    rule = {7: CONFLICT, 8: NO_AUDIO}[number]
    return Case(rule, method, pd.Series(clip), 3, 40, answers, 0.7, None)


def card_of(case, profile="mini"):
    frames = grey_frames(4) if "V" in case.present else None
    sound = None
    if "A" in case.present:
        times = np.linspace(0, 1, 63)
        sound = cards.Sound(tone(), RATE, np.where(times < 0.3, np.nan, 200 + 50 * times))
    usual = cards.AudioCue(2.0, 150.0, 3.0, 0.7, -20.0)
    return cards.Card(case, frames, sound, usual, profile)


def texts(fig):
    fig.draw_without_rendering()
    return [t for t in fig.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]


def words(case):
    """All that a card says, its line breaks taken for spaces."""
    fig = profiled(card_of(case).figure())
    said = " ".join(t.get_text() for t in texts(fig)).replace("\n", " ")
    plt.close(fig)
    return said


# Sound


def test_a_tones_cue_has_its_pitch_its_level_and_no_range():
    cue = cards.Sound.of(tone(1.0, RATE, 200), RATE).cue
    assert cue.seconds == 1.0 and cue.voiced > 0.8
    assert cue.pitch == pytest.approx(200, rel=0.01) and cue.pitch_range < 0.3
    assert cue.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)


def test_a_glide_over_an_octave_has_a_range_of_twelve_semitones_less_its_ends():
    seconds = 2.0
    at = np.arange(int(seconds * RATE)) / RATE
    hertz = 100 * 2 ** (at / seconds)
    sound = cards.Sound.of((0.5 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)).astype("f4"), RATE)
    assert sound.cue.pitch_range == pytest.approx(0.9 * 12, abs=0.6)


def test_silence_is_said_to_be_silent_and_without_pitch():
    cue = cards.Sound.of(np.zeros(RATE, "f4"), RATE).cue
    assert cards.cue_text(cue) == "1.0 s, no pitch found, silent"


def test_a_cue_stands_beside_the_corpuss_medians():
    cue = cards.AudioCue(1.25, 181.6, 9.04, 0.5, -22.4)
    usual = cards.AudioCue(2.0, 150.0, 3.0, 0.7, -20.0)
    assert cards.cue_text(cue, usual) == (
        "1.2 s, mean pitch 182 Hz, pitch range 9.0 semitones, level −22 dB "
        "(corpus medians 2.0 s, 150 Hz, 3.0 semitones, −20 dB)"
    )


def test_usual_cues_are_medians_by_corpus_of_the_files(tmp_path):
    clips = pd.DataFrame({"corpus": ["one"] * 3 + ["two"], "audio_path": list("abcd")})
    clips["audio_path"] += ".wav"
    for path, seconds in zip(clips["audio_path"], (0.5, 0.6, 1.0, 0.7), strict=True):
        soundfile.write(tmp_path / path, tone(seconds, RATE, 200), RATE)
    roots = {"one": tmp_path, "two": tmp_path}
    usual = cards.usual_cues(clips, roots, AudioSettings(), count=3)
    assert {c: u.seconds for c, u in usual.items()} == {"one": 0.6, "two": 0.7}


# What a card says


def test_the_interpretation_of_table_7_follows_from_its_numbers():
    sentences = cards.interpretation(published_case(7))
    before = np.array(
        [[0.7436, 0.8324, 0.8555, 0.7032, 0.8300], [0.0245, 0.0092, 0.0089, 0.0126, 0.0220]]
    )
    after = np.array(
        [[0.7069, 0.7875, 0.8039, 0.6582, 0.7758], [0.0461, 0.0323, 0.0328, 0.0370, 0.0495]]
    )
    text, video = (after - before).mean(1)
    assert sentences[0] == (
        "The ground truth is P: video (P) has the ground truth's class; audio (WP) has its "
        "polarity in another class; text (Neu) has another polarity."
    )
    assert f"V +{video:.3f}" in sentences[1] and f"T −{-text:.3f}" in sentences[1]
    assert "layers 13, 17, 21, 26, 28: video" in sentences[1] and "gained most" in sentences[1]
    assert sentences[2] == "The probability of P went from 0.250 to 0.625."
    assert sentences[3] == (
        "p exceeded 0.7 in 15 of the 16 layers that the router is asked in; the mean gate there "
        "trusts video most (0.70)."
    )
    assert len(sentences) == 4


def test_an_extension_is_named_and_the_published_settings_stand_beside_it():
    case = published_case(7, method="CHASE, tuned")
    plain = replace(case.baseline, look=case.steered.look)
    plain = replace(plain, look=replace(plain.look, letters=np.eye(5)[0]))
    case = replace(case, answers={**case.answers, "CHASE": plain})
    sentences = cards.interpretation(case)
    assert "“CHASE, tuned”" in sentences[1]
    assert sentences[-1] == (
        "“CHASE” with the published settings answers N (-0.8) ✗, probability of P 0.250."
    )


def test_a_router_that_sees_no_conflict_is_said_to_have_steered_nothing():
    case = replace(published_case(7), tau=0.95)
    said = " ".join(cards.interpretation(case))
    assert "p exceeded 0.95 in none of the 16 layers" in said and "nothing was steered" in said


def test_an_answer_that_comes_out_differently_when_computed_again_is_owned_up_to():
    case = published_case(7)
    other = replace(case.baseline, look=replace(case.baseline.look, letters=np.eye(5)[1]))
    case = replace(case, answers={**case.answers, "baseline": other})
    last = cards.interpretation(case)[-1]
    assert last.startswith("Computed again for this card, “baseline” answers WN, not the stored N")


@given(st.floats(-1, 1))
def test_a_change_has_a_sign_unless_it_rounds_to_nothing(value):
    text = numbers.number(value, 3, sign=True)
    rounded = round(abs(value), 3)
    if float(text.strip("+−")) == 0:
        assert text == "0.000" and rounded <= 0.001
    else:
        assert text[0] == ("+" if value > 0 else "−")
        assert abs(abs(value) - float(text[1:])) <= 0.0005 + 1e-9


# What it shows


def test_a_cards_words_hold_all_that_the_papers_card_has():
    shown = words(published_case(7))
    said = [
        "Hey, got a cigarette?", "profile: mini", "N (-0.8) ✗", "P (1.0) ✓", "Ground truth: P",
        "T=0.7436, A=0.2319, V=0.0245", "T=0.7758, A=0.1751, V=0.0495", "L28",
        "probability of P 0.250", "probability of P 0.625", "The ground truth is P",
        "Chosen by rule", "3 of 40", "WP (0.4) ≈", "g 0.10, 0.20, 0.70", "p 0.50, not steered",
        "p 0.90 g", "frame 1 of 4", "corpus medians 2.0 s",
    ]  # fmt: skip
    assert [part for part in said if part not in shown] == []


def test_a_layer_that_the_router_is_not_asked_in_says_so():
    case = published_case(7)
    look = replace(case.steered.look, conflict=np.full(28, np.nan))
    case = replace(case, answers={**case.answers, "CHASE": replace(case.steered, look=look)})
    assert words(case).count("not asked") == len(case.layers)


def test_what_is_masked_is_missing_and_not_shown():
    shown = words(published_case(8))
    assert shown.count("[missing]") == 2 and "Hz" not in shown
    case = replace(published_case(8), rule=NO_TEXT)
    assert "cigarette" not in words(case)


def test_what_is_hidden_from_the_model_takes_a_line_of_a_card_and_no_box():
    whole, silent, blind = (
        card_of(replace(published_case(7), rule=rule)).figure().get_figheight()
        for rule in (CONFLICT, NO_AUDIO, NO_VIDEO)
    )
    assert silent == pytest.approx(whole - 0.98) and blind == pytest.approx(whole - 1.78)
    plt.close("all")


def test_a_transcript_cannot_smuggle_markup_into_the_card():
    said = r"<b>$\frac{1}$</b> & $5 or $6"
    assert f"“{said}”" in words(published_case(7, text=said))


@given(st.integers(1, 60), st.integers(1, 8))
def test_shown_frames_are_distinct_in_order_and_symmetric(count, wanted):
    found = cards.shown_frames(count, wanted)
    assert len(found) == min(count, wanted)
    assert found == sorted(set(found)) and found[0] >= 0 and found[-1] < count


@pytest.mark.parametrize("rule", [CONFLICT, NO_AUDIO, NO_VIDEO, NO_TEXT])
def test_no_words_of_a_printed_card_leave_the_page_and_all_characters_are_known(rule):
    case = replace(published_case(7, text="这次晚饭算是没意思 " * 6), rule=rule)
    with style.context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = profiled(card_of(case).figure())
        shown = texts(fig)
        page = fig.bbox.padded(0.5)
        # Ticks beyond an axis are there and not drawn: what is laid out is checked as a whole.
        unlaid = [text.get_window_extent() for text in shown if not text.get_in_layout()]
        # Five facts, a legend, the remarks and the rule; and what is hidden, where something is.
        assert len(unlaid) == 8 + (rule in (NO_AUDIO, NO_VIDEO))
        for box in [fig.get_tightbbox().transformed(fig.dpi_scale_trans), *unlaid]:
            assert page.x0 <= box.x0 and box.x1 <= page.x1
            assert page.y0 <= box.y0 and box.y1 <= page.y1
    said = " ".join(t.get_text() for t in shown)
    missing = 2 * (len(rule.coalition) < 3)
    assert said.count("[missing]") == missing
    assert "profile: mini" in said and "Chosen by rule" in said
    plt.close(fig)


def test_a_printed_cards_bars_are_the_shares():
    fig = card_of(published_case(7)).figure()
    [ax] = [a for a in fig.axes if a.get_title(loc="left").startswith("CHASE")]
    found = np.array([[bar.get_width() for bar in bars] for bars in ax.containers]).T
    expected = paper.table(7).query("item == 'attention' and method == 'CHASE'")["value"]
    np.testing.assert_allclose(found.ravel(), expected)
    plt.close(fig)


def test_the_same_card_is_saved_with_the_same_bytes(tmp_path):
    found = []
    source = Provenance("Case", "09_case_studies", "f00d", caption("Case", "mini", "A card"))
    for name in ("one", "two"):
        fig = card_of(published_case(8, text="我不会放弃")).figure()
        root = tmp_path / name
        paths = write_figure(fig, "card", "mini", source, formats=["png"], root=root).paths
        found.append([path.read_bytes() for path in paths])
        fig.savefig(tmp_path / name / "card.svg")
    assert [len(paths) for paths in found] == [2, 2] and found[0] == found[1]
    assert "我不会放弃" in (tmp_path / "one" / "card.svg").read_text(encoding="utf-8")


# Making cards


def test_a_card_has_the_frames_and_the_sound_that_the_model_was_given(tmp_path):
    write_mp4(tmp_path / "a.mp4", frames=grey_frames(8), sound=tone(1.0, RATE, 200))
    case = published_case(7)
    case = replace(case, clip=pd.concat([case.clip, pd.Series(
        {"video_path": "a.mp4", "audio_path": "a.mp4"})]))  # fmt: skip
    media = MediaSettings(VideoSettings(4), AudioSettings(max_seconds=0.5))
    model = SimpleNamespace(**dict.fromkeys(STEERED_BY))
    model.seen = lambda height, width: (4, 0, height - 8, width)  # it crops what it is given
    store = PredictionStore(tmp_path / "p.sqlite")
    bench = Experiment(model, pd.DataFrame(), {"cmu_mosi": tmp_path}, store, media)
    card = cards.make_card(case, bench, {}, "mini")
    assert card.frames.shape == (4, 24, 32, 3) and len(card.sound.samples) == RATE // 2
    hidden = cards.make_card(replace(case, rule=NO_AUDIO), bench, {}, "mini")
    assert hidden.sound is None and hidden.audio == "[missing]"
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MediaError, match="card of cmu_mosi/a/1: .*no such file"):
        cards.make_card(case, bench, {}, "mini")


def test_a_card_is_printed_as_one_short_line():
    assert repr(card_of(published_case(7))) == "<Card of cmu_mosi/a/1 (CMU-MOSI, TAV)>"


def test_a_rule_without_an_instance_leaves_its_sentence_in_the_cards_place():
    card = cards.make_card(NoCase(CONFLICT, "CHASE", 40), None, {}, "mini")
    fig = card.figure()
    assert any("none of 40 instances satisfies the rule" in t.get_text() for t in texts(fig))
    plt.close(fig)


# Tables


@pytest.mark.parametrize("number", [7, 8])
def test_the_published_case_put_in_our_place_gives_the_published_columns(number):
    table = cards.case_table(number, published_case(number)).iloc[1:]
    published, ours = table["published case"], table["our case"]
    assert published.to_numpy().tolist() == ours.to_numpy().tolist()
    assert len(table) == 4 + 1 + 15


def test_table_7_is_the_papers():
    table = cards.case_table(7, published_case(7))["published case"]
    assert table.loc[("prediction", "", "")].tolist() == ["N (-0.8) ✗", "P (1.0) ✓"]
    assert table.loc[("label", "", "A"), "CHASE"] == "WP (0.4)"
    rows = table.loc["attention budget"]
    assert rows.loc[("28 of 28, 28 of 28", "T")].tolist() == ["0.8300", "0.7758"]


def test_a_table_without_a_case_says_so():
    table = cards.case_table(8, NoCase(NO_AUDIO, "CHASE, tuned", 40))
    assert (table["our case"] == "no case").all(axis=None)
    assert table["our case"].columns.tolist() == ["baseline", "CHASE, tuned"]


def test_other_tables_are_no_case_studies():
    with pytest.raises(ValueError, match="Tables 7 and 8; got 6"):
        cards.case_table(6, published_case(7))


def test_budgets_of_all_cases_are_one_row_each_empty_without_a_case():
    frame = cards.budget_frame([published_case(8), NoCase(CONFLICT, "CHASE", 40)])
    row = frame.loc["audio missing, repaired"]
    assert row["T"] == pytest.approx(-row["V"], abs=1e-3) and row["V label"] == "="
    assert row["P(GT) after"] == 0.625 and np.isnan(row["A"]) and row["A label"] == ""
    assert frame.loc["conflict, repaired", "T label"] == ""


# Cards as a page


def pages(tmp_path, *cases, play=True, **clip):
    """The page of some cases, their clips' files beside it."""
    root = tmp_path / "corpus & co"
    own = {"video_path": "a/1.mp4", "audio_path": "a/1.wav"} | clip
    made = [replace(c, clip=pd.concat([c.clip, pd.Series(own)])) for c in cases]
    pictures = [SimpleNamespace(paths=(tmp_path / "figures" / "card.png",))] * len(made)
    page = write_card_page(
        tmp_path / "runs" / "cards.html", [card_of(c) for c in made], pictures,
        {"cmu_mosi": root}, play=play,
    )  # fmt: skip
    return page.read_text(encoding="utf-8")


def test_a_pages_clips_play_from_where_they_lie_with_a_picture_that_is_described(tmp_path):
    text = pages(tmp_path, published_case(7))
    assert '<video controls preload="metadata" src="../corpus%20%26%20co/a/1.mp4">' in text
    assert 'src="../corpus%20%26%20co/a/1.wav"' in text and 'src="../figures/card.png"' in text
    described = re.search(r'<img [^>]*alt="([^"]+)"', text)[1]
    assert html.unescape(described) == " ".join(cards.interpretation(published_case(7)))


def test_what_is_hidden_from_the_model_does_not_play(tmp_path):
    without_sound = pages(tmp_path, published_case(8))
    assert '<video controls preload="metadata" muted' in without_sound
    assert "<audio" not in without_sound and "Hidden from the model: sound." in without_sound
    unseen = replace(published_case(7), rule=NO_VIDEO)
    without_picture = pages(tmp_path, unseen)
    assert "<video" not in without_picture and "<audio" in without_picture


def test_where_clips_may_not_be_played_the_page_has_pictures_alone(tmp_path):
    text = pages(tmp_path, published_case(7), play=False)
    assert "<video" not in text and "<audio" not in text and "<img" in text


def test_a_path_that_leads_out_of_its_corpus_is_not_linked(tmp_path):
    with pytest.raises(ValueError, match="must be relative"):
        pages(tmp_path, published_case(7), video_path="../../secret.mp4")


def test_a_page_says_why_there_is_no_case(tmp_path):
    page = write_card_page(
        tmp_path / "cards.html", [cards.NoCard("conflict, harmed", "None of <these> does.", "mini")],
        [SimpleNamespace(paths=(tmp_path / "a.png",))], {}, play=True,
    )  # fmt: skip
    assert "None of &lt;these&gt; does." in page.read_text(encoding="utf-8")
