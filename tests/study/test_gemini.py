"""Gemini against a local server: what is sent, what is kept, what is asked again, what is paid."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import multiprocessing
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

pytest.importorskip("google.genai", reason="google-genai is an optional extra (api)")

from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import Corpus, score_to_label
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.failures import IN_A_ROW, RunStopped
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import Frames, VideoSettings
from emomm_study.systems.gemini import (
    ADDRESS,
    REMARK,
    Gemini,
    allowed_replies,
    asked_for,
    silent_film,
)
from emomm_study.systems.gemini_jobs import keyed, portions
from emomm_study.systems.interface import Media, NotOffered
from emomm_study.systems.paid import Asked, Budget, OverBudget, Prices, Tokens, spent
from emomm_study.systems.prompts import SYSTEM_PROMPT, parse_reply
from emomm_study.systems.table import load_system
from tests.fake_gemini import OF_THE_ANSWER, ON_THE_WAY, TRANSIENT, VERSION, FakeGemini, usage
from tests.tiny_media import grey_frames, tone, write_mp4

KEY = "not-a-key-but-a-secret"
QUICK = {"timeout": 10, "attempts": 2, "first_wait": 0.01, "patience": 25, "concurrency": 8}
MEDIA = MediaSettings(VideoSettings(num_frames=2), AudioSettings(max_seconds=2.0))
ALL = ("TAV", "TA", "TV", "AV", "T", "A", "V", "none")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A film with a sound track, and a sound, that all clips share."""
    folder = tmp_path_factory.mktemp("clips")
    write_mp4(folder / "0.mp4", frames=grey_frames(size=34), sound=tone())
    sf.write(folder / "0.wav", tone(), 16_000)
    return folder


def clips(texts, corpus="ch_sims_v2"):
    return pd.DataFrame(
        {"sample_id": [str(i) for i in range(len(texts))], "corpus": corpus, "text": texts,
         "video_path": "0.mp4", "audio_path": "0.wav"}
    )  # fmt: skip


def experiment(server, files, store, texts, **options):
    model = Gemini.load("fake-1", base_url=server.url, **{**QUICK, "budget": "any", **options})
    manifest = clips(texts)
    roots = {"ch_sims_v2": files, "cmu_mosi": files}
    return Experiment(model, manifest, roots, PredictionStore(store), MEDIA, 16, progress=False)


def answered(bench, coalitions=("T",), **options):
    table = bench.predictions(bench.clips, list(coalitions), **options)
    assert len(table) == len(bench.clips) * len(coalitions)
    return table


# What is sent


@pytest.fixture(scope="module")
def sent(files, tmp_path_factory):
    """One clip's requests by coalition, answered in both ways, and the store."""
    store = tmp_path_factory.mktemp("sent") / "answers.sqlite"
    with FakeGemini() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", KEY)
        bench = experiment(server, files, store, ["好的 good"])
        table = answered(bench, ALL)
        letters = {json.dumps(r["body"]["contents"]): r for r in server.requests}
        server.requests.clear()
        free = answered(bench, ALL, decoding="free")
    return list(letters.values()), list(server.requests), table, free, store


def parts(request):
    return request["body"]["contents"][0]["parts"]


def test_parts_come_in_the_order_of_the_appendix_and_only_those_of_the_coalition(sent):
    requests, free, *_ = sent
    assert len(requests) == len(free) == len(ALL)
    found = set()
    for request in (*requests, *free):
        [turn] = request["body"]["contents"]
        assert turn["role"] == "user"
        kinds = [p.get("inlineData", {}).get("mimeType", "text") for p in turn["parts"]]
        assert kinds == sorted(kinds, key=["video/mp4", "audio/wav", "text"].index)
        text = turn["parts"][-1]["text"]
        present = text.split("modalities (")[1].split(")")[0]
        assert ("video/mp4" in kinds) == ("video" in present)
        assert ("audio/wav" in kinds) == ("audio" in present)
        assert ("好的 good" in text) == ("transcript text" in present)
        found.add(present)
    assert len(found) == len(ALL)


