"""Notebook pairs: the ``.py`` file is the source, the ``.ipynb`` beside it carries the outputs."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from emomm_study.paths import ROOT, cache_root, whole

WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class PairError(ValueError):
    """A notebook that cannot be a source, or whose outputs cannot be committed."""


def read_source(path: Path) -> NotebookNode:
    """The notebook of a jupytext percent file; raises ``PairError`` where it has no code cell."""
    notebook = jupytext.read(path, fmt="py:percent")
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        raise PairError(f"{path}: no code cell; expected a jupytext percent file (# %% cells)")
    return notebook


def declared_parameters(notebook: NotebookNode, name: str) -> dict[str, object]:
    """Names and default values assigned in the cells tagged ``parameters``.

    Raises ``PairError`` where a default is not a literal: it would run before the profile's value
    replaces it.
    """
    defaults = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        for statement in ast.parse(cell.source).body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            try:
                defaults[target.id] = ast.literal_eval(statement.value)
            except (AttributeError, ValueError):
                raise PairError(
                    f"{name}: the parameters cell holds `{ast.unparse(statement)}`; "
                    "expected only lines like `seed = 0`"
                ) from None
    return defaults


def section_of(notebook: NotebookNode, index: int) -> str:
    """The nearest Markdown heading above cell ``index``, or an empty string."""
    for cell in reversed(notebook.cells[:index]):
        headings = [line for line in cell.source.splitlines() if line.startswith("#")]
        if cell.cell_type == "markdown" and headings:
            return headings[-1].lstrip("# ")
    return ""


def committed_form(source: NotebookNode, executed: NotebookNode, name: str) -> NotebookNode:
    """The cells of ``source`` with the outputs of its run, without anything that varies by run.

    Left out: injected parameters, times, messages on stderr and widgets (they carry times, paths
    and random ids; their numbers are printed beside them). Cells are numbered from one, ids
    derive from the source.

    Raises
    ------
    PairError
        When the run is of another source, or an output holds a path of this machine.
    """
    ran = [cell for cell in executed.cells if not _is_injected(cell)]
    if [cell.source for cell in ran] != [cell.source for cell in source.cells]:
        raise PairError(f"{name}: the .py file changed while it ran; run it again")
    notebook, count, seen = nbformat.v4.new_notebook(metadata=deepcopy(METADATA)), 0, {}
    for cell, done in zip(source.cells, ran, strict=True):
        new = {"markdown": nbformat.v4.new_markdown_cell, "raw": nbformat.v4.new_raw_cell}.get(
            cell.cell_type, nbformat.v4.new_code_cell
        )(cell.source)
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        new.id = f"{digest}-{seen[digest]}"
        if tags := cell.metadata.get("tags"):
            new.metadata["tags"] = list(tags)
        if cell.cell_type == "code":
            if done.execution_count is not None:
                count += 1
                new.execution_count = count
            new.outputs = _stable_outputs(done.outputs, new.execution_count)
            _refuse_machine_paths(new.outputs, f"{name}, cell {count}")
        notebook.cells.append(new)
    nbformat.validate(notebook)
    return notebook


def write_committed(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all; equal notebooks give equal bytes."""
    with whole(path) as partial:
        partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def pair_differences(source: Path) -> list[str]:
    """What keeps the ``.ipynb`` beside ``source`` from being its executed twin; empty when nothing.

    Compares kind, text and tags of every cell, and looks for code cells that never ran and for
    errors among the outputs.
    """
    twin = source.with_suffix(".ipynb")
    if not twin.is_file():
        return [f"{twin.name} is missing"]
    ours, theirs = read_source(source).cells, nbformat.read(twin, as_version=4).cells
    differences = []
    if len(ours) != len(theirs):
        differences.append(f"{source.name} has {len(ours)} cells, {twin.name} has {len(theirs)}")
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), start=1):
        for what, one, other in (
            ("kind", a.cell_type, b.cell_type),
            ("text", a.source, b.source),
            ("tags", a.metadata.get("tags", []), b.metadata.get("tags", [])),
        ):
            if one != other:
                differences.append(f"cell {number}: {what} differs between the files")
    for number, cell in enumerate(theirs, start=1):
        if cell.cell_type == "code" and cell.source.strip():
            if cell.execution_count is None:
                differences.append(f"{twin.name}, cell {number}: never ran")
            if any(output.output_type == "error" for output in cell.outputs):
                differences.append(f"{twin.name}, cell {number}: its output is an error")
    return differences


def _is_injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _stable_outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    stable: list[NotebookNode] = []
    for output in deepcopy(outputs):
        if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
            continue
        if output.output_type == "stream" and stable and stable[-1].output_type == "stream":
            # Where one write ends and the next begins depends on timing.
            stable[-1].text += output.text
            continue
        output.pop("transient", None)
        if "execution_count" in output:
            output.execution_count = count
        stable.append(output)
    return stable


def _refuse_machine_paths(outputs: list[NotebookNode], where: str) -> None:
    text = json.dumps(outputs, ensure_ascii=False).replace("\\n", "\n")
    for path in (str(ROOT), str(cache_root()), sys.prefix, os.path.expanduser("~")):
        # A user without a home folder has "~" or "/".
        if len(path) > 1 and re.search(rf"(?<![\w.~-]){re.escape(path)}/", text):
            raise PairError(
                f"{where}: an output holds {path}/..., a path of this machine; "
                "print it relative to the project's folder"
            )
