"""What a notebook opens its run with and publishes with, and the captions that it gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt

from emomm_study import notebook, paper
from emomm_study.evaluate import experiment
from emomm_study.notebook import BESIDE, open_run
from emomm_study.report import manifest, values
from emomm_study.report.comparison import read_comparisons
from emomm_study.report.manifest import frame_fingerprint
from emomm_study.report.style import context, titled
from emomm_study.run.pipeline import find_notebooks

PARAMETERS = {"profile": "mini", "data_note": "Surrogate clips.", "unused": 1}
SOURCES = find_notebooks()
_FIELDS = {field.name: 1 for field in fields(experiment.ExperimentSettings)}
MODEL_PARAMETERS = {n: v for n, v in _FIELDS.items() if n not in ("model", "clips")} | {
    "backbones": ["a", "b"]
}
CLIPS = pd.DataFrame({"sample_id": ["a", "b"], "label_gt": [0, 4]})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that writes into a folder of its own and has a benchmark of two clips."""
    monkeypatch.delenv("EMOMM_FIGURE_FORMATS", raising=False)
    monkeypatch.setattr(notebook, "FIGURES", tmp_path)
    monkeypatch.setattr(notebook, "RUNS", tmp_path)
    monkeypatch.setattr(notebook, "read_manifest", lambda path: CLIPS)
    monkeypatch.setattr(values, "recorded", lambda profile: tmp_path / profile)
    yield open_run("02_statistics", PARAMETERS)
    plt.close("all")


def drawn(*, raster=False, points=3):
    with context():
        fig, ax = plt.subplots()
        if raster:
            ax.imshow(np.eye(3))
        ax.plot(range(points), np.random.default_rng(0).random(points), "o")
        titled(fig, "A title", "a remark")
    return fig


def names(tmp_path):
    return sorted(p.name for p in (tmp_path / "mini").iterdir() if p.name != manifest.NAME)


def test_a_published_figure_is_shown_closed_and_names_its_profile_exactly_once(run, tmp_path):
    fig = drawn()
    shown = run.publish(fig, "a", "Figure 6", "Labels")
    assert shown.figure is fig and repr(shown) == repr(fig)
    data, said = DisplayFormatter().format(shown)
    assert data["image/png"].startswith(b"\x89PNG") and "text/html" not in data
    assert said["image/png"] == {"alt": "Figure 6: Labels. Profile mini. Surrogate clips."}
    assert fig.number not in plt.get_fignums()
    run.publish(fig, "b", "Figure 7", "Labels again")
    assert [text.get_text() for text in fig.texts][1:] == ["profile: mini  |  a remark"]
    svg = (tmp_path / "mini" / "b.svg").read_text(encoding="utf-8")
    assert svg.count("profile: mini") == 1 and 'id="remark"' not in svg
    assert manifest.verify("mini", tmp_path).empty


def test_a_published_table_is_shown_as_it_is_printed(run, tmp_path):
    table = pd.DataFrame({"Acc": [51.125, np.nan], "MAE": [0.3, 0.25]}, index=["x", "y"])
    shown = run.publish(table, "t", "Table 1", "Results", decimals={"Acc": 2, "MAE": 3})
    assert shown.to_numpy().tolist() == [["51.12", "0.300"], ["-", "0.250"]]
    assert names(tmp_path) == ["t.csv", "t.tex"]
    assert pd.read_csv(tmp_path / "mini" / "t.csv", index_col=0).loc["x", "Acc"] == 51.125


def test_what_is_published_says_where_it_is_from(run, tmp_path):
    run.publish(drawn(), "a", "Figure 6", "Labels", published=0.5)
    entry = manifest.read("mini", tmp_path)["a.png"]
    assert (entry["item"], entry["notebook"], entry["published"]) == (
        "Figure 6", "02_statistics", 0.5
    )  # fmt: skip
    assert entry["caption"] == "Figure 6: Labels. Profile mini. Surrogate clips."
    assert entry["fingerprint"] == frame_fingerprint(CLIPS)
    fig = plt.figure()
    run.publish(fig, "bare", "Figure 7", "No remark", note="Test split.", of=["x", CLIPS])
    assert not fig.texts
    entry = manifest.read("mini", tmp_path)["bare.png"]
    assert entry["caption"] == "Figure 7: No remark. Profile mini. Test split."
    assert entry["fingerprint"] == f"x-{frame_fingerprint(CLIPS)}"
    run.made_of, run.data_note = "votes", ""
    run.publish(plt.figure(), "votes", "Votes", "Items")
    entry = manifest.read("mini", tmp_path)["votes.png"]
    assert (entry["fingerprint"], entry["caption"]) == ("votes", "Votes: Items. Profile mini.")


