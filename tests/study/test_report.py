import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from emomm_lib.labels import polarity
from emomm_study import paper
from emomm_study.corpora.manifest import subset_sizes
from emomm_study.report import manifest, numbers, tables
from emomm_study.report.figures import statistics as figures
from emomm_study.report.publish import caption, folder, record, stamp, write_figure, write_table


def provenance(item="Figure 6", text="", **more):
    text = text or f"{item}. Profile mini."
    return manifest.Provenance(item, "02_statistics", "f00d", text, **more)


@pytest.fixture(scope="module")
def clips():
    """Clips with Table 3's margins in sorted order, so that their C_ij are known to differ."""
    counts = paper.table(3)
    parts = []
    for corpus in paper.CORPORA:
        part = {"sample_id": [f"{corpus}/{i:04d}" for i in range(2000)], "corpus": [corpus] * 2000}
        for shift, source in enumerate(paper.SOURCES):
            rows = counts[(counts["corpus"] == corpus) & (counts["source"] == source)]
            part[f"label_{source}"] = np.roll(np.repeat(np.arange(5), rows["count"]), 60 * shift)
        part = pd.DataFrame(part)
        z = {s: polarity(part[f"label_{s}"]) for s in paper.SOURCES}
        same = np.all([z[s] == z["gt"] for s in "tav"], axis=0)
        parts.append(part.assign(subset=np.where(same, "align", "conflict"), split="train"))
    return pd.concat(parts, ignore_index=True)


def draw(clips):
    return {
        "figure2": figures.figure2(subset_sizes(clips)),
        "figure6": figures.figure6(clips),
        "figure7": figures.figure7(clips),
        "figure8": figures.figure8(clips),
    }


def words(fig):
    fig.draw_without_rendering()
    return [t.get_text() for t in fig.findobj(mpl.text.Text) if t.get_visible() and t.get_text()]


def test_every_figure_names_its_profile_and_its_item(clips):
    for name, fig in draw(clips).items():
        stamp(fig, "profile: mini")
        assert any("profile: mini" in word for word in words(fig)), name
        assert any(f"Figure {name[-1]}" in word for word in words(fig)), name
        plt.close(fig)


def test_captions_name_their_profile():
    text = caption("Figure 2", "mini", "Subsets by corpus", "Surrogate clips.")
    assert text == "Figure 2: Subsets by corpus. Profile mini. Surrogate clips."
    assert caption("Figure 2", "mini", "Subsets").endswith(": Subsets. Profile mini.")
    with pytest.raises(ValueError, match="names its profile"):
        caption("Figure 2", "", "x")


def test_a_modality_has_the_same_colour_in_every_distribution(clips):
    for name in ("figure6", "figure7", "figure8"):
        fig = getattr(figures, name)(clips)
        colours = [mpl.colors.to_hex(c[0].get_facecolor()) for c in fig.axes[0].containers]
        names, patches = fig.axes[0].legend_.get_texts(), fig.axes[0].legend_.get_patches()
        assert [mpl.colors.to_hex(patch.get_facecolor()) for patch in patches] == colours
        found = {t.get_text(): c.upper() for t, c in zip(names, colours, strict=False)}
        assert found == {"GT": "#4D4D4D", "T": "#0072B2", "A": "#E69F00", "V": "#009E73"}
        plt.close(fig)


def test_bars_and_cells_show_the_counts_and_agreements_of_the_clips(clips):
    fig = figures.figure7(clips)
    counts = paper.table(3).query("corpus == 'cmu_mosi' and source == 'a'")["count"].tolist()
    bars = fig.axes[0].containers[2]
    assert fig.axes[0].legend_.get_texts()[2].get_text() == "A"
    assert [bar.get_height() for bar in bars] == counts
    cells = tables.agreements(clips).query("corpus == 'cmu_mosi'")["agreement"]
    shown = " ".join(words(fig)).split()
    assert {f"{np.round(value, 4):.4f}" for value in cells} <= set(shown)
    assert {"(0.7998)", "(0.6541)"} <= set(shown)
    plt.close(fig)


