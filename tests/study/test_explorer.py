"""The explorer without a browser: its states, its code, and its widgets against forward passes."""

from __future__ import annotations

import base64
import html
import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import av
import numpy as np
import pytest
import torch
from explorer_bench import small_bench, small_router
from hypothesis import given, settings, strategies as st
from legible import profiled

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.chase.steer import steer
from emomm_lib.labels import CLASSES, COALITIONS, MODALITIES
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import read_video
from emomm_study.report.explorer import (
    BY_HAND,
    PUBLISHED,
    Explored,
    ExplorerState,
    compared,
    controls,
    explore,
    explorer_figure,
    numbers,
)
from emomm_study.report.explorer.player import player
from emomm_study.report.explorer.state import HAND_CONTROLS
from emomm_study.systems.interface import Media, Query

SHARP = SteeringConfig(
    first_layer=2, tau=0.5, eta=1.0, gamma=10.0, beta=0.0, preference="share", sharpness=4.0
)
FLIPPED = "cmu_mosi/YlkVtUCbWoG/15"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def routers(bench):
    return {"published": small_router(bench), "other": small_router(bench, seed=5)}


@pytest.fixture(scope="module")
def opened(bench, routers):
    explorer = explore(bench, bench.clips, routers, presets={"sharp": ("other", SHARP)})
    return explorer, explorer.state


@pytest.fixture
def explorer(opened):
    """One widget for all tests, as it was when it was opened."""
    explorer, start = opened
    explorer.act(("search", ""), *((name, "all") for name in explorer._filters))
    explorer.go(start)
    return explorer


@pytest.fixture(scope="module")
def explored(bench, routers):
    return Explored(bench, bench.clips, routers)


def seen(explorer, name):
    """What a control shows in the browser."""
    return explorer._panel.face["values"][name]


def listed(explorer):
    """The clips that can be chosen."""
    return [sample_id for _, sample_id in explorer._panel.clips]


def code_of(explorer):
    """What stands in the box of code."""
    return html.unescape(re.search("<textarea[^>]*>(.*)</textarea>", explorer._code.value, re.S)[1])


def direct(bench, routers, state):
    """Letters of a whole steered forward pass over the prompt: no cache and no replay."""
    clip = bench.clips.set_index("sample_id").loc[state.sample_id]
    model, decoder = bench.model, bench.model.model.get_decoder()
    paths = [bench.roots[clip["corpus"]] / clip[k] for k in ("video_path", "audio_path")]
    media = Media(read_video(paths[0], bench.media.video), read_audio(paths[1], bench.media.audio))
    [encoded] = model.encode([media])
    p = model.prepare([Query(encoded, state.coalition, clip["corpus"], clip["text"])])
    given = {"inputs_embeds": p.inputs_embeds, "attention_mask": p.attention_mask,
             "position_ids": p.position_ids}  # fmt: skip
    importance = gradient_importance(
        model.model, *given.values(), p.modality_ids, model.letter_weights
    )
    gate = routers.get(state.gate) or ConstantGate(
        torch.tensor([state.conflict]), torch.tensor([state.trust])
    )
    with (
        torch.no_grad(),
        steer(model.model, gate, state.config, p.modality_ids, importance=importance) as done,
    ):
        hidden = decoder(**given, use_cache=False).last_hidden_state[:, -1]
    letters = model.letter_logits(hidden).double().softmax(-1)[0].numpy()
    return letters, done.decisions


# States


def values_of(control):
    high = 1e9 if np.isinf(control.high) else control.high
    if control.whole:
        return st.integers(int(control.low), int(min(high, 10**6)))
    return st.floats(control.low, high)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_value_in_a_controls_range_is_accepted_and_stands_in_the_configuration(data):
    state = ExplorerState(
        sample_id="a", coalition="TAV", gate="r", config=SteeringConfig.at_published_depth(8)
    )
    for control in (*controls(8, 8), *HAND_CONTROLS):
        value = data.draw(values_of(control), label=control.name)
        state = state.moved(control.name, value)
        assert state.value(control.name) == value
        if control.name in {f.name for f in fields(SteeringConfig)}:
            assert getattr(state.config, control.name) == value


