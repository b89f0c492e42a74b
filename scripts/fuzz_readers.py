"""Damage small films, sounds and label files at random, and see what the readers make of them.

    python scripts/fuzz_readers.py --minutes 15 --seed 0 --keep /tmp/damaged

Each file is made here, damaged (bits flipped, bytes set, cut out, put in, taken from another file,
lengths in headers changed) and given to every reader in a process of its own with a time limit and
4 GiB of memory, so that a native library that crashes or hangs ends only that process. Allowed are
an answer and a refusal that names the file (MediaError, CorpusError, an entry of a report). Files
that cause anything else are kept in --keep, and the exit status is 1. The same seed damages files
in the same way. Needs a POSIX system; takes one processor.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import av
import librosa
import numpy as np
import pandas as pd
import soundfile

from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.checks import CorpusError, probe_audio, probe_video
from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.cmu_mosi import load_cmu_mosi
from emomm_study.media.audio import read_audio
from emomm_study.media.playback import film
from emomm_study.media.video import MediaError, read_video

SECONDS = 20
"""A process that takes longer hangs."""
MEMORY = 4 << 30
KINDS = ("answer", "refusal", "exception", "crash", "hang")
NAMES = (
    b"moov trak mdia stbl stsd stts ctts stsc stsz stco elst edts mdhd mvhd tkhd hdlr avc1 avcC "
    b"mp4a esds mdat moof RIFF fmt data ds64 LIST fact COMM SSND OggS"
).split()
"""Of what stands in headers."""
TOKENS = (b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"nan", b"1e400", b"-", b"../", b"\xef\xbb\xbf",
          b";", "’好".encode(), "好".encode("gbk"), b"9" * 400)  # fmt: skip
HEADER = ["video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation",
          "mode"]  # fmt: skip


def make_film(
    folder: Path, codec: str, *, width: int = 192, kind: str = "mp4", gaps: bool = False,
    pixels: str = "yuv420p", sound: str = "aac", mux: dict[str, str] | None = None,
    **options: str,
) -> bytes:  # fmt: skip
    """Two seconds of a moving pattern with a tone."""
    path = folder / f"seed.{kind}"
    picture = np.random.default_rng(0).integers(0, 256, (12, width // 8, 3), np.uint8)
    with av.open(str(path), "w", format=kind, options=mux or {}) as container:
        video = container.add_stream(codec, rate=10, options=options)
        video.width, video.height, video.pix_fmt = width, 96, pixels
        audio = container.add_stream(sound, rate=16_000, layout="mono")
        for i in range(20):
            shifted = np.roll(picture, i, 1).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shifted), format="rgb24")
            frame.pts, frame.time_base = i + 9 * (gaps and i > 10), Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path.read_bytes()


def cut_film(folder: Path, data: bytes, first: int) -> bytes:
    """A stream copy that an edit list lets begin between key frames."""
    (folder / "whole.mp4").write_bytes(data)
    with av.open(str(folder / "whole.mp4")) as old, av.open(str(folder / "cut.mp4"), "w") as new:
        streams = [s for s in old.streams if s.type in ("video", "audio")]
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in streams}
        for packet in old.demux(streams):
            if packet.dts is not None:
                start = int(first / 10 / packet.time_base)
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = copies[packet.stream_index]
                new.mux(packet)
    return (folder / "cut.mp4").read_bytes()


def tone() -> np.ndarray:
    return (0.5 * np.sin(np.arange(32_000) / 6)).astype("f4")


def make_sound(kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone()[:8_000], 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


def make_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue().encode("utf-8-sig")


def seeds(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Whole files by what they are, each with its name."""
    plain = make_film(folder, "libx264", g="6", preset="ultrafast")
    films = [
        plain,
        make_film(folder, "libx264", g="6", bf="2", mux={"movflags": "faststart"}),
        cut_film(folder, make_film(folder, "libx264", g="12"), 7),
        make_film(folder, "libx264", width=72, gaps=True),
        make_film(folder, "libx264", mux={"movflags": "frag_keyframe+empty_moov"}),
        make_film(folder, "libx264", pixels="yuv420p10le", width=64),
        make_film(folder, "libx265", width=64, **{"x265-params": "log-level=none"}),
        make_film(folder, "libsvtav1", width=64, sound="libopus"),
        make_film(folder, "mpeg4", sound="libmp3lame"),
        make_film(folder, "libx264", kind="mpegts", width=64),
    ]
    sounds = [
        *(make_sound("WAV", s) for s in ("PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM")),
        *(make_sound(kind) for kind in ("WAVEX", "RF64")),
    ]
    others = [(kind.lower(), make_sound(kind)) for kind in ("FLAC", "OGG", "AIFF", "W64", "MP3")]
    clips = [[f"v{i // 2}", f"000{i}", f"好的, {i}", *["0.2"] * 4, "x", "train"] for i in range(4)]
    votes = [[f"v{i // 2}", f"000{i}", "0.2", "-0.4", "1.0"] for i in range(4)]
    return {
        "mp4": [("clip.mp4", data) for data in films],
        "wav": [("clip.wav", data) for data in sounds],
        "other sound": [(f"clip.{kind}", data) for kind, data in others],
        "csv": [
            ("ch_sims/meta.csv", make_table(clips, HEADER)),
            ("cmu_mosi/label.csv", make_table(clips, HEADER)),
            ("cmu_mosi/annotations.csv", make_table(votes, [*HEADER[:2], *HEADER[4:7]])),
        ],
    }


