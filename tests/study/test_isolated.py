"""A driver in a second process: whatever it does, nothing wrong is scored and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from isolated_run import COALITIONS, MEDIA, STARTED, faulty, run as run_to_be_killed
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.labels import LETTERS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.results import outcomes
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.failures import Broken, RunStopped
from emomm_study.media.video import Frames
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.systems.drivers import serving
from emomm_study.systems.interface import Encoded, Media, NotOffered, Query
from emomm_study.systems.isolated import IsolatedSystem
from emomm_study.systems.isolated.media import RunFolder
from emomm_study.systems.isolated.process import without_secrets
from emomm_study.systems.isolated.table import (
    DRIVERS,
    SCRIPTS,
    _requirements,
    check_driver,
    environments_of,
    open_driver,
)
from emomm_study.systems.isolated.worker import DriverFailed, DriverUnusable
from emomm_study.systems.named import Named
from emomm_study.systems.table import load_system, shown_name

FAULTS = {
    "crash": "it ended (exit status 3)",
    "killed": "it ended (killed by signal 9)",
    "deaf": "it ended (still running, its standard output closed)",
    "noise": "what is no JSON object: 'Loading checkpoint shards: 100%'",
    "array": "what is no JSON object: '[1, 2]'",
    "unknown": "it answered to '4711', which was not asked",
    "huge": "a line of its standard output is longer than 1,048,576 bytes",
    "half": "in the middle of a line",
    "memory": "exit status 1); its last words: ",
    "cuda": "CUDA out of memory. Tried to allocate 20.00 GiB",
    "twice": "said before",
    "nan": "its letters are not finite",
    "infinite": "its letters are not finite",
    "four": "expected 5 numbers as its letters",
    "words": "expected numbers as its letters",
    "fewer": "expected 11 numbers as its scores; got [-1.0]",
    "markers": "its prompt has 3 places for 2 frames; expected 1 or as many",
    "deafened": "its prompt has 0 places for sound; expected 1",
    "unmarked": "expected how many places for media its prompt has",
    "refused": "ValueError: the picture is too small",
}
"""What is said of an item whose driver does this whenever it is asked."""
LOST = list(FAULTS)[:10]
HARMLESS = ("slow", "prints", "scoreless")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Files of runs go here; nothing of them, and no process, is left."""
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEST_API_KEY", "sk-very-secret")
    yield tmp_path / "cache"


@pytest.fixture
def system(tmp_path):
    made = faulty(tmp_path / "asked.log", timeout=60)
    yield made
    made.close()
    assert not alive(tmp_path / "asked.lives")


def alive(lives: Path) -> list[int]:
    """Which driver processes, of all that ever began, are there still, be it as our zombies.

    A zombie that is init's is gone, whenever init buries it.
    """
    began = map(int, lives.read_text().split()) if lives.exists() else []
    return [pid for pid in began if state(pid) not in ("gone", "Z of another")]


def state(pid: int) -> str:
    try:
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "Z of another" if letter == "Z" and int(parent) != os.getpid() else letter