@pytest.mark.parametrize("control", (*controls(8, 8), *HAND_CONTROLS), ids=lambda c: c.name)
def test_a_controls_range_ends_where_the_configuration_refuses(control):
    state = ExplorerState(
        sample_id="a", coalition="TAV", gate="r", config=SteeringConfig.at_published_depth(8)
    )
    below = [control.low - 1, 0.0] if control.low == 1e-6 else [control.low - 1]
    above = [control.high + 1] if np.isfinite(control.high) else []
    if control.name == "first_layer":
        # How many layers there are is the model's, not the configuration's.
        above = []
    for value in below + above:
        with pytest.raises(ValueError, match=f"got {value}|must be|is in|positive"):
            state.moved(control.name, value)


def test_every_number_of_the_configuration_has_a_control_or_is_named_here():
    numbers_of = {f.name for f in fields(SteeringConfig) if f.type in ("int", "float")}
    assert numbers_of - {c.name for c in controls(8, 8)} == {
        "epsilon_a", "epsilon_b", "temperature",
    }  # fmt: skip


def test_a_state_of_all_queries_is_refused_because_it_cannot_be_replayed():
    config = SteeringConfig.at_published_depth(8, scope="all")
    with pytest.raises(ValueError, match="'decision'; got 'all'"):
        ExplorerState(sample_id="a", coalition="TAV", gate="r", config=config)
    with pytest.raises(ValueError, match="unknown coalition 'VT'"):
        ExplorerState(sample_id="a", coalition="VT", gate="r", config=replace(config))


# Against whole forward passes


STATES = [
    {"gate": "published"},
    {"gate": "other", "config": SHARP},
    {"gate": "published", "coalition": "AV", "config": replace(SHARP, beta=2.0, psi_hat=0.9)},
    {"gate": BY_HAND, "config": replace(SHARP, rule="gate"), "trust": (0.0, 0.25, 1.0)},
    {"gate": BY_HAND, "config": SHARP, "coalition": "TV", "trust": (0.0, 1.0, 0.0)},
    {"gate": BY_HAND, "config": replace(SHARP, rule="first"), "conflict": 0.6},
]


@pytest.mark.parametrize("changes", STATES, ids=range(len(STATES)))
def test_what_is_shown_is_what_a_steered_forward_pass_gives(bench, routers, explorer, changes):
    state = replace(explorer.state, sample_id=FLIPPED, **changes)
    explorer.go(state)
    letters, decisions = direct(bench, routers, state)
    after = explorer.shown.after
    np.testing.assert_allclose(after.letters, letters, atol=2e-5)
    np.testing.assert_allclose(after.conflict, decisions.conflict[0, 0], atol=1e-4)
    np.testing.assert_allclose(after.gate, decisions.gate[0, 0], atol=1e-4)
    assert (after.heads == decisions.heads[0, 0].numpy()).all()


def test_moving_sliders_one_after_another_equals_the_pass_with_all_of_them_moved(
    bench, routers, explorer
):
    moves = {"tau": 0.4, "eta": 1.0, "gamma": 6.0, "beta": 1.5, "top_k": 7, "psi_hat": 0.8,
             "percentile": 60.0, "first_layer": 2, "sharpness": 3.0}  # fmt: skip
    explorer.go(replace(explorer.state, sample_id=FLIPPED, gate="other"))
    for name, value in moves.items():
        explorer.act((name, value))
    assert explorer.state.config == SteeringConfig(**moves)
    letters, _ = direct(bench, routers, explorer.state)
    np.testing.assert_allclose(explorer.shown.after.letters, letters, atol=2e-5)
    assert not np.allclose(explorer.shown.after.letters, explorer.shown.before.letters, atol=0.01)