def make_corpora(folder: Path, whole: dict[str, list[tuple[str, bytes]]]) -> None:
    """Both corpora with whole label files and clips."""
    for name, data in whole["csv"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    for root in ("ch_sims", "cmu_mosi"):
        for i in range(4):
            clip = folder / root / "Raw" / f"v{i // 2}" / f"000{i}.mp4"
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.write_bytes(whole["mp4"][0][1])


def damaged(data: bytes, others: Sequence[bytes], rng: random.Random, *, text: bool) -> bytes:
    """The bytes with one to sixty-four things wrong."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16, 64))):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 2, 4, 16, 256))
        match rng.randrange(9):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = rng.choice(TOKENS) if text else rng.randbytes(length)
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                out[at : at + length] = other[start : start + length]
            case 5:
                out[at:at] = out[at // 2 : at // 2 + length]
            case 6 if rng.random() < 0.2:
                del out[at:]
            case 7 | 8:
                _change_header(out, rng)
    return bytes(out)


def _change_header(out: bytearray, rng: random.Random) -> None:
    """Another number before or after one of the names that stand in headers."""
    at = out.find(rng.choice(NAMES))
    if at < 4:
        return
    place = at + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28))
    value = rng.choice((0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.getrandbits(32), len(out)))
    out[place : place + 4] = value.to_bytes(4, rng.choice(("big", "little")))


def _frames(path: Path) -> str:
    clip = read_video(path)
    assert clip.frames.shape[0] == 8 and clip.frames.dtype == np.uint8 and 0 < clip.fps < np.inf
    return "answer"


def _film(path: Path) -> str:
    assert film(path, with_sound=False)
    return "answer"


def _sound(path: Path) -> str:
    sound = read_audio(path)
    assert sound.ndim == 1 and sound.dtype == np.float32 and np.isfinite(sound).all()
    return "answer"


def _probe(problems: list) -> str:
    return "refusal" if problems else "answer"


def _table(table: CorpusTable) -> str:
    assert isinstance(table.report, pd.DataFrame) and len(table.clips) <= 4
    return "answer"


CALLS: dict[str, dict[str, Callable[[Path], str]]] = {
    "mp4": {
        "probe_video": lambda p: _probe(probe_video(p, needs_audio=True)),
        "read_video": _frames,
        "read_audio": _sound,
        "film": _film,
    },
    "wav": {"probe_audio": lambda p: _probe(probe_audio(p)), "read_audio": _sound},
    "other sound": {"probe_audio": lambda p: _probe(probe_audio(p)), "read_audio": _sound},
    "csv": {
        "load_ch_sims": lambda p: _table(load_ch_sims(p.parents[1] / "ch_sims")),
        "load_cmu_mosi": lambda p: _table(load_cmu_mosi(p.parents[1] / "cmu_mosi")),
    },
}


def work(path: Path, kind: str, pipe: Connection) -> None:
    """Call every reader of a kind of file; say before each which, and after it what came."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries below write there what their exceptions say.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for name, call in CALLS[kind].items():
        if kind == "csv" and path.parent.name != name.removeprefix("load_"):
            continue
        pipe.send((name, None, ""))
        try:
            pipe.send((name, call(path), ""))
        except (MediaError, CorpusError) as error:
            named = path.name in str(error) or kind == "csv"
            pipe.send((name, "refusal" if named else "exception", str(error)))
        except BaseException as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            pipe.send((name, "exception", said[:200]))
    pipe.close()


def outcomes(path: Path, kind: str) -> Iterator[tuple[str, str, str]]:
    """``(reader, outcome, what it said)`` of each reader that was called with a file."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(path, kind, theirs))
    process.start()
    theirs.close()
    end, running = time.monotonic() + SECONDS, None
    try:
        while True:
            if not ours.poll(max(0, end - time.monotonic())):
                process.kill()
                yield running or "start", "hang", f"more than {SECONDS} s"
                return
            name, outcome, said = ours.recv()
            running = name if outcome is None else None
            if outcome is not None:
                yield name, outcome, said
    except EOFError:
        process.join()
        if running or process.exitcode:
            yield running or "end", "crash", f"exit status {process.exitcode}"
    finally:
        process.join()
        ours.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_kept"), metavar="FOLDER")
    arguments = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")
    rng, counts, files = random.Random(arguments.seed), Counter(), Counter()
    # Here once, and not in every process: it loads its resampler when it is first needed.
    librosa.resample(tone(), orig_sr=8_000, target_sr=16_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = seeds(folder)
        make_corpora(folder, whole)
        tried = [(kind, *seed) for kind in whole for seed in whole[kind]]
        for kind, name, data in tried:
            (folder / name).write_bytes(data)
            for reader, outcome, said in outcomes(folder / name, kind):
                if outcome != "answer":
                    raise SystemExit(f"{reader} fails on an undamaged {name}: {said}")
        end = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < end:
            kind = rng.choices(list(whole), (6, 3, 1, 2))[0]
            name, data = rng.choice(whole[kind])
            others = [other for _, other in whole[kind]]
            data_now = damaged(data, others, rng, text=kind == "csv")
            (folder / name).write_bytes(data_now)
            files[kind] += 1
            for reader, outcome, said in outcomes(folder / name, kind):
                counts[kind, reader, outcome] += 1
                if outcome not in ("answer", "refusal"):
                    number = sum(files.values())
                    kept = arguments.keep / f"{number}-{reader}-{outcome}-{Path(name).name}"
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(data_now)
                    print(f"{kept}: {said}", flush=True)
            if kind == "csv":
                (folder / name).write_bytes(data)
    print(f"seed {arguments.seed}, {sum(files.values())} files: "
          + ", ".join(f"{n} {kind}" for kind, n in files.items()))  # fmt: skip
    table = pd.Series(counts, dtype=int).unstack(fill_value=0)
    print(table.reindex(columns=list(KINDS), fill_value=0).to_string())
    return int(any(counts[key] for key in counts if key[2] not in ("answer", "refusal")))


if __name__ == "__main__":
    sys.exit(main())
