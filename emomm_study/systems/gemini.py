"""Gemini through its API: frames as a silent film, sound as a wav, one request a question."""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch

from emomm_lib.labels import CLASSES, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.failures import IN_A_ROW, Broken, is_the_programs, named
from emomm_study.media.video import Frames
from emomm_study.systems import prompts
from emomm_study.systems.gemini_jobs import Job, Request, ask_jobs, keyed
from emomm_study.systems.interface import (
    Answers,
    Encoded,
    Media,
    NotOffered,
    Query,
    Said,
    Unanswered,
    Wrote,
)
from emomm_study.systems.paid import (
    Asked,
    Bill,
    Budget,
    OverBudget,
    Prices,
    Tokens,
    as_json,
    counted,
)

REMARK = (
    "the paper's gemini-3-pro-preview was shut down on 2026-03-09; a row of today is another "
    "model's, named by its own id"
)
"""What Table 1 says beside a row of Gemini."""
ADDRESS = "https://generativelanguage.googleapis.com/"
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
"""Where the key is looked for, and nowhere else."""
HARMS = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
INLINE = 20_000_000
"""Bytes of a request with its media in it."""
FASTEST = 24.0
"""Frames a second that the API samples at most."""
AUDIO_TOKENS = 32
"""A second of sound, ..."""
FRAME_TOKENS = {None: 258, "low": 70, "medium": 258, "high": 280}
"""... and a frame, by the media resolution: the most that any family of models takes."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
REFUSED = frozenset({401, 403, 404})
FILM = {"codec": "libx264", "crf": "12", "pixels": "yuv420p"}


@dataclass(frozen=True)
class Sent:
    """What of a request can change its answer.

    Attributes
    ----------
    model
        The id, always the user's.
    thinking
        ``minimal, low, medium, high``, a number of tokens for families before 3, or ``off`` to say
        nothing of it.
    media_resolution
        ``low, medium, high``; None leaves it to the model.
    max_output_tokens
        Thoughts count against them.
    answer
        ``reply``: one of the eleven replies that the prompt allows, letter and score. ``letter``:
        one of A..E, without a score.
    """

    model: str
    thinking: str = "low"
    media_resolution: str | None = None
    max_output_tokens: int = 4096
    answer: str = "reply"

    def __post_init__(self) -> None:
        levels = ("minimal", "low", "medium", "high", "off")
        if not self.model:
            raise ValueError("gemini: names a model's id after the colon, as gemini:MODEL_ID")
        if self.thinking not in levels and not self.thinking.isdigit():
            raise ValueError(f"thinking is one of {levels} or a number; got {self.thinking!r}")
        if self.media_resolution not in FRAME_TOKENS:
            known = [name for name in FRAME_TOKENS if name]
            raise ValueError(f"media_resolution is one of {known}; got {self.media_resolution!r}")
        if self.answer not in ("reply", "letter"):
            raise ValueError(f"answer is reply or letter; got {self.answer!r}")
        if self.max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is at least 1; got {self.max_output_tokens}")


@dataclass(frozen=True)
class Service:
    """How the service is asked; none of it changes an answer.

    Attributes
    ----------
    rpm, concurrency
        Requests a minute, evenly spaced (None for no limit), and how many are under way at once.
    timeout
        Seconds that one attempt may take from its first byte to its last.
    attempts, patience, first_wait
        How often one question is tried, within how many seconds, and the seconds before the second
        attempt, which double from one to the next.
    jobs
        A folder; then questions go in batch jobs, whose names are kept there
        (:mod:`emomm_study.systems.gemini_jobs`), and ``poll`` is how often, in seconds, they are
        looked after. One batch of clips is asked at a time: choose a large one.
    base_url
        Another server that speaks the same protocol; part of a run's fingerprint.
    """

    rpm: float | None = None
    concurrency: int = 4
    timeout: float = 120.0
    attempts: int = 6
    patience: float = 600.0
    first_wait: float = 1.0
    jobs: str | None = None
    poll: float = 30.0
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(f"concurrency and attempts are at least 1; got {self}")
        if self.timeout <= 0 or (self.rpm is not None and self.rpm <= 0):
            raise ValueError(f"timeout and rpm are positive; got {self}")


class Gemini:
    """A system that answers through the API of Gemini.

    Parameters
    ----------
    sent, service
        What is asked, and how.
    prices, budget
        Money for a million tokens, and what may be spent by this process. Without a budget nothing
        is sent: it is the user's consent to be charged.
    expected_output
        Tokens of thoughts and answer that the estimate reckons with, a request.

    The key is read from the environment at the first request, and kept nowhere else.
    """

    one_by_one = True
    remark = REMARK

    def __init__(
        self,
        sent: Sent,
        service: Service = Service(),
        *,
        prices: Prices | None = None,
        budget: Budget | None = None,
        expected_output: int = 512,
    ) -> None:
        self.sent, self.service = sent, service
        self.prices, self.budget, self.expected_output = prices, budget, expected_output
        self.spent = Bill(0, Tokens(), prices)
        """What this process has been charged for, as the service counted."""
        self._next, self._in_a_row, self._stop = 0.0, 0, None

    @classmethod
    def load(cls, model: str, **options: Any) -> Gemini:
        """``gemini:MODEL_ID?rpm=60&budget=…``: a model's id, and options as a profile writes them.

        Options are the fields of :class:`Sent` and :class:`Service`, ``input_price``,
        ``output_price`` and ``audio_price`` for a million tokens, ``budget`` (:meth:`Budget.of`) and
        ``expected_output``. Raises ``ValueError`` for others, and for values that are none.
        """
        left = {name: value for name, value in options.items() if value is not None}
        numbers = {"rpm": float, "timeout": float, "patience": float, "first_wait": float, "poll": float,
                   "concurrency": int, "attempts": int, "max_output_tokens": int}  # fmt: skip
        made = []
        for kind in (Sent, Service):
            names = [field.name for field in fields(kind) if field.name != "model"]
            own = {n: _number(n, left.pop(n), numbers.get(n, str)) for n in names if n in left}
            made.append(own)
        price = {n: _number(n, left.pop(n), float) for n in
                 ("input_price", "output_price", "audio_price") if n in left}  # fmt: skip
        prices = None
        if price:
            if not {"input_price", "output_price"} <= price.keys():
                raise ValueError(f"input_price and output_price go together; got {sorted(price)}")
            values = price["input_price"], price["output_price"], price.get("audio_price")
            prices = Prices(*values)
        budget = Budget.of(str(left.pop("budget")), prices) if "budget" in left else None
        expected = _number("expected_output", left.pop("expected_output", 512), int)
        if left:
            known = [f.name for kind in (Sent, Service) for f in fields(kind) if f.name != "model"]
            known += ["input_price", "output_price", "audio_price", "budget", "expected_output"]
            raise ValueError(f"gemini has no options {sorted(left)}; they are {', '.join(known)}")
        return cls(Sent(model, **made[0]), Service(**made[1]), prices=prices, budget=budget,
                   expected_output=expected)  # fmt: skip

    # What a system is

    @property
    def fingerprint(self) -> str:
        """The model's id; which version answered is kept beside every answer."""
        return f"gemini:{self.sent.model}"

    @property
    def device(self) -> torch.device:
        """The CPU, on which films are made."""
        return torch.device("cpu")

    def settings(self) -> dict[str, Any]:
        """All on this side that can change an answer; never the key."""
        found = {**asdict(self.sent), "model": self.fingerprint, "temperature": 0, "film": FILM,
                 "safety": dict.fromkeys(HARMS, "OFF"), "api": "v1beta"}  # fmt: skip
        found["constraint"] = {
            "reply": "text/x.enum of the replies that the prompt's format allows",
            "letter": "text/x.enum of A..E, no score",
        }[self.sent.answer]
        if self.service.base_url is not None:
            found["base_url"] = self.service.base_url
        return found

    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Each clip's film and sound as the bytes of their files, ``(1, bytes)`` uint8.

        ``grid`` is the film's ``(frames, height, width)``. Raises ``NotOffered`` for a region, whose
        tokens only a decoder can drop.
        """
        made = []
        for clip in clips:
            if clip.region is not None:
                raise NotOffered("Gemini shows no tokens that could be dropped; blot out pixels")
            film = grid = step = None
            if clip.frames is not None:
                film, step = _tensor(silent_film(clip.frames)), 1 / clip.frames.fps
                grid = torch.tensor(clip.frames.frames.shape[:3])
            sound = None if clip.sound is None else _tensor(wav(clip.sound))
            made.append(Encoded(film, grid, step, sound))
        return made

    def answer(
        self, queries: Sequence[Query], *, trace: bool = False, states: bool = False
    ) -> Answers:
        """Letters, and scores of the letters' grids, without logits; raises what :meth:`ask` gives."""
        if trace or states:
            raise NotOffered("Gemini only answers; it shows neither attention nor hidden states")
        said = self._all(queries, free=False)
        score = None if self.sent.answer == "letter" else np.array([a.score[0] for a in said])
        labels = np.array([a.label[0] for a in said], np.int64)
        return Answers(None, labels, score, details=[a.details[0] for a in said])

    def reply(self, queries: Sequence[Query]) -> list[str]:
        """What it writes when nothing constrains it; raises what :meth:`ask` gives."""
        return [wrote.text for wrote in self._all(queries, free=True)]

    def _all(self, queries: Sequence[Query], *, free: bool) -> list[Any]:
        found = dict(self.ask(queries, free=free))
        for said in found.values():
            if isinstance(said, Exception):
                raise said
        return [found[i] for i in range(len(queries))]

    # What is paid

    def estimate(self, asked: Iterable[Asked]) -> Bill:
        """What requests would take, by arithmetic: sound by seconds, film by frames, text by bytes.

        A token of text is reckoned as four bytes of UTF-8.
        """
        total, requests = Tokens(), 0
        for own in asked:
            text = math.ceil(len((prompts.SYSTEM_PROMPT + own.text).encode(errors="replace")) / 4)
            sound = math.ceil(own.seconds * AUDIO_TOKENS)
            film = own.frames * FRAME_TOKENS[self.sent.media_resolution]
            total += Tokens(text, sound, film, 0, self.expected_output)
            requests += 1
        return Bill(requests, total, self.prices)

    def allow(self, asked: Iterable[Asked]) -> None:
        """Raises :class:`OverBudget` with the numbers, where a run is not within the budget."""
        bill = self.estimate(asked)
        if not bill.requests:
            return
        numbers = f"{self.fingerprint}: this run would take about {bill}"
        if self.budget is None:
            raise OverBudget(
                f"{numbers}; nothing is sent without consent: set budget= (as 3000000tokens, as "
                "money beside input_price and output_price, or any)"
            )
        before = self.budget.cost(self.spent.tokens, self.prices)
        if before + self.budget.cost(bill.tokens, self.prices) > self.budget.limit:
            spent = f", {self.spent} are spent" if self.spent.requests else ""
            raise OverBudget(
                f"{numbers}{spent}; the budget is {self.budget}: raise budget=, or ask of fewer clips"
            )

    @property
    def address(self) -> str:
        """Of the server that is asked."""
        return self.service.base_url or ADDRESS

    @staticmethod
    def key() -> str:
        """The service's key, from the environment alone; raises ``Broken`` where there is none."""
        return _key()

    # What is sent

    def contents(self, query: Query) -> list[dict[str, Any]]:
        """One turn of the user's, its parts in the order of Appendix E."""
        parts: list[dict[str, Any]] = []
        [_, user] = prompts.messages(query.coalition, query.corpus, query.transcript)
        for part in user["content"]:
            if part["type"] == "video":
                rate = min(1 / query.clip.seconds_per_grid, FASTEST)
                film = {"data": _bytes(query.clip.video), "mime_type": "video/mp4"}
                parts.append({"inline_data": film, "video_metadata": {"fps": rate}})
            elif part["type"] == "audio":
                sound = {"data": _bytes(query.clip.audio), "mime_type": "audio/wav"}
                parts.append({"inline_data": sound})
            else:
                parts.append({"text": part["text"]})
        return [{"role": "user", "parts": parts}]

    def config(self, query: Query, *, free: bool) -> dict[str, Any]:
        """How a request is to be answered."""
        found: dict[str, Any] = {
            "system_instruction": prompts.SYSTEM_PROMPT,
            "temperature": 0.0,
            "candidate_count": 1,
            "max_output_tokens": self.sent.max_output_tokens,
            "safety_settings": [
                {"category": f"HARM_CATEGORY_{name}", "threshold": "OFF"} for name in HARMS
            ],
        }
        if self.sent.thinking.isdigit():
            found["thinking_config"] = {"thinking_budget": int(self.sent.thinking)}
        elif self.sent.thinking != "off":
            found["thinking_config"] = {"thinking_level": self.sent.thinking.upper()}
        if self.sent.media_resolution is not None:
            level = f"MEDIA_RESOLUTION_{self.sent.media_resolution.upper()}"
            found["media_resolution"] = level
        if not free:
            found["response_mime_type"] = "text/x.enum"
            allowed = list(self._allowed(query.corpus))
            found["response_schema"] = {"type": "STRING", "enum": allowed}
        return found

    def _allowed(self, corpus: Corpus) -> dict[str, tuple[int, float | None]]:
        if self.sent.answer == "letter":
            return {letter: (label, None) for label, letter in enumerate(LETTERS)}
        return allowed_replies(corpus)

    # Asking

    def ask(self, queries: Sequence[Query], *, free: bool = False) -> Iterator[tuple[int, Said]]:
        """What each question came to, as it comes: ``concurrency`` requests are under way at once.

        Raises :class:`emomm_study.failures.Broken` where the service refuses all alike: no key, or
        a wrong one; an unknown model; a budget that is spent; or :data:`IN_A_ROW` questions in a row
        that it did not answer. What was under way then is given before.
        """
        self._stop = None
        said: queue.SimpleQueue = queue.SimpleQueue()
        asking = _Asking(self._ask_all(queries, free, said), said)
        try:
            while (item := said.get()) is not None:
                if isinstance(item, Job):
                    # All of its answers have been taken by whoever asked.
                    item.note.unlink(missing_ok=True)
                    continue
                yield item
                self._count(item[1])
        finally:
            asking.end()
        if (error := asking.error or self._stop) is not None:
            raise error

    def _count(self, said: Said) -> None:
        down = isinstance(said, Unanswered) and said.again == "always"
        self._in_a_row = self._in_a_row + 1 if down else 0
        if self._in_a_row >= IN_A_ROW and self._stop is None:
            self._in_a_row = 0
            self._stop = Broken(
                f"the service left {IN_A_ROW} questions in a row unanswered (the last: {said}), so "
                "it is not the clips"
            )

    async def _ask_all(self, queries: Sequence[Query], free: bool, said: queue.SimpleQueue) -> None:
        free_places = asyncio.Semaphore(self.service.concurrency)
        self._next = 0.0
        async with self._client() as client:
            if self.service.jobs is not None:
                await self._ask_jobs(client, queries, free, said)
                return

            async def one(i: int, query: Query) -> None:
                async with free_places:
                    if self._stop is not None:
                        return
                    try:
                        found: Said = await self._answered(client, query, free)
                    except Broken as error:
                        self._stop = error
                        return
                    except Exception as error:
                        found = error
                    said.put((i, found))

            await asyncio.gather(*(one(i, query) for i, query in enumerate(queries)))

    def _client(self) -> Any:
        """The service's own client, for one loop."""
        try:
            from google import genai
        except ImportError:
            raise Broken(
                "google-genai is not installed; add it by the extra api (pip install -e '.[api]')"
            ) from None
        # It would say of every request that it was sent. The address is said, since one of the
        # environment's would be in no fingerprint.
        logging.getLogger("google_genai").setLevel(logging.WARNING)
        options = {"api_version": "v1beta", "timeout": int(self.service.timeout * 1000),
                   "base_url": self.address}  # fmt: skip
        return genai.Client(vertexai=False, api_key=self.key(), http_options=options).aio

    async def _ask_jobs(
        self, client: Any, queries: Sequence[Query], free: bool, said: queue.SimpleQueue
    ) -> None:
        bodies = []
        for query in queries:
            contents = self.contents(query)
            bodies.append((contents, self.config(query, free=free), _size(contents)))

        async def create(requests: list[Request]) -> str:
            source = [
                {"contents": r.contents, "config": r.config, "metadata": {"key": r.key}}
                for r in requests
            ]
            # Once: an answer that is lost on the way may have made the job all the same.
            make = lambda: client.batches.create(model=self.sent.model, src=source)  # noqa: E731
            return (await self._sent(make, attempts=1)).name

        async def look(name: str) -> Any:
            return await self._sent(lambda: client.batches.get(name=name))

        def read(request: Request, response: Any) -> Said:
            return self._read(response, queries[request.index], free)

        await ask_jobs(
            keyed(bodies), Path(self.service.jobs), INLINE, create=create, look=look, read=read,
            put=said.put, pause=self.service.poll,
        )  # fmt: skip

    async def _answered(self, client: Any, query: Query, free: bool) -> Said:
        contents, config = self.contents(query), self.config(query, free=free)
        if (size := _size(contents)) > INLINE:
            return Unanswered(
                f"its media take {size:,} bytes of a request, {INLINE:,} are allowed; choose fewer "
                "frames or seconds a clip"
            )
        begun = time.monotonic()
        send = lambda: client.models.generate_content(  # noqa: E731
            model=self.sent.model, contents=contents, config=config
        )
        try:
            response = await self._sent(send)
        except Unanswered as error:
            return error
        return self._read(response, query, free, seconds=round(time.monotonic() - begun, 3))

    def _read(self, response: Any, query: Query, free: bool, **more: Any) -> Said:
        """What a response says, after what it cost is counted."""
        tokens = self.spent.tokens + counted(response.usage_metadata)
        self.spent = Bill(self.spent.requests + 1, tokens, self.prices)
        allowed = None if free else self._allowed(query.corpus)
        return said_by(response, allowed, _details(response) | more)

    async def _sent(self, send: Callable[[], Awaitable], *, attempts: int | None = None) -> Any:
        """The response, after as many attempts as it takes and may take."""
        begun, service = time.monotonic(), self.service
        for attempt in itertools.count(1):
            await self._turn()
            self._within_budget()
            try:
                return await asyncio.wait_for(send(), service.timeout)
            except Exception as error:
                reason, wish = _transient(error, service.timeout)
            wait = service.first_wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            wait = min(wait, 60.0)
            if wish is not None:
                wait = wish + random.uniform(0, min(wait, 1.0))
                self._next = max(self._next, time.monotonic() + wish)
            left = service.patience - (time.monotonic() - begun)
            over = attempt >= (attempts or service.attempts) or wait > left
            if over or self._stop is not None:
                tried = "once" if attempt == 1 else f"{attempt} times"
                raise Unanswered(f"{reason}, asked {tried}", "always")
            await asyncio.sleep(wait)

    async def _turn(self) -> None:
        """Wait until another request may be sent: evenly spaced, and none before a server's word."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + (0.0 if self.service.rpm is None else 60.0 / self.service.rpm)
        if at > now:
            await asyncio.sleep(at - now)

    def _within_budget(self) -> None:
        if self.budget is None:
            raise Broken("nothing is sent without consent: set budget=")
        if self.budget.cost(self.spent.tokens, self.prices) > self.budget.limit:
            raise Broken(f"the budget of {self.budget} is spent: {self.spent}")


class _Asking:
    """A coroutine in a thread with a loop of its own, since a notebook's is taken.

    None is put where it has ended.
    """

    def __init__(self, work: Any, said: queue.SimpleQueue) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._thread = threading.Thread(target=self._run, args=(said,), daemon=True)
        self._thread.start()

    def _run(self, said: queue.SimpleQueue) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            said.put(None)

    def end(self) -> None:
        """Break off what is under way."""
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:
                pass  # It has just ended by itself.
            self._thread.join()


# Media


def silent_film(video: Frames) -> bytes:
    """An mp4 (H.264) of some frames at the rate they were sampled at, without a sound track.

    Every frame is a key frame. An odd width or height loses its last column or row, which the
    colours of the format cannot hold.
    """
    height, width = (side - side % 2 for side in video.frames.shape[1:3])
    if not (height and width):
        raise ValueError(f"frames of {video.frames.shape[1:3]} pixels are too small for a film")
    rate = Fraction(video.fps).limit_denominator(1000)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as film:
        options = {"crf": FILM["crf"], "g": "1", "threads": "1"}
        stream = film.add_stream(FILM["codec"], rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, FILM["pixels"]
        for frame in video.frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
    return file.getvalue()


def wav(sound: np.ndarray, rate: int = 16_000) -> bytes:
    """A wav of 16 bits, mono."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _size(contents: list[dict]) -> int:
    """Bytes of a request's media, as they are written."""
    media = [part["inline_data"]["data"] for part in contents[0]["parts"] if "inline_data" in part]
    return sum(len(data) * 4 // 3 for data in media)


def _tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())[None]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