def test_trust_moved_to_video_by_hand_flips_the_answer_of_a_clip_that_only_video_has_right(
    explorer,
):
    explorer.go(replace(explorer.state, sample_id=FLIPPED, gate=BY_HAND, config=SHARP))
    for name in ("trust_t", "trust_a"):
        explorer.act((name, 0.0))
    clip = explorer.shown.opened.clip
    assert explorer.shown.before.label != clip["label_v"] == explorer.shown.after.label
    answers = [CLASSES[x.label] for x in (explorer.shown.before, explorer.shown.after)]
    assert f"moves from {answers[0]} to {answers[1]}" in explorer._remarks.value


@pytest.mark.parametrize("changes", STATES, ids=range(len(STATES)))
def test_the_code_gives_the_letters_that_are_shown(bench, routers, explorer, changes, capsys):
    explorer.go(replace(explorer.state, sample_id=FLIPPED, **changes))
    names = {"bench": bench, "routers": routers}
    exec(code_of(explorer), names)
    assert names["config"] == explorer.state.config
    np.testing.assert_allclose(names["look"].letters, explorer.shown.after.letters, atol=1e-9)
    assert capsys.readouterr().out.strip()


# Widgets


def test_reset_brings_back_the_published_state_and_all_that_is_shown_of_it(explorer):
    start = explorer.state
    shown = explorer._picture.value, explorer._numbers.value, explorer._code.value
    explorer.go(replace(start, gate=BY_HAND, config=SHARP, trust=(0.0, 0.0, 1.0), conflict=0.3))
    assert seen(explorer, "preset") != PUBLISHED
    explorer.reset()
    assert explorer.state == start and seen(explorer, "preset") == PUBLISHED
    assert start.config == SteeringConfig.at_published_depth(8)
    assert (explorer._picture.value, explorer._numbers.value, explorer._code.value) == shown
    for control in (*controls(8, 8), *HAND_CONTROLS):
        assert seen(explorer, control.name) == start.value(control.name)


def test_a_number_beyond_a_sliders_end_is_taken(explorer):
    explorer.act(("gamma", 40.5))
    assert explorer.state.config.gamma == 40.5 == seen(explorer, "gamma")
    explorer.reset()
    assert seen(explorer, "gamma") == 1.4


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("tau", 3.0, "tau is in [0, 1]; got 3.0"),
        ("psi_hat", 0.0, "psi_hat is positive"),
        ("first_layer", 9, "the decoder has 8 layers; got 9"),
        ("sharpness", -1.0, "sharpness is positive"),
        ("gamma", float("nan"), "gamma is at least 0; got nan"),
        ("gamma", None, "γ needs a number; γ stays as it was"),
        ("top_k", 2.5, "K is a whole number; got 2.5"),
        ("top_k", float("nan"), "K is a whole number; got nan"),
    ],
)
def test_an_impossible_number_is_refused_in_words_and_the_last_state_stays(
    explorer, name, value, said
):
    before, picture = explorer.state, explorer._picture.value
    explorer.act((name, value))
    assert said in explorer._remarks.value
    assert explorer.state == before and explorer._picture.value == picture
    assert seen(explorer, name) == before.value(name)


def test_a_refusal_amid_others_undoes_none_of_them_and_is_said_until_its_control_is_set(explorer):
    explorer.act(("gamma", 9.0), ("tau", 3.0), ("beta", 2.0))
    config = explorer.shown.state.config
    assert (config.gamma, config.tau, config.beta) == (9.0, 0.7, 2.0)
    for name, value in (("eta", 0.2), ("rule", "first"), ("coalition", "TA")):
        explorer.act((name, value))
        assert "tau is in [0, 1]; got 3.0; τ stays as it was" in explorer._remarks.value
        assert "Answers" in explorer._remarks.value
    explorer.act(("tau", 0.5))
    assert "got 3.0" not in explorer._remarks.value
    explorer.act(("tau", 3.0), ("reset", None))
    assert "got 3.0" not in explorer._remarks.value and explorer.state == explorer.published