def test_a_video_part_has_the_frames_at_their_rate_and_no_sound_track(sent):
    films = [
        p for r in sent[0] for p in parts(r) if "mp4" in p.get("inlineData", {}).get("mimeType", "")
    ]
    assert len(films) == 4
    for part in films:
        assert part["videoMetadata"] == {"fps": 2.0}
        with av.open(io.BytesIO(base64.urlsafe_b64decode(part["inlineData"]["data"]))) as film:
            assert [stream.type for stream in film.streams] == ["video"]
            assert film.streams.video[0].average_rate == 2
            shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        # Of eight grey frames the third and the seventh.
        assert [round(frame.mean() * 8 / 255) for frame in shown] == [2, 6]
        assert shown[0].shape == (34, 34, 3)


def test_a_sound_part_is_the_clips_sound_as_the_harness_cut_it(sent):
    sounds = [
        p for r in sent[0] for p in parts(r) if "wav" in p.get("inlineData", {}).get("mimeType", "")
    ]
    assert len(sounds) == 4
    samples, rate = sf.read(io.BytesIO(base64.urlsafe_b64decode(sounds[0]["inlineData"]["data"])))
    assert rate == 16_000 and samples == pytest.approx(tone(), abs=1e-4)


def test_the_configuration_is_deterministic_unblocked_and_holds_the_answer_to_the_format(sent):
    requests, free, *_ = sent
    for request in (*requests, *free):
        body = request["body"]
        assert request["path"] == "/v1beta/models/fake-1:generateContent"
        assert body["systemInstruction"]["parts"] == [{"text": SYSTEM_PROMPT}]
        config = dict(body["generationConfig"])
        assert config.pop("temperature") == 0 and config.pop("maxOutputTokens") == 4096
        assert config.pop("thinkingConfig") == {"thinkingLevel": "LOW"}
        assert {s["threshold"] for s in body["safetySettings"]} == {"OFF"}
        assert len(body["safetySettings"]) == 4
        config.pop("candidateCount")
        if request in free:
            assert not config
            continue
        assert config.pop("responseMimeType") == "text/x.enum"
        schema = config.pop("responseSchema")
        assert schema == {"type": "STRING", "enum": list(allowed_replies("ch_sims_v2"))}
        assert not config


def test_answers_have_a_legal_score_no_logits_and_what_was_counted(sent):
    requests, _, table, free, _ = sent
    assert table["failure"].isna().all() and table.filter(like="logit_").isna().all(axis=None)
    labels = score_to_label(table["score"], "ch_sims_v2")
    assert (labels == table["label"]).all()
    assert free["reply"].notna().all() and free["label"].notna().all()
    said = [json.loads(text) for text in table["details"]]
    assert {own["model_version"] for own in said} == {VERSION}
    bill = spent(table["details"], Prices(1.0, 10.0, audio=2.0))
    counts = [usage(request["body"]) for request in requests]
    assert bill.tokens.total == sum(own["totalTokenCount"] for own in counts)
    assert (bill.requests, bill.tokens.audio, bill.tokens.video) == (8, 4 * 32, 4 * 2 * 258)
    read = bill.tokens.text + bill.tokens.video
    assert bill.money == pytest.approx((read + 2 * 4 * 32 + 10 * 8 * 25) / 1e6)
    by = dict(zip(table["coalition"], said, strict=True))
    assert "video" not in by["TA"]["tokens"] and "audio" not in by["V"]["tokens"]


def test_the_key_is_sent_and_nowhere_kept(files, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    store = tmp_path / "answers.sqlite"
    faults = {"none": ("400",), "far": ("503",)}
    with FakeGemini(faults) as server:
        bench = experiment(server, files, store, ["one", "none", "far"])
        table = answered(bench)
        assert {r["headers"]["x-goog-api-key"] for r in server.requests} == {KEY}
    assert table["failure"].notna().sum() == 2
    assert table["failure"].str.contains("[…]", regex=False).sum() == 2
    assert KEY not in json.dumps(bench.model.settings()) and KEY not in repr(vars(bench.model))
    assert KEY not in caplog.text and "one" in bench.clips["text"].tolist()
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes(), file
    monkeypatch.delenv("GEMINI_API_KEY")
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "b.sqlite", ["one"])
        with pytest.raises(RunStopped, match="set GEMINI_API_KEY or GOOGLE_API_KEY"):
            answered(bench)
        assert not server.requests


