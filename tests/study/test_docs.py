"""The documentation against the project: links, names, messages, examples, licences, citation."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib import Trace
from emomm_lib.chase.equations import PUBLISHED_FIRST_LAYER, PUBLISHED_LAYERS, SteeringConfig
from emomm_lib.chase.training import TrainingSettings
from emomm_study.corpora.clips import CLIP_COLUMNS
from emomm_study.corpora.manifest import MANIFEST_COLUMNS
from emomm_study.paths import ROOT
from tests.documented import blocks, dotted, files, patched

PACKAGES = ("emomm_lib", "emomm_study")
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", *sorted((ROOT / "data").rglob("*.md"))]
FOLDERS = "notebooks|emomm_lib|emomm_study|data|tests|benchmarks|docs|figures|scripts|cache|runs"
MADE = ("cache/", "runs/", "figures/paper")
"""What a run makes, and what is therefore not there to be found."""
SHORT = {
    "Trace": Trace,
    "SteeringConfig": SteeringConfig,
    "TrainingSettings": TrainingSettings,
}
"""Classes that the glossary names in short."""
TITLE = "EmoMM: Benchmarking and Steering MLLM for Multimodal Emotion Recognition under Conflict"
pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
docs = pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)


def tables(page: Path) -> list[list[str]]:
    """Cells of all table rows of a page."""
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pages
def test_every_relative_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    absent = [
        link
        for link in links
        if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    ]
    assert not absent


@pages
def test_every_path_in_code_marks_exists(page):
    named = re.findall(rf"`((?:{FOLDERS})/[^`\s:]*)(?:::(\w+))?`", prose(page))
    for path, test in named:
        if path.startswith(MADE) or re.search(r"NN|<", path):
            continue
        places = list(ROOT.glob(path.rstrip("/")))
        assert places, path
        if test:
            assert re.search(rf"^def {test}\(", read(places[0]), re.M), f"{path}::{test}"


@cache
def module(name: str):
    return importlib.import_module(name)


NOTHING = object()


def found(dotted: str) -> object:
    """What a dotted name stands for; ``NOTHING`` where there is no such module or attribute."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not has(thing, name):
                return NOTHING
            thing = getattr(thing, name, None)
        return thing
    return NOTHING


def has(thing: object, name: str) -> bool:
    """Whether it has an attribute, be it a field or one that its methods set."""
    if hasattr(thing, name):
        return True
    if dataclasses.is_dataclass(thing):
        return name in {field.name for field in dataclasses.fields(thing)}
    return inspect.isclass(thing) and f"self.{name} = " in inspect.getsource(thing)


@pages
def test_every_dotted_name_of_the_library_exists(page):
    text = read(page)
    for own in map(dotted, files(page)):
        text = text.replace(own, "")
    named = set(re.findall(r"\bemomm_(?:lib|study)(?:\.\w+)+", text))
    assert not [name for name in sorted(named) if found(name) is NOTHING]


@docs
def test_every_short_name_of_a_class_attribute_exists(page):
    named = set(re.findall(rf"`({'|'.join(SHORT)})\.(\w+)`", prose(page)))
    assert not [f"{c}.{a}" for c, a in sorted(named) if not has(SHORT[c], a)]


@pages
def test_every_python_block_parses_and_imports_names_that_exist(page):
    for code in blocks(page, r"python[^\n]*"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("emomm_"):
                if node.module not in map(dotted, files(page)):
                    absent = [
                        a.name for a in node.names if found(f"{node.module}.{a.name}") is NOTHING
                    ]
                    assert not absent, f"{node.module}: {absent}"


RUNNABLE = [page for page in DOCS if blocks(page, "python run")]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: p.name)
def test_the_runnable_blocks_of_a_page_run_in_their_order(page):
    scope = {"__name__": "docs"}
    for code in blocks(page, "python run"):
        exec(compile(code, page.name, "exec", dont_inherit=True), scope)


def texts(tree: ast.AST) -> set[str]:
    """Every string of a module, what is filled in written as an ellipsis."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            found.add("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@cache
def messages() -> list[str]:
    sources = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]
    return sorted(set().union(*(texts(ast.parse(read(source))) for source in sources)))


def is_message(quoted: str) -> bool:
    """Whether a string of the library has a quotation's pieces in their order."""
    pattern = re.compile(".*".join(re.escape(p) for p in quoted.split("…")), re.S)
    return any(pattern.search(text) for text in messages())


@docs
def test_every_quoted_message_is_one_of_the_library(page):
    quoted = [line.strip()[2:] for line in prose(page).splitlines() if re.match(r"\s*> ", line)]
    assert not [message for message in quoted if not is_message(message)]