def tell(explorer, seen, *events, client="a"):
    """What a browser sends."""
    content = {"client": client, "seen": seen, "events": [[*event] for event in events]}
    explorer._panel._handle_custom_msg(content, [])


def test_a_batch_is_done_in_its_order_and_drawn_once_and_answered_by_its_number(
    explorer, monkeypatch
):
    drawn, show = [], explorer.explored.show
    monkeypatch.setattr(explorer.explored, "show", lambda s: drawn.append(s) or show(s))
    drag = [("gamma", 2 + k / 10) for k in range(40)]
    tell(explorer, 43, *drag, ("reset", None), ("gamma", 3), ("first_layer", 2))
    wanted = explorer.published.moved("gamma", 3.0).moved("first_layer", 2)
    assert explorer.state == wanted and drawn == [wanted]
    face = explorer._panel.face
    assert (face["client"], face["seen"]) == ("a", 43) and face["values"]["gamma"] == 3.0
    tell(explorer, 1, ("gamma", 4), client="b")
    assert (explorer._panel.face["client"], explorer._panel.face["seen"]) == ("b", 1)
    # Nothing changes, and still it is answered: the browser waits for that.
    tell(explorer, 2, ("gamma", 4), ("tau", 7), client="b")
    assert explorer._panel.face["seen"] == 2 and len(drawn) == 2


def test_the_controls_are_answered_where_drawing_fails_and_no_old_picture_stays(
    explorer, monkeypatch
):
    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(explorer.explored, "show", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        explorer.act(("gamma", 4.0))
    assert seen(explorer, "gamma") == 4.0 == explorer.state.config.gamma
    assert explorer.shown is None and not explorer._picture.value and not explorer._code.value
    monkeypatch.undo()
    explorer.act(("tau", 0.5))
    assert explorer.shown.state == explorer.state
    assert (explorer.state.config.gamma, explorer.state.config.tau) == (4.0, 0.5)


def test_what_comes_from_several_threads_at_once_is_all_kept(explorer, monkeypatch):
    """JupyterLab answers widgets in a thread beside the one that runs cells."""
    show, working = explorer.explored.show, threading.Lock()

    def alone(state):
        assert working.acquire(blocking=False), "two pictures at once from one model"
        try:
            time.sleep(0.01)
            return show(state)
        finally:
            working.release()

    monkeypatch.setattr(explorer.explored, "show", alone)
    values = {"tau": 0.5, "gamma": 3.0, "beta": 2.0, "first_layer": 2}

    def fill(name):
        for _ in range(5):
            explorer.act((name, values[name]))

    with ThreadPoolExecutor() as pool:
        done = [pool.submit(fill, name) for name in values]
        times = pool.submit(explorer.measure, 9)
        for each in (*done, times):
            each.result()
    config = explorer.shown.state.config
    assert {name: getattr(config, name) for name in values} == values
    assert len(times.result()) == 9


def test_a_clip_without_its_film_is_said_under_v_and_can_still_be_read_under_ta(
    bench, routers, tmp_path
):
    clip = bench.clips.set_index("sample_id", drop=False).loc[[FLIPPED]]
    name = clip["video_path"].iloc[0]
    sound = clip["audio_path"].iloc[0]
    (tmp_path / sound).parent.mkdir(parents=True)
    (tmp_path / sound).write_bytes((bench.roots["cmu_mosi"] / sound).read_bytes())
    blind = replace(bench, roots={"cmu_mosi": tmp_path}, clips=clip)
    explorer = explore(blind, clip, routers, coalition="V")
    for said in (name.split("/")[-1], "no such file"):
        assert said in explorer._remarks.value
    assert explorer.shown is None and not explorer._picture.value and not explorer._code.value
    explorer.act(("coalition", "TA"))
    assert explorer.shown is not None and "<svg" in explorer._picture.value
    explorer.act(("coalition", "TV"))
    assert explorer.shown is None and not explorer._picture.value


@pytest.mark.parametrize("coalition", COALITIONS)
def test_every_coalition_can_be_shown(explorer, coalition):
    explorer.act(("coalition", coalition))
    assert explorer.state.coalition == coalition
    assert f"under {coalition}" in explorer._title.value
    # A number that is none would be drawn nowhere, or break the picture.
    assert "nan" not in explorer._picture.value
    assert ("no video in" in explorer._picture.value) == ("V" not in coalition)
    present = [m in coalition for m in MODALITIES]
    assert (explorer.shown.after.share.sum(0) > 0).tolist() == present


def test_filters_and_search_leave_the_clips_that_match(explorer, bench):
    explorer.act(("corpus", "cmu_mosi"))
    found = listed(explorer)
    assert found == bench.clips.query("corpus == 'cmu_mosi'")["sample_id"].tolist()
    assert explorer.state.sample_id == found[0] == explorer.shown.opened.clip["sample_id"]
    explorer.act(("corpus", "all"), ("search", "表演"))
    assert listed(explorer) == ["ch_sims_v2/video_0094/0010"]
    assert explorer.state.sample_id == "ch_sims_v2/video_0094/0010"
    assert "我觉得表演没变化" in explorer._panel.player
    explorer.act(("search", "nowhere"))
    assert "no clip matches" in explorer._panel.face["count"]
    assert explorer.state.sample_id == "ch_sims_v2/video_0094/0010"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"gate": BY_HAND, "conflict": 0.5}, "p never exceeds"),
        ({"config": SteeringConfig.at_published_depth(8, top_k=0)}, "K is 0"),
        ({"config": SteeringConfig.at_published_depth(8, gamma=0, beta=0)}, "γ and β are 0"),
        ({"config": SHARP}, "trained from layer 4 on"),
        ({"coalition": "V"}, "only V"),
        ({"coalition": "none"}, "no modality"),
        ({"coalition": "TA", "gate": BY_HAND}, "Trust in V goes to the others"),
        ({"gate": BY_HAND, "trust": (0.0, 0.0, 0.0)}, "counted as equal"),
    ],
)
def test_why_nothing_moves_is_said(explorer, changes, said):
    explorer.go(replace(explorer.state, **changes))
    assert said in explorer._remarks.value