def gone(lives: Path, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while alive(lives) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(lives)


def clips_of(folder: Path, texts: list[str]) -> pd.DataFrame:
    """A clip for each text, alike but for it."""
    video = write_mp4(folder / "clip.mp4", frames=grey_frames(4, 56))
    sf.write(folder / "clip.wav", tone(0.4), 16_000)
    rows = [{"sample_id": f"{i:02d}", "corpus": "ch_sims_v2", "text": text,
             "video_path": video.name, "audio_path": "clip.wav"} for i, text in enumerate(texts)]  # fmt: skip
    return pd.DataFrame(rows)


def bench(system, clips, folder, name="p", **options) -> Experiment:
    store = PredictionStore(folder / f"{name}.sqlite")
    options = {"progress": False, "keep_encodings": True} | options
    return Experiment(system, clips, {"ch_sims_v2": folder}, store, MEDIA, 8, **options)


def asked(log: Path) -> list[tuple[str, str]]:
    """Every question that a driver was asked: its words and its coalition."""
    return [tuple(line.split(",")[1:]) for line in log.read_text().splitlines()]


def encoded(system, sound=True) -> Encoded:
    frames = Frames(grey_frames(2, 16), 4.0)
    [clip] = system.encode([Media(frames, tone(1.5) if sound else None)])
    return clip


def question(clip, text="word", coalition="TAV") -> Query:
    return Query(clip, coalition, "ch_sims_v2", text)


# What goes wrong


def test_every_fault_costs_its_own_item_with_its_reason_and_scores_nothing(system, tmp_path):
    texts = ["calm", *(f"fault:{name}" for name in (*FAULTS, *HARMLESS)), "calm again"]
    clips = clips_of(tmp_path, texts)
    own = bench(system, clips, tmp_path)
    found = own.predictions(clips, ["TAV", "A"]).merge(clips[["sample_id", "text"]])
    assert len(found) == 2 * len(texts)
    rows = found[found["coalition"] == "TAV"].set_index("text")
    for name, reason in FAULTS.items():
        row = rows.loc[f"fault:{name}"]
        assert reason in row["failure"] and row["failure"].startswith("faulty: ")
        assert ("asked twice" in row["failure"]) == (name in LOST), row["failure"]
        assert row[["label", "score", "details"]].isna().all(), name
    fine = found[~found["text"].isin([f"fault:{n}" for n in FAULTS]) | (found["coalition"] == "A")]
    assert fine["failure"].isna().all()
    lengths = [
        len(t) if c == "TAV" else 0 for t, c in zip(fine["text"], fine["coalition"], strict=True)
    ]
    assert fine["label"].tolist() == [n % 5 for n in lengths]
    assert fine.loc[fine["text"] == "fault:scoreless", "score"].isna().tolist() == [False, True]
    assert "[hidden]" in rows.loc["fault:crash", "failure"]
    assert not found["failure"].str.contains("very-secret").any()
    log = asked(tmp_path / "asked.log")
    for text in texts:
        again = text in [f"fault:{name}" for name in LOST]
        assert log.count((text, "TAV")) == 1 + again
    # "twice" leaves a line behind, for which the next question is asked anew.
    assert log.count(("", "A")) - len(texts) in (0, 1)
    twice = found.set_index(["text", "coalition"]).loc[("fault:twice", "A"), "details"]
    assert json.loads(twice)["asked_again"]
    # What is stored is not asked again, failures included.
    own.predictions(clips, ["TAV", "A"])
    assert asked(tmp_path / "asked.log") == log


def test_a_driver_that_hangs_is_ended_with_all_that_it_has_started(tmp_path):
    system = faulty(tmp_path / "asked.log", timeout=1)
    clips = clips_of(tmp_path, ["fault:hang"])
    found = bench(system, clips, tmp_path).predictions(clips, ["T"])
    assert (
        "asked twice" in found["failure"][0]
        and "no whole line came within 1 s" in found["failure"][0]
    )
    assert not alive(tmp_path / "asked.lives")
    sleeping = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"1234.5" in _read(p)]
    assert not sleeping and len((tmp_path / "asked.lives").read_text().split()) == 2


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_goes_wrong_once_is_answered_when_it_is_asked_again_of_a_new_process(system, tmp_path):
    names = ("crash", "noise", "half")
    clips = clips_of(tmp_path, [f"once:{name}" for name in names] + ["calm"])
    found = bench(system, clips, tmp_path).predictions(clips, ["TAV"])
    assert found["failure"].isna().all()
    assert found["label"].tolist() == [len(text) % 5 for text in clips["text"]]
    again = [json.loads(text).get("asked_again", False) for text in found["details"]]
    assert again == [True] * len(names) + [False]


