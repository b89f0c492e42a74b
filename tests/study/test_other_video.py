"""A clip shown another clip's video: whose, under which fingerprint, and what that changes."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from crash import MEDIA, SMALL, small_model
from paired_answers import FEW, answers
from tiny_media import tone, write_mp4

from emomm_lib import Bootstrap, marginal_gain
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.paired import change_rate
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.media.regions import PersonSettings

KEYS = ["sample_id", "coalition"]
LOGITS = [f"logit_{letter}" for letter in "abcde"]
COALITIONS = ("TAV", "TA", "V")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def clips(tmp_path):
    """Four clips of one corpus and two of another, no two with the same picture."""
    rows = []
    for i in range(6):
        frames = np.random.default_rng(i).integers(0, 256, (4, SMALL.side, SMALL.side, 3), np.uint8)
        write_mp4(tmp_path / f"{i}.mp4", frames=frames, sound=tone(0.5, hertz=200 + 50 * i))
        rows.append({"sample_id": f"c{i}", "corpus": ("ch_sims_v2", "cmu_mosi")[i // 4],
                     "text": f"word {i}", "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4",
                     "label_gt": i % 5})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def bench(model, clips, tmp_path):
    roots = dict.fromkeys(("ch_sims_v2", "cmu_mosi"), tmp_path)
    store = PredictionStore(tmp_path / "p.sqlite")
    return Experiment(model, clips, roots, store, MEDIA, 2, processes=1, progress=False)


def logits(table):
    return table.set_index(KEYS)[LOGITS].astype(float).sort_index()


def test_each_clip_is_shown_the_video_of_another_of_its_corpus_and_each_video_once(bench, clips):
    shown = bench.other_videos().shown(clips)
    assert sorted(shown["video_path"]) == sorted(clips["video_path"])
    corpus = clips.set_index("sample_id")["corpus"]
    for own, other in zip(shown["sample_id"], shown["video_of"], strict=True):
        assert own != other and corpus[own] == corpus[other]
    assert shown["video_path"].tolist() == [f"{name[1:]}.mp4" for name in shown["video_of"]]
    rest = ["sample_id", "corpus", "text", "audio_path", "label_gt"]
    pd.testing.assert_frame_equal(shown[rest], clips[rest])
    # Its own view shows it as it is.
    assert bench.shown(clips) is clips


def test_who_is_shown_whose_hangs_on_the_seed_and_not_on_which_clips_are_asked_about(bench, clips):
    other = bench.other_videos(3)
    whole = other.shown(clips).set_index("sample_id")["video_of"]
    few = other.shown(clips.iloc[[5, 2]]).set_index("sample_id")["video_of"]
    assert few.to_dict() == whole[["c5", "c2"]].to_dict()
    drawn = {tuple(bench.other_videos(seed).shown(clips)["video_of"]) for seed in range(8)}
    assert len(drawn) > 1


def test_an_answer_is_that_of_the_clip_with_the_others_file_in_its_place(bench, clips, tmp_path):
    other = bench.other_videos()
    found = logits(other.predictions(clips, COALITIONS))
    by_hand = clips.assign(video_path=other.shown(clips)["video_path"])
    fresh = replace(bench, clips=by_hand, store=PredictionStore(tmp_path / "q.sqlite"))
    np.testing.assert_allclose(found, logits(fresh.predictions(by_hand, COALITIONS)), atol=1e-5)
    own = logits(bench.predictions(clips, COALITIONS))
    changed = (own - found).abs().max(axis=1) > 1e-6
    assert (changed == (changed.index.get_level_values("coalition") != "TA")).all()


def test_answers_have_a_fingerprint_of_their_own_and_leave_the_others_as_they_were(
    model, bench, clips
):
    before = bench.predictions(clips, COALITIONS)
    views = [bench, *(bench.other_videos(seed) for seed in (0, 1))]
    prints = {run_fingerprint(model, view.media)[0] for view in views}
    assert len(prints) == 3
    for view in views[1:]:
        view.predictions(clips, COALITIONS)
    pd.testing.assert_frame_equal(bench.predictions(clips, COALITIONS), before)
    assert set(MEDIA.settings()) == {"video", "audio"}


def test_what_is_known_is_not_asked_again_until_the_others_file_changes(bench, clips, tmp_path):
    other = bench.other_videos()
    first = other.predictions(clips, COALITIONS)
    assert other.plan(clips, COALITIONS).remaining == 0
    whose = other.shown(clips).set_index("sample_id")["video_of"]
    os.utime(tmp_path / f"{whose['c0'][1:]}.mp4", (1, 1))
    items = [i.sample_id for batch in other.plan(clips, COALITIONS).batches for i in batch]
    # That file is the other's own sound as well, and c0's video.
    assert sorted(items) == sorted({"c0", whose["c0"]})
    pd.testing.assert_frame_equal(other.predictions(clips, COALITIONS), first)


def test_a_change_of_pairs_is_asked_anew_even_where_files_look_alike(bench, clips, tmp_path):
    for path in tmp_path.glob("*.mp4"):
        os.utime(path, (1, 1))
    few = replace(bench, clips=clips.iloc[:3]).other_videos()
    few.predictions(clips.iloc[:3], ("V",))
    all_ = bench.other_videos()
    whose = [view.shown(clips.iloc[:3])["video_of"] for view in (few, all_)]
    moved = sorted(clips["sample_id"].iloc[:3][whose[0] != whose[1]])
    items = [i.sample_id for batch in all_.plan(clips.iloc[:3], ("V",)).batches for i in batch]
    assert moved and sorted(items) == moved


def test_a_video_that_cannot_be_read_fails_under_both_names(bench, clips, tmp_path):
    other = bench.other_videos()
    whose = other.shown(clips).set_index("sample_id")["video_of"]
    [shown] = whose[whose == "c2"].index
    rows = clips.assign(audio_path=clips["audio_path"].where(clips["sample_id"] != "c2", "0.mp4"))
    (tmp_path / "2.mp4").write_bytes(b"damaged")
    table = other.predictions(rows, COALITIONS)
    failed = table[table["failure"].notna()]
    assert failed[KEYS].to_numpy().tolist() == [[shown, "TAV"], [shown, "V"]]
    reason = failed["failure"].iloc[0]
    assert reason.startswith(f"{shown} is shown the video of c2: ") and "2.mp4" in reason
    # With its own video, that clip is fine, and c2 is not; and it says nothing of another.
    own = bench.predictions(rows, ("V",)).set_index("sample_id")["failure"]
    assert own.notna().sum() == 1 and "shown" not in own["c2"]


def test_encoders_that_fail_at_the_others_video_name_both(bench, clips, monkeypatch):
    def broken(media):
        if any(clip.frames is not None for clip in media):
            raise ValueError("no such picture")
        return type(bench.model).encode(bench.model, media)

    monkeypatch.setattr(bench.model, "encode", broken, raising=False)
    table = bench.other_videos().predictions(clips.iloc[:2], ("TAV",))
    assert table["failure"].str.contains(r"c\d is shown the video of c\d: encoding the video").all()


def test_the_only_clip_of_a_corpus_and_a_stranger_are_refused(bench, clips):
    alone = replace(bench, clips=clips.iloc[:5]).other_videos()
    with pytest.raises(ValueError, match="c4 cannot be shown another clip's video"):
        alone.predictions(clips.iloc[:5], ("V",))
    with pytest.raises(ValueError, match="c5 cannot be shown another clip's video"):
        alone.shown(clips.iloc[5:])
    assert len(alone.predictions(clips.iloc[:4], ("V",))) == 4


def test_the_person_of_the_video_that_is_shown_is_what_is_left(bench, clips, monkeypatch):
    searched = []
    monkeypatch.setattr(
        "emomm_study.media.region_store.RegionStore.find",
        lambda self, videos, **_: searched.extend(v.name for v in videos) or pd.DataFrame(
            {"video": videos}),
    )  # fmt: skip
    view = bench.other_videos().person_only(clips.iloc[:3], settings=PersonSettings())
    assert searched == view.shown(clips.iloc[:3])["video_path"].tolist()
    assert view.media.other is not None and view.media.person is not None


def test_what_a_look_into_a_prompt_shows_is_the_others_video(bench, clips, tmp_path):
    other = bench.other_videos()
    own = clips.iloc[1]
    shown = other.shown(clips).iloc[1]
    np.testing.assert_array_equal(
        other.frames(own), bench.frames(clips.loc[int(shown["video_of"][1:])])
    )
    letters = other.inspect(own, "TAV").unsteered.letters
    row = logits(other.predictions(clips, ("TAV",))).loc[("c1", "TAV")].to_numpy()
    np.testing.assert_allclose(letters, np.exp(row) / np.exp(row).sum(), atol=1e-5)


# What it changes


def test_the_share_of_changed_answers_is_what_counting_gives():
    one, other = answers(1), answers(2)
    found = change_rate(one, other.sample(frac=1, random_state=0), **FEW).set_index("subset")
    for group in ("align", "conflict"):
        pairs = [
            (a.label_pred, b.label_pred)
            for a, b in zip(one.itertuples(), other.itertuples(), strict=True)
            if a.subset == group
        ]
        row = found.loc[group]
        assert row["value"] == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))
        assert row["low"] < row["value"] < row["high"] and row["n"] == len(pairs)
    same = change_rate(one, one, **FEW)
    assert (same[["value", "low", "high"]] == 0).all(axis=None)


def test_answers_that_never_change_gain_nothing_over_another_clips_video():
    own = answers(1, coalitions=("TAV",))
    rate = change_rate(own, own, **FEW)["value"]
    gain = marginal_gain(own, own, ["acc5"], bootstrap=Bootstrap(50))
    assert (rate == 0).all() and gain["value"].tolist() == [0]
    # A gain is bounded by the share of answers that change.
    other = answers(2, coalitions=("TAV",), accuracy=0.2)
    merged = change_rate(own, other, by="coalition", **FEW)["value"].iloc[0]
    assert abs(marginal_gain(own, other, ["acc5"], bootstrap=Bootstrap(50))["value"][0]) <= merged


def test_answers_about_other_instances_have_no_rate():
    with pytest.raises(ValueError, match="one and other are not about the same instances"):
        change_rate(answers(1), answers(2).iloc[1:])
