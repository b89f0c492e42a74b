"""Every item of the paper has its files, from a notebook that has really run."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbconvert import HTMLExporter

from emomm_study.paths import COMMITTED_FIGURES, ROOT
from emomm_study.report import manifest
from emomm_study.report.publish import dark_name
from emomm_study.run.pipeline import BUILDS_ON, find_notebooks

PICTURE, TABLE = {".png"}, {".csv", ".tex"}
ITEMS = {
    "Figure 2 (left)": ("01", PICTURE),
    "Figure 2 (right)": ("01", PICTURE),
    "Figure 3 (left, middle)": ("03", PICTURE),
    "Figure 3 (right)": ("04", PICTURE),
    "Figure 4": ("06", PICTURE),
    "Figure 5": ("01", PICTURE),
    "Figure 6": ("02", PICTURE),
    "Figure 7": ("02", PICTURE),
    "Figure 8": ("02", PICTURE),
    "Figure 9": ("04", PICTURE),
    "Figure 10": ("04", PICTURE),
    "Figure 11": ("05", PICTURE),
    "Figure 12": ("09", PICTURE),
    "Figure 13": ("09", PICTURE),
    "Table 1": ("07", TABLE),
    "Table 2": ("08", TABLE),
    "Table 3": ("02", TABLE),
    "Table 4": ("02", TABLE),
    "Table 5": ("02", TABLE),
    "Table 6": ("06", TABLE),
    "Table 7": ("09", TABLE),
    "Table 8": ("09", TABLE),
}
"""What regenerates from data. Figure 1 is an example: the case cards."""
SOURCES = find_notebooks()
ENTRIES = manifest.read("mini", COMMITTED_FIGURES)


@pytest.mark.parametrize("item", ITEMS)
def test_each_item_of_the_paper_has_its_files_from_its_notebook(item):
    notebook, endings = ITEMS[item]
    own = {name: entry for name, entry in ENTRIES.items() if entry["item"] == item}
    # An SVG is there where it is small and has no raster image in it.
    assert {name[name.rindex(".") :] for name in own} - {".svg"} == endings
    assert {entry["notebook"][:2] for entry in own.values()} == {notebook}
    assert all((COMMITTED_FIGURES / "mini" / name).stat().st_size > 0 for name in own)


def test_the_manifest_lists_every_file_with_its_digest():
    problems = manifest.verify("mini", COMMITTED_FIGURES)
    assert problems.empty, problems.to_string()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_caption_names_the_profile_and_every_file_an_existing_notebook(name):
    entry = ENTRIES[name]
    assert "mini" in entry["caption"]
    assert (ROOT / "notebooks" / f"{entry['notebook']}.ipynb").is_file()


def test_a_picture_says_its_profile_in_the_picture_itself():
    silent = []
    for path in sorted((COMMITTED_FIGURES / "mini").glob("*.svg")):
        # Nothing of the profile is in the audit of what the paper prints.
        audit = ENTRIES[path.name]["notebook"].startswith("10")
        origin = "from published numbers" if audit else "profile: mini"
        if origin not in re.sub(r"<[^>]+>|\s+", " ", path.read_text(encoding="utf-8")):
            silent.append(path.name)
    assert not silent


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_picture_in_a_notebooks_page_lacks_words_for_those_who_do_not_see_it(source):
    # nbconvert's newer template prints no words of any picture; the book and this one print them.
    page, _ = HTMLExporter(template_name="classic").from_filename(str(source.with_suffix(".ipynb")))
    pictures = Pictures()
    pictures.feed(page)
    shown = [path for path, entry in ENTRIES.items() if entry["notebook"] == source.stem]
    assert len(pictures.words) >= sum(dark_name(path) in shown for path in shown)
    for words in pictures.words:
        assert words and len(words.split()) >= 4 and "description" not in words, words


class Pictures(HTMLParser):
    """Alternative texts of a page's pictures, in order; None where one has none."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.words.append(dict(attrs).get("alt"))


def test_no_picture_of_the_readme_and_the_docs_lacks_words():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        tags = re.findall(r"<img [^>]*>", text)
        words = [found[1] if (found := re.search(r'alt="([^"]*)"', tag)) else "" for tag in tags]
        words += re.findall(r"!\[([^\]]*)\]\(", text)
        assert all(len(alt.split()) >= 3 for alt in words), (path.name, words)


WIDEST = 12
"""Columns, those of the index among them, that fit on a page."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_table_and_no_printed_line_of_a_notebook_is_wider_than_the_page(source):
    for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells:
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            rows = [
                re.findall(r"<t[hd]", row) for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)
            ]
            assert max(map(len, rows), default=0) <= WIDEST, cell.source
            printed = "".join(output.get("text", "")).splitlines()
            assert max(map(len, printed), default=0) <= 160, cell.source


def test_no_table_in_latex_has_more_columns_than_fit_on_a_page():
    for path in sorted((COMMITTED_FIGURES / "mini").glob("*.tex")):
        for columns in re.findall(r"\\begin\{tabular\}\{(\w+)\}", path.read_text(encoding="utf-8")):
            assert len(columns) <= WIDEST, path.name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_notebook_has_run_and_prints_numbers_that_are_compared(source):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    checked = [c for c in cells if "nbval-check-output" in c.metadata.get("tags", [])]
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in checked]
    assert printed and all(re.search(r"\d", text) for text in printed)
    # A notebook opens in a browser, and the repository stays small.
    assert source.with_suffix(".ipynb").stat().st_size < 3_000_000


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_notebook_tells_its_question_what_to_look_at_and_what_not_to_conclude(source):
    text = " ".join(
        cell.source
        for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
        if cell.cell_type == "markdown"
    )
    words = text.lower()
    for needed in ("**question", "**what to look at", "**what came out", "**what not to conclude"):
        assert needed in words, f"{source.name} lacks {needed}"


def test_what_builds_on_what_points_backwards_to_notebooks_that_exist():
    numbers = [source.stem[:2] for source in SOURCES]
    for number, before in BUILDS_ON.items():
        assert number in numbers
        assert all(other in numbers and other < number for other in before)


def test_the_readme_shows_every_notebook_with_a_picture_that_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for source in SOURCES:
        link = f"](notebooks/{source.stem}.ipynb)"
        [row] = [line for line in text.splitlines() if line.startswith("| <a") and link in line]
        [picture] = re.findall(r'<img src="([^"]+)"', row)
        assert (ROOT / picture).is_file()


def test_no_two_figures_are_the_same_file():
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((COMMITTED_FIGURES / "mini").glob("*.png"))
    ]
    assert len(set(digests)) == len(digests)


def test_the_manifest_is_plain_json_of_one_profile():
    content = json.loads((COMMITTED_FIGURES / "mini" / manifest.NAME).read_text(encoding="utf-8"))
    assert content["profile"] == "mini"