# Answers


def allowed_replies(corpus: Corpus | str) -> dict[str, tuple[int, float]]:
    """The eleven replies that the prompt's format allows, and the class and score of each.

    ``allowed_replies("cmu_mosi")["E\\nScore: 1.0"] == (4, 1.0)``. A decoder that is held to them
    chooses a letter first and then one of its scores, as the prompt asks.
    """
    grid = GRIDS[Corpus(corpus)]
    return {
        prompts.reply(label, score): (label, score)
        for label in range(len(CLASSES))
        for score in grid.scores(label)
    }


def said_by(
    response: Any,
    allowed: Mapping[str, tuple[int, float | None]] | None,
    details: Mapping[str, Any],
) -> Answers | Wrote | Unanswered:
    """A response as an answer, if it is one of ``allowed``, or as free text where that is None.

    Whatever is not a whole text of an answer that ended by itself is :class:`Unanswered`.
    """

    def none(reason: str) -> Unanswered:
        return Unanswered(reason, "once", details)

    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason:
        return none(f"the prompt was blocked ({_word(feedback.block_reason)})")
    if not response.candidates:
        if response.usage_metadata is None:
            return Unanswered("the service sent an empty answer", "always", details)
        return none("the answer has no candidates")
    [candidate, *_] = response.candidates
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if (finish := _word(candidate.finish_reason)) != "STOP":
        return none(f"the answer did not end by itself ({finish or 'no reason is given'})")
    if not text.strip():
        return none("the answer has no text")
    if allowed is None:
        return Wrote(text, details)
    plain = {" ".join(reply.split()): found for reply, found in allowed.items()}
    if (found := plain.get(" ".join(text.split()))) is None:
        return none(f"{text.strip()[:80]!r} is none of the answers that were allowed")
    label, score = found
    scores = None if score is None else np.array([score])
    return Answers(None, np.array([label]), scores, details=[details])