def test_measuring_moves_every_slider_and_leaves_the_state_as_it_was(explorer):
    before, picture = explorer.state, explorer._picture.value
    times = explorer.measure(12)
    assert set(times["control"]) == {c.symbol for c in controls(8, 8)}
    assert (times["milliseconds"] > 0).all() and len(times) == 12
    assert explorer.state == before and explorer._picture.value == picture


# What is played and drawn


def streams(html):
    found = {}
    for kind, data in re.findall(r'src="data:(\w+)/\w+;base64,([^"]+)"', html):
        with av.open(io.BytesIO(base64.b64decode(data))) as container:
            found[kind] = {s.type for s in container.streams}, container.duration
    return found


@pytest.mark.parametrize(
    "coalition, expected",
    [
        ("TAV", {"video": {"video", "audio"}}), ("AV", {"video": {"video", "audio"}}),
        ("TV", {"video": {"video"}}), ("V", {"video": {"video"}}),
        ("TA", {"audio": {"audio"}}), ("A", {"audio": {"audio"}}), ("T", {}), ("none", {}),
    ],
)  # fmt: skip
def test_a_coalition_plays_its_own_modalities_and_no_other(bench, coalition, expected):
    for clip in (bench.clips.iloc[0], bench.clips.iloc[4]):
        html = player(clip, bench.roots, coalition, AudioSettings(max_seconds=3.0))
        found = streams(html)
        assert {kind: tracks for kind, (tracks, _) in found.items()} == expected
        assert (clip["text"] in html) == ("T" in coalition)
        assert all(length > 400_000 for _, length in found.values())


