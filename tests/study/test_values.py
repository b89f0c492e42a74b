"""Estimated values: tolerances of their own, compared after a rerun."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, strategies as st

from emomm_lib.metrics.bootstrap import interval_of
from emomm_study.report import manifest, values
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import record
from emomm_study.report.values import (
    COLUMNS,
    Compared,
    compare_files,
    compare_notebooks,
    compare_values,
    read_values,
    record_values,
    side_of_zero,
    tolerances,
    write_values,
)


def table(*rows: tuple, columns=("name", "value", "low", "high", "n")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "recorded", lambda profile: tmp_path / profile)
    return tmp_path / "mini"


def kept(*rows: tuple) -> pd.DataFrame:
    """Rows of ``name, value, low, high, tolerance``; the ends may move as far as the value."""
    frame = pd.DataFrame(rows, columns=COLUMNS[:-1])
    return frame.assign(ends=frame["tolerance"])


def test_the_tolerance_is_a_quarter_of_the_half_width_but_never_under_one_clip():
    frame = table(("wide", 0.5, 0.3, 0.7, 100), ("narrow", 0.5, 0.49, 0.51, 100))
    found = tolerances(frame)
    assert found["tolerance"].tolist() == pytest.approx([0.2 / 4, 1 / 100], rel=2e-3)
    assert found["ends"].tolist() == pytest.approx([0.2 / 4, 3 / 100], rel=2e-3)
    found = tolerances(frame, clips=False)
    assert found["tolerance"].tolist() == found["ends"].tolist() == pytest.approx([0.05, 0.0025])
    points = frame.assign(**{c: 100 * frame[c] for c in ("value", "low", "high")})
    assert tolerances(points, scale=100)["tolerance"].tolist() == pytest.approx([5, 1], rel=2e-3)
    mixed = tolerances(points, scale=pd.Series([100, 1]))["tolerance"]
    assert mixed.tolist() == pytest.approx([5, 0.25], rel=2e-3)


@given(st.integers(2, 3000), st.integers(0, 10**6), st.sampled_from([1, 100]))
def test_one_clip_more_or_less_is_inside_whatever_its_digits_and_two_are_not(n, at, scale):
    k = at % n
    narrow = {"low": scale * k / n, "high": scale * k / n, "n": n, "name": "x"}
    one = pd.DataFrame([narrow | {"value": scale * k / n}])
    kept = one.assign(**tolerances(one, scale=scale))[COLUMNS]
    with tempfile.TemporaryDirectory() as folder:
        write_values(kept, Path(folder) / "x.csv")
        kept = read_values(Path(folder) / "x.csv")
    for clips, inside in ((1, True), (2, False)):
        moved = kept.assign(value=float(f"{scale * (k + clips) / n:.9g}"))
        assert (compare_values(kept, moved)["deviation"].item() <= 1) is inside


def test_one_hit_more_may_move_the_end_of_a_bootstrap_by_three():
    hits = np.zeros(200)
    one = bootstrap_row(hits)
    hits[0] = 1
    assert compare_values(one, bootstrap_row(hits))["deviation"].item() <= 1
    hits[1:4] = 1
    assert compare_values(one, bootstrap_row(hits))["deviation"].item() > 1


def bootstrap_row(hits: np.ndarray) -> pd.DataFrame:
    found = interval_of(hits[:, None], lambda sums: sums[..., 0] / len(hits))
    frame = table(("x", found.value, found.low, found.high, found.n))
    return frame.assign(**tolerances(frame))[COLUMNS]


def test_without_an_interval_it_is_a_stated_part_of_the_largest_of_its_quantity():
    frame = pd.DataFrame({"kind": ["a", "a", "b"], "value": [-2.0, 0.5, 100.0]})

    def found(**options) -> list[float]:
        return tolerances(frame, **options)["tolerance"].tolist()

    assert found() == pytest.approx([2, 2, 2])
    assert found(of="kind") == pytest.approx([0.04, 0.04, 2])
    assert found(of="kind", relative=0.1) == pytest.approx([0.2, 0.2, 10])


def test_an_interval_of_no_width_does_not_forbid_what_one_clip_moves():
    [[value, ends]] = tolerances(table(("x", 0.0, 0.0, 0.0, 50))).to_numpy()
    assert (value, ends) == pytest.approx((1 / 50, 3 / 50), rel=2e-3)
    [[value, _]] = tolerances(table(("x", 0.8, np.nan, np.nan, 50))).to_numpy()
    assert value == pytest.approx(0.02, rel=2e-3)


numbers = st.floats(-5, 5)


@given(numbers, st.floats(0.001, 2), st.floats(-3, 3))
def test_a_value_is_outside_exactly_when_it_moved_by_more_than_its_tolerance(at, tolerance, moved):
    assume(abs(abs(moved) - 1) > 1e-6)
    one = kept(("x", at, np.nan, np.nan, tolerance))
    other = kept(("x", at + moved * tolerance, np.nan, np.nan, 1e9))
    [row] = compare_values(one, other).itertuples()
    assert row.deviation == pytest.approx(abs(moved), rel=1e-6, abs=1e-9)
    assert (row.deviation > 1) == (abs(moved) > 1)


@given(st.sampled_from(["low", "high"]), st.floats(-5, 5))
def test_an_end_of_an_interval_may_move_as_far_as_the_value(end, moved):
    one = kept(("x", 0.0, -1.0, 1.0, 0.25))
    other = one.assign(**{end: one[end] + moved * 0.25})
    [row] = compare_values(one, other).itertuples()
    assert row.deviation == pytest.approx(abs(moved))


def test_a_missing_a_new_and_a_lost_number_are_outside_and_two_missing_ones_agree():
    one = kept(
        ("gone", 1.0, np.nan, np.nan, 0.1),
        ("lost", 1.0, np.nan, np.nan, 0.1),
        ("none", np.nan, np.nan, np.nan, np.nan),
        ("same", 1.0, 0.5, 1.5, 0.1),
    )
    other = kept(
        ("lost", np.nan, np.nan, np.nan, 0.1),
        ("new", 1.0, np.nan, np.nan, 0.1),
        ("none", np.nan, np.nan, np.nan, np.nan),
        ("same", 1.0, 0.5, 1.5, 0.1),
    )
    found = compare_values(one, other).set_index("name")["deviation"]
    assert found.to_dict() == {
        "gone": np.inf, "lost": np.inf, "new": np.inf, "none": 0.0, "same": 0.0
    }  # fmt: skip


def test_equal_values_agree_even_without_any_tolerance():
    exact = kept(("x", 0.25, 0.25, 0.25, 0.0))
    assert compare_values(exact, exact)["deviation"].tolist() == [0.0]
    assert compare_values(exact, exact.assign(value=0.26))["deviation"].tolist() == [np.inf]


def test_a_rerun_cannot_widen_its_own_tolerance():
    one = kept(("x", 0.5, 0.4, 0.6, 0.025))
    wide = kept(("x", 0.7, -9.0, 9.0, 5.0))
    assert compare_values(one, wide)["deviation"].item() > 1


def test_recorded_values_come_back_by_name_and_a_table_replaces_itself(runs):
    first = table(("T", 0.1, 0.0, 0.2, 10), ("A", 0.3, 0.2, 0.4, 10))
    record_values(first, "gtar", "mini", "04_x", by=["name"])
    record_values(first.assign(name="V").head(1), "drops", "mini", "04_x", by=["name"])
    record_values(first.head(1).assign(value=0.15), "gtar", "mini", "04_x", by=["name"])
    found = read_values(runs / "04_x.csv")
    assert found["name"].tolist() == ["drops/V", "gtar/T"]
    assert found["value"].tolist() == [0.1, 0.15]
    with pytest.raises(ValueError, match="share names.*name them by more"):
        record_values(first.assign(name="T"), "gtar", "mini", "04_x", by=["name"])


def test_a_file_that_is_no_table_of_values_is_refused_by_its_path(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="x.csv: expected the columns"):
        read_values(tmp_path / "x.csv")


def test_a_notebook_that_recorded_nothing_counts_as_all_of_its_values_missing(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    own = kept(("x", 1.0, np.nan, np.nan, 0.1), ("y", 2.0, np.nan, np.nan, 0.1))
    write_values(own, old / "03_a.csv")
    write_values(own.assign(value=[1.02, 2.0]), new / "05_b.csv")
    write_values(own, old / "05_b.csv")
    compared = compare_notebooks(old, new, ["03_a", "05_b", "09_never_committed"])
    assert compared.by_notebook().to_dict("index") == {
        "03_a": {"compared": 2, "outside": 2, "deviation": np.inf},
        "05_b": {"compared": 2, "outside": 0, "deviation": pytest.approx(0.2)},
    }
    assert "4 estimated values compared: 2 outside" in compared.sentence()
    assert "05 x (1 committed, 1.02 found, tolerance 0.1; 0.20 of it)" in compared.sentence()
    assert "outside: 03 x (1 committed, nan found: not recorded)" in compared.report()


def test_the_nearest_of_several_notebooks_is_named_where_all_lie_within(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    own = kept(("x", 1.0, np.nan, np.nan, 0.1), ("y", 2.0, np.nan, np.nan, 0.1))
    for notebook, moved in (("03_a", 0.01), ("05_b", 0.05)):
        write_values(own, old / f"{notebook}.csv")
        write_values(own.assign(value=own["value"] + moved), new / f"{notebook}.csv")
    tables = [compare_notebooks(old, new, [n]).table for n in ("03_a", "05_b")]
    # As the two sides of a rerun put them together, row labels repeated.
    for joined in (pd.concat(tables), pd.concat(tables, ignore_index=True)):
        sentence = Compared(joined).sentence()
        assert "4 estimated values compared: 0 outside" in sentence and "05 x" in sentence


def test_an_empty_table_is_recorded_and_an_infinite_value_refused(runs):
    empty = table().astype({"value": float})
    record_values(empty, "case", "mini", "09_x", by=["name"])
    assert read_values(runs / "09_x.csv").empty
    with pytest.raises(ValueError, match="infinite"):
        record_values(table(("T", np.inf, 0, 1, 5)), "x", "mini", "09_x", by=["name"])


def test_nothing_committed_is_said_and_not_called_a_success():
    assert Compared(pd.DataFrame()).sentence() == "No estimated value was compared."


def test_a_metric_with_a_bug_and_a_router_trained_half_as_long_would_be_outside():
    """A bias of half an interval's half-width is caught, its ordinary noise is not."""
    rng = np.random.default_rng(0)
    hits = rng.random(800) < 0.6
    spread = 1.96 * np.sqrt(0.24 / 800)
    frame = table(("T", hits.mean(), hits.mean() - spread, hits.mean() + spread, 800))
    one = frame.assign(**tolerances(frame))[COLUMNS]
    few_flips = one.assign(value=one["value"] + 4 / 800)
    wrong_denominator = one.assign(value=one["value"] * 800 / 760)
    assert compare_values(one, few_flips)["deviation"].item() < 1
    assert compare_values(one, wrong_denominator)["deviation"].item() > 1


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two notebooks' files under figures/mini, and their digests as committed."""
    figures, committed = tmp_path / "figures", tmp_path / "values"
    (figures / "mini").mkdir(parents=True)

    def draw(name: str, notebook: str, content: str) -> None:
        path = figures / "mini" / name
        path.write_text(content)
        note = Provenance("Figure", notebook, "f", caption="Figure. Profile mini.")
        record([path], note, "mini", figures)

    draw("a.svg", "03_a", "one")
    draw("b.svg", "03_a", "two")
    draw("c.svg", "05_b", "three")
    monkeypatch.setattr(manifest.digests, "__defaults__", (figures,))
    for notebook in ("03_a", "05_b"):
        files = manifest.digests("mini", notebook)
        manifest.write_digests(files, committed / f"{notebook}.sha256", "figures/mini")
    return draw, committed, figures