def _details(response: Any) -> dict[str, Any]:
    """What is kept beside an answer: who gave it, and what was counted."""
    candidates = response.candidates or []
    found = {
        "model_version": response.model_version,
        "response": response.response_id,
        "finish": _word(candidates[0].finish_reason) if candidates else None,
    }
    found = {name: value for name, value in found.items() if value}
    if response.usage_metadata is not None:
        found["tokens"] = as_json(counted(response.usage_metadata))
    return found


def _word(value: Any) -> str:
    return "" if value is None else str(getattr(value, "value", value))


# Failures


def _transient(error: Exception, timeout: float) -> tuple[str, float | None]:
    """What failed on the way, and after how many seconds the server wants to be asked again.

    Raises :class:`Unanswered` for what no second attempt mends, :class:`Broken` for what no
    question would get an answer to, and ``error`` itself where it is the program's.
    """
    code = getattr(error, "code", None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "APIError" in kinds:
        said = f"{code} {getattr(error, 'status', None) or ''}".strip()
        words = without_key(str(getattr(error, "message", None) or ""))
        said = f"the service answered {said}" + (f" ({words[:200]})" if words else "")
        if code in TRANSIENT:
            return said, asked_for(error)
        if code in REFUSED or "API_KEY" in str(getattr(error, "details", "")):
            raise Broken(said) from None
        raise Unanswered(said, "once", kind=f"{type(error).__name__} {code}") from None
    if isinstance(error, TimeoutError) or "TimeoutException" in kinds:
        return f"no answer within {timeout:g} s", None
    if "UnknownApiResponseError" in kinds or "JSONDecodeError" in kinds:
        raise Unanswered("the service's answer is no JSON", "always") from None
    if "TransportError" in kinds or isinstance(error, ConnectionError):
        return f"the connection failed ({type(error).__name__})", None
    if is_the_programs(error):
        raise error
    said = without_key(named(error))
    raise Unanswered(
        f"the service's answer cannot be read ({said})", "always", kind=type(error).__name__
    )


def asked_for(error: Any) -> float | None:
    """Seconds that a server asks for, by its ``Retry-After`` or the ``retryDelay`` in its body."""
    headers = getattr(error.response, "headers", None) or {}
    asked = headers.get("retry-after")
    if asked is None:
        body = error.details if isinstance(error.details, dict) else {}
        body = body.get("error", body)
        for part in body.get("details") or []:
            if isinstance(part, dict) and "retryDelay" in part:
                asked = str(part["retryDelay"]).removesuffix("s")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _key() -> str:
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            return key
    raise Broken(f"no key for the service: set {' or '.join(KEYS)} in the environment")


def without_key(text: str) -> str:
    """A text in which the key is not to be read, should a server have repeated it."""
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            text = text.replace(key, "…")
    return text


def _number(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a number; got {value!r}") from None
