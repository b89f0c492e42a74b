"""A chat model for lmms-eval that opens what it is shown, writes down what it saw and heard, and says
what a file tells it to say to each clip and coalition.

Runs in an environment that has lmms-eval, by an entry point; the project is not installed there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

MANIFEST = ModelManifest("emomm_told", chat_class_path="lmms_eval_model.Told")


def opened(path: str) -> dict:
    """Streams of a file, and how many frames of its first one can be decoded."""
    with av.open(path) as media:
        kinds = [stream.type for stream in media.streams]
        return {"kinds": kinds, "frames": sum(1 for _ in media.decode(media.streams[0]))}


class Told(lmms):
    """Replies by ``$EMOMM_TOLD``, a JSON object; what it is shown goes to ``$EMOMM_SEEN``."""

    is_simple = False

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.replies = json.loads(Path(os.environ["EMOMM_TOLD"]).read_text(encoding="utf-8"))

    def generate_until(self, requests):
        said = []
        with open(os.environ["EMOMM_SEEN"], "a", encoding="utf-8") as seen:
            for request in requests:
                _, doc_to_messages, settings, doc_id, task, split = request.args
                doc = self.task_dict[task][split][doc_id]
                messages = ChatMessages(messages=doc_to_messages(doc))
                _, films, sounds = messages.extract_media()
                key = f"{doc['sample_id']} {doc['coalition']}"
                found = {
                    "key": key,
                    "task": task,
                    "order": [part.type for part in messages.messages[-1].content],
                    "films": [opened(film) for film in films],
                    "sounds": [opened(sound) for sound in sounds],
                    "text": messages.messages[-1].content[-1].text,
                    "system": messages.messages[0].content[0].text,
                    "settings": settings,
                }
                seen.write(json.dumps(found) + "\n")
                said.append(self.replies[key])
        return said

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError
