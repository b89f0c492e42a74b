"""No model: a driver that answers from the words of the transcript alone, by a rule.

It shows that the way through a second process works, and needs nothing but numpy. Its answers say
nothing of anything, and under its name it cannot be taken for a system.
"""

from __future__ import annotations

from serving import LETTERS, Answer, Query, read_sound, serve, take_stdout

OUT = take_stdout()

import os  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import zlib  # noqa: E402

import numpy as np  # noqa: E402

NAME = "echo (no model)"
CUES = {
    "A": "terrible awful horrible hateful disgusting disaster unbearable 糟透 恶心 可怕 可恨 糊涂 崩溃 讨厌",
    "B": "dull disappointing weak boring tiresome letdown clumsy 无聊 失望 差劲 没意思 累人 不太行 笨拙",
    "C": "ordinary typical average unremarkable nothing unchanged standard 一般 普通 平常 没变化 照旧 中等 按计划",
    "D": "nice pleasant decent enjoyable likeable comfort charming 不错 舒服 挺好 有趣 可爱 顺心 愉快",
    "E": "wonderful fantastic amazing brilliant superb triumph perfect 太棒 精彩 完美 了不起 绝妙 激动 美极",
}
"""Words of the surrogate clips by the class that they stand for."""
SCORES = {"A": "-1.0", "B": "-0.2", "C": "0.0", "D": "0.2", "E": "1.0"}
"""One that each letter has in both corpora."""


def written(query: Query, letter: str) -> str:
    """A reply in the format that the prompt asks for: by digest, where other classes are asked for."""
    asked = re.search(r"<ONE LETTER: ((?:[A-H] or )+[A-H])>\Z", query.text)
    if asked is None:
        return f"{letter}\nScore: {SCORES[letter]}"
    letters = asked[1].split(" or ")
    return letters[zlib.crc32(query.text.encode()) % len(letters)]


def answer(query: Query) -> Answer:
    """A letter for every cue in the transcript; by a digest of a text without, C without a text."""
    said = query.text[slice(*query.transcript)]
    logits = [sum(cue in said.lower() for cue in CUES[letter].split()) for letter in LETTERS]
    if not any(logits):
        logits[zlib.crc32(said.encode()) % len(LETTERS) if said else LETTERS.index("C")] = 0.5
    letter = LETTERS[int(np.argmax(logits))]
    seen = sum(map(os.path.isfile, query.frames))
    heard = int(read_sound(query) is not None)
    return Answer(
        letters=[float(x) for x in logits] if query.mode == "letters" else None,
        # The less digests differ, the likelier: any order would do, if it is always the same.
        scores=[-(zlib.crc32((said + reply).encode()) / 2**32) for reply in query.replies] or None,
        reply=written(query, letter) if query.mode == "free" else None,
        tokens={"T": len(said.split()), "A": heard, "V": seen},
        markers={"A": heard, "V": seen},
    )


if __name__ == "__main__":
    hello = {
        "name": NAME,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "weights": "none, a rule about words",
        "device": "cpu",
    }
    serve(hello, answer, OUT)
