"""Sphinx's settings for the book; ``build_book.sh`` stages the sources and calls Sphinx with them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path

import pylopdf_fonts_zh_cn
from fontTools import subset
from sphinx.application import Sphinx

import emomm_lib
from book import launch

HERE = Path(__file__).resolve().parent
MATHJAX = ("tex-chtml.js", "output/chtml", "input/tex/extensions")
"""What pages need of MathJax: 24 MB would come with the rest."""

project = "EmoMM companion"
author = "The EmoMM companion's authors"
project_copyright = ""
html_show_copyright = False
version = release = emomm_lib.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
root_doc = "index"
# The notebooks are executed, and what they show is compared after a rerun: nothing runs here.
nb_execution_mode = "off"
# No widget's script from elsewhere: what stands in a widget's place is printed beside it.
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline", "colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = [
    # A notebook's cell may begin with a lower heading than a page would.
    "myst.header",
    # Numbers that pandas' Styler writes have types that a page does not need.
    "mystnb.unknown_mime_type",
]
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"chtml": {"displayAlign": "center"}}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
# Several attributes may share a line, as parameters do.
napoleon_custom_sections = [("Attributes", "params_style")]
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "EmoMM companion"
html_static_path = [str(HERE / "static")]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_navbar_depth": 1,
    # The sidebar has the search.
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository := launch.repository():
    html_theme_options |= {"repository_url": repository, "use_repository_button": True}


def bring_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax out of the package that holds it."""
    if error or app.builder.format != "html":
        return
    [package] = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations
    for name in MATHJAX:
        source, place = (
            Path(package) / "static" / "mathjax" / name,
            app.outdir / "_static" / "mathjax",
        )
        if source.is_dir():
            shutil.copytree(source, place / name, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / name)


def bring_chinese(app: Sphinx, error: Exception | None) -> None:
    """Noto Sans SC's glyphs of the transcripts that the live page shows, for a reader without any."""
    if error or app.builder.format != "html":
        return
    found = json.loads((HERE / "replay.json").read_text(encoding="utf-8"))
    options = subset.Options(flavor="woff", layout_features=[])
    font = subset.load_font(pylopdf_fonts_zh_cn.sans_path(), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(clip["text"] for clip in found["clips"]))
    subsetter.subset(font)
    subset.save_font(font, app.outdir / "_static" / "chinese.woff", options)


def bring_replay(app: Sphinx, error: Exception | None) -> None:
    """The replay as a script: a page opened from disk may not read JSON."""
    if error or app.builder.format != "html":
        return
    found = json.loads((HERE / "replay.json").read_text(encoding="utf-8"))
    text = json.dumps(found, ensure_ascii=True, separators=(",", ":"))
    (app.outdir / "_static" / "replay.js").write_text(f"window.EMOMM_REPLAY={text};\n")


def in_sphinxs_words(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """A docstring of the house for Napoleon: sections end where the indent does, ``Eq. 13`` leads there."""
    found, section = [], False
    for place, line in enumerate(lines):
        following = lines[place + 1] if place + 1 < len(lines) else ""
        section = section or line.startswith("---")
        if section and line[:1].strip(" -") and not following.startswith((" ", "---")):
            # Two blank lines end a section.
            found.append("")
            section = False
        found.append(line)
    lines[:] = [_escaped(line) for line in found]


def _escaped(line: str) -> str:
    """``|K|`` is a number of things here, and a substitution to docutils."""
    parts = re.split(r"(``.+?``)", line)
    own = (
        re.sub(r"\bEq\. (\d+)", r"Eq. :eq:`eq-\1`", part.replace("|", r"\|")) for part in parts[::2]
    )
    return "".join(part for pair in zip(own, [*parts[1::2], ""], strict=True) for part in pair)


def skip(
    app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object
) -> bool | None:
    """Leave out a field whose default is a function of another library: its docstring is not ours."""
    return True if inspect.isbuiltin(obj) else None


def setup(app: Sphinx) -> None:
    app.connect("build-finished", bring_mathjax)
    app.connect("build-finished", bring_replay)
    app.connect("build-finished", bring_chinese)
    # Before Napoleon.
    app.connect("autodoc-process-docstring", in_sphinxs_words, priority=400)
    app.connect("autodoc-skip-member", skip)
