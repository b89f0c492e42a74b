"""The benchmarks run, and say what they are to say; no number of theirs is judged here."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    cluster,
    coalitions,
    gpu,
    measure,
    peers,
    recording,
    steering,
    store,
    streaming,
)
from benchmarks.__main__ import BENCHMARKS, PAGE, main
from emomm_study.evaluate.schedule import AHEAD
from emomm_study.paths import ROOT

TIMING = re.compile(r"([\d.,]+) \(([\d.,]+)\.\.([\d.,]+)\)")


def value(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("benchmarks") / "page.md"
    before = PAGE.read_bytes() if PAGE.exists() else None
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    # On a busy machine the threads of a pool wait for one another far longer than they work.
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (PAGE.read_bytes() if PAGE.exists() else None) == before
    text = out.read_text(encoding="utf-8")
    assert all(line in text for line in done.stdout.splitlines())
    return text


def table(page: str, title: str) -> list[dict[str, str]]:
    section = page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize(
    ("title", "column", "expected"),
    [
        ("Recording attention: time", "tokens", ["256", "256"]),
        ("Recording attention: memory", "forward", list(recording.KINDS)),
        (
            "Eight coalitions of a clip",
            "variant",
            [
                "shared, TAV alone",
                "shared, eight",
                "independent, eight, clip by clip",
                "independent, eight, batches of 32",
            ],
        ),
        ("Eight coalitions in the decoder, by length", "video tokens", ["128"]),
        ("The store: writing", "written", ["predictions", "predictions and traces"]),
        (
            "The store: reading",
            "call",
            ["read()", "known()", "known(traced=True)", "read_traces()"],
        ),
        ("Steering: one pass", "tokens", ["256"]),
        ("Replay: many configurations", "C", ["1", "10"]),
        ("Saliency", "importance", list(steering.SALIENCY)),
        ("Router: training", "prompts", ["256"]),
        ("Router: states on disk", "call", ["write()", "read()"]),
        ("Router: one layer", "columns", ["1", "32"]),
    ],
)
def test_the_one_command_gives_every_table_its_rows(page, title, column, expected):
    if title.endswith("memory") and not sys.platform.startswith("linux"):
        pytest.skip("memory is measured on Linux")
    found = table(page, title)
    assert [row[column] for row in found] == expected
    timings = [t for row in found for cell in row.values() for t in TIMING.findall(cell)]
    assert timings or title.endswith("memory")
    for timing in timings:
        mid, low, high = map(value, timing)
        assert 0 < low <= mid <= high


def test_a_smoke_run_says_that_its_numbers_mean_nothing(page):
    assert "mean nothing" in page
    assert "mean nothing" not in measure.page({"CPU": "one"}, [], quick=False)


def test_the_page_names_the_machine_and_nobody_and_no_place_on_it(page):
    for field in ("CPU", "cores", "RAM", "GPU", "torch", "transformers", "torch threads"):
        assert f"| {field} |" in page
    assert torch.__version__ in page
    assert not re.search(r"(?<![\w.)])/\w+/\w+|[A-Z]:\\|~/", page)
    for secret in (str(ROOT), str(Path.home()), getpass.getuser(), platform.node()):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", page)
    assert not re.search(r"20\d\d-\d\d-\d\d", page)


def test_independent_calls_answer_what_the_shared_ones_do(page):
    counts = re.search(r"Of (\d+) answers, (\d+) had .* clip by clip, and (\d+) in batches", page)
    every, *same = map(int, counts.groups())
    assert every == 64
    # Float rounding may turn a tie; a wrong baseline would turn many.
    assert min(same) >= 62


@pytest.fixture(scope="module")
def models():
    return {kind: recording.load(kind, "cpu") for kind in ("sdpa", "eager")}


def test_the_forwards_compute_the_same_and_keep_the_bytes_that_the_page_states(models):
    batch, tokens = 2, 48
    given = recording.inputs(models["sdpa"], batch, tokens)
    outputs, traces = {}, {}
    for kind in recording.KINDS:
        omni = models["eager" if kind == "eager" else "sdpa"]
        outputs[kind], traces[kind] = recording.forward(kind, omni, *given)
        torch.testing.assert_close(
            outputs[kind].last_hidden_state, outputs["plain"].last_hidden_state, atol=1e-4, rtol=0
        )
    kept = {"record, no states": [traces["record, no states"].mass]}
    trace = traces["record"]
    kept["record"] = [trace.mass, trace.query_state, trace.modality_states]
    kept["eager"] = outputs["eager"].attentions
    for kind, tensors in kept.items():
        stated = recording.kept_bytes(kind, models["sdpa"], batch, tokens)
        assert sum(t.nbytes for t in tensors) == stated
    rows = torch.stack([a[:, :, -1] for a in outputs["eager"].attentions], 1)
    by_modality = torch.stack([rows[..., given[1][0] == m].sum(-1) for m in range(3)], -1)
    torch.testing.assert_close(trace.mass, by_modality, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", coalitions.GRIDS)
def test_made_up_clips_have_the_video_tokens_that_their_grid_gives(models, tokens):
    merge = models["sdpa"].model.config.vision_config.spatial_merge_size
    for clip in coalitions.encoded_clips(models["sdpa"], tokens):
        assert len(clip.video) == tokens == int(clip.grid.prod()) // merge**2


def test_every_variant_is_timed_equally_often_and_warmed_up_first():
    calls: list[str] = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = measure.interleave(variants, 5, device="cpu", warm_ups=2)
    assert {name: len(t.seconds) for name, t in times.items()} == dict.fromkeys("abc", 5)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert all(sorted(r) == list("abc") for r in rounds)
    assert len(rounds) == 7
    assert len({tuple(r) for r in rounds}) > 1


def test_a_timing_is_written_as_median_and_range_and_compared_round_by_round():
    timing = measure.Timing((0.003, 0.001, 0.002))
    assert timing.text() == "2.00 (1.00..3.00)"
    assert timing.text(per=2) == "1.00 (0.500..1.50)"
    assert timing.over(measure.Timing((0.001, 0.004, 0.0005))) == "3.00"
    assert timing.over(measure.Timing((0.001, 0.004))) == "0.80"


@pytest.mark.parametrize(
    ("count", "text"),
    [(768, "768 B"), (1536, "1.50 KiB"), (2**27, "128 MiB"), (2**32, "4.00 GiB")],
)
def test_sizes_have_the_unit_that_fits(count, text):
    assert measure.size(count) == text


def test_the_batches_written_are_all_different_rows(tmp_path):
    made = store.new_store(tmp_path / "s.sqlite")
    store.write(made, store.rows(300, traced=True))
    assert len(made.known("benchmark")) == len(made.known("benchmark", traced=True)) == 300
    assert len(made.read_traces("benchmark").index) == 300


@pytest.fixture(scope="module")
def case(models):
    return steering.Case.of(models["sdpa"], 2, 48)


@pytest.mark.parametrize("kind", steering.STEERED)
def test_a_pass_timed_as_steered_moves_the_published_heads_in_every_layer_from_l_r_on(case, kind):
    output, done = steering.one_pass(kind, case)
    heads = done.decisions.heads[:, 0].sum(-1)
    assert heads.tolist() == [[0, 0, 0, 4, 4, 4, 4, 4]] * 2
    plain, _ = steering.one_pass("plain", case)
    moved = (output.last_hidden_state != plain.last_hidden_state).any(-1)
    assert moved[:, -1].all()
    assert moved[:, :-1].any() == (kind == "all")


def test_the_bias_on_visual_tokens_plays_a_part_where_beta_is_not_0(case):
    hidden = [
        steering.one_pass(kind, case)[0].last_hidden_state[:, -1]
        for kind in ("decision, beta = 0", "decision")
    ]
    assert float((hidden[0] - hidden[1]).abs().max()) > 1e-3


def test_a_replay_of_a_sweep_answers_what_a_steered_forward_for_each_configuration_does(case):
    configs = steering.configurations(case.omni, 5)
    replayed, decided = case.replay(case.prefill(), configs)
    assert decided.heads.any(dim=(0, 2, 3)).sum() >= 3
    for column, config in enumerate(configs):
        output, done = case.steered(config)
        assert torch.equal(decided.heads[:, column], done.decisions.heads[:, 0])
        torch.testing.assert_close(
            replayed.hidden[:, column], output.last_hidden_state[:, -1], atol=1e-5, rtol=0
        )


def test_no_two_configurations_of_a_sweep_are_alike_and_all_that_it_names_vary(case):
    configs = steering.configurations(case.omni, 100)
    assert len(set(configs)) == 100
    for name in ("gamma", "eta", "tau", "top_k", "first_layer", "preference"):
        assert len({getattr(config, name) for config in configs}) > 1, name
    assert steering.configurations(case.omni, 10) == configs[:10]


def test_what_is_timed_as_importance_is_one_on_all_visual_tokens_and_no_other(case):
    found = {kind: steering.saliency(kind, case) for kind in steering.SALIENCY[1:]}
    for importance in found.values():
        assert torch.equal(importance > 0, case.ids == 2)
    torch.testing.assert_close(found["gradient"], found["gradient, checkpointed"])


def test_made_up_states_come_back_from_disk_as_they_were(models, tmp_path):
    made, targets = steering.states(models["sdpa"], 2 * steering.SHARD + 4)
    kept = steering.write_states(steering.StateStore(tmp_path / "run"), made)
    assert len(list(kept.folder.iterdir())) == 3
    found = kept.read(set(made.index["sample_id"]))
    order = made.index.sort_values(["sample_id", "coalition"]).index.to_numpy(copy=True)
    assert found.index.equals(made.take(order).index)
    for name in ("query_state", "modality_states", "mass", "counts"):
        assert torch.equal(getattr(found, name)[:], getattr(made.take(order), name)), name
    # With random labels a modality agrees one time in five, so that hardly a prompt is at peace.
    assert 0.8 < float(targets.conflict.mean()) < 1
    absent = ~made.present
    assert absent.any() and not made.modality_states.transpose(1, 2)[absent].any()
    assert float(made.mass.sum(-1).max()) <= 1


def test_the_router_that_is_timed_sees_a_conflict_in_every_column(models):
    omni = models["sdpa"]
    conflict, gate = steering.new_router(omni).route(steering.router_row(omni, 3, 5))
    assert conflict.shape == (3, 5) and bool((conflict > 0).all())
    torch.testing.assert_close(gate.sum(-1), torch.ones(3, 5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_plain_error(capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cuda", "--only", BENCHMARKS[0]])
    assert "no GPU is visible" in capsys.readouterr().err


def test_the_page_for_an_accelerator_has_a_line_for_everything_and_says_what_ran(tmp_path, capsys):
    out = tmp_path / "gpu.md"
    command = ["--size", "tiny", "--device", "cpu", "--repeats", "1", "--tokens", "32"]
    gpu.main([*command, "--batch", "2", "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    assert page in capsys.readouterr().out and "mean nothing" in page
    lines = {line["what"]: line for line in table(page, "One accelerator: tiny")}
    assert list(lines) == [
        "plain", "plain, padded", "record", "steer, decision", "steer, all", "replay, 100",
        "importance", "answer, 8 prompts",
    ]  # fmt: skip
    assert all(TIMING.fullmatch(line["ms"]) for line in lines.values())
    launched = {name: value(lines[name]["operations a layer"]) for name in list(lines)[:6]}
    assert launched["plain"] < launched["record"] < launched["steer, decision"] <= 100
    assert launched["steer, decision"] < launched["steer, all"]
    assert "attention" in lines["plain"]["attention"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux")
def test_streaming_reads_of_the_disk_what_its_table_says(tmp_path, capsys):
    command = ["--layers", "4", "--hidden", "16", "--heads", "2", "--router", "8", "--in-memory"]
    streaming.main([*command, "--prompts", "70", "--folder", str(tmp_path)])
    page = capsys.readouterr().out
    assert "mean nothing" in page and list(tmp_path.iterdir()) == []
    lines = {line["what"]: line for line in table(page, "Router: states on disk, while it trains")}
    assert list(lines) == [streaming.READ, streaming.BATCHES, streaming.TRAIN, streaming.HELD]
    for line in lines.values():
        assert value(line["peak, MiB"]) > 50 and value(line["prompts a second"]) > 0
    # l_r is 2 of 4 at the published depth, so that three of four layers are read.
    shape = streaming.Shape(4, 16, 2, 8)
    assert shape.settings.first_layer == 2
    assert shape.read_of(streaming.BATCHES) == 3 * (2 * 4 * 16 + 4 * 2 * 3)
    kept = streaming.write(tmp_path / "s", 70, shape)
    files = sum(file.stat().st_size for file in kept.folder.iterdir())
    assert 0 < files - 70 * shape.read_of(streaming.READ) < 16_000


@torch.no_grad()
def test_the_operations_of_a_pass_are_those_of_its_products_and_of_causal_attention():
    omni = gpu.load("tiny", "cpu", torch.float32)
    bench = gpu.Bench.of(omni, 2, 24, torch.float32)
    omni.model.set_attn_implementation({"text_config": "eager"})
    with FlopCounterMode(display=False) as found:
        bench.decoder()
    # Eager attention also multiplies what a causal mask leaves out: as much again.
    attention = found.get_flop_counts()["Global"][torch.ops.aten.bmm]
    assert attention > 0
    assert bench.operations() == found.get_total_flops() - attention / 2


def test_the_page_for_a_cluster_has_two_workers_the_driver_and_up_to_64_simulated(tmp_path, capsys):
    out = tmp_path / "cluster.md"
    # In a process of its own: this one may hold another cluster, or come to hold one.
    command = [sys.executable, "-m", "benchmarks.cluster", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = out.read_text(encoding="utf-8")
    assert page in done.stdout and "mean nothing" in page
    lines = table(page, "Two workers against one")
    assert [line["workers"] for line in lines] == ["1", "2"]
    assert all(value(line["driver, ms a batch"]) > 0 for line in lines)
    drivers = table(page, "The driver, by batches of the paper profile")
    assert [line.pop("kept in") for line in drivers] == ["bfloat16", "float32"]
    assert all(value(cell.split()[0]) > 0 for line in drivers for cell in line.values())
    rows = table(page, "Up to 64 workers, simulated")
    assert len(rows) == len(cluster.SECONDS)
    assert all(0 < value(row[str(n)]) <= 1 for row in rows for n in cluster.WORKERS)


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_simulated_workers_take_as_long_as_their_batches_where_nothing_holds_them_up(workers):
    assert cluster.simulate([2.0] * 48, 0.0, workers) == pytest.approx(2.0 * 48 / workers)
    assert cluster.efficiency([2.0] * 48, 0.0, workers) == pytest.approx(1.0)


def test_a_simulated_driver_that_takes_longer_than_its_workers_sets_the_pace():
    assert cluster.simulate([1.0] * 64, 0.5, 64) == pytest.approx(1.0 + 64 * 0.5)
    # A late first batch holds up what comes after it, until as much waits as may.
    late = cluster.simulate([60.0] + [1.0] * 40, 0.0, 2)
    assert late == pytest.approx(60.0 + (40 - (2 * AHEAD - 2)) / 2, abs=1.5)


def test_peers_are_timed_beside_ours_in_one_run_and_one_that_lacks_says_so(capsys, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    peers.main(["--widths", "256", "--tokens", "32", "--repeats", "1"])
    [line] = table(capsys.readouterr().out, "Beside others")
    assert line["hidden, layers"] == "256, 2" and TIMING.fullmatch(line["plain"])
    assert line["nnsight"] == "not installed"
    for name in (*peers.OURS, "eager", "mask"):
        assert value(line[name]) > 0, name


def test_the_mask_that_is_timed_steers_as_eager_attention_with_its_bias_would(case):
    plain = steering.one_pass("plain", case)[0].last_hidden_state
    none = functools.partial(peers.masked_scores, strength=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "masked_scores", none)
        torch.testing.assert_close(peers.mask(case), plain, atol=1e-5, rtol=0)
    steered = peers.mask(case)
    assert float((steered - plain).abs().max()) > 1e-3
    with peers.attention(case.omni, "eager"), torch.inference_mode():
        expected = case.omni.decoder(
            inputs_embeds=case.embeds, attention_mask=peers.masked_scores(case)
        ).last_hidden_state
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=0)