# What goes wrong


@pytest.mark.parametrize("fault", [*TRANSIENT, "slow"])
def test_a_fault_on_the_way_is_asked_again_at_once_and_answered(fault, files, tmp_path):
    options = {"timeout": 0.5} if fault in ("hang", "drip") else {}
    with FakeGemini({"word": [fault]}) as server:
        table = answered(experiment(server, files, tmp_path / "a.sqlite", ["word"], **options))
        assert table["failure"].isna().all() and table["label"].notna().all()
        assert len(server.requests) == (1 if fault == "slow" else 2)
    if fault in ("429 after", "429 delay"):
        first, second = (request["time"] for request in server.requests)
        assert second - first >= 0.2


def test_every_fault_is_a_row_with_its_reason_and_is_asked_once_again_in_the_next_run(
    files, tmp_path
):
    words = [f"w{i}w" for i in range(len(ON_THE_WAY) + len(OF_THE_ANSWER))]
    faults = {
        word: (fault,) for word, fault in zip(words, (*ON_THE_WAY, *OF_THE_ANSWER), strict=True)
    }
    store = tmp_path / "a.sqlite"
    with FakeGemini(faults) as server:
        bench = experiment(server, files, store, [*words, "good"], timeout=3)
        table = answered(bench).set_index("sample_id")
        asked = [next((w for w in (*words, "good") if w in text), None) for text in server.texts()]
        server.faults.clear()
        server.requests.clear()
        again = answered(bench)
        assert again["failure"].isna().all() and again["again"].isna().all()
        assert len(server.requests) == len(set(server.texts())) == len(words)
        answered(bench)
        assert len(server.requests) == len(words)
    reasons = dict(
        zip(faults.values(), table["failure"].reindex(map(str, range(len(words)))), strict=True)
    )
    expected = {
        "429": "answered 429", "429 after": "answered 429", "429 delay": "answered 429",
        "500": "answered 500", "503": "answered 503", "hang": "no answer within 3 s",
        "drop": "the connection failed", "drip": "no answer within 3 s",
        "garbage": "is no JSON", "empty": "an empty answer", "odd": "cannot be read",
        "blocked": "blocked (PROHIBITED_CONTENT)", "SAFETY": "by itself (SAFETY)",
        "MAX_TOKENS": "by itself (MAX_TOKENS)", "cut": "by itself (MAX_TOKENS)",
        "wrong": "none of the answers", "prose": "none of the answers", "none": "no candidates",
        "no text": "no text", "400": "answered 400",
    }  # fmt: skip
    for (fault,), reason in reasons.items():
        assert expected[fault] in reason, (fault, reason)
    failed = table["failure"].notna()
    assert failed.sum() == len(words) and table.loc[failed, ["label", "score"]].isna().all(
        axis=None
    )
    for (fault,), word in zip(faults.values(), words, strict=True):
        assert asked.count(word) == (2 if fault in TRANSIENT else 1), fault
    # What a failed answer cost is kept beside it.
    assert json.loads(table.loc[str(words.index("w12w")), "details"])["tokens"]


def test_a_question_without_an_answer_stays_failed_after_it_was_asked_once_again(files, tmp_path):
    faults = {"blocked": ("blocked",), "down": ("503",)}
    with FakeGemini(faults) as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["blocked", "down"])
        counts = []
        for _ in range(4):
            server.requests.clear()
            table = answered(bench)
            counts.append(["blocked" in "".join(server.texts()), len(server.requests)])
        assert table["failure"].notna().all() and table["again"].isna().tolist() == [True, False]
    assert counts == [[True, 3], [True, 3], [False, 2], [False, 2]]