def test_a_letter_without_a_score_is_kept_as_one(system, tmp_path):
    clips = clips_of(tmp_path, ["fault:scoreless"]).assign(
        label_gt=0, label_t=0, label_a=0, label_v=0, score_gt=-1.0, subset="align"
    )  # fmt: skip
    found = bench(system, clips, tmp_path).predictions(clips, ["TAV"])
    assert found["label"].tolist() == [0] and found["score"].isna().all()
    scored, lost = outcomes(clips, found, ["TAV"])
    assert len(scored) == 1 and lost.empty


def test_silence_is_refused_before_it_is_sent_and_costs_what_hears_it(system, tmp_path):
    clips = clips_of(tmp_path, ["one", "two"])
    sf.write(tmp_path / "silent.wav", np.full(8000, 1e-6, np.float32), 16_000, subtype="FLOAT")
    clips.loc[1, "audio_path"] = "silent.wav"
    found = bench(system, clips, tmp_path).predictions(clips, ["TAV", "TA", "V", "T"])
    failed = found.set_index(["sample_id", "coalition"])["failure"].dropna()
    assert sorted(failed.index) == [("01", "TA"), ("01", "TAV")]
    assert failed.str.startswith("the sound is all zeros in 16 bits").all()


def test_free_replies_are_read_like_any_others(system, tmp_path):
    clips = clips_of(tmp_path, ["fault:refused", "abc", "ab", "fault:half"])
    found = bench(system, clips, tmp_path).predictions(clips, ["T"], decoding="free")
    assert found["label"].iloc[1:3].tolist() == [3, 2]
    # Its score is off the grid of D.
    assert found["score"].iloc[1:3].isna().tolist() == [True, False]
    assert json.loads(found["details"][1])["tokens"]["T"] == 3
    assert "too small" in found["failure"][0] and "middle of a line" in found["failure"][3]


# Drivers that do not start


@pytest.mark.parametrize(
    ("start", "said"),
    [("crash", r"it ended \(exit status 1\); its last words: no such weights"),
     ("hang", "no whole line came within 0.5 s"),
     ("noise", "no JSON object: 'Welcome to faulty'"),
     ("lacking", "its hello lacks weights")],
)  # fmt: skip
def test_a_driver_that_does_not_start_stops_the_run_and_says_how_to_see_why(tmp_path, start, said):
    system = faulty(tmp_path / "asked.log", "--start", start, loading=0.5 if start == "hang" else 9)
    clips = clips_of(tmp_path, ["calm"])
    with pytest.raises(
        DriverUnusable, match=rf"faulty did not start: .*{said}.*run it by hand.*faulty_driver\.py"
    ):
        bench(system, clips, tmp_path).predictions(clips, ["T"])
    assert not alive(tmp_path / "asked.lives") and not system.pids


def test_a_command_that_is_not_there_is_named():
    system = IsolatedSystem("gone", ["/no/such/python", "driver.py"])
    with pytest.raises(Broken, match=r"gone cannot be started \(No such .*: /no/such/python driv"):
        system.settings()


def test_a_driver_that_does_not_start_again_stops_the_run_and_keeps_what_is_there(tmp_path):
    system = faulty(tmp_path / "asked.log", "--start", "crash later")
    clips = clips_of(tmp_path, ["calm", "fault:crash", "never"])
    own = bench(system, clips, tmp_path)
    with pytest.raises(RunStopped, match="faulty did not start: .* 1 of 3 answers are kept"):
        own.predictions(clips, ["T"])
    table = own.store.read(run_fingerprint(system, MEDIA)[0])
    assert table["sample_id"].tolist() == ["00"] and table["failure"].isna().all()


def test_a_driver_that_comes_back_as_another_stops_the_run(tmp_path):
    system = faulty(tmp_path / "asked.log", "--start", "changing")
    clips = clips_of(tmp_path, ["calm", "fault:crash"])
    with pytest.raises(RunStopped, match="is not what it was .* its weights changed"):
        bench(system, clips, tmp_path).predictions(clips, ["T"])
    assert not alive(tmp_path / "asked.lives")


