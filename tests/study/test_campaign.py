"""The annotation campaign's store: durability, order of passes, assignment, merging."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emomm_study.annotation import campaign as store
from emomm_study.annotation.campaign import ANNOTATION, CALIBRATION, Answer, Campaign, CampaignError

ORDER = [(CALIBRATION, m) for m in "TAV"] + [(ANNOTATION, m) for m in "TAV"]


def ids(count: int, video: str = "v") -> list[str]:
    return [f"cmu_mosi/{video}{i // 4}/{i}" for i in range(count)]


def references(count: int) -> pd.DataFrame:
    labels = np.arange(3 * count).reshape(count, 3) % 3 - 1
    frame = pd.DataFrame(labels, columns=["label_T", "label_A", "label_V"])
    return frame.assign(sample_id=ids(count, "warm"))


@pytest.fixture
def make(tmp_path):
    """``make(clips, calibrated, **more)`` creates a campaign in a new file."""
    made = iter(range(1000))

    def create(clips: int, calibrated: int = 0, **more) -> Campaign:
        table = references(calibrated) if calibrated else None
        path = tmp_path / f"{next(made)}.sqlite"
        return Campaign.create(path, ids(clips), calibration=table, **more)

    return create


def full(annotator: str, clips: int, calibrated: int = 0) -> list[Answer]:
    """All answers of an annotator in the order of passes."""
    return [
        Answer(annotator, modality, seq, (seq + len(modality) + place) % 3 - 1, phase)
        for place, (phase, modality) in enumerate(ORDER)
        for seq in range(1, (calibrated if phase == CALIBRATION else clips) + 1)
    ]


# What is kept


def test_votes_are_the_newest_answers_and_history_keeps_the_older(make):
    campaign = make(3)
    campaign.record([Answer("A1", "T", 2, -1), Answer("A1", "T", 1, 0), Answer("A2", "T", 2, 1)])
    campaign.record([Answer("A1", "T", 2, 1)])
    votes = campaign.votes()
    assert votes.to_dict("list") == {
        "annotator": ["A1", "A1", "A2"], "modality": ["T"] * 3, "seq": [1, 2, 2],
        "sample_id": ["cmu_mosi/v0/0", "cmu_mosi/v0/1", "cmu_mosi/v0/1"], "label": [0, 1, 1],
    }  # fmt: skip
    history = campaign.history()
    assert history["label"].tolist() == [-1, 0, 1, 1]
    assert history["time"].is_monotonic_increasing and str(history["time"].dt.tz) == "UTC"
    assert abs(history["time"].iloc[-1].timestamp() - time.time()) < 60


def test_a_full_campaign_is_recorded_at_once_and_read_back(make):
    campaign = make(40, 2)
    names = ["A1", "A2", "A3", "A4", "A5"]
    answers = [a for name in names for a in full(name, 40, 2)]
    campaign.record(answers)
    votes = campaign.votes()
    assert votes[["annotator", "modality"]].drop_duplicates().values.tolist() == [
        [name, m] for name in names for m in "TAV"
    ]
    got = votes.set_index(["annotator", "modality", "seq"])["label"].to_dict()
    assert got == {(a.annotator, a.modality, a.seq): a.label for a in answers
                   if a.phase == ANNOTATION}  # fmt: skip
    assert len(campaign.votes(CALIBRATION)) == 5 * 3 * 2
    assert (campaign.progress()["done"] == campaign.progress()["total"]).all()
    assert all(campaign.task(name) is None for name in names)


def test_annotators_are_sorted_by_number(make):
    ten = tuple(f"A{i}" for i in range(10, 5, -1))
    campaign = make(2, teams={ten: (1, 2)})
    assert campaign.annotators == ("A6", "A7", "A8", "A9", "A10")
    assert campaign.progress()["annotator"].unique().tolist() == [*campaign.annotators]


def test_every_connection_syncs_fully_and_writes_ahead(make):
    campaign = make(1)
    with campaign._connect() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_votes_can_be_read_while_another_process_writes(make):
    campaign = make(2)
    campaign.record([Answer("A1", "T", 1, 1)])
    with campaign._connect() as db, store._transaction(db):
        campaign._write(db, [("now", "A1", "T", 2, 1, ANNOTATION)])
        assert len(Campaign(campaign.path).votes()) == 1
    assert len(campaign.votes()) == 2


WRITER = """
import sys
from emomm_study.annotation.campaign import Answer, Campaign
campaign, annotator, count = Campaign(sys.argv[1]), sys.argv[2], int(sys.argv[3])
while count and (task := campaign.task(annotator)):
    label = (task.seq * 7 + "TAV".index(task.modality)) % 3 - 1
    campaign.record([Answer(annotator, task.modality, task.seq, label)])
    print(task.modality, task.seq, label, flush=True)
    count -= 1
