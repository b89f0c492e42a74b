"""No model: a server on this machine that speaks Gemini's protocol and answers by a rule.

It shows that the way through an API works, without a network, a key or a bill. Its answers say
nothing of anything, and under its name it cannot be taken for a system.
"""

from __future__ import annotations

import json
import threading
import zlib
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from emomm_study.systems.gemini import Gemini, Sent, Service
from emomm_study.systems.paid import Budget
from emomm_study.systems.table import NO_MODEL

NAME = f"local API {NO_MODEL}"


class LocalApi(Gemini):
    """:class:`Gemini` asking a server of its own, which runs as long as this process."""

    remark = None

    def __init__(self) -> None:
        super().__init__(Sent(NAME), Service(base_url="local"), budget=Budget.of("any", None))

    @classmethod
    def load(cls, model: str, **options: Any) -> LocalApi:
        """``pretend:api``; it has no options."""
        if model != "api" or options:
            raise ValueError(
                f"pretend:{model} names no stand-in, with options {options}; expected pretend:api"
            )
        return cls()

    @cached_property
    def server(self) -> ThreadingHTTPServer:
        """Answers on a port that is free, from the first question on."""
        made = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return made

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def key() -> str:
        """None is needed, and none is read."""
        return "none"


def answer(body: dict[str, Any]) -> str:
    """One of the replies that the request allows, by a digest of its text and its media's sizes."""
    parts = body["contents"][0]["parts"]
    held = [part.get("text") or len(part["inlineData"]["data"]) for part in parts]
    number = zlib.crc32(json.dumps(held).encode())
    schema = body.get("generationConfig", {}).get("responseSchema", {})
    allowed = schema.get("enum") or ["A\nScore: -1.0", "C\nScore: 0.0", "E\nScore: 1.0"]
    return allowed[number % len(allowed)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing: a notebook's output is the same on every run."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        candidate = {"content": {"role": "model", "parts": [{"text": answer(body)}]},
                     "finishReason": "STOP", "index": 0}  # fmt: skip
        usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
        said = {"candidates": [candidate], "modelVersion": NAME, "usageMetadata": usage}
        content = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
