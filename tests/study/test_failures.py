"""What a clip does is its own failure; what the program does stops a run, in one sentence."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import struct
from pathlib import Path

import av
import decord
import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from crash import MEDIA, small_model
from safetensors import SafetensorError
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.chase.equations import SteeringConfig
from emomm_study import failures
from emomm_study.evaluate import files, questions as asking, steered
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import Always, Method
from emomm_study.evaluate.results import outcomes
from emomm_study.evaluate.steered import steering_fingerprint
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.failures import RunStopped
from emomm_study.media import region_store
from emomm_study.media.models import fetch_models
from emomm_study.media.region_store import RegionStore
from emomm_study.media.video import Frames, MediaError, VideoSettings
from emomm_study.mini.reading import reading_accuracy
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel

COALITIONS = ("TAV", "TA", "V", "none")
LOGITS = [f"logit_{letter}" for letter in "abcde"]
KEYS = ["sample_id", "coalition"]
ERRORS = [
    ValueError("a value"),
    TypeError("a type"),
    KeyError("a key"),
    IndexError("an index"),
    AttributeError("an attribute"),
    RuntimeError("at run time"),
    ZeroDivisionError("by zero"),
    OverflowError("too large"),
    FloatingPointError("no number"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no bytes \udcff"),
    AssertionError(),
    NotImplementedError("not there"),
    StopIteration("too soon"),
    OSError("a file"),
    OSError(errno.EIO, "a bad sector"),
    PermissionError(errno.EACCES, "not ours"),
    EOFError("the end"),
    RecursionError("too deep"),
    TimeoutError("too slow"),
    LookupError("nowhere"),
    BufferError("a buffer"),
    struct.error("a struct"),
    av.error.InvalidDataError(1094995529, "Invalid data"),
    av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"),
    decord.DECORDError("a decoder\nin several lines"),
    soundfile.LibsndfileError(3),
    sqlite3.Warning("a warning"),
    type("PanicException", (BaseException,), {})("a Rust library's"),
]
GOOD = 6
BAD = {f"bad{i:02d}": error for i, error in enumerate(ERRORS)}


@pytest.fixture(scope="module")
def model() -> OmniModel:
    made = small_model()
    torch.manual_seed(3)
    for parameter in made.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def number_of(name: str) -> int:
    return [*BAD, *(f"good{i}" for i in range(GOOD))].index(name)


def seen(path: Path, *_) -> Frames:
    """Frames that say in their first pixel whose they are."""
    rng = np.random.default_rng(number_of(path.stem))
    frames = rng.integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = number_of(path.stem)
    return Frames(frames, 2.0)


def heard(path: Path, *_) -> np.ndarray:
    """Sound that says in its length whose it is."""
    return tone(0.3 + 0.01 * number_of(path.stem))


@pytest.fixture
def clips(tmp_path, monkeypatch) -> pd.DataFrame:
    """One clip for each exception, and some good ones; what is read of them needs no decoder."""
    monkeypatch.setattr(files, "read_video", seen)
    monkeypatch.setattr(files, "read_audio", heard)
    rows = []
    for name in [*BAD, *[f"good{i}" for i in range(GOOD)]]:
        (tmp_path / f"{name}.wav").touch()
        rows.append({"sample_id": name, "corpus": "ch_sims_v2", "text": f"word {name} .",
                     "video_path": f"{name}.wav", "audio_path": f"{name}.wav", "speaker_id": "s",
                     "label_gt": 1, "label_t": 1, "label_a": 2, "label_v": 3})  # fmt: skip
    return pd.DataFrame(rows)


def bench(model, clips, root, store, **options):
    options = {"processes": 1, "progress": False} | options
    return Experiment(model, clips, {"ch_sims_v2": root}, store, MEDIA, 8, **options)


def ask(model, clips, root, name="p", *, store=None, processes=1, coalitions=COALITIONS, **asked):
    store = store or PredictionStore(root / f"{name}.sqlite")
    own = bench(model, clips, root, store, processes=processes)
    return own.predictions(clips, coalitions, **asked)


def raising(inner, whose):
    """``inner``, raising the exceptions of the clips that ``whose`` finds in its arguments."""

    def outer(*args, **given):
        for name in whose(*args, **given):
            if name in BAD:
                raise BAD[name]
        return inner(*args, **given)

    return outer


NAMES = [*BAD, *[f"good{i}" for i in range(GOOD)]]
LENGTHS = {len(heard(Path(name))): name for name in NAMES}


def of_sounds(sounds, **_):
    return [LENGTHS[len(sound)] for sound in sounds]


def of_frames(videos, **_):
    return [NAMES[frames[0, 0, 0, 0]] for frames in videos]


def of_media(media):
    return [f for c in media if c.frames is not None for f in of_frames([c.frames.frames])] + [
        s for c in media if c.sound is not None for s in of_sounds([c.sound])
    ]


def of_queries(queries, *_, **__):
    return [query.transcript.split()[1] for query in queries]


def of_chat(chat, **_):
    text = chat[1]["content"][-1]["text"]
    return [name for name in NAMES if f"word {name} ." in text]


class Faulty:
    """A model with another way of doing some things."""

    def __init__(self, model: OmniModel, **ways):
        self._model, self._ways = model, ways
        for name, way in ways.items():
            setattr(self, name, way)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def answer(self, queries, **options):
        return OmniModel.answer(self, queries, **options)


def at_stage(stage: str, model: OmniModel, monkeypatch) -> object:
    """The model, with exceptions in the way of its bad clips at one stage."""
    processor = model.processor
    if stage == "open":
        monkeypatch.setattr(files, "read_video", raising(seen, lambda path, _: [path.stem]))
    elif stage == "decode":
        monkeypatch.setattr(files, "read_audio", raising(heard, lambda path, _: [path.stem]))
    elif stage == "process frames":
        patched = raising(processor.video_processor, of_frames)
        patched_processor(model, monkeypatch, "video_processor", patched)
    elif stage == "process sound":
        patched = raising(processor.feature_extractor, of_sounds)
        patched_processor(model, monkeypatch, "feature_extractor", patched)
    elif stage == "tokenize":
        chat = raising(processor.apply_chat_template, of_chat)
        monkeypatch.setattr(processor, "apply_chat_template", chat)
    elif stage == "encode":
        return Faulty(model, encode=raising(model.encode, of_media))
    elif stage == "forward":
        return watched(model, monkeypatch)
    elif stage == "score":
        return Faulty(model, best_scores=raising(model.best_scores, of_queries))
    elif stage == "answer":
        return Faulty(model, answer=raising(model.answer, of_queries))
    elif stage == "reply":
        return Faulty(model, reply=raising(model.reply, of_queries))
    return model


def patched_processor(model, monkeypatch, name, patched):
    """Only its call is another; what is asked of it otherwise stays."""
    kind = type("Patched", (), {
        "__call__": lambda self, *a, **k: patched(*a, **k),
        "__getattr__": lambda self, attribute: getattr(self.inner, attribute),
    })  # fmt: skip
    own = kind()
    own.inner = getattr(model.processor, name)
    monkeypatch.setitem(model.processor.__dict__, name, own)


def watched(model, monkeypatch):
    """Raises in the decoder's forward pass, at the first vector of a bad clip's video or sound."""
    firsts: dict[str, list[torch.Tensor]] = {}

    def encode(media):
        made = model.encode(media)
        for clip, encoded in zip(media, made, strict=True):
            for name in set(of_media([clip])):
                parts = [x for x in (encoded.video, encoded.audio) if x is not None]
                firsts[name] = [x[0] for x in parts]
        return made

    decoder = model.model.model.language_model
    plain = decoder.forward

    def forward(*args, inputs_embeds, **given):
        for name, vectors in firsts.items():
            there = any((inputs_embeds == vector).all(-1).any() for vector in vectors)
            if name in BAD and there:
                raise BAD[name]
        return plain(*args, inputs_embeds=inputs_embeds, **given)

    monkeypatch.setattr(decoder, "forward", forward)
    return Faulty(model, encode=encode)


def questions(names, coalitions):
    return {(name, coalition) for name in names for coalition in coalitions}


def compare(found: pd.DataFrame, calm: pd.DataFrame) -> None:
    """What did not fail is what a calm run says: up to rounding, and bit for bit in batches of
    good clips alone."""
    both = calm.merge(found[found["failure"].isna()], on=KEYS, suffixes=("", "_found"))
    for name in ("label", "score"):
        np.testing.assert_array_equal(
            both[name].to_numpy(float), both[f"{name}_found"].to_numpy(float)
        )
    for name in LOGITS:
        np.testing.assert_allclose(
            both[name].to_numpy(float), both[f"{name}_found"].to_numpy(float), atol=1e-4
        )
    # 35 clips in batches of 8: the last three are good, and alone.
    last = both["sample_id"].isin(NAMES[len(NAMES) // 8 * 8 :])
    assert last.any() and not set(both.loc[last, "sample_id"]) & set(BAD)
    for name in LOGITS:
        np.testing.assert_array_equal(
            both.loc[last, name].to_numpy(float), both.loc[last, f"{name}_found"].to_numpy(float)
        )


CONCERNED = {
    "open": ("TAV", "V"),
    "decode": ("TAV", "TA"),
    "process frames": ("TAV", "V"),
    "process sound": ("TAV", "TA"),
    "encode": ("TAV", "TA", "V"),
    "tokenize": ("TAV", "TA"),
    "forward": ("TAV", "TA", "V"),
    "score": COALITIONS,
    "answer": COALITIONS,
}
NAMED = {
    "open": "reading the video", "decode": "reading the sound",
    "process frames": "encoding the video", "process sound": "encoding the sound",
    "encode": "encoding the", "tokenize": "answering", "forward": "answering",
    "score": "answering", "answer": "answering", "reply": "answering",
}  # fmt: skip


@pytest.mark.parametrize("stage", list(CONCERNED))
def test_whatever_is_raised_at_a_stage_costs_the_questions_that_it_concerns_and_no_other(
    model, clips, tmp_path, monkeypatch, stage
):
    calm = ask(model, clips, tmp_path, "calm")
    assert calm["failure"].isna().all()
    found = ask(at_stage(stage, model, monkeypatch), clips, tmp_path)
    failed = found[found["failure"].notna()]
    lost = set(failed[KEYS].itertuples(index=False, name=None))
    assert lost == questions(BAD, CONCERNED[stage])
    assert failed[["label", "score", *LOGITS]].isna().all(axis=None)
    for name, reasons in failed.groupby("sample_id")["failure"]:
        said = str(BAD[name]).split("\n")[0].replace("\udcff", "\\udcff")
        expected = f"{NAMED[stage]}", f"{type(BAD[name]).__name__}", said
        assert all(part in reason for part in expected for reason in reasons), (name, *reasons)
        assert not any("\n" in reason for reason in reasons)
    compare(found, calm)
    manifest = clips.assign(score_gt=0.0, subset="align")
    scored, left_out = outcomes(manifest, found, COALITIONS)
    assert len(left_out) == len(lost) and len(scored) == len(found) - len(lost)


def test_a_second_run_asks_no_failed_question_again(model, clips, tmp_path, monkeypatch):
    store = PredictionStore(tmp_path / "p.sqlite")
    first = ask(at_stage("encode", model, monkeypatch), clips, tmp_path, store=store)

    def never(_):
        raise KeyboardInterrupt

    again = ask(Faulty(model, encode=never), clips, tmp_path, store=store)
    pd.testing.assert_frame_equal(again, first)


@pytest.mark.parametrize("stage", ["decode", "encode", "reply"])
def test_free_replies_fail_question_by_question_too(model, clips, tmp_path, monkeypatch, stage):
    calm = ask(model, clips, tmp_path, "calm", decoding="free")
    found = ask(at_stage(stage, model, monkeypatch), clips, tmp_path, decoding="free")
    failed = found[found["failure"].notna()]
    lost = set(failed[KEYS].itertuples(index=False, name=None))
    assert lost == questions(BAD, CONCERNED.get(stage, COALITIONS))
    rest = calm.merge(found[found["failure"].isna()], on=KEYS)
    assert rest["reply_x"].equals(rest["reply_y"].rename("reply_x"))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", ["process sound", "forward"])
def test_traces_states_and_encodings_are_kept_of_all_that_did_not_fail(
    model, clips, tmp_path, monkeypatch, stage, processes
):
    store = PredictionStore(tmp_path / "p.sqlite")
    faulty = at_stage(stage, model, monkeypatch)
    own = bench(faulty, clips, tmp_path, store, processes=processes, keep_encodings=True)
    found = own.predictions(clips, COALITIONS, traces=True, states=True)
    lost = questions(BAD, CONCERNED[stage])
    failed = found[found["failure"].notna()]
    assert set(failed[KEYS].itertuples(index=False, name=None)) == lost
    kept = set(own.traces().index.itertuples(index=False, name=None))
    assert kept == questions(NAMES, COALITIONS) - lost
    recorded = own.state_store.read(NAMES).index.itertuples(index=False, name=None)
    assert set(recorded) == questions(NAMES, ("TAV", "TA")) - lost
    encoded = {key[0] for key in own.encodings.known()}
    assert encoded == set(NAMES) - (set(BAD) if stage == "process sound" else set())
    compare(found, ask(model, clips, tmp_path, "calm", traces=True))


def test_exceptions_of_real_decoders_are_the_clips_too(model, tmp_path, monkeypatch):
    rows = []
    for i in range(4):
        sound = tone(0.4 + 0.1 * i)
        write_mp4(tmp_path / f"{i}.mp4", frames=grey_frames(4, 56))
        soundfile.write(tmp_path / f"{i}.wav", sound, 16_000)
        rows.append({"sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"word {i}",
                     "video_path": f"{i}.mp4", "audio_path": f"{i}.wav"})  # fmt: skip
    table = pd.DataFrame(rows)
    bad = {len(tone(0.4)): StopIteration("resampling"), len(tone(0.5)): KeyError("resampling")}
    plain = librosa.resample

    def resample(y, **given):
        if len(y) in bad:
            raise bad[len(y)]
        return plain(y, **given)

    monkeypatch.setattr(librosa, "resample", resample)
    # 600 x 2 pixels: the processor refuses such a picture.
    write_mp4(tmp_path / "2.mp4", frames=np.zeros((4, 2, 600, 3), np.uint8))
    table["text"] = table["text"].astype(object)
    table.loc[3, "text"] = "\udcff"
    found = ask(model, table, tmp_path).set_index(KEYS)["failure"]
    lost = found[found.notna()]
    assert set(lost.index) == (
        questions(["c0", "c1"], ["TAV", "TA"])
        | questions(["c2"], ["TAV", "V"])
        | questions(["c3"], ["TAV", "TA"])
    )
    assert lost["c0", "TA"] == "reading the sound: StopIteration: resampling"
    assert lost["c1", "TA"] == "reading the sound: KeyError: 'resampling'"
    assert "encoding the video: ValueError: " in lost["c2", "V"]


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000", "\u200b\ufeff", "\x00", "\u2800", None])
def test_a_blank_transcript_fails_where_it_is_shown_and_says_so(model, clips, tmp_path, text):
    table = clips.tail(2).reset_index(drop=True)
    table.loc[0, "text"] = text
    found = ask(model, table, tmp_path)
    failed = found[found["failure"].notna()]
    lost = set(failed[KEYS].itertuples(index=False, name=None))
    assert lost == questions([table["sample_id"][0]], ["TAV", "TA"])
    assert failed["failure"].str.contains("the transcript is blank").all()


def test_numbers_that_are_not_finite_are_a_failure_and_no_class(model, clips, tmp_path):
    table, odd = clips.tail(4), {"good2": np.nan, "good3": np.inf, "good4": -np.inf}

    def encode(media):
        made = model.encode(media)
        for clip, encoded in zip(media, made, strict=True):
            if clip.sound is not None:
                with torch.inference_mode():
                    encoded.audio[0, 0] *= odd.get(of_sounds([clip.sound])[0], 1.0)
        return made

    calm = ask(model, table, tmp_path, "calm")
    for decoding in ("constrained", "free"):
        found = ask(Faulty(model, encode=encode), table, tmp_path, decoding=decoding)
        failed = found[found["failure"].notna()]
        lost = set(failed[KEYS].itertuples(index=False, name=None))
        assert lost == questions(odd, ["TAV", "TA"]), decoding
        assert failed["failure"].str.contains("not finite").all() and failed["label"].isna().all()
        if decoding == "constrained":
            rest = calm.merge(found[found["failure"].isna()], on=KEYS)
            assert (rest["label_x"] == rest["label_y"]).all()


def test_an_answer_without_finite_logits_has_no_class(model, clips):
    [encoded] = model.encode([Media(None, heard(Path("good1")))])
    with torch.inference_mode():
        encoded.audio[0, 0] = np.nan
    query = Query(encoded, "A", "ch_sims_v2", "")
    plain = Query(encoded, "none", "ch_sims_v2", "")
    answers = model.answer([query, plain])
    assert answers.label[0] == -1 and np.isnan(answers.score[0])
    assert answers.label[1] >= 0 and np.isfinite(answers.score[1])
    with pytest.raises(FloatingPointError, match="not finite"):
        model.reply([query])


# Steering


CONFIG = SteeringConfig(first_layer=1, tau=0.0, gamma=3.0, beta=0.5, top_k=1)
METHODS = [
    Method("scored", Always(1.0, (0.1, 0.2, 0.7)), CONFIG, "attention", scored=True),
    Method("gradient", Always(1.0, (0.1, 0.2, 0.7)), CONFIG),
    Method("still", Always(1.0, (0.7, 0.2, 0.1)),
           SteeringConfig(first_layer=1, beta=0.0, top_k=2)),
]  # fmt: skip


def steer(model, clips, root, name="p", methods=METHODS, store=None):
    store = store or PredictionStore(root / f"{name}.sqlite")
    return bench(model, clips, root, store).steered(clips, COALITIONS, methods)


def lost_of(table):
    failed = table[table["failure"].notna()]
    return set(failed[["method", *KEYS]].itertuples(index=False, name=None))


@pytest.mark.parametrize("stage", ["decode", "encode", "forward", "score"])
def test_whatever_is_raised_costs_the_same_questions_of_steering_methods(
    model, clips, tmp_path, monkeypatch, stage
):
    calm = steer(model, clips, tmp_path, "calm")
    found = steer(at_stage(stage, model, monkeypatch), clips, tmp_path)
    # Scores are read for one method alone.
    names = ["scored"] if stage == "score" else [method.name for method in METHODS]
    expected = {(n, *q) for n in names for q in questions(BAD, CONCERNED[stage])}
    assert lost_of(found) == expected
    # Which heads and tokens are chosen may turn on the last bits; where all are, nothing does.
    compare(*(table[table["method"] == "still"] for table in (found, calm)))


def test_an_exception_in_one_methods_gradients_costs_that_method_alone(
    model, clips, tmp_path, monkeypatch
):
    table, calls = clips.tail(3), []
    plain = steered.gradient_importance

    def gradients(*args):
        calls.append(len(args[1]))
        if len(calls) in (1, 2, 3, 4, 5, 6) or len(args[1]) > 1:
            raise StopIteration("no gradient")
        return plain(*args)

    monkeypatch.setattr(steered, "gradient_importance", gradients)
    store = PredictionStore(tmp_path / "p.sqlite")
    found = steer(model, table, tmp_path, store=store)
    assert {name for name, *_ in lost_of(found)} == {"gradient"}
    assert {coalition for *_, coalition in lost_of(found)} <= {"TAV", "V"}
    assert found.loc[found["failure"].notna(), "failure"].str.contains(
        "steering by 'gradient': StopIteration: no gradient").all()  # fmt: skip


def test_a_method_that_never_works_stops_the_run_and_leaves_no_failure_behind(
    model, clips, tmp_path
):
    wrong = Method("wrong", Always(1.0, (0.1, 0.2, 0.7)), SteeringConfig(first_layer=9, beta=0.0))
    store = PredictionStore(tmp_path / "p.sqlite")
    with pytest.raises(RunStopped, match=r"first 20 clips all failed.*steering by 'wrong': Val"):
        steer(model, clips, tmp_path, methods=[METHODS[2], wrong], store=store)
    assert not store.failed(steering_fingerprint(model, MEDIA, wrong)[0])
    assert store.known(steering_fingerprint(model, MEDIA, METHODS[2])[0])


# Other ways in


def test_a_clip_that_cannot_be_inspected_says_why_under_its_name(
    model, clips, tmp_path, monkeypatch
):
    store = PredictionStore(tmp_path / "p.sqlite")
    rows = clips.set_index("sample_id", drop=False)
    assert bench(model, clips, tmp_path, store).inspect(
        rows.loc["good0"], "TAV"
    ).unsteered.label in range(5)
    for stage in ("open", "encode", "tokenize", "forward"):
        with monkeypatch.context() as patch:
            faulty = bench(at_stage(stage, model, patch), clips, tmp_path, store)
            for name in ("bad01", "bad13"):
                kind = type(BAD[name]).__name__
                with pytest.raises(MediaError, match=rf"{name}: .*{NAMED[stage]}.*: {kind}"):
                    faulty.inspect(rows.loc[name], "TAV")
    with pytest.raises(MediaError, match="good1: the transcript is blank"):
        blank = rows.loc["good1"].where(rows.columns != "text", " ")
        bench(model, clips, tmp_path, store).inspect(blank, "T")


def test_a_reading_of_which_everything_failed_is_no_accuracy(model, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path))

    def encode(_):
        raise TypeError("no encoder")

    def answer(*_, **__):
        raise TypeError("no decoder")

    store = PredictionStore(tmp_path / "p.sqlite")
    with pytest.raises(ValueError, match="none of 2 clips was answered: .*TypeError"):
        faulty = Faulty(model, encode=encode, answer=answer)
        reading_accuracy(bench(faulty, pd.DataFrame(), tmp_path, store), 2)


class Locator:
    """Finds nobody, and fails at bad clips."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def locate(self, frames):
        return region_store.PersonRegions(np.ones((1, 4, 4), bool), np.array(["none"]))