@pytest.mark.parametrize(
    ("fault", "said"), [("401", "answered 401"), ("404", "answered 404 NOT_FOUND")]
)
def test_what_no_question_would_get_an_answer_to_ends_the_run_at_once(fault, said, files, tmp_path):
    with FakeGemini({"w": (fault,)}) as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"] * 30, concurrency=2)
        with pytest.raises(RunStopped, match=said):
            answered(bench)
        assert len(server.requests) <= 2
    assert bench.store.read(bench.fingerprint).empty


def test_a_service_that_is_down_ends_the_run_and_keeps_what_it_answered(files, tmp_path):
    texts = ["good", *["down"] * (IN_A_ROW + 3)]
    with FakeGemini({"down": ("503",)}) as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", texts, attempts=1, concurrency=1)
        with pytest.raises(RunStopped, match="20 questions in a row unanswered"):
            answered(bench)
        server.faults.clear()
        server.requests.clear()
        assert answered(bench)["failure"].isna().all()
        assert "good" not in "".join(server.texts())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("-3", 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9), ("soon", None), ("nan", None)],
)
def test_a_wish_to_wait_is_read_in_seconds_or_as_a_date(header, seconds):
    response = SimpleNamespace(headers={"retry-after": header})
    found = asked_for(SimpleNamespace(response=response, details={}))
    assert found is None if seconds is None else min(found, 1e9) == seconds


def test_no_address_of_the_environment_is_asked(monkeypatch):
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    client = Gemini.load("some-id")._client()._api_client
    assert client._http_options.base_url == ADDRESS and not client.vertexai


# How it is asked


def test_no_more_requests_are_under_way_than_are_allowed(files, tmp_path):
    with FakeGemini(pause=0.05) as server:
        answered(experiment(server, files, tmp_path / "a.sqlite", ["w"] * 4, concurrency=3), ALL)
        assert 1 < server.most <= 3 and len(server.requests) == 32


def test_requests_are_spaced_by_the_minute(files, tmp_path):
    with FakeGemini() as server:
        answered(
            experiment(server, files, tmp_path / "a.sqlite", ["w"] * 3, rpm=600), ["T", "none"]
        )
        times = np.array([request["time"] for request in server.requests])
    # As they arrive: a late one makes the next gap shorter.
    assert len(times) == 6 and times[-1] - times[0] >= 0.48


def test_a_servers_wish_to_wait_holds_for_all_questions(files, tmp_path):
    with FakeGemini({"first": ["429 after"]}) as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["first", "b", "c"], concurrency=1)
        table = answered(bench, ["T", "TA"])
        assert table["failure"].isna().all()
        server.after = 30
        server.faults["z"] = ["429 after"]
        slow = experiment(server, files, tmp_path / "b.sqlite", ["z"])
        begun = time.monotonic()
        assert "answered 429" in answered(slow)["failure"][0]
        assert time.monotonic() - begun < 20, "a wait beyond the patience is not begun"


# In jobs


def test_a_job_is_taken_up_by_its_name_where_a_run_was_broken_off(files, tmp_path, monkeypatch):
    texts, jobs = ["a", "blocked", "lost", "stranger"], tmp_path / "jobs"
    options = {"jobs": str(jobs), "poll": "0.01"}
    with FakeGemini() as server:
        plain = answered(experiment(server, files, tmp_path / "a.sqlite", texts), ["TAV", "none"])
        server.requests.clear()
        server.faults = {"blocked": "blocked", "lost": "error", "stranger": "stranger"}
        bench = experiment(server, files, tmp_path / "b.sqlite", texts, **options)

        async def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("emomm_study.systems.gemini_jobs._ended", killed)
            answered(bench, ["TAV", "none"])
        assert len(server.jobs) == 1 and len(list(jobs.iterdir())) == 1
        assert bench.store.read(bench.fingerprint).empty
        table = answered(bench, ["TAV", "none"])
        assert len(server.jobs) == 1 and not list(jobs.iterdir()) and not server.requests
        failed = table.set_index(["coalition", "sample_id"])["failure"].dropna()
        assert failed.index.tolist() == [("TAV", "1"), ("TAV", "2"), ("TAV", "3")]
        for reason, said in zip(
            failed, ["blocked", "no such media", "without an answer"], strict=True
        ):
            assert said in reason
        server.faults.clear()
        table = answered(bench, ["TAV", "none"])
        requests = server.jobs["batches/1"]["body"]["batch"]["inputConfig"]["requests"]["requests"]
        assert len(server.jobs) == 2 and len(requests) == 3
        assert requests[0]["request"]["generationConfig"]["thinkingConfig"] == {
            "thinkingLevel": "LOW"
        }
    columns = ["sample_id", "coalition", "label", "score", "failure"]
    pd.testing.assert_frame_equal(table[columns], plain[columns])
    assert spent(table["details"]).tokens == spent(plain["details"]).tokens