def compared(outside: bool) -> Compared:
    rows = [("03_a", "x", 1.0, 1.0, 0.1, 0.0), ("05_b", "x", 1.0, 2.0, 0.1, 10.0 * outside)]
    columns = ["notebook", "name", "committed", "found", "tolerance", "deviation"]
    return Compared(pd.DataFrame(rows, columns=columns))


def test_a_figure_of_other_bytes_is_equal_in_value_only_while_its_notebooks_values_are(made):
    draw, committed, _ = made
    line = compare_files("mini", compared(True), committed, ["03_a", "05_b"])
    assert "3 identical, 0 equal in value but not in bytes, 0 different." in line
    draw("a.svg", "03_a", "other last bits")
    draw("c.svg", "05_b", "another finding")
    line = compare_files("mini", compared(True), committed, ["03_a", "05_b"])
    assert "1 identical, 1 equal in value but not in bytes, 1 different (c.svg)." in line
    draw("d.svg", "03_a", "a figure that was never committed")
    line = compare_files("mini", compared(True), committed, ["03_a"])
    assert "1 identical, 1 equal in value but not in bytes, 1 different (d.svg)." in line


def test_formats_that_are_not_committed_or_were_not_asked_for_are_not_compared(made, monkeypatch):
    draw, committed, _ = made
    draw("e.pdf", "03_a", "on request")
    line = compare_files("mini", compared(False), committed, ["03_a", "05_b"])
    assert "3 identical, 0 equal in value but not in bytes, 0 different." in line
    monkeypatch.setenv("EMOMM_FIGURE_FORMATS", "png")
    assert "No committed figure" in compare_files("mini", compared(False), committed, ["03_a"])