@pytest.fixture
def films(tmp_path, monkeypatch):
    fetch_models()
    monkeypatch.setattr(region_store, "open_locator", Locator)
    paths = [tmp_path / f"{name}.mp4" for name in NAMES]
    for path in paths:
        path.write_bytes(b"film")

    def read(path, _):
        if path.stem in BAD:
            raise BAD[path.stem]
        return np.zeros((1, 4, 4, 3), np.uint8)

    monkeypatch.setattr(region_store, "read_frames", read)
    return paths


def test_whatever_is_raised_costs_the_regions_of_its_clip_and_no_other(films, tmp_path):
    store = RegionStore(tmp_path / "r", VideoSettings())
    table = store.find(films, processes=1, progress=False)
    assert table["failure"].notna().tolist() == [path.stem in BAD for path in films]
    for path, reason in zip(films, table["failure"], strict=True):
        if path.stem in BAD:
            assert f"looking for people: {type(BAD[path.stem]).__name__}" in reason
            with pytest.raises(MediaError, match="looking for people"):
                store.read(path)
    assert store.find(films, processes=1, progress=False).equals(table)


def test_a_program_that_can_look_at_no_clip_is_not_blamed_on_the_clips(
    films, tmp_path, monkeypatch
):
    def read(*_):
        raise ImportError("no decoder")

    monkeypatch.setattr(region_store, "read_frames", read)
    store = RegionStore(tmp_path / "r", VideoSettings())
    with pytest.raises(RunStopped, match=r"first 20 clips .*ImportError: no deco.* 0 of 35 clips"):
        store.find(films, processes=1, progress=False)
    assert not store._known()