# Several side by side


def alike(folder: Path, many: int, name: str, *flags: str) -> IsolatedSystem:
    """So many faulty drivers, which share a log."""
    return faulty(folder / f"{name}.log", *flags, timeout=60, environments=[{}] * many)


def test_three_drivers_give_the_table_of_one_whatever_goes_wrong(tmp_path):
    faults = ("crash", "noise", "nan", "refused", "scoreless")
    texts = [*(f"fault:{name}" for name in faults), "once:half", "once:killed", "calm", "too"]
    clips, tables = clips_of(tmp_path, texts), []
    for many in (1, 3):
        system = alike(tmp_path, many, str(many))
        tables.append(bench(system, clips, tmp_path, str(many)).predictions(clips, ["TAV", "A"]))
        log = asked(tmp_path / f"{many}.log")
        for text in texts:
            assert log.count((text, "TAV")) == 1 + (text.startswith("once") or text[6:] in LOST)
        assert len(system.pids) == many
        system.close()
    # A line that one left behind may cost another question a second asking, which details say.
    one, three = (table.drop(columns=["details", "failure"]) for table in tables)
    pd.testing.assert_frame_equal(one, three)
    assert tables[0]["failure"].isna().tolist() == tables[1]["failure"].isna().tolist()
    assert not alive(tmp_path / "3.lives")


def test_drivers_side_by_side_work_at_the_same_time_and_a_clip_stays_with_one(tmp_path):
    system = alike(tmp_path, 3, "asked", "--pause", "0.02")
    clips = clips_of(tmp_path, [f"fault:meet {i}" for i in range(3)] + [f"w{i}" for i in range(5)])
    found = bench(system, clips, tmp_path).predictions(clips, ["TAV", "TV", "T"])
    assert found["failure"].isna().all()
    lines = [line.split(",") for line in (tmp_path / "asked.log").read_text().splitlines()]
    by_clip = pd.DataFrame(lines, columns=["pid", "words", "coalition"]).groupby("words")["pid"]
    assert (by_clip.nunique() == 1).all() and by_clip.first().nunique() == 3
    system.close()


def test_no_driver_is_asked_further_while_answers_wait_to_be_taken(tmp_path):
    system = alike(tmp_path, 2, "asked")
    queries = [question(encoded(system), f"word {i}") for i in range(8)]
    answers = system.ask(queries)
    next(answers)
    time.sleep(0.5)
    assert len(asked(tmp_path / "asked.log")) == 2
    assert len(list(answers)) == 7
    system.close()


def test_a_caller_who_leaves_ends_what_is_under_way_and_may_come_back(tmp_path):
    system = alike(tmp_path, 2, "asked")
    clip, other = encoded(system), encoded(system)
    queries = [question(clip, "calm"), question(other, "fault:hang")]
    answers = system.ask(queries)
    assert next(answers)[0] == 0
    while ("fault:hang", "TAV") not in asked(tmp_path / "asked.log"):
        time.sleep(0.01)
    began = time.monotonic()
    answers.close()
    assert time.monotonic() - began < 30 and len(system.pids) == 1
    assert [i for i, _ in system.ask(queries[:1] * 3)] == [0, 1, 2]
    assert asked(tmp_path / "asked.log").count(("fault:hang", "TAV")) == 1
    system.close()
    assert not alive(tmp_path / "asked.lives")


def test_another_driver_among_several_stops_the_run(tmp_path):
    system = alike(tmp_path, 2, "asked", "--start", "changing")
    clips = clips_of(tmp_path, ["one", "two", "three"])
    with pytest.raises(RunStopped, match=r"its weights changed.*workers=1 asks one alone"):
        bench(system, clips, tmp_path).predictions(clips, ["T"])
    assert not alive(tmp_path / "asked.lives") or system.pids
    system.close()
    assert not alive(tmp_path / "asked.lives")