def test_committed_digests_are_what_sha256sum_reads(made):
    _, committed, figures = made
    lines = (committed / "03_a.sha256").read_text().splitlines()
    for line in lines:
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((figures.parent / name).read_bytes()).hexdigest() == digest
    assert manifest.read_digests(committed / "03_a.sha256") == manifest.digests("mini", "03_a")


def test_a_side_of_zero_is_named_only_where_no_tolerance_reaches_across():
    frame = table(
        ("far", 0.5, 0.3, 0.7, 100),
        ("near", 0.21, 0.01, 0.41, 100),
        ("below", -0.5, -0.7, -0.3, 100),
        ("holds", 0.0, -0.3, 0.3, 100),
        ("barely holds", 0.18, -0.02, 0.38, 100),
        ("unknown", 0.1, np.nan, np.nan, 100),
    )
    assert side_of_zero(frame).tolist() == [
        "above zero", "borderline", "below zero", "open", "borderline", "undefined"
    ]  # fmt: skip


@given(numbers, st.floats(0.01, 3), st.floats(-1, 1), st.floats(-1, 1))
def test_two_machines_within_tolerance_never_name_opposite_facts(at, half, shift_low, shift_high):
    one = table(("x", at, at - half, at + half, 10**6))
    reach = tolerances(one)["ends"].item()
    other = one.assign(low=one["low"] + shift_low * reach, high=one["high"] + shift_high * reach)
    assume(other["low"].item() <= other["high"].item())
    words = {side_of_zero(one).item(), side_of_zero(other).item()}
    # Either they agree, or the first (the committed one) already said that it may turn.
    assert len(words) == 1 or "borderline" in words