def test_published_marks_do_not_move_with_the_reproduced_values(clips):
    few = clips.groupby("corpus").head(500)
    for sample in (clips, few):
        fig = figures.figure8(sample)
        lines = [
            c for c in fig.axes[0].collections if isinstance(c, mpl.collections.LineCollection)
        ]
        heights = [segment[0][1] for segment in lines[0].get_segments()]
        assert heights == [431, 433, 304, 433, 399]
        plt.close(fig)


def undrawn(fig):
    """Labels of ticks outside the view, which matplotlib keeps but does not draw."""
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    yield tick.label1


def test_no_two_texts_of_a_figure_overlap_or_leave_it(clips):
    for name, fig in draw(clips).items():
        stamp(fig, "profile: mini")
        fig.draw_without_rendering()
        hidden = [*undrawn(fig), fig._suptitle]
        boxes = [
            (t.get_text(), t.get_window_extent())
            for t in fig.findobj(mpl.text.Text)
            if t.get_visible() and t.get_text().strip() and t not in hidden
        ]
        assert len(boxes) > 10
        for k, (one, a) in enumerate(boxes):
            for other, b in boxes[:k]:
                assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (name, one, other)
        for text, box in boxes:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1
            assert inside, (name, text)
        plt.close(fig)


def test_a_figure_of_an_absent_corpus_says_so(clips):
    fig = figures.figure8(clips[clips["corpus"] == "cmu_mosi"])
    assert any("no clips of CH-SIMS v2.0" in text.get_text() for text in fig.texts)


def test_drawing_leaves_the_users_matplotlib_settings_alone(clips, tmp_path):
    with mpl.rc_context({"font.size": 23, "svg.hashsalt": "mine"}):
        before = dict(mpl.rcParams)
        fig = figures.figure2(subset_sizes(clips))
        write_figure(fig, "f", "mini", provenance(), root=tmp_path)
        assert dict(mpl.rcParams) == before
        one = (tmp_path / "mini" / "f.svg").read_bytes()
    fig = figures.figure2(subset_sizes(clips))
    write_figure(fig, "f", "mini", provenance(), root=tmp_path)
    assert (tmp_path / "mini" / "f.svg").read_bytes() == one


SCRIPT = """
import sys
from pathlib import Path
import pandas as pd
from emomm_study.corpora.manifest import subset_sizes
from emomm_study.report.figures import statistics as figures
from emomm_study.report import manifest, tables
from emomm_study.report.publish import write_figure, write_table
clips = pd.read_csv(sys.argv[1])
root = Path(sys.argv[2])
source = manifest.Provenance("Figure", "02_statistics", "f00d", "Profile mini.", {"n": 4000})
every = ("png", "svg", "pdf")
fig = figures.figure2(subset_sizes(clips))
write_figure(fig, "figure2", "mini", source, formats=every, root=root)
write_figure(figures.figure6(clips), "figure6", "mini", source, formats=every, root=root)
write_table(tables.table4(clips, "mini"), "table4", "mini", source, root=root)
"""


def test_another_process_at_another_time_writes_the_same_bytes(clips, tmp_path, monkeypatch):
    clips.to_csv(tmp_path / "clips.csv", index=False)
    changed = {"PYTHONHASHSEED": "2", "SOURCE_DATE_EPOCH": "1000000000", "MPLBACKEND": "Agg"}
    arguments = [sys.executable, "-c", SCRIPT, tmp_path / "clips.csv", tmp_path / "there"]
    subprocess.run(arguments, check=True, env={**os.environ, **changed})
    monkeypatch.setattr(sys, "argv", ["", tmp_path / "clips.csv", tmp_path / "here"])
    exec(SCRIPT, {})
    names = sorted(p.name for p in (tmp_path / "there" / "mini").iterdir())
    # An SVG is there where it has no raster image, as Figure 6's heat map may be one.
    wanted = [f"{name}.{kind}" for name in ("figure2", "figure6") for kind in ("pdf", "png", "svg")]
    wanted += ["figure2_dark.png", "figure6_dark.png", "manifest.json", "table4.csv", "table4.tex"]
    assert sorted({*names, "figure6.svg"}) == sorted(wanted)
    for name in names:
        one, two = ((tmp_path / where / "mini" / name).read_bytes() for where in ("here", "there"))
        assert one == two, name


