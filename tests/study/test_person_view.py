"""A model that is shown the person only: pixels blotted out, tokens dropped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crash import MEDIA, SMALL, small_model
from hypothesis import given, settings, strategies as st
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.labels import COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings, PersonOnly, Reader
from emomm_study.evaluate.inspection import Inspection
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import PersonRegions, PersonSettings, suppress
from emomm_study.media.video import Frames, MediaError
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.passes import Tokens
from tests.backbones import make_vita

SIDE = SMALL.side
SEEING = [c for c in COALITIONS if "V" in c]


@pytest.fixture(scope="module", params=["omni", "vita"])
def model(request):
    return small_model() if request.param == "omni" else make_vita()


def clip(seed: int, region: np.ndarray | None = None, least: float = 0.5) -> Media:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (4, SIDE, SIDE, 3), dtype=np.uint8)
    return Media(Frames(frames, 2.0), rng.normal(0, 0.1, 16000).astype("f4"), region, least)


def left_half() -> np.ndarray:
    region = np.zeros((4, SIDE, SIDE), bool)
    region[..., : SIDE // 2] = True
    return region


def test_dropped_tokens_leave_what_masking_them_in_the_whole_prompt_leaves(model):
    """Equal to the whole prompt with the same tokens hidden from every query."""
    encoded = model.encode([clip(0, left_half()), clip(1), clip(2, left_half())])
    whole = model.encode([clip(0), clip(1), clip(2)])
    texts = ["one", "two of them", "three"]
    for coalition in SEEING:
        pruned = [Query(e, coalition, "ch_sims_v2", t) for e, t in zip(encoded, texts, strict=True)]
        full = [Query(e, coalition, "ch_sims_v2", t) for e, t in zip(whole, texts, strict=True)]
        found = model.answer(pruned)
        prompt = model.prepare(full)
        mask = prompt.attention_mask.clone()
        for row, e in enumerate(encoded):
            if e.kept is not None:
                video = (prompt.modality_ids[row] == 2).nonzero()[:, 0]
                assert len(video) == len(e.kept) and 0 < e.kept.sum() < len(e.kept)
                mask[row, video[~e.kept]] = 0
        with torch.no_grad():
            hidden = model.decoder(
                inputs_embeds=prompt.inputs_embeds,
                attention_mask=mask,
                position_ids=prompt.position_ids,
            ).last_hidden_state[:, -1]
        expected = model.letter_logits(hidden).numpy()
        np.testing.assert_allclose(found.letter_logits, expected, atol=1e-5)


def test_pruning_counts_only_the_tokens_that_are_left(model):
    [encoded] = model.encode([clip(0, left_half())])
    answer = model.answer([Query(encoded, "TAV", "cmu_mosi", "a day")], trace=True)
    assert answer.counts[0, 2] == len(encoded.video) == int(encoded.kept.sum())


def test_a_region_of_the_whole_frame_changes_nothing(model):
    region = np.ones((4, SIDE, SIDE), bool)
    # In batches of their own: some processors' last bits depend on a row's place in its batch.
    with_region, without = (
        model.answer([Query(e, c, "cmu_mosi", "a day") for c in SEEING]).letter_logits
        for [e] in (model.encode([one]) for one in (clip(0, region), clip(0)))
    )
    np.testing.assert_array_equal(with_region, without)


def test_a_region_smaller_than_any_token_keeps_the_token_with_most_of_it(model):
    region = np.zeros((4, SIDE, SIDE), bool)
    region[0, 1:3, -4:] = True
    [encoded] = model.encode([clip(0, region, 0.9)])
    t, h, w = model.video_grid(encoded.grid)
    assert encoded.kept.view(t, h, w).nonzero().tolist() == [[0, 0, w - 1]]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_only_the_chosen_tokens_stay_in_their_order_and_with_their_positions(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    padding = [data.draw(st.integers(0, width - 1)) for _ in range(rows)]
    mask = torch.tensor([[0] * p + [1] * (width - p) for p in padding])
    ids = torch.arange(1, rows * width + 1).view(rows, width)
    keep = mask.bool() & torch.tensor(
        [[data.draw(st.booleans()) for _ in range(width)] for _ in range(rows)]
    )
    keep[:, -1] = True
    got = Tokens(ids, mask, ids % 4 - 1, torch.stack([ids, ids + 1, ids + 2])).only(keep)
    assert got.ids.shape[1] == int(keep.sum(1).max())
    for row in range(rows):
        wanted = ids[row, keep[row]]
        inside = got.mask[row] > 0
        assert got.ids[row, inside].equal(wanted)
        assert got.marks[row, inside].equal(wanted % 4 - 1)
        assert got.positions[:, row, inside].equal(torch.stack([wanted, wanted + 1, wanted + 2]))
        # Padding is on the left only, and belongs to no modality.
        assert not bool((inside[:-1] & ~inside[1:]).any())
        assert bool((got.marks[row, ~inside] == -1).all())


def test_a_pruned_clip_shows_nothing_where_its_tokens_were_dropped(model):
    [encoded] = model.encode([clip(0, left_half())])
    seen = Inspection(model, Query(encoded, "TAV", "cmu_mosi", "a day"))
    shown = seen.on_video(seen.unsteered.rows)
    assert shown.shape[-3:] == seen.grid
    np.testing.assert_array_equal(np.isnan(shown[0, 0]).ravel(), ~encoded.kept.numpy())


# Where files are read


class Regions:
    """Stands in for a store: the left half of every clip."""

    fingerprint = "left"

    def read(self, video):
        if video.name == "1.mp4":
            raise MediaError(f"{video}: no frames")
        return PersonRegions(np.repeat(left_half()[:1], 2, 0), np.array(["person"] * 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for i in range(3):
        write_mp4(folder / f"{i}.mp4", frames=grey_frames(4, SIDE), sound=tone(0.5))
        rows.append({"sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"word {i}",
                     "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4"})  # fmt: skip
    return folder, pd.DataFrame(rows)


def ask(model, folder, store, media, regions=None):
    bench = Experiment(model, folder[1], {"ch_sims_v2": folder[0]}, store, media, processes=1,
                       progress=False, region_store=regions)  # fmt: skip
    return bench.predictions(folder[1], ("TAV", "TA", "V"))


@pytest.mark.parametrize("view", [{"pixels": True}, {"pixels": False, "tokens": 0.5}])
def test_a_view_has_answers_of_its_own_and_a_clip_without_region_fails_in_it(
    model, folder, tmp_path, view
):
    store = PredictionStore(tmp_path / "p.sqlite")
    media = MediaSettings(MEDIA.video, MEDIA.audio, PersonOnly("left", **view))
    plain = ask(model, folder, store, MEDIA)
    seen = ask(model, folder, store, media, Regions())
    assert run_fingerprint(model, media)[0] != run_fingerprint(model, MEDIA)[0]
    failed = seen[seen["failure"].notna()]
    assert failed[["sample_id", "coalition"]].to_numpy().tolist() == [["c1", "TAV"], ["c1", "V"]]
    both = plain.merge(seen[seen["failure"].isna()], on=["sample_id", "coalition"])
    changed = (both["logit_a_x"] - both["logit_a_y"]).abs() > 1e-6
    assert (changed == both["coalition"].isin(["TAV", "V"])).all()


def test_pixels_outside_of_the_region_do_not_reach_the_model(model, folder):
    from emomm_study.evaluate.plan import make_plan

    media = MediaSettings(MEDIA.video, MEDIA.audio, PersonOnly("left"))
    plan = make_plan(folder[1], {"ch_sims_v2": folder[0]}, ("V",), set(), 1)
    [item] = [i for batch in plan.batches for i in batch if i.sample_id == "c0"]
    read = Reader(media, model.device, regions=Regions())(item)
    plain = Reader(MEDIA, model.device)(item)
    expected = suppress(plain.media.frames.frames, Regions().read(item.video).mask)
    np.testing.assert_array_equal(read.media.frames.frames, expected)
    assert not np.array_equal(read.media.frames.frames, plain.media.frames.frames)


def test_a_view_without_its_store_of_regions_is_refused(model, folder, tmp_path):
    media = MediaSettings(MEDIA.video, MEDIA.audio, PersonOnly("left"))
    other = RegionStore(tmp_path, MEDIA.video, PersonSettings())
    for regions in (None, other):
        with pytest.raises(ValueError, match="store of regions"):
            ask(model, folder, PredictionStore(tmp_path / "p.sqlite"), media, regions)


def test_settings_without_a_person_have_the_fingerprint_they_had_before_there_was_one():
    assert set(MEDIA.settings()) == {"video", "audio"}
