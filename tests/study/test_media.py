"""Reading frames and sound."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.corpora.checks import probe_audio, probe_video
from emomm_study.media import playback
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import (
    Frames,
    MediaError,
    Timeline,
    VideoSettings,
    read_frames,
    read_video,
)
from emomm_study.mini.surrogate import render

SETTINGS = st.one_of(
    st.integers(1, 64).map(lambda n: VideoSettings(num_frames=n)),
    st.floats(0.1, 60).map(lambda f: VideoSettings(num_frames=None, fps=f, max_frames=50)),
)


LEVELS = range(0, 240, 6)
"""Grey levels of forty frames that survive compression: each tells which frame it is."""


def film(
    path: Path,
    levels: Sequence[int] = LEVELS,
    *,
    times: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 10),
    size: tuple[int, int] = (64, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: list[int] | None = None,
    kind: str | None = None,
    **options: str,
) -> Path:
    """A film of grey frames that begin at ``times`` in ticks, by default one a tick."""
    if codec == "libx264":
        options = {"g": "12", "crf": "4", **options}
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=1 / tick, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = stream.time_base = tick
        if matrix:
            stream.set_display_matrix(matrix)
        for i, level in enumerate(levels):
            grey = np.full((size[1], size[0], 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = i if times is None else times[i], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(clip: Frames | np.ndarray) -> list[int]:
    """Which of :data:`LEVELS` the frames of a clip are."""
    frames = clip.frames if isinstance(clip, Frames) else clip
    return [round(float(frame.mean()) / 6) for frame in frames]


def cut(source: Path, target: Path, first: int, kind: str = "video") -> Path:
    """A stream copy that plays from a frame on, and holds all from the key frame before it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = next(s for s in old.streams if s.type == kind)
        copied = new.add_stream_from_template(stream)
        packets = [p for p in old.demux(stream) if p.dts is not None]
        start = sorted(p.pts for p in packets)[first]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= start]
        # An audio frame sounds only after the one before it, so one more is taken along.
        for packet in packets[keys[-1] if kind == "video" else max(0, keys[-1] - 2) :]:
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = copied
            new.mux(packet)
    return target


def edited(path: Path, edits: Sequence[tuple[float, float]], tick: int) -> Path:
    """The first track of an mp4 with another edit list, of seconds and where each begins in it.

    A beginning of -1 is an empty edit; ``tick`` is the number of the track's ticks in a second.
    """
    data = path.read_bytes()
    entries = [(round(s * 1000), -1 if at < 0 else round(at * tick)) for s, at in edits]
    body = b"".join(struct.pack(">IiI", length, at, 1 << 16) for length, at in entries)
    at = data.index(b"elst") - 4
    (size,) = struct.unpack(">I", data[at : at + 4])
    box = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(entries)) + body
    data = data[:at] + box + data[at + size :]
    for name in (b"edts", b"trak", b"moov"):
        parent = data.rindex(name, 0, at) - 4
        (old,) = struct.unpack(">I", data[parent : parent + 4])
        data = data[:parent] + struct.pack(">I", old + len(box) - size) + data[parent + 4 :]
    path.write_bytes(data)
    return path


@settings(max_examples=100)
@given(total=st.integers(1, 3000), step=st.integers(1, 9000), setting=SETTINGS)
def test_at_one_rate_middles_in_time_are_middles_by_count(total, step, setting) -> None:
    timeline = Timeline(range(0, total * step, step), total * step, Fraction(1, 25 * step))
    indices, fps = timeline.sample(setting)
    count = setting.num_frames
    if count is None:
        count = max(1, min(50, total, round(total / 25 * setting.fps)))
    middles = (np.arange(count) + 0.5) * total / count
    assert np.array_equal(indices, np.floor(middles + 1e-9))
    assert fps == count * 25 / total
    assert setting.fps is None or len(set(indices)) == len(indices)