"""


def writer(campaign: Campaign, annotator: str, count: int = 10_000) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(campaign.path), annotator, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(output: str) -> list[tuple[str, int, int]]:
    """Answers that a writer printed; a line cut off is one of which nothing was promised."""
    rows = [line.split() for line in output.splitlines(True) if line.endswith("\n")]
    return [(modality, int(seq), int(label)) for modality, seq, label in rows]


def kept(campaign: Campaign, annotator: str) -> list[tuple[str, int, int]]:
    history = campaign.history()
    own = history[history["annotator"] == annotator]
    return [*own[["modality", "seq", "label"]].itertuples(index=False, name=None)]


def test_a_writer_killed_at_any_moment_loses_no_answer_and_repeats_none(make):
    campaign, draw, before = make(200), random.Random(0), []
    for _ in range(5):
        process = writer(campaign, "A1")
        first = process.stdout.readline()
        time.sleep(draw.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        promised = said(first + process.communicate()[0])
        now = kept(campaign, "A1")
        # One more may have been written when its line was not printed any more.
        assert now[: len(before)] == before
        assert now[len(before) :][: len(promised)] == promised and promised
        assert len(now) - len(before) - len(promised) in (0, 1)
        before = now
    assert len({row[:2] for row in before}) == len(before)
    campaign.record([Answer("A2", "T", 1, 0)])
    with campaign._connect() as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_five_processes_write_at_once_and_all_is_there(make):
    campaign = make(12)
    writers = {name: writer(campaign, name, 30) for name in campaign.annotators}
    told = {name: said(process.communicate()[0]) for name, process in writers.items()}
    for name, rows in told.items():
        assert len(rows) == 30 and kept(campaign, name) == rows


# The order of passes


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([Answer("A1", "A", 1, 0)], "A1, annotation, A of seq 1: expected after every T"),
        ([Answer("A1", "T", 1, 0), Answer("A1", "A", 1, 0)], "2 still open, seq 2 among them"),
        ([*full("A1", 3)[:5], Answer("A1", "V", 2, 0)], "after every A of the annotation; 1 still open"),
        ([*full("A1", 3)[:4], Answer("A1", "T", 3, 1)], "T of seq 3: expected no change"),
        ([Answer("A7", "T", 1, 0)], "'A7' is not an annotator .* they are A1, A2"),
        ([Answer("A1", "T", 4, 0)], "A1, seq 4: expected a seq of the annotation's, 1 to 3"),
        ([Answer("A1", "T", 0, 0)], "A1, seq 0: expected a seq"),
        ([Answer("A1", "T", 1.0, 0)], "A1, seq 1.0: expected a seq"),
        ([Answer("A1", "T", 1, 2)], "A1, seq 1: expected the label -1, 0 or 1 for T; got 2"),
        ([Answer("A1", "T", 1, None)], "got None"), ([Answer("A1", "T", 1, True)], "got True"),
        ([Answer("A1", "T", 1, -0.0)], "got -0.0"), ([Answer("A1", "X", 1, 0)], "a modality of"),
        ([Answer("A1", "T", 1, 0, "practice")], "expected a phase of .* got 'practice'"),
        ([Answer("A1", "T", 1, 0, CALIBRATION)], "a seq of the calibration's, none"),
    ],
)  # fmt: skip
def test_an_answer_out_of_place_is_refused_by_name_and_nothing_is_written(make, answers, expected):
    campaign = make(3)
    with pytest.raises(CampaignError, match=expected):
        campaign.record(answers)
    assert campaign.history().empty


def test_no_clip_that_counts_is_answered_before_the_calibration_is_done(make):
    campaign = make(2, 2)
    with pytest.raises(
        CampaignError, match="expected after every T of the calibration; 2 still open"
    ):
        campaign.record([Answer("A1", "T", 1, 0)])
    campaign.record(full("A1", 2, 2)[:6])
    campaign.record([Answer("A1", "T", 1, 0)])
    with pytest.raises(CampaignError, match="answered before, and its reference has been shown"):
        campaign.record([Answer("A1", "V", 1, 0, CALIBRATION)])
    with pytest.raises(CampaignError, match="A2, annotation, T of seq 1"):
        campaign.record([Answer("A2", "T", 1, 0)])


def allowed(given: dict, answer: Answer, clips: int, calibrated: int) -> bool:
    """The rule by itself, one answer at a time: an independent statement of it."""
    place = ORDER.index((answer.phase, answer.modality))
    sizes = [calibrated if phase == CALIBRATION else clips for phase, _ in ORDER]
    counts = [sum(key[0] == k for key in given) for k in range(6)]
    if any(counts[k] < sizes[k] for k in range(place)):
        return False
    if (place, answer.seq) in given:
        return place >= 3 and not any(counts[place + 1 :])
    return True


_ANSWERS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 2), st.sampled_from([-1, 0, 1])), max_size=16
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ANSWERS, st.integers(0, 12))
def test_a_batch_is_taken_exactly_when_each_answer_alone_would_be(tmp_path_factory, noise, head):
    clips, calibrated = 2, 1
    start = full("A1", clips, calibrated)[:head]
    drawn = [Answer("A1", ORDER[k][1], min(seq, 1 if k < 3 else 2), label, ORDER[k][0])
             for k, seq, label in noise]  # fmt: skip
    folder = tmp_path_factory.mktemp("batch")
    campaign = Campaign.create(folder / "c", ids(clips), None, references(calibrated))
    given, fine = {}, []
    for answer in start + drawn:
        if allowed(given, answer, clips, calibrated):
            given[ORDER.index((answer.phase, answer.modality)), answer.seq] = answer.label
            fine.append(answer)
        else:
            with pytest.raises(CampaignError):
                campaign.record([*fine, answer])
    campaign.record(fine)
    stored = campaign.progress().set_index(["annotator", "phase", "modality"])["done"]
    for k, key in enumerate(ORDER):
        assert stored["A1", *key] == sum(place == k for place, _ in given)
    votes = campaign.votes().set_index(["modality", "seq"])["label"].to_dict()
    assert votes == {(ORDER[k][1], seq): label for (k, seq), label in given.items() if k > 2}


# What is next


def test_every_item_comes_once_in_an_order_of_the_annotators_own_that_reopening_keeps(make):
    campaign = make(30, seed=3)
    orders = {}
    for name in ("A1", "A2"):
        for modality in "TAV":
            order = []
            while (task := campaign.task(name)) and task.modality == modality:
                assert (task.done, task.total, task.label) == (len(order), 30, None)
                assert task.sample_id == ids(30)[task.seq - 1]
                order.append(task.seq)
                campaign = Campaign(campaign.path)
                campaign.record([Answer(name, modality, task.seq, 0)])
            orders[name, modality] = order
    assert all(sorted(order) == [*range(1, 31)] for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 6
    assert np.mean([np.abs(np.diff(order)) == 1 for order in orders.values()]) < 0.15
    other = make(30, seed=4)
    assert [other.task(n).seq for n in ("A1", "A2")] != [orders[n, "T"][0] for n in ("A1", "A2")]


def test_going_back_leads_through_a_pass_and_not_beyond_it(make):
    campaign = make(3)
    assert campaign.previous("A1") is None
    seqs = []
    for label in (1, 0, -1):
        seqs.append(campaign.task("A1").seq)
        campaign.record([Answer("A1", "T", seqs[-1], label)])
    last = campaign.previous("A1")
    assert (last.modality, last.seq, last.label) == ("T", seqs[2], -1)
    campaign.record([Answer("A1", "T", seqs[2], 1)])
    before = campaign.previous("A1", campaign.previous("A1"))
    assert (before.seq, before.label) == (seqs[1], 0)
    first = campaign.previous("A1", before)
    assert first.seq == seqs[0] and campaign.previous("A1", first) is None
    task = campaign.task("A1")
    campaign.record([Answer("A1", "A", task.seq, 0)])
    assert campaign.previous("A1").modality == "A"
    assert campaign.previous("A1", campaign.previous("A1")) is None


def test_nobody_goes_back_in_the_calibration_round(make):
    campaign = make(1, 2)
    campaign.record([Answer("A1", "T", 1, 0, CALIBRATION)])
    assert campaign.previous("A1") is None


def test_a_clip_set_aside_stays_open_and_holds_back_its_later_modalities_alone(make):
    campaign = make(3)
    campaign.record(full("A1", 3)[:3])
    broken = campaign.task("A1")
    assert broken.modality == "A"
    campaign.set_aside(broken)
    assert campaign.unreadable().to_dict("records") == [
        {"annotator": "A1", "phase": ANNOTATION, "modality": "A", "seq": broken.seq,
         "sample_id": broken.sample_id}
    ]  # fmt: skip
    seen = []
    while task := campaign.task("A1"):
        seen.append((task.modality, task.seq))
        campaign.record([Answer("A1", task.modality, task.seq, 1)])
    assert len(seen) == 4 and broken.seq not in {seq for _, seq in seen}
    assert [m for m, _ in seen] == ["A", "A", "V", "V"]
    with pytest.raises(CampaignError, match="expected after its A, which was set aside"):
        campaign.record([Answer("A1", "V", broken.seq, 0)])
    own = campaign.progress().set_index(["annotator", "modality"]).loc["A1"]
    assert own["done"].to_dict() == {"T": 3, "A": 2, "V": 2}
    assert own["unreadable"].to_dict() == {"T": 0, "A": 1, "V": 0}
    campaign.take_up("A1")
    assert campaign.task("A1") == Campaign(campaign.path).task("A1")
    assert (campaign.task("A1").modality, campaign.task("A1").seq) == ("A", broken.seq)
    with pytest.raises(CampaignError, match="expected after every A"):
        campaign.record([Answer("A1", "V", broken.seq, 0)])
    campaign.record([Answer("A1", "A", broken.seq, 0), Answer("A1", "V", broken.seq, 0)])
    assert campaign.task("A1") is None and campaign.unreadable().empty
    assert len(campaign.votes()) == 9


def test_only_what_is_next_can_be_set_aside_and_an_answer_ends_it(make):
    campaign = make(2)
    task = campaign.task("A1")
    campaign.set_aside(task)
    with pytest.raises(CampaignError, match=f"T of seq {task.seq}: not what comes next"):
        campaign.set_aside(task)
    campaign.record([Answer("A1", "T", task.seq, 0)])
    assert campaign.unreadable().empty and campaign.progress()["unreadable"].sum() == 0


class Sitting(RuleBasedStateMachine):
    """Annotators that answer, correct, set aside and come back; the store against a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.campaign = Campaign.create(Path(self.folder.name, "c"), ids(2))
        self.votes, self.aside = {}, set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=st.sampled_from(["A1", "A2"]), label=st.sampled_from([-1, 0, 1]))
    def answer(self, name: str, label: int) -> None:
        task = self.campaign.task(name)
        if task:
            self.campaign.record([Answer(name, task.modality, task.seq, label)])
            assert (name, task.modality, task.seq) not in self.votes
            self.votes[name, task.modality, task.seq] = label

    @rule(name=st.sampled_from(["A1", "A2"]), label=st.sampled_from([-1, 0, 1]))
    def correct(self, name: str, label: int) -> None:
        task = self.campaign.previous(name)
        if task:
            key = name, task.modality, task.seq
            assert self.votes[key] == task.label
            self.campaign.record([Answer(*key, label)])
            self.votes[key] = label

    @rule(name=st.sampled_from(["A1", "A2"]))
    def give_up(self, name: str) -> None:
        task = self.campaign.task(name)
        if task:
            self.campaign.set_aside(task)
            self.aside.add((name, task.modality, task.seq))

    @precondition(lambda self: self.aside)
    @rule()
    def come_back(self) -> None:
        self.campaign.take_up("A1")
        self.aside = {key for key in self.aside if key[0] != "A1"}

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "campaign"):
            return
        keys = ["annotator", "modality", "seq"]
        assert self.campaign.votes().set_index(keys)["label"].to_dict() == self.votes
        aside = self.campaign.unreadable()[keys].itertuples(index=False, name=None)
        assert set(aside) == self.aside
        for name, modality, seq in self.votes:
            earlier = "TAV"[: "TAV".index(modality)]
            assert all((name, m, seq) in self.votes for m in earlier)


