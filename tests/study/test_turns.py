"""Steps several at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from emomm_study.run import turns
from emomm_study.run.turns import StepDied, in_turn

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def note(folder: Path, seconds: float, step: str) -> None:
    began = time.monotonic()
    time.sleep(seconds)
    (folder / step).write_text(json.dumps([began, time.monotonic(), os.getpid()]))


def spans(folder: Path) -> dict[str, list[float]]:
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def test_one_job_does_the_steps_here_in_their_order(tmp_path):
    done = []
    in_turn(list("abcd"), DIAMOND, done.append, 1)
    assert done == list("abcd")


def test_a_step_starts_after_those_it_builds_on_and_beside_the_others(tmp_path):
    in_turn(list("abcd"), DIAMOND, partial(note, tmp_path, 1.0), 2)
    span = spans(tmp_path)
    for step, before in DIAMOND.items():
        assert all(span[other][1] <= span[step][0] for other in before)
    assert span["b"][0] < span["c"][1] and span["c"][0] < span["b"][1]
    assert len({pid for *_, pid in span.values()} | {os.getpid()}) == 5


def test_a_step_that_nobody_named_waits_for_all_before_it(tmp_path):
    in_turn(list("abcx"), DIAMOND, partial(note, tmp_path, 0.1), 4)
    span = spans(tmp_path)
    assert all(span[other][1] <= span["x"][0] for other in "abc")


def test_the_step_on_which_most_wait_goes_first(tmp_path):
    builds_on = {"a": (), "b": (), "c": ("b",), "d": ("c",)}
    in_turn(list("abcd"), builds_on, partial(note, tmp_path, 0.1), 2)
    assert turns._followers("b", {k: set(v) for k, v in builds_on.items()}) == {"c", "d"}
    assert set(spans(tmp_path)) == set("abcd")


def fails_at_b(folder: Path, step: str) -> None:
    if step == "b":
        raise FileNotFoundError("b has no file")
    note(folder, 1.0, step)


def test_a_failure_is_raised_as_it_was_after_its_neighbours_and_before_its_followers(tmp_path):
    with pytest.raises(FileNotFoundError, match="b has no file"):
        in_turn(list("abcd"), DIAMOND, partial(fails_at_b, tmp_path), 2)
    assert set(spans(tmp_path)) == {"a", "c"}


def dies(step: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_step_whose_process_is_killed_is_named():
    with pytest.raises(StepDied, match="first: its process was killed"):
        in_turn(["first", "second"], {}, dies, 2)


def test_an_order_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="'b'.* build on later steps"):
        in_turn(["b", "a"], {"a": (), "b": ("a",)}, print, 2)


@given(st.data())
def test_followers_are_all_that_can_be_reached(data):
    steps = [str(i) for i in range(data.draw(st.integers(1, 7)))]
    needs = {
        s: set(data.draw(st.sets(st.sampled_from(steps[:i]) if i else st.nothing())))
        for i, s in enumerate(steps)
    }
    for step in steps:
        reached = set()
        for other in steps[int(step) + 1 :]:
            if needs[other] & (reached | {step}):
                reached.add(other)
        assert turns._followers(step, needs) == reached


SCRIPT = """
    import sys, time, pathlib
    from functools import partial
    from emomm_study.run.turns import in_turn
    def work(folder, step):
        (pathlib.Path(folder) / step).write_text("began")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (pathlib.Path(folder) / step).write_text("cleaned up")
            raise
    if __name__ == "__main__":
        in_turn(["a", "b"], {"a": (), "b": ()}, partial(work, sys.argv[1]), 2)
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_no_step_outlives_an_interrupted_run(tmp_path, how):
    script, folder = tmp_path / "steps.py", tmp_path / "out"
    folder.mkdir()
    script.write_text(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + textwrap.dedent(SCRIPT)
    )
    process = subprocess.Popen([sys.executable, script, folder], stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while {p.name for p in folder.iterdir()} != {"a", "b"}:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) >= 2
    process.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    process.wait(60)
    process.stderr.close()
    until = time.monotonic() + 30
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"{alive} outlived the run"
        time.sleep(0.05)
    if how == "Ctrl-C":
        assert {p.read_text() for p in folder.iterdir()} == {"cleaned up"}


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