def test_a_job_holds_no_more_than_the_service_takes():
    bodies = [([], {}, size) for size in (5, 5, 1, 12, 3)]
    parts = [[r.size for r in part] for part in portions(keyed(bodies), 10)]
    assert parts == [[5, 5], [1], [12], [3]]
    assert len({request.key for request in keyed(bodies)}) == 5


# What is paid


def test_the_estimate_is_arithmetic_and_nothing_is_sent_for_it(files, tmp_path):
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"] * 2, expected_output=25,
                           input_price="2", output_price="12", budget="1")  # fmt: skip
        check = bench.check(bench.clips, ALL)
        assert not server.requests and (check.known, check.questions) == (0, 16)
        assert check.refused is None
        table = answered(bench, ALL)
        real = spent(table["details"], bench.model.prices)
        assert check.bill.tokens.audio == real.tokens.audio == 2 * 4 * 32
        assert check.bill.tokens.video == real.tokens.video == 2 * 4 * 2 * 258
        # The fake counts no system instruction.
        assert 0 < check.bill.tokens.text - real.tokens.text <= 16 * (len(SYSTEM_PROMPT) / 4 + 2)
        assert bench.model.spent.tokens == real.tokens
        assert bench.check(bench.clips, ALL).questions == 0
        assert f"{real.money:,.2f} at the prices given" in str(real)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"budget": None}, "nothing is sent without consent: set budget="),
     ({"budget": "100tokens"}, r"about 8 requests, [\d,]+ tokens .*; the budget is 100 tokens"),
     ({"budget": "0.001", "input_price": 2, "output_price": 12}, "0.0[0-9] at the prices given")],
)  # fmt: skip
def test_a_run_above_its_budget_is_refused_with_the_numbers(options, said, files, tmp_path):
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"], **options)
        assert bench.check(bench.clips, ALL).refused
        with pytest.raises(OverBudget, match=said):
            answered(bench, ALL)
        assert not server.requests


def test_what_is_spent_counts_and_a_budget_that_runs_out_ends_the_run(files, tmp_path):
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"] * 8, concurrency=1,
                           expected_output=0, budget="3700tokens")  # fmt: skip
        bench.model.estimate = lambda asked: Gemini.estimate(bench.model, list(asked)[:1])
        with pytest.raises(RunStopped, match="the budget of 3,700 tokens is spent: .* kept"):
            answered(bench, ["AV"])
        assert 0 < len(bench.store.read(bench.fingerprint)) == len(server.requests) < 8