@pytest.mark.parametrize(
    ("mask", "device", "workers", "expected"),
    [("0,2", "cuda", None, ["0", "2"]),
     ("GPU-ab", "cuda", "3", ["GPU-ab"] * 3),
     ("0,1", "cuda", "1", ["0"]),
     ("0,1", "cuda:1", None, [None]),
     ("", "cuda", None, [None]),
     ("0,1", "cpu", "2", [None, None])],
)  # fmt: skip
def test_there_is_one_driver_for_each_gpu_that_is_seen(
    monkeypatch, mask, device, workers, expected
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    commit, options = "a" * 40, f"&workers={workers}" if workers else ""
    text = (
        f"driver:minicpm_o?weights=a/b&revision={commit}&trust-remote-code=yes"
        f"&python={sys.executable}{options}"
    )
    found = environments_of(Named.of(text), device=device)
    assert [own.get("CUDA_VISIBLE_DEVICES") for own in found] == expected
    said = check_driver(text, device=device)[0]
    assert (f"runs {len(expected)} times, side by side" in said) == (len(expected) > 1)


def test_a_number_of_workers_that_is_none_is_named():
    for said in ("0", "two", "-1", "1.5"):
        with pytest.raises(ValueError, match=f"workers={said} is no number of processes"):
            open_driver(Named.of(f"driver:echo?workers={said}"))


# Killed


def test_a_driver_killed_at_twenty_random_moments_changes_no_answer(tmp_path):
    clips = clips_of(tmp_path, [f"word {i}" for i in range(20)])
    calm = bench(faulty(tmp_path / "calm.log"), clips, tmp_path, "calm")
    expected = calm.predictions(clips, COALITIONS)
    system = faulty(tmp_path / "asked.log", "--pause", "0.01")
    own, kills, over = bench(system, clips, tmp_path), [], threading.Event()
    fingerprint = run_fingerprint(system, MEDIA)[0]
    rng = np.random.default_rng(0)

    def kill():
        before = -1
        while len(kills) < 20 and not over.is_set():
            time.sleep(rng.uniform(0, 0.05))
            # A second kill of one item is its failure, as it should be.
            if (now := len(own.store.known(fingerprint))) > before and (
                new := set(system.pids) - set(kills)
            ):
                kills.append(new.pop())
                os.kill(kills[-1], signal.SIGKILL)
                before = now

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = own.predictions(clips, COALITIONS)
    finally:
        over.set()
        killer.join()
    assert len(set(kills)) == 20
    pd.testing.assert_frame_equal(*(t.drop(columns="details") for t in (found, expected)))
    assert found["failure"].isna().all()
    log = asked(tmp_path / "asked.log")
    assert len(set(log)) == len(found) <= len(log) <= len(found) + 20
    system.close()
    assert not alive(tmp_path / "asked.lives")


def test_a_harness_killed_at_twenty_random_moments_asks_only_what_is_missing(tmp_path, cache):
    clips = clips_of(tmp_path, [f"word {i}" for i in range(30)])
    clips.to_csv(tmp_path / "clips.csv", index=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["emomm_study.evaluate.experiment", "emomm_study.systems.isolated"]
    )
    log, lives = tmp_path / "asked.log", tmp_path / "asked.lives"

    def start():
        (tmp_path / STARTED).unlink(missing_ok=True)
        process = context.Process(target=run_to_be_killed, args=(tmp_path, cache))
        process.start()
        while not (tmp_path / STARTED).exists():
            assert process.is_alive()
            time.sleep(0.002)
        return process

    rng, killed, stored, before = np.random.default_rng(0), 0, set(), 0
    store = PredictionStore(tmp_path / "p.sqlite")
    words = dict(clips[["sample_id", "text"]].to_numpy())
    fingerprint = None
    while killed < 20:
        process = start()
        time.sleep(rng.uniform(0, 0.25))
        assert process.is_alive(), f"the run ended after {killed} kills"
        process.kill()
        process.join()
        assert gone(lives), "a driver has outlived its harness"
        killed += 1
        log.touch()
        new = asked(log)[before:]
        # What is a transcript's only is asked without words.
        assert not {(w, c) for w, c in new if "T" in c} & stored
        before += len(new)
        fingerprint = fingerprint or (tmp_path / "fingerprint").read_text()
        stored = {(words[s], c) for s, c, _ in store.known(fingerprint)}
    last = start()
    last.join()
    assert last.exitcode == 0 and gone(lives)
    system = faulty(tmp_path / "calm.log")
    expected = bench(system, clips, tmp_path, "calm").predictions(clips, COALITIONS)
    system.close()
    found = store.read(fingerprint).drop(columns=["details", "media"])
    pd.testing.assert_frame_equal(found, expected.drop(columns="details"))
    # One was under way, or not yet written, in every life that was killed.
    assert len(expected) <= len(asked(log)) <= len(expected) + killed
    assert not list((cache / "drivers").glob("run-*"))


# Files, and what is sent


def test_files_of_one_clip_are_there_and_those_of_a_killed_run_go_with_the_next(system, cache):
    (cache / "drivers" / "run-dead").mkdir(parents=True)
    (cache / "drivers" / "run-dead" / "held").touch()
    first, second = encoded(system), encoded(system)

    def there():
        return sorted(p.name for p in (cache / "drivers").rglob("*.*"))

    assert system.answer([question(first)]).label.tolist() == [4] and len(there()) == 3
    assert not (cache / "drivers" / "run-dead").exists()
    own = there(), {p.parent for p in (cache / "drivers").rglob("*.png")}
    system.answer([question(first, coalition="V")])
    assert own == (there(), {p.parent for p in (cache / "drivers").rglob("*.png")})
    system.answer([question(second)])
    assert there() == ["0.png", "1.png", "sound.wav"]
    other = faulty(cache / "other.log")
    other.answer([question(first)])
    assert len(there()) == 6
    other.close()
    assert len(there()) == 3
    system.close()
    assert not list((cache / "drivers").glob("run-*"))


def test_a_driver_is_shown_the_very_frames_and_the_sound_in_16_bits(system):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    sound = np.r_[rng.uniform(-1.2, 1.2, 1000), 1.0, -1.0].astype(np.float32)
    [clip] = system.encode([Media(Frames(frames, 4.0), sound)])
    folder = RunFolder()
    paths = folder.frames(clip.video), folder.sound(clip.audio)
    query = serving.Query("1", *paths, clip.seconds_per_grid, "", "", (0, 0), [], "letters")
    np.testing.assert_array_equal(np.stack(serving.read_frames(query)), frames)
    heard = serving.read_sound(query)
    np.testing.assert_allclose(heard, sound.clip(-1, 1), atol=1 / 2**15)
    # 16-bit sound comes as it was.
    [again] = system.encode([Media(None, heard)])
    np.testing.assert_array_equal(again.audio, clip.audio)
    assert query.seconds_per_frame == 0.25 and query.coalition == "AV"


def test_a_question_is_sent_as_the_paper_words_it(system, monkeypatch):
    sent = []
    process = system._workers[0].started()
    plain = process.ask
    monkeypatch.setattr(process, "ask", lambda given, s: sent.append(given) or plain(given, s))
    clip = encoded(system)
    for coalition in ("TAV", "T", "AV"):
        system.answer([question(clip, "Words, 再见.", coalition)])
    system.reply([question(clip, "Words, 再见.")])
    whole, text, media, free = sent
    assert whole["text"][slice(*whole["transcript"])] == "Words, 再见."
    assert whole["text"].startswith("Transcript (may contain ASR errors):\nWords, 再见.\nTask: ")
    assert text["frames"] == [] and text["sound"] is None and text["seconds_per_frame"] == 0
    assert media["transcript"] == [0, 0] and media["text"].startswith("Task: ")
    assert len(whole["frames"]) == 2 and whole["seconds_per_frame"] == 0.25
    assert whole["replies"][0] == "A\nScore: -1.0" and len(whole["replies"]) == 11
    assert free["replies"] == [] and free["mode"] == "free"
    assert len({given["id"] for given in sent}) == 4


def test_a_score_is_the_best_of_the_letters_own_and_tokens_stand_beside_it(system):
    answers = system.answer([question(encoded(system), text) for text in ("abcd", "abc")])
    assert answers.label.tolist() == [4, 3] and answers.score.tolist() == [1.0, 0.6]
    assert answers.counts.tolist() == [[4, 1, 2], [3, 1, 2]]
    assert answers.details[0]["markers"] == {"A": 1, "V": 1}


def test_what_only_a_decoder_can_do_is_refused_by_name(system):
    clip = encoded(system)
    with pytest.raises(NotOffered, match="faulty only answers"):
        system.answer([question(clip)], trace=True)
    region = np.ones((2, 16, 16), bool)
    with pytest.raises(NotOffered, match="keep the person by pixels alone"):
        system.encode([Media(Frames(grey_frames(2, 16), 4.0), None, region)])
    with pytest.raises(ValueError, match="needs A; the clip has none"):
        system.answer([question(encoded(system, sound=False))])
    with pytest.raises(DriverFailed, match="scores for some questions"):
        system.answer([question(clip, "fault:scoreless"), question(clip)])


def test_the_fingerprint_follows_what_the_driver_says_of_itself_and_is_told(tmp_path):
    systems = [faulty(tmp_path / f"{i}.log", options={"dtype": d}) for i, d in enumerate("aab")]
    prints = [run_fingerprint(system, MEDIA)[0] for system in systems]
    assert prints[0] == prints[1] != prints[2]
    assert systems[0].settings()["driver"]["weights"] == "none"
    # It was started for that, and once.
    assert len((tmp_path / "0.lives").read_text().split()) == 1
    for system in systems:
        system.close()


def test_only_what_is_named_like_a_secret_is_hidden(monkeypatch):
    monkeypatch.setenv("TEST_PLACE", "/somewhere/else")
    assert without_secrets("sk-very-secret in /somewhere/else") == "[hidden] in /somewhere/else"


# Names


def test_a_driver_is_named_in_a_profile_with_its_options(tmp_path):
    name = f"driver:videollama2?python={sys.executable}&repo={tmp_path}&weights=A/B&revision={'a' * 40}"
    named = Named.of(name)
    system = load_system(named.path, device="cuda", dtype="bfloat16", **named.options)
    assert shown_name(named) == system.title == "VideoLLaMA2.1-7B-AV"
    assert system.command == [
        sys.executable, str(SCRIPTS / "videollama2.py"), "--device", "cuda", "--dtype", "bfloat16",
        "--repo", str(tmp_path), "--weights", "A/B", "--revision", "a" * 40,
    ]  # fmt: skip
    assert system.options == {"dtype": "bfloat16", "revision": "a" * 40}
    assert shown_name(Named.of("Qwen/Qwen2.5-Omni-7B")) == "Qwen2.5-Omni-7B"


@pytest.mark.parametrize(
    ("name", "said"),
    [("driver:nobody", "names no driver; known are driver:echo, driver:videollama2"),
     ("driver:echo?weights=A/B", "knows no option weights; its are python, timeout, loading"),
     ("driver:videollama2?python=/no/python", r"needs the option weights=OWNER/MODEL \(or a folder\); "
      "needs the option revision=COMMIT; needs .* repo=/path.*; python=/no/python cannot be run"),
     ("driver:minicpm_o?weights=A/B&revision=main", "needs the option trust-remote-code=yes; "
      "revision=main is no commit of 40 hexadecimal digits"),
     ("driver:minicpm_o?weights=A/B&trust-remote-code=1", "trust-remote-code=1 is neither absent nor"),
     (f"driver:video_salmonn2?weights=A/B&revision={'a' * 40}&repo=docs&siglip=docs",
      "salmonn2: needs the option whisper-revision=COMMIT"),
     ("driver:echo?timeout=soon", "timeout=soon is no number of seconds")],
)  # fmt: skip
def test_options_that_are_wrong_are_all_named_before_anything_starts(name, said):
    with pytest.raises(ValueError, match=said):
        open_driver(Named.of(name))


def test_a_check_says_what_would_be_run_fetched_and_sent_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}")
    rows = check_driver(f"driver:echo?python={sys.executable}")
    assert rows[0].startswith(f"echo (no model): runs {sys.executable} ")
    assert "nothing is installed" in rows[1] and "to this process alone" in rows[2]
    monkeypatch.setitem(DRIVERS, "big", DRIVERS["minicpm_o"])
    monkeypatch.setattr("emomm_study.systems.isolated.table.SCRIPTS", tmp_path)
    header = '# /// script\n# dependencies = ["torch==2.3.1", "numpy<2"]\n# ///\nimport torch\n'
    (tmp_path / "minicpm_o.py").write_text(header)
    rows = check_driver(f"driver:big?weights=A/B&revision={'b' * 40}&trust-remote-code=yes")
    assert "/opt/uv run --script" in rows[0] and "--trust-remote-code" in rows[0]
    assert "downloads what it lacks of: torch==2.3.1, numpy<2" in rows[1]
    assert f"A/B at {'b' * 40} are downloaded from the hub" in rows[2]
    assert "runs the Python code that lies beside the weights" in rows[3]
    assert rows[-1] == "paid: nothing" and _requirements("import os\n") == []


