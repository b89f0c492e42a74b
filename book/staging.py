"""Lays the book's sources out in one folder: pages, guides, notebooks, and what they link to.

Nothing of the project is changed. In the copies, Markdown that Sphinx does not know is put in its words,
and what the project knows of itself is added: captions as alternative texts, the code of each equation.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book import api, launch
from emomm_study.paths import ROOT

PAGES = Path(__file__).resolve().parent / "pages"
SINGLE = ("README.md", "RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")
FOLDERS = ("docs", "data", "benchmarks")
"""Whose Markdown becomes pages."""
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")
THUMBNAIL = re.compile(r'<a href="[^"]+"><img src="([^"]+)" width="(\d+)" alt="([^"]*)"></a>')
PICTURE = re.compile(
    r'<picture>\n<source media="[^"]+" srcset="([^"]+)">\n<img src="([^"]+)" alt="([^"]*)" '
    r'width="(\d+)">\n</picture>'
)
NAMED = re.compile(r"`(emomm_lib(?:\.\w+)+)`")
EQUATION = re.compile(r"^\$\$ \(eq-(\d+)\)$", re.M)
LIVE = (
    "```{tip}\nIn JupyterLab a widget stands here. What it shows at first is printed below; "
    "the book's [live explorer](../explorer.md) moves without Jupyter.\n```"
)
ALONE = "```{tip}\nIn JupyterLab a widget stands here.\n```"


def stage(folder: Path, repository: str = "") -> Path:
    """Fill a folder with the book's sources; returns it.

    ``repository`` is the project's address; with it each notebook has links that open it elsewhere.
    """
    for path in _documents():
        _write(folder / path.relative_to(ROOT), _page(path, folder))
    for path in sorted(PAGES.iterdir()):
        _write(folder / path.name, path.read_text(encoding="utf-8"))
    equations = folder / "equations.md"
    _write(equations, _with_code(equations.read_text(encoding="utf-8")))
    for name, text in api.pages().items():
        _write(folder / "api" / name, text)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        staged = _notebook(nbformat.read(path, as_version=4), path, folder, repository)
        _write(folder / "notebooks" / path.name, nbformat.writes(staged))
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _documents() -> Iterator[Path]:
    yield from (path for name in SINGLE if (path := ROOT / name).is_file())
    for name in FOLDERS:
        yield from sorted((ROOT / name).rglob("*.md"))


# Markdown


def _page(path: Path, folder: Path) -> str:
    """A document of the project in Sphinx's words."""
    text = path.read_text(encoding="utf-8")
    _bring(text, path, folder)
    text = THUMBNAIL.sub(lambda m: _thumbnail(*m.groups(), path, folder), text)
    text = PICTURE.sub(lambda m: _picture(*m.groups(), path, folder), text)
    text = NAMED.sub(lambda m: api.linked(m[1]), text) if path.parent.name == "docs" else text
    if path.name == "glossary.md":
        text = re.sub(r"^\| (\d+) \|", r"| {eq}`eq-\1` |", text, flags=re.M)
    return text


def _thumbnail(source: str, wide: str, alt: str, path: Path, folder: Path) -> str:
    _copy(path.parent / source, folder)
    # The row has a link to the same place in words.
    return f"![{alt}]({source}){{width={wide}px}}"


def _picture(dark: str, light: str, alt: str, wide: str, path: Path, folder: Path) -> str:
    """A figure in both its forms, of which the theme shows the one that its ground asks for."""
    for source in (light, dark):
        _copy(path.parent / source, folder)
    return "\n".join(
        f"![{alt}]({source}){{.only-{ground} width={wide}px}}"
        for source, ground in ((light, "light"), (dark, "dark"))
    )


def _bring(text: str, path: Path, folder: Path) -> None:
    """Copy the files that a page leads to or shows, other than pages."""
    for link, _ in LINK.findall(text):
        file = path.parent / link
        if file.is_file() and file.suffix not in (".md", ".ipynb"):
            _copy(file, folder)


def _copy(file: Path, folder: Path) -> None:
    place = folder / file.resolve().relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)


def _with_code(text: str) -> str:
    """The equations, each with its code as the glossary has it."""
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", _glossary(), re.M)
    code = {number: NAMED.sub(lambda m: api.linked(m[1]), words) for number, _, words in rows}
    return EQUATION.sub(lambda m: f"{m[0]}\n\n*In code:* {code[m[1]]}.", text)


def _glossary() -> str:
    return (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


# Notebooks


def _notebook(notebook: NotebookNode, path: Path, folder: Path, repository: str) -> NotebookNode:
    cells, headings = [], []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            _bring(cell.source, path, folder)
            headings += re.findall(r"^#+ (.+)$", cell.source, re.M)
        else:
            _hide(cell)
            _describe(cell, headings)
            if "nbval-ignore-output" in cell.metadata.get("tags", []) and not cell.outputs:
                words = LIVE if path.stem.startswith("11") else ALONE
                cells.append(nbformat.v4.new_markdown_cell(words))
    if repository:
        cells.insert(1, nbformat.v4.new_markdown_cell(launch.links(repository, path.stem)))
    notebook.cells = cells
    return notebook


def _hide(cell: NotebookNode) -> None:
    """Fold a cell's code where JupyterLab does."""
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]


def _describe(cell: NotebookNode, headings: list[str]) -> None:
    """The words beside a cell's figure as its alternative text, or what it stands under."""
    shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    if shown:
        words = shown[0].metadata.get("image/png", {}).get("alt")
        under = ": ".join(dict.fromkeys([headings[0], headings[-1]]))
        cell.metadata.mystnb = {"image": {"alt": words or under}}