def test_budgets_and_options_are_read_as_they_are_written(monkeypatch):
    model = load_system(
        "gemini:some-id", rpm="60", concurrency="8", budget="2e6tokens", thinking="128",
        media_resolution="low",
    )  # fmt: skip
    assert model.service.rpm == 60 and model.service.concurrency == 8
    assert model.budget == Budget(2e6, "tokens")
    assert model.settings()["model"] == "gemini:some-id" and "rpm" not in model.settings()
    for options, said in [
        ({"budget": "12"}, "say 12tokens"), ({"budget": "much"}, "got 'much'"),
        ({"rpm": "x"}, "rpm is a number"), ({"rmp": "1"}, r"no options \['rmp'\]"),
        ({"thinking": "hard"}, "thinking is one of"), ({"input_price": "1"}, "go together"),
        ({"media_resolution": "4k"}, "media_resolution is one of"), ({"answer": "x"}, "answer is"),
        ({"concurrency": "0"}, "at least 1"), ({"timeout": "0"}, "are positive"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            load_system("gemini:some-id", **options)
    with pytest.raises(ValueError, match="gemini:MODEL_ID"):
        load_system("gemini:")
    assert "2026-03-09" in REMARK
    bill = model.estimate([Asked("x" * 400, seconds=2.5, frames=4)])
    assert (bill.tokens.audio, bill.tokens.video, bill.money) == (80, 4 * 70, None)
    assert Prices(2, 12).of(Tokens(text=500_000, answer=100_000)) == pytest.approx(2.2)


# What it offers


def test_the_allowed_replies_are_those_of_the_prompt():
    for corpus in Corpus:
        allowed = allowed_replies(corpus)
        assert len(allowed) == 11
        for text, (label, score) in allowed.items():
            parsed = parse_reply(text, corpus)
            assert (parsed.outcome, parsed.label, parsed.score) == ("ok", label, score)


def test_letters_alone_have_no_score(files, tmp_path):
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"], answer="letter")
        table = answered(bench, ALL)
        schema = server.requests[0]["body"]["generationConfig"]["responseSchema"]
    assert schema["enum"] == list(LETTERS)
    assert table["failure"].isna().all() and table["score"].isna().all()
    assert table["label"].between(0, 4).all()


def test_what_needs_a_decoder_is_not_offered(files, tmp_path):
    with FakeGemini() as server:
        bench = experiment(server, files, tmp_path / "a.sqlite", ["w"])
        with pytest.raises(NotOffered):
            bench.predictions(bench.clips, ["T"], traces=True)
        with pytest.raises(NotOffered, match="neither attention nor hidden states"):
            bench.model.answer([], trace=True)
        frames = Frames(grey_frames(), 2.0)
        with pytest.raises(NotOffered, match="no tokens that could be dropped"):
            bench.model.encode([Media(frames, None, np.ones((8, 32, 32), bool))])
        assert not server.requests


def test_a_films_bytes_are_the_same_every_time():
    frames = Frames(np.random.default_rng(0).integers(0, 255, (3, 33, 47, 3), np.uint8), 29.97)
    first = silent_film(frames)
    assert first == silent_film(frames)
    with av.open(io.BytesIO(first)) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == 3 and shown[0].shape == (32, 46, 3)


# Killed


def _run(url, files, store, texts):
    answered(experiment(SimpleNamespace(url=url), files, store, texts, concurrency=4), ["TA"])
    os._exit(0)


def test_a_run_that_is_killed_goes_on_without_asking_what_is_answered(files, tmp_path):
    texts = [f"word {i}." for i in range(32)]
    with FakeGemini(pause=0.02) as server:
        whole = answered(experiment(server, files, tmp_path / "whole.sqlite", texts), ["TA"])
        server.faults = {"word 3.": ["503"], "word 5.": ["blocked"]}
        bench, draw, kept = (
            experiment(server, files, tmp_path / "a.sqlite", texts),
            random.Random(7),
            [],
        )
        for _ in range(4):
            known = {int(key[0]) for key in bench.store.known(bench.fingerprint)}
            kept.append(len(known))
            server.requests.clear()
            # Threads of garbage would be waited for in the child, which does not have them.
            gc.collect()
            process = multiprocessing.get_context("fork").Process(
                target=_run, args=(server.url, files, bench.store.path, texts)
            )
            process.start()
            moment = draw.randint(3, 9)
            while len(server.requests) < moment and process.is_alive():
                time.sleep(0.002)
            time.sleep(draw.uniform(0.0, 0.02))
            process.kill()
            process.join(20)
            asked = "".join(server.texts())
            assert not [i for i in known if f"word {i}." in asked]
        assert kept == sorted(kept) and kept[-1] > 0
        answered(bench, ["TA"])
        table = answered(bench, ["TA"])
    columns = ["sample_id", "coalition", "label", "score", "failure"]
    pd.testing.assert_frame_equal(table[columns], whole[columns])