TestSitting = Sitting.TestCase
TestSitting.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


# Making and opening


def team(*numbers: int) -> tuple[str, ...]:
    return tuple(f"A{n}" for n in numbers)


@pytest.mark.parametrize(
    "teams, expected",
    [
        ({team(1, 2, 3, 4, 5): (1, 9)}, "seq 10 to 10: expected 5 different .*; got none"),
        ({team(1, 2, 3, 4, 5): (1, 4), team(6, 7, 8, 9, 10): (7, 10)}, "seq 5 to 6: .* got none"),
        ({team(1, 2, 3, 4, 5): (1, 6), team(6, 7, 8, 9, 10): (5, 10)}, "seq 5 to 6: .* A1, A2"),
        ({team(1, 2, 3, 4): (1, 10)}, "seq 1 to 10: expected 5 different annotators; got A1"),
        ({team(1, 2, 3, 4, 4): (1, 10)}, "seq 1 to 10: .* got A1, A2, A3, A4, A4"),
        ({team(1, 2, 3, 4, 5): (0, 10)}, "the range 0 to 10 is not within seq 1 to 10"),
        ({team(1, 2, 3, 4, 5): (5, 4)}, "the range 5 to 4"),
        ({("Anna", *team(2, 3, 4, 5)): (1, 10)}, "'Anna': expected A1 to A99. The file holds anon"),
        ({("a@b.org", *team(2, 3, 4, 5)): (1, 10)}, "'a@b.org': expected A1 to A99"),
        ({("A100", *team(2, 3, 4, 5)): (1, 10)}, "'A100'"), ({}, "seq 1 to 10: .* got none"),
    ],
)  # fmt: skip
def test_teams_that_do_not_give_every_clip_five_annotators_are_refused(tmp_path, teams, expected):
    with pytest.raises(CampaignError, match=expected):
        Campaign.create(tmp_path / "c", ids(10), teams)
    assert not (tmp_path / "c").exists()