def test_text_is_selectable_in_svg_and_embedded_as_truetype_in_pdf(clips, tmp_path):
    fig, every = figures.figure2(subset_sizes(clips)), ("png", "svg", "pdf")
    written = write_figure(fig, "f", "mini", provenance(), formats=every, root=tmp_path)
    by_suffix = {p.suffix: p.read_bytes() for p in written.paths}
    assert re.search(rb"<text[^>]*>profile: mini", by_suffix[".svg"])
    assert b"/CIDFontType2" in by_suffix[".pdf"] or b"/TrueType" in by_suffix[".pdf"]
    assert b"/Type3" not in by_suffix[".pdf"]
    assert b"CreationDate" not in by_suffix[".pdf"] and b"dc:date" not in by_suffix[".svg"]


def test_saving_closes_the_figure_and_records_it(clips, tmp_path):
    fig = figures.figure7(clips)
    write_figure(fig, "f", "mini", provenance(published={"a": 1.0}), root=tmp_path)
    assert fig.number not in plt.get_fignums()
    entry = manifest.read("mini", tmp_path)["f.png"]
    assert (entry["item"], entry["published"]) == ("Figure 6", {"a": 1.0})
    assert manifest.verify("mini", tmp_path).empty


def test_recording_keeps_other_entries_and_replaces_its_own(tmp_path):
    base = folder("mini", tmp_path)
    for name in ("b.csv", "a.csv"):
        (base / name).write_text(name)
        record([base / name], provenance(item=name), "mini", tmp_path)
    (base / "a.csv").write_text("new")
    record([base / "a.csv"], provenance(item="again"), "mini", tmp_path)
    entries = manifest.read("mini", tmp_path)
    assert {name: entry["item"] for name, entry in entries.items()} == {
        "a.csv": "again",
        "b.csv": "b.csv",
    }
    assert manifest.verify("mini", tmp_path).empty
    text = (base / manifest.NAME).read_text()
    content = json.loads(text)
    assert text == json.dumps(content, indent=2, sort_keys=True) + "\n"
    assert content["profile"] == "mini"
    assert sorted(p.name for p in base.iterdir()) == ["a.csv", "b.csv", "manifest.json"]


def test_the_manifest_does_not_depend_on_the_order_of_recording(tmp_path):
    texts = []
    for order in (("a", "b"), ("b", "a")):
        root = tmp_path / order[0]
        base = folder("mini", root)
        for name in order:
            (base / name).write_text(name)
            record([base / name], provenance(item=name), "mini", root)
        texts.append((base / manifest.NAME).read_bytes())
    assert texts[0] == texts[1]


