"""Reading frames and sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import grey_frames, tone, write_mp4
from hypothesis import given, settings
from hypothesis import strategies as st

from emomm_lib.media.audio import AudioSettings, read_audio
from emomm_lib.media.video import MediaError, VideoSettings, read_frames, read_video


@settings(max_examples=100)
@given(total=st.integers(1, 3000), count=st.integers(1, 64))
def test_indices_are_the_middles_of_equal_spans(total: int, count: int) -> None:
    indices = frame_indices(total, 25.0, VideoSettings(num_frames=count))
    middles = (np.arange(count) + 0.5) * total / count
    assert np.array_equal(indices, np.floor(middles + 1e-9))
    assert indices[0] >= 0 and indices[-1] < total


@settings(max_examples=100)
@given(total=st.integers(1, 3000), fps=st.floats(0.1, 60), native=st.floats(5, 60))
def test_a_rate_never_repeats_a_frame_or_exceeds_its_limit(total, fps, native) -> None:
    setting = VideoSettings(num_frames=None, fps=fps, max_frames=50)
    indices = frame_indices(total, native, setting)
    assert len(np.unique(indices)) == len(indices) <= 50
    assert len(indices) == max(1, min(50, total, round(total / native * fps)))


def test_frames_come_from_the_moments_they_are_asked_for(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "clip.mp4", frames=grey_frames(16), fps=8, sound=tone(2))
    clip = read_video(path, VideoSettings(num_frames=4))
    assert clip.frames.shape == (4, 32, 32, 3) and clip.frames.dtype == np.uint8
    expected = np.array([2, 6, 10, 14]) * 255 // 16
    assert np.abs(clip.frames.mean(axis=(1, 2, 3)) - expected).max() < 4
    assert clip.fps == pytest.approx(2.0)
    assert len(read_frames(path, VideoSettings(num_frames=None, fps=4))) == 8
    assert len(read_frames(path, VideoSettings(num_frames=20))) == 20


def test_reading_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    path = write_mp4(tmp_path / "clip.mp4", frames=noise, sound=tone(1.5))
    assert np.array_equal(read_frames(path), read_frames(path, VideoSettings(threads=2)))
    assert np.array_equal(read_audio(path), read_audio(path))


@pytest.mark.parametrize("kind", ["zero", "junk", "cut", "blind"])
def test_a_damaged_video_names_its_file_and_the_way_out(put, tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "片段 (1).mp4", kind)
    with pytest.raises(MediaError, match=r"片段 \(1\)\.mp4.*again"):
        read_frames(path)


@pytest.mark.parametrize("kind", ["zero", "junk", "cut", "silent"])
def test_a_damaged_sound_track_names_its_file(put, tmp_path: Path, kind: str) -> None:
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        read_audio(put(tmp_path / "clip.mp4", kind))


@pytest.mark.parametrize("kind", ["zero", "junk", "empty"])
def test_a_damaged_wav_names_its_file(put, tmp_path: Path, kind: str) -> None:
    with pytest.raises(MediaError, match=r"clip\.wav"):
        read_audio(put(tmp_path / "clip.wav", kind))


@pytest.mark.parametrize("read", [read_frames, read_audio])
def test_a_missing_clip_names_its_path(tmp_path: Path, read) -> None:
    with pytest.raises(MediaError, match="gone.mp4: no such file"):
        read(tmp_path / "gone.mp4")


def test_a_non_finite_wav_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.full(1600, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not numbers"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp4_and_a_wav_of_one_sound_agree(tmp_path: Path, rate: int) -> None:
    # A chirp, because a shift of a stationary tone by whole periods would go unseen.
    seconds = np.arange(rate) / rate
    sound = (0.5 * np.sin(2 * np.pi * (200 + 600 * seconds) * seconds)).astype("f4")
    soundfile.write(tmp_path / "clip.wav", sound, rate, subtype="FLOAT")
    write_mp4(tmp_path / "clip.mp4", frames=grey_frames(), sound=sound, rate=rate)
    wav, track = read_audio(tmp_path / "clip.wav"), read_audio(tmp_path / "clip.mp4")
    assert wav.dtype == track.dtype == np.float32 and wav.ndim == track.ndim == 1
    assert len(wav) == 16_000 and abs(len(track) - 16_000) <= 1024
    middle = slice(1600, 14_400)
    assert np.corrcoef(wav[middle], track[middle])[0, 1] > 0.99


def test_stereo_is_averaged_and_length_is_limited(tmp_path: Path) -> None:
    both = np.stack([tone(1), np.zeros(16_000, "f4")], axis=1)
    soundfile.write(tmp_path / "x.wav", both, 16_000, subtype="FLOAT")
    sound = read_audio(tmp_path / "x.wav", AudioSettings(max_seconds=0.5))
    np.testing.assert_allclose(sound, tone(1)[:8000] / 2, atol=1e-6)
    write_mp4(tmp_path / "x.mp4", sound=both.T)
    track = read_audio(tmp_path / "x.mp4", AudioSettings(sampling_rate=8000))
    assert abs(len(track) - 8000) <= 512 and 0.1 < np.abs(track).max() < 0.35


@pytest.mark.parametrize(
    "make",
    [
        lambda: VideoSettings(num_frames=8, fps=1.0),
        lambda: VideoSettings(num_frames=None),
        lambda: VideoSettings(num_frames=0),
        lambda: AudioSettings(sampling_rate=0),
        lambda: AudioSettings(max_seconds=0),
    ],
)
def test_contradictory_settings_are_refused(make) -> None:
    with pytest.raises(ValueError, match="got"):
        make()


def test_a_sound_too_short_to_hear_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(200), 16_000)
    with pytest.raises(MediaError, match="too short to hear"):
        read_audio(tmp_path / "x.wav")
