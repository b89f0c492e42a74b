"""Finding people in real pictures and video, and the models that takes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage import data
from tiny_media import grey_frames, write_mp4

from emomm_study.media import models, region_store
from emomm_study.media.person import FaceDetector, PersonLocator
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import FILLS, KINDS, PersonSettings, settle, suppress, token_cover
from emomm_study.media.video import MediaError, VideoSettings, read_frames
from emomm_study.paths import ROOT

PORTRAIT = data.astronaut()
FACE, CHEST, SHUTTLE = (185, 70, 265, 180), (130, 270, 280, 400), (330, 10, 440, 200)
"""Boxes (left, top, right, bottom) in the portrait, by eye."""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mediapipe"


def fake_pip(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> list[list[str]]:
    """Replace pip by one that leaves a wheel with these members; returns its calls."""
    calls = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        calls.append(command)
        with zipfile.ZipFile(Path(command[-1]) / "mediapipe.whl", "w") as wheel:
            for member, data in contents.items():
                wheel.writestr(member, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return calls


def test_a_missing_model_names_the_command_that_brings_it(empty_cache: Path) -> None:
    with pytest.raises(models.ModelFileError, match="python -m emomm_study.media.models fetch"):
        models.model_path(models.FACE)


def test_a_changed_model_is_refused_and_brought_again(empty_cache: Path, monkeypatch) -> None:
    contents = {model.member: model.name.encode() for model in models.MODELS}
    pinned = [
        models.ModelFile(member, hashlib.sha256(data).hexdigest())
        for member, data in contents.items()
    ]
    monkeypatch.setattr(models, "MODELS", tuple(pinned))
    calls = fake_pip(monkeypatch, contents)
    paths = models.fetch_models()
    assert sorted(p.name for p in empty_cache.iterdir()) == sorted(p.name for p in paths)
    models.fetch_models()
    assert len(calls) == 1, "nothing is downloaded twice"
    paths[0].write_bytes(b"tampered")
    with pytest.raises(models.ModelFileError, match="sha256 .* expected .*"):
        models.model_path(pinned[0])
    assert models.fetch_models() == paths and len(calls) == 2


def test_a_wheel_with_other_models_leaves_nothing_behind(empty_cache: Path, monkeypatch) -> None:
    fake_pip(monkeypatch, {model.member: b"something else" for model in models.MODELS})
    with pytest.raises(models.ModelFileError, match="not the expected one.*sha256"):
        models.fetch_models()
    assert list(empty_cache.iterdir()) == []


def test_a_failed_download_shows_pips_words(empty_cache: Path, monkeypatch, capsys) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")
    monkeypatch.setattr(models.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="No matching distribution found"):
        models.main(["fetch"])


@pytest.fixture(scope="module")
def locator():
    models.fetch_models()
    with PersonLocator() as made:
        yield made


@pytest.fixture(scope="module")
def detector():
    models.fetch_models()
    with FaceDetector(min_confidence=0.7) as made:
        yield made


def framed(scale: float, *corners: tuple[int, int], behind: np.ndarray | None = None) -> np.ndarray:
    """The portrait, scaled, at each corner (left, top) of a 640 x 480 picture."""
    picture = Image.fromarray(data.coffee() if behind is None else behind).resize((640, 480))
    small = Image.fromarray(PORTRAIT).resize((int(512 * scale),) * 2)
    for corner in corners:
        picture.paste(small, corner)
    return np.array(picture)


def share(mask: np.ndarray, box: tuple[int, ...], scale: float = 1, corner=(0, 0)) -> float:
    """Share of a box of the portrait that is inside the region."""
    left, top, right, bottom = (int(scale * v + corner[i % 2]) for i, v in enumerate(box))
    return float(mask[max(0, top) : bottom, max(0, left) : right].mean())


def noise(frames: int = 1, height: int = 480, width: int = 640) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), np.uint8)


def test_no_face_is_found_in_noise(detector) -> None:
    found = detector.detect(noise(8, 224, 224))
    assert all(faces.boxes.shape == (0, 4) for faces in found)


def test_frames_of_another_shape_are_refused(detector, locator) -> None:
    for find in (detector.detect, locator.locate):
        with pytest.raises(ValueError, match=r"\(N, H, W, 3\)"):
            find(np.zeros((224, 224, 3), np.uint8))


def test_the_region_of_a_portrait_holds_the_woman_and_not_the_shuttle(locator) -> None:
    regions = locator.locate(PORTRAIT[None])
    assert regions.found.tolist() == ["person+face"]
    assert share(regions.mask[0], FACE) == 1 and share(regions.mask[0], CHEST) > 0.98
    assert share(regions.mask[0], SHUTTLE) < 0.02
    assert regions.coverage == regions.mask.mean() and 0.4 < regions.coverage < 0.7


@pytest.mark.parametrize("cut", [slice(150, 512), slice(0, 260)], ids=["left", "right"])
def test_a_person_at_the_edge_is_found_inside_the_frame(locator, cut: slice) -> None:
    regions = locator.locate(PORTRAIT[None, :, cut])
    assert regions.mask.shape == (1, 512, cut.stop - cut.start)
    assert share(regions.mask[0], FACE, corner=(-cut.start, 0)) == 1
    assert share(regions.mask[0], CHEST, corner=(-cut.start, 0)) > 0.98


@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_a_small_person_is_told_from_a_large_object(locator, scale: float) -> None:
    # By itself selfie segmentation marks the cup, several times as large, and not the woman.
    corner = (int(560 - 512 * scale), int(470 - 512 * scale))
    regions = locator.locate(framed(scale, corner)[None])
    assert regions.found.tolist() == ["person+face"]
    mask = regions.mask[0]
    assert share(mask, FACE, scale, corner) == 1 and share(mask, CHEST, scale, corner) > 0.95
    assert regions.coverage < 0.8 * 512**2 * scale**2 / (640 * 480)


@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_of_two_people_both_are_found(locator, scale: float) -> None:
    corners = [(20, 200), (int(20 + 512 * scale), 200)]
    mask = locator.locate(framed(scale, *corners)[None]).mask[0]
    for corner in corners:
        assert share(mask, FACE, scale, corner) == 1 and share(mask, CHEST, scale, corner) > 0.7
    assert share(mask, SHUTTLE, scale, corners[0]) < 0.05


def test_a_wide_picture_of_two_people_has_both_faces(locator) -> None:
    mask = locator.locate(np.concatenate([PORTRAIT, PORTRAIT], axis=1)[None]).mask[0]
    assert share(mask, FACE) == share(mask, FACE, corner=(512, 0)) == 1


def test_where_nobody_is_found_nothing_is_hidden_and_it_is_said(locator) -> None:
    regions = locator.locate(noise(3))
    assert regions.mask.all() and regions.counts() == {**dict.fromkeys(KINDS, 0), "none": 3}


def test_a_frame_without_a_person_keeps_the_last_region_and_at_the_start_the_next(locator) -> None:
    [gap] = noise(1, 512, 512)
    moved = np.roll(PORTRAIT, 100, axis=1)
    regions = locator.locate(np.stack([gap, PORTRAIT, gap, gap, moved]))
    assert regions.found.tolist() == ["kept", "person+face", "kept", "kept", "person+face"]
    for frame, source in ((0, 1), (2, 1), (3, 1)):
        assert np.array_equal(regions.mask[frame], regions.mask[source])
    assert not np.array_equal(regions.mask[3], regions.mask[4])


@pytest.fixture(scope="module")
def panned(tmp_path_factory) -> tuple[Path, list[tuple[int, int]]]:
    """A video in which the portrait moves from left to right, and where it is in each frame."""
    corners = [(-60 + 40 * i, 220) for i in range(12)]
    behind = data.rocket()
    frames = np.stack([framed(0.5, corner, behind=behind) for corner in corners])
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    return write_mp4(path, frames=frames, fps=4), corners


def test_a_person_who_moves_through_a_video_is_covered_in_every_frame(locator, panned) -> None:
    path, corners = panned
    regions = locator.locate(read_frames(path, VideoSettings(num_frames=12)))
    assert set(regions.found) <= {"person+face", "person"}
    for mask, corner in zip(regions.mask, corners, strict=True):
        assert share(mask, FACE, 0.5, corner) == 1 and share(mask, CHEST, 0.5, corner) > 0.95
        # Nothing stays where the person was or will be.
        away = 500 if corner[0] < 150 else 0
        assert mask[:, away : away + 100].mean() < 0.05


def closed_by_hand(mask: np.ndarray, gap: int) -> np.ndarray:
    """A pixel that is out is in where it was and will be, the two no more than gap apart."""
    result = mask.copy()
    for t, y, x in np.argwhere(~mask):
        on = np.flatnonzero(mask[:, y, x])
        before, after = on[on < t], on[on > t]
        if len(before) and len(after) and after[0] - before[-1] - 1 <= gap:
            result[t, y, x] = True
    return result


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 7), st.just(2), st.just(3))), st.integers(0, 4))
def test_gaps_up_to_the_longest_are_closed_and_nothing_is_lost(mask, gap) -> None:
    found = ["person"] * len(mask)
    regions = settle(mask, found, gap)
    assert np.array_equal(regions.mask, closed_by_hand(mask, gap))
    assert np.array_equal(settle(regions.mask, found, gap).mask, regions.mask)
    if gap == 0:
        assert np.array_equal(regions.mask, mask)


def test_a_detector_that_flickers_does_not_make_the_region_flicker() -> None:
    steady = np.ones((6, 4, 4), bool)
    flickering = steady.copy()
    flickering[[1, 3], :2] = False
    assert np.array_equal(settle(flickering, ["person"] * 6, 1).mask, steady)


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_outside_the_region_there_is_one_colour_and_inside_nothing_changes(fill) -> None:
    frames, mask = noise(2, 20, 30), np.zeros((2, 20, 30), bool)
    mask[:, 5:9, 3:20] = True
    masked = suppress(frames, mask, fill)
    assert np.array_equal(masked[mask], frames[mask]) and masked.dtype == np.uint8
    assert (masked[~mask] == FILLS[fill]).all()
    with pytest.raises(ValueError, match=r"\(2, 20, 30\)"):
        suppress(frames, mask[:, :10])
    with pytest.raises(ValueError, match="fill is one of"):
        suppress(frames, mask, "grey")


def test_a_suppressed_pixel_is_zero_after_the_processors_normalisation() -> None:
    config = json.loads((ROOT / "data/omni-mini/processor_config.json").read_text())
    mean, std = (np.array(config["video_processor"][f"image_{k}"]) for k in ("mean", "std"))
    assert np.abs((np.array(FILLS["mean"]) / 255 - mean) / std).max() < 0.01


def cover_by_hand(mask: np.ndarray, t: int, h: int, w: int) -> np.ndarray:
    """Every pixel is split into h x w parts, which then fall into one token each."""
    each = -(-len(mask) // t)
    cover = np.zeros((t, h, w))
    for step in range(t):
        shown = [min(step * each + k, len(mask) - 1) for k in range(each)]
        fine = mask[shown].any(axis=0).repeat(h, axis=0).repeat(w, axis=1)
        rows, columns = mask.shape[1], mask.shape[2]
        for y, x in np.ndindex(h, w):
            cell = fine[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
            cover[step, y, x] = cell.mean()
    return cover


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_cover_of_a_token_is_its_share_of_split_pixels(draws) -> None:
    sizes = [draws.draw(st.integers(1, 7)) for _ in range(3)]
    mask = draws.draw(arrays(bool, sizes))
    grid = [draws.draw(st.integers(1, most)) for most in (len(mask), 9, 9)]
    np.testing.assert_allclose(token_cover(mask, grid), cover_by_hand(mask, *grid), atol=1e-12)


def test_a_token_of_two_frames_has_the_person_of_either() -> None:
    mask = np.zeros((3, 4, 4), bool)
    mask[0, :2], mask[1, :, :2], mask[2, 3, 3] = True, True, True
    assert token_cover(mask, (2, 2, 2)).tolist() == [[[1, 1], [1, 0]], [[0, 0], [0, 0.25]]]
    assert (token_cover(np.ones((4, 9, 7), bool), (2, 4, 5)) == 1).all()
    for grid in ((4, 2, 2), (0, 2, 2), (2, 0, 2)):
        with pytest.raises(ValueError, match="at most one step a frame"):
            token_cover(mask, grid)


FRAMES = VideoSettings(num_frames=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, panned) -> list[Path]:
    """A woman who moves, one who stands, nobody, a damaged file, and one that is not there."""
    folder = tmp_path_factory.mktemp("片段 (1)")
    still = write_mp4(folder / "still.mp4", frames=np.stack([PORTRAIT] * 4))
    nobody = write_mp4(folder / "nobody.mp4", frames=grey_frames(4, 64))
    (folder / "junk.mp4").write_bytes(b"not a film" * 100)
    return [panned[0], still, nobody, folder / "junk.mp4", folder / "gone.mp4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory, clips) -> RegionStore:
    models.fetch_models()
    made = RegionStore(tmp_path_factory.mktemp("regions"), FRAMES)
    made.find(clips, processes=1, progress=False)
    return made


def test_what_is_read_back_is_what_was_found(store, clips, locator) -> None:
    for clip in clips[:3]:
        kept, found = store.read(clip), locator.locate(read_frames(clip, FRAMES))
        assert np.array_equal(kept.mask, found.mask) and kept.mask.dtype == bool
        assert kept.found.tolist() == found.found.tolist()


def test_a_row_a_clip_says_what_was_found_or_why_nothing(store, clips) -> None:
    table = store.find([*clips, clips[0]], processes=1, progress=False)
    assert table["video"].tolist() == [*clips, clips[0]]
    for i in range(3):
        regions = store.read(clips[i])
        assert table.loc[i, list(KINDS)].to_dict() == regions.counts()
        assert table.loc[i, "coverage"] == regions.coverage and table.loc[i, "frames"] == 3
    assert table.loc[2, "none"] == 3 and table.loc[2, "coverage"] == 1
    assert table["failure"].notna().tolist() == [False] * 3 + [True, True, False]
    assert "junk.mp4" in table.loc[3, "failure"] and "no such file" in table.loc[4, "failure"]
    assert table.loc[3:4, ["frames", *KINDS, "coverage"]].isna().all(axis=None)


def test_two_processes_find_the_same_and_leave_no_words(store, clips, tmp_path, capfd) -> None:
    other = RegionStore(tmp_path, FRAMES)
    table = other.find(clips, processes=2, progress=False)
    assert table.equals(store.find(clips, processes=2, progress=False))
    for clip in clips[:3]:
        assert np.array_equal(other.read(clip).mask, store.read(clip).mask)
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_known_is_not_looked_for_again(store, clips, monkeypatch) -> None:
    monkeypatch.setattr(region_store, "open_locator", None)
    monkeypatch.setattr(region_store, "ProcessPoolExecutor", None)
    assert len(store.find(clips, progress=False)) == len(clips)


def test_a_run_that_is_stopped_keeps_what_it_finished(clips, tmp_path, monkeypatch) -> None:
    work, seen = region_store.look, []

    def stopped(locator, video, video_settings):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(video)
        return work(locator, video, video_settings)

    monkeypatch.setattr(region_store, "look", stopped)
    store = RegionStore(tmp_path, FRAMES)
    with pytest.raises(KeyboardInterrupt):
        store.find(clips[:3], processes=1, progress=False)
    assert all(store.read(clip).mask.any() for clip in seen)
    monkeypatch.setattr(region_store, "look", lambda _, video, *__: seen.append(video) or "again")
    store.find(clips[:3], processes=1, progress=False)
    assert seen == clips[:3]


def test_regions_belong_to_a_file_and_to_settings(store, clips, tmp_path) -> None:
    for other in (
        RegionStore(store.path.parent, VideoSettings(num_frames=2)),
        RegionStore(store.path.parent, FRAMES, PersonSettings(longest_gap=0)),
    ):
        with pytest.raises(LookupError, match=r"still\.mp4.*RegionStore\.find"):
            other.read(clips[1])
    RegionStore(store.path.parent, VideoSettings(num_frames=3, threads=2)).read(clips[1])
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(clips[1].read_bytes())
    store.find([copy], processes=1, progress=False)
    store.read(copy)
    copy.write_bytes(clips[2].read_bytes())
    with pytest.raises(LookupError, match="changed since"):
        store.read(copy)


def test_faces_are_found_for_themselves_and_kept_beside_people(store, clips) -> None:
    faces = RegionStore(store.path.parent, FRAMES, PersonSettings(part="face"))
    with pytest.raises(LookupError, match=r"still\.mp4.*RegionStore\.find"):
        faces.read(clips[1])
    table = faces.find(clips[:3], processes=1, progress=False)
    assert table["face"].tolist() == table["frames"].tolist()[:2] + [0]
    assert table["none"].tolist() == [0, 0, table["frames"][2]]
    face, person = faces.read(clips[1]).mask, store.read(clips[1]).mask
    assert share(face[0], FACE) == 1 and share(face[0], CHEST) == share(face[0], SHUTTLE) == 0
    # The person's region holds the face's.
    assert 0 < face.mean() < 0.4 * person.mean() and not (face & ~person).any()


def test_what_was_found_of_people_is_found_again_since_there_are_faces(store) -> None:
    assert set(PersonSettings().settings()) == {
        "face_confidence", "face_margin", "person_threshold", "person_window", "least_share",
        "longest_gap",
    }  # fmt: skip
    assert PersonSettings(part="face").settings()["part"] == "face"


def test_a_clip_without_regions_says_why(store, clips) -> None:
    with pytest.raises(MediaError, match=r"junk\.mp4.*decoded"):
        store.read(clips[3])
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        store.read(clips[4])


def test_a_region_takes_few_bytes(store, clips) -> None:
    with sqlite3.connect(store.path) as db:
        rows = db.execute("SELECT frames * height * width, length(mask) FROM regions WHERE mask")
        assert all(size < pixels / 8 / 20 for pixels, size in rows)


def test_without_the_models_nothing_is_tried(empty_cache, clips, tmp_path) -> None:
    with pytest.raises(models.ModelFileError, match="media.models fetch"):
        RegionStore(tmp_path, FRAMES).find(clips, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"face_confidence": 1.1},
        {"face_margin": -0.1},
        {"person_threshold": 1.0},
        {"person_window": 1.0},
        {"least_share": 1.0},
        {"longest_gap": -1},
        {"part": "hand"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PersonSettings(**wrong)