def test_writers_at_the_same_time_lose_no_entry(tmp_path):
    base = folder("mini", tmp_path)

    def write(k):
        (base / f"{k}.txt").write_text(str(k))
        record([base / f"{k}.txt"], provenance(item=str(k)), "mini", tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert set(manifest.read("mini", tmp_path)) == {f"{k}.txt" for k in range(40)}
    assert manifest.verify("mini", tmp_path).empty


def test_verify_names_missing_changed_and_unlisted_files(tmp_path):
    base = folder("mini", tmp_path)
    for name in ("kept", "changed", "missing"):
        (base / name).write_text(name)
    record(base.iterdir(), provenance(), "mini", tmp_path)
    (base / "changed").write_text("x")
    (base / "missing").unlink()
    (base / "stray").write_text("")
    problems = dict(manifest.verify("mini", tmp_path).itertuples(index=False, name=None))
    assert sorted(problems) == ["changed", "missing", "stray"]
    assert "differs" in problems["changed"] and "not listed" in problems["stray"]


def test_a_failed_record_leaves_the_manifest_as_it_was(tmp_path):
    base = folder("mini", tmp_path)
    (base / "a").write_text("a")
    record([base / "a"], provenance(), "mini", tmp_path)
    before = (base / manifest.NAME).read_bytes()
    for bad in ({"published": float("nan")}, {"text": "no name of it"}):
        with pytest.raises(ValueError):
            record([base / "a"], provenance(**bad), "mini", tmp_path)
    outside = tmp_path / "b"
    outside.write_text("b")
    with pytest.raises(ValueError, match="save it there"):
        record([outside], provenance(), "mini", tmp_path)
    with pytest.raises(ValueError, match="a profile is named"):
        folder("../mini", tmp_path)
    assert (base / manifest.NAME).read_bytes() == before
    (base / manifest.NAME).write_text("{")
    with pytest.raises(ValueError, match="delete it and rerun"):
        manifest.read("mini", tmp_path)


def test_table_3_shows_published_and_reproduced_counts_in_the_papers_order(clips):
    table = tables.table3(clips, "mini")
    assert table.index.tolist()[:5] == [
        *(("CMU-MOSI", s) for s in ("GT", "T", "A", "V")),
        ("CH-SIMS v2.0", "GT"),
    ]
    assert [c for c, v in table.columns if v == "published"] == ["N", "WN", "Neu", "WP", "P"]
    assert table.loc[("CMU-MOSI", "A"), ("WP", "published")] == 775
    assert (table.xs("published", axis=1, level=1) == table.xs("mini", axis=1, level=1)).all(
        axis=None
    )


def test_an_absent_class_is_counted_as_zero_and_an_absent_corpus_is_missing(clips):
    some = clips[(clips["corpus"] == "cmu_mosi") & (clips["label_v"] > 0)]
    table = tables.table3(some, "mini")
    assert table.loc[("CMU-MOSI", "V"), ("N", "mini")] == 0
    assert table.loc["CH-SIMS v2.0"].xs("mini", axis=1, level=1).isna().all(axis=None)


def test_table_4_holds_equation_1_of_each_corpus_beside_the_published_value(clips):
    table = tables.table4(clips, "mini")
    part = clips[clips["corpus"] == "ch_sims_v2"]
    expected = 1 - (part["label_t"] - part["label_v"]).abs().mean() / 4
    assert table.loc[("CH-SIMS v2.0", "T"), ("V", "mini")] == pytest.approx(expected, abs=1e-12)
    assert table.loc[("CH-SIMS v2.0", "T"), ("V", "published")] == 0.7602


def test_reproduced_counts_meet_the_published_items_by_name(clips):
    counts = tables.label_counts(clips)
    ours = counts.assign(item=paper.item_names(3, counts), reproduced=counts["count"])
    result = paper.compare(paper.items(3), ours, 0, profile="mini")
    assert len(result) == 40 and result["within"].all()
    cells = tables.agreements(clips)
    ours = cells.assign(item=paper.item_names(4, cells), reproduced=cells["agreement"])
    result = paper.compare(paper.items(4), ours, 0.5e-4, profile="mini")
    assert len(result) == 32 and result["within"].sum() == 8


def test_table_5_marks_what_the_paper_marks_and_where_the_companion_shows_it():
    table = tables.table5({"conflict_split": "01"})
    assert table.loc["Explicit Modality-Conflict Split"].tolist() == ["✗", "✓", "✗", "✓", "01"]
    assert (table["EmoMM"] == "✓").all()
    assert (table["in this companion"] == "-").sum() == 5
    with pytest.raises(ValueError, match="no capability"):
        tables.table5({"conflict": "01"})


def test_table_5_says_of_every_benchmark_how_it_is_run_and_refuses_to_leave_one_out():
    runs = {name: f"emomm {name}" for name in ("MER-UniBench", "CA-MER", "MissRAG", "EmoMM")}
    table = tables.table5({"conflict_split": "01"}, runs)
    row = table.loc[tables.RUN_HERE]
    assert row.drop("in this companion").to_dict() == runs and row["in this companion"] == ""
    assert len(table) == len(tables.table5()) + 1
    for wrong in ({"EmoMM": "x"}, runs | {"MELD": "x"}):
        with pytest.raises(ValueError, match="has the benchmarks"):
            tables.table5(None, wrong)


def results(*models):
    rows = [
        (model, "baseline", subset, metric, 50.0, 45.0, 55.0)
        for model in models
        for subset in tables.SUBSET_NAMES
        for metric in tables.METRIC_NAMES
    ]
    names = ["model", "method", "subset", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def test_a_small_models_row_never_stands_with_a_real_models():
    table = tables.table1(results("Omni-mini"), "mini")
    assert len(table) == 9
    mini = table[table.index.get_level_values("values") == "mini"]
    assert mini.index.tolist() == [("not in the paper", "Omni-mini", "baseline", "mini")]
    assert mini["EmoMM-Align", "Acc 95%"].item() == "[45.00, 55.00]"


def test_a_reproduced_row_follows_the_published_row_of_its_model():
    table = tables.table1(results("Qwen/Qwen2.5-Omni-7B"), "paper")
    position = table.index.get_loc(("target backbones", "Qwen2.5-Omni-7B", "baseline", "published"))
    assert table.index[position + 1][1:] == ("Qwen2.5-Omni-7B", "baseline", "paper")
    assert table.iloc[position]["EmoMM (Overall)", "Acc"] == 44.53
    published = table[table.index.get_level_values("values") == "published"]
    assert len(published) == 8 and published.iloc[-1]["EmoMM-Missing", "MAE"] == 0.241


def test_published_units_are_percent_but_for_the_error():
    names = ["metric", "value", "low", "high"]
    rows = [("acc5", 0.5, 0.4, 0.6), ("mae", 0.3, 0.2, 0.4), ("acc2", 0.7, 0.6, 0.8)]
    converted = tables.published_units(pd.DataFrame(rows, columns=names))
    assert converted["metric"].tolist() == ["acc", "mae"]
    assert converted["value"].tolist() == [50, 0.3]
    assert converted["high"].tolist() == [60, 0.4]


def test_a_saved_table_reads_back_equal_and_its_latex_names_the_profile(clips, tmp_path):
    table = tables.table4(clips, "mini")
    source = provenance("Table 4")
    csv, tex = write_table(table, "table4", "mini", source, root=tmp_path)
    back = pd.read_csv(csv, index_col=[0, 1])
    assert np.array_equal(back.to_numpy(), table.to_numpy())
    assert back.columns[:2].tolist() == ["GT published", "GT mini"]
    assert r"\caption{Table 4. Profile mini.}" in tex.read_text()
    assert set(manifest.read("mini", tmp_path)) == {"table4.csv", "table4.tex"}


def test_a_table_wider_than_a_page_is_cut_between_groups_and_its_parts_stand_in_one_float(tmp_path):
    groups = pd.MultiIndex.from_product([["one", "two", "three", "four"], ["Acc", "F1", "MAE"]])
    frame = pd.DataFrame(np.arange(24).reshape(2, 12), columns=groups).rename_axis("model")
    csv, tex = write_table(frame, "wide", "mini", provenance("Table 1"), root=tmp_path)
    text = tex.read_text()
    assert pd.read_csv(csv, index_col=0).shape == (2, 12)
    assert text.count(r"\begin{table}") == text.count(r"\caption") == 1
    first, second = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL)
    numbers = [[int(x) for x in re.findall(r"(?<=& )\d+", part)] for part in (first, second)]
    assert numbers == [[*range(9), *range(12, 21)], [*range(9, 12), *range(21, 24)]]
    whole, *_ = write_table(
        frame[["one", "two", "three"]], "t", "mini", provenance(), root=tmp_path
    )
    assert whole.with_suffix(".tex").read_text().count(r"\begin{tabular}") == 1


def test_latex_has_fixed_digits_escapes_text_and_a_dash_for_no_number(tmp_path):
    frame = pd.DataFrame({"Acc": [51.0, np.nan], "MAE": [0.3, 0.25], "95%": ["a_b", "✓"]})
    _, tex = write_table(
        frame, "t", "mini", provenance(), decimals={"Acc": 2, "MAE": 3}, root=tmp_path
    )
    text = tex.read_text()
    assert r"0 & 51.00 & 0.300 & a\_b \\" in text
    assert r"1 & - & 0.250 & \checkmark \\" in text
    assert r"95\%" in text


def test_ties_of_table_4_print_as_the_paper_prints_them():
    # Each printed C_ij is 1 - S/8000; these two lie exactly between two four-digit numbers.
    assert numbers.fixed(1 - 1602 / 8000, 4) == "0.7998"
    assert numbers.fixed(1 - 1918 / 8000, 4) == "0.7602"


def test_spread_results_keep_their_order_and_leave_unknown_cells_empty():
    rows = [("b", "x", 0.5, 0.4, 0.6), ("a", "y", 0.25, 0.1, 0.3), ("b", "y", -0.1, -0.2, 0.0)]
    frame = pd.DataFrame(rows, columns=["who", "what", "value", "low", "high"])
    table = tables.with_intervals(frame, "who", "what")
    assert list(table.index) == ["b", "a"] and list(table.columns) == ["x", "y"]
    assert table.loc["b", "x"] == "50.0 [40.0, 60.0]" and table.loc["a", "x"] == ""
    two = tables.with_intervals(frame.assign(k=[2, 1, 2]), ["k", "who"], "what", factor=1, digits=2)
    assert two.loc[(2, "b"), "y"] == "-0.10 [-0.20, 0.00]"


def ablation(*variants, metrics=("acc", "f1", "mae")):
    rows = [
        (variant, metric, k + value, k + value - 1.25, k + value + 2.5)
        for k, variant in enumerate(variants)
        for metric, value in (("acc", 50.125), ("f1", 40.0), ("mae", 0.375))
        if metric in metrics
    ]
    return pd.DataFrame(rows, columns=["variant", "metric", "value", "low", "high"])


def test_table_2_has_the_papers_rows_in_its_order_whatever_the_order_of_results():
    table = tables.table2(ablation("baseline", "no_router", "full"), "mini")
    assert table.index.tolist() == [
        "Full CHASE",
        "w/o Router (Random Steering)",
        "w/o Inter-modality Bias",
        "w/o Intra-modality Bias",
        "Original Baseline",
    ]
    names = [("published", name) for name in ("Acc", "F1", "MAE")]
    names += [("mini", name) for name in ("Acc", "Acc 95%", "F1", "MAE")]
    assert table.columns.tolist() == names
    assert table.loc["Full CHASE"].tolist() == [
        *(51.32, 46.47, 0.302),
        *(52.125, "[50.88, 54.62]", 42.0, 2.375),
    ]
    assert table.loc["Original Baseline", ("published", "F1")] == 39.76
    assert table.loc["Original Baseline", ("mini", "F1")] == 40.0
    absent = table.loc["w/o Inter-modality Bias", "mini"]
    assert absent[["Acc", "F1", "MAE"]].isna().all() and absent["Acc 95%"] == ""


def test_variants_that_the_paper_lacks_follow_beneath_without_published_scores():
    table = tables.table2(ablation("oracle", "full", "every head"), "mini")
    assert table.index.tolist()[4:] == ["Original Baseline", "oracle", "every head"]
    assert table.loc[["oracle", "every head"], "published"].isna().all(axis=None)
    assert table.loc["every head", ("mini", "Acc")] == 52.125


def test_reproduced_ablations_and_routing_meet_the_published_items_by_name():
    for number, long in (
        (2, ablation("full", "no_router", "no_inter_bias", "no_intra_bias", "baseline")),
        (6, routing("valid", "test")),
    ):
        ours = long.assign(item=paper.item_names(number, long), reproduced=long["value"])
        result = paper.compare(paper.items(number), ours, 0, profile="mini")
        assert result["reproduced"].notna().all() and len(result) == len(long)


def routing(*splits):
    values = {"joint_success": 0.70125, "conflict_recall": 0.875, "target_top1": 0.75}
    rows = [(s, m, v, v - 0.25, v + 0.0625) for s in splits for m, v in values.items()]
    return pd.DataFrame(rows, columns=["split", "metric", "value", "low", "high"])


def test_table_6_shows_each_published_rate_beside_the_reproduced_one_and_its_interval():
    table = tables.table6(routing("test"), "mini")
    assert table.index.tolist() == ["Valid", "Test"]
    rates = [
        "Conflict Detection Recall",
        "Target-Modality Top-1 on Steered Layers",
        "Joint Success Rate",
    ]
    assert table.columns.tolist() == [(r, v) for r in rates for v in ("published", "mini", "95%")]
    assert table.loc["Test"].tolist() == [
        *(0.8965, 0.875, "[0.6250, 0.9375]"),
        *(0.7790, 0.75, "[0.5000, 0.8125]"),
        *(0.7055, 0.70125, "[0.4512, 0.7638]"),
    ]
    valid = table.loc["Valid"].unstack()
    assert valid["published"].tolist() == [
        table.loc["Valid", (r, "published")] for r in valid.index
    ]
    assert valid["mini"].isna().all() and valid["95%"].eq("").all()


def test_table_6_of_several_models_has_the_rows_of_each():
    both = pd.concat(
        [routing("valid", "test").assign(model="b"), routing("test").assign(model="a")]
    )
    table = tables.table6(both, "mini")
    assert table.index.tolist() == [("b", "Valid"), ("b", "Test"), ("a", "Valid"), ("a", "Test")]
    alone = tables.table6(routing("test"), "mini")
    pd.testing.assert_frame_equal(table.loc["a"], alone)


def test_a_downloaded_model_stands_in_table_1_under_the_papers_name():
    rows = [("VITA-MLLM/VITA-1.5", "CHASE", "align", "acc", 50.0, 48.0, 52.0)]
    columns = ["model", "method", "subset", "metric", "value", "low", "high"]
    table = tables.table1(pd.DataFrame(rows, columns=columns), "paper")
    found = table.loc[("target backbones", "VITA-1.5-8B", "CHASE")]["EmoMM-Align", "Acc"]
    assert found.to_dict() == {"published": 53.82, "paper": 50.0}
    assert paper.model_name("me/vita-mini") == "vita-mini"


def test_tables_2_and_6_save_with_the_digits_of_the_paper(tmp_path):
    _, tex = write_table(
        tables.table2(ablation("full", "oracle"), "mini"),
        *("table2", "mini", provenance("Table 2")),
        decimals=tables.DECIMALS,
        root=tmp_path,
    )
    row = "Full CHASE & 51.32 & 46.47 & 0.302 & 50.12 & [48.88, 52.62] & 40.00 & 0.375"
    assert row in tex.read_text()
    assert "oracle & - & - & - & 51.12 &" in tex.read_text()
    csv, tex = write_table(
        tables.table6(routing("valid"), "mini"),
        *("table6", "mini", provenance("Table 6")),
        root=tmp_path,
    )
    assert r"Valid & 0.9024 & 0.8750 & [0.6250, 0.9375] & 0.7716 &" in tex.read_text()
    assert "Test & 0.8965 & - &  & 0.7790 &" in tex.read_text()
    assert pd.read_csv(csv, index_col=0).loc["Valid", "Joint Success Rate mini"] == 0.70125


def test_an_interval_that_is_not_defined_is_left_out_of_tables_2_and_6():
    undefined = {"low": np.nan, "high": np.nan}
    assert (
        tables.table2(ablation("full").assign(**undefined), "mini")["mini", "Acc 95%"].eq("").all()
    )
    table = tables.table6(routing("test").assign(**undefined), "mini")
    assert table.xs("95%", axis=1, level=1).eq("").all(axis=None)


def test_tables_2_and_6_refuse_names_that_they_do_not_know_and_rows_that_occur_twice():
    with pytest.raises(ValueError, match=r"Table 2: metric is one of .* got also \['acc5'\]"):
        tables.table2(ablation("full").replace({"metric": {"acc": "acc5"}}), "mini")
    with pytest.raises(ValueError, match=r"Table 6: split is one of .* got also \['train'\]"):
        tables.table6(routing("train"), "mini")
    with pytest.raises(ValueError, match="duplicate"):
        tables.table2(ablation("full", "full"), "mini")
    with pytest.raises(ValueError, match="duplicate"):
        tables.table6(routing("test", "test"), "mini")