def test_a_figure_is_a_png_and_a_small_vector_picture_an_svg_too(run, tmp_path):
    run.publish(drawn(), "vector", "Figure", "x")
    run.publish(drawn(raster=True), "raster", "Figure", "x")
    run.publish(drawn(points=3000), "large", "Figure", "x")
    run.publish(drawn(), "card", "Figure", "x", formats=["png"])
    light = ["card.png", "large.png", "raster.png", "vector.png", "vector.svg"]
    dark = [f"{name}_dark.png" for name in ("card", "large", "raster", "vector")]
    assert names(tmp_path) == sorted([*light, *dark])


def test_a_figure_with_nothing_of_the_profile_in_it_names_what_it_is_from(run, tmp_path):
    run.origin = "from published numbers"
    fig = drawn()
    run.publish(fig, "a", "Audit", "Sizes")
    assert fig.texts[-1].get_text() == "from published numbers  |  a remark"


def test_a_pdf_is_written_on_request_and_gone_when_it_no_longer_is(run, tmp_path, monkeypatch):
    run.publish(drawn(), "other", "Figure", "x", formats=["png", "pdf"])
    monkeypatch.setenv("EMOMM_FIGURE_FORMATS", "pdf, svg,png")
    run.publish(drawn(), "a", "Figure", "x")
    other = ["other.pdf", "other.png", "other_dark.png"]
    assert names(tmp_path) == ["a.pdf", "a.png", "a.svg", "a_dark.png", *other]
    monkeypatch.setenv("EMOMM_FIGURE_FORMATS", "")
    run.publish(drawn(raster=True), "a", "Figure", "x")
    assert names(tmp_path) == ["a.png", "a_dark.png", *other]
    assert sorted(manifest.read("mini", tmp_path)) == names(tmp_path)
    run.publish(CLIPS, "a", "Table", "x")
    assert names(tmp_path) == ["a.csv", "a.tex", *other]
    assert manifest.verify("mini", tmp_path).empty


@pytest.mark.parametrize("formats", ["svg", "png,gif", "png;svg"])
def test_formats_that_there_are_not_are_refused_before_anything_is_written(
    run, tmp_path, monkeypatch, formats
):
    monkeypatch.setenv("EMOMM_FIGURE_FORMATS", formats)
    with pytest.raises(ValueError, match=rf"EMOMM_FIGURE_FORMATS.*expected png.*got '{formats}'"):
        run.publish(drawn(), "a", "Figure", "x")
    assert names(tmp_path) == []


def test_recorded_values_carry_the_notebooks_name(run, tmp_path):
    table = pd.DataFrame({"name": ["T"], "value": [0.5], "low": [0.4], "high": [0.6], "n": [9]})
    run.record(table, "gtar", by=["name"], clips=False)
    found = values.read_values(tmp_path / "mini" / "02_statistics.csv")
    assert found["name"].tolist() == ["gtar/T"] and found["tolerance"].item() == 0.025


def test_comparisons_of_one_notebook_are_kept_together_and_shown_one_by_one(run, tmp_path):
    first = run.compare({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5}, 0.1)
    assert first.columns.tolist() == list(BESIDE) and first["within"].tolist() == [True, False]
    second = run.compare({"c": 3.0}, {"c": 3.0}, 0, columns=["item", "tolerance"])
    assert second.to_dict("list") == {"item": ["c"], "tolerance": [0.0]}
    # A cell that is run again replaces its items.
    run.compare({"c": 3.0}, {"c": 4.0}, 0, not_comparable={"c": "other clips"})
    kept = read_comparisons([tmp_path / "mini" / "comparison" / "02.csv"])
    assert kept["item"].tolist() == ["a", "b", "c"] and set(kept["profile"]) == {"mini"}
    assert kept["note"].tolist()[-1] == "other clips" and list(kept) == list(paper.COMPARISON)


def test_missing_parameters_are_named_with_the_notebook():
    with pytest.raises(ValueError, match=r"03_vcc: expected a parameter profile.*got None"):
        open_run("03_vcc", {"data_note": ""})
    given = MODEL_PARAMETERS | {"profile": "mini"}
    del given["backbones"], given["dtype"]
    with pytest.raises(
        ValueError, match=r"03_vcc: an experiment needs the parameters backbones, dtype"
    ):
        _ = open_run("03_vcc", given).bench


def test_the_bench_is_opened_once_and_published_files_are_then_made_of_it(
    run, tmp_path, monkeypatch
):
    opened = []

    def opening(*settings, **named):
        opened.append((settings, named))
        return SimpleNamespace(clips=CLIPS.head(1), fingerprint="f00d")

    monkeypatch.setattr(experiment, "open_experiment", opening)
    run.parameters = MODEL_PARAMETERS
    assert run.bench is run.bench and len(opened) == 1
    run.publish(drawn(), "a", "Figure", "x")
    entry = manifest.read("mini", tmp_path)["a.png"]
    assert entry["fingerprint"] == f"{frame_fingerprint(CLIPS.head(1))}-f00d"