def test_ranges_of_teams_are_what_their_annotators_are_asked(tmp_path):
    teams = {team(1, 2, 3, 4, 5): (1, 3), team(5, 6, 7, 8, 9): (4, 10)}
    campaign = Campaign.create(tmp_path / "c", ids(10), teams)
    totals = campaign.progress().query("modality == 'T'").set_index("annotator")["total"]
    assert totals.to_dict() == {"A1": 3, "A2": 3, "A3": 3, "A4": 3, "A5": 10, "A6": 7, "A7": 7,
                                "A8": 7, "A9": 7}  # fmt: skip
    with pytest.raises(CampaignError, match="A1, seq 4: .* 1 to 3"):
        campaign.record([Answer("A1", "T", 4, 0)])
    campaign.record([Answer("A5", "T", 4, 0)])


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], "no clips"), (["clip.mp4"], "'clip.mp4': expected a manifest's sample_id"),
        (["/data/v/1"], "'/data/v/1'"), (["cmu_mosi/v/1", "cmu_mosi/v/1"], "given 2 times"),
        ([3], "3: expected"), (["cmu_mosi/warm0/0"], "no clip of the calibration is among"),
    ],
)  # fmt: skip
def test_ids_that_are_no_clips_or_repeat_are_refused(tmp_path, names, expected):
    with pytest.raises(CampaignError, match=expected):
        Campaign.create(tmp_path / "c", names, calibration=references(1))


