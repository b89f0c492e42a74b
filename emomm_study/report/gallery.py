"""``docs/figures.md``: all figures of a profile on one page, as light or dark as the reader's screen."""

from __future__ import annotations

import os
from collections import Counter
from html import escape
from pathlib import Path

from emomm_study.paths import COMMITTED_FIGURES, ROOT
from emomm_study.report.manifest import read
from emomm_study.report.publish import dark_name

PAGE = ROOT / "docs/figures.md"


def figures(profile: str, root: Path = COMMITTED_FIGURES) -> list[tuple[str, dict]]:
    """Names of a profile's figures and their entries in the manifest, by notebook and name."""
    entries = read(profile, root)
    names = (name for name in entries if name.endswith(".png") and dark_name(name) in entries)
    return [(name, entries[name]) for name in sorted(names, key=lambda n: _place(n, entries[n]))]


def page(profile: str, root: Path = COMMITTED_FIGURES, at: Path = PAGE) -> str:
    """The page as Markdown; ``at`` is where it will stand, since links start from there."""
    shown = figures(profile, root)
    said = {name: _caption(entry, profile) for name, entry in shown}
    [(usual, _)] = Counter(note for _, note in said.values()).most_common(1) or [("", 0)]
    parts = [
        "# All figures",
        f"Made from `figures/{profile}/manifest.json`; not to be edited. {len(shown)} figures of the profile "
        f"`{profile}`, light or dark as your screen is. {usual}".strip(),
    ]
    before = None
    for name, entry in shown:
        if entry["notebook"] != before:
            before = entry["notebook"]
            link = _link(ROOT / "notebooks" / f"{before}.ipynb", at)
            parts.append(f"## [{_heading(before)}]({link})")
        text, note = said[name]
        light, dark = (_link(root / profile / n, at) for n in (name, dark_name(name)))
        alt = escape(f"{entry['item']}; the text beneath says what it shows")
        parts.append(
            f'<picture>\n<source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
            f'<img src="{light}" alt="{alt}" width="800">\n</picture>'
        )
        parts.append(f"**{entry['item']}.** {text}{f' {note}' if note != usual else ''}")
    return "\n\n".join(parts) + "\n"


def _place(name: str, entry: dict) -> tuple[str, bool, str]:
    """By notebook, the paper's figures first and in their order."""
    number = "".join(c for c in entry["item"].partition(" ")[2][:2] if c.isdigit())
    own = entry["item"].startswith("Figure") and bool(number)
    return entry["notebook"], not own, f"{int(number):02}{name}" if own else name


def _caption(entry: dict, profile: str) -> tuple[str, str]:
    """What a figure's caption says of it, and of its data."""
    text, _, note = entry["caption"].partition(f" Profile {profile}.")
    return text.removeprefix(f"{entry['item']}: "), note.strip()


def _heading(notebook: str) -> str:
    """``03 · Video contribution collapse: Figure 3 (left, middle)``, as the notebook opens."""
    source = (ROOT / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
    return source.partition("\n# # ")[2].partition("\n")[0]


def _link(target: Path, at: Path) -> str:
    return os.path.relpath(target, at.parent)