@pytest.mark.parametrize("error", [MemoryError("none"), OSError(errno.ENOSPC, "No space left")])
def test_regions_of_a_machine_without_room_stop_in_one_sentence(
    films, tmp_path, monkeypatch, error
):
    done = []

    def read(path, _):
        if len(done) == 3:
            raise error
        done.append(path)
        return np.zeros((1, 4, 4, 3), np.uint8)

    monkeypatch.setattr(region_store, "read_frames", read)
    store = RegionStore(tmp_path / "r", VideoSettings())
    with pytest.raises(RunStopped, match=r"3 of 35 clips are kept in .*regions\.sqlite"):
        store.find(films, processes=1, progress=False)
    assert len(store._known()) == 3


# What is the program's


def one_sentence(stopped: pytest.ExceptionInfo) -> str:
    """The message of a run that was stopped; what pipeline and notebook show of it."""
    message = str(stopped.value)
    assert "\n" not in message and message.endswith(", then run it again: it goes on"), message
    return message


def dying(model, way, error, lives=2):
    """Does something a few times, and then no more."""
    left = [lives]

    def outer(*args, **given):
        if not left[0]:
            raise error
        left[0] -= 1
        return getattr(model, way)(*args, **given)

    return Faulty(model, **{way: outer})


MACHINE = [
    (torch.OutOfMemoryError("CUDA out of memory"), "out of memory", "choose a batch_size below 8"),
    (MemoryError(), "out of memory (MemoryError", "choose a batch_size below 8"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory", "below 8"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", "make room"),
    (OSError(errno.EMFILE, "Too many open files"), "too many files are open", "ulimit -n"),
    (sqlite3.OperationalError("database or disk is full"), "the disk is full", "make room"),
    (torch.AcceleratorError("CUDA error: device-side assert"), "the device has failed", "device"),
]


