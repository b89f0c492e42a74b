"""A driver that goes wrong as its questions say, for tests: a real second process.

A transcript may hold ``fault:NAME``, or ``once:NAME`` for a fault of which the second asking knows
nothing. Every question that it is asked is appended to ``--log`` as ``pid, words, coalition``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "emomm_study" / "systems" / "drivers"))

import serving
from serving import Answer, read_sound, serve, take_stdout


def wrong(name, query, out):
    """Do what a fault says; an answer where it is one."""
    good = right(query)
    if name == "crash":
        print(f"the key is {os.environ.get('TEST_API_KEY')}", file=sys.stderr)
        raise SystemExit(3)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hang":
        print("about to hang", file=sys.stderr)
        subprocess.Popen(["sleep", "1234.5"])
        time.sleep(1000)
    if name == "deaf":
        os.close(1)
        os.close(out.fileno())
        time.sleep(1000)
    if name == "noise":
        out.write("Loading checkpoint shards: 100%\n")
    if name == "array":
        out.write("[1, 2]\n")
    if name == "unknown":
        out.write('{"id": "4711", "letters": [1, 2, 3, 4, 5], "markers": {"A": 0, "V": 0}}\n')
    if name == "huge":
        out.write("[" + "1," * 2**20 + "1]\n")
    if name == "twice":
        out.write(json.dumps({"id": query.id, "error": "said before"}) + "\n")
    if name == "half":
        out.write(json.dumps({"id": query.id, "letters": [9, 0, 0, 0, 0]})[:-1])
        out.flush()
        raise SystemExit(0)
    if name == "nan":
        return good._replace(letters=[float("nan"), 0, 0, 0, 0])
    if name == "infinite":
        return good._replace(letters=[1e39, 0, 0, 0, 0])
    if name == "four":
        return good._replace(letters=[1, 2, 3, 4])
    if name == "words":
        return good._replace(letters=["1", 2, 3, 4, 5])
    if name == "fewer":
        return good._replace(scores=[-1.0])
    if name == "markers":
        return good._replace(markers={"A": 1, "V": 3})
    if name == "deafened":
        return good._replace(markers={"A": 0, "V": 1})
    if name == "unmarked":
        return good._replace(markers=None)
    if name == "refused":
        raise ValueError("the picture is too small")
    if name == "memory":
        raise MemoryError("DefaultCPUAllocator: can't allocate memory")
    if name == "cuda":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if name == "meet":
        meet()
    if name == "slow":
        time.sleep(0.3)
    if name == "prints":
        print("{}")
        os.system("echo '{}'")
    if name == "scoreless":
        return good._replace(scores=None)
    return good


def meet(processes=3, seconds=120):
    """Wait until so many drivers have been asked to meet."""
    log, end = Path(sys.argv[sys.argv.index("--log") + 1]), time.monotonic() + seconds
    while len({line.split(",")[0] for line in log.read_text().splitlines() if "meet" in line}) < (
        processes
    ):
        if time.monotonic() > end:
            raise TimeoutError("nobody came")
        time.sleep(0.01)


def right(query):
    """By how long the transcript is; the best reply is the last of its letter."""
    said = query.text[slice(*query.transcript)]
    letters = [float(len(said) % 5 == i) for i in range(5)]
    heard = int(read_sound(query) is not None)
    letter = "ABCDE"[len(said) % 5]
    return Answer(
        letters if query.mode == "letters" else None,
        [float(i) for i in range(len(query.replies))] or None,
        f"{letter}\nScore: 0.0" if query.mode == "free" else None,
        {"T": len(said), "A": heard, "V": len(query.frames)},
        {"A": heard, "V": min(1, len(query.frames))},
    )


def main() -> None:
    out = take_stdout()
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--start", default="well")
    parser.add_argument("--pause", type=float, default=0)
    options = parser.parse_args()
    hello = {"name": "faulty", "versions": {"faulty": "1"}, "weights": "none", "device": "cpu"}
    lives = options.log.with_suffix(".lives")
    with lives.open("a") as handle:
        handle.write(f"{os.getpid()}\n")
    life = len(lives.read_text().split())
    if options.start == "crash" or (options.start == "crash later" and life > 1):
        raise SystemExit("no such weights")
    if options.start == "hang":
        time.sleep(1000)
    if options.start == "noise":
        out.write("Welcome to faulty\n")
    if options.start == "changing":
        hello["weights"] = str(life)
    if options.start == "lacking":
        del hello["weights"]

    def answer(query):
        said = query.text[slice(*query.transcript)]
        with options.log.open("a") as handle:
            handle.write(f"{os.getpid()},{said},{query.coalition}\n")
        time.sleep(options.pause)
        found = re.search(r"(fault|once):(\w+)", said)
        if not found:
            return right(query)
        asked = [line.split(",")[1:] for line in options.log.read_text().splitlines()]
        if found[1] == "once" and asked.count([said, query.coalition]) > 1:
            return right(query)
        return wrong(found[2], query, out)

    # What it would refuse is to reach the harness.
    serving._check = lambda *_: None
    serve(hello, answer, out)


if __name__ == "__main__":
    main()
