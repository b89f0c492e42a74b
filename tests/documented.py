"""What the pages of the documentation write, as the modules that it would be."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

from emomm_study.paths import ROOT

ADD_A_BACKBONE = ROOT / "docs/add_a_backbone.md"


def files(page: Path) -> dict[str, str]:
    """Contents of a page's files, by their paths in the project."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```python file=(\S+)\n(.*?)^```$", text, re.S | re.M)
    return dict(found)


def dotted(path: str) -> str:
    """``emomm_study/systems/mine.py`` as it is imported."""
    return path.removesuffix(".py").replace("/", ".")


def modules(page: Path) -> dict[str, ModuleType]:
    """A page's files as modules, which can be imported from then on, by their dotted names."""
    made = {}
    for path, code in files(page).items():
        name = dotted(path)
        if name not in sys.modules:
            module = ModuleType(name)
            sys.modules[name] = module
            exec(compile(code, f"{page.name}: {path}", "exec", dont_inherit=True), module.__dict__)
        made[name] = sys.modules[name]
    return made


def blocks(page: Path, info: str) -> list[str]:
    """Contents of a page's fenced blocks whose info string matches a pattern."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{info}\n(.*?)^```$", text, re.S | re.M)


def patched(folder: Path, diff: str) -> None:
    """Apply a diff whose hunks are found by their text."""
    name, *rest = diff.splitlines()
    file = folder / name.removeprefix("--- ")
    source = file.read_text(encoding="utf-8")
    for hunk in "\n".join(rest).split("\n@@\n"):
        lines = hunk.splitlines()
        old = "\n".join(line[1:] for line in lines if line[0] in " -")
        new = "\n".join(line[1:] for line in lines if line[0] in " +")
        assert source.count(old) == 1, f"{file.name} has changed: it does not hold\n{old}"
        source = source.replace(old, new)
    file.write_text(source, encoding="utf-8")
