"""Where attention on video lies: against loops over tokens, and a model that was looked into."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from crash import MEDIA, SMALL, small_model
from hypothesis import given, settings, strategies as st
from scipy.stats import entropy
from tiny_media import tone, write_mp4

from emomm_lib import Bootstrap
from emomm_study.evaluate.dispersion import (
    VideoAttention,
    dispersion_frame,
    region_ratio,
    spread,
    video_attention,
)
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import PersonRegions, token_cover
from emomm_study.media.video import MediaError

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
FEW = {"bootstrap": Bootstrap(50)}


def drawn(seed, clips=6, layers=3, most=8):
    """Clips of different lengths, some without a region, and a layer that gives video nothing."""
    rng = np.random.default_rng(seed)
    attention = np.full((clips, layers, most), np.nan)
    cover = np.full((clips, most), np.nan)
    for i in range(clips):
        n = int(rng.integers(1, most + 1))
        attention[i, :, :n] = rng.random((layers, n))
        if rng.random() < 0.8:
            cover[i, :n] = rng.random(n) * (rng.random(n) < 0.6)
    attention[0, 0, np.isfinite(attention[0, 0])] = 0.0
    return attention, cover


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_ratio_is_the_share_of_attention_over_the_share_of_area_token_by_token(seed):
    attention, cover = drawn(seed)
    found = region_ratio(attention, cover)
    for i, layer in np.ndindex(found.shape):
        total = inside = area = tokens = 0.0
        for weight, part in zip(attention[i, layer], cover[i], strict=True):
            if not math.isnan(weight):
                total += weight
            if not math.isnan(part):
                inside, area, tokens = inside + weight * part, area + part, tokens + 1
        expected = inside / total / (area / tokens) if total and area else np.nan
        assert found[i, layer] == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_spread_is_scipys_entropy_over_that_of_as_many_even_tokens(seed):
    attention, _ = drawn(seed)
    found = spread(attention)
    for i, layer in np.ndindex(found.shape):
        own = attention[i, layer][np.isfinite(attention[i, layer])]
        expected = entropy(own) / np.log(len(own)) if own.sum() and len(own) > 1 else np.nan
        assert found[i, layer] == pytest.approx(expected, nan_ok=True)
        assert np.isnan(found[i, layer]) or -1e-9 <= found[i, layer] <= 1 + 1e-9


def test_by_hand_a_face_on_a_quarter_of_the_picture_with_half_of_the_attention_has_twice_its_share():
    attention = np.array([[[0.2, 0.1, 0.05, 0.05], [0.1, 0.1, 0.1, 0.1], [0.3, 0.0, 0.0, 0.0]]])
    assert region_ratio(attention, np.array([[1.0, 0, 0, 0]]))[0].tolist() == pytest.approx(
        [2, 1, 4]
    )
    # Half of a token counts by half of its area.
    half = region_ratio(attention, np.array([[0.5, 0, 0, 0]]))[0]
    assert half.tolist() == pytest.approx([2, 1, 4])
    assert spread(attention)[0].tolist() == pytest.approx([1.75 / 2, 1, 0])


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_how_much_attention_video_gets_in_all_plays_no_part(seed, times):
    attention, cover = drawn(seed)
    np.testing.assert_allclose(
        region_ratio(attention * times, cover), region_ratio(attention, cover)
    )
    np.testing.assert_allclose(spread(attention * times), spread(attention), atol=1e-9)


def test_blind_attention_has_ratio_one_whatever_the_region():
    _, cover = drawn(1)
    attention = np.where(np.isfinite(drawn(1)[0]), 0.3, np.nan)
    ratio = region_ratio(attention, cover)
    there = np.nansum(cover, 1) > 0
    assert np.allclose(ratio[there], 1) and np.isnan(ratio[~there]).all()


def test_a_frame_has_the_mean_over_clips_with_a_value_and_counts_the_others():
    attention, cover = drawn(4, clips=30)
    index = pd.DataFrame({"sample_id": [f"c{i}" for i in range(30)],
                          "subset": ["align", "conflict"] * 15}, index=range(70, 100))  # fmt: skip
    found = dispersion_frame(VideoAttention(index, attention, {"face": cover}), **FEW)
    assert len(found) == 2 * 2 * 3
    for row in found.itertuples():
        own = region_ratio(attention, cover) if row.quantity == "face" else spread(attention)
        values = own[np.arange(30) % 2 == (row.subset == "conflict"), row.layer - 1]
        known = values[np.isfinite(values)]
        assert row.value == pytest.approx(known.mean())
        assert (row.n, row.without) == (len(known), 15 - len(known))
        assert row.low <= row.value <= row.high


def test_without_any_region_a_frame_is_nan_and_says_so():
    attention, cover = drawn(4)
    index = pd.DataFrame({"sample_id": list("abcdef"), "subset": "conflict"})
    found = dispersion_frame(VideoAttention(index, attention, {"face": cover * np.nan}), **FEW)
    face = found[found["quantity"] == "face"]
    assert face[["value", "low", "high"]].isna().all(axis=None)
    assert (face["n"] == 0).all() and (face["without"] == 6).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, a, c: (i.iloc[1:], a, c), r"attention is \(5, layers, tokens\)"),
        (lambda i, a, c: (i, a[:, 0], c), "attention is"),
        (lambda i, a, c: (i, a, c[:, 1:]), "cover of face is"),
        (lambda i, a, c: (i, -a, c), "never negative"),
    ],
)
def test_other_shapes_and_negative_attention_are_refused(change, message):
    index = pd.DataFrame({"sample_id": list("abcdef")})
    index, attention, cover = change(index, *drawn(1))
    with pytest.raises(ValueError, match=message):
        VideoAttention(index, attention, {"face": cover})


# From clips


class Found:
    """Stands for what was found in videos: a face left above, a person on the left half."""

    def __init__(self, part):
        self.part = part

    def read(self, video):
        mask = np.zeros((4, SMALL.side, SMALL.side), bool)
        if video.name == "1.mp4" and self.part == "face":
            return PersonRegions(np.ones_like(mask), np.array(["none"] * 4))
        if video.name == "2.mp4" and self.part == "person":
            raise MediaError("no frames")
        mask[:, : SMALL.side // (1 + (self.part == "face")), : SMALL.side // 2] = True
        return PersonRegions(mask, np.array([self.part] * 4))


def test_attention_is_what_looking_into_each_prompt_shows(tmp_path, monkeypatch):
    rows = []
    for i in range(4):
        frames = np.random.default_rng(i).integers(0, 256, (4, SMALL.side, SMALL.side, 3), np.uint8)
        write_mp4(tmp_path / f"{i}.mp4", frames=frames, sound=tone(0.5))
        rows.append({"sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"word {i}",
                     "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4",
                     "subset": "conflict"})  # fmt: skip
    (tmp_path / "3.mp4").write_bytes(b"damaged")
    clips = pd.DataFrame(rows)
    monkeypatch.setattr(
        RegionStore, "find", lambda self, videos, **_: pd.DataFrame({"video": videos})
    )
    monkeypatch.setattr(
        RegionStore, "read", lambda self, video: Found(self.settings.part).read(video)
    )
    bench = Experiment(small_model(), clips, {"ch_sims_v2": tmp_path},
                       PredictionStore(tmp_path / "p.sqlite"), MEDIA, processes=1,
                       progress=False)  # fmt: skip
    seen = video_attention(bench, clips)
    assert seen.index["sample_id"].tolist() == ["c0", "c1", "c2"]
    for i in range(3):
        prompt = bench.inspect(clips.iloc[i], "TAV")
        whole, counts = prompt.unsteered, prompt.counts
        own = seen.attention[i]
        assert own.shape[1] == counts[2] == math.prod(prompt.grid)
        np.testing.assert_allclose(own.sum(-1), whole.mass[..., 2].mean(-1), atol=1e-5)
        for part in ("face", "person"):
            if (i, part) in ((1, "face"), (2, "person")):
                assert np.isnan(seen.cover[part][i]).all()
            else:
                mask = Found(part).read(tmp_path / "0.mp4").mask
                expected = token_cover(mask, prompt.grid).ravel()
                np.testing.assert_array_equal(seen.cover[part][i], expected)
    found = dispersion_frame(seen, **FEW).set_index(["quantity", "layer"])
    assert found.loc[("face", 1), ["n", "without"]].tolist() == [2, 1]
    with pytest.raises(ValueError, match="none of 1 clips could be asked under TAV"):
        video_attention(bench, clips.iloc[3:])