@given(st.integers(0, 10**6), st.sampled_from([117, 633, 1180]))
def test_answers_of_a_router_trained_again_lie_within_and_a_shift_of_five_points_does_not(seed, n):
    rng = np.random.default_rng(seed)
    frame = table(("x", 0.05, 0.05, 0.05, n))
    one = frame.assign(**tolerances(frame, trained=True))[COLUMNS]
    # One answer in a hundred differs, half of them for the better.
    moved = rng.choice([-1, 1], size=rng.binomial(n, 0.01)).sum() / n
    inside = compare_values(one, one.assign(value=0.05 + moved))["deviation"].item() <= 1
    assert inside or abs(moved) > 3 * np.sqrt(0.01 / n)
    shift = max(0.05, 3.1 * np.sqrt(0.01 / n))
    assert compare_values(one, one.assign(value=0.05 + shift))["deviation"].item() > 1


def test_choices_are_committed_with_the_notebook_that_made_them_and_no_earlier(tmp_path):
    runs, root = tmp_path / "runs", tmp_path / "values"
    chosen = runs / "mini" / "choices.json"
    chosen.parent.mkdir(parents=True)
    chosen.write_text("of an earlier run")
    values.commit_notebook("mini", "03_vcc_analysis", runs=runs, root=root)
    assert not (root / "mini" / chosen.name).exists()
    chosen.write_text("new")
    values.commit_notebook("mini", values.CHOOSES, runs=runs, root=root)
    assert (root / "mini" / chosen.name).read_text() == "new"