def test_a_message_that_the_library_does_not_have_is_noticed():
    assert not is_message("the moon is …, expected cheese")


def test_the_index_names_every_page():
    linked = set(re.findall(r"\]\((\w+\.md)\)", read(ROOT / "docs/README.md")))
    assert linked == {page.name for page in DOCS} - {"README.md"}


# Glossary

GLOSSARY = ROOT / "docs/glossary.md"


def numbers(text: str) -> set[int]:
    """Equations that a text mentions: ``Eq. 6, 11-13 and 21`` are 6, 11, 12, 13, 21."""
    number = r"\d+(?:'s)?(?:-\d+)?"
    mentioned = set()
    for listing in re.findall(rf"Eq\. ({number}(?:(?:, | and ){number})*)", text):
        for first, last in re.findall(r"(\d+)(?:'s)?(?:-(\d+))?", listing):
            mentioned |= set(range(int(first), int(last or first) + 1))
    return mentioned


def test_every_equation_leads_to_code_of_a_module_that_mentions_it():
    rows = {int(row[0]): row[2] for row in tables(GLOSSARY) if row[0].isdigit()}
    assert sorted(rows) == list(range(1, 26))
    for equation, code in rows.items():
        things = [found(name) for name in re.findall(r"emomm_(?:lib|study)(?:\.\w+)+", code)]
        assert things, f"Eq. {equation} leads nowhere"
        modules = {
            importlib.import_module(t.__module__) for t in things if hasattr(t, "__module__")
        }
        assert any(equation in numbers(inspect.getsource(m)) for m in modules), equation


def test_symbols_refer_to_equations_of_the_paper_or_to_sections():
    for row in tables(GLOSSARY):
        if len(row) > 3 and row[0] not in ("symbol", "---"):
            where = row[-2]
            parts = re.split(r", |-", where)
            assert re.match(r"Sec\.|App\.|Table", where) or all(1 <= int(p) <= 25 for p in parts)


def test_published_values_of_the_glossary_are_the_defaults():
    defaults = {f.name: f.default for f in dataclasses.fields(SteeringConfig)}
    published = yaml.safe_load(read(ROOT / "data/paper/hyperparameters.yaml"))
    by_symbol = {v["symbol"]: v["value"] for v in published.values()}
    latin = {"τ": "tau", "K": "K", "η": "eta", "γ": "gamma", "β": "beta"}
    rows = {row[0]: row for row in tables(GLOSSARY) if len(row) == 5}
    for symbol, name in latin.items():
        field = re.search(r"SteeringConfig\.(\w+)", rows[symbol][4])[1]
        assert float(rows[symbol][2]) == defaults[field] == by_symbol[name]
    assert rows["l_r"][2] == f"{PUBLISHED_FIRST_LAYER} of {PUBLISHED_LAYERS}"
    unpublished = {"psi_hat": "ψ̂", "P": "P, τ_P", "epsilon_a": "ε_a, ε_b", "epsilon_b": "ε_a, ε_b"}
    assert all(by_symbol[s] is None and rows[row][2] == "no" for s, row in unpublished.items())


def test_every_field_of_the_steering_configuration_is_in_the_glossary():
    text = read(GLOSSARY)
    own = {"preference", "scope"}
    fields = {f.name for f in dataclasses.fields(SteeringConfig)} - own
    assert not [name for name in fields if not re.search(rf"[`.]{name}`", text)]


# Gotchas


def test_every_gotcha_has_its_four_parts_in_order_and_the_numbers_run_on():
    entries = re.split(r"^## ", read(ROOT / "docs/gotchas.md"), flags=re.M)[1:]
    assert [int(entry.split(".")[0]) for entry in entries] == list(range(1, len(entries) + 1))
    for entry in entries:
        parts = re.findall(r"^- \*\*(\w+)\.\*\*", entry, re.M)
        assert parts == ["Symptom", "Cause", "Wrong", "Right"], entry.splitlines()[0]


# A third corpus, as the page adds one


def test_the_columns_of_the_page_are_those_of_the_schemas_in_order():
    page = ROOT / "docs/bring_your_own_data.md"
    rows = [row[0] for row in tables(page) if row[0].startswith("`")]
    columns = re.findall(r"`(\w+)`", " ".join(rows))
    assert tuple(columns) == CLIP_COLUMNS
    assert (*CLIP_COLUMNS, "subset", "stratum", "split") == MANIFEST_COLUMNS
    assert "adds `subset`, `stratum` and `split`" in read(page)