def test_a_transcript_with_markup_is_shown_as_text(bench):
    clip = bench.clips.iloc[0].copy()
    clip["text"] = "<script>alert(1)</script> & more"
    html = player(clip, bench.roots, "T", AudioSettings())
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_the_printed_numbers_are_those_of_the_looks(explored, routers):
    state = ExplorerState(sample_id=FLIPPED, coalition="TAV", gate="other", config=SHARP)
    shown = explored.show(state)
    lines = numbers(shown).splitlines()
    assert [float(x) for x in lines[2].split()[1:6]] == shown.after.letters.round(3).tolist()
    assert lines[2].split()[-1] == CLASSES[shown.after.label]
    last = [float(x) for x in lines[-1].split()]
    expected = [8, shown.after.conflict[-1], *shown.after.gate[-1], *shown.before.share[-1],
                *shown.after.share[-1], shown.after.heads[-1].sum()]  # fmt: skip
    np.testing.assert_allclose(last, expected, atol=5.1e-4)


def test_states_are_compared_with_the_unsteered_model_in_the_order_given(explored):
    state = ExplorerState(sample_id=FLIPPED, coalition="TAV", gate="other", config=SHARP)
    video = replace(state, gate=BY_HAND, trust=(0.0, 0.0, 1.0))
    table = compared(explored, {"video": video, "still": state.moved("tau", 1.0)})
    assert table.index.tolist() == ["unsteered", "video", "still"]
    still, plain = (table.loc[name, [*CLASSES]].astype(float) for name in ("still", "unsteered"))
    np.testing.assert_allclose(still, plain, atol=1e-5)
    assert table["answer"].tolist() == ["Neu", "WP", "Neu"]
    with pytest.raises(ValueError, match="several prompts"):
        compared(explored, {"a": state, "b": replace(state, coalition="TA")})


def test_the_figure_draws_the_numbers_of_the_state_and_names_its_profile(explored):
    state = ExplorerState(sample_id=FLIPPED, coalition="TAV", gate="other", config=SHARP)
    shown = explored.show(state)
    fig = profiled(explorer_figure(shown))
    answer = next(ax for sub in fig.subfigs for ax in sub.axes if ax.get_title() == "Answer")
    heights = [bar.get_height() for bar in answer.patches]
    np.testing.assert_allclose(heights, [*shown.before.letters, *shown.after.letters])
    assert any("profile: mini" in t.get_text() for t in fig.texts)


def test_the_heat_on_the_frames_is_the_attention_that_falls_on_video(explored):
    state = ExplorerState(sample_id=FLIPPED, coalition="TAV", gate="other", config=SHARP)
    shown = explored.show(state)
    before, after = shown.heat()
    video = MODALITIES.index("V")
    assert before.shape == shown.opened.seen.grid == after.shape
    first = SHARP.first_layer - 1
    for heat, look in ((before, shown.before), (after, shown.after)):
        assert heat.sum() == pytest.approx(look.mass[first:, :, video].mean(), abs=1e-5)


# What is refused


def test_what_cannot_be_explored_is_refused_by_name(bench, routers):
    with pytest.raises(ValueError, match="no clip"):
        explore(bench, bench.clips.iloc[:0], routers)
    with pytest.raises(ValueError, match="repeats.*video_0094/0010"):
        explore(bench, bench.clips.iloc[[0, 0]], routers)
    with pytest.raises(ValueError, match="cannot be called 'by hand'"):
        explore(bench, bench.clips, {BY_HAND: routers["other"]})
    with pytest.raises(KeyError, match="'mine' has router 'none'"):
        explore(bench, bench.clips, routers, presets={"mine": ("none", SHARP)})
    with pytest.raises(KeyError, match="no clip 'x'"):
        explore(bench, bench.clips, routers, sample_id="x")
    with pytest.raises(KeyError, match="no preset 'x'"):
        explore(bench, bench.clips, routers, start="x")


def test_without_a_router_the_gate_is_by_hand(bench):
    explorer = explore(bench, bench.clips, {})
    assert explorer.state.gate == BY_HAND and explorer.shown is not None
