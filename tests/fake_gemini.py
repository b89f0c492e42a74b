"""A local server that speaks the part of Gemini's protocol that is used here, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av

TRANSIENT = ("429", "429 after", "429 delay", "500", "503", "hang", "drop", "drip")
"""Faults that a second attempt may mend, ..."""
ON_THE_WAY = (*TRANSIENT, "garbage", "empty", "odd")
"""... those that say nothing about the question, ..."""
OF_THE_ANSWER = (
    "blocked",
    "SAFETY",
    "MAX_TOKENS",
    "cut",
    "wrong",
    "prose",
    "none",
    "no text",
    "400",
)
"""... and those that do."""
VERSION = "gemini-fake-001"


class FakeGemini:
    """A server in a thread.

    ``faults`` has, by a word in a request's text, what goes wrong with its successive attempts; a
    fault that is alone in a tuple goes wrong every time. All else is answered well, by a digest of
    the request. ``requests`` are the bodies as they came, with the time, path and headers.
    """

    def __init__(self, faults: dict[str, Any] | None = None, *, pause: float = 0.0) -> None:
        self.faults, self.pause, self.after = dict(faults or {}), pause, 0.2
        self.requests: list[dict] = []
        self.jobs: dict[str, dict] = {}
        self.active = self.most = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeGemini:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def texts(self) -> list[str]:
        """The text of each request, in the order in which they came."""
        with self.lock:
            return [text_of(request["body"]) for request in self.requests]

    def fault(self, text: str) -> str | None:
        with self.lock:
            for word, own in self.faults.items():
                if word in text:
                    if isinstance(own, tuple):
                        return own[0]
                    return own.pop(0) if own else None
        return None


def spelt(body: Any) -> Any:
    """A body with all names as the protocol spells them; its server takes ``mime_type``, too."""
    if isinstance(body, list):
        return [spelt(item) for item in body]
    if not isinstance(body, dict):
        return body
    return {re.sub("_([a-z])", lambda m: m[1].upper(), k): spelt(v) for k, v in body.items()}


def text_of(body: dict) -> str:
    return body["contents"][0]["parts"][-1]["text"]


def usage(body: dict) -> dict:
    """What a service would count: 32 tokens a second of sound, 258 a frame, 4 bytes of text."""
    found = {"TEXT": 0, "AUDIO": 0, "VIDEO": 0}
    for part in body["contents"][0]["parts"]:
        if "text" in part:
            found["TEXT"] += len(part["text"].encode()) // 4
            continue
        with av.open(io.BytesIO(base64.urlsafe_b64decode(part["inlineData"]["data"]))) as file:
            if file.streams.video:
                found["VIDEO"] += 258 * sum(1 for _ in file.decode(video=0))
            else:
                found["AUDIO"] += round(32 * file.duration / av.time_base)
    return {
        "promptTokenCount": sum(found.values()),
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 20,
        "totalTokenCount": sum(found.values()) + 25,
        "promptTokensDetails": [
            {"modality": name, "tokenCount": count} for name, count in found.items() if count
        ],
    }


def good(body: dict) -> str:
    """An allowed answer, the same for the same request."""
    config = body["generationConfig"]
    number = int(hashlib.sha256(json.dumps(body["contents"]).encode()).hexdigest(), 16)
    if "responseSchema" in config:
        allowed = config["responseSchema"]["enum"]
        return allowed[number % len(allowed)]
    return ["A\nScore: -1.0", "C\nScore: 0.0", "E\nScore: 1.0"][number % 3]


def response(body: dict, fault: str | None = None) -> dict:
    """A whole response, good or with a fault of the answer."""
    text, finish = good(body), "STOP"
    candidate: dict[str, Any] = {"index": 0}
    if fault in ("SAFETY", "MAX_TOKENS"):
        finish, text = fault, None
    elif fault == "cut":
        finish = "MAX_TOKENS"
    elif fault == "wrong":
        text = "F\nScore: 2.0"
    elif fault == "prose":
        text = "The answer is A. Score: -1.0"
    elif fault == "no text":
        text = " "
    if text is not None:
        thought = {"text": "B\nScore: -0.2", "thought": True}
        candidate["content"] = {"role": "model", "parts": [thought, {"text": text}]}
    candidate["finishReason"] = finish
    whole = {"candidates": [candidate], "usageMetadata": usage(body), "modelVersion": VERSION}
    if fault == "none":
        whole["candidates"] = []
    if fault == "blocked":
        whole = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
                 "usageMetadata": usage(body), "modelVersion": VERSION}  # fmt: skip
    return whole


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeGemini

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, code: int, said: str, *details: dict, **headers: str) -> None:
        # A careless server repeats the key.
        said = f"{said} [{self.headers.get('x-goog-api-key')}]"
        own = {"code": code, "message": said, "status": said.split()[0], "details": list(details)}
        self._send(code, json.dumps({"error": own}).encode(), **headers)

    def do_GET(self) -> None:
        name = self.path.split("/v1beta/")[1]
        if (job := self.fake.jobs.get(name)) is None:
            return self._error(404, "NOT_FOUND there is no such job")
        job["asked"] += 1
        self._send(200, json.dumps(job_said(name, job)).encode())

    def do_POST(self) -> None:
        fake = self.fake
        body = spelt(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.path.endswith(":batchGenerateContent"):
            with fake.lock:
                name = f"batches/{len(fake.jobs)}"
                fake.jobs[name] = {"body": body, "asked": 0, "faults": dict(fake.faults)}
            return self._send(200, json.dumps(job_said(name, fake.jobs[name])).encode())
        with fake.lock:
            fake.active += 1
            fake.most = max(fake.most, fake.active)
            fake.requests.append({"time": time.monotonic(), "path": self.path, "body": body,
                                  "headers": dict(self.headers)})  # fmt: skip
        try:
            time.sleep(fake.pause)
            self._answer(body, fake.fault(text_of(body)))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with fake.lock:
                fake.active -= 1

    def _answer(self, body: dict, fault: str | None) -> None:
        delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}
        if fault == "429":
            self._error(429, "RESOURCE_EXHAUSTED too many requests")
        elif fault == "429 after":
            self._error(429, "RESOURCE_EXHAUSTED", **{"Retry-After": str(self.fake.after)})
        elif fault == "429 delay":
            self._error(429, "RESOURCE_EXHAUSTED", delay)
        elif fault and re.fullmatch(r"\d+", fault):
            self._error(int(fault), {"400": "INVALID_ARGUMENT", "401": "UNAUTHENTICATED",
                                     "404": "NOT_FOUND"}.get(fault, "UNAVAILABLE"))  # fmt: skip
        elif fault == "hang":
            self.fake.over.wait(5)
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault in ("garbage", "empty", "odd"):
            content = {"garbage": b"<html>busy</html>", "empty": b"", "odd": b'{"candidates": 7}'}
            self._send(200, content[fault])
        elif fault in ("drip", "slow"):
            content = json.dumps(response(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            step = len(content) // 5 if fault == "slow" else 1
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
                if self.fake.over.wait(0.03):
                    break
        else:
            self._send(200, json.dumps(response(body, fault)).encode())


def answer_of(own: dict, faults: dict[str, str]) -> dict:
    """What a job says to one of its requests."""
    fault = next((f for word, f in faults.items() if word in text_of(own["request"])), None)
    if fault == "error":
        return {"metadata": own["metadata"], "error": {"code": 3, "message": "no such media"}}
    if fault == "stranger":
        return {"metadata": {"key": "of somebody else"}, "response": response(own["request"])}
    return {"metadata": own["metadata"], "response": response(own["request"], fault)}


def job_said(name: str, job: dict) -> dict:
    """A batch job: done when it is asked after a second time."""
    done = job["asked"] > 1
    state = "BATCH_STATE_SUCCEEDED" if done else "BATCH_STATE_RUNNING"
    found = {"name": name, "metadata": {"state": state, "name": name}, "done": done}
    if done:
        requests = job["body"]["batch"]["inputConfig"]["requests"]["requests"]
        answers = [answer_of(own, job["faults"]) for own in requests]
        # Not in the order in which they were asked.
        found["metadata"]["output"] = {"inlinedResponses": {"inlinedResponses": answers[::-1]}}
    return found