def test_a_part_is_described_and_published_apart_from_the_whole(run, tmp_path, monkeypatch, capsys):
    part = SimpleNamespace(clips=CLIPS.head(1), fingerprint="f00d", part="A part of 1 of 2 clips.")
    monkeypatch.setattr(experiment, "open_experiment", lambda settings: part)
    run.parameters = MODEL_PARAMETERS | {"clips": 1}
    assert run.bench is part and capsys.readouterr().out == "A part of 1 of 2 clips.\n"
    run.publish(drawn(), "a", "Figure 6", "Labels")
    entry = manifest.read("mini-1-clips", tmp_path)["a.png"]
    assert entry["caption"] == "Figure 6: Labels. Profile mini-1-clips. Surrogate clips."
    assert not (tmp_path / "mini").exists()


def test_further_backbones_are_opened_when_their_turn_comes(run, monkeypatch):
    opened = []
    monkeypatch.setattr(experiment, "open_experiment", lambda s: opened.append(s.model) or s.model)
    run.parameters = MODEL_PARAMETERS | {"backbones": ["a", "b", "c"]}
    turns = run.other_benches()
    assert run.bench == "a" and opened == ["a"]
    assert next(turns) == "b" and opened == ["a", "b"]
    assert [*turns] == ["c"]


def test_organisms_are_opened_in_turn_and_the_bench_stands_for_none(run, monkeypatch):
    opened = []
    monkeypatch.setattr(experiment, "open_experiment", lambda s: opened.append(s.model) or s.model)
    run.parameters = MODEL_PARAMETERS | {"backbones": ["a", "b"], "organisms": ["a", "c"]}
    turns = run.organisms()
    assert next(turns) == "a" and opened == ["a"]
    assert next(turns) == "c" and opened == ["a", "c"]
    assert run.bench == "a" and opened == ["a", "c"]
    run.parameters = run.parameters | {"organisms": []}
    assert [*run.organisms()] == ["a"] and opened == ["a", "c"]


@pytest.mark.parametrize("number", ["02", "10", "12"])
def test_notebooks_that_ask_no_model_import_no_torch(number):
    [source] = [path for path in SOURCES if path.stem.startswith(number)]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert any(ast.unparse(n) == "from emomm_study.notebook import open_run" for n in imports)
    code = "\n".join([*map(ast.unparse, imports), "import sys", "print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_importing_the_style_leaves_matplotlibs_fonts_alone_until_a_figure_is_drawn():
    code = """
from matplotlib import font_manager
from emomm_study.report import style
known = lambda: {e.weight for e in font_manager.fontManager.ttflist if e.name == "Noto Sans SC"}
before = len(font_manager.fontManager.ttflist)
import emomm_study.report.publish
assert len(font_manager.fontManager.ttflist) == before
with style.context():
    after = len(font_manager.fontManager.ttflist)
    assert 700 in known()
with style.context():
    assert len(font_manager.fontManager.ttflist) == after
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def constant(node: ast.expr) -> str:
    """The text of a call's argument, with what it fills in left open."""
    if isinstance(node, ast.JoinedStr):
        return "".join(constant(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) else "{}"


def published() -> dict[str, tuple[str, str]]:
    """Item and caption text by name, of every publishing call of every notebook."""
    found = {}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.publish":
                name, item, text = map(constant, node.args[1:4])
                assert name not in found or name == "{}", name
                found[name] = item, text
    return found


PUBLISHED = published()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_caption_is_words_without_the_full_stop_that_is_put_after_them(name):
    item, text = PUBLISHED[name]
    assert item and text and text == text.strip() and not text.endswith(".") and "  " not in text


def test_captions_of_published_marks_name_no_model():
    for name in ("figure3_vcc", "figure9_preference", "figure10_missing"):
        assert "names no model" in PUBLISHED[name][1] and "7B" not in PUBLISHED[name][1]


def test_the_caption_of_figure_11_says_that_the_paper_has_no_numbers():
    assert "no numbers" in PUBLISHED["figure11_person"][1]


def test_captions_tell_figures_apart():
    # The forests of notebooks 07 and 08 differ in what their notes say of the clips.
    texts = [text for name, (_, text) in PUBLISHED.items() if name != "chase_comparisons"]
    assert len(set(texts)) == len(texts)
    assert PUBLISHED["chase_comparisons"][1] == PUBLISHED["chase_gains"][1]