# The driver without a model, and serving


def test_echo_answers_from_words_alone_and_says_that_it_is_no_model(tmp_path):
    system = load_system("driver:echo")
    assert system.fingerprint == "echo (no model)@none, a rule about words"
    assert shown_name(Named.of("driver:echo")) == system.title == "echo (no model)"
    clip = encoded(system)
    cues = [(cue, k) for lex in LEXICONS.values() for k, own in enumerate(lex.cues) for cue in own]
    queries = [question(clip, cue) for cue, _ in cues]
    assert system.answer(queries).label.tolist() == [k for _, k in cues]
    assert system.reply(queries)[:1] == ["A\nScore: -1.0"]
    assert system.answer([question(clip, "x", "AV")]).label.tolist() == [LETTERS.index("C")]
    system.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"letters": [float("nan")] * 5}, "letters are not finite; try bfloat16"),
     ({"letters": [1.0]}, "expected five logits"), ({"letters": [1.0] * 5, "scores": [1.0]}, "expected 2 scores; got 1"),
     ({}, "expected five logits")],
)  # fmt: skip
def test_serving_refuses_what_is_no_answer_and_goes_on(answer, said, monkeypatch, capsys):
    line = {"id": "1", "frames": [], "sound": None, "seconds_per_frame": 0.0, "system": "", "text": "",
            "transcript": [0, 0], "replies": ["A", "B"], "mode": "letters"}  # fmt: skip
    monkeypatch.setattr(
        sys, "stdin", [json.dumps(line), json.dumps(line | {"mode": "free", "id": "2"})]
    )
    given = iter([serving.Answer(**answer), serving.Answer(reply="\udcff")])
    serving.serve({"name": "x"}, lambda query: next(given), sys.stdout)
    hello, refused, said_next = map(json.loads, capsys.readouterr().out.splitlines())
    assert hello == {"name": "x", "hello": serving.PROTOCOL}
    assert refused["id"] == "1" and said in refused["error"] and "letters" not in refused
    assert said_next["reply"] == "\udcff" and said_next["id"] == "2"