@pytest.mark.parametrize(("error", "what", "advice"), MACHINE, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("way", ["encode", "answer"])
def test_what_is_the_machines_stops_a_run_that_then_goes_on(
    model, clips, tmp_path, error, what, advice, way
):
    store = PredictionStore(tmp_path / "p.sqlite")
    with pytest.raises(RunStopped) as stopped:
        ask(dying(model, way, error), clips, tmp_path, store=store)
    message = one_sentence(stopped)
    assert what in message and advice in message
    assert f"64 of 140 answers are kept in {store.path}" in message
    assert stopped.value.__cause__ is None and stopped.value.__suppress_context__
    found = ask(model, clips, tmp_path, store=store)
    pd.testing.assert_frame_equal(found, ask(model, clips, tmp_path, "calm"))


@pytest.mark.parametrize("way", ["read_video", "read_audio"])
@pytest.mark.parametrize("processes", [1, 2])
def test_no_memory_for_a_clip_names_the_clip(model, clips, tmp_path, monkeypatch, way, processes):
    plain = getattr(files, way)

    def read(path, *more):
        if path.stem == "good3":
            raise MemoryError("300 GiB")
        return plain(path, *more)

    monkeypatch.setattr(files, way, read)
    with pytest.raises(RunStopped, match="MemoryError: 300 GiB, reading the .* of good3"):
        ask(model, clips, tmp_path, processes=processes)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("where", ["predictions", "states", "encodings"])
def test_a_full_disk_stops_in_one_sentence_and_nothing_finished_is_lost(
    model, clips, tmp_path, monkeypatch, where, processes
):
    table = clips.assign(text=[f"word {i} ." for i in range(len(clips))])
    store = PredictionStore(tmp_path / "p.sqlite")
    own = bench(model, table, tmp_path, store, processes=processes, keep_encodings=True)
    holder, way, error = {
        "predictions": (
            store,
            "write_runs",
            sqlite3.OperationalError("database or disk is full"),
        ),
        "states": (own.state_store, "write", OSError(errno.ENOSPC, "No space left on device")),
        "encodings": (
            own.encodings,
            "write",
            SafetensorError("I/O error: No space left on device (os error 28)"),
        ),
    }[where]
    plain, left = getattr(holder, way), [2]

    def write(*args):
        if not left[0]:
            raise error
        left[0] -= 1
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(holder, way, write)
        with pytest.raises(RunStopped) as stopped:
            own.predictions(table, COALITIONS, states=True)
    assert "the disk is full" in one_sentence(stopped)
    fingerprint = run_fingerprint(model, MEDIA)[0]
    kept = len(store.known(fingerprint))
    assert f"{kept} of 140 answers are kept" in str(stopped.value) and kept >= 64
    assert not store.failed(fingerprint)
    found = own.predictions(table, COALITIONS, states=True)
    calm = ask(model, table, tmp_path, "calm", processes=processes)
    pd.testing.assert_frame_equal(found, calm, rtol=1e-4)


def test_a_disk_that_is_really_full_stops_in_one_sentence(model, clips, tmp_path):
    class Small(PredictionStore):
        """A store that SQLite itself finds full after a while."""

        def _connect(self):
            db = super()._connect()
            db.execute("PRAGMA max_page_count = 12")
            return db

    store = Small(tmp_path / "p.sqlite")
    with pytest.raises(RunStopped, match="the disk is full .*database or disk is full"):
        ask(model, clips, tmp_path, store=store)
    assert len(store.known(run_fingerprint(model, MEDIA)[0])) >= 32


def test_a_process_that_is_killed_stops_the_run_in_one_sentence(model, clips, tmp_path):
    def encode(media):
        if "good0" in of_media(media):
            os.kill(os.getpid(), signal.SIGKILL)
        return model.encode(media)

    with pytest.raises(RunStopped) as stopped:
        ask(Faulty(model, encode=encode), clips, tmp_path, processes=2)
    message = one_sentence(stopped)
    assert "killed" in message and "processes=1" in message and "answers are kept" in message


def test_an_interruption_stays_one_and_says_what_is_kept(model, clips, tmp_path):
    with pytest.raises(KeyboardInterrupt) as interrupted:
        ask(dying(model, "encode", KeyboardInterrupt()), clips, tmp_path)
    assert "64 of 140 answers are kept in" in "".join(interrupted.value.__notes__)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_outside_of_a_clips_turn_stops_with_its_name_and_place(
    model, clips, tmp_path, monkeypatch, processes
):
    def broken(*_):
        raise TypeError("a mistake")

    monkeypatch.setattr(asking, "Corpus", broken)
    with pytest.raises(RunStopped) as stopped:
        ask(model, clips, tmp_path, processes=processes)
    message = one_sentence(stopped)
    assert "TypeError: a mistake" in message and "test_failures.py" in message
    assert "an error of the program" in message and "0 of 140 answers" in message
    assert isinstance(stopped.value.__cause__, TypeError)


@pytest.mark.parametrize("way", ["encode", "answer"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_program_that_works_for_no_clip_is_not_blamed_on_the_clips(
    model, clips, tmp_path, way, processes
):
    def broken(*_, **__):
        raise AttributeError("no such member")

    store = PredictionStore(tmp_path / "p.sqlite")
    with pytest.raises(RunStopped) as stopped:
        ask(Faulty(model, **{way: broken}), clips, tmp_path, store=store, coalitions=("TA", "V"),
            processes=processes)  # fmt: skip
    message = one_sentence(stopped)
    assert "AttributeError: no such member" in message and "test_failures.py" in message
    # They would otherwise count as known, and never be asked again.
    assert not store.failed(run_fingerprint(model, MEDIA)[0])
    found = ask(model, clips, tmp_path, store=store, coalitions=("TA", "V"))
    assert found["failure"].isna().all()


def test_a_model_of_numbers_that_are_none_is_not_blamed_on_the_clips(model, clips, tmp_path):
    broken = small_model()
    torch.nn.init.constant_(broken.model.lm_head.weight, float("nan"))
    with pytest.raises(RunStopped, match="first 20 clips all failed .*logits of A..E are not fini"):
        ask(broken, clips, tmp_path)


def test_fewer_clips_that_all_fail_alike_are_failures_after_all(model, clips, tmp_path):
    def broken(*_, **__):
        raise AttributeError("no such member")

    table = clips.head(failures.IN_A_ROW - 1)
    found = ask(Faulty(model, answer=broken), table, tmp_path)
    assert len(found) == len(table) * len(COALITIONS) and found["failure"].notna().all()


def test_clips_that_fail_alike_after_one_was_answered_are_their_own_failures(
    model, clips, tmp_path
):
    def answer(queries, **options):
        if any(name != "bad00" for name in of_queries(queries)):
            raise AttributeError("no such member")
        return model.answer(queries, **options)

    found = ask(Faulty(model, answer=answer), clips, tmp_path)
    answered = found.loc[found["failure"].isna(), "sample_id"]
    assert set(answered) == {"bad00"} and len(answered) == len(COALITIONS)


def test_a_path_that_cannot_even_be_looked_at_is_one_clips_failure(
    model, clips, tmp_path, monkeypatch
):
    monkeypatch.undo()
    name = "x" * 300
    table = clips.tail(1).assign(video_path=f"{name}.mp4", audio_path=f"{name}.wav")
    found = ask(model, table, tmp_path).set_index("coalition")["failure"]
    assert found[["TAV", "TA", "V"]].str.contains("File name too long").all()
    assert found[["none"]].isna().all()