def test_a_reference_that_is_no_vote_is_refused_with_its_clip(tmp_path):
    wrong = references(2).assign(label_A=[0, 0.4])
    with pytest.raises(CampaignError, match="warm0/1: expected label_A -1, 0 or 1; got .*0.4"):
        Campaign.create(tmp_path / "c", ids(1), calibration=wrong)
    with pytest.raises(CampaignError, match="'label_V'. are absent"):
        Campaign.create(tmp_path / "c", ids(1), calibration=references(1).drop(columns="label_V"))


def test_a_campaign_is_never_made_over_another_file(make, tmp_path):
    campaign = make(1)
    campaign.record([Answer("A1", "T", 1, 1)])
    with pytest.raises(CampaignError, match="is there already"):
        Campaign.create(campaign.path, ids(2))
    (tmp_path / "notes.txt").write_text("these are notes, many notes " * 99)
    with pytest.raises(CampaignError, match="notes.txt"):
        Campaign.create(tmp_path / "notes.txt", ids(2))
    assert len(campaign.votes()) == 1 and (tmp_path / "notes.txt").read_text().startswith("these")


def test_what_is_no_campaign_is_said_and_left_as_it_was(make, tmp_path):
    with pytest.raises(CampaignError, match="absent: no such campaign"):
        Campaign(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    before = other.read_bytes()
    with pytest.raises(CampaignError, match="not an annotation campaign"):
        Campaign(other)
    assert other.read_bytes() == before
    campaign = make(1)
    with campaign._connect() as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(CampaignError, match="version 9, and this code reads version 1"):
        Campaign(campaign.path)


def test_settings_and_fingerprint_tell_campaigns_apart(make):
    one, same, other = make(2, settings={"a": 1}), make(2, settings={"a": 1}), make(3)
    assert Campaign(one.path).settings == {"a": 1} and one.fingerprint == same.fingerprint
    others = {other.fingerprint, make(2, seed=1).fingerprint, make(2, 1).fingerprint}
    others |= {make(2).fingerprint, make(2, settings={"a": 2}).fingerprint}
    assert len(others | {one.fingerprint}) == 6
    assert one.items["seq"].tolist() == [1, 2] and one.calibration.empty


# Several files


def copied(campaign: Campaign, name: str) -> Campaign:
    return Campaign(shutil.copy(campaign.path, campaign.path.with_name(name)))


def test_copies_that_annotators_filled_apart_are_brought_together_once(make):
    campaign = make(3, 1)
    copies = {name: copied(campaign, name) for name in ("A1", "A2")}
    for name, copy in copies.items():
        copy.record(full(name, 3, 1)[:7])
        assert campaign.absorb(copy) == 7
        assert campaign.absorb(copy.path) == 0
        copy.record(full(name, 3, 1)[7:])
        copy.record([Answer(name, "V", 3, 1)])
        assert campaign.absorb(copy) == 6
    for name, copy in copies.items():
        pd.testing.assert_frame_equal(
            campaign.history()[lambda h, n=name: h["annotator"] == n].reset_index(drop=True),
            copy.history(),
        )
    assert copies["A1"].absorb(campaign) == 13


def test_an_annotator_who_answered_in_two_files_is_left_to_a_person(make):
    campaign = make(3)
    copy = copied(campaign, "copy")
    campaign.record([Answer("A1", "T", 1, 1), Answer("A1", "T", 2, 1)])
    copy.record([Answer("A1", "T", 1, 1)])
    with pytest.raises(CampaignError, match="A1 has answered there and in"):
        campaign.absorb(copy)
    assert len(campaign.history()) == 2
    with pytest.raises(CampaignError, match="another campaign than"):
        campaign.absorb(make(2))