@settings(max_examples=100)
@given(gaps=st.lists(st.integers(1, 500), min_size=1, max_size=60), setting=SETTINGS)
def test_at_any_rate_a_frame_is_the_one_shown_at_its_moment(gaps, setting) -> None:
    starts = [7 + sum(gaps[:i]) for i in range(len(gaps))]
    indices, fps = Timeline(starts, starts[0] + sum(gaps), Fraction(1, 100)).sample(setting)
    ends = [*starts[1:], starts[0] + sum(gaps)]
    for k, i in enumerate(indices):
        moment = starts[0] + Fraction(2 * k + 1, 2 * len(indices)) * sum(gaps)
        assert starts[i] <= moment < ends[i]
    assert fps == pytest.approx(len(indices) / sum(gaps) * 100)


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


# Films as players show them


@pytest.mark.parametrize("count", [1, 17, 31])
def test_frames_of_a_surrogate_are_those_that_decord_counts(tmp_path: Path, count: int) -> None:
    noise = np.random.default_rng(count).integers(0, 256, (count, 28, 28, 3), np.uint8)
    path = tmp_path / "clip.mp4"
    render.write_mp4(path, noise.repeat(8, 1).repeat(8, 2), tone(count / 10))
    reader = decord.VideoReader(str(path))
    for setting in (VideoSettings(), VideoSettings(num_frames=None, fps=3.0)):
        clip = read_video(path, setting)
        n = len(clip.frames)
        indices = (2 * np.arange(n) + 1) * count // (2 * n)
        assert np.array_equal(clip.frames, reader.get_batch(indices).asnumpy())
        assert clip.fps == n * 10.0 / count


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("first", [0, 5, 12, 17, 23, 30, 39])
def test_a_cut_between_key_frames_shows_what_its_edit_list_leaves(tmp_path, first, bframes) -> None:
    source = film(tmp_path / "film.mp4", bf=bframes)
    path = cut(source, tmp_path / "cut.mp4", first)
    assert probe_video(path, needs_audio=False) == []
    left = 40 - first
    clip = read_video(path, VideoSettings(num_frames=4))
    assert shown(clip) == [first + (2 * k + 1) * left // 8 for k in range(4)]
    assert clip.fps == pytest.approx(40 / left)
    every = read_video(path, VideoSettings(num_frames=None, fps=10.0))
    assert shown(every) == list(range(first, 40)) and every.fps == pytest.approx(10)


def test_a_remuxed_cut_shows_a_rater_what_the_model_sees(tmp_path: Path) -> None:
    path = cut(film(tmp_path / "film.mp4", bf="2"), tmp_path / "cut.mp4", 17)
    (tmp_path / "rater.mp4").write_bytes(playback.film(path, with_sound=False))
    seen = read_video(tmp_path / "rater.mp4")
    assert shown(seen) == shown(read_video(path)) and seen.fps == read_video(path).fps


def test_any_film_that_is_read_is_shown_to_a_rater_and_one_without_pictures_is_refused(
    tmp_path,
) -> None:
    path = film(tmp_path / "film.mp4", codec="libsvtav1")
    (tmp_path / "rater.mp4").write_bytes(playback.film(path, with_sound=False))
    assert np.array_equal(read_frames(tmp_path / "rater.mp4"), read_frames(path))
    sound = write_mp4(tmp_path / "sound.mp4", sound=tone())
    with pytest.raises(MediaError, match=r"sound\.mp4: no video stream"):
        playback.film(sound, with_sound=False)


def test_edits_that_wait_skip_and_repeat_are_followed(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", bf="0")
    edited(path, [(0.5, -1), (1.2, 2.4), (0.6, 0.0)], 10240)
    clip = read_video(path, VideoSettings(num_frames=None, fps=10.0))
    assert shown(clip) == [*range(24, 36), *range(6)] and clip.fps == pytest.approx(10)


def test_a_film_whose_edit_list_hides_all_of_it_is_refused_by_loader_and_reader(tmp_path) -> None:
    path = edited(film(tmp_path / "film.mp4"), [(1.0, 99.0)], 10240)
    with pytest.raises(MediaError, match=r"film\.mp4: .*(hides|no picture)"):
        read_video(path)
    [(problem, _)] = probe_video(path, needs_audio=False)
    assert "hides" in problem or "empty" in problem


def test_a_film_of_two_rates_is_sampled_in_time(tmp_path: Path) -> None:
    """Two seconds at thirty frames a second, then four at ten; the last lasts a thirtieth."""
    times = [*range(60), *range(60, 180, 3)]
    levels = [i * 2 for i in range(100)]
    path = film(tmp_path / "film.mp4", levels, times=times, tick=Fraction(1, 30))
    clip = read_video(path)
    starts = np.array(times) / 30
    seconds = 178 / 30
    expected = [np.searchsorted(starts, (k + 0.5) * seconds / 8, "right") - 1 for k in range(8)]
    assert np.abs(clip.frames.mean(axis=(1, 2, 3)) / 2 - expected).max() < 1
    assert clip.fps == pytest.approx(8 / seconds)
    assert len(read_frames(path, VideoSettings(num_frames=None, fps=2.0))) == 12


@pytest.mark.parametrize(
    ("times", "expected", "seconds"),
    [
        ([0, 1, 2, 12, 13, 14], [1, 2, 2, 4], 1.5),
        ([5, 6, 7, 8], [0, 1, 2, 3], 0.4),
        ([-3, -2, -1, 0], [3, 3, 3, 3], 0.1),
        ([0, 7, 8, 9], [0, 0, 0, 2], 1.0),
    ],
    ids=["gap", "late", "hidden", "held"],
)
def test_a_picture_lasts_until_the_next_one(tmp_path, times, expected, seconds) -> None:
    levels = [40 * i for i in range(len(times))]
    clip = read_video(film(tmp_path / "x.mp4", levels, times=times), VideoSettings(num_frames=4))
    assert [round(float(f.mean()) / 40) for f in clip.frames] == expected
    assert clip.fps == pytest.approx(4 / seconds)


def test_a_last_frame_that_is_held_is_held(tmp_path: Path) -> None:
    source, path = film(tmp_path / "y.mp4", [0, 60, 120, 180], bf="0"), tmp_path / "x.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        copied = new.add_stream_from_template(old.streams.video[0])
        packets = [p for p in old.demux(video=0) if p.dts is not None]
        packets[-1].duration = 20 * packets[0].duration
        for packet in packets:
            packet.stream = copied
            new.mux(packet)
    clip = read_video(path, VideoSettings(num_frames=4))
    assert [round(float(f.mean()) / 60) for f in clip.frames] == [2, 3, 3, 3]
    assert clip.fps == pytest.approx(4 / 2.3)


@pytest.mark.parametrize(
    ("codec", "size", "pixels"),
    [
        ("libx264", (72, 72), "yuv420p"),
        ("libx264", (16, 16), "yuv420p"),
        ("libx264", (98, 34), "yuv420p"),
        ("libx264", (64, 64), "yuv420p10le"),
        ("libx264", (65, 63), "yuv444p"),
        ("libx265", (72, 72), "yuv420p"),
        ("libsvtav1", (128, 96), "yuv420p"),
        ("libvpx-vp9", (72, 72), "yuv420p"),
        ("mpeg4", (72, 72), "yuv420p"),
        ("mjpeg", (72, 72), "yuvj420p"),
    ],
)
def test_films_that_decord_cannot_read_are_read(tmp_path, codec, size, pixels) -> None:
    path = film(tmp_path / "x.mp4", range(0, 240, 24), codec=codec, size=size, pixels=pixels)
    assert probe_video(path, needs_audio=False) == []
    clip = read_video(path, VideoSettings(num_frames=5))
    assert clip.frames.shape == (5, size[1], size[0], 3)
    assert np.abs(clip.frames.mean(axis=(1, 2, 3)) - [24, 72, 120, 168, 216]).max() < 12


def quarters(path: Path, size: int, matrix: list[int] | None) -> Path:
    """A film of four grey quarters: 0 and 80 above, 160 and 240 below."""
    picture = np.array([[0, 80], [160, 240]], np.uint8).repeat(size, 0).repeat(size // 2, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *picture.shape, "yuv420p"
        if matrix:
            stream.set_display_matrix(matrix)
        for _ in range(10):
            frame = np.repeat(picture[..., None], 3, 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


ONE = 1 << 16
MATRICES = {
    "upright": (None, [[0, 80], [160, 240]]),
    "clockwise": ([0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30], [[160, 0], [240, 80]]),
    "upside down": ([-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30], [[240, 160], [80, 0]]),
    "counterclockwise": ([0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30], [[80, 240], [0, 160]]),
    "mirrored": ([-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], [[80, 0], [240, 160]]),
    "transposed": ([0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30], [[0, 160], [80, 240]]),
}


@pytest.mark.parametrize("size", [32, 200])
@pytest.mark.parametrize("name", MATRICES)
def test_a_turned_film_is_seen_as_a_player_turns_it(tmp_path, name, size) -> None:
    matrix, expected = MATRICES[name]
    frames = read_frames(quarters(tmp_path / "x.mp4", size, matrix))
    _, height, width, _ = frames.shape
    upright = matrix is None or matrix[0] != 0
    assert (height, width) == ((2 * size, size) if upright else (size, 2 * size))
    places = [[frames[0, y, x].mean() for x in (width // 4, width * 3 // 4)]
              for y in (height // 4, height * 3 // 4)]  # fmt: skip
    assert np.abs(np.array(places) - expected).max() < 8


@pytest.mark.parametrize("name", ["clockwise", "upside down", "counterclockwise"])
def test_quarter_turns_agree_with_decords(tmp_path: Path, name: str) -> None:
    path = quarters(tmp_path / "x.mp4", 200, MATRICES[name][0])
    assert np.array_equal(read_frames(path)[0], decord.VideoReader(str(path))[0].asnumpy())


def test_pixels_that_are_not_square_stay_as_stored(tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", range(0, 200, 20), **{"x264-params": "sar=2/1"})
    assert read_frames(path).shape == (8, 64, 64, 3)


def test_a_film_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path: Path) -> None:
    first = film(tmp_path / "a.ts", [30] * 10, kind="mpegts")
    second = film(tmp_path / "b.ts", [200] * 10, size=(128, 96), kind="mpegts")
    path = tmp_path / "x.mp4"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_frames(path).shape == (8, 64, 64, 3)


def test_a_film_in_fragments_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(film(tmp_path / "film.mp4"))) as old, av.open(
        str(path), "w", options=options
    ) as new:  # fmt: skip
        copied = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                new.mux(packet)
    assert probe_video(path, needs_audio=False) == []
    assert shown(read_video(path, VideoSettings(num_frames=4))) == [5, 15, 25, 35]


def test_a_cover_picture_is_not_the_film(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4")
    with av.open(str(source)) as old, av.open(str(tmp_path / "x.mp4"), "w") as new:
        cover = new.add_stream("mjpeg", rate=10)
        cover.width = cover.height = 96
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        copied = new.add_stream_from_template(old.streams.video[0])
        white = np.full((96, 96, 3), 255, np.uint8)
        new.mux(cover.encode(av.VideoFrame.from_ndarray(white, format="rgb24")))
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                new.mux(packet)
    assert shown(read_video(tmp_path / "x.mp4", VideoSettings(num_frames=4))) == [5, 15, 25, 35]


@pytest.mark.parametrize("code", [b"xvc1", b"encv", b"evc1"])
def test_a_codec_that_cannot_be_decoded_is_named_as_the_reason(tmp_path, code) -> None:
    path = film(tmp_path / "x.mp4")
    data = path.read_bytes()
    at = data.rindex(b"avc1")
    path.write_bytes(data[:at] + code + data[at + 4 :])
    [(problem, advice)] = probe_video(path, needs_audio=False)
    assert "codec" in problem and "convert" in advice
    with pytest.raises(MediaError, match=r"x\.mp4: .*codec.*convert") as caught:
        read_video(path)
    assert "again" not in str(caught.value)


def test_a_sound_track_that_cannot_be_decoded_is_named_as_the_reason(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "x.mp4", frames=grey_frames(), sound=tone())
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"xxxx").replace(b"esds", b"xxxx"))
    assert probe_video(path, needs_audio=False) == []
    [(problem, _)] = probe_video(path, needs_audio=True)
    assert "audio is in a codec" in problem
    with pytest.raises(MediaError, match="audio is in a codec"):
        read_audio(path)
    assert len(read_frames(path)) == 8


def test_tags_in_another_encoding_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "dianying"
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in grey_frames(8, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"dianying", "电影".encode("gbk") + b"\xff" * 4))
    assert probe_video(path, needs_audio=False) == []
    assert len(read_frames(path)) == 8 and not playback.has_sound(path)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "\udcd6\udcd0"
    folder.mkdir()
    (folder / "x.mp4").write_bytes(film(tmp_path / "x.mp4").read_bytes())
    soundfile.write(tmp_path / "x.wav", tone(), 16_000)
    (folder / "x.wav").write_bytes((tmp_path / "x.wav").read_bytes())
    assert len(read_frames(folder / "x.mp4")) == 8 and len(read_audio(folder / "x.wav")) == 16_000
    assert probe_video(folder / "x.mp4", needs_audio=False) == []
    assert probe_audio(folder / "x.wav") == []


@pytest.mark.parametrize(
    "error",
    [ValueError("axis"), IndexError("9"), OSError(5, "I/O error"), TypeError(), KeyError(1)],
)
def test_whatever_a_library_raises_about_a_clip_names_the_clip(
    tmp_path, monkeypatch, error
) -> None:
    path = write_mp4(tmp_path / "x.mp4", frames=grey_frames(8, 64), sound=tone())

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("emomm_study.media.video.decord.VideoReader", fail)
    monkeypatch.setattr("emomm_study.media.audio.av.AudioResampler", fail)
    for read in (read_video, read_audio):
        with pytest.raises(MediaError, match=r"x\.mp4: its .*again"):
            read(path)
    error = MemoryError()
    for read in (read_video, read_audio):
        with pytest.raises(MemoryError):
            read(path)


def test_a_resampler_that_does_not_work_is_not_called_the_clips_damage(
    tmp_path, monkeypatch
) -> None:
    path = write_mp4(tmp_path / "x.mp4", frames=grey_frames(8, 64), sound=tone())

    def fail(*_args, **_kwargs):
        raise RuntimeError("cannot cache function")

    monkeypatch.setattr("emomm_study.media.audio.librosa.resample", fail)
    with pytest.raises(RuntimeError, match="cannot cache function"):
        read_audio(path)


# Sound


def adts(path: Path, sound: np.ndarray, rate: int) -> bytes:
    """AAC as a bare stream, whose parts may follow each other in one file."""
    with av.open(str(path), "w", format="adts") as container:
        layout = "mono" if sound.ndim == 1 else "stereo"
        stream = container.add_stream("aac", rate=rate, layout=layout)
        samples = np.ascontiguousarray(np.atleast_2d(sound))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("channels", "rate"), [(2, 16_000), (1, 32_000), (2, 44_100)], ids=["layout", "rate", "both"]
)
@pytest.mark.parametrize("turned", [False, True])
def test_sound_whose_format_changes_is_heard_whole(tmp_path, channels, rate, turned) -> None:
    other = tone(1, rate) if channels == 1 else np.stack([tone(1, rate)] * 2)
    parts = [adts(tmp_path / "a.aac", tone(1), 16_000), adts(tmp_path / "b.aac", other, rate)]
    path = tmp_path / "x.mp4"
    path.write_bytes(b"".join(parts[::-1] if turned else parts))
    sound = read_audio(path)
    assert len(sound) == pytest.approx(32_000, abs=4_000)
    for part in (sound[4_000:12_000], sound[-12_000:-4_000]):
        assert np.sqrt(2 * np.square(part).mean()) == pytest.approx(0.5, abs=0.05)
        peak = np.abs(np.fft.rfft(part)).argmax() * 16_000 / len(part)
        assert peak == pytest.approx(440, abs=4)


def test_sound_that_an_edit_list_hides_is_not_heard(tmp_path: Path) -> None:
    """Two seconds of silence and two of a tone, cut by stream copy where the tone begins."""
    sound = np.concatenate([np.zeros(32_768, "f4"), tone(2)])
    source = write_mp4(tmp_path / "x.mp4", sound=sound)
    heard = read_audio(cut(source, tmp_path / "cut.mp4", 33, "audio"))
    assert len(heard) == pytest.approx(32_000, abs=1_100)
    assert np.abs(heard[2_000:30_000]).max() == pytest.approx(0.5, abs=0.05)
    assert np.abs(heard[1_024:2_048]).max() > 0.3


# Files of which a part was copied


def wave(kind: str, subtype: str = "PCM_16", *, frames: int = 8_001, endian: str = "FILE") -> bytes:
    buffer = io.BytesIO()
    sound = tone(10)[:frames]
    soundfile.write(buffer, sound, 16_000, format=kind, subtype=subtype, endian=endian)
    return buffer.getvalue()


def with_list(data: bytes) -> bytes:
    """A wav with a chunk of odd length before its sound."""
    note = b"LIST" + struct.pack("<I", 3001) + b"INFO" + b"x" * 2997 + b"\0"
    at = data.index(b"data")
    (size,) = struct.unpack("<I", data[4:8])
    return data[:4] + struct.pack("<I", size + len(note)) + data[8:at] + note + data[at:]


WHOLE = {
    "PCM_16.wav": wave("WAV"),
    "PCM_U8.wav": wave("WAV", "PCM_U8"),
    "PCM_24.wav": wave("WAV", "PCM_24"),
    "FLOAT.wav": wave("WAV", "FLOAT"),
    "ADPCM.wav": wave("WAV", "IMA_ADPCM"),
    "RIFX.wav": wave("WAV", endian="BIG"),
    "EXTENSIBLE.wav": wave("WAVEX"),
    "RF64.wav": wave("RF64"),
    "WAVE64.w64": wave("W64"),
    "LIST.wav": with_list(wave("WAV", "PCM_24")),
    "x.aiff": wave("AIFF", "PCM_24"),
    "x.au": wave("AU"),
    "x.flac": wave("FLAC"),
    "x.ogg": wave("OGG", "VORBIS", frames=160_000),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_sound_file_is_accepted_and_heard(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    assert probe_audio(path) == []
    assert len(read_audio(path)) >= 8_001
    # A byte that somebody's tool left behind is no reason to refuse it.
    path.write_bytes(WHOLE[name] + (b"\0" if path.suffix == ".wav" else b""))
    assert probe_audio(path) == [] and len(read_audio(path)) >= 8_001


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", WHOLE)
def test_a_sound_file_of_which_a_part_was_copied_is_refused(tmp_path, name, share) -> None:
    path = tmp_path / name
    data = WHOLE[name]
    path.write_bytes(data[: int(len(data) * share)])
    [(problem, advice)] = probe_audio(path)
    with pytest.raises(MediaError) as caught:
        read_audio(path)
    assert "cut short" in problem and problem in str(caught.value) and "again" in advice


@pytest.mark.parametrize("announced", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None])
@pytest.mark.parametrize("name", ["PCM_16.wav", "PCM_24.wav", "FLOAT.wav", "LIST.wav"])
def test_a_wav_written_into_a_pipe_is_heard_whole(tmp_path, name, announced, riff) -> None:
    path, data = tmp_path / name, WHOLE[name]
    path.write_bytes(data)
    expected = read_audio(path)
    at = data.index(b"data") + 4
    total = (announced + 36) & 0xFFFFFFFF if riff is None else riff
    head = data[:4] + struct.pack("<I", total) + data[8:at] + struct.pack("<I", announced)
    path.write_bytes(head + data[at + 4 : at + 4 + 8_001 * (len(data) - at - 4) // 8_001])
    assert probe_audio(path) == []
    np.testing.assert_allclose(read_audio(path)[:8_000], expected[:8_000], atol=1e-4)


def test_a_flac_written_into_a_pipe_is_heard_whole(tmp_path: Path) -> None:
    data = bytearray(WHOLE["x.flac"])
    # The number of samples is the last 36 bits before the checksum of the first block.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    assert probe_audio(tmp_path / "x.flac") == []
    assert len(read_audio(tmp_path / "x.flac")) == 8_001


@pytest.mark.parametrize("rate", [0, 3, 2_000_000_000])
def test_a_rate_that_no_voice_has_is_refused(tmp_path: Path, rate: int) -> None:
    data = WHOLE["PCM_16.wav"]
    (tmp_path / "x.wav").write_bytes(data[:24] + struct.pack("<I", rate) + data[28:])
    assert len(probe_audio(tmp_path / "x.wav")) == 1
    with pytest.raises(MediaError, match=r"x\.wav"):
        read_audio(tmp_path / "x.wav")