@pytest.fixture
def third(tmp_path) -> Path:
    """A copy of the library with the page's edits, and a corpus of 30 clips and a bad row."""
    page = ROOT / "docs/bring_your_own_data.md"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name)
    for diff in blocks(page, "diff"):
        patched(tmp_path, diff)
    [(name, code)] = files(page).items()
    (tmp_path / name).write_text(code, encoding="utf-8")
    clip = write_mp4(tmp_path / "clip.mp4", frames=grey_frames(size=56), sound=tone(0.5))
    rng = np.random.default_rng(0)
    scores = rng.choice([-0.8, 0.0, 0.6], (30, 4)).round(1)
    rows = [
        (f"v{i // 2:02d}", f"{i:04d}", f"p{i // 2}", f"remark {i}", *scores[i]) for i in range(30)
    ]
    rows.append(("v00", "0099", "p0", "off the grid", 0.33, 0, 0, 0))
    names = ["video_id", "clip_id", "speaker", "text", "label", "label_T", "label_A", "label_V"]
    root = tmp_path / "corpus"
    for video, own, *_ in rows:
        (root / "Raw" / video).mkdir(parents=True, exist_ok=True)
        (root / "Raw" / video / f"{own}.mp4").symlink_to(clip)
    pd.DataFrame(rows, columns=names).to_csv(root / "clips.csv", index=False)
    return tmp_path


def test_the_page_adds_a_third_corpus_that_is_loaded_split_asked_and_measured(third):
    own = [
        code
        for code in blocks(ROOT / "docs/bring_your_own_data.md", "python")
        if "my_corpus import" in code
    ]
    before = """
import sys
sys.path.append(sys.argv[1])
from crash import small_model
from emomm_study.evaluate.store import PredictionStore
root, model, store = "corpus", small_model(), PredictionStore("p.sqlite")
"""
    after = """
table = load_my_corpus(root)
assert len(table.clips) == 30 and table.excluded == 1, table.report
assert "off the grid" in table.report["problem"].item()
assert set(manifest["corpus"]) == {"my_corpus"} and len(manifest) == 30
assert manifest.loc[manifest["score_gt"] == 0.6, "label_gt"].eq(3).all()
assert set(manifest["split"]) == {"train", "valid", "test"}
assert len(scored) == 240 and not len(lost)
print("measured")
"""
    script = third / "script.py"
    script.write_text(before + "\n".join(own) + after, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", script.name, str(ROOT / "tests")]
    done = subprocess.run(command, cwd=third, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("measured\n")


# Citation and licences


def plain(text: str) -> str:
    return " ".join(text.split())


def test_the_citation_has_the_papers_title_and_authors_as_the_readme():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    paper = citation["preferred-citation"]
    readme = plain(read(ROOT / "README.md"))
    assert paper["title"].startswith(TITLE) and f"*{plain(paper['title'])}*" in readme
    authors = [f"{a['given-names']} {a['family-names']}" for a in paper["authors"]]
    assert len(authors) == 8
    assert f"{', '.join(authors[:-1])} and {authors[-1]}" in readme
    assert not {"doi", "url", "journal", "conference", "year"} & set(paper)


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == importlib.import_module("emomm_lib").__version__
    assert citation["license"] == "MIT" and read(ROOT / "LICENSE").startswith("MIT License")
    names = [reference["notes"] for reference in citation["references"]]
    assert names == ["CH-SIMS v2.0", "CMU-MOSI"]


def metadata_words(package: str) -> str:
    """All that a package's metadata says of its licence."""
    metadata = importlib.metadata.metadata(package)
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    given = [metadata.get("License-Expression"), metadata.get("License"), *classifiers]
    return plain(" ".join(text for text in given if text and text != "UNKNOWN"))


def test_licences_are_those_of_the_metadata_and_no_dependency_is_left_out():
    rows = tables(ROOT / "data/LICENSES.md")
    start = [row[0] for row in rows].index("package")
    listed = {canonicalize_name(name): terms for name, terms in rows[start + 2 :]}
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    added = [*extras["api"], *extras["cluster"], *extras["exchange"], *extras["book"]]
    needs = [*project["dependencies"], *extras["study"], *added]
    optional = {canonicalize_name(Requirement(line).name) for line in added}
    assert set(listed) == {canonicalize_name(Requirement(d).name) for d in needs}
    installed = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    for package, terms in listed.items():
        if package not in installed:
            assert package in optional or terms.startswith("see its page"), package
        elif terms == "none named":
            assert not metadata_words(package), package
        else:
            assert terms.lower() in metadata_words(package).lower(), package
